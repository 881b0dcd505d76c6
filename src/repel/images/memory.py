"""Images that are held in memory."""

from dataclasses import dataclass

from torch import Tensor

from repel.data.memory import TensorSamples
from repel.images.modality import IMAGES, ImageModality

__all__ = ["Images"]


@dataclass(frozen=True)
class Images(TensorSamples):
    """Images of one size: x (N, C, H, W) uint8; names (N,) of their files, or None."""

    @property
    def modality(self) -> ImageModality:
        return IMAGES

    @property
    def pixels(self) -> Tensor:
        return self.x

    @property
    def shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    @property
    def description(self) -> str:
        channels, height, width = self.shape
        return f"images of {height}x{width}x{channels}"

    def picture_size(self, place: int) -> tuple[int, int]:
        """Height and width of the picture that crops are cut from."""
        return self.shape[1:]
