"""Shared by the tests: tiny images, composed configs, commands.

torch is imported where it is used: the process that hands out the tests to workers (make test) needs none.
"""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from composing import CONF, resolved
from filelock import FileLock
from hooks import (  # noqa: F401 - which pytest finds here
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
    pytest_runtestloop,
)
from omegaconf import DictConfig, OmegaConf

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a script's background jobs, as these may be, ignore
ROOT = Path(__file__).parents[1]
# a run of a second: trained on 128 images, and not validated and measured on thousands
SMALL = ["experiment=debug", "encoder.width=4", "head.out_features=8", "data.batch_size=16", "callbacks.pairs=null",
         "evaluators=[knn]"]  # fmt: skip
BANK = "evaluation.bank=1000"  # of `finished`
TINY = [*SMALL, "evaluation.bank=64", "data.val_fraction=0.01", "evaluation.map=null"]


def thinned(cases, every: int) -> list:
    """Parameters of a test of texts: one of so many is in make test, the others are marked slow."""
    return [pytest.param(case, id=case, marks=() if number % every == 0 else pytest.mark.slow)
            for number, case in enumerate(cases)]  # fmt: skip


def options(group: str) -> list[str]:
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))


def options_of(group: str, modality: str) -> list[str]:
    """The choices of a group of conf/ that are for images, or for texts, and those that are for both."""
    return [name for name in options(group) if (room_of(group, name) or modality) == modality]


@functools.cache
def room_of(group: str, name: str) -> str | None:
    """The modality of a choice, by what its file and those that it is made from name; None where it is for all."""
    import yaml

    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    if found := re.search(r"repel\.(images|text|interactions)\.", text):
        return found[1]
    if re.search(r"_target_: repel\.\w+\.(validation_)?ranking\.", text):
        return "interactions"
    if data := re.search(r"override /data: (\w+)", text):
        return room_of("data", data[1])
    listed = (yaml.safe_load(text) or {}).get("defaults", [])
    bases = [base for base in listed if isinstance(base, str) and base != "_self_"]
    if group == "experiment" and not bases:
        return "images"
    return room_of(group, bases[0]) if bases else None


def config(*overrides: str, name: str = "train") -> DictConfig:
    """The composed config, resolved; everybody gets an own copy."""
    return OmegaConf.create(resolved(name, overrides))


def command(script: str, *args: str, cwd: Path, timeout: float = 200, **env: str) -> subprocess.CompletedProcess:
    """Run an entry point as a user would, in cwd; every process it leaves is killed when the time is over.

    In a Python of its own where env says something about that, else forked from one that has imported everything.
    """
    if env.keys() & {"PYTHONPATH", "PYTHONHASHSEED"} and "REPEL_FAULT" not in env:
        if "PYTHONPATH" in env and "PYTHONPATH" in os.environ:
            env["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
        status, out, err = alone([str(ROOT / script), *args], cwd, environment(env), timeout)
    else:
        status, out, err = begun(script, *args, cwd=cwd, **env).end(timeout)
    if status is None:
        pytest.fail(f"{script} {' '.join(args)} did not end within {timeout} s\n{out}\n{err}")
    return subprocess.CompletedProcess(args, status, out, err)


def begun(script: str, *args: str, cwd: Path, **env: str):
    """The same while it runs: a ranks.Script, forked."""
    import ranks

    return ranks.Script([str(ROOT / script), *args], cwd, environment(env))


def environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1", **more}


def alone(argv: list[str], cwd: Path, env: dict[str, str], timeout: float) -> tuple[int | None, str, str]:
    process = subprocess.Popen([sys.executable, *argv], cwd=cwd, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=env, start_new_session=True)  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, *process.communicate()
    return process.returncode, out, err


def run_folder(result: subprocess.CompletedProcess, cwd: Path) -> Path:
    """The folder named by the last line on stdout."""
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("run: "), result.stdout
    return cwd / last.removeprefix("run: ")


def make_folder(root: Path, classes: list[str], each: int, size: tuple[int, int] = (12, 10)) -> Path:
    """An image folder whose classes differ in colour."""
    import torch
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = torch.randint(0, 128, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
            pixels[..., number % 3] += 100
            Image.fromarray(pixels.numpy()).save(root / name / f"{i:03d}.png")
    return root


def same(a, b) -> bool:
    import torch

    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def left_over(folder: Path) -> list[str]:
    """Commands of live processes that name the folder, or work in it, as what is forked does."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and (str(folder) in words or (process / "cwd").readlink().is_relative_to(folder)):
                found.append(words)  # one without a word is ending
    return found


def check_mistake(result, words):
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def made_once(tmp_path_factory, name: str, make: Callable[[Path], Path]) -> Path:
    """What make(folder) gives, made by the first of the workers that asks for it, for all of them."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers' own folders lie side by side
    note = root / f"{name}.path"
    with FileLock(root / f"{name}.lock"):
        if not note.exists():
            (root / name).mkdir()
            note.write_text(str(make(root / name)), encoding="utf-8")
    return Path(note.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """One finished run, made by the command: validated on all images, and measured by kNN. Not to be changed."""

    def make(cwd: Path) -> Path:
        sheet = "callbacks.pairs={_target_:repel.monitoring.view_pairs.ViewPairs,pairs:4}"
        result = command("train.py", *SMALL, BANK, sheet, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return run_folder(result, cwd)

    return made_once(tmp_path_factory, "finished", make)


@pytest.fixture(scope="session")
def finished_text(tmp_path_factory) -> Path:
    """A finished run on the bundled texts, of a few steps. Not to be changed."""
    few = ["experiment=text", "trainer.max_epochs=1", "trainer.limit_train_batches=4", "callbacks.knn=null",
           "evaluators=[]", "encoder.buckets=1000", "data.vocabulary=2000"]  # fmt: skip

    def make(cwd: Path) -> Path:
        result = command("train.py", *few, cwd=cwd)
        assert result.returncode == 0, result.stderr
        return run_folder(result, cwd)

    return made_once(tmp_path_factory, "finished_text", make)


@pytest.fixture(autouse=True)
def signals_as_before():
    """A command that runs in this process sets handlers; the next test finds those that were there."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def few_glosses(monkeypatch):
    """data=wordnet_mini in this process: 600 training and 80 test texts."""
    import text_runs

    monkeypatch.setattr("repel.text.datasets.wordnet_glosses", text_runs.few_glosses)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """For tiny shapes more are slower; workers (make test) share out the cores."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    import torch

    torch.manual_seed(0)
