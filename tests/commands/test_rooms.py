"""The direction of imports is held: `make lint` fails on an import that runs up."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("importlinter", reason="import-linter is not installed")


def lint_imports(folder):
    """import-linter's exit status and output for the copy of the package in a folder."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    command = [sys.executable, "-c", program, str(folder / "pyproject.toml"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)


@pytest.fixture(scope="session")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rooms")
    ignore = shutil.ignore_patterns("__pycache__", "*.npz")
    shutil.copytree(ROOT / "src/repel", folder / "src/repel", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def test_imports_run_down(copy):
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "planted", "found"),
    [
        ("losses/base.py", "from repel.cli import checks", "repel.losses.base -> repel.cli.checks"),
        ("module.py", "import repel.images.encoders", "repel.module -> repel.images.encoders"),
        ("losses/base.py", "import omegaconf", "repel.losses.base -> omegaconf"),
        ("evaluation/knn.py", "import lightning", "repel.evaluation.knn -> lightning"),
    ],
)
def test_an_import_that_runs_up_is_found(copy, file, planted, found):
    path = copy / "src/repel" / file
    before = path.read_text(encoding="utf-8")
    path.write_text(f"{before}\n{planted}\n", encoding="utf-8")
    try:
        result = lint_imports(copy)
    finally:
        path.write_text(before, encoding="utf-8")
    assert result.returncode != 0
    assert found in result.stdout
