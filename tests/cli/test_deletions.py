"""~KEY of every key of the default config: it works, or one line says why not."""

import pytest
import torch
from composing import composed
from conftest import TINY
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from runs_here import status

from repel.cli.deletions import check_deletions
from repel.cli.hydra_errors import config_mistake, explain
from repel.engine.outcomes import MISTAKE
from repel.model.optim import parameter_groups

QUICK = [*TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=1", "trainer.max_steps=1"]


def keys(cfg: DictConfig, prefix: str = ""):
    """Dotted keys that are not null, groups included: Hydra takes a null for a key that is not there."""
    for name, value in cfg.items_ex(resolve=False):
        if value is not None:
            yield f"{prefix}{name}"
            if isinstance(value, DictConfig) and not value._is_interpolation() and not value._is_none():
                yield from keys(value, f"{prefix}{name}.")


def judged(name: str) -> dict[str, str]:
    """Key -> the line that refuses its deletion, or nothing."""
    cfg, lines = composed(name, []), {}
    for key in keys(cfg):
        try:
            list(check_deletions(cfg, cfg, [f"~{key}"]))
            lines[key] = ""
        except ValueError as error:
            lines[key] = str(error)
    return lines


@pytest.mark.parametrize("name", ["train", "evaluate", "embed", "export"])
def test_every_key_may_be_left_out_or_is_needed(name):
    lines = judged(name)
    refused = {key: line for key, line in lines.items() if line}
    assert refused
    assert all(line.startswith(f"~{key}: {key} is needed; ") and "\n" not in line for key, line in refused.items())
    if name == "train":
        kept = {
            "seed",
            "data",
            "queue.size",
            "trainer.devices",
            "optimizer",
            "optimizer._target_",
            "callbacks",
            "target",
        }
        assert kept <= refused.keys()
        assert lines["callbacks"].endswith("; type callbacks=none, or ~callbacks.NAME for one")
        assert lines["target"].endswith("; target=none leaves it out")
        assert lines["head"].endswith("; choose one of: identity, linear, mlp")
        assert {"optimizer.weight_decay", "callbacks.progress", "loss.temperature"} <= lines.keys() - refused.keys()


def test_all_that_may_be_left_out_at_once(tmp_path, capsys):
    cfg = composed("train", [])
    free = [key for key, line in judged("train").items() if not line and key != "callbacks.last"]
    free = [key for key in free if OmegaConf.select(cfg, key) is not None]  # some refer to a null
    deepest = [key for key in free if not any(other.startswith(f"{key}.") for other in free)]
    kept = (
        "logger.",
        "evaluators.linear",
        "trainer.limit",
        "trainer.max_epochs",
        "data.tasks",
    )  # without the limits: 1000 whole epochs
    deepest = [key for key in deepest if not key.startswith(kept)]
    typed = [o for o in QUICK if o.partition("=")[0] not in deepest and not o.startswith(("callbacks", "evaluators"))]
    assert status(tmp_path, *typed, *(f"~{key}" for key in deepest)) == (0, "")
    assert "note     ~optimizer.weight_decay: AdamW's own default holds, 0.01\n" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "words"), [
    ("~callbacks.last", ["callbacks.last", "keep it"]),
    ("~schedule.warmup_epochs", ["set it instead, schedule.warmup_epochs="]),
    ("+callbacks.mine={_target_:lightning.pytorch.callbacks.Timer} ~trainer.precision", ["~trainer.precision"]),
])  # fmt: skip
def test_what_is_needed(tmp_path, typed, words):
    code, line = status(tmp_path, *typed.split())
    assert code == MISTAKE
    assert all(word in line for word in words)


@pytest.mark.parametrize(("typed", "line"), [
    ("~resume", "~resume: it is null, there is nothing to leave out"),
    ("~evaluators", "~evaluators: name those to keep, evaluators=[...]"),
    ("~callbacks.progres", "unknown option callbacks.progres; did you mean callbacks.progress?"),
    ("~data", "needed: an option of data and of views"),
])  # fmt: skip
def test_what_hydra_refuses(typed, line, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", typed])
    with pytest.raises(HydraException) as caught:
        composed("train", [typed])
    assert config_mistake(caught.value, "train") == line


def test_a_key_that_a_config_of_ones_own_lacks_is_named_in_full():
    cfg = composed("train", [])
    del cfg.trainer.devices
    with pytest.raises(Exception) as caught:  # noqa: PT011
        _ = cfg.trainer.devices
    assert explain(caught.value, "train") == (MISTAKE, "trainer.devices is missing from the config")


def test_an_optimizer_without_weight_decay():
    module = torch.nn.Linear(2, 2)
    weights, biases = torch.optim.AdamW(parameter_groups([module], None)).param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (0.01, 0.0)
    torch.optim.Rprop(parameter_groups([module], None)).step()


@pytest.mark.slow
def test_one_at_a_time(tmp_path):
    """What other parts may rely on: one that is missing alone is not hidden by another that is missing too."""
    groups = ("callbacks", "logger", "optimizer", "trainer")
    free = [key for key, line in judged("train").items() if not line and key.startswith(groups)]
    assert len(free) > 15
    for number, key in enumerate(key for key in free if key != "callbacks.last"):
        typed = [o for o in QUICK if not o.startswith(key)]
        assert status(tmp_path / str(number), *typed, f"~{key}") == (0, ""), key
