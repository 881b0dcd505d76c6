"""What trainer.profiler measures, and where it shows it."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lightning.pytorch.profilers import AdvancedProfiler, PassThroughProfiler, Profiler, PyTorchProfiler, SimpleProfiler

__all__ = ["NoProfiler", "make_profiler", "print_profile"]

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
ROWS = 15  # of a profile's table on the terminal


class NoProfiler(PassThroughProfiler):
    """Measures nothing. Lightning enters its profiler's context some hundred times in a step, and makes each anew."""

    nothing = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager:  # type: ignore[override]
        return self.nothing


def make_profiler(name: str | None, folder: Path) -> Profiler:
    """By its name, one that writes its table into the folder; None: one that measures nothing."""
    if name is not None:
        return PROFILERS[name](dirpath=str(folder), filename="profile")
    return NoProfiler()


def print_profile(profiler: Profiler, folder: Path) -> None:
    """The head of the table of trainer.profiler, and where all of it is; without a profiler nothing."""
    lines = [line for line in profiler.summary().splitlines() if line.strip(" -")]
    if not lines:
        return
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:ROWS]]
    for line, (name, *numbers) in zip(lines, (row or [""] for row in rows), strict=False):
        table_of_simple = f"{name[:60]:<60} " + " ".join(f"{number:>17}" for number in numbers)
        print(table_of_simple if numbers else line[:140].rstrip())
    files = ", ".join(file.name for file in sorted(folder.glob("*profile*")))
    print(f"profile  all of it: {files} in the run folder", flush=True)
