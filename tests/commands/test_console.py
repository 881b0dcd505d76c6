"""The console command in process: it does what the root scripts do, and a mistake in its name has one line."""

import runpy
import sys

import pytest
from conftest import ROOT

from repel.base import installation
from repel.cli import main as console
from repel.engine import runs

SCRIPTS = {"train": "train.py", "evaluate": "evaluate.py", "embed": "embed.py", "export": "export.py"}
SCRIPTS |= {"show-views": "scripts/show_views.py", "mine-negatives": "scripts/mine_negatives.py"}
OTHERS = {  # which Hydra does not run
    "report": "report.py", "search": "search.py", "recommend": "recommend.py", "pack-shards": "pack_shards.py",
    "doctor": "doctor.py",
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_and_the_command_are_one_function(name):
    assert runpy.run_path(str(ROOT / SCRIPTS[name]))["main"] is console.COMMANDS[name]


@pytest.mark.parametrize("name", OTHERS)
def test_a_script_and_the_command_end_in_the_same_main(name, monkeypatch):
    monkeypatch.setattr("repel.base.signals.raise_on_signal", lambda: None)
    script = runpy.run_path(str(ROOT / "scripts" / OTHERS[name]))["main"]
    for module in ("cli.doctor", "cli.recommend", "cli.search", "cli.sweep_report", "images.pack_shards"):
        monkeypatch.setattr(f"repel.{module}.main", lambda module=module: module)
    monkeypatch.setattr(sys, "argv", ["repel", name])
    assert console.main() == script()


def test_the_name_is_taken_off(monkeypatch):
    called = []
    monkeypatch.setitem(console.COMMANDS, "train", lambda: called.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/repel", "train", "loss=ntxent", "-m", "#", "a", "comment"])
    console.main()
    assert called == [["/somewhere/bin/repel train", "loss=ntxent", "-m"]]
    assert runs.program() == ["repel", "train"]  # what a run's record and the hint after ^C say
    monkeypatch.setattr(sys, "argv", ["/somewhere/train.py", "loss=ntxent"])
    assert runs.program() == ["python", "train.py"]


def test_an_unknown_command_is_a_mistake(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["repel", "trian", "loss=ntxent"])
    with pytest.raises(SystemExit) as end:
        console.main()
    line = capsys.readouterr().err
    assert (end.value.code, line.count("\n")) == (2, 1)
    assert "error: unknown command trian; did you mean train?" in line


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 2), (["--help"], 0), (["-h"], 0), (["--help", "#", "a comment"], 0)]
)
def test_usage_names_every_command(arguments, status, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["repel", *arguments])
    with pytest.raises(SystemExit) as end:
        console.main()
    assert end.value.code == status
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name in console.COMMANDS:
        assert any(line[:1] == [name] and len(line) > 3 for line in lines), name


def test_an_extra_is_installed_from_the_checkout_or_by_its_packages(monkeypatch):
    assert ROOT == installation.CHECKOUT
    assert installation.install_extra("wandb") == "pip install -e '.[wandb]'"
    metadata = ["torch>=2.10", "wandb>=0.18; extra == 'wandb'", 'sqlalchemy<2; extra == "optuna"',
                "hydra-optuna-sweeper<1.4,>=1.3; extra == 'optuna'", "optuna; extra == 'optuna_more'"]  # fmt: skip
    monkeypatch.setattr(installation, "CHECKOUT", None)
    monkeypatch.setattr(installation, "requires", {"repel": metadata}.get)
    assert installation.install_extra("wandb") == "pip install 'wandb>=0.18'"
    assert installation.install_extra("optuna") == "pip install 'sqlalchemy<2' 'hydra-optuna-sweeper<1.4,>=1.3'"
