"""What the tests' quick compose gives is what Hydra's gives."""

import composing
import pytest
from composing import CONF, composed
from conftest import config, options
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from loss_cases import DIM, built, node
from omegaconf import OmegaConf


@pytest.mark.parametrize(("name", "overrides"), [
    ("train", []),
    ("train", ["experiment=[debug,moco]", "encoder.width=4", "negatives=hcl", "+encoder.x=1", "~callbacks.knn",
               "data.mean=[1]", "seed=2"]),
    ("evaluate", ["evaluators=[knn,linear]", "ckpt=x", "evaluators.knn.k=3"]),
])  # fmt: skip
def test_it_equals_hydras(name, overrides):
    for _ in range(2):  # nothing that is kept is changed
        ours = composed(name, overrides, hydra=True)
        with initialize_config_dir(str(CONF), version_base="1.3"):
            theirs = compose(name, overrides=overrides, return_hydra_config=True)
        assert ours.hydra.runtime.choices == theirs.hydra.runtime.choices
        assert ours.hydra.overrides.task == theirs.hydra.overrides.task
        assert composed(name, overrides) == {k: v for k, v in theirs.items_ex(resolve=False) if k != "hydra"}
        ours.seed = 100
        ours.evaluation.k = 100


@pytest.mark.parametrize("typed", ["loss=ntxnt", "losss.x=1", "encoder.width.x=1"])
def test_it_refuses_what_hydra_refuses(typed):
    with pytest.raises(HydraException):
        composed("train", [typed])


@pytest.mark.parametrize("choice", ["loss=nnclr", "loss=swav", "negatives=chain", "negatives=mixed"])
def test_a_part_alone_is_that_of_the_whole(choice):
    group, name = choice.split("=")
    assert node(group, name) == config(choice, f"head.out_features={DIM}")[group]


def test_a_file_that_is_parsed_once_stays_as_it_is():
    for path in CONF.glob("*.yaml"):
        with path.open(encoding="utf-8") as file:
            read = OmegaConf.load(file)
        assert read == composing._parse(path)
        read["changed"] = True
        assert OmegaConf.load(path) == OmegaConf.load(str(path)) == composing._parse(path)


def all_of(part) -> dict:
    """Types and attributes of a module, its members' too."""
    return {name: (type(module), {key: repr(value) for key, value in vars(module).items() if key[0] != "_"})
            for name, module in part.named_modules()}  # fmt: skip


@pytest.mark.parametrize(("group", "name"), [("loss", name) for name in options("loss")] + [
    ("negatives", name) for name in options("negatives") if name != "guide"  # whose embeddings are of a file
])  # fmt: skip
def test_a_part_is_what_hydra_instantiates(group, name):
    cfg = node(group, name)
    assert all_of(built(OmegaConf.to_container(cfg))) == all_of(instantiate(cfg))
