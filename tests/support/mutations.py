"""Switch off each protection of a run, one by one: does a test fail then? make mutations, or

    python tests/support/mutations.py [--unchanged] [NAME ...]

Each is a small change of a source line (protections.py), made in a copy of this checkout, where the tests that hold the
protection are run. Prints a line each: held, or NOT HELD where they pass all the same. Exit status 1 if any is not
held, 2 if a change no longer fits the source. NAME is any part of a name. --unchanged runs the same tests on the
sources as they are, where all must pass.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from protections import PROTECTIONS, Protection

ROOT = Path(__file__).parents[2]
COPIED = ("src", "conf", "tests", "scripts", "train.py", "evaluate.py", "embed.py", "export.py", "pyproject.toml",
          "requirements.lock")  # fmt: skip
LIMIT = 120  # seconds for a test: one that hangs without its protection has failed


def changed(text: str, protection: Protection) -> str:
    """The source without the protection.

    Raises:
        ValueError: the text to replace does not stand there once.
    """
    for find, replace in protection.changes:
        if (count := text.count(find)) != 1:
            raise ValueError(f"{protection.name}: {find!r} stands {count} times in {protection.file}, not once")
        text = text.replace(find, replace)
    return text


def copy_to(folder: Path) -> None:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)


def run_tests(folder: Path, tests: list[str]) -> tuple[int, str]:
    """Pytest's exit status, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", f"--timeout={LIMIT}"]
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *(f"tests/{test}" for test in tests)], cwd=folder, env=environment,
                            capture_output=True, text=True)  # fmt: skip
    return result.returncode, result.stdout + result.stderr


def verdict(folder: Path, protection: Protection, unchanged: bool) -> tuple[str, str]:
    """`held`, `NOT HELD` or `ERROR`, and what the tests printed."""
    path = folder / protection.file
    original = path.read_text(encoding="utf-8")
    if not unchanged:
        path.write_text(changed(original, protection), encoding="utf-8")
    try:
        status, printed = run_tests(folder, protection.tests)
    finally:
        path.write_text(original, encoding="utf-8")
    if status not in (0, 1):
        return "ERROR", printed  # nothing was collected, or a file could not be imported
    if unchanged:
        return ("passes", "") if status == 0 else ("FAILS", printed)
    return ("held", "") if status == 1 else ("NOT HELD", "")


def main() -> int:
    names = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    unchanged = "--unchanged" in sys.argv[1:]
    chosen = [p for p in PROTECTIONS if not names or any(name in p.name for name in names)]
    try:
        for protection in chosen:
            changed((ROOT / protection.file).read_text(encoding="utf-8"), protection)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    bad = 0
    with tempfile.TemporaryDirectory(prefix="mutations_") as place:
        copy_to(Path(place))
        for protection in chosen:
            started = time.monotonic()
            words, printed = verdict(Path(place), protection, unchanged)
            print(f"{words:9} {protection.name} ({time.monotonic() - started:.0f} s)", flush=True)
            if printed:
                print(printed[-2000:])
            bad += words not in ("held", "passes")
    print(f"{len(chosen) - bad} of {len(chosen)}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
