"""Which files below a folder are of a kind, such as images or texts, and what is left out, by kind."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from repel.base.terminal import shown

__all__ = ["Companions", "Listing", "list_files"]

Companions = Callable[[Iterable[str]], tuple[str, str] | None]

SERVICE = {  # of systems and archivers, in lower case; as all hidden ones, never a class, never samples
    "__macosx", "@eadir", "@__thumb", "#recycle", "@recycle", "$recycle.bin", "#snapshot", "@recently-snapshot",
    "lost+found", "lost.dir", "system volume information",
}  # fmt: skip
KINDS_SHOWN = 5


@dataclass(frozen=True)
class Listing:
    """What lies below a folder. Paths are relative to it.

    noun: what the files are: images.
    companions: of the names of folders next to each other, that of the samples and one that belongs to it, if any.
    files: these files, sorted, so that ids do not depend on the file system.
    folders: those that were looked into.
    left_out: kind -> number of other files.
    closed: name of a hidden or system folder, which is not looked into -> how often it is there.
    """

    noun: str
    companions: Companions
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)

    def describe(self, read: int) -> str:
        """How many files there are, how many are read, and what the others are, in one line."""
        left_out = self.left_out + Counter({f"{self.noun} in no split": len(self.files) - read})
        common = _most_common(left_out)
        kinds = [f"{count:,} {kind}" for kind, count in common]
        if more := left_out.total() - sum(count for _, count in common):
            kinds.append(f"{more:,} of other kinds")
        parts = [f"found {len(self.files) + self.left_out.total():,} files, read {read:,}"]
        parts += [f"left out: {', '.join(kinds)}"] if kinds else []
        names = [shown(name) + (f" ({count:,})" if count > 1 else "") for name, count in _most_common(self.closed)]
        return "; ".join([*parts, *([f"not looked into: {', '.join(names)}"] if names else [])])


def list_files(folder: Path, noun: str, kind_of: Callable[[str], str | None], companions: Companions) -> Listing:
    """The files of a kind below a folder, and what is left out.

    Hidden files and folders and those of systems and archivers are left out, such as .ipynb_checkpoints and
    __MACOSX/._1.jpg. Links are followed, but not those that lead back to where they are.

    Args:
        noun: what the files are: images.
        kind_of: ending of a file, in lower case -> None, or what files are that end so, which are left out.
        companions: see Listing.

    Raises:
        ValueError: a folder cannot be read, or its files would be read twice, by a link.
    """
    found, holders = Listing(noun, companions), dict[str, str]()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        here = os.path.realpath(root) + os.sep
        found.closed.update(name for name in folders if _is_service(name))
        folders[:] = [name for name in folders if not _is_service(name)]
        folders[:] = [f for f in folders if not here.startswith(os.path.realpath(os.path.join(root, f)) + os.sep)]
        inner = os.path.relpath(root, folder)
        prefix = "" if inner == "." else inner + os.sep
        found.folders.extend(prefix + name for name in folders)
        for name in names:
            if kind := _kind_left_out(root, name, kind_of):
                found.left_out[kind] += 1
            else:
                found.files.append(prefix + name)
                _refuse_twice(folder, inner, holders.setdefault(here, inner), noun)
    found.files.sort(key=lambda path: path.split(os.sep))
    return found


def _refuse(error: OSError) -> None:
    """os.walk would go on without the folder, and a class would be missing."""
    raise ValueError(
        f"the folder {shown(error.filename)} cannot be read ({error.strerror}); make it readable, or move it out of "
        "data.root"
    ) from error


def _refuse_twice(root: Path, inner: str, first: str, noun: str) -> None:
    """Raises ValueError where a folder of samples was reached before: test linked to train would be trained on."""
    if inner != first:
        one, other = sorted((first, inner))
        raise ValueError(
            f"data.root={root}: {shown(one)} and {shown(other)} are one folder, by a link, whose {noun} would be read "
            "twice; remove the link"
        )


def _is_service(name: str) -> bool:
    return name.startswith(".") or name.lower() in SERVICE


def _kind_left_out(root: str, name: str, kind_of: Callable[[str], str | None]) -> str | None:
    """What a file is that is left out; None for one that is not."""
    if _is_service(name):
        return "hidden"
    kind = kind_of(os.path.splitext(name)[1].lower())
    path = os.path.join(root, name)
    return "broken links" if kind is not None and os.path.islink(path) and not os.path.exists(path) else kind


def _most_common(counts: Counter[str]) -> list[tuple[str, int]]:
    """In an order that does not depend on the file system's."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:KINDS_SHOWN]
