"""scripts/gpu_evidence.py: a dry run on the CPU, what it compares, and how its time is divided."""

import importlib
import json
import os
import subprocess
import time

import pytest
import torch
from composing import composed
from conftest import ROOT, options
from loss_cases import merged
from omegaconf import OmegaConf
from pair_runs import make_log


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("gpu_evidence")


@pytest.fixture
def part(script):
    """A module of its steps by name."""
    return lambda name: importlib.import_module(f"_gpu_{name}")


@pytest.fixture
def given(part):
    return part("steps").Given("cpu", tiny=True, ends=time.monotonic() + 600)


RESULT = {"sections": [], "agrees": None, "complete": True, "seconds": 1.0, "seed": 1, "device": "cpu", "name": "CPU",
          "driver": "-", "versions": "torch"}  # fmt: skip
DRY = ["--device", "cpu", "--tiny"]


@pytest.fixture
def made(script, monkeypatch):
    """Which steps were made, in place of making them; `answers` says what they found."""
    calls, answers = [], {}

    def instead(name, seconds, typed):
        calls.append((name, seconds))
        return answers.get(name, RESULT)

    monkeypatch.setattr(script, "make_apart", instead)
    return calls, answers


def test_steps_that_are_done_are_skipped_and_repeated_where_asked(script, made, tmp_path):
    calls, answers = made
    answers["rivals"] = {"failed": "it broke"}
    typed = [*DRY, "--folder", str(tmp_path)]
    assert script.main(typed) == 1
    assert [name for name, _ in calls] == list(script.STEPS)
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "failed: it broke" in page
    assert str(tmp_path) not in page
    calls.clear()
    answers.clear()
    assert script.main([*typed, "--again", "speed"]) == 0
    assert [name for name, _ in calls] == ["speed", "rivals"]
    calls.clear()
    assert script.main(typed) == 0
    assert not calls


def test_the_page_is_written_after_every_step(script, monkeypatch, tmp_path):
    seen = []

    def look(name, seconds, typed):
        pages = list(tmp_path.glob("gpu.md"))
        seen.append(pages[0].read_text(encoding="utf-8").count("Not run yet.") if pages else None)
        return RESULT

    monkeypatch.setattr(script, "make_apart", look)
    script.main([*DRY, "--folder", str(tmp_path)])
    assert seen == [None, 5, 4, 3, 2, 1]


def test_what_is_out_of_tolerance_is_exit_status_1(script, made, tmp_path):
    made[1]["agreement"] = RESULT | {"agrees": False}
    assert script.main([*DRY, "--folder", str(tmp_path)]) == 1
    assert script.main([*DRY, "--folder", str(tmp_path)]) == 1  # also when nothing is left to do


def test_a_step_for_which_there_is_no_time_is_left_out_and_made_the_next_time(script, made, tmp_path):
    calls, _ = made
    typed = [*DRY, "--folder", str(tmp_path)]
    assert script.main([*typed, "--minutes", "2.5"]) == 0  # two minutes and a half, of which no step takes any here
    assert sorted({*script.STEPS} - {name for name, _ in calls}) == ["cifar"]
    assert "left out: it needs 180 s, and 150 s are left" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    calls.clear()
    script.main(typed)
    assert [name for name, _ in calls] == ["cifar"]


def test_the_time_that_is_left_is_divided_among_the_steps_that_wait(script, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(script.time, "monotonic", lambda: clock[0])
    given = {}

    def run(name, seconds):
        given[name] = seconds
        clock[0] += seconds
        return RESULT

    script.make_steps(list(script.STEPS), 1500.0, run, lambda name, result: None)
    assert sum(given.values()) == pytest.approx(1500)
    assert given == pytest.approx({name: 60 * step.share for name, step in script.STEPS.items()})


@pytest.mark.parametrize(
    ("typed", "words"),
    [(["--tiny", "--device", "cpu"], "--tiny needs --folder"),
     (["--device", "cpu", "--cifar", "nowhere"], "there is no such folder")],
)  # fmt: skip
def test_a_mistake_is_one_line(script, capsys, typed, words):
    with pytest.raises(SystemExit) as ended:
        script.main(typed)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_without_an_accelerator_the_dry_run_is_named(script, capsys, monkeypatch):
    monkeypatch.setattr(script.torch.accelerator, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        script.main([])
    assert "--device cpu --tiny" in capsys.readouterr().err


def test_losses_that_differ_are_not_within(part, given, monkeypatch):
    agreement = part("agreement")
    section, agree = agreement.compare_losses(["ntxent"], given)
    assert agree
    assert section.rows == [["ntxent", *["0e+00"] * 4, "yes"]]
    honest, calls = agreement.loss_results, []

    def second_one_differs(*arguments):
        calls.append(arguments)
        found = honest(*arguments)
        return found if len(calls) % 2 else found | {"gradient": found["gradient"] * (1 + 1e-8)}

    monkeypatch.setattr(agreement, "loss_results", second_one_differs)
    section, agree = agreement.compare_losses(["ntxent"], given)
    assert not agree
    assert section.rows[0][1:] == ["0e+00", "1e-08", "0e+00", "0e+00", "**no**"]


def test_every_loss_and_preset_is_compared(part):
    agreement = part("agreement")
    kinds = {name: agreement.kind_of_views(name) for name in agreement.choices("views")}
    assert {"images", "text", "interactions"} == set(kinds.values())
    assert (kinds["simclr"], kinds["sgl"], kinds["mask"]) == ("images", "interactions", "text")
    assert {"ntxent", "joint", "vicreg"} < set(agreement.choices("loss"))


def test_views_of_other_draws_are_not_within(part, given, monkeypatch):
    agreement = part("agreement")
    section, agree = agreement.compare_all_views(["simclr"], given)
    assert agree
    assert section.rows == [["simclr", "images", "0e+00", "yes"]]
    seeds = iter(range(100))
    monkeypatch.setattr(agreement.seeding, "generator", lambda *_: torch.Generator().manual_seed(next(seeds)))
    _, agree = agreement.compare_all_views(["simclr"], given)
    assert not agree


@pytest.mark.slow
def test_a_run_is_timed_window_by_window(part, given):
    speed = part("speed")
    plan = speed.Plan(warm=1, windows=2, length=2, waits=1)
    found = speed.measure_run("default", given, plan)
    assert len(found.seconds) == 2
    assert len(found.losses) == plan.steps == 6
    assert found.waits is None  # of a CPU nothing is counted


def test_the_gap_of_two_curves_is_that_of_their_windows(part):
    speed = part("speed")
    assert speed.largest_gap([4.0, 2.0, 1.0, 1.0, 9.0], [2.0, 4.0, 1.0, 1.2, 0.0], window=2) == pytest.approx(0.1)
    assert not speed.largest_gap([1.0], [float("nan")], window=1) <= speed.BAND


@pytest.mark.slow
def test_a_rival_that_is_not_installed_is_a_line(part, given, monkeypatch):
    rivals = part("rivals")
    monkeypatch.setattr(rivals, "find_spec", lambda name: None)
    found = rivals.time_losses(16, given, rounds=1)
    assert set(found) == {"repel", "repel-hcl", "repel-infonce"}
    assert rivals.loss_row(16, "open_clip", found)[2] == "skipped: open_clip is not installed"
    assert rivals.check_values(found)
    assert not rivals.check_values({"repel": {"value": 1.0}, "lightly": {"value": 1.001}})


def test_the_time_to_a_goal_is_that_of_the_first_epoch_that_reached_it(part):
    runs = part("runs")
    epochs = [{"epoch": n + 1, "seconds": 10.0 * n, "val/knn_top1": value} for n, value in enumerate((0.7, 0.84, 0.83))]
    assert runs.first_time(epochs, "val/knn_top1", 0.832) == "10 s, epoch 2"
    assert runs.first_time(epochs, "val/knn_top1", 0.9) == "not reached: at most 0.8400 in 3 epochs"
    assert runs.clock_time(3723.9) == "00:01:02:03"


STUCK = """
import signal, subprocess, sys
if len(sys.argv) == 2:
    pipe = open(sys.argv[1], "w")
    print("started", file=pipe, flush=True)
    signal.pause()
subprocess.run([sys.executable, __file__, {pipe!r}])
"""


def test_a_step_that_does_not_end_is_killed_with_what_it_started(script, monkeypatch, tmp_path):
    stuck, pipe = tmp_path / "stuck.py", tmp_path / "pipe"
    os.mkfifo(pipe)
    held = []

    def too_long(process, timeout):
        held.append(pipe.open(encoding="utf-8"))
        assert held[0].readline() == "started\n"
        raise subprocess.TimeoutExpired("", timeout)

    stuck.write_text(STUCK.format(pipe=str(pipe)), encoding="utf-8")
    monkeypatch.setattr(script, "__file__", str(stuck))
    monkeypatch.setattr(script.subprocess.Popen, "communicate", too_long)
    assert script.make_apart("speed", 7, []) == {"failed": "it was not done after 7 s"}
    assert held[0].read() == ""  # comes when nobody holds the other end


@pytest.mark.slow
def test_all_losses_and_views_are_compared(part, given, monkeypatch):
    """The step `agreement`, but that what is chosen is put into configs that are composed once a kind of data."""
    agreement = part("agreement")

    def resolved_config(*typed: str):
        chosen = next(word for word in typed if word.startswith(("loss=", "views=")))
        group, name = chosen.split("=")
        cfg = composed("train", [word for word in typed if word != chosen])
        cfg._set_flag("struct", False)
        cfg[group] = merged(group, name)
        return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))

    monkeypatch.setattr(agreement, "resolved_config", resolved_config)
    found = agreement.agreement(given)
    assert found.agrees, found
    losses, views = ([row[0] for row in section.rows] for section in found.sections)
    assert (losses, views) == (options("loss"), options("views"))


@pytest.mark.slow
def test_a_dry_run_makes_its_steps(script, tmp_path, monkeypatch):
    """One of them, by its command; the functions of all are tested above, and a dry run of all takes minutes."""
    monkeypatch.setattr(script, "STEPS", {"gowalla": script.STEPS["gowalla"]})
    log = make_log(tmp_path / "log")  # in place of the bundled one, whose baselines take longer
    status = script.main([*DRY, "--folder", str(tmp_path), "--gowalla", str(log)])
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert status == 0, results
    assert list(results) == list(script.STEPS)
    assert all(script.done(result) for result in results.values())
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "ndcg_at_20" in page


def test_the_page_that_is_kept_is_what_was_found(script):
    stored = ROOT / "docs/benchmarks/gpu.json"
    results = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}
    assert (ROOT / "docs/benchmarks/gpu.md").read_text(encoding="utf-8") == script.page(results)
