"""Train an encoder: python train.py loss=ntxent trainer.devices=4"""

from pathlib import Path

from omegaconf import DictConfig

from repel.config import entry_point, start


@entry_point("train")
def main(cfg: DictConfig, folder: Path) -> float | None:
    resume = cfg.resume is not None
    cfg = start(cfg, folder)

    from repel.launch import launch

    data = launch(cfg, folder, resume)

    from repel.evaluation.report import finish

    return finish(cfg, folder, data)


if __name__ == "__main__":
    main()
