"""The exit status of a sweep counts its failed jobs, whichever of Hydra's launchers runs them."""

import multiprocessing
import pickle
import signal
import sys
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.plugins import Plugins
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from repel.base.installation import install_extra
from repel.cli.command import entry_point
from repel.cli.hydra_errors import config_mistake
from repel.cli.resume import prepare_run
from repel.cli.side_by_side import check_launcher
from repel.engine.outcomes import CRASHED, MISTAKE


def job(cfg, folder):
    """What repel.cli.main decorates, without any work: the name says what happens."""
    assert sys.argv[0] == "command.py", "a run's record names what was typed"
    with (folder.parent / "ran.txt").open("a") as file:
        file.write(f"{cfg.name} ")
    if cfg.name == "killed":
        signal.raise_signal(signal.SIGKILL)
    if cfg.name == "broken":
        raise RuntimeError("broken")
    return 0.5


class Elsewhere(BasicLauncher):
    """Each job in a process of its own, from which only its JobReturn comes back."""

    def launch(self, job_overrides, initial_job_idx):
        context, returns = multiprocessing.get_context("fork"), []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            here, there = context.Pipe()

            def work(number=number, overrides=overrides, there=there):
                sys.argv = ["worker"]
                there.send_bytes(pickle.dumps(BasicLauncher.launch(self, [overrides], number)))

            process = context.Process(target=work)
            process.start()
            there.close()
            returns += pickle.loads(here.recv_bytes())
            process.join()
        return returns


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """Runs a command with -m in this process: its exit status, and the names of the jobs that ran."""
    monkeypatch.setattr("repel.cli.command.raise_on_signal", lambda: None)

    def run(*typed: str, name: str = "export") -> tuple[int, list[str]]:
        sweep = ["-m", *typed, f"hydra.sweep.dir={tmp_path}", "hydra/hydra_logging=none"]
        monkeypatch.setattr(sys, "argv", ["command.py", *sweep])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets
        try:
            entry_point(name)(job)()
            status = 0
        except SystemExit as exit:
            status = exit.code
        ran = tmp_path / "ran.txt"
        return status, ran.read_text().split() if ran.exists() else []

    return run


@pytest.fixture(params=["here", "elsewhere"])
def launcher(request, monkeypatch):
    def instantiate_launcher(self, hydra_context, task_function, config):
        launcher = {"here": BasicLauncher, "elsewhere": Elsewhere}.get(request.param, request.param)()
        launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        return launcher

    monkeypatch.setattr(Plugins, "instantiate_launcher", instantiate_launcher)
    yield
    assert Plugins.instantiate_launcher is instantiate_launcher, "the command puts back what was there"


@pytest.mark.usefixtures("launcher")
def test_failed_jobs_give_the_status_and_end_no_sweep(ended, capfd, tmp_path):
    typed = ["ckpt=x", "name=good,broken,better,broken", "hydra.sweeper.max_batch_size=1"]
    assert ended(*typed) == (CRASHED, ["good", "broken", "better", "broken"])
    printed = capfd.readouterr()
    assert printed.err == "error: RuntimeError: broken\n" * 2
    named = [line for line in printed.out.splitlines() if line.startswith("failed")]
    assert named == [f"failed   {tmp_path}/{number}: RuntimeError: broken" for number in (1, 3)]


@pytest.mark.usefixtures("launcher")
def test_the_first_job_to_fail_gives_the_status(ended, capfd):
    assert ended("ckpt=x", "name=broken", "checkpoint=first,null") == (MISTAKE, ["broken"])
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith("error: checkpoint must be best or last")
    assert second == "error: RuntimeError: broken"


@pytest.mark.usefixtures("launcher")
def test_a_sweep_without_failures_is_done(ended):
    assert ended("ckpt=x,y", "name=good") == (0, ["good", "good"])


@pytest.mark.parametrize("launcher", ["elsewhere"], indirect=True)
@pytest.mark.usefixtures("launcher")
def test_a_killed_process_is_one_line(ended, capfd, tmp_path):
    assert ended("ckpt=x", "name=good,killed") == (CRASHED, ["good", "killed"])
    line = capfd.readouterr().err
    assert line.startswith("error: hydra/launcher=basic lost its jobs: EOFError")
    assert line.endswith(f"the same command with sweep.resume={tmp_path} runs what is missing\n")


@pytest.mark.slow
@pytest.mark.usefixtures("launcher")
def test_trials_of_a_study_count_too(ended, capfd):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    typed = ["sweep=optuna", "sweep.trials=2", "name=broken", "optimizer.lr=1e-3"]
    assert ended(*typed, name="train") == (CRASHED, ["broken"] * 2)
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error")] == ["error: RuntimeError: broken"] * 2


def test_paths_are_typed_from_where_the_command_is(ended, tmp_path, monkeypatch, capfd):
    """Hydra would have the job in its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(f"{__name__}.job", lambda cfg, folder: print("from", Path.cwd()))
    assert ended("ckpt=x", "hydra.job.chdir=true")[0] == 0
    assert f"from {tmp_path}\n" in capfd.readouterr().out


def test_a_launcher_that_does_not_exist(ended, capfd):
    assert ended("ckpt=x", "hydra/launcher=joblb") == (MISTAKE, [])
    line = capfd.readouterr().err
    assert line.startswith("error: hydra/launcher=joblb: there is no such choice")
    assert "basic" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("choice", ["joblib", "submitit_slurm", "submitit_local", "ray"])
def test_a_launcher_that_is_not_installed(choice):
    error = MissingConfigException(f"In 'train': Could not find 'hydra/launcher/{choice}'", choice, options=["basic"])
    asked = "sweep=parallel uses hydra/launcher=joblib, which" if choice == "joblib" else f"hydra/launcher={choice}"
    plugin = choice.split("_")[0]
    assert config_mistake(error, "train") == (
        f"{asked} needs a plugin of Hydra: pip install hydra-{plugin}-launcher "
        f"(all launchers: {install_extra('launchers')})"
    )


def test_how_many_jobs_at_a_time(ended, capfd):
    assert ended("sweep.jobs=2", name="train") == (MISTAKE, [])
    assert capfd.readouterr().err == "error: unknown option sweep.jobs; it is of sweep=parallel: add that\n"
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert ended("sweep=parallel", "sweep.jobs=0", name="train") == (MISTAKE, [])
    assert capfd.readouterr().err == "error: sweep.jobs must be a whole number, at least 1, got 0\n"


def test_a_launcher_starts_a_job_once():
    """Each of a SLURM job's tasks would run the whole job, in one folder."""
    for key in ("tasks_per_node", "nodes"):
        with pytest.raises(ValueError, match=rf"hydra\.launcher\.{key}=2: .* let the job start its ranks by trainer\."):
            check_launcher(OmegaConf.create({"hydra": {"launcher": {"nodes": 1, key: 2}}}))


class Retrying(Elsewhere):
    """Runs a job again whose process was lost, as Ray does, and submitit after a time limit."""

    def launch(self, job_overrides, initial_job_idx):
        try:
            return super().launch(job_overrides, initial_job_idx)
        except EOFError:
            return super().launch(job_overrides, initial_job_idx)


def lost_once(cfg, folder):
    cfg, state = prepare_run(cfg, folder)
    print(f"state {state}", flush=True)
    if state == "new" and not (folder / "checkpoints").exists():
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints/last.ckpt").touch()
        signal.raise_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [Retrying], indirect=True)
@pytest.mark.usefixtures("launcher")
def test_a_job_whose_process_was_lost_resumes(ended, capfd, monkeypatch):
    monkeypatch.setattr(f"{__name__}.job", lost_once)
    assert ended("seed=1", name="train")[0] == 0
    assert [line for line in capfd.readouterr().out.splitlines() if "state" in line] == ["state new", "state resume"]
