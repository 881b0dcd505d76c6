"""How far a final evaluation is: a bar on terminals, few lines elsewhere, nothing from other ranks."""

import io

import pytest
from rich.console import Console

from repel.base import progress
from repel.base.progress import Progress

STAGES = [(0, 3, "raw pixels: encoding"), (1, 3, "raw pixels: knn"), (2, 3, "raw pixels: test split")]


def shown(enabled: bool) -> None:
    with Progress("evaluation", enabled) as on_stage:
        for stage in STAGES:
            on_stage(*stage)


def test_a_bar_on_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "table_console", lambda: Console(file=screen, force_terminal=True, width=100))
    shown(enabled=True)
    assert "raw pixels: test split" in screen.getvalue()
    assert "2/3" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")  # and the bar is gone
    screen.truncate(0)
    shown(enabled=False)
    assert not screen.getvalue().strip("\0")


@pytest.mark.parametrize("enabled", [True, False])
def test_elsewhere_lines_of_stages_that_take_long(monkeypatch, capsys, enabled):
    shown(enabled)
    assert not capsys.readouterr().out
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    shown(enabled)
    lines = [f"evaluation {done}/{total}  {what}" for done, total, what in STAGES]
    assert capsys.readouterr().out.splitlines() == lines * enabled
