"""Command lines of README and docs, typed into bash and zsh: the program gets the words that are meant.

Both read them from their standard input, as from a keyboard: zsh then takes a # and what follows for words, too.
"""

import re
import shlex
import shutil
import subprocess

import pytest
from conftest import ROOT

from repel.base.scripts import without_comment

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OURS = ("python", "repel", "torchrun")  # whose programs leave a comment out; of others a line goes without
PROGRAMS = (*OURS, r"\.venv/bin/\S+", "make", "pip", "jupyter", "srun", "ray", "tensorboard", "mlflow", "source", "sed")
COMMAND = re.compile(rf"(?:\w+=\S+ )*(?:{'|'.join(PROGRAMS)}) ")
END, RECORD = "\037", "\036"
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


def lines_of(text: str) -> list[str]:
    """Commands on lines of their own, and those in the text."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    blocks = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    inline = [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", text)]
    return [line for line in [*blocks, *inline] if COMMAND.match(line)]


LINES = sorted({line for page in PAGES for line in lines_of(page.read_text(encoding="utf-8"))})


def without_end(line: str) -> str:
    """The line without its comment, and without what follows the command."""
    return re.split(r"\s+#|\s+\|\|?\s", line)[0]


def typed_into(shell: list[str], lines: list[str]) -> dict[int, list[str]]:
    """What a shell makes of each line: number -> the words that the line's program gets, its own name first.

    The program is one that prints them; a line that the shell refuses is missing.
    """
    printer = r"""printed() { printf '%s\037' "$@"; printf '\036'; }"""
    typed = [f"printed {number} {line}" for number, line in enumerate(lines)]
    result = subprocess.run(shell, input="\n".join([printer, *typed, "exit 0", ""]), capture_output=True,
                            encoding="utf-8", cwd=ROOT, start_new_session=True, timeout=60)  # fmt: skip
    words = [record.split(END)[:-1] for record in result.stdout.split(RECORD) if END in record]
    return {int(number.rpartition("\n")[2]): rest for number, *rest in words}


@pytest.mark.parametrize("shell", SHELLS)
def test_programs_get_the_words_that_are_meant(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    assert len(LINES) > 150
    given = typed_into(SHELLS[shell], LINES)
    for number, line in enumerate(LINES):
        words = given.get(number, [f"refused by {shell}"])
        ours = re.match(rf"(\w+=\S+ )*({'|'.join(OURS)})", line)
        assert (without_comment(words) if ours else words) == shlex.split(without_end(line)), line


def test_a_shell_that_would_change_words_is_noticed():
    """Braces are expanded by bash."""
    lines = ["python train.py x={a,b}", "python train.py 'x={a,b}'   # a comment"]
    assert typed_into(SHELLS["bash"], lines) == {0: ["python", "train.py", "x=a", "x=b"],
                                                 1: ["python", "train.py", "x={a,b}"]}  # fmt: skip


OPTION = r"\+?[a-z_][\w./]*=[\[{]"  # which a shell would expand, or refuse


def test_options_in_the_text_are_quoted():
    """Not in the tables of what people type, and what is answered."""
    for page in PAGES:
        if page.name in ("README.md", *(path.name for path in (ROOT / "docs").glob("*.md"))) and page.stem != "habits":
            text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert not re.findall(rf"`{OPTION}[^`\s]*`", text), page


def test_what_a_message_says_to_type_is_quoted():
    words = re.compile(r"\b(?:type|add|set|set it by|export it as) \+?[a-z_][\w./]*=\[")
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]:
        assert not words.findall(file.read_text(encoding="utf-8")), file
