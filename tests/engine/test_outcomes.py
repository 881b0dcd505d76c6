"""How a failure becomes an exit status and a line, here and on another rank."""

import errno
import json
import multiprocessing
import os
import signal
import types

import pytest
from conftest import config
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repel.base.signals import Stopped
from repel.data.samples import UnreadableSample
from repel.engine.build import build_trainer
from repel.engine.data_limits import check_shared_memory
from repel.engine.launch import _failure
from repel.engine.outcomes import CRASHED, DIVERGED, MISTAKE, RankFailed, explain
from repel.engine.rank import failure_records, run_rank
from repel.module import Diverged


def caused(cause: Exception) -> InstantiationException:
    error = InstantiationException("Error in call to target 'x':\nlong")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("two\n  lines"), MISTAKE, "two lines"),
        (caused(ValueError("loss.temperature must be > 0")), MISTAKE, "loss.temperature must be > 0"),
        (caused(TypeError("no such argument")), MISTAKE, "Error in call to target 'x': long"),
        (UnreadableSample("a.png cannot be read"), MISTAKE, "a.png cannot be read"),
        (Diverged("the loss is nan"), DIVERGED, "the loss is nan"),
        (RankFailed(DIVERGED, "the loss is nan on rank 1"), DIVERGED, "the loss is nan on rank 1"),
        (KeyError("x"), CRASHED, "KeyError: 'x'"),
    ],
)
def test_status_and_line(error, status, line):
    assert explain(error) == (status, line)


def test_an_error_of_the_config_is_a_mistake():
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.to_container(OmegaConf.create({"a": "${b}"}), resolve=True)
    status, line = explain(caught.value)
    assert (status, line) == (MISTAKE, "Interpolation key 'b' not found")


def test_a_rank_records_why_it_failed(tmp_path, monkeypatch, capsys):
    """With its traceback, and without the environment's secrets."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MY_TOKEN", str(tmp_path))
    assert run_rank(tmp_path, "repel.engine.fit:fit_new", print_error=True) == CRASHED
    (record,) = failure_records(tmp_path)
    assert (record.rank, record.status) == (1, CRASHED)
    assert record.message.startswith("FileNotFoundError: ")
    assert "read_config" in record.traceback
    assert "${oc.env:MY_TOKEN}/config.yaml" in record.traceback
    assert capsys.readouterr().err.startswith("error: rank 1: FileNotFoundError: ")


def test_a_rank_runs_this_package_alone(tmp_path):
    assert run_rank(tmp_path, "os:getcwd") == CRASHED
    assert "os:getcwd" in failure_records(tmp_path)[0].message


def record(folder, rank: int, status: int, message: str) -> None:
    content = {"rank": rank, "status": status, "message": message, "traceback": f"Traceback of {rank}"}
    (folder / f"error_rank{rank}.json").write_text(json.dumps(content), encoding="utf-8")


class Ended:
    """What torch's launcher reports of ranks that ended: rank -> exit status; the first of them ended first."""

    def __init__(self, **statuses: int):
        self.failures = {int(name[1:]): type("Failure", (), {"exitcode": s, "timestamp": 0}) for name, s in
                         statuses.items()}  # fmt: skip

    def get_first_failure(self):
        return next(iter(self.failures.items()))


@pytest.mark.parametrize(
    ("status", "line"),
    [(MISTAKE, "too few images"), (DIVERGED, "too few images"), (CRASHED, "rank 1: too few images")],
)
def test_the_first_ranks_failure_is_the_runs(tmp_path, status, line):
    record(tmp_path, 1, status, "too few images")
    error = _failure(Ended(r1=status, r0=CRASHED), tmp_path)
    assert explain(error) == (status, line)
    assert error.__notes__ == ["Traceback of 1"]
    assert failure_records(tmp_path) == []


def test_ranks_that_left_no_record(tmp_path):
    """Killed from outside, stopped by a signal, or ended while the disk was full."""
    (tmp_path / "error_rank0.json").write_text('{"rank": 0, "sta', encoding="utf-8")
    killed = Ended(r0=CRASHED, r1=-signal.SIGKILL)
    assert explain(_failure(killed, tmp_path)) == (CRASHED, "rank 1 was killed by signal 9 (SIGKILL); out of memory?")
    for status in (143, -signal.SIGTERM):  # by its own handler, or outside of it
        assert isinstance(_failure(Ended(r0=status), tmp_path), Stopped)
    assert explain(_failure(Ended(r0=5), tmp_path)) == (CRASHED, "rank 0 ended with status 5")


def test_an_exception_without_words_names_its_place():
    def find():
        raise NotImplementedError

    with pytest.raises(NotImplementedError) as caught:
        find()
    status, line = explain(caught.value)
    assert status == CRASHED
    assert line.startswith("NotImplementedError in find (")
    assert "test_outcomes.py, line " in line


def test_shared_memory_that_is_full_is_named(monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", full)
    with pytest.raises(OSError, match="No space") as caught:
        multiprocessing.get_context("fork").Queue()
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
    for error in (caught.value, killed):
        status, line = explain(error)
        assert status == MISTAKE
        assert "/dev/shm" in line
        assert "data.workers" in line
    of_a_file = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/metrics.csv")
    assert explain(of_a_file) == (CRASHED, "OSError: [Errno 28] No space left on device: 'runs/metrics.csv'")


def test_shared_memory_that_is_too_small_is_refused_before_training(tmp_path, monkeypatch):
    cfg = config("data=image_folder", "data.root=x", "data.image_size=224", "data.batch_size=256")
    monkeypatch.setattr("shutil.disk_usage", lambda place: types.SimpleNamespace(free=64 * 2**20))
    with pytest.raises(ValueError, match=r"has 64.0 MB free, and .* data.workers=1 need at least 73.5 MB .*--shm-size"):
        check_shared_memory(cfg, 1, tmp_path)
    check_shared_memory(cfg, 0, tmp_path)
    check_shared_memory(config("data.batch_size=16"), 2, tmp_path)


@pytest.mark.parametrize(
    ("finder", "key"), [("BatchSizeFinder", "data.batch_size"), ("LearningRateFinder", "optimizer.lr")]
)
def test_lightnings_finders_are_refused_before_data_is_read(tmp_path, finder, key):
    cfg = config(f"+callbacks.find={{_target_:lightning.pytorch.callbacks.{finder}}}")
    with pytest.raises(ValueError, match=f"callbacks.find: {finder} does not work here: .* {key}"):
        build_trainer(cfg, tmp_path)


def raised(code: str, module: str) -> Exception:
    """What a line of a module raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        exec(code, {"__name__": module})
    return caught.value


OWN = "class Odd(ValueError): pass\nraise Odd('set x')"  # of a package of the user's own, as this test is


@pytest.mark.parametrize(("code", "module", "status", "line"), [
    ("raise ValueError('data.x must be 1')", "repel.data.x", MISTAKE, "data.x must be 1"),
    ("try:\n int('x')\nexcept ValueError as e:\n raise ValueError('set x') from e", "repel.x", MISTAKE, "set x"),
    ("raise ValueError('no such folder')", "test_outcomes", MISTAKE, "no such folder"),
    (OWN, "test_outcomes", MISTAKE, "set x"),
    ("int('x')", "repel.data.x", CRASHED, "ValueError: invalid literal for int() with base 10: 'x'"),
    ("'\\xb1'.encode('ascii')", "repel.report.x", CRASHED, "UnicodeEncodeError: 'ascii' codec can't encode character"),
    ("import json; json.loads('{')", "repel.report.x", CRASHED, "JSONDecodeError: Expecting property name"),
    ("import numpy; numpy.zeros(3).reshape(2)", "repel.data.x", CRASHED, "ValueError: cannot reshape"),
    ("raise ValueError('shapes')", "numpy.linalg", CRASHED, "ValueError: shapes"),
    ("import torch; torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(3).long())", "repel.losses.x",
     CRASHED, "ValueError: Expected input batch_size"),
    ("import numpy.linalg as la; raise la.LinAlgError('singular')", "repel.x", CRASHED, "LinAlgError: singular"),
])  # fmt: skip
def test_a_value_error_is_a_mistake_where_this_project_or_an_own_part_says_so(code, module, status, line):
    found = explain(raised(code, module))
    assert found[0] == status
    assert found[1].startswith(line)
    assert explain(caused(raised("'\\xb1'.encode('ascii')", "repel.x")))[0] == CRASHED
