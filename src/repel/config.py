"""Entry points, and the parts of a run built from its config.

With mistakes.py, sweeps.py and study.py, all that knows of Hydra.

Nothing here imports torch or lightning at the top, so that a mistake in a command is answered at once.
"""

import contextlib
import copy
import functools
import math
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel import runs, slurm, study, sweeps
from repel.mistakes import (
    CONF,
    as_typed,
    check,
    check_targets,
    chosen_sweeper,
    config_mistake,
    one_line,
    plain,
)
from repel.secrets import without_secrets
from repel.signals import SIGNALS, Asked, Stopped, stop_at_once

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, Trainer
    from lightning.pytorch.loggers import Logger

    from repel.evaluation.protocol import Evaluator
    from repel.module import Contrastive

CRASHED, MISTAKE, DIVERGED = 1, 2, 3  # exit statuses; 0: done; 130 and 143: stopped by a signal


def run_folder(resume: str | None, new: str, overrides: ListConfig) -> str:
    """Where a run lies: the folder that resume names, or where a requeued SLURM job began it, or a new one."""
    return str(runs.find(resume)) if resume else slurm.begun_before(Path(new).parent, as_typed(overrides)) or new


def job_folder(resume: str | None, sweep: str, number: int, overrides: ListConfig) -> str:
    return sweeps.job_folder(resume, sweep, number, as_typed(overrides))


for resolver in (run_folder, sweeps.sweep_folder, job_folder, study.trials_left, study.sampler_seed):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
OmegaConf.register_new_resolver("given", lambda value, otherwise: otherwise if value is None else value, replace=True)


def entry_point(name: str) -> Callable:
    """Decorate `task(cfg, folder)` into a command: conf/<name>.yaml, run folders, one-line errors, exit statuses.

    The decorated function takes no arguments. `task` gets the composed config and its run folder, and returns the
    number that a sweep optimises, or None.
    """

    def decorate(task: Callable[[DictConfig, Path], float | None]) -> Callable[[], None]:
        def command() -> None:
            stop_at_once()
            if outside := "RANK" in os.environ or "SLURM_STEP_NUM_TASKS" in os.environ:
                outside = take_place(name)
            tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its exceptions on, for us to word
            failures: list[int] = []
            job = functools.wraps(task)(functools.partial(run_job, task, name, tracebacks, failures))
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)(job)()
            except Stopped as stopped:
                sys.exit(stopped.status)
            except KeyboardInterrupt:
                sys.exit(Stopped(signal.SIGINT).status)
            except (HydraException, OmegaConfBaseException) as error:  # the config could not be composed
                if tracebacks:
                    traceback.print_exc()
                print(f"error: {config_mistake(error, name)}", file=sys.stderr)
                failures.append(MISTAKE)
            except ValueError as error:  # the sweeper's: jobs have words for their own
                if tracebacks:
                    traceback.print_exc()
                if not failures:  # else it misses the best of trials that all failed
                    print(f"error: {one_line(error)}", file=sys.stderr)
                    failures.append(MISTAKE)
            if failures and outside:
                dismiss(failures[0])
            if failures:
                sys.exit(failures[0])

        return command

    return decorate


def take_place(name: str) -> bool:
    """Whether this is the first of several ranks from outside; another one does its part here, and ends."""
    from repel.launch import from_outside, join

    if not from_outside():
        return False
    if name != "train" or "-m" in sys.argv or "--multirun" in sys.argv:
        print(f"error: torchrun and srun may start one run of train.py; start {name}.py once", file=sys.stderr)
        sys.exit(MISTAKE)
    if os.environ["RANK"] != "0":
        os._exit(join())
    return True


def dismiss(status: int) -> None:
    """The first rank's end where it failed: those that still wait for its word are sent away."""
    from repel.launch import kept, tell

    if not kept:
        tell({"failed": status})
    sys.stdout.flush()
    os._exit(status)  # not sys.exit: the other ranks may never answer the farewell of the process group


def run_job(task: Callable, name: str, tracebacks: bool, failures: list[int], cfg: DictConfig) -> float | None:
    """One job: check its config, run it; on failure say why in a line and keep the traceback in error.txt.

    A failed job appends its exit status to failures and returns NaN, so that a sweep goes on with the next.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        check(cfg, name)
        result = task(cfg, folder)
        print(f"run: {relative(folder)}", flush=True)
        return result
    except (KeyboardInterrupt, Stopped) as stop:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # another one would cut off the line that says how to go on
        last = folder / "checkpoints" / "last.ckpt"
        hint = f"go on with: python {name}.py resume={relative(folder)}" if last.exists() else "no checkpoint yet"
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            hint = f"the same command with sweep.resume={relative(folder.parent)} runs what is missing"
        print(f"{str(stop) or 'interrupted'}; {hint}", file=sys.stderr)
        raise
    except Exception as error:
        status, message = explain(error, name)
        failures.append(status)
        if tracebacks:
            traceback.print_exc()
        if status == MISTAKE:
            runs.discard(folder)  # where nothing ran, leave nothing behind
        if folder in runs.held and (folder / "config.yaml").exists() and not (status == MISTAKE and cfg.get("resume")):
            with contextlib.suppress(OSError):  # the disk may be full
                (folder / "error.txt").write_text(without_secrets(traceback.format_exc()))
                message += f"\nhint: the traceback is in {relative(folder / 'error.txt')}"
        if status == DIVERGED and folder in runs.held:
            runs.note(folder, outcome="diverged", objective=None)  # it would again
        print(f"error: {message}", file=sys.stderr)
        if HydraConfig.get().mode == RunMode.MULTIRUN and chosen_sweeper() == "optuna":
            raise  # Optuna takes no NaN: this is how its plugin is told of a failed trial
    finally:
        runs.release(folder)
    return math.nan


def explain(error: Exception, name: str) -> tuple[int, str]:
    """Exit status and one line for what ended a job."""
    if isinstance(error, InstantiationException):
        return MISTAKE, one_line(error.__cause__ if isinstance(error.__cause__, ValueError) else error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return MISTAKE, config_mistake(error, name)
    # by name: importing their modules here would import torch
    if isinstance(error, ValueError) or type(error).__name__ in ("MisconfigurationException", "BadImage"):
        return MISTAKE, one_line(error)
    if type(error).__name__ == "Diverged":
        return DIVERGED, one_line(error)
    return CRASHED, f"{type(error).__name__}: {one_line(error)}"


def relative(path: Path) -> Path:
    """As the user would type it: below the working directory without its prefix."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def claim(cfg: DictConfig, folder: Path) -> None:
    """Begin the folder of a command that writes files to take away.

    Raises:
        ValueError: there is something in it.
    """
    if any(folder.iterdir()):
        raise ValueError(f"out={relative(folder)} is not empty; name another folder")
    runs.claim(folder, plain(cfg), as_typed())


def start(cfg: DictConfig, folder: Path) -> tuple[DictConfig, str]:
    """The config to run with: a new run's is written into its folder, a resumed run's is read from there.

    Returns:
        It, and sweeps.NEW, RESUME (from the last checkpoint) or FINISHED (before; there is nothing to do).

    Raises:
        ValueError: the folder is taken, or options were given beside resume=.
    """
    overrides = as_typed()
    if (cfg.sweep.resume is not None or (slurm.requeued() and cfg.resume is None)) and runs.begun(folder):
        state = sweeps.take_up(folder, plain(cfg), overrides)
        if state == sweeps.NEW:
            return cfg, state
        done = f"{runs.read_environment(folder)['outcome']} already" if state == sweeps.FINISHED else "goes on"
        print(f"{done}: {relative(folder)}", flush=True)
        return saved(runs.read_config(folder)), state
    if cfg.resume is None:
        runs.claim(folder, plain(cfg), overrides)
        if HydraConfig.get().mode == RunMode.RUN:
            slurm.remember(folder, overrides)
        return cfg, sweeps.NEW
    if others := [o for o in overrides if not o.startswith("resume=")]:
        raise ValueError(f"resume= goes on with the run's own config; leave out {' '.join(others)}, or start a new run")
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise ValueError(f"resume={cfg.resume}: no checkpoint was written yet; start the run again")
    runs.hold(folder)
    if (chosen := Path(cfg.resume).expanduser().resolve()) not in (folder, last):
        go_back(chosen, last)
    return saved(runs.read_config(folder)), sweeps.RESUME


def go_back(chosen: Path, last: Path) -> None:
    """Put another of the run's checkpoints into the last one's place."""
    from repel import checkpoints

    checkpoints.load(chosen)  # that it is one
    copy = last.with_name(f".{last.name}.tmp")
    shutil.copyfile(chosen, copy)
    os.replace(copy, last)


def saved(config: dict[str, Any]) -> DictConfig:
    """A config that comes from a file, not from conf/."""
    check_targets(config)
    return OmegaConf.create(config)


def with_data(cfg: DictConfig, run: dict[str, Any]) -> dict[str, Any]:
    """A run's config with the data that a command names in place of its own, to be seen by the run's encoder.

    Channels, mean and std are the run's, as the encoder knows nothing else, and the image size unless it was typed.

    Args:
        cfg: the command's config, with a group `data`, or null for the run's own data, and `data_root`, where this
            lies now, or null.
        run: the run's config, as its checkpoint holds it.
    """
    run = copy.deepcopy(run)
    if cfg.data_root is not None:
        if "root" not in run["data"]:
            raise ValueError("data_root: the run's data has no root; leave it out")
        run["data"]["root"] = run["data"]["datamodule"]["read"]["root"] = cfg.data_root
    if cfg.get("data") is None:
        return run
    typed = {o.split("=")[0] for o in as_typed()}
    kept = {key: run["data"][key] for key in ("channels", "mean", "std", "image_size") if f"data.{key}" not in typed}
    return run | {"data": plain(OmegaConf.merge(cfg, {"data": kept}))["data"]}


def build_data(cfg: DictConfig) -> "LightningDataModule":
    return instantiate(cfg.data.datamodule)


def build_evaluators(nodes: Mapping[str, Any] | None) -> "dict[str, Evaluator]":
    """Name -> what is measured at the end; a name set to null is left out."""
    return {name: instantiate(node) for name, node in (nodes or {}).items() if node}


def build_module(cfg: DictConfig) -> "Contrastive":
    """The network and its loss, initialised from cfg.seed.

    Raises:
        ValueError: parts that do not go together.
    """
    from lightning.pytorch import seed_everything

    from repel.module import Contrastive

    seed_everything(cfg.seed, workers=True, verbose=False)
    encoder = instantiate(cfg.encoder)
    head = instantiate(cfg.head, in_features=encoder.out_features)
    dim = cfg.head.out_features
    predictor = instantiate(cfg.predictor, in_features=dim, out_features=dim) if cfg.predictor else None
    loss = instantiate(cfg.loss)
    local = OmegaConf.select(cfg, "views.local.n")
    if local and not loss.takes_crops:
        raise ValueError("this loss takes no crops that are anchors only; set views.local=null, or choose another loss")
    if loss.needs_predictor and predictor is None:
        raise ValueError("this loss has no negatives and collapses without a predictor: add predictor=mlp")
    target = instantiate(cfg.target, encoder, head) if cfg.target else None
    for changed in annealed(cfg):
        instantiate(changed.loss)
        _ = instantiate(changed.target, encoder, head) if cfg.target else None
    parts = [encoder, head, predictor, loss, target]
    return Contrastive(*parts, instantiate(cfg.anneal), instantiate(cfg.optimizer), instantiate(cfg.schedule), cfg.seed)


def annealed(cfg: DictConfig) -> list[DictConfig]:
    """The config as annealing begins and as it ends, both of which must be allowed; empty where nothing changes."""
    values, configs = cfg.anneal["values"] or {}, []
    for end in (0, 1) if values else ():
        changed = OmegaConf.create(plain(cfg))
        for key, ends in values.items():
            for place in (key, f"loss.{key}"):  # resolved, the loss has negatives of its own
                if OmegaConf.select(changed, place) is not None:
                    OmegaConf.update(changed, place, ends[end])
        configs.append(changed)
    return configs


def build_trainer(cfg: DictConfig, folder: Path, purge_step: int | None, asked: Asked | None = None) -> "Trainer":
    """Lightning's Trainer for a run that starts anew (purge_step None) or goes on from a step.

    Args:
        asked: where a signal to stop is noted.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    from repel.batchnorm import AcrossRanks
    from repel.checkpoints import AtomicCheckpointIO, ConfigInCheckpoint
    from repel.together import StopTogether, Together

    together = Together(asked or Asked())
    chosen = [instantiate(node) for node in cfg.callbacks.values() if node]

    def logger(node: DictConfig) -> "Logger":
        return instantiate(node, save_dir=str(folder), **({"purge_step": purge_step} if "purge_step" in node else {}))

    synchronised = cfg.trainer.devices * cfg.trainer.num_nodes > 1
    # what started the ranks is said, not guessed: Lightning would take any SLURM job for one with srun
    environment = TorchElasticEnvironment() if "RANK" in os.environ else LightningEnvironment()
    plugins = [AtomicCheckpointIO(), environment, *([AcrossRanks()] if synchronised and not on_gpu(cfg) else [])]
    return instantiate(
        cfg.trainer,
        default_root_dir=str(folder),
        callbacks=[together, *chosen, ConfigInCheckpoint(plain(cfg)), StopTogether(together)],
        logger=[logger(node) for node in cfg.logger.values() if node],
        plugins=plugins,
        sync_batchnorm=synchronised and on_gpu(cfg),
        use_distributed_sampler=False,  # the datamodule shares out its own batches
        num_sanity_val_steps=0,
        enable_model_summary=False,
        enable_progress_bar=cfg.callbacks.progress is not None,
    )


def on_gpu(cfg: DictConfig) -> bool:
    import torch

    return cfg.trainer.accelerator != "cpu" and torch.cuda.is_available()
