"""Train an encoder: python train.py loss=ntxent trainer.devices=4"""

from pathlib import Path

from omegaconf import DictConfig

from repel.cli.command import entry_point
from repel.cli.resume import prepare_run
from repel.cli.sweeps import FINISHED, RESUME
from repel.engine import runs


@entry_point("train")
def main(cfg: DictConfig, folder: Path) -> float | None:
    cfg, state = prepare_run(cfg, folder)
    if state == FINISHED:
        return runs.read_environment(folder)["objective"]

    from repel.engine.launch import launch

    data = launch(cfg, folder, resume=state == RESUME)

    from repel.report.evaluate import finish

    return runs.mark_finished(folder, finish(cfg, folder, data))


if __name__ == "__main__":
    main()
