"""Checkpoints: whole or not at all, of plain containers, checked when read; never of weights that are not finite."""

import errno
import os
import shutil
import signal
import stat
from functools import partial
from pathlib import Path

import faults
import pytest
import torch
import yaml
from conftest import ROOT, TINY, config, same
from omegaconf import OmegaConf
from runs_here import LAYERNORM, PoisonAtStep, train

from repel.engine import checkpoint_io, runs
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit
from repel.model.optim import parameter_groups
from repel.module import Diverged
from repel.report.evaluate import finish


def test_divergence_names_the_last_good_checkpoint_and_keeps_it_good(tmp_path):
    """The loss is no number; or the update before it made weights that are none, and would have been saved."""
    for name, options, epochs in (("loss", [], "2"), ("weights", ["callbacks.last.every_n_train_steps=1"], "2")):
        poison = PoisonAtStep(6)
        with pytest.raises(Diverged, match=r"last\.ckpt") as caught, poison.armed():
            train(tmp_path / name, f"trainer.max_epochs={epochs}", *options)
        assert "finite" in str(caught.value) or "nan" in str(caught.value)
        kept = checkpoint_io.load(tmp_path / name / "checkpoints/last.ckpt")
        assert kept["global_step"] == (4 if name == "loss" else 5)
        assert all(torch.isfinite(v).all() for v in kept["state_dict"].values())


def test_a_value_error_of_the_code_that_trains_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("repel.losses.ratio.InfoNCE.link", broken)
    with pytest.raises(RuntimeError, match="ValueError: not enough values"):
        train(tmp_path / "a")


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    writer = checkpoint_io.AtomicCheckpointIO()
    writer.save_checkpoint({"config": {}, "state_dict": {"w": torch.ones(3)}}, path)

    def full(checkpoint, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            writer.save_checkpoint({"config": {}, "state_dict": {"w": torch.zeros(3)}}, path)
    assert torch.equal(checkpoint_io.load(path)["state_dict"]["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    import numpy as np

    for value in (tmp_path, np.float64(1), OmegaConf.create({}), signal.SIGTERM):
        with pytest.raises(TypeError, match=rf"callbacks.*Best.*0.*{type(value).__name__}"):
            checkpoint_io.AtomicCheckpointIO().save_checkpoint({"callbacks": {"Best": [value]}}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "of_folders_only"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_flushes_no_folders_gets_its_checkpoints(tmp_path, monkeypatch, number, of_folders_only):
    """As CIFS, sshfs and WSL's drives; some FUSE file systems flush nothing at all."""

    def fsync(file):
        if not of_folders_only or stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint_io.AtomicCheckpointIO().save_checkpoint({"config": {}, "state_dict": {}}, tmp_path / "last.ckpt")
    assert checkpoint_io.read(tmp_path / "last.ckpt") == {"config": {}, "state_dict": {}}


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path, monkeypatch):
    def fsync(file):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"cannot write .*last.ckpt: \[Errno 5\]"):
        checkpoint_io.AtomicCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello"), ("torn", b"PK\x03\x04 torn")):
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": 1}, tmp_path / "foreign")
    for name in ("missing", "empty", "text", "torn", "foreign"):
        with pytest.raises(ValueError, match=name):
            checkpoint_io.load(tmp_path / name)


def test_no_module_asks_for_unsafe_loading():
    sources = [p.read_text() for p in [*ROOT.glob("src/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]]
    assert not [s for s in sources if "weights_only=False" in s]


@pytest.fixture
def written(tmp_path):
    """A small run's checkpoints: the best, and a newer last."""
    made = {"config": {"seed": 1}, "state_dict": {"w": torch.arange(30.0)}, "epoch": 0, "global_step": 4}
    folder = tmp_path / "checkpoints"
    for name, epoch in (("best", 0), ("last", 1)):
        checkpoint_io.AtomicCheckpointIO().save_checkpoint({**made, "epoch": epoch}, folder / f"{name}.ckpt")
    return folder


def test_a_bit_that_turned_over_anywhere_is_found_or_harmless(written):
    path = written / "last.ckpt"
    whole, meant, found = path.read_bytes(), checkpoint_io.load(path), 0
    for at in range(0, len(whole), 7):
        faults.flip(path, at)
        try:
            loaded = checkpoint_io.load(path)
        except ValueError as error:
            found += "last.ckpt is damaged or not a checkpoint" in str(error) and "resume=" in str(error)
        else:
            assert same(loaded, meant), at
        path.write_bytes(whole)
    assert found > len(whole) / 7 * 0.2


@pytest.mark.parametrize("size", [0, 1, 100, -1, -100])
def test_a_truncated_checkpoint_is_named_with_the_newest_good_one(written, size):
    faults.cut(written / "last.ckpt", size)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged.*; best\.ckpt beside it is good, of epoch 1: use"):
        checkpoint_io.load(written / "last.ckpt")


def test_the_newest_of_several_good_ones_is_named(written):
    newest = {"config": {"seed": 1}, "state_dict": {"w": torch.arange(30.0)}, "epoch": 2, "global_step": 6}
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(newest, written / "newest.ckpt")
    for age, name in enumerate(("last", "newest", "best")):
        os.utime(written / f"{name}.ckpt", (1000 - age, 1000 - age))
    faults.cut(written / "last.ckpt", 100)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged.*; newest\.ckpt beside it is good, of epoch 3: use"):
        checkpoint_io.load(written / "last.ckpt")


def test_nothing_is_saved_on_an_exception(tmp_path):
    """Of a step that was not finished: the checkpoint of the epoch before stays."""
    with pytest.raises(RuntimeError, match="boom"), faults.armed("raise:0:5"):
        train(tmp_path / "run")
    for name in ("last", "best"):
        assert checkpoint_io.load(tmp_path / f"run/checkpoints/{name}.ckpt")["global_step"] == 4


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was here",))

    torch.save({"config": {}, "state_dict": {}, "payload": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt is damaged or not a checkpoint"):
        checkpoint_io.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "was here").exists()


def test_a_checkpoint_of_another_network_is_refused(tmp_path, whole):
    folder = tmp_path / "run"
    shutil.copytree(whole(1), folder)
    cfg = runs.read_config(folder)
    cfg["head"]["out_features"] = 9
    cfg["queue"]["dim"] = 9
    (folder / "config.yaml").write_text(yaml.safe_dump(cfg))
    with pytest.raises(ValueError, match=r"last\.ckpt is of another network: head\.\S+ is .* there and .* here"):
        fit(OmegaConf.create(cfg), folder, resume=True)


def test_going_back_to_another_checkpoint(written):
    from repel.cli.resume import restore_checkpoint

    faults.cut(written / "last.ckpt", 100)
    restore_checkpoint(written / "best.ckpt", written / "last.ckpt")
    assert checkpoint_io.load(written / "last.ckpt")["epoch"] == 0
    (written.parent / "config.yaml").touch()
    assert runs.find(str(written / "best.ckpt")) == written.parent  # resume=RUN/checkpoints/best.ckpt


@pytest.mark.slow
def test_a_checkpoint_is_read_once(tmp_path, monkeypatch):
    """A resumed run gives Lightning what it has read; the evaluation at its end reads each file once."""
    train(tmp_path / "a")
    config = runs.read_config(tmp_path / "a")
    config["trainer"]["max_epochs"] += 1
    (tmp_path / "a/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    reads, load = [], torch.load

    def count(file, *args, **kwargs):
        reads.append(Path(getattr(file, "name", file)).name)
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", count)
    cfg = load_config(config)
    data = fit(cfg, tmp_path / "a", resume=True)
    assert reads == ["last.ckpt"]
    reads.clear()
    finish(cfg, tmp_path / "a", data)
    assert sorted(reads) == ["best.ckpt", "last.ckpt"]


def test_a_checkpoint_that_was_read_is_handed_over_once(tmp_path):
    path = tmp_path / "last.ckpt"
    contents = {"config": {}, "state_dict": {"w": torch.ones(3)}}
    writer = checkpoint_io.AtomicCheckpointIO((path, contents))
    writer.save_checkpoint(contents, path)
    assert writer.load_checkpoint(str(path)) is contents
    assert writer.load_checkpoint(str(path)) is not contents
    writer = checkpoint_io.AtomicCheckpointIO((tmp_path / "other.ckpt", contents))
    assert writer.load_checkpoint(str(path)) is not contents


@pytest.mark.slow
def test_a_run_of_the_first_edition_keeps_the_groups_of_its_optimizer(tmp_path, monkeypatch):
    """There, the position embeddings of a vision transformer decayed. A run that began so resumes so."""
    pytest.importorskip("timm")

    def group_sizes(folder: Path, epochs: int, resume: bool = False) -> list[int]:
        """Of the optimizer in the last checkpoint of a run, after training."""
        tiny = [option for option in TINY if not option.startswith("encoder.width")]
        quick = ["callbacks.knn=null", "callbacks.monitor=null", "callbacks.health=null"]
        cfg = config(*tiny, *LAYERNORM, *quick, f"trainer.max_epochs={epochs}")
        if not resume:
            runs.create(folder, to_container(cfg), [])
        fit(cfg, folder, resume)
        state = checkpoint_io.load(folder / "checkpoints/last.ckpt")["optimizer_states"][0]
        return [len(group["params"]) for group in state["param_groups"]]

    with monkeypatch.context() as first_edition:
        first_edition.setattr("repel.module.parameter_groups", partial(parameter_groups, named=False))
        before = group_sizes(tmp_path / "old", epochs=1)
    assert group_sizes(tmp_path / "old", epochs=2, resume=True) == before
    # a new one's class token and position embedding do not decay
    assert group_sizes(tmp_path / "new", epochs=1) == [before[0] - 2, before[1] + 2]
