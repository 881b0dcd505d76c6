"""Measure a checkpoint again: python evaluate.py ckpt=RUN_OR_FILE"""

from pathlib import Path

from omegaconf import DictConfig

from repel.cli.baseline import task_overrides
from repel.cli.command import entry_point


@entry_point("evaluate")
def main(cfg: DictConfig, folder: Path) -> float | None:
    from repel.report.evaluate import evaluate

    return evaluate(cfg, folder, task_overrides())


if __name__ == "__main__":
    main()
