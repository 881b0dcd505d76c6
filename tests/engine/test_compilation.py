"""compile=true: what is compiled, under which names, how often, with which losses; what is not says so."""

import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY, config
from hydra.utils import instantiate
from lightning.pytorch import Callback
from plain_steps import losses_of, module_of
from runs_here import fitted, history, train
from torch._dynamo.utils import counters

from repel.engine import checkpoint_io
from repel.engine.build import build_module
from repel.engine.compilation import NETWORK, Compilation, _compiled, check_compiler
from repel.images.views import views as image_views

COMPILE = torch.compile
QUIET = ["callbacks.monitor=null", "callbacks.health=null"]


@pytest.fixture
def recorded(monkeypatch):
    """Calls of torch.compile, which then leaves functions as they are, and stances."""
    calls, stances = [], []

    def compile_(function, **options):
        calls.append((function.__name__, options))
        return lambda *args: function(*args)

    image_views._compiled_make.cache_clear()
    monkeypatch.setattr("torch.compile", compile_)
    monkeypatch.setattr("torch.compiler.set_stance", stances.append)
    yield SimpleNamespace(calls=calls, stances=stances)
    image_views._compiled_make.cache_clear()


def traced(function, options=None, **more):
    """torch.compile without its code generator, which takes a minute."""
    return COMPILE(function, backend="aot_eager", **more)


class Names(Callback):
    def on_train_end(self, trainer, module):
        self.own, self.state = [name for name in NETWORK if name in vars(module)], [*module.state_dict()]


@pytest.mark.parametrize("color", ["exact", "fused"])
def test_steps_are_compiled_under_the_same_names_and_validation_is_not(tmp_path, recorded, capsys, color):
    names = Names()
    module = fitted(tmp_path, *QUIET, "compile=true", "target=ema", "trainer.max_epochs=1", f"views.color={color}",
                    callback=names)  # fmt: skip
    network = {"dynamic": False, "options": {"fallback_random": True}}
    views = [("make", {"dynamic": False})] if color == "fused" else []
    assert sorted(recorded.calls, key=str) == sorted([*((name, network) for name in NETWORK), *views], key=str)
    assert names.own == [*NETWORK]
    assert names.state == [*build_module(config(*TINY, "target=ema")).state_dict()]
    assert not [name for name in NETWORK if name in vars(module)]  # afterwards it is what it was
    assert recorded.stances[:2] == ["force_eager", "default"]
    said = capsys.readouterr().out
    assert ("views.color=exact decides on the host" in said) == (color == "exact")
    assert ("encoder, heads and views" in said) == (color == "fused")


def test_where_padding_would_cost_more_than_compiling_gains_a_line_says_so(recorded, capsys):
    """What packs texts on a CPU does not where it is compiled."""
    trainer = SimpleNamespace(datamodule=SimpleNamespace(views=None), is_global_zero=True)
    for name, packs in (("transformer", True), ("bag", False)):
        Compilation().on_train_start(trainer, module_of(name))
        assert ("compile=false may be faster" in capsys.readouterr().out) == packs


def test_without_a_compiler_there_is_one_line(monkeypatch):
    def broken(function):
        raise RuntimeError("no g++\nand a page more")

    monkeypatch.setattr("torch.compile", broken)
    with pytest.raises(ValueError, match=r"compile=true: .*no g") as caught:
        check_compiler(torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["images", "bag", "transformer", "table", "lightgcn"])
def test_compiled_losses_are_those_of_before(name, monkeypatch):
    """Of 8 steps, whose texts have four lengths: these are compiled once, for any."""
    monkeypatch.setattr(
        "torch.compile", lambda function, options, **more: COMPILE(function, backend="aot_eager", **more)
    )
    module = module_of(name)
    plain = losses_of(copy.deepcopy(module), name, 8)
    torch._dynamo.reset()
    counters.clear()
    for function in NETWORK:
        setattr(module, function, _compiled(getattr(module, function)))
    torch.testing.assert_close(losses_of(module, name, 8), plain, rtol=1e-4, atol=1e-5)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == {"bag": 1, "transformer": 1, "images": 1, "table": 1}.get(name, graphs)
    assert graphs > 0


@pytest.mark.slow
def test_compiled_views_are_the_same_within_rounding(monkeypatch):
    """Traced, without the code generator; the last block of images is smaller than the others."""
    image_views._compiled_make.cache_clear()
    monkeypatch.setattr("torch.compile", traced)
    typed = ["views=multi_crop", "views.color=fused", "data=cifar10", "data.image_size=16"]
    views, usual = (instantiate(config(*typed).views) for _ in range(2))
    assert views.compile_views() == ""
    batch = torch.randint(0, 256, (70, 3, 16, 16), dtype=torch.uint8)
    params = views.draw(70, torch.Generator().manual_seed(0))
    for made, expected in zip(views.apply(batch, params)[:2], usual.apply(batch, params)[:2], strict=True):
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    image_views._compiled_make.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("typed", [[], ["data.micro_batch=5", "target=ema", "predictor=mlp"]])
def test_compiled_training_agrees_and_resumes_without(tmp_path, monkeypatch, typed):
    """The default by the code generator; micro-batches of two sizes, and a target, traced."""
    if typed:
        monkeypatch.setattr("torch.compile", traced)
    losses, typed = {}, ["views.color=fused", "trainer.max_epochs=1", "trainer.log_every_n_steps=1", *QUIET, *typed]
    for compiled in ("true", "false"):
        train(tmp_path / compiled, f"compile={compiled}", *typed)
        losses[compiled] = [float(row["train/loss"]) for row in history(tmp_path / compiled) if row["train/loss"]]
    assert losses["true"] == pytest.approx(losses["false"], abs=1e-3)
    assert losses["true"][0] == pytest.approx(losses["false"][0], abs=1e-4)  # later ones have been through Adam
    states = [checkpoint_io.load(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in losses]
    assert [*states[0]] == [*states[1]]
