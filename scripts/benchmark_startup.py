"""Time from `python train.py` to its first step, and to the error line of a mistake: docs/benchmarks/startup.md

    python scripts/benchmark_startup.py [repeats]

The time to the first step includes start-up, reading the bundled data and the validation after that step.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import platform
import statistics
import subprocess
import sys
import tempfile
import time

from _benchmark import ROOT, versions, write_page

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

ONE_STEP = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "callbacks.knn=null"]
CASES = {
    "first step, one device": (ONE_STEP, "epoch 1/1"),
    "first step, two ranks": ([*ONE_STEP, "trainer.devices=2"], "epoch 1/1"),
    "the error line of a mistake": (["loss.temperature=-1"], "error: loss.temperature"),
}


def seconds(arguments: list[str], mark: str) -> float:
    """Until a line that starts with mark is printed; the command then runs to its end."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        command = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        reached = None
        for line in process.stdout:
            if reached is None and line.startswith(mark):
                reached = time.perf_counter() - started
        process.wait()
    if reached is None:
        raise SystemExit(f"error: {' '.join(command)} never printed {mark!r}")
    return reached


@ends_on_signal
def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rows = []
    for name, (arguments, mark) in CASES.items():
        times = [seconds(arguments, mark) for _ in range(repeats)]
        rows.append(f"| {name} | {statistics.median(times):.1f} | {min(times):.1f} - {max(times):.1f} |")
        print(rows[-1])
    write_page(
        "startup.md",
        "# Start-up\n\n"
        f"`python scripts/benchmark_startup.py {repeats}`, {usable_cores()} CPU cores, Python "
        f"{platform.python_version()}, {versions('torch', 'lightning')}.\n\n"
        f"| from `python train.py` to | median of {repeats}, s | range, s |\n|---|---|---|\n" + "\n".join(rows) + "\n",
    )


if __name__ == "__main__":
    sys.exit(main())
