"""Train an encoder: python train.py loss=ntxent trainer.devices=4"""

from repel.cli.main import train as main

if __name__ == "__main__":
    main()
