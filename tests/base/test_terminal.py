"""What commands print: into files, into pipes that nobody reads, in any encoding."""

import os
import subprocess
import sys

import pytest
from rich.table import Table

from repel.base.terminal import table_console
from repel.evaluation.measurement import Score
from repel.report import table

PRINTS = """
import sys
from repel.base.terminal import outlive_readers
outlive_readers()
outlive_readers("the run goes on")
for number in range(20_000):
    print(number, "数据" if number % 2 else "", flush=number % 100 == 0)
print("to stderr", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write("done")
"""


def printing(done, **env: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", PRINTS, str(done)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, **env})  # fmt: skip


@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=str)
def test_a_command_goes_on_when_nobody_reads_it(tmp_path, env):
    """As `| head` leaves it; stderr says so once."""
    process = printing(tmp_path / "done", **env)
    assert process.stdout.readline() == b"0 \n"
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait() == 0
    assert errors == "note: nobody reads the output any more; the run goes on\nto stderr\n"
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("place", "note"), [
    ("> /dev/full", "note: the output cannot be written (No space left on device); the run goes on\n"), (">&-", ""),
])  # fmt: skip
def test_a_command_goes_on_without_its_output(tmp_path, place, note):
    """On a full disk, and closed by the shell that starts it."""
    shell = ["bash", "-c", f'"$@" {place}', "-", sys.executable, "-c", PRINTS, str(tmp_path / "done")]
    ended = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, note + "to stderr\n")
    assert (tmp_path / "done").exists()


def test_letters_that_the_output_lacks_are_escapes(tmp_path):
    out, errors = printing(tmp_path / "done", PYTHONIOENCODING="latin-1").communicate()
    assert (errors, len(out.splitlines())) == (b"to stderr\n", 20_000)
    assert out.splitlines()[1] == rb"1 \u6570\u636e"


@pytest.mark.parametrize("force", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"])
def test_no_escape_codes_into_files(monkeypatch, capsys, force):
    """And a file gets a line an epoch in place of the bar, which asks the same console."""
    monkeypatch.setenv(force, "1")
    console = table_console()
    assert not console.is_terminal
    console.print(Table("[bold]head"), style="red")
    table.print_table(table.Table(["a"], [table.TableRow("[/b] :smile: $x$", [Score("x", "x", 0.5, {})])]), "[/red]")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[/b] :smile: $x$" in out  # a task's name is no markup
    assert "[/red]" in out


def test_colors_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert table_console().is_terminal
