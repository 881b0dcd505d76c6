"""Take the encoder away: python export.py ckpt=RUN_OR_FILE format=[safetensors,onnx]"""

from pathlib import Path

from omegaconf import DictConfig

from repel.cli.command import entry_point
from repel.cli.resume import prepare_output


@entry_point("export")
def main(cfg: DictConfig, folder: Path) -> None:
    prepare_output(cfg, folder)

    from repel.export.export import export

    export(cfg, folder)


if __name__ == "__main__":
    main()
