"""resume= with other limits, devices, loggers: what a run goes on with, what it refuses, and what its record keeps."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ranks
import torch
from composing import composed
from conftest import ROOT, TINY, config, made_once, same, thinned
from runs_here import history, train
from stateful_runs import last, losses

from repel.cli.going_on import allowed_changes, typed_at_resume, with_options_of_run
from repel.engine import run_lock, runs
from repel.engine.configs import to_container
from repel.engine.resumed import differences, note_device, note_resume, undone_by_mistakes
from repel.model.optim import cosine

PLAIN = [*TINY, "evaluators=[]", "callbacks.monitor=null", "callbacks.health=null", "schedule.warmup_epochs=0"]
ELSEWHERE = [*PLAIN, "trainer.precision=64-true", "schedule=constant", "target=ema", "queue.size=40",
             "callbacks.knn=null"]  # fmt: skip
RATE = "lr-AdamW/pg1"


@pytest.fixture
def typed(monkeypatch, capsys):
    """`python train.py ...` in this process, without what is measured at its end: exit status, stdout and stderr."""
    import repel.cli.main

    monkeypatch.setitem(sys.modules, "repel.report.evaluate", SimpleNamespace(finish=lambda *_: 0.25))
    monkeypatch.setattr("repel.cli.command.raise_on_signal", lambda: None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        capsys.readouterr()
        try:
            repel.cli.main.train()
            status = 0
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """A run of two epochs of four steps, with the record that the command writes; not to be changed."""

    def make(cwd: Path) -> Path:
        folder = cwd / "run"
        train(folder, *PLAIN[len(TINY) :])
        runs.update_environment(folder, overrides=PLAIN, outcome="finished", objective=0.5)
        run_lock.unlock(folder)
        return folder

    return made_once(tmp_path_factory, "begun", make)


@pytest.fixture
def run(begun, tmp_path, monkeypatch):
    """A copy of it, elsewhere: its record has no path that would matter."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(begun, tmp_path / "copies/run")).relative_to(tmp_path)


def rates(folder: Path) -> list[float]:
    return [float(row[RATE]) for row in history(folder) if row[RATE]]


@pytest.mark.parametrize("on_extend", thinned(["stretch", "hold"], 2))
def test_a_finished_run_is_extended(typed, run, on_extend):
    """Its last step's rate was 0.0146 of the first; stretched, the next one is as if it had been to last that long."""
    status, out, err = typed(f"resume={run}", "trainer.max_epochs=3", f"schedule.on_extend={on_extend}")
    assert (status, err) == (0, "")
    assert out.count("note     training was to last 2 epochs") == 1
    assert out.count(f"schedule.on_extend={'hold' if on_extend == 'stretch' else 'stretch'}") == 1
    planned = 2.0 if on_extend == "hold" else 3.0
    expected = [3e-3 * cosine((step + 0.5) / 4, 0.0, planned if step >= 8 else 2.0, 0.0) for step in range(12)]
    assert rates(run) == pytest.approx(expected)
    assert [int(row["step"]) for row in history(run) if row["train/loss"]] == list(range(12))
    environment = runs.read_environment(run)
    assert (environment["outcome"], environment["objective"]) == ("finished", 0.25)
    assert environment["resumed"][0]["changes"] == {"trainer.max_epochs": 3, "schedule.on_extend": on_extend}
    assert last(run)["config"]["trainer"]["max_epochs"] == 3


EXTENSIONS = [  # limits; later ones
    (["trainer.max_epochs=25", "trainer.max_steps=6"], {"max_steps": 10}),
    (["trainer.max_epochs=-1", "trainer.max_steps=6"], {"max_steps": 10}),
    (["trainer.max_epochs=-1", "trainer.max_steps=8"], {"max_steps": 10}),
    (["trainer.max_epochs=2"], {"max_epochs": 3}),
    (["trainer.max_epochs=-1", "trainer.max_time=00:00:00:06"], {"max_time": "00:00:00:10"}),
    (["trainer.max_epochs=2", "trainer.max_steps=3", "trainer.accumulate_grad_batches=2"], {"max_steps": 4}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("limits", "later"), EXTENSIONS)
def test_an_extended_run_equals_one_that_never_stopped(tmp_path, monkeypatch, limits, later):
    """Bit for bit, also where the limit was in the middle of an epoch: with a constant rate there is no other end."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("repel.module.Contrastive.on_before_zero_grad", lambda *_: setattr(clock, "now", clock.now + 1))
    options = [*PLAIN[len(TINY) :], "schedule=constant", "callbacks.knn=null"]
    train(tmp_path / "run", *options, *limits)
    note_resume(tmp_path / "run", [], {f"trainer.{key}": value for key, value in later.items()})
    train(tmp_path / "run", resume=True)
    whole = [f"trainer.{key}={value}" for key, value in later.items()]
    train(tmp_path / "whole", *options, *limits, *whole)
    one, two = (last(tmp_path / name) for name in ("run", "whole"))
    assert one["global_step"] == two["global_step"]
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(one[part], two[part]), part
    kept = [[(r["step"], r["epoch"], r["train/loss"], r["val/loss"]) for r in history(tmp_path / n) if r["train/loss"]]
            for n in ("run", "whole")]  # fmt: skip
    assert kept[0] == kept[1]


REFUSED = {
    "seed=3": ["leave out seed=3", "init=copies/run seed=3"],
    "loss=supcon trainer.max_epochs=9": ["leave out loss=supcon,", "init="],
    "experiment=moco": ["leave out experiment=moco", "init="],
    "data.batch_size=8": ["leave out data.batch_size=8"],
    "~callbacks.knn": ["leave out '~callbacks.knn'"],
    "trainer.precision=bf16-mixed": ["leave out trainer.precision=bf16-mixed"],
    "name=other": ["leave out name=other"],
    "evaluators=[linear]": ["evaluate.py ckpt=copies/run", "evaluators=[linear]"],
    "trainer.max_epochs=1": ["trainer.max_epochs=1", "as long already", "later end, or leave it out"],
    "trainer.max_steps=20": ["trainer.max_epochs=2", "as long already", "later end, too: trainer.max_epochs="],
}


@pytest.mark.parametrize("options", thinned(REFUSED, 3))
def test_what_would_change_what_is_computed_is_refused(run, monkeypatch, options):
    monkeypatch.setattr("repel.cli.going_on.whole", composed)
    typed = options.split()
    before = [o for o in PLAIN if o.split("=")[0] not in [option.lstrip("~").split("=")[0] for option in typed]]
    cfg = composed("train", [*before, f"resume={run}", *typed])
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        allowed_changes(cfg, run, [f"resume={run}", *typed], run.resolve())
    assert all(word in str(caught.value) for word in REFUSED[options]), str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("trainer.devices=3", ["data.batch_size=16", "3 ranks"]),
        pytest.param("seed=3", ["leave out seed=3"], marks=pytest.mark.slow),
        pytest.param("data.root=elsewhere", ["data_root=FOLDER"], marks=pytest.mark.slow),
        pytest.param("init=elsewhere", ["type one of them"], marks=pytest.mark.slow),
        pytest.param("trainer.devicez=3", ["did you mean trainer.devices?"], marks=pytest.mark.slow),
        pytest.param("hydra.run.dir=other", ["leave out -m and hydra.run.dir"], marks=pytest.mark.slow),
    ],
)
def test_a_refused_option_leaves_the_record_as_it_was(typed, run, options, words):
    before = (run / "environment.json").read_text(encoding="utf-8")
    status, _, err = typed(f"resume={run}", *options.split())
    assert (status, err.count("\n")) == (2, 1), err
    assert err.startswith("error: ")
    assert all(word in err for word in words), err
    assert (run / "environment.json").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("again", [[], ["data=array", "data.root=old.npy"]])
def test_arrays_that_have_moved_are_found_before_their_shape_is_asked_for(tmp_path, monkeypatch, again):
    """data=array reads size and channels from its file as soon as the config is composed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("repel.cli.going_on.whole", composed)
    np.save("old.npy", np.zeros((6, 8, 10), np.uint8))
    options = [*PLAIN, "data=array", "data.root=old.npy"]
    runs.create(tmp_path / "run", to_container(composed("train", options)), options)
    runs.unlock(tmp_path / "run")
    Path("old.npy").rename("a, b.npy")
    arguments = with_options_of_run(["resume=run", "data_root='a, b.npy'", "trainer.devices=2", "compile=true", *again])
    cfg = composed("train", arguments)
    assert to_container(cfg)["data"]["image_size"] == [8, 10]
    changes = allowed_changes(cfg, tmp_path / "run", typed_at_resume(arguments), tmp_path / "run")
    assert changes == {"trainer.devices": 2, "compile": True}
    runs.move_data(tmp_path / "run", "a, b.npy")  # and later, without data_root=
    assert (
        to_container(composed("train", with_options_of_run(["resume=run", "trainer.devices=2"])))["data"]["channels"]
        == 1
    )


@pytest.mark.slow
def test_what_the_run_has_already_may_be_typed_again(typed, run):
    """The command that started it, with resume= added; and loggers that go and come."""
    status, out, err = typed(*PLAIN, f"resume={run}", "logger.tensorboard=null", "trainer.max_epochs=3")
    assert (status, err) == (0, "")
    assert "from step 8" in out
    kept = runs.read_environment(run)
    assert kept["resumed"][0]["changes"]["logger"] == {
        "tensorboard": None,
        "csv": runs.read_config(run)["logger"]["csv"],
    }
    assert kept["resumed"][0]["overrides"] == [
        f"resume={run}",
        *PLAIN,
        "logger.tensorboard=null",
        "trainer.max_epochs=3",
    ]


def test_a_mistake_before_the_first_step_leaves_the_record_as_it_was(run):
    before = runs.read_environment(run)
    note_resume(run, [], {"trainer.devices": 99})
    with pytest.raises(ValueError, match="99"), undone_by_mistakes(run, before):
        raise ValueError("99 devices")
    assert runs.read_environment(run) == before


def test_a_failure_after_the_first_step_does_not(run):
    """A crash, or an unreadable image: the checkpoints are those of the run as it was changed."""

    def fail(error: Exception, saved: bool) -> None:
        if saved:
            (run / "checkpoints/last.ckpt").touch()
        raise error

    for error, saved in ((RuntimeError("crash"), False), (ValueError("an image"), True)):
        note_resume(run, [], {})
        with pytest.raises(type(error)), undone_by_mistakes(run, {}):
            fail(error, saved)
    assert len(runs.read_environment(run)["resumed"]) == 2


def test_other_threads_are_said_and_both_records_kept(run):
    first = runs.read_environment(run)
    note_resume(run, ["resume=run"], {})
    note_device(run, "2 x cpu, 3 threads", resume=True)
    here = first["device"]
    assert differences(run) == f"on 2 x cpu, 3 threads ({here} before)"
    note_resume(run, ["resume=run"], {})
    note_device(run, "2 x cpu, 3 threads", resume=True)
    assert differences(run) == ""
    kept = runs.read_environment(run)
    assert (kept["device"], kept["overrides"]) == (here, first["overrides"])
    assert [(r["device"], r["overrides"]) for r in kept["resumed"]] == [("2 x cpu, 3 threads", ["resume=run"])] * 2
    runs.update_environment(run, device="1 x cpu", packages=first["packages"] | {"torch": "1.0"}, resumed=[])
    note_device(run, "1 x cpu", resume=True)  # in Python, without the command
    assert differences(run) == f"torch {first['packages']['torch']} (1.0 before)"


@pytest.mark.slow
def test_a_mistake_that_shows_later_and_other_threads_by_the_command(typed, run):
    before = runs.read_environment(run)
    status, _, err = typed(f"resume={run}", "trainer.accelerator=gpu", "trainer.max_epochs=3")
    assert (status, "trainer.accelerator=gpu" in err) == (2, True)
    assert runs.read_environment(run) == before
    runs.update_environment(run, device="1 x cpu, 7 threads")
    status, out, _ = typed(f"resume={run}")
    assert (status, out.count(f"not bit for bit: on {before['device']} (1 x cpu, 7 threads before)\n")) == (0, 1)
    assert "not bit for bit" not in typed(f"resume={run}")[1]


def test_where_and_how_long_it_goes_on_may_change(run, monkeypatch):
    """Also of data that the default is not, whose reader has the option a second time."""
    monkeypatch.setattr("repel.cli.going_on.whole", composed)
    begun = ["data=image_folder", "data.root=images", "data.workers=0", "trainer.max_epochs=25"]
    runs.update_environment(run, overrides=[*begun, "trainer.devices=1"])
    elsewhere = ["trainer.devices=8", "trainer.accelerator=gpu", "data.workers=2", "data.device_cache=false"]
    cfg = composed("train", [*begun, f"resume={run}", *elsewhere])
    assert allowed_changes(cfg, run, [f"resume={run}", *elsewhere], run.resolve()) == {
        "trainer.devices": 8, "trainer.accelerator": "gpu", "data.workers": 2, "data.datamodule.read.workers": 2,
        "data.device_cache": False, "data.datamodule.device_cache": False,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, first, then):
    """Queue, target, order, draws and steps of the optimizer are as in the run that stayed: losses, within rounding."""
    options = [*ELSEWHERE, "trainer.max_epochs=2"]
    assert (
        ranks.run(config(*options, f"trainer.devices={first}", "trainer.max_steps=3"), tmp_path / "run") == [0] * first
    )
    changes = {"trainer.devices": then, "trainer.max_steps": 8, "schedule.on_extend": "stretch"}
    note_resume(tmp_path / "run", [], changes)
    cfg = config(*options, f"trainer.devices={then}")
    assert ranks.run(cfg, tmp_path / "run", resume=True) == [0] * then
    train(tmp_path / "whole", *options[len(TINY) :], "trainer.max_steps=8")
    found, expected = (losses(tmp_path / name) for name in ("run", "whole"))
    assert found.keys() == expected.keys() == set(range(8))
    for step, loss in expected.items():
        assert float(found[step]) == pytest.approx(float(loss), abs=1e-12), step
    one, two = (last(tmp_path / name)["state_dict"] for name in ("run", "whole"))
    assert one.keys() == two.keys()
    for name, tensor in two.items():
        torch.testing.assert_close(one[name], tensor, rtol=0, atol=1e-12, msg=name)
