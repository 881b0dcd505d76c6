"""Train an encoder: python train.py loss=ntxent trainer.devices=4"""

from repel.base.scripts import begin_script

begin_script(__name__)

from repel.cli.main import train as main

if __name__ == "__main__":
    main()
