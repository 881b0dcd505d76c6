"""scripts/benchmark_precision.py: a line of the table, and which curves are within their band."""

import importlib

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("benchmark_precision")


@pytest.mark.parametrize(("factor", "option", "within"), [
    (1.04, "PRECISION", True), (1.06, "PRECISION", False), (1.04, "FUSED", False), (1.0, "FUSED", True),
])  # fmt: skip
def test_a_line_says_whether_curves_are_within_their_band(script, factor, option, within):
    plain = [[4.0] * 5 + [2.0] * 5] * 2
    changed = [[4.0] * 5 + [2.0 * factor] * 5, plain[1]]
    text, found = script.line("a run", getattr(script, option), script.Row(plain, changed))
    assert found == within
    cells = [cell.strip() for cell in text.split("|")[1:-1]]
    gap = factor - 1
    assert cells[2:4] == ["2.0000", f"{2 + gap:.4f}"]
    assert cells[4] == f"{gap / 2:.5f} ± {gap / 2**0.5:.5f}"
    assert cells[6] == ("yes" if within else "**no**")
