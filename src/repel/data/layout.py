"""Where the splits and classes of a folder of samples lie: of images, or of texts, each in a file of its own."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from repel.base.collectives import rank
from repel.base.terminal import shown
from repel.data.listing import Listing
from repel.data.split_names import is_plainly_split, split_named, splits_among

__all__ = ["LAYOUTS", "SPLITS", "Part", "class_names", "empty_folders", "split_folders"]

SPLITS = ("train", "val", "test")
NAMED = 5  # folders in a line
LAYOUTS = ("splits", "classes", "imagenet")


@dataclass(frozen=True)
class Part:
    """One split: a folder relative to data.root, "" for all of it, and its files, relative to that folder."""

    folder: str
    files: list[str]


def split_folders(root: Path, listing: Listing, layout: str) -> dict[str, Part]:
    """Each split's folder and files; where splits are not told apart by folders, all is train.

    Args:
        layout: `splits`, `classes`: every folder is a class, whatever its name; or `imagenet`: val is the test split,
            which everyone tests on, and a test without class folders is left out.

    Raises:
        ValueError: it is not clear what a folder that looks like a split is: a guess could mix the splits.
    """
    if layout == "classes":
        return {"train": Part("", listing.files)}
    names = _folders_of_splits(root, listing, "val" if layout == "imagenet" else "test")
    if layout == "imagenet" and "val" in names:
        names = {"train": names["train"], "test": names["val"]}
    if not names:
        _refuse_other_folders(root, listing.files, listing)
        return {"train": Part("", listing.files)}
    parts = {split: _part(root, split, name, listing) for split, name in names.items()}
    if rank() == 0 and layout == "splits" and any(part.folder != split for split, part in parts.items()):
        print(f"note     data.root={root}: " + ", ".join(f"{p.folder} is the {s} split" for s, p in parts.items()))
    if layout == "splits":  # of ImageNet no others can stand in for val
        _leave_out_unlabeled(root, parts, listing.noun)
    return parts


def _folders_of_splits(root: Path, listing: Listing, last: str) -> dict[str, str]:
    """Split -> its folder in root; none where no folder looks like a split.

    Raises:
        ValueError: two folders look like one split, some stand next to others, or there is no train.
    """
    top = sorted(folder for folder in listing.folders if os.sep not in folder)
    filled = {file.split(os.sep, 1)[0] for file in listing.files if os.sep in file}
    by_split: dict[str, list[str]] = defaultdict(list)
    for name, split in splits_among(top).items():
        if name in filled or is_plainly_split(name):  # else notes or tables on a split
            by_split[split].append(name)
    answer = "if all of these are classes, data.layout=classes"
    for split, names in by_split.items():
        if len(names) > 1:
            raise ValueError(
                f"data.root={root}: {' and '.join(names)} look like the {split} split; keep one of them there, or, "
                + answer
            )
    found = {split: by_split[split][0] for split in SPLITS if split in by_split}
    others = [name for name in top if name in filled and name not in found.values()]
    if last == "val" and "test" in found and _is_flat(files := _below(found["test"], listing.files)):
        _print_left_out(
            root / found.pop("test"), files, "val is the test split", listing.noun
        )  # as ImageNet's archive has it
    known = SPLITS[: SPLITS.index(last) + 1]
    if found and ("train" not in found or others or not found.keys() <= set(known)):
        raise ValueError(
            f"data.root={root} has {', '.join([*found.values(), *others[:3]])}: put the classes into train, and "
            f"nothing else next to {', '.join(known[:-1])} and {known[-1]}, or point data.root at a folder of classes; "
            + answer
        )
    return found


def _below(folder: str, files: Iterable[str]) -> list[str]:
    """Those of the files that lie in the folder, relative to it."""
    prefix = folder + os.sep
    return [file[len(prefix) :] for file in files if file.startswith(prefix)]


def _part(root: Path, split: str, folder: str, listing: Listing) -> Part:
    """A split; one folder deeper where it holds only another of its name, as archives do: seg_train/seg_train/CLASS."""
    found = _below(folder, listing.files)
    inner = {file.split(os.sep, 1)[0] for file in found if os.sep in file}
    if len(inner) == 1 and split_named(only := inner.pop()) == split and all(os.sep in file for file in found):
        folder, found = os.path.join(folder, only), _below(only, found)
    _refuse_other_folders(root / folder, found, listing)
    return Part(folder, found)


def _refuse_other_folders(root: Path, files: list[str], listing: Listing) -> None:
    """Raises ValueError where folders in the place of classes, or below, are clearly none.

    Of samples and what belongs to them, such as masks; and those that look like train and another split inside what
    would be a class.
    """
    if pair := listing.companions({file.split(os.sep, 1)[0] for file in files if os.sep in file}):
        raise ValueError(
            f"{root} has {' and '.join(pair)}, which would be read as classes: move {pair[1]} out of it, or point "
            f"data.root at {root / pair[0]}; if they are classes, data.layout=classes"
        )
    inside: dict[str, set[str]] = defaultdict(set)  # folder -> those in it
    for folder in {os.path.dirname(file) for file in files}:
        while folder:
            parent, name = os.path.split(folder)
            inside[parent].add(name)
            folder = parent
    for folder in sorted(inside):
        splits = splits_among(sorted(inside[folder]))
        if {"train"} < set(splits.values()):
            raise ValueError(
                f"{root / folder} has {' and '.join(splits)}, which look like splits and would be read as "
                f"one: point data.root at {root / folder}, or move them to train, val and test in data.root itself; "
                "if they are no splits, rename them, or set data.layout=classes"
            )


def _is_flat(files: Iterable[str]) -> bool:
    """Whether no file is in a class folder."""
    return not any(os.sep in file for file in files)


def _leave_out_unlabeled(root: Path, parts: dict[str, Part], noun: str) -> None:
    """Take out val or test without class folders where all of train is in some; train then gives its share instead."""
    if not all(os.sep in file for file in parts["train"].files):
        return
    for split in ("val", "test"):
        if split in parts and parts[split].files and _is_flat(parts[split].files):
            part = parts.pop(split)
            instead = f"as many as data.{split}_fraction says are held out of train"
            _print_left_out(root / part.folder, part.files, instead, noun)


def _print_left_out(folder: Path, files: list[str], instead: str, noun: str) -> None:
    if rank() == 0:
        print(
            f"note     {folder} has no class folders: its {len(files):,} {noun} are left out, and {instead}; "
            f"data.root={folder} reads them"
        )


def class_names(root: Path, parts: dict[str, Part], noun: str) -> list[str]:
    """The class folders of all splits, sorted; none when no file is in one. A note says which look like one class.

    Raises:
        ValueError: some files are in class folders and some are not.
    """
    flat = [part.folder for part in parts.values() if _is_flat(part.files)]
    for part in parts.values():
        outside = [file for file in part.files if os.sep not in file]
        if outside and part.folder not in flat:
            raise ValueError(
                f"{root / part.folder / outside[0]} lies outside the class folders next to it; move it into one, or "
                "all out of them"
            )
    if flat and len(flat) < len(parts):
        others = [part.folder for part in parts.values() if part.folder not in flat]
        raise ValueError(
            f"data.root={root}: {' and '.join(flat)} has no class folders, {' and '.join(others)} has: move the {noun} "
            f"of {flat[0]} into class folders, all others out of theirs, or read one split alone: "
            f"data.root={root / flat[0]}"
        )
    if flat:
        return []
    classes = {split: {file.split(os.sep, 1)[0] for file in part.files} for split, part in parts.items()}
    for split in ("val", "test"):
        _note_alike(root, classes["train"], classes.get(split, set()) - classes["train"])
    return sorted(set().union(*classes.values()))


def _note_alike(root: Path, known: set[str], new: set[str]) -> None:
    """Say which class of another split has the name of a training class, but for capitals, spaces and accents."""
    by_name = {unicodedata.normalize("NFC", name).casefold().strip(): name for name in sorted(known)}
    alike = [(by_name[plain], name) for name in sorted(new)
             if (plain := unicodedata.normalize("NFC", name).casefold().strip()) in by_name]  # fmt: skip
    if alike and rank() == 0:
        (one, other), more = map(shown, alike[0]), f" (and {len(alike) - 1} more like them)" * (len(alike) > 1)
        print(
            f"note     data.root={root}: {one!r} and {other!r} are two classes, as their names differ in capital "
            f"letters, spaces or the spelling of accents{more}; rename the folders if they are one"
        )


def empty_folders(listing: Listing, parts: dict[str, Part]) -> list[str]:
    """Names of folders in the place of a class without a file below; none where no file is in a class."""
    found = []
    for part in parts.values():
        filled = {os.path.join(part.folder, file.split(os.sep, 1)[0]) for file in part.files if os.sep in file}
        beside = (folder for folder in listing.folders if os.path.dirname(folder) == part.folder)
        found += [folder for folder in beside if filled and folder not in filled]
    names = [shown(folder) for folder in sorted(found)]
    return names if len(names) <= NAMED else [*names[:NAMED], f"{len(names) - NAMED:,} more"]
