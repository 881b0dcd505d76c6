"""What readers of images return."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Images:
    """A set held in memory. pixels (N, C, H, W) uint8; labels (N,) int64, -1 where unknown, or None."""

    pixels: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.pixels[index], None if self.labels is None else self.labels[index])

    @property
    def labelled(self) -> "Images":
        """The images whose label is known."""
        assert self.labels is not None, "asked for the labels of unlabelled images"
        return self[self.labels >= 0]


@dataclass(frozen=True)
class Splits:
    """What a reader returns. Without `val`, or without `test`, a part of `train` is held out for it.

    skipped: files that could not be read, where the user asked to go on without them.
    """

    train: Images
    test: Images | None = None
    val: Images | None = None
    classes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
