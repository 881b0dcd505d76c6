"""The wheel: what lies in it, and runs from it without the checkout, with a user's own package too."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, check_mistake
from own_package import OWN_PARTS, QUICK
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built with what is installed here: nothing is downloaded."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin/ of an environment with the wheel, which finds this one's other packages behind it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # installed by hand, as pip would: files, and a command that calls the entry point
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
        (entry_points,) = [name for name in file.namelist() if name.endswith("entry_points.txt")]
        assert "repel = repel.cli.main:main" in file.read(entry_points).decode().splitlines()
    others = [path for path in map(Path, sys.path) if path.name == "site-packages" and path.is_dir()]
    (packages / "others.pth").write_text("".join(f"{path}\n" for path in others))
    command = folder / "bin" / "repel"
    command.write_text(f"#!{folder}/bin/python\nimport sys\nfrom repel.cli.main import main\n"
                       'if __name__ == "__main__":\n    sys.exit(main())\n')  # fmt: skip
    command.chmod(0o755)
    return folder / "bin"


def environment() -> dict[str, str]:
    """Of a user who has never heard of the checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden} | {"OMP_NUM_THREADS": "1"}


def run(command: Path, *arguments: str, cwd: Path, status: int = 0) -> subprocess.CompletedProcess:
    """In a process that imports everything itself."""
    result = subprocess.run([command, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True,
                            timeout=600)  # fmt: skip
    assert result.returncode == status, result.stderr
    return result


@pytest.fixture(scope="session")
def repel(installed, tmp_path_factory):
    """`repel(*arguments, cwd=, status=0)`: the installed command, forked from a process that has imported it."""
    folder = tmp_path_factory.mktemp("printed")
    server = subprocess.Popen([installed / "python", ROOT / "tests/support/installed_server.py"], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=folder)  # fmt: skip

    def run(*arguments: str, cwd: Path, status: int = 0) -> subprocess.CompletedProcess:
        out, err = folder / "out", folder / "err"
        typed = [str(installed / "repel"), *map(str, arguments)]
        server.stdin.write(json.dumps({"arguments": typed, "cwd": str(cwd), "out": str(out), "err": str(err)}) + "\n")
        server.stdin.flush()
        returned, printed = int(server.stdout.readline()), (out.read_text("utf-8"), err.read_text("utf-8"))
        assert returned == status, printed
        return subprocess.CompletedProcess(arguments, returned, *printed)

    yield run
    server.communicate(timeout=60)


def run_folder(result: subprocess.CompletedProcess, cwd: Path) -> Path:
    return cwd / result.stdout.strip().splitlines()[-1].removeprefix("run: ")


def test_what_lies_in_it(wheel):
    """All that git knows of src/repel and conf/, with the licenses."""
    known = subprocess.run(["git", "ls-files", "src/repel", "conf"], cwd=ROOT, capture_output=True, text=True).stdout
    expected = {
        path.removeprefix("src/") if path.startswith("src/") else f"repel/{path}"
        for path in known.splitlines()
        if (ROOT / path).is_file()
    }
    found = set(zipfile.ZipFile(wheel).namelist())
    records = {name.split("/", 1)[1] for name in found if ".dist-info/" in name}
    bundled = {
        f"licenses/src/repel/{name}/LICENSE"
        for name in ("images/fashion_mini", "interactions/debian_mini", "text/wordnet_mini")
    }
    assert {"licenses/LICENSE", "entry_points.txt"} | bundled <= records
    assert expected <= {name for name in found if ".dist-info/" not in name}
    data = {
        "repel/images/fashion_mini/images.npz",
        "repel/text/wordnet_mini/glosses.tsv.bz2",
        "repel/interactions/debian_mini/dependencies.tsv.bz2",
    }
    assert {"repel/conf/train.yaml", "repel/py.typed"} | data <= found
    assert not {name for name in found if name.endswith((".pyc", ".ckpt"))}


def test_a_run_without_the_checkout(installed, repel, tmp_path):
    """From an empty folder: train on two ranks, each a process of its own, evaluate, embed and export."""
    paths = run(installed / "python", "-c", "import sys, repel; print(repel.__file__, *sys.path)", cwd=tmp_path).stdout
    assert paths.split()[0].startswith(str(installed.parent))  # the wheel's repel
    assert str(ROOT / "src") not in paths.split()
    options = [*TINY, "evaluation.bank=64", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=2"]
    trained = run(installed / "repel", "train", *options, cwd=tmp_path)
    folder = run_folder(trained, tmp_path)
    assert folder.parent == tmp_path / "runs" / "train"
    assert 0 <= json.loads((folder / "metrics.json").read_text())["test/knn_top1"] <= 1
    record = json.loads((folder / "environment.json").read_text())
    assert record["command"][:3] == ["repel", "train", TINY[0]]
    assert record["git_commit"] is None  # of another project's repository, were there one around it
    repel("evaluate", f"ckpt={folder}", "evaluators=[knn]", "layers=[h]", cwd=tmp_path)
    repel("embed", f"ckpt={folder}", "checkpoint=last", "out=features", cwd=tmp_path)
    assert (tmp_path / "features" / "features.npy").is_file()
    repel("export", f"ckpt={folder}", "checkpoint=last", "out=encoder", cwd=tmp_path)
    assert (tmp_path / "encoder" / "encoder.safetensors").is_file()


def test_an_extra_that_is_missing_is_named_by_its_packages(installed, tmp_path):
    code = "from repel.base.installation import install_extra; print(install_extra('optuna'))"
    line = run(installed / "python", "-c", code, cwd=tmp_path).stdout.strip()
    assert line == "pip install 'hydra-optuna-sweeper<1.4,>=1.3' 'sqlalchemy<2'"


def train_further(run: Path, epochs: int) -> None:
    """As if the run had been stopped before so many epochs were done, of a run on one rank."""
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["trainer"] |= {"max_epochs": epochs, "devices": 1}
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")


def test_own_parts_train_on_two_ranks_and_are_resumed_evaluated_searched_and_exported(repel, own_package):
    """Encoder, loss, strategy and reader of a package that lies in a folder and is not installed."""
    own = "--config-dir=conf"
    folder = run_folder(repel("train", own, *OWN_PARTS, *QUICK, "trainer.devices=2", cwd=own_package), own_package)
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["train/steps"] == 6

    train_further(folder, 2)
    result = repel("train", f"resume={folder}", cwd=own_package, status=2)
    check_mistake(result, ["_target_=mine.", f"--config-dir={own_package / 'conf'}"])
    repel("train", own, f"resume={folder}", cwd=own_package)
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["train/steps"] == 12

    other = own_package / "elsewhere"  # the package is found beside the folder of configs
    other.mkdir()
    evaluate = ["evaluate", f"ckpt={folder}", "evaluators=[knn]", "layers=[h]"]
    check_mistake(repel(*evaluate, cwd=other, status=2), ["_target_=mine.", "add --config-dir=DIR"])
    evaluated = run_folder(repel(*evaluate, "--config-dir=../conf", cwd=other), other)
    found = json.loads((evaluated / "metrics.json").read_text(encoding="utf-8"))
    assert found["test/knn_top1"] == metrics["test/knn_top1"]

    repel("embed", own, f"ckpt={folder}", "out=features", cwd=own_package)
    Image.new("L", (8, 8)).save(own_package / "query.png")
    search = ["search", "query.png", "features"]
    check_mistake(repel(*search, cwd=own_package, status=2), ["_target_=mine.", "add --config-dir=DIR"])
    repel(*search, own, cwd=own_package)

    exported = repel("export", own, f"ckpt={folder}", "format=[safetensors]", cwd=own_package)
    assert "class Tiny" in (run_folder(exported, own_package) / "load_encoder.py").read_text(encoding="utf-8")
