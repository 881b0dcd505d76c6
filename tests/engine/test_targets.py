"""What a config may call, and how an attacker would get around it."""

import importlib.util
import sys
import types
from importlib.machinery import PathFinder

import pytest
from omegaconf import OmegaConf

from repel.engine import targets
from repel.engine.build import _instantiate
from repel.engine.configs import load_config
from repel.engine.targets import allow, allow_folder, check_objects, check_targets

PARTS = """
import functools, importlib, os, pickle, subprocess
from os import system
from subprocess import Popen
import torch
from torch import load
from torch.hub import load as fetch

class Part:
    def __init__(self, size):
        self.size = size
    @classmethod
    def small(cls):
        return cls(1)

def make(size):
    return Part(size)

run = functools.partial(os.system)
text = "no callable"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of one's own in a folder that is not on sys.path, and nothing allowed from earlier tests."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/__init__.py").write_text("from theirs.parts import Part\n", encoding="utf-8")
    (tmp_path / "theirs/parts.py").write_text(PARTS, encoding="utf-8")
    monkeypatch.setattr(targets, "_names", set())
    monkeypatch.setattr(targets, "_roots", [str(tmp_path)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "theirs"]:
        del sys.modules[name]


def node(target: str) -> dict:
    return {"a": [{"b": {"_target_": target, "size": 2}}]}


REFUSED = [
    "os.system", "posix.system", "builtins.eval", "builtins.exec", "__main__.x", "subprocess.Popen",
    "importlib.import_module", "pickle.loads", "runpy.run_path", "code.interact", "antigravity.x",
    "test.support.run_unittest", "eval", "", "os.", ".os.system", "torch.load", "torch.hub.load",
    "torch.serialization.load", "torch.nn.modules.module.torch.load", "torch.jit.load",
    "torch.optim.adam.torch.load", "lightning.pytorch.callbacks.os.system", "hydra.utils.get_method",
    "hydra.utils.call", "numpy.load", "yaml.unsafe_load", "omegaconf.OmegaConf.load", "pip.main",
    "setuptools.setup", "_pytest.config.main", "repel.engine.fit.torch.hub.load", "repel.engine.rank.run_rank",
    "repel.engine.launch.start_ranks", "repel.engine.runs.subprocess.run", "${oc.env:HOME}",
    "repel.losses.ratio.InfoNCE ",
]  # fmt: skip


@pytest.mark.parametrize("target", REFUSED)
def test_what_is_refused_wherever_it_stands(package, target):
    """In one's own config, and in a file even where one's own config names it."""
    before = set(sys.modules)
    with pytest.raises(ValueError, match="_target_="):
        check_targets(node(target))
    assert {name.split(".")[0] for name in set(sys.modules) - before} <= {"theirs"}  # a look at it runs nothing
    allow([target])
    with pytest.raises(ValueError, match="_target_="):
        load_config(node(target))
    with pytest.raises(ValueError, match="_target_="):
        _instantiate(node(target))


@pytest.mark.parametrize("target", [
    "theirs.parts.os.system", "theirs.parts.system", "theirs.parts.Popen", "theirs.parts.load", "theirs.parts.fetch",
    "theirs.parts.run", "theirs.parts.pickle.loads", "theirs.parts.importlib.import_module", "theirs.parts.text",
    "theirs.parts.torch.load", "theirs.parts.functools", "theirs.parts.Part.small", "theirs.parts.Part.__init__",
    "theirs.parts.nothing", "theirs.nowhere.Part", "theirs.parts.Part.mro",
])  # fmt: skip
def test_what_an_own_package_does_not_define_is_refused(package, target):
    check_targets(node(target))  # by its name alone it may be right
    with pytest.raises(ValueError, match="_target_=theirs"):
        check_objects(node(target))


def test_what_an_own_package_defines_is_called(package):
    for target in ("theirs.parts.Part", "theirs.Part", "theirs.parts.make"):
        assert _instantiate(OmegaConf.create({"_target_": target, "size": 3})).size == 3
    assert sys.path[-1] == str(package)  # last: nothing that is installed is shadowed


def test_a_file_may_name_what_ones_own_folder_names(package):
    config = {"encoder": {"_target_": "theirs.parts.Part", "size": 1}}
    with pytest.raises(ValueError, match=r"_target_=theirs\.parts\.Part: .*add --config-dir=DIR"):
        load_config(config)
    assert "theirs" not in sys.modules
    folder = package / "conf/encoder"
    folder.mkdir(parents=True)
    (folder / "part.yaml").write_text(
        "# _target_: theirs.parts.make\n'_target_': \"theirs.parts.Part\"\n", encoding="utf-8"
    )
    allow_folder(package / "conf")
    assert load_config(config) == config
    with pytest.raises(ValueError, match=r"theirs\.parts\.make"):  # a comment names nothing
        load_config({"_target_": "theirs.parts.make"})
    load_config({"optimizer": {"_target_": "torch.optim.RMSprop"}})


@pytest.mark.parametrize("text", [
    "${oc.create:{_target_:os.system}}", "${oc.decode:'{_target_: os.system}'}", "a${b}", "\\${oc.create:x}",
    "${oc.env:HOME,${x}}", "${oc.env:${x}}",
])  # fmt: skip
def test_a_file_computes_nothing(text):
    for config in ({"a": {"b": text}}, {"a": [1, {"b": text}]}):
        with pytest.raises(ValueError, match="no interpolation"):
            load_config(config)


def test_a_target_that_is_computed_in_ones_own_config_is_checked(package):
    cfg = OmegaConf.create(
        {"part": "${oc.create:{_target_:os.getcwd}}", "name": "os.getcwd", "b": {"_target_": "${name}"}}
    )
    for key in ("part", "b"):
        with pytest.raises(ValueError, match=r"os\.getcwd"):
            _instantiate(cfg[key])


def test_a_run_folder_below_ones_own_folder_allows_nothing(package):
    """--config-dir=. of a folder with runs in it."""
    for place, name in (("runs/train/theirs", "config.yaml"), ("runs/train/theirs/conf", "a.yaml"), (".venv", "b.yaml"),
                        ("ckpt/checkpoints", "c.yaml")):  # fmt: skip
        (package / place).mkdir(parents=True)
        (package / place / name).write_text("_target_: theirs.parts.make\n", encoding="utf-8")
    allow_folder(package)
    with pytest.raises(ValueError, match=r"theirs\.parts\.make"):
        load_config({"_target_": "theirs.parts.make"})
    (package / "config.yaml").write_text("_target_: theirs.parts.make\n", encoding="utf-8")  # not a run's
    allow_folder(package)
    load_config({"_target_": "theirs.parts.make"})


def test_a_look_at_pip_leaves_other_finders_alone(monkeypatch):
    """setuptools' finder, asked for pip, gives distutils back to Python: torch.compile then stops with an error."""
    asked: list[str] = []
    finder = types.SimpleNamespace(find_spec=lambda name, path, target=None: asked.append(name))
    monkeypatch.setattr(sys, "meta_path", [finder, PathFinder])
    monkeypatch.delitem(sys.modules, "pip", raising=False)
    with pytest.raises(ValueError, match="pip is none"):
        check_targets(node("pip.main"))
    assert "pip" not in asked
    importlib.util.find_spec("pip")
    assert "pip" in asked  # so that the assertion above could have failed


def install(folder, name: str, requires: str) -> None:
    """As pip install does."""
    (folder / name).mkdir(parents=True)
    (folder / f"{name}/__init__.py").write_text("class Part: pass\n", encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}", encoding="utf-8")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n", encoding="utf-8")


def test_an_installed_package_must_require_repel(package, monkeypatch):
    sites = package / "lib/site-packages"
    for name, requires in (("plain_one", ""), ("near_one", "Requires-Dist: repel-tools\n"),
                           ("made_for_it", "Requires-Dist: repel[timm]>=0.1\n")):  # fmt: skip
        install(sites, name, requires)
        install(package / "target", f"{name}_too", requires)
    monkeypatch.setattr(sys, "path", [*sys.path, str(sites), str(package / "target")])
    (sites / "loose.py").write_text("def f(): pass\n", encoding="utf-8")
    for name in ("plain_one", "near_one", "plain_one_too", "loose"):
        assert importlib.util.find_spec(name)
        with pytest.raises(ValueError, match=f"{name}.*a package of your own"):
            check_targets(node(f"{name}.Part"))
    for name in ("made_for_it", "made_for_it_too"):
        check_objects(node(f"{name}.Part"))


def test_what_ranks_are_given(package):
    """The names, and the folder in which the package was found."""
    allow(["theirs.parts.Part"], ["x"])
    check_targets(node("theirs.parts.Part"))
    assert targets.allowed() == {"names": ["theirs.parts.Part"], "roots": [str(package), "x"]}
