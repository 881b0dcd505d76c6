"""What people type who know Lightning and Hydra: docs/habits.md says what it does here, and so it does."""

import ast
import inspect
import re
import signal
import subprocess
import sys

import pytest
from composing import composed
from conftest import CONF, ROOT, TINY, command, config, thinned
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from repel.base.signals import ends_on_signal
from repel.cli import trainer_options
from repel.cli.arguments import overrides_of, parsed, spelled_for_hydra
from repel.cli.checks import check
from repel.cli.help import help_page
from repel.cli.hydra_errors import config_mistake, explain
from repel.cli.names import check_names, respelled
from repel.cli.suggestions import nearest
from repel.engine import runs

PAGE = (ROOT / "docs/habits.md").read_text(encoding="utf-8").partition("## Sixty lines")[2]
HABITS = dict(re.findall(r"^\| `(.+?)` \| (.+) \|$", PAGE, re.MULTILINE))


def answer(typed: str, monkeypatch) -> str:
    """The line that train.py prints to stderr before it trains; empty where it would train, or show its config."""
    arguments = typed.split()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        arguments = respelled("train", spelled_for_hydra(arguments))
        sys.argv[1:] = arguments
        check_names("train", arguments)
        options = overrides_of(arguments)
        if "-m" in arguments:
            options = [option.partition(",")[0] for option in options]  # the first job
        elif any(parsed(option).is_sweep_override() for option in options):
            with initialize_config_dir(str(CONF), version_base="1.3"):
                compose("train", overrides=options)
        cfg = composed("train", options, hydra=True)
        HydraConfig.instance().set_config(cfg)
        cfg._set_flag("struct", False)
        del cfg["hydra"]
        check(cfg, "train")
    except AssertionError as error:  # as the command has it
        return f"the options of Hydra do not fit: {error}; --cfg hydra shows them"
    except Exception as error:
        return explain(error, "train")[1] if not isinstance(error, ValueError) else config_mistake(error, "train")
    return ""


@pytest.mark.parametrize("typed", thinned(HABITS, 7))
def test_what_the_page_says(typed, monkeypatch):
    line, here = answer(typed, monkeypatch), HABITS[typed]
    assert "\n" not in line
    if here == "works":
        assert line == ""
    for words in re.findall(r"`([^`]+)`", here) or [here] * (here != "works"):
        assert words in line, line


def test_the_page_is_long_enough():
    assert len(HABITS) > 60


def test_every_argument_of_lightnings_trainer_has_a_place():
    from lightning.pytorch import Trainer

    arguments = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    set_here = {key.removeprefix("trainer.") for key in trainer_options.RANGES}
    assert set_here | trainer_options.REFUSED.keys() == arguments
    assert not set_here & trainer_options.REFUSED.keys()
    assert not trainer_options.EARLIER.keys() & arguments
    conf = OmegaConf.load(ROOT / "conf/trainer/default.yaml")
    assert {f"trainer.{key}" for key in conf} == {*trainer_options.RANGES, "trainer._target_"}
    for key, (holds, words) in trainer_options.RANGES.items():
        default = OmegaConf.select(conf, key.removeprefix("trainer."))
        assert "null" in words if default is None else holds(default), key


@pytest.mark.parametrize(("key", "good", "bad"), [
    ("fast_dev_run", [True, 3], [0, -1, "no", 1.5]), ("limit_val_batches", [0, 0.0, 1, 0.5], [-1, 1.5, True]),
    ("val_check_interval", [1, 0.25], [0, 0.0, 1.5, "00:00:10:00"]), ("num_sanity_val_steps", [-1, 0, 2], [-2, 0.5]),
    ("profiler", ["simple", OmegaConf.create({"_target_": "a.B"})], ["xla"]), ("deterministic", ["warn"], ["yes"]),
    ("check_val_every_n_epoch", [2], [0, 0.5]), ("gradient_clip_algorithm", ["value"], ["l2"]),
])  # fmt: skip
def test_values_of_the_trainers_options(key, good, bad):
    holds = trainer_options.RANGES[f"trainer.{key}"][0]
    assert all(map(holds, good))
    assert not any(map(holds, bad))


@pytest.mark.parametrize(("options", "words"), [
    ({"limit_val_batches": 0, "num_sanity_val_steps": 2}, "num_sanity_val_steps"),
    ({"check_val_every_n_epoch": None}, "val_check_interval=BATCHES"),
    ({"max_epochs": -1}, "without an end"), ({"barebones": True}, "callbacks=none logger=none"),
])  # fmt: skip
def test_options_of_the_trainer_that_contradict_one_another(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        trainer_options.check_trainer(OmegaConf.create(options))


def test_names_that_are_not_near_are_not_suggested():
    known = ["trainer.limit_val_batches", "trainer.devices", "optimizer.lr", "loss.temperature"]
    assert nearest("trainer.amp_backend", known) == ""
    assert nearest("trainer.devicez", known) == "; did you mean trainer.devices?"
    assert nearest("lr", known) == "; did you mean optimizer.lr?"
    assert nearest("SGD", ["adam", "sgd"]) == "; did you mean sgd?"


def test_help_fits_a_screen_and_shows_a_group_on_request(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    monkeypatch.setenv("COLUMNS", "100")
    lines = help_page("train", ["--help"]).splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100
    assert "fast_dev_run: false # true, or" in help_page("train", ["--help", "trainer"])
    assert "_target_: repel.losses" in help_page("train", ["--help", "loss=barlow"])
    for typed in ("los", "loss=barlo"):
        with pytest.raises(ValueError, match="did you mean"):
            help_page("train", ["--help", typed])


SCRIPTS = sorted(
    [*(ROOT / "scripts").glob("[!_]*.py"), *(ROOT / f"{n}.py" for n in ("train", "evaluate", "embed", "export"))]
)


def test_a_script_that_is_interrupted_ends_without_a_traceback(monkeypatch, capsys):
    monkeypatch.setattr("repel.base.signals.SIGNALS", (signal.SIGINT,))  # whose handler conftest.py sets back
    assert ends_on_signal(lambda: signal.raise_signal(signal.SIGINT))() == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_ends_so(script):
    """While it imports what takes seconds, too; and its exit status tells."""
    text = script.read_text(encoding="utf-8")
    statements = ast.parse(text).body
    begins = ["from repel.base.scripts import begin_script", "begin_script(__name__)"]
    assert [ast.unparse(statement) for statement in statements[1:3]] == begins
    if "def main" in text:
        assert "@ends_on_signal\ndef main" in text
        assert 'if __name__ == "__main__":\n    sys.exit(main())\n' in text
    else:
        assert "from repel.cli.main import" in text  # a command, whose signals are tested elsewhere


def test_a_script_that_is_interrupted_while_it_imports(tmp_path):
    """And a comment behind the arguments is left out, which zsh passes on."""
    (tmp_path / "slow.py").write_text("import os, signal, sys\nprint(sys.argv[1:], flush=True)\n"
                                      "os.kill(os.getpid(), signal.SIGINT)\n", encoding="utf-8")  # fmt: skip
    (tmp_path / "script.py").write_text("from repel.base.scripts import begin_script\nbegin_script(__name__)\n"
                                        "import slow\n", encoding="utf-8")  # fmt: skip
    typed = [sys.executable, str(tmp_path / "script.py"), "seed=1", "#", "a", "comment"]
    ended = subprocess.run(typed, capture_output=True, encoding="utf-8", timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, "['seed=1']\n", "")


def test_fast_dev_run_leaves_nothing_and_takes_nothing(tmp_path, monkeypatch, capsys):
    from repel.cli import main

    def begin(cfg, folder):
        runs.create(folder, {}, [])
        return cfg, "new"

    folder, working = tmp_path / "run", tmp_path / "working"
    (working / "data").mkdir(parents=True)
    monkeypatch.setattr(main, "prepare_run", begin)
    monkeypatch.setattr("repel.engine.launch.launch", lambda cfg, folder, resume: None)
    for place in (folder, working):  # the latter as with hydra.run.dir=.
        assert main.train.__wrapped__(config("trainer.fast_dev_run=2"), place) is None
        assert "nothing was kept" in capsys.readouterr().out
    assert not folder.exists()
    assert [path.name for path in working.iterdir()] == ["data"]


@pytest.mark.slow
def test_fast_dev_run_by_command(tmp_path):
    """It leaves nothing, and shows no table."""
    result = command("train.py", *TINY, "trainer.fast_dev_run=true", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "nothing was kept" in result.stdout.splitlines()[-1]
    assert "epoch 1/1" in result.stdout
    assert "kNN top-1" not in result.stdout
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
