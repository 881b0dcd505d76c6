"""conf/ as a whole: every experiment builds, every option of every group is tested, every target exists."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny_graphs
import torch
from composing import composed
from conftest import CONF, ROOT, config, options, options_of, thinned
from hydra.utils import instantiate
from omegaconf import OmegaConf
from runs_here import status
from text_runs import text_info


@pytest.mark.parametrize("name", thinned(options("experiment"), 3))
def test_experiments_compose_and_build(name, tmp_path):
    from repel.data.samples import give_info
    from repel.engine.build import build_module

    changes = ["encoder.weights=null"] if name == "founding" else []  # the weights would be downloaded
    if "override /data: text_csv" in (CONF / f"experiment/{name}.yaml").read_text(encoding="utf-8"):
        changes += ["data.root=texts.csv"]  # the user's own
    if name == "gist":
        np.savez(tmp_path / "guide.npz", ids=np.array([1]), embeddings=np.ones((1, 2)))
        changes += [f"negatives.embeddings={tmp_path}/guide.npz"]
    cfg = config(f"experiment={name}", *changes)
    module = build_module(cfg)
    if "image_size" in cfg.data:
        x = torch.randn(2, cfg.data.channels, cfg.data.image_size, cfg.data.image_size)
    elif name in options_of("experiment", "interactions"):
        x = torch.tensor([[0, 0], [tiny_graphs.NODES - 1, 0]])
        module.eval()  # in training an encoder may have to know which nodes are pairs
        give_info(module, replace(tiny_graphs.info(), negatives=cfg.views.get("negatives", 0)))
    else:
        x = torch.tensor([[3, 1, 0], [1, 0, 0]])
        give_info(module, text_info(4))
    assert module.head(module(x)).shape == (2, cfg.head.out_features)


@pytest.mark.parametrize("name", thinned(options("data_views"), 2))
def test_views_made_for_a_dataset_are_used_with_it_alone(name):
    data = next(d for d in sorted(options("data"), key=len, reverse=True) if name.startswith(d))
    views = name.removeprefix(f"{data}_")
    special, usual = config(f"data={data}", f"views={views}"), config("data=cifar10", f"views={views}")
    assert special.views.augmentation.gamma == 3.0
    assert usual.views.augmentation.gamma == 0.0
    changed = config(f"data={data}", f"views={views}", "views.augmentation.gamma=1.0")
    assert changed.views.augmentation.gamma == 1.0  # what is typed wins


@pytest.mark.parametrize("group", sorted(p.name for p in CONF.iterdir() if p.is_dir()))
def test_every_option_of_every_group_is_tested(group):
    """A group that no test globs over would rot: name it here with the file of the test that does."""
    tested = {
        "data_views": "commands/test_conf.py",
        "evaluators": "evaluation/test_protocol.py",
        "experiment": "commands/test_conf.py",
        "head": "model/test_parts.py",
        "loss": "support/loss_cases.py",
        "negatives": "support/loss_cases.py",
        "optimizer": "model/test_parts.py",
        "predictor": "model/test_parts.py",
        "schedule": "model/test_parts.py",
        "target": "model/test_parts.py",
    }
    of_modality = {"data": "datasets.py", "encoder": "encoders.py", "views": "views.py"}
    chosen = {"sweep": "cli/test_sweeps.py"}  # each option by a test of its own
    tested |= dict.fromkeys(("callbacks", "logger", "trainer"), "commands/test_choices.py")
    assert group in {*tested, *of_modality, *chosen, "hydra"}
    starts = {"images": "test_", "text": "test_text_", "interactions": "test_interaction_"}
    for room, start in starts.items() if group in of_modality else ():
        words = (ROOT / "tests" / room / f"{start}{of_modality[group]}").read_text(encoding="utf-8")
        assert f'options_of("{group}", "{room}")' in words
    if group in tested:
        assert f'options("{group}")' in (ROOT / "tests" / tested[group]).read_text(encoding="utf-8")
    if group in chosen:
        assert f"{group}=" in (ROOT / "tests" / chosen[group]).read_text(encoding="utf-8")


def test_every_target_exists():
    """Read as text: composing every option takes seconds."""
    from hydra.utils import get_object

    from repel.engine.configs import check_targets

    texts = [path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml")]
    targets = {name for text in texts for name in re.findall(r"_target_: *([\w.]+)", text)}
    assert len(targets) > 60
    for target in targets:
        check_targets({"_target_": target})
        assert callable(get_object(target))


def test_defaults_of_views_are_those_of_conf():
    """conf/views/_base.yaml turns every operation off, and so does Python."""
    import inspect

    from repel.images.views import Augment, Views

    base = OmegaConf.to_container(OmegaConf.load(CONF / "views/_base.yaml"), resolve=False)
    for part, node in ((Views, base), (Augment, base["augmentation"] | base)):
        for name, parameter in inspect.signature(part).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                default = parameter.default
                assert node[name] == (list(default) if isinstance(default, tuple) else default), name


def test_a_default_in_python_is_the_one_in_conf():
    """Of losses and strategies, tests/losses/test_library_use.py compares more."""
    import inspect

    from hydra.utils import get_object

    def nodes(config):
        if isinstance(config, dict):
            yield from [config] if str(config.get("_target_", "")).startswith("repel.") else []
            config = list(config.values())
        for item in config if isinstance(config, list) else []:
            yield from nodes(item)

    data = "repel.data.datamodule.PairData"  # other data has no image size; a run of before split_by keeps its splits
    exceptions = {(data, "prepare"), (data, "split_by")}
    groups = ("head", "predictor", "target", "schedule")
    configs = [config(), *(config(f"{group}={name}") for group in groups for name in options(group))]
    for node in itertools.chain(*(nodes(OmegaConf.to_container(c)) for c in configs)):
        elsewhere = ("repel.losses.", "repel.negatives.", "repel.images.views.", "repel.monitoring.")
        if node["_target_"].startswith(elsewhere):
            continue
        for name, parameter in inspect.signature(get_object(node["_target_"])).parameters.items():
            if parameter.default is not inspect.Parameter.empty and (node["_target_"], name) not in exceptions:
                assert parameter.default == node.get(name), f"{node['_target_']}: {name}"


@pytest.mark.parametrize(("typed", "channels"), [
    (["data=image_folder", "data.root=x"], 1),
    (["data=fashion_mini"], 3),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (["data=imagenet", "data.root=x"], 1), (["data=stream", "data.root=x"], 1), (["data=fashion_mnist"], 3))),
])  # fmt: skip
def test_another_number_of_channels_needs_no_other_option(typed, channels, tmp_path):
    cfg = config(*typed, f"data.channels={channels}")
    assert len(cfg.data.mean) == len(cfg.data.std) == len(cfg.views.augmentation.mean) == channels
    assert instantiate(composed("train", [*typed, f"data.channels={channels}"]).views)  # not resolved, as in a command
    assert status(tmp_path, *typed, "data.channels=4") == (
        2,
        "data.channels=4: set data.mean and data.std, each to a list of 4 values",
    )
