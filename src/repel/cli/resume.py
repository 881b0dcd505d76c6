"""Where a command runs: a new folder, or one that an earlier command left and that it resumes."""

import os
import shutil
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from repel.cli import slurm, sweeps
from repel.cli.baseline import own_folders, task_overrides
from repel.cli.going_on import allowed_changes, typed_at_resume
from repel.engine import run_lock, runs
from repel.engine.configs import load_config, to_container
from repel.engine.resumed import note_resume

__all__ = ["prepare_output", "prepare_run", "relative_to_cwd", "restore_checkpoint"]


def relative_to_cwd(path: Path) -> Path:
    """As the user would type it: below the working directory without its prefix."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def prepare_output(cfg: DictConfig, folder: Path) -> None:
    """Create the folder of a command that exports files.

    Raises:
        ValueError: it is not empty.
    """
    if any(folder.iterdir()):
        raise ValueError(f"out={relative_to_cwd(folder)} is not empty; name another folder")
    runs.create(folder, to_container(cfg), task_overrides())


def prepare_run(cfg: DictConfig, folder: Path) -> tuple[DictConfig, str]:
    """The config to run with: a new run's is written into its folder, a resumed run's is read from there.

    Returns:
        It, and sweeps.NEW, RESUME (from the last checkpoint) or FINISHED (before; there is nothing to do).

    Raises:
        ValueError: the folder holds another run, or options were given beside resume=.
    """
    overrides = task_overrides()
    # a launcher of Hydra's runs a job again whose process was lost
    again = cfg.sweep.resume is not None or (cfg.resume is None and (slurm.requeued() or _in_sweep()))
    if again and runs.exists(folder):
        return _prepare_started_job(cfg, folder, overrides)
    if cfg.resume is None:
        if cfg.data_root is not None and cfg.sweep.resume is None:
            raise ValueError("data_root= says where the data of a run lies that is resumed; a new run takes data.root=")
        runs.create(folder, to_container(cfg), overrides)
        runs.update_environment(folder, choices=_chosen_groups(), varied=sweeps.varied_keys(folder))
        if own := own_folders():
            runs.update_environment(folder, config_dirs=[str(path.resolve()) for path in own])
        slurm.remember(folder.parent if _in_sweep() else folder)
        return _with_moved_data(cfg, folder), sweeps.NEW
    if folder.resolve() != runs.find(cfg.resume):
        raise ValueError(
            "resume= goes on in the run's own folder: leave out -m and hydra.run.dir; to go on with a copy, copy the "
            "folder and resume that"
        )
    last = folder / "checkpoints" / "last.ckpt"
    if not last.is_file():
        raise ValueError(f"resume={cfg.resume}: no checkpoint was written yet; start the run again")
    run_lock.lock(folder)
    typed, chosen = typed_at_resume(overrides), Path(cfg.resume).expanduser().resolve()
    changes = allowed_changes(cfg, folder, typed, chosen)
    if chosen not in (folder, last):
        restore_checkpoint(chosen, last)
    if cfg.data_root is not None:
        runs.move_data(folder, cfg.data_root)
    note_resume(folder, typed, changes)
    try:
        return load_config(runs.current_config(folder)), sweeps.RESUME
    except ValueError as error:
        if folders := runs.read_environment(folder).get("config_dirs"):
            raise ValueError(f"{error}; the run was started with --config-dir={folders[0]}") from error
        raise


def _in_sweep() -> bool:
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _prepare_started_job(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[DictConfig, str]:
    """The config and the state of a job that an interrupted sweep, or SLURM's job before this one, has started."""
    state = sweeps.plan_job(folder, to_container(cfg), overrides)
    moved = _with_moved_data(cfg, folder)
    if state == sweeps.NEW:
        runs.update_environment(folder, choices=_chosen_groups(), varied=sweeps.varied_keys(folder))
        return moved, state
    outcome = f"{runs.read_environment(folder)['outcome']} already" if state == sweeps.FINISHED else "resumes"
    print(f"{outcome}: {relative_to_cwd(folder)}", flush=True)
    if state == sweeps.RESUME:
        note_resume(folder, overrides, {})
    return load_config(runs.current_config(folder)), state


def _chosen_groups() -> dict[str, str]:
    """group -> choice of the running job; not of groups that take several choices."""
    choices = HydraConfig.get().runtime.choices
    return {str(group): choice for group, choice in choices.items() if isinstance(choice, str) and "/" not in group}


def _with_moved_data(cfg: DictConfig, folder: Path) -> DictConfig:
    """The config; with data_root=, that of the run's folder, which keeps where its data lies now."""
    if cfg.data_root is None:
        return cfg
    runs.move_data(folder, cfg.data_root)
    return load_config(runs.current_config(folder))


def restore_checkpoint(chosen: Path, last: Path) -> None:
    """Make another of the run's checkpoints its last one.

    Raises:
        ValueError: it is damaged or not a checkpoint.
    """
    from repel.engine import checkpoint_io

    checkpoint_io.load(chosen)
    copy = last.with_name(f".{last.name}.tmp")
    shutil.copyfile(chosen, copy)
    os.replace(copy, last)
