"""Train on a real SLURM of two nodes: srun, sbatch with a requeue, a sweep of submitit's, a job array.

    sudo make slurm

The cluster is set up for it on this machine and taken apart again, see _slurm.py. About five minutes on two cores.
Prints a line a trial, and ends with status 1 where one fails; where SLURM is not installed it says so.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import csv
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _slurm
import torch
from _machines import ROOT

from repel.base.signals import ends_on_signal

LIMIT = 900.0  # seconds for everything
TINY = ["experiment=debug", "encoder.width=4", "head.out_features=8", "data.batch_size=16", "callbacks.pairs=null",
        "callbacks.knn=null", "callbacks.monitor=null", "evaluators=[]", "evaluation.map=null", "evaluation.bank=64",
        "data.val_fraction=0.01"]  # fmt: skip
PYTHON, TRAIN = sys.executable, str(ROOT / "train.py")
TWO = ["trainer.devices=1", "trainer.num_nodes=2"]
LONG = ["trainer.max_epochs=2000"]
# USR1 comes a minute before the end, or two: SLURM looks once a minute
BATCH = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time=3 --requeue --signal=USR1@60 --open-mode=append --output=batch.txt
srun {PYTHON} {TRAIN} {" ".join(TINY)} {" ".join(TWO)} {" ".join(LONG)} name=batch
status=$?
echo "srun ended with $status"
[ $status -ne 143 ] || scontrol requeue $SLURM_JOB_ID
exit $status
"""
ARRAY = f"""#!/bin/bash
#SBATCH --ntasks=1 --time=5 --array=0-1 --output=array_%a.txt
temperature=(0.2 -1)
{PYTHON} {TRAIN} {" ".join(TINY)} loss.temperature=${{temperature[$SLURM_ARRAY_TASK_ID]}} name=array$SLURM_ARRAY_TASK_ID
"""


def srun(folder: Path) -> str:
    _train("trainer.devices=2", "name=reference")
    done = subprocess.run(
        ["srun", "-N2", "-n2", PYTHON, TRAIN, *TINY, *TWO, "name=srun"], capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (devices,) = re.findall("^devices .*", done.stdout, re.M)
    return f"{_compared('reference', 'srun')}; {' '.join(devices.split())}"


def sbatch(folder: Path) -> str:
    """It is stopped, requeued, and goes on in the same run; then canceled, and compared with one without SLURM."""
    Path("batch.sh").write_text(BATCH, encoding="utf-8")
    job, printed = _submitted("batch.sh"), Path("batch.txt")
    _until(lambda: re.search("from step.*^epoch", _text(printed), re.M | re.S), f"batch.txt of job {job}", printed)
    subprocess.run(["scancel", job], check=True)
    shown = _ended(job)
    assert "JobState=CANCELLED" in shown, shown + _text(printed)
    (run,) = Path("runs/train").glob("*_batch")
    losses = _losses(run)
    words = [PYTHON, TRAIN, *TINY, "trainer.devices=2", *LONG, "name=long"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _until(lambda: len(_losses(next(Path("runs/train").glob("*_long"), run))) > len(losses), "a run without SLURM")
        process.terminate()
    reference = _losses(next(Path("runs/train").glob("*_long")))
    assert [reference[step] for step in losses] == list(losses.values()), "other losses"
    seen = re.findall("stopped  after step.*|srun ended.*|(?<=, )from step.*", _text(printed))
    return f"{'; '.join(seen)}; canceled; the losses of {len(losses)} steps equal in all bits"


def array(folder: Path) -> str:
    Path("array.sh").write_text(ARRAY, encoding="utf-8")
    job = _submitted("array.sh")
    states = []
    for number in range(2):
        shown = _ended(f"{job}_{number}")
        states.append(" ".join(re.findall(r"(?:JobState|ExitCode)=\S+", shown)))
    printed = Path("array_1.txt").read_text(encoding="utf-8")
    assert states == ["JobState=COMPLETED ExitCode=0:0", "JobState=FAILED ExitCode=2:0"], (states, printed)
    return f"{'; '.join(states)}: {printed.strip()}"


def sweep(folder: Path) -> str:
    if importlib.util.find_spec("submitit") is None:
        return "skipped: needs hydra-submitit-launcher (pip install -e '.[launchers]')"
    words = [
        "-m",
        "seed=1,2",
        "loss.temperature=0.2,-1",
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.partition=all",
    ]
    done = subprocess.run(
        [PYTHON, TRAIN, *TINY, *words, "hydra.launcher.timeout_min=5"], capture_output=True, encoding="utf-8"
    )
    finished = list(Path("sweeps/train").glob("*/*/metrics.json"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(finished) == 2, done.stdout + done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed ")]
    return "\n".join([f"status 2, {len(finished)} runs finished, {len(failed)} failed", *failed])


TRIALS = {"srun": srun, "sbatch": sbatch, "array": array, "sweep": sweep}


def _train(*options: str) -> None:
    """On one machine, without SLURM."""
    done = subprocess.run([PYTHON, TRAIN, *TINY, *options], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def _submitted(script: str) -> str:
    return subprocess.run(
        ["sbatch", "--parsable", script], check=True, capture_output=True, encoding="utf-8"
    ).stdout.strip()


def _ended(job: str) -> str:
    """What SLURM shows of a job once it has ended."""
    ended = "JobState=(COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL)"
    _until(lambda: re.search(ended, _shown(job)), f"the end of job {job}")
    return _shown(job)


def _shown(job: str) -> str:
    return subprocess.run(["scontrol", "show", "job", job], check=True, capture_output=True, encoding="utf-8").stdout


def _until(done: Callable[[], object], what: str, printed: Path | None = None) -> None:
    until = time.monotonic() + LIMIT / 2
    while not done():
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not come" + (":\n" + _text(printed) if printed else ""))
        time.sleep(1)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _losses(run: Path) -> dict[str, str]:
    """train/loss by step."""
    if not (run / "metrics.csv").exists():
        return {}
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return {row["step"]: row["train/loss"] for row in csv.DictReader(file) if row.get("train/loss")}


def _compared(reference: str, name: str) -> str:
    one, other = (
        torch.load(next(Path("runs/train").glob(f"*_{run}")) / "checkpoints/last.ckpt", weights_only=True)
        for run in (reference, name)
    )
    assert one["global_step"] == other["global_step"]
    for key, tensor in one["state_dict"].items():
        assert torch.equal(tensor, other["state_dict"][key]), f"{name}: {key} differs"
    return f"step {one['global_step']}, {len(one['state_dict'])} tensors equal in all bits"


def inside(folder: Path, chosen: list[str]) -> int:
    """Within the namespaces: start SLURM and try."""
    os.environ.pop("OMP_NUM_THREADS", None)
    (folder / "slurm").mkdir()
    _slurm.start(folder / "slurm")
    (folder / "shared").mkdir()
    os.chdir(folder / "shared")
    failed = 0
    for name in chosen or TRIALS:
        try:
            said = TRIALS[name](folder)
        except AssertionError as error:
            said, failed = f"FAILED: {error}", failed + 1
        print(f"{name}\n  " + said.replace("\n", "\n  "), flush=True)
    return int(failed > 0)


@ends_on_signal
def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        return inside(Path(sys.argv[2]), sys.argv[3:])
    if lacking := _slurm.missing():
        print(f"skipped: no SLURM can be set up here: {lacking}")
        return 0
    with tempfile.TemporaryDirectory(prefix="repel_slurm_") as folder:
        return _slurm.within([sys.executable, __file__, "--inside", folder, *sys.argv[1:]], LIMIT)


if __name__ == "__main__":
    sys.exit(main())
