"""What comes from others is not run, and what is secret is not kept."""

import importlib.metadata
import pickle
import re
import tomllib

import pytest
from conftest import ROOT, TINY, check_mistake, command, config, make_folder

from repel.engine import configs

TOKEN = "hunter2-0123456789"


@pytest.mark.parametrize("target", ["torch.load", "torch.hub.load", "os.system", "builtins.eval", "numpy.load",
                                    "repel.engine.fit.torch.hub.load", "torch.nn.modules.module.torch.load",
                                    "lightning.pytorch.callbacks.os.system"])  # fmt: skip
def test_what_a_config_may_call(target):
    for place in ({"_target_": target}, {"a": [{"b": {"_target_": target}}]}):
        with pytest.raises(ValueError, match=re.escape(target)):
            configs.check_targets(place)
    configs.check_targets({"_target_": "torch.optim.Adam"})


@pytest.mark.slow
def test_secrets_stay_out_of_the_run_folder(tmp_path):
    """By an interpolation they reach the run and no file; typed, they are refused."""
    secret = str(make_folder(tmp_path / TOKEN, ["red", "green"], 30))
    typed = [*TINY, "evaluators=[]", "evaluation.map=null", "data=image_folder", "data.image_size=16",
             "data.val_fraction=0.1"]  # fmt: skip
    result = command("train.py", *typed, "data.root='${oc.env:MY_API_KEY}'", cwd=tmp_path, MY_API_KEY=secret)
    assert result.returncode == 0, result.stderr
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    assert "${oc.env:MY_API_KEY}" in next(path for path in files if path.name == "config.yaml").read_text()
    assert "${oc.env:MY_API_KEY}" in next(path for path in files if path.name == "environment.json").read_text()
    result = command("train.py", *typed, f"data.root={secret}", cwd=tmp_path, MY_API_KEY=secret)
    check_mistake(result, ["data.root holds the value of $MY_API_KEY", "data.root='${oc.env:MY_API_KEY}'"])
    assert TOKEN not in result.stderr
    result = command("train.py", *typed, "data.root='${oc.env:NO_SUCH}'", cwd=tmp_path)
    check_mistake(result, ["NO_SUCH"])


def test_files_of_a_dataset_that_were_tampered_with_are_not_read(tmp_path, monkeypatch):
    """CIFAR-10 is pickled: a planted file has another MD5, and is not opened; nor is an archive that has another."""
    from repel.engine.build import build_data

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was here"), "w"))

    folder = tmp_path / "data/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Evil()))
    (tmp_path / "data/cifar-10-python.tar.gz").write_bytes(b"no archive")

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", offline)
    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(ValueError, match="cannot download CIFAR10"):
        build_data(config("data=cifar10", f"data.root={tmp_path / 'data'}")).setup()
    assert not (tmp_path / "was here").exists()


def test_a_download_needs_room(tmp_path, monkeypatch):
    from repel.engine.build import build_data

    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1e8}))
    with pytest.raises(ValueError, match=r"0\.4 GB are needed, and 0\.1 GB are free"):
        build_data(config("data=cifar10", f"data.root={tmp_path}")).setup()


def test_pins():
    from packaging.requirements import Requirement

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pins = {r.name: r.specifier for r in map(Requirement, wanted)}
    for bad in ("2.6.2", "2.6.3"):
        assert not pins["lightning"].contains(bad)
    assert not pins["torch"].contains("2.9.1")
    assert pins["lightning"].contains(importlib.metadata.version("lightning"))
    locked = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^lightning==2\.6\.[0-3]$", locked, re.M)
    assert not re.search(r"https?://", locked)
