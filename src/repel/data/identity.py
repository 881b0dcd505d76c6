"""Which samples a run has: kept in its checkpoints, compared when the run is resumed, evaluated or embedded.

A sample is known by its key, 64 bits of a hash of its name. Samples without names are known by their number alone.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import CompleteSplits, Samples, Splits

__all__ = [
    "Changes",
    "Record",
    "changes",
    "check_unchanged",
    "digest",
    "mixed",
    "name_keys",
    "overlap",
    "record_of",
    "without_trained",
]

PARTS = ("train", "val", "test")
Record = dict[str, dict[str, Any]]  # split -> size; keys (N,) int64 in the split's order, or None; labels, a digest


class Changes(NamedTuple):
    """How many samples were added, removed and moved to another split; the name of the first that was added, or ''."""

    added: int
    removed: int
    moved: int
    first: str

    def __str__(self) -> str:
        """In words; empty where nothing has changed."""
        first = f" (the first: {self.first})" if self.first else ""
        words = {"added" + first: self.added, "removed": self.removed, "moved to another split": self.moved}
        return ", ".join(f"{count:,} sample{'s' * (count > 1)} {word}" for word, count in words.items() if count)


def name_keys(names: Iterable[str]) -> Tensor:
    """(N,) int64: 64 bits of BLAKE2b of each name. Among a million names, two are alike once in 37 million sets."""
    digests = (hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names)
    return torch.from_numpy(np.frombuffer(b"".join(digests), "<i8").astype(np.int64))


def mixed(keys: np.ndarray) -> np.ndarray:
    """(N,) uint64 of uint64, each bit of them depending on each: the function of splitmix64 (Steele et al. 2014)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def record_of(splits: CompleteSplits) -> Record:
    """What a checkpoint keeps."""
    return {name: _record(getattr(splits, name)) for name in PARTS}


def _record(part: Samples) -> dict[str, Any]:
    labels = None
    if part.labels is not None:
        labels = hashlib.blake2b(part.labels.cpu().numpy().astype("<i8").tobytes(), digest_size=16).hexdigest()
    return {"size": len(part), "keys": part.keys(), "labels": labels}


def digest(record: Record) -> str:
    """16 hexadecimal digits that tell records apart: for runs that are compared, as they may have other data."""
    parts = hashlib.blake2b(digest_size=8)
    for name in PARTS:
        keys = record[name]["keys"]
        parts.update(f"{name} {record[name]['size']} {record[name]['labels']} ".encode())
        parts.update(b"" if keys is None else keys.numpy().astype("<i8").tobytes())
    return parts.hexdigest()


def changes(before: Record, splits: Splits | CompleteSplits) -> Changes | None:
    """What was added and removed since; between complete splits also what moved. None where samples have no names."""
    parts = {name: part for name in PARTS if (part := getattr(splits, name)) is not None}
    now = {name: part.keys() for name, part in parts.items()}
    if any(keys is None for keys in now.values()) or any(part["keys"] is None for part in before.values()):
        return None
    known = torch.cat([part["keys"] for part in before.values()])
    new = {name: ~_isin(keys, known) for name, keys in now.items()}
    first = next((_first_name(parts[name], new[name]) for name in parts if new[name].any()), "")
    moved = 0
    if isinstance(splits, CompleteSplits):
        moved = sum(int((~new[name] & ~_isin(now[name], before[name]["keys"])).sum()) for name in parts)
    removed = int((~_isin(known, torch.cat(list(now.values())))).sum())
    return Changes(sum(int(mask.sum()) for mask in new.values()), removed, moved, first)


def _first_name(part: Samples, mask: Tensor) -> str:
    """Of the first sample that is meant; empty where samples have keys, and no names, as texts have."""
    return "" if part.names is None else str(part.names[int(mask.nonzero()[0])])


def check_unchanged(before: Record, splits: CompleteSplits, data: str) -> None:
    """What a run that is resumed needs: the same samples in the same splits, in the same order, with the same labels.

    Args:
        before: of the run's checkpoint.
        data: its key and value, for the message.

    Raises:
        ValueError: the data has changed; says how much.
    """
    now = record_of(splits)
    words = str(changes(before, splits) or "")
    for name in PARTS:
        old, new = before[name], now[name]
        if not words and old["size"] != new["size"]:
            words = f"the {name} split has {new['size']:,} samples and had {old['size']:,}"
        if not words and not (old["keys"] is None or new["keys"] is None or torch.equal(old["keys"], new["keys"])):
            words = f"the samples of the {name} split have another order"
        if not words and old["labels"] != new["labels"]:
            words = f"labels of the {name} split are others"
    if words:
        raise ValueError(
            f"{data}: the data has changed since the run began: {words}; a run resumes on its own data alone: bring it "
            "back, name its folder by data_root=FOLDER if that is another one, or start a new run"
        )


def without_trained(before: Record, splits: CompleteSplits, data: str) -> tuple[CompleteSplits, str]:
    """Splits whose test samples the run neither trained on nor chose by, and whose validation samples it did not train
    on; and how the data has changed since, in words, empty where it has not.

    Raises:
        ValueError: it has changed so that this cannot be told, or that nothing is left.
    """
    found = changes(before, splits)
    if found is None:
        sizes = [{name: part["size"] for name, part in record.items()} for record in (before, record_of(splits))]
        if sizes[0]["test"] == sizes[1]["test"] and sum(sizes[0].values()) == sum(sizes[1].values()):
            return splits, _changed_labels(before, splits)
        raise ValueError(
            f"{data}: the data has {sum(sizes[1].values()):,} samples and had {sum(sizes[0].values()):,} when the run "
            "began, and no names that tell which of them it was trained on; bring it back, or name other data by data="
        )
    if not (words := str(found)):
        return splits, _changed_labels(before, splits)
    if found.removed == sum(part["size"] for part in before.values()):
        raise ValueError(
            f"{data}: none of the {found.removed:,} samples that the run knows is there; name their folder by "
            "data_root=FOLDER if that is another one, or measure other data by data="
        )
    out = {"test": _used(before, splits, "test", ("train", "val")), "val": _used(before, splits, "val", ("train",))}
    for name, mask in out.items():
        if mask.all():
            raise ValueError(
                f"{data}: the run was trained on every sample that is in the {name} split now ({words}); bring the "
                "data back, or name other data by data="
            )
    if count := sum(int(mask.sum()) for mask in out.values()):
        words += f"; {count:,} of validation and test are left out, as the run was trained or chosen on them"
    if found.added and found.removed:
        words += "; if files or folders were renamed, test samples may be among those that the run was trained on"
    kept = {name: _some(getattr(splits, name), (~mask).nonzero().squeeze(1)) for name, mask in out.items()}
    return replace(splits, **kept), words


def _changed_labels(before: Record, splits: CompleteSplits) -> str:
    """In words, which splits have other labels than before, of the same samples in the same order; or nothing."""
    others = [name for name, now in record_of(splits).items() if now["labels"] != before[name]["labels"]]
    return f"the labels of {', '.join(others)} are others" if others else ""


def _used(before: Record, splits: CompleteSplits, name: str, by: tuple[str, ...]) -> Tensor:
    """(N,) bool: which samples of a split were in the splits `by` of the run, and not in this one."""
    used, part = torch.cat([before[other]["keys"] for other in by]), getattr(splits, name)
    found = _isin(part.keys(), used)
    here = torch.cat([getattr(splits, other).keys() for other in PARTS])
    used = used[~_isin(used, here)]  # of those that are gone: a file may have moved from train/ to test/
    new = (~_isin(part.keys(), torch.cat([record["keys"] for record in before.values()]))).nonzero().squeeze(1)
    if len(new) and len(used) and part.names is not None:
        names = [str(name).split("/", 1)[-1] for name in _some(part, new).names]
        for folder in _split_folders(splits):
            found[new] |= _isin(name_keys(f"{folder}/{name}" for name in names), used)
    return found & ~_isin(part.keys(), before[name]["keys"])


def _split_folders(splits: CompleteSplits) -> set[str]:
    """The folders of whole splits: the first part of all names of one, such as train."""
    named = [names for part in PARTS if (names := getattr(splits, part).names) is not None]
    first = [{str(name).split("/", 1)[0] for name in names} for names in named]
    return {next(iter(folders)) for folders in first if len(folders) == 1}


def overlap(before: Record, splits: CompleteSplits) -> int:
    """How many test samples of other data have the name of one that the run was trained on."""
    keys, trained = splits.test.keys(), before["train"]["keys"]
    return 0 if keys is None or trained is None else int(_isin(keys, trained).sum())


def _some(part: Samples, places: Tensor) -> Any:
    return part[places]


def _isin(keys: Tensor, known: Tensor) -> Tensor:
    return torch.from_numpy(np.isin(keys.numpy(), known.numpy()))
