"""All that is to be shown on a GPU, by one command of at most 25 minutes: docs/benchmarks/gpu.md

    pip install -e '.[benchmark]' open_clip_torch
    python scripts/gpu_evidence.py [--cifar FOLDER] [--gowalla FOLDER] [--minutes 25] [--again STEP] [--seed 1]

Each step is a process of its own and gets a share of the time that is left. What it found is written at once, into
gpu.json and the page; called again, the command makes the steps that are missing, and those named by --again. A step
that does not fit into the time, or fails, says so on the page. Exit status 1 if a step failed or something is not
within its tolerance.

    python scripts/gpu_evidence.py --device cpu --tiny --folder FOLDER    a dry run, in a minute

--cifar: a folder train/CLASS/*.jpg, test/CLASS/*.jpg of CIFAR-10's images; without it torchvision downloads CIFAR-10.
--gowalla: a folder with train.txt and test.txt, as LightGCN's repository has them.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from _benchmark import PAGES
from _gpu_steps import Evidence, Given, LeftOut, Section, machine

from repel.base.signals import ends_on_signal

RESERVE = 0.1  # of a step's time, kept from it, so that it ends by itself
HEAD = "# On a GPU\n\n`python scripts/gpu_evidence.py` writes this page, step by step. Every step says where it ran.\n"


@dataclass(frozen=True)
class Step:
    """module: has a function of the step's name. share: of the time. least: seconds below which it is left out."""

    module: str
    title: str
    share: float
    least: float


STEPS = {
    "agreement": Step("_gpu_agreement", "CPU and GPU agree", 2, 60),
    "speed": Step("_gpu_speed", "Steps of training", 3, 60),
    "rivals": Step("_gpu_rivals", "Beside other libraries", 3, 60),
    "precision": Step("_gpu_speed", "Precision", 3, 60),
    "cifar": Step("_gpu_runs", "CIFAR-10", 10, 180),
    "gowalla": Step("_gpu_runs", "Gowalla", 4, 120),
}
Results = dict[str, dict[str, Any]]


def make(name: str, given: Given) -> dict[str, Any]:
    """Run a step here."""
    began = time.monotonic()
    function: Callable[[Given], Evidence] = getattr(import_module(STEPS[name].module), name)
    try:
        found = asdict(function(given))
    except LeftOut as why:
        return {"left_out": str(why)}
    return found | {"seconds": time.monotonic() - began, "seed": given.seed} | machine(given.device)


def make_apart(name: str, seconds: float, typed: Sequence[str]) -> dict[str, Any]:
    """Run a step in a process of its own: what breaks there, or hangs, breaks nothing else."""
    command = [sys.executable, __file__, *typed, "--step", name, "--seconds", str((1 - RESERVE) * seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                               start_new_session=True)  # fmt: skip
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"it was not done after {seconds:.0f} s"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started, such as a training
            process.wait()
    if process.returncode:
        said = err.strip().splitlines() or [f"exit status {process.returncode}"]
        return {"failed": said[-1]}
    return json.loads(out.splitlines()[-1])


def time_for(name: str, waiting: Sequence[str], left: float) -> float:
    """Seconds for a step: its share of the time that is left, among the steps that wait."""
    return left * STEPS[name].share / sum(STEPS[other].share for other in waiting)


def make_steps(waiting: list[str], ends: float, run: Callable[[str, float], dict], keep: Callable[[str, dict], None]):
    """Run the steps that wait, in turn, each in its share of the time; keep what each found at once."""
    while waiting:
        name, left = waiting[0], ends - time.monotonic()
        seconds = time_for(name, waiting, left)
        if seconds < STEPS[name].least <= left:
            seconds = STEPS[name].least
        if seconds < STEPS[name].least:
            keep(name, {"left_out": f"it needs {STEPS[name].least:.0f} s, and {max(left, 0):.0f} s are left"})
        else:
            print(f"{name}: {seconds:.0f} s at most", flush=True)
            keep(name, run(name, seconds))
        waiting = waiting[1:]


def done(result: dict[str, Any] | None) -> bool:
    return result is not None and result.get("complete", False)


def fine(result: dict[str, Any]) -> bool:
    return "failed" not in result and result.get("agrees") is not False


def page(results: Results) -> str:
    lines = [HEAD]
    for name, step in STEPS.items():
        lines += [f"## {step.title}", "", *report(results.get(name)), ""]
    return "\n".join(lines).rstrip() + "\n"


def report(result: dict[str, Any] | None) -> list[str]:
    """What a step found, as lines of the page."""
    if result is None:
        return ["Not run yet."]
    command = f"`{result['command']}`"
    for key, word in (("left_out", "left out"), ("failed", "failed")):
        if key in result:
            return [f"{command}: {word}: {result[key]}"]
    where = f"{result['name']} (`{result['device']}`), driver {result['driver']}, {result['versions']}"
    lines = [f"{command}: {where}; seed {result['seed']}, {result['seconds']:.0f} s.", ""]
    for section in result["sections"]:
        lines += Section(**section).lines()
    return lines[:-1]


def write(folder: Path, results: Results) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(results), encoding="utf-8")


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--device", help="the accelerator's name in torch; default: the one that there is")
    parser.add_argument("--tiny", action="store_true", help="a dry run, with sizes that show nothing")
    parser.add_argument("--folder", type=Path, default=PAGES, help="of the page")
    parser.add_argument("--again", action="append", default=[], choices=STEPS, help="a step to repeat")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--gowalla", type=Path)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.device is None:
        if not torch.accelerator.is_available():
            parser.error("torch finds no accelerator; a dry run: --device cpu --tiny --folder FOLDER")
        options.device = torch.accelerator.current_accelerator().type
    if options.tiny and options.folder == PAGES:
        parser.error("--tiny needs --folder FOLDER: its numbers are not for the page")
    for name in ("cifar", "gowalla"):
        if (path := getattr(options, name)) is not None and not path.is_dir():
            parser.error(f"--{name} {path}: there is no such folder")
    return options


def given_to(options: argparse.Namespace) -> Given:
    ends = time.monotonic() + options.seconds
    return Given(options.device, options.tiny, ends, options.seed, options.cifar, options.gowalla)


def command_of(options: argparse.Namespace) -> str:
    """As the page says it, without the names of this machine's folders."""
    words = [f"--minutes {options.minutes:g}", f"--seed {options.seed}", f"--device {options.device}"]
    words += ["--tiny --folder FOLDER"] if options.tiny else []
    words += [f"--{name} FOLDER" for name in ("cifar", "gowalla") if getattr(options, name)]
    return " ".join(["python scripts/gpu_evidence.py", *words])


@ends_on_signal
def main(arguments: Sequence[str] | None = None) -> int:
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = read_options(typed)

    if options.step:
        print(json.dumps(make(options.step, given_to(options))))
        return 0
    command = command_of(options)
    stored = options.folder / "gpu.json"
    results: Results = json.loads(stored.read_text(encoding="utf-8")) if stored.exists() else {}

    def keep(name: str, result: dict[str, Any]) -> None:
        results[name] = result | {"command": command}
        write(options.folder, results)
        words = next(
            (f"{key.replace('_', ' ')}: {result[key]}" for key in ("failed", "left_out") if key in result), "done"
        )
        print(f"{name}: {words}", flush=True)

    waiting = [name for name in STEPS if name in options.again or not done(results.get(name))]
    for name in (name for name in STEPS if name not in waiting):
        print(f"{name}: done before")
    make_steps(waiting, time.monotonic() + 60 * options.minutes, lambda name, s: make_apart(name, s, typed), keep)
    return 0 if all(map(fine, results.values())) else 1


if __name__ == "__main__":
    sys.exit(main())
