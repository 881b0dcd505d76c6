"""Measure a checkpoint again: python evaluate.py ckpt=RUN_OR_FILE"""

from repel.base.scripts import begin_script

begin_script(__name__)

from repel.cli.main import evaluate as main

if __name__ == "__main__":
    main()
