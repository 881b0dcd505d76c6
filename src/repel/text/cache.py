"""Arrays that take long to make, kept on disk and memory-mapped: texts out of large files, and their tokens."""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ArrayWriter", "Kept", "cache_folder", "kept_arrays"]

LARGE = 32 * 2**20  # bytes of files above which data.cache=auto keeps their texts and tokens on disk
FACTS = "facts.json"
VERSION = 1  # of what an entry holds


class Kept(NamedTuple):
    """arrays: by name; facts: what else was found out, as in JSON; folder: of the entry, None: all is in memory."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    folder: Path | None


class ArrayWriter:
    """Arrays that grow at the end, in files of a folder, or in memory.

    >>> writer = ArrayWriter(None)
    >>> writer.append("x", np.array([[1, 2]]))
    >>> writer.append("x", np.array([[3, 4], [5, 6]]))
    >>> writer.close()["x"].tolist()
    [[1, 2], [3, 4], [5, 6]]
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.streams: dict[str, Any] = {}
        self.forms: dict[str, tuple[str, list[int]]] = {}  # type, shape

    def append(self, name: str, block: np.ndarray) -> None:
        """A block of rows, of one type and row shape in all of an array's blocks."""
        if name not in self.streams:
            self.streams[name] = io.BytesIO() if self.folder is None else (self.folder / name).open("wb")
            self.forms[name] = block.dtype.str, [0, *block.shape[1:]]
        self.forms[name][1][0] += len(block)
        self.streams[name].write(np.ascontiguousarray(block).data)

    def close(self) -> dict[str, np.ndarray]:
        """The arrays, of those in memory; files are complete then."""
        if self.folder is not None:
            for stream in self.streams.values():
                stream.close()
            return {}
        return {name: np.frombuffer(self.streams[name].getbuffer(), kind).reshape(shape)
                for name, (kind, shape) in self.forms.items()}  # fmt: skip


def cache_folder(cache: str | None, size: int) -> Path | None:
    """Where the texts of files of so many bytes are kept; None: in memory.

    Args:
        cache: data.cache: `auto`: files above 32 MiB, in $XDG_CACHE_HOME/repel or ~/.cache/repel; a folder; or None.

    Raises:
        ValueError: it is none of these.
    """
    if cache is None:
        return None
    if not isinstance(cache, str) or cache.lower() in ("", "true", "false"):  # the option takes words as they are
        raise ValueError(f"data.cache must be auto, null or a folder, got {cache!r}")
    if cache != "auto":
        return Path(cache).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "repel" if size > LARGE else None


def kept_arrays(
    cache: Path | None, name: str, key: Any, build: Callable[[ArrayWriter], dict[str, Any]], replaces: bool = False
) -> Kept:
    """The arrays that build writes, of which it returns facts: made once, and found again where the key is the same.

    Several processes may ask at once: one builds, others wait for it. An entry appears in its folder only when it is
    complete; one that is cut off, or that something else has written, is made anew.

    Args:
        cache: the folder of all entries; None: the arrays are made in memory.
        name: of the entry, for people.
        key: JSON, on which the arrays depend.
        build: writes arrays; returns facts, as in JSON.
        replaces: remove others of this name, which are of an earlier state of the same files.

    Raises:
        ValueError: the folder cannot be written; names data.cache.
    """
    if cache is None:
        writer = ArrayWriter(None)
        facts = build(writer)
        return Kept(writer.close(), facts, None)
    digest = hashlib.blake2b(json.dumps([VERSION, key]).encode(), digest_size=16).hexdigest()
    folder = cache / f"{name}-{digest[:16]}"
    if (found := _opened(folder, digest)) is not None:
        return found
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{name}.lock"):
            if (found := _opened(folder, digest)) is None:
                _write(folder, digest, build)
                if replaces:
                    _remove_others(folder, name)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(
            f"data.cache={cache} cannot be written ({why}); name another folder, or data.cache=null keeps all in memory"
        ) from error
    found = found or _opened(folder, digest)
    assert found is not None, f"{folder} was written and is gone"
    return found


def _opened(folder: Path, digest: str) -> Kept | None:
    """An entry; None where it is not there, not complete or of something else."""
    try:
        entry = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if entry["digest"] != digest:
            return None
        arrays = {name: _mapped(folder / name, *form) for name, form in entry["arrays"].items()}
        return Kept(arrays, entry["facts"], folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(file: Path, kind: str, shape: list[int]) -> np.ndarray:
    """Raises ValueError where the file is not as long as the array."""
    dtype = np.dtype(kind)
    if file.stat().st_size != int(np.prod(shape)) * dtype.itemsize:
        raise ValueError(f"{file} is cut off")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(file, dtype, "c", shape=tuple(shape)))  # torch takes no array that is read-only


def _write(folder: Path, digest: str, build: Callable[[ArrayWriter], dict[str, Any]]) -> None:
    """Build beside the folder, then move it there."""
    for other in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(other, ignore_errors=True)  # of a process that was killed
    making = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    making.mkdir()
    try:
        writer = ArrayWriter(making)
        facts = build(writer)
        writer.close()
        text = json.dumps({"digest": digest, "arrays": writer.forms, "facts": facts})
        (making / FACTS).write_text(text, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _remove_others(folder: Path, name: str) -> None:
    for other in folder.parent.glob(f"{name}-*"):
        if other != folder and len(other.name) == len(folder.name):
            shutil.rmtree(other, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait until no other process builds here. On file systems without locks each may build; the last one stays."""
    with path.open("w", encoding="utf-8") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
