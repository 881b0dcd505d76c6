"""The notebooks run from top to bottom on a run's folder, and are stored without outputs."""

import ast
import json
import os

import nbformat
import notebook_cells
import pytest
import ranks
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# the run that each reads; others: of images
FIXTURES = {"negatives_on_sentences": "finished_text", "popularity_in_negatives": None}
SHORTER = {"popularity_in_negatives": ("in batches(epoch):", "in batches(epoch)[:4]:")}


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
def test_it_runs(request, path, tmp_path):
    fixture = FIXTURES.get(path.stem, "finished")
    folder = request.getfixturevalue(fixture).parents[2] if fixture else tmp_path  # where runs/train lies
    notebook = nbformat.read(path, as_version=4)
    if path.stem in SHORTER:
        option, fewer = SHORTER[path.stem]
        cell = next(cell for cell in notebook.cells if option in cell.source)
        cell.source = cell.source.replace(option, fewer)
    outputs = by_a_kernel(notebook, folder) if path == NOTEBOOKS[0] else by_a_forked_process(notebook, folder, tmp_path)
    assert sum("image/png" in data for data in outputs) >= 2
    assert all("image/png" in data for data in outputs if "Figure" in str(data.get("text/plain")))


def by_a_kernel(notebook, folder) -> list[dict]:
    from nbclient import NotebookClient

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT / "src"))
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(notebook, timeout=180, resources={"metadata": {"path": os.fspath(folder)}}).execute()
    return [o.get("data", {}) for c in notebook.cells if c.cell_type == "code" for o in c.outputs]


def by_a_forked_process(notebook, folder, tmp_path) -> list[dict]:
    cells, out = [cell.source for cell in notebook.cells if cell.cell_type == "code"], tmp_path / "displayed.json"
    process = ranks.forked(notebook_cells.run, cells, str(folder), str(out))
    process.start()
    process.join(180)
    process.kill()  # if it hangs
    process.join()
    assert process.exitcode == 0
    return json.loads(out.read_text(encoding="utf-8"))
