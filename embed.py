"""Features of every image of a set: python embed.py ckpt=RUN_OR_FILE data=image_folder data.root=DIR"""

from pathlib import Path

from omegaconf import DictConfig

from repel.cli.command import claim, entry_point


@entry_point("embed")
def main(cfg: DictConfig, folder: Path) -> None:
    claim(cfg, folder)

    from repel.export.embed import embed

    embed(cfg, folder)


if __name__ == "__main__":
    main()
