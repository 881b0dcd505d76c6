"""A run that was killed and resumed ends in the same bits."""

import copy
import json
import signal

import pytest
import ranks
import torch
from conftest import TINY, command, config, run_folder, same
from runs_here import patch_dropout, table, train, train_until_killed

from repel.engine import checkpoint_io, runs
from repel.engine.configs import to_container
from repel.engine.fit import fit
from repel.module import Contrastive

RESUMABLE = ["head=linear", "trainer.max_epochs=3", "schedule.warmup_epochs=2", "trainer.accumulate_grad_batches=2"]


@pytest.fixture
def dropout():
    """One thread, as in the process that is killed, and the same head."""
    import repel.model.heads

    threads, linear = torch.get_num_threads(), repel.model.heads.linear
    torch.set_num_threads(1)
    patch_dropout()
    yield
    repel.model.heads.linear = linear
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("killed_after", "every"),
    [pytest.param(7, 1, id="mid-1"), *(
        pytest.param(*case, id=name, marks=pytest.mark.slow)
        for name, case in {"mid-epoch": (6, None), "epoch-end": (8, None), "mid-2": (11, 1)}.items()
    )],
)  # fmt: skip
def test_killed_and_resumed_equals_never_killed(tmp_path, dropout, killed_after, every):
    """Bit for bit: weights, optimizer, schedule, history. Checkpoints at epochs' ends, and every step besides."""
    folder = tmp_path / "run"
    cfg = config(*TINY, *RESUMABLE, f"callbacks.last.every_n_train_steps={every or 'null'}")
    runs.create(folder, to_container(cfg), [])
    process = ranks.forked(train_until_killed, str(folder), killed_after)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint_io.load(folder / "checkpoints/last.ckpt")["global_step"] < 6
    train(folder, resume=True)
    train(tmp_path / "whole", *RESUMABLE)
    whole = checkpoint_io.load(tmp_path / "whole/checkpoints/last.ckpt")
    resumed = checkpoint_io.load(folder / "checkpoints/last.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 6
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(resumed[part], whole[part]), part
    columns = ("step", "train/loss", "val/loss", "val/knn_top1")
    assert table(folder / "metrics.csv", columns) == table(tmp_path / "whole/metrics.csv", columns)


def test_float64_weights_resume_without_rounding(tmp_path, monkeypatch):
    short = ["trainer.precision=64-true", "trainer.limit_train_batches=1"]
    written = train(tmp_path, *short, "trainer.max_epochs=1")
    resumed = {}
    monkeypatch.setattr(Contrastive, "on_train_start", lambda self: resumed.update(copy.deepcopy(self.state_dict())))
    fit(config(*TINY, *short), tmp_path, resume=True)
    assert same(resumed, written)


def test_dropout_differs_between_steps_and_ranks(monkeypatch):
    from types import SimpleNamespace

    def draw(epoch, step, rank):
        place = SimpleNamespace(seed=1, current_epoch=epoch, global_rank=rank, set_annealed=lambda step: None,
                                device=torch.device("cpu"))  # fmt: skip
        Contrastive.on_train_batch_start(place, None, step)
        return torch.rand(4)

    draws = [draw(*place) for place in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(draws[0], draw(0, 0, 0))


@pytest.mark.slow
def test_resume_by_command(tmp_path):
    """A finished run has nothing left to train; its numbers stay. Other options beside resume= are refused."""
    result = command("train.py", *TINY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    finished = run_folder(result, tmp_path)
    before = json.loads((finished / "metrics.json").read_text())
    result = command("train.py", f"resume={finished}", cwd=finished.parent)
    assert result.returncode == 0, result.stderr
    assert run_folder(result, finished.parent).resolve() == finished.resolve()
    assert "warning" not in (result.stdout + result.stderr).lower()
    after = json.loads((finished / "metrics.json").read_text())
    assert after["test/knn_top1"] == before["test/knn_top1"]
    assert after["train/steps"] == 8
    result = command("train.py", f"resume={finished}", "seed=3", cwd=finished.parent)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "seed=3" in result.stderr
    assert (finished / "config.yaml").exists()
