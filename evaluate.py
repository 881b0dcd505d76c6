"""Measure a checkpoint again: python evaluate.py ckpt=RUN_OR_FILE"""

from repel.cli.main import evaluate as main

if __name__ == "__main__":
    main()
