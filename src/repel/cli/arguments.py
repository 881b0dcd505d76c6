"""Arguments as people type them, made into what Hydra's grammar reads.

Hydra reads a value without quotes only if it has no letters beyond ASCII and none of `= # & ; ~ ' ( ) [ ]` but in their
places. A path has such characters where nobody wanted to say anything to Hydra. So, before Hydra parses:

- A value of TEXTS, a path or a name, is taken as it stands where Hydra could not read it, or would read a number that
  is written otherwise (`2024_01`), or where a file has this very name. A sweep over such values (-m) is cut at its
  commas.
- A value of any other key that Hydra cannot read, and that has no quote, bracket or comma, is a text as it stands. So
  is such a member of a plain list, `[a,b]`.
- Quotes, `null`, interpolations, sweeps, and whatever else Hydra can read keep their meaning in Hydra.
- Spaces around the = of one argument are no part of it.
- `glob(*)` leaves out files that begin with an underscore, which are shared parts of a group's choices.
- A carriage return at the end, of a script with Windows line ends, is no part of an argument.
"""

import re
import shlex
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

__all__ = ["overrides_of", "parsed", "quoted_for_hydra", "spelled_for_hydra", "to_type"]

WRITTEN_BY_HYDRA = ("out", "hydra.run.dir", "hydra.sweep.dir")  # which knows no ~
TEXTS = (*WRITTEN_BY_HYDRA, "name", "ckpt", "resume", "init", "data_root", "sweep.resume", "data.root", "data.labels",
         "data.label_file", "data.text", "data.label", "data.positive", "data.tokenizer", "data.cache")  # fmt: skip
DASHES = "\N{EM DASH}\N{EN DASH}\N{FIGURE DASH}\N{HORIZONTAL BAR}\N{HYPHEN}\N{NON-BREAKING HYPHEN}\N{MINUS SIGN}"
NESTED = re.compile(r"""["'\[\]{}()]""")
STRUCTURE = re.compile(NESTED.pattern + "|,")
CURLY = (
    "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}\N{DOUBLE LOW-9 QUOTATION MARK}"
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}"
)


def parsed(argument: str) -> Override | None:
    """An override as Hydra reads it; None where it cannot."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def spelled_for_hydra(arguments: list[str]) -> list[str]:
    """The arguments, texts quoted where Hydra needs it. What no rule above is for is left as it is.

    Raises:
        ValueError: a dash or a quote that a word processor or a web page has put in place of the plain one.
    """
    given = [argument.rstrip("\r") for argument in arguments]
    given = [text for text, typed in zip(given, arguments, strict=True) if text or not typed]
    sweeps = "-m" in given or "--multirun" in given
    spelled = [_spelled(argument, sweeps) for argument in given]
    options = overrides_of(spelled)
    flags = [argument for argument in spelled if argument not in options]
    return [*options, *flags]  # behind a flag that stands between options, argparse would refuse the rest


def overrides_of(arguments: list[str]) -> list[str]:
    """The arguments that are neither flags nor the value of the flag before them, as `job` is in `--cfg job`."""

    def belongs(argument: str, before: str) -> bool:
        switch = before in ("-m", "--multirun", "--run", "-r", "--resolve")
        return before[:1] == "-" and not switch and "=" not in argument + before

    pairs = zip(arguments, ["", *arguments], strict=False)
    return [argument for argument, before in pairs if argument[:1] != "-" and not belongs(argument, before)]


def _spelled(argument: str, sweeps: bool) -> str:
    if argument[:1] and argument[0] in DASHES:
        word = argument.lstrip(DASHES + "-")
        raise ValueError(f"{argument} begins with a dash that is not -; type {'--' if len(word) > 1 else '-'}{word}")
    key, equals, value = argument.partition("=")
    if argument.startswith("-") or not equals:
        return argument
    if key.strip() != key:
        key, value = key.strip(), value.strip()
    if key.strip(CURLY) != key or (value and value[0] in CURLY):
        raise ValueError(f"{argument} has curly quotes, which a shell does not know; type ' or \"")
    name = key.lstrip("+")
    if name in WRITTEN_BY_HYDRA and re.match("~(/|$)", value):
        value = str(Path(value).expanduser())
    if name in TEXTS and name != "name" and not _has_home(value):
        raise ValueError(f"{key}={value}: nobody here has this home folder; type the path in full")
    read = parsed(f"{key}={value}")
    if name in TEXTS:
        value = value if read and _is_meant(read, value, sweeps) else _text(value, sweeps)
    elif read and isinstance(choices := read.value(), Glob):
        value = _without_shared_parts(choices)
    elif read is None and not STRUCTURE.search(value):
        value = quoted_for_hydra(value)
    elif read is None and (members := re.fullmatch(r"\[(.*)\]", value)) and not NESTED.search(members[1]):
        value = f"[{_each_quoted(members[1])}]"
    return f"{key}={value}"


def _without_shared_parts(choices: Glob) -> str:
    """glob(...) without files that begin with an underscore: they are shared parts, not choices."""
    return f"glob([{','.join(choices.include)}],exclude=[{','.join([*choices.exclude, '_*'])}])"


def _has_home(path: str) -> bool:
    """False for ~NAME where there is no such user, and for ~ where the process's user has no home, as in containers."""
    try:
        Path(path).expanduser()
    except RuntimeError:
        return False
    return True


def _is_meant(read: Override, typed: str, sweeps: bool) -> bool:
    """Whether Hydra's reading of a text is what was meant."""
    value: Any = read.value()
    if isinstance(value, bool | int | float):
        return str(value) == typed
    if isinstance(value, str) or value is None:
        return True
    return sweeps or not Path(typed).expanduser().exists()  # a sweep, a list or a {}


def _text(value: str, sweeps: bool) -> str:
    if sweeps and "," in value and not Path(value).expanduser().exists():
        return _each_quoted(value)
    return quoted_for_hydra(value)


def _each_quoted(values: str) -> str:
    return ",".join(part if parsed(f"key={part}") else quoted_for_hydra(part) for part in values.split(","))


def quoted_for_hydra(text: str) -> str:
    r"""A text between double quotes, as Hydra's grammar has it: backslashes before a quote are doubled.

    >>> quoted_for_hydra("it's (1)")
    '"it\'s (1)"'
    """
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ("\\" + m[2] if m[2] else ""), text) + '"'


def to_type(argument: str) -> str:
    """An argument as one types it in a shell."""
    return shlex.quote(argument)
