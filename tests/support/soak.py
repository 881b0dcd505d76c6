"""Random kills and resumes for so many minutes: make soak, or python tests/support/soak.py [MINUTES] [SEED].

Runs on one rank and on two, half of them with data workers, are killed at random moments (SIGKILL to one rank or all,
or SIGTERM), resumed, killed again, and at the end compared with the run that nothing befell. Prints a tally; exit
status 1 if a checkpoint was torn, something hung or was left behind, or a run ended in other bits.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

import ranks
from conftest import config, make_folder, same
from stateful_runs import EVERY, STATEFUL, losses

from repel.engine import checkpoint_io, run_lock, runs
from repel.engine.configs import to_container
from repel.engine.launch import NEW, RESUME

PATIENCE = 60  # seconds in which ranks whose neighbor died must end, and a whole run


def group(leaders: list[int]) -> list[int]:
    """Live processes of these process groups: ranks with their data workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = path.read_text().rsplit(")", 1)[1].split()[:3]
        except OSError:
            continue
        if int(pgid) in leaders and state != "Z":
            found.append(int(path.parent.name))
    return found


def gone(leaders: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while group(leaders):
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


class Soak:
    def __init__(self, root: Path, seed: int):
        self.root, self.random, self.tally, self.whole = root, random.Random(seed), Counter(), {}
        pictures = make_folder(root / "images", ["red", "green"], 40)
        files = ["data=image_folder", f"data.root={pictures}", "data.image_size=28", "data.batch_size=16",
                 "data.val_fraction=0.1"]  # fmt: skip
        data = {"memory": [], "workers": [*files, "data.workers=1"]}
        self.kinds = {
            (world, name): config(*STATEFUL, "trainer.max_epochs=8", EVERY, *more, f"trainer.devices={world}")
            for world in (1, 2)
            for name, more in data.items()
        }

    def prepare(self) -> None:
        """The runs that nothing befalls, and how long they take."""
        for kind, cfg in self.kinds.items():
            folder = self.root / f"whole_{kind[0]}_{kind[1]}"
            start = time.monotonic()
            assert ranks.run(cfg, folder) == [0] * kind[0]
            self.whole[kind] = folder, time.monotonic() - start

    def run(self, number: int) -> None:
        kind = self.random.choice(list(self.kinds))
        cfg, folder, (whole, duration) = self.kinds[kind], self.root / f"run{number}", self.whole[kind]
        runs.create(folder, to_container(cfg), [])
        run_lock.unlock(folder)
        for _ in range(self.random.randint(1, 4)):
            self.once(cfg, folder, self.random.uniform(0.02, 0.8) * duration)
        if not self.once(cfg, folder, None):
            return
        here, there = (checkpoint_io.load(f / "checkpoints/last.ckpt") for f in (folder, whole))
        equal = all(same(here[part], there[part]) for part in ("global_step", "state_dict", "optimizer_states"))
        self.tally["runs"] += 1
        self.tally["in other bits"] += not (equal and losses(folder).items() <= losses(whole).items())
        shutil.rmtree(folder)

    def once(self, cfg, folder: Path, kill_after: float | None) -> bool:
        """Start, kill if asked for, wait; whether the run ended by itself."""
        last = folder / "checkpoints/last.ckpt"
        if not last.exists():
            runs.reset(folder, [])
        processes = ranks.start(folder, cfg.trainer.devices, RESUME if last.exists() else NEW)
        leaders = [process.pid for process in processes]
        if kill_after is not None:
            time.sleep(kill_after)
            self.kill(processes)
        try:
            statuses = ranks.end(processes, PATIENCE)
        except AssertionError:
            self.tally["hung"] += 1
            statuses = [None]
        self.tally["waited for a rank that had died at its start"] += any(hasattr(p, "waited") for p in processes)
        self.tally["left behind"] += not gone(leaders, 15)
        for file in folder.glob("checkpoints/*.ckpt"):
            try:
                checkpoint_io.read(file)
            except ValueError as error:
                self.tally["torn"] += 1
                print(error)
        if kill_after is None and any(statuses):
            self.tally["failed"] += 1
            print(*(record.read_text() for record in folder.glob("error_rank*.json")))
        return not any(statuses)

    def kill(self, processes) -> None:
        alive = [process for process in processes if process.is_alive()]
        number = self.random.choice([signal.SIGKILL] * 3 + [signal.SIGTERM])
        chosen = alive if self.random.random() < 0.5 else alive[-1:]
        for process in chosen:
            os.kill(process.pid, number)
        if chosen:
            self.tally[number.name] += 1
            self.tally["kills"] += 1
            self.tally[f"on {len(processes)} ranks"] += 1


def main() -> int:
    minutes, seed = (float(sys.argv[1]) if len(sys.argv) > 1 else 10), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = Path(tempfile.mkdtemp(prefix="soak_"))
    soak = Soak(root, seed)
    soak.prepare()
    until, number = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < until:
        soak.run(number)
        number += 1
    bad = ("torn", "hung", "left behind", "in other bits", "failed")
    print(", ".join(f"{soak.tally[name]} {name}" for name in ("kills", "runs", *bad)))
    print(", ".join(f"{n} {name}" for name, n in sorted(soak.tally.items()) if name not in ("kills", "runs", *bad)))
    shutil.rmtree(root)
    return int(any(soak.tally[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
