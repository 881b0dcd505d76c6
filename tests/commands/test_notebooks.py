"""The notebooks run from top to bottom on a run's folder, and are stored without outputs."""

import ast
import os

import nbformat
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# the run that each reads; others: of images
FIXTURES = {"negatives_on_sentences": "finished_text", "popularity_in_negatives": None}
SHORTER = {"popularity_in_negatives": ("EPOCHS = 3", "EPOCHS = 1")}


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_imports_exist(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    code = ast.parse("\n".join(cells).replace("%matplotlib inline", ""))
    imports = [node for node in code.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, []), str(path), "exec"), {})


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(request, path, monkeypatch, tmp_path):
    from nbclient import NotebookClient

    fixture = FIXTURES.get(path.stem, "finished")
    folder = request.getfixturevalue(fixture).parents[2] if fixture else tmp_path  # where runs/train lies
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(path, as_version=4)
    if path.stem in SHORTER:
        option, fewer = SHORTER[path.stem]
        cell = next(cell for cell in notebook.cells if option in cell.source)
        cell.source = cell.source.replace(option, fewer)
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": os.fspath(folder)}}).execute()
    outputs = [o.get("data", {}) for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    assert sum("image/png" in data for data in outputs) >= 2
    assert all("image/png" in data for data in outputs if "Figure" in str(data.get("text/plain")))
