"""What parts of a network may have to know of training texts."""

from dataclasses import dataclass

from torch import Tensor

from repel.data.samples import DataInfo

__all__ = ["TextInfo"]


@dataclass(frozen=True)
class TextInfo(DataInfo):
    """vocabulary: number of internal token ids, padding included.

    counts: (vocabulary,) float, in how many training texts each id occurs. mask: internal id of the mask token, -1
    where there is none. tokenizer: its JSON.
    """

    vocabulary: int = 0
    counts: Tensor | None = None
    mask: int = -1
    tokenizer: str = ""
