"""Hard negatives for training: python scripts/mine_negatives.py ckpt=RUN data=text_csv data.root=FILE ...

Writes a CSV file that data=text_csv reads. conf/mine_negatives.yaml has the options.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

from repel.cli.main import mine_negatives as main

if __name__ == "__main__":
    main()
