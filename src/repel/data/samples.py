"""What the engine asks of a set of samples, whatever they are: images, texts, pairs of users and items."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from repel.base.sized import given_buffers
from repel.data.views import ViewDraws

__all__ = [
    "CompleteSplits",
    "DataInfo",
    "Fetched",
    "HasOtherData",
    "NeedsData",
    "Samples",
    "Splits",
    "Transform",
    "UnreadableSample",
    "give_info",
    "split_parts",
]


class UnreadableSample(Exception):
    """A sample that cannot be read, where the user asked to stop at one. Its message is one line with the fix."""


class Fetched(NamedTuple):
    """Raw samples, as they were read.

    places: (B,), whose samples these are. They may differ from those asked for, where a sample could not be read.
    x: what the views of this modality take: often one tensor (B, ...), else any nesting of tensors, lists and tuples.
    skipped: a line for each sample that could not be read.
    ids: (V, B) or (B,), the entities that the views show; None: each sample is an entity of its own.
    negative_ids: (M, B), the entities of its explicit negatives, if x brings such and they have ids.
    """

    places: Tensor
    x: Any
    skipped: Sequence[str] = ()
    ids: Tensor | None = None
    negative_ids: Tensor | None = None


@dataclass(frozen=True)
class DataInfo:
    """What an encoder, a loss or a strategy may have to know of the training data. A modality extends it.

    train_size: training samples.
    negatives: explicit negatives that a sample brings, M.
    sides: kinds of things that a sample's first two views show: 2 where one shows a user and one an item.
    """

    train_size: int
    negatives: int = 0
    sides: ClassVar[int] = 1


@runtime_checkable
class NeedsData(Protocol):
    """A part of the network or of the loss that must know something of the data.

    What it keeps belongs into buffers, so that checkpoints, export and resume need nothing else; `SizedByData`
    (repel/base/sized.py) lets their size depend on the data.
    """

    def on_data(self, info: DataInfo) -> None:
        """Called once, after the data is read and before a checkpoint is loaded; never when a checkpoint is used."""


@runtime_checkable
class HasOtherData(Protocol):
    """A part of the network whose inner parts see other data than the network does, such as texts of its items."""

    def info_within(self, info: DataInfo) -> DataInfo:
        """What on_data of the parts within it gets; called after its own on_data."""


def give_info(module: nn.Module, info: DataInfo) -> None:
    """Call on_data of every part at any depth that has it.

    What the parts keep is then the same on every rank: DDP around the module does not send it in every step.
    """
    _give_info(module, info, set())
    module._ddp_params_and_buffers_to_ignore = given_buffers(module)  # type: ignore[assignment]


def _give_info(part: nn.Module, info: DataInfo, given: set[nn.Module]) -> None:
    """The part first, then those within it; each once, also where it stands in several places."""
    if part in given:
        return
    given.add(part)
    inner = list(part.children())
    if isinstance(part, NeedsData):
        part.on_data(info)
    if isinstance(part, HasOtherData):
        info = part.info_within(info)
    for child in inner:
        _give_info(child, info, given)


class Samples(Protocol):
    """A set of samples. `data.memory.TensorSamples` is one that is held in memory, to be used or extended.

    labels: (N,) int64, -1 where unknown, or None.
    names: (N,) strings, by which a table of labels knows the samples, or None.
    workers: processes that fetch batches; 0: the process that trains.
    description: what they are, for people: "images of 28x28x1".
    modality: what a report shows of them, see evaluation/modality.py.
    """

    @property
    def labels(self) -> Tensor | None: ...

    @property
    def names(self) -> np.ndarray | None: ...

    @property
    def workers(self) -> int: ...

    @property
    def description(self) -> str: ...

    @property
    def modality(self) -> Any: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> "Samples":
        """Some of the samples, by places (n,) int64 or by a mask (N,) bool."""

    @property
    def labelled(self) -> "Samples":
        """Those whose label is known."""

    def keys(self) -> Tensor | None:
        """(N,) int64, which sample each is, whatever others there are: a hash of its name, see identity.py; or None."""

    def with_labels(self, labels: Tensor | None) -> "Samples":
        """The same samples with these labels (N,), or with none."""

    def order(self, generator: torch.Generator) -> Iterator[Tensor]:
        """All places in random order, in pieces that are as large as can be afforded."""

    def fetch(self, places: Tensor, draws: ViewDraws) -> Fetched:
        """The samples at these places (B,), by one operation; in a worker, where there are workers.

        Args:
            draws: the views that will be made of them, for samples that are cut to size while they are read.

        Raises:
            UnreadableSample: one cannot be read.
        """

    def plain(self, places: list[Tensor]) -> Iterator[tuple[Any, Tensor]]:
        """Evaluation's batches: the samples as they are at each of the places, and which could be read, (b,) bool."""

    def info(self) -> DataInfo:
        """What parts of the network may have to know of these samples, as training samples."""


class Transform(Protocol):
    """What is learned from training samples, after validation and test are held out, and applied to all: a tokenizer.

    Its state is in checkpoints and in the run folder, from where it is loaded instead of learned again.

    files: names of the files of its state.
    """

    files: tuple[str, ...]

    @property
    def fitted(self) -> bool:
        """Whether it can be applied."""

    def fit(self, train: Any) -> None:
        """Learn from training samples: of the same samples the same, on every rank."""

    def __call__(self, samples: Any) -> Samples:
        """The samples that the encoder sees."""

    def notes(self) -> list[str]:
        """Lines for people about what it was applied to."""

    def state_dict(self) -> dict[str, str]:
        """Names of files -> what is in them."""

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """What state_dict returned."""

    def inherit(self, state: Mapping[str, str] | None, source: str) -> None:
        """Take the state with which weights were trained, from which a new run starts; None: it is not known.

        Args:
            source: what the user typed, for messages.

        Raises:
            ValueError: an option asks for another state, or there is none.
        """


@dataclass(frozen=True)
class Splits:
    """What a reader returns. Without `val`, or without `test`, a part of `train` is held out for it.

    skipped: samples that could not be read, where the user asked to continue without them.
    """

    train: Samples
    test: Samples | None = None
    val: Samples | None = None
    classes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CompleteSplits:
    """Splits that are all there."""

    train: Samples
    test: Samples
    val: Samples
    classes: list[str]
    skipped: list[str]


def split_parts(splits: Splits) -> dict[str, Samples]:
    """Name -> split, of those that exist, in the order of embed.py's rows."""
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {name: part for name, part in named.items() if part is not None}
