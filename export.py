"""Take the encoder away: python export.py ckpt=RUN_OR_FILE format=[safetensors,onnx]"""

from repel.cli.main import export as main

if __name__ == "__main__":
    main()
