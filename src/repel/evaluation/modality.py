"""What a report asks of a kind of data, so that it knows no images."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from repel.evaluation.protocol import Encode, Network, Part
from repel.evaluation.text_table import TextTable
from repel.evaluation.top_items import Scorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from repel.data.samples import CompleteSplits, Samples, Splits

__all__ = ["Baseline", "Modality", "Plot", "Shown"]


class Baseline(NamedTuple):
    """Features without an encoder, or what ranks items without features.

    source: in metric names, such as raw. label: for people. layer: the kind of features, such as pixels.
    encode: what is fitted to the training samples is fitted at its first call. Features that are a sparse tensor are
    measured by the evaluators that take it, see Evaluator.takes_sparse.
    scorer: in place of encode, fits and returns what ranks items on a device, and the options that were chosen; it is
    measured by the evaluators that take it, see Evaluator.takes_scorers.
    """

    source: str
    label: str
    layer: str
    encode: Encode | None = None
    scorer: Callable[[torch.device], tuple[Scorer, dict[str, Any]]] | None = None


class Plot(NamedTuple):
    """A figure of a report: its name, a caption, and what was drawn, or a table of texts."""

    name: str
    caption: str
    picture: "Figure | Image | TextTable"


class Shown(NamedTuple):
    """What a report shows of data whose samples have no labels.

    part: vectors for the projector and for neighbors, and, as far as labels are known, for a map.
    classes: names of the labels. noun: what it is of, in the plural.
    drawings: further figures, their names and what draws them once the numbers are written.
    """

    part: Part
    classes: list[str]
    noun: str
    drawings: list[tuple[str, Callable[[], Plot | None]]]


class Modality(Protocol):
    """`samples.modality` of every set of samples.

    noun: the plural, such as "images".
    input_options: options of `data` that say what the encoder takes, such as the size of images.
    sides: what views 0, 1, ... show where they differ in kind, such as users and items; else empty.
    """

    noun: str
    input_options: tuple[str, ...]
    sides: tuple[str, ...]

    def view_pairs(self, data: Any, n: int) -> "Image | TextTable":
        """The first n samples of a run's first batch with their views."""
        ...

    def baselines(self, train: "Samples", val: "Samples", bank: int | None) -> list[Baseline]:
        """What every report measures besides the encoder's features.

        Args:
            train: the training split, for what is fitted.
            val: the validation split, for what is chosen.
            bank: on at most so many of them, see features.subset; None: all.
        """
        ...

    def neighbor_plot(self, test: Part, train: Part, classes: Sequence[str]) -> Plot:
        """Some test samples, each with its nearest training samples."""
        ...

    def shown(self, network: Network, splits: "CompleteSplits") -> Shown | None:
        """Of data without labels what the network makes of it, on every rank; None: the report has numbers alone."""
        ...

    def thumbnails(self, samples: "Samples", places: Tensor, side: int) -> Tensor | None:
        """(n, 3, s, s) floats in [0, 1], s <= side, for TensorBoard's projector; None where there is nothing to see."""
        ...

    def captions(self, samples: "Samples", places: Tensor) -> dict[str, list[str]]:
        """What the projector says of each of n points besides its class, by heads: n strings each; often nothing."""
        ...

    def embedded(self, splits: "Splits") -> tuple[dict[str, "Samples"], list[str]]:
        """What embed.py writes features of: parts by name, in the order of the rows, and the names of their classes."""
        ...

    def columns(self, samples: "Samples", split: str) -> dict[str, list[str]]:
        """What embed.py writes of each sample, by heads: first what people know it by, such as a file's name."""
        ...
