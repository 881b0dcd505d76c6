"""Take the encoder away: python export.py ckpt=RUN_OR_FILE 'format=[safetensors,onnx]'"""

from repel.base.scripts import begin_script

begin_script(__name__)

from repel.cli.main import export as main

if __name__ == "__main__":
    main()
