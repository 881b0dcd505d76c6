"""scripts/benchmark_views.py: tables of one size, measured apart."""

import importlib
import shutil
from argparse import Namespace

from conftest import ROOT


def test_tables_measured_apart_take_the_place_of_the_old_ones(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script, pages = importlib.import_module("benchmark_views"), importlib.import_module("_benchmark")
    shutil.copy(pages.PAGES / "views.md", tmp_path)
    for module in (script, pages):
        monkeypatch.setattr(module, "PAGES", tmp_path)
    speeds = {"v1": [100.0, 120.0], "kornia": [200.0, 200.0], "fused": [400.0, 600.0]}
    before = (tmp_path / "views.md").read_text(encoding="utf-8").split("\n## ")
    for _ in range(2):  # the second finds what the first wrote
        script.replace({("cpu", "simclr", 256, 224, 16): speeds}, Namespace(only=224, rounds=2))
    after = (tmp_path / "views.md").read_text(encoding="utf-8").split("\n## ")
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == 1
    assert "| repel, `views.color=fused` | 500 (400 to 600) | 4.5 (4.0 to 5.0) | 2.5 (2.0 to 3.0) |\n" in changed[0]
    assert "Measured apart, by `--only 224 --rounds 2`" in changed[0]
