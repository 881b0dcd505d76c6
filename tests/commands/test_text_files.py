"""Text files are UTF-8 whatever the locale says."""

import ast
import sys

import pytest
from conftest import ROOT, SMALL, command, make_folder

from repel.base.encoding import restart_in_utf8_mode

FILES = sorted(path for folder in ("src", "scripts") for path in (ROOT / folder).rglob("*.py"))


def without_encoding(source: str) -> list[int]:
    """Lines that open a text file, or read a program's output as text, in the encoding of the locale."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {keyword.arg for keyword in node.keywords}
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        opens = name == "open" and (isinstance(node.func, ast.Name) or len(texts) == len(node.args))
        as_text = (opens and not any("b" in text for text in texts[-1:])) or name == "write_text"
        as_text = as_text or (name == "read_text" and not node.args) or "text" in given
        if as_text and "encoding" not in given:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize("line", [
    "path.open()", "path.open('w', newline='')", "open(x)", "path.read_text()", "path.write_text(x)",
    "subprocess.run(x, text=True)",
])  # fmt: skip
def test_a_line_without_one_is_found(line):
    assert without_encoding(line) == [1]


def test_every_text_file_has_its_encoding():
    assert {str(path): lines for path in FILES if (lines := without_encoding(path.read_text(encoding="utf-8")))} == {}
    assert len(FILES) > 150


def test_a_command_starts_again_in_utf8_mode_once(monkeypatch):
    started = []
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.setattr("os.execv", lambda *given: started.append(given))
    restart_in_utf8_mode()
    assert started == []
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    restart_in_utf8_mode()
    assert started == [(sys.executable, sys.orig_argv)]
    restart_in_utf8_mode()  # where even that did not help
    assert len(started) == 1


@pytest.mark.slow
def test_a_run_in_a_locale_without_letters(tmp_path):
    """Classes, files, tables and the run's own name have letters beyond ASCII; the output has none."""
    root = make_folder(tmp_path / "größe", ["süß", "weiß"], 40)
    rows = "".join(f"süß/{i:03d}.png,{'é' if i % 2 else 'ü'}\n" for i in range(40))
    (root / "x.csv").write_text("file,farbe\n" + rows, encoding="utf-8")
    result = command(
        "train.py", *SMALL, "name=größe", "data=image_folder", f"data.root={root}", f"data.labels={root / 'x.csv'}",
        "data.image_size=8", cwd=tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="ascii", PYTHONHASHSEED="0",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii()
    (folder,) = (tmp_path / "runs/train").iterdir()
    assert folder.name.endswith("größe")
    assert "farbe" in (folder / "report.html").read_text(encoding="utf-8")
