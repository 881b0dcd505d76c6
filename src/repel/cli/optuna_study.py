"""An Optuna study, stored in its sweep's folder, so that an interrupted search can be resumed.

optuna is imported where it is used: it comes with the extra `optuna`.
"""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from repel.cli.sweeps import identity, run_folders
from repel.engine import run_lock, runs

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.study import Study
    from optuna.trial import FrozenTrial

NAME = "sweep"  # of the study, as conf/sweep/optuna.yaml names it


def load(folder: Path, pruner: "BasePruner | None" = None) -> "Study | None":
    """The study of a sweep's folder, or None where there is none yet."""
    import optuna

    if not (folder / "study.db").exists():
        return None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.load_study(NAME, f"sqlite:///{folder / 'study.db'}", pruner=pruner)


def trials(study: "Study", *states: str) -> list["FrozenTrial"]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in states]


def trials_left(wanted: int, folder: str) -> int:
    """How many of the wanted trials are still to be run; failed ones do not count."""
    study = load(Path(folder))
    return wanted if study is None else max(0, wanted - len(trials(study, "COMPLETE", "PRUNED")))


def sampler_seed(seed: int, folder: str) -> int:
    """Another seed for a resumed study: the same would draw its first trials a second time."""
    study = load(Path(folder))
    return seed if study is None else seed + len(study.get_trials(deepcopy=False))


class RequeueInterruptedTrials(Callback):
    """Before the sweep, queues the trials that a killed sweep left running again, so that their runs are resumed.

    A callback of Hydra's, named in conf/sweep/optuna.yaml.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)  # else it lists its plugins
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)  # the database is made before the first run's folder
        study = load(folder)
        alive = [_overrides(run) for run in run_folders(folder) if run_lock.is_locked(run)]
        if study is None:
            return
        for trial in trials(study, "RUNNING"):
            if any(_parameters(trial) <= overrides for overrides in alive):
                continue  # another process works on the same study
            study.tell(trial.number, state=type(trial.state).FAIL)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # optuna 2.10 calls enqueueing experimental
                study.enqueue_trial(trial.params)


def running_trial(study: "Study", run: Path) -> "FrozenTrial | None":
    """The trial whose parameters are among the run's overrides: Hydra does not pass it to the run."""
    found = [trial for trial in trials(study, "RUNNING") if _parameters(trial) <= _overrides(run)]
    return found[-1] if found else None


def _parameters(trial: "FrozenTrial") -> frozenset[tuple[str, Any]]:
    return identity(f"{key}={value}" for key, value in trial.params.items())


def _overrides(run: Path) -> frozenset[tuple[str, Any]]:
    return identity(runs.read_environment(run)["overrides"])
