"""Train on a real SLURM of two nodes: srun, sbatch with a requeue, a sweep of submitit's, a job array.

    sudo make slurm

The cluster is set up for it on this machine and taken apart again, see _slurm.py. About five minutes on two cores.
Prints a line a trial, and ends with status 1 where one fails; where SLURM is not installed it says so.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
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
LONG = ["trainer.max_epochs=80"]
# USR1 comes 90 seconds before the end, or earlier: SLURM looks now and then
BATCH = f"""#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time=2 --requeue --signal=USR1@90 --open-mode=append --output=batch.txt
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
        ["srun", "-N2", "-n2", PYTHON, TRAIN, *TINY, *TWO, "name=srun"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (devices,) = re.findall("^devices .*", done.stdout, re.M)
    return f"{_compared('reference', 'srun')}; {' '.join(devices.split())}"


def sbatch(folder: Path) -> str:
    _train("trainer.devices=2", *LONG, "name=long")
    Path("batch.sh").write_text(BATCH, encoding="utf-8")
    job = _submitted("batch.sh")
    shown = _ended(job)
    printed = Path("batch.txt").read_text(encoding="utf-8")
    assert "JobState=COMPLETED" in shown, shown + printed
    restarts = int(re.findall(r"Restarts=(\d+)", shown)[0])
    ends = re.findall("srun ended with (.*)", printed)
    steps = re.findall("stopped  after (step .*)", printed)
    assert restarts, printed
    said = f"{restarts} times requeued, srun's statuses {', '.join(ends)}, stopped after {', '.join(steps)}"
    return f"{said}; {_compared('long', 'batch')}"


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
        [PYTHON, TRAIN, *TINY, *words, "hydra.launcher.timeout_min=5"], capture_output=True, text=True
    )
    finished = sorted(str(path.parent) for path in Path("sweeps/train").glob("*/*/metrics.json"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert len(finished) == 2, done.stdout + done.stderr
    return f"status 2, {len(finished)} runs finished\n{(done.stdout + done.stderr).strip()}"


TRIALS = {"srun": srun, "sbatch": sbatch, "array": array, "sweep": sweep}


def _train(*options: str) -> None:
    """On one machine, without SLURM."""
    done = subprocess.run([PYTHON, TRAIN, *TINY, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _submitted(script: str) -> str:
    return subprocess.run(["sbatch", "--parsable", script], check=True, capture_output=True, text=True).stdout.strip()


def _ended(job: str) -> str:
    """What SLURM shows of a job once it has ended."""
    until = time.monotonic() + LIMIT
    while time.monotonic() < until:
        shown = subprocess.run(["scontrol", "show", "job", job], check=True, capture_output=True, text=True).stdout
        if re.search("JobState=(COMPLETED|FAILED|TIMEOUT|CANCELLED|NODE_FAIL)", shown):
            return shown
        time.sleep(1)
    raise AssertionError(f"job {job} did not end")


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
