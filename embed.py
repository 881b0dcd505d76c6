"""Features of every image of a set: python embed.py ckpt=RUN_OR_FILE data=image_folder data.root=DIR"""

from pathlib import Path

from omegaconf import DictConfig

from repel.cli.baseline import task_overrides
from repel.cli.command import entry_point
from repel.cli.resume import prepare_output


@entry_point("embed")
def main(cfg: DictConfig, folder: Path) -> None:
    prepare_output(cfg, folder)

    from repel.export.embed import embed

    embed(cfg, folder, task_overrides())


if __name__ == "__main__":
    main()
