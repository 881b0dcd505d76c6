"""Faults on purpose: in this process, or in a command and all its ranks by `command(..., **injected("kill:1:3"))`.

A fault is `what:who:step`. `who` is a rank, `parent` or `group` (what started the ranks, or its process group, by the
first rank's hand). `step` counts finished optimizer steps, for `disk` and `tear` checkpoints written.

    raise   an exception in the training step            kill    SIGKILL after the step
    nan     a loss that is no number                     TERM, USR1, INT    that signal during the step
    disk    no space left while a checkpoint is written
    tear    SIGKILL while a checkpoint is written

`<run>/faulted` keeps a fault from striking again after a resume.
"""

import contextlib
import importlib.abc
import importlib.util
import os
import signal
import sys
from pathlib import Path

INJECT = Path(__file__).parent / "inject"


def injected(fault: str) -> dict[str, str]:
    """The environment that arms a fault in a command."""
    return {"REPEL_FAULT": fault, "PYTHONPATH": str(INJECT)}


class WhenImported(importlib.abc.MetaPathFinder):
    """Calls a function right after a module was imported for the first time."""

    def __init__(self, name: str, then):
        self.name, self.then = name, then

    def find_spec(self, name, path, target=None):
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            self.then()

        spec.loader.exec_module = exec_module
        return spec


def arm_when_imported(fault: str) -> None:
    sys.meta_path.insert(0, WhenImported("repel.engine.fit", lambda: arm(fault)))


@contextlib.contextmanager
def armed(fault: str):
    """In this process."""
    disarm = arm(fault)
    try:
        yield
    finally:
        disarm()


def arm(fault: str):
    """Patch what trains; returns what undoes it."""
    what, who, step = fault.split(":")
    if what in ("disk", "tear"):
        return replace_save(what, int(step))
    from repel.module import Contrastive

    usual_step, usual_end = Contrastive.shared_step, Contrastive.on_train_batch_end

    def due(module, now: int) -> bool:
        mine = module.global_rank == (int(who) if who.isdigit() else 0)
        return mine and now == int(step) and module.trainer.training and first_time(module.trainer.default_root_dir)

    def shared_step(module, batch):
        loss, output = usual_step(module, batch)
        if what != "kill" and due(module, module.global_step):
            if what == "raise":
                raise RuntimeError(f"boom on rank {module.global_rank}")
            if what == "nan":
                loss = loss * float("nan")
                return loss, output._replace(loss=loss.detach())
            send(signal.Signals[f"SIG{what}"], who)
        return loss, output

    def on_train_batch_end(module, *args):
        if what == "kill" and due(module, module.global_step):
            os.kill(os.getpid(), signal.SIGKILL)
        usual_end(module, *args)

    Contrastive.shared_step, Contrastive.on_train_batch_end = shared_step, on_train_batch_end

    def disarm():
        Contrastive.shared_step, Contrastive.on_train_batch_end = usual_step, usual_end

    return disarm


def send(number: signal.Signals, who: str) -> None:
    several = "LOCAL_WORLD_SIZE" in os.environ
    starter = os.getppid() if several else os.getpid()
    if who == "group":
        os.killpg(os.getpgid(starter), number)
    else:
        os.kill(starter if who == "parent" else os.getpid(), number)


def first_time(folder: str) -> bool:
    try:
        (Path(folder) / "faulted").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def replace_save(what: str, number: int):
    """From the given checkpoint on, the disk is full half-way through the file, or the process ends there."""
    import torch

    usual, written = torch.save, []

    def save(content, file):
        written.append(1)
        if len(written) >= number:
            file.write(b"half of it")
            if what == "tear":
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")
        usual(content, file)

    torch.save = save

    def disarm():
        torch.save = usual

    return disarm


def flip(path: Path, at: int) -> None:
    """Turn over one bit of the byte at a place."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
