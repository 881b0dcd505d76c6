"""Checkpoints as files: written atomically, plain containers and tensors only, and read without running code."""

import contextlib
import errno
import os
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO

__all__ = ["AtomicCheckpointIO", "check_fits", "load", "read"]

PLAIN = {str, bytes, int, float, bool, type(None), torch.Tensor, torch.nn.Parameter, torch.dtype, torch.Size}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: a kill or a full disk leaves the old file intact.

    (Lightning's own writer goes through $TMPDIR, which may be another file system, where a rename is a copy.)

    Args:
        loaded: a checkpoint that was read already: path and contents, which the first load of that path gets.
    """

    def __init__(self, loaded: tuple[Path, dict[str, Any]] | None = None):
        super().__init__()
        self._loaded = loaded

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        loaded, self._loaded = self._loaded, None  # not kept: it is as large as the network and its optimizer
        if loaded is not None and loaded[0] == Path(path):
            return loaded[1]
        return super().load_checkpoint(path, *args, **kwargs)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        _check_plain(checkpoint)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")  # one name: what a kill leaves, the next save overwrites
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                _flush_to_disk(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
            cause = error if isinstance(error, OSError) else error.__context__ or error
            kept = f"; the earlier {path.name} is intact" if path.exists() else ""
            raise OSError(f"cannot write {path}: {cause}{kept}") from error
        finally:
            temporary.unlink(missing_ok=True)
        # the file itself is on disk: that its new name is there too is a bonus, which CIFS, sshfs and WSL's drives lack
        with contextlib.suppress(OSError):
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _flush_to_disk(file: int) -> None:
    """fsync of a file, where its file system has one. That the disk is full or broken is an error."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise


def _check_plain(value: Any, key: str = "checkpoint") -> None:
    """Refuse what torch.load(weights_only=True) would refuse later, when it is too late.

    Raises:
        TypeError: names the key and the type.
    """
    if type(value) in (dict, OrderedDict, defaultdict):
        for name, item in value.items():
            _check_plain(name, f"a key of {key}")
            _check_plain(item, f"{key}[{name!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            _check_plain(item, f"{key}[{index}]")
    elif type(value) not in PLAIN:
        raise TypeError(f"{key} is a {type(value).__name__}; a checkpoint holds plain containers and tensors only")


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's contents on the CPU, without running any code in it.

    Raises:
        ValueError: no file, a damaged one, or not a checkpoint of this project; names the newest good one beside it.
    """
    try:
        return read(path)
    except ValueError as error:
        raise ValueError(f"{error}{_alternative(path)}") from error


def read(path: Path) -> dict[str, Any]:
    """As load, without a look at the other checkpoints."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        with zipfile.ZipFile(path) as records:
            changed = records.testzip()  # torch writes each record's CRC-32, and does not check it
        contents = None if changed else torch.load(path, map_location="cpu", weights_only=True)
    # torch raises a dozen kinds for a damaged or foreign file, some with advice to unpickle it
    except Exception as error:
        raise ValueError(f"{path} is damaged or not a checkpoint ({type(error).__name__})") from error
    if changed:
        raise ValueError(f"{path} is damaged or not a checkpoint (its record {changed} is not what was written)")
    if not isinstance(contents, dict) or "config" not in contents or "state_dict" not in contents:
        raise ValueError(f"{path} is not a checkpoint written by train.py")
    return contents


def _alternative(path: Path) -> str:
    """What to use in place of a bad file, in words: the newest good checkpoint of the same run."""
    others = sorted(path.parent.glob("*.ckpt"), key=lambda other: other.stat().st_mtime_ns, reverse=True)
    for other in others:
        if other != path:
            try:
                epoch = read(other)["epoch"] + 1
            except ValueError:
                continue
            return f"; {other.name} beside it is good, of epoch {epoch}: use resume={other} or ckpt={other}"
    return ""


def check_fits(module: LightningModule, contents: dict[str, Any], path: Path) -> None:
    """Raises ValueError where a checkpoint's weights are not those of this network; names the first."""
    ours, theirs = module.state_dict(), contents["state_dict"]
    for name in [n for n in dict.fromkeys([*ours, *theirs]) if not n.startswith("loss.")]:  # a queue grows
        here, there = (tuple(state[name].shape) if name in state else "absent" for state in (ours, theirs))
        if here != there:
            raise ValueError(
                f"{path} is of another network: {name} is {there} there and {here} here; use the code that wrote it"
            )
