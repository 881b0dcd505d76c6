"""What a report shows of images besides numbers of their features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.data.samples import CompleteSplits, Samples, Splits, split_parts
from repel.evaluation.features import BATCH
from repel.evaluation.modality import Baseline, Plot
from repel.evaluation.protocol import Network, Part

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGES", "ImageModality", "raw_pixels"]

RAW_SIDE = 32  # pixels


class ImageModality:
    """Raw pixels as a baseline, neighbors as a contact sheet, thumbnails; see evaluation.modality.Modality."""

    noun = "images"
    input_options = ("image_size", "channels", "mean", "std")
    sides: tuple[str, ...] = ()

    def view_pairs(self, data: Any, n: int) -> "Image":
        from repel.images.contact_sheet import contact_sheet, preview

        return contact_sheet(preview(data, n), data.normalize.mean, data.normalize.std)

    def baselines(self, train: Samples, val: Samples, bank: int | None) -> list[Baseline]:
        return [Baseline("raw", "raw pixels", "pixels", raw_pixels)]

    def neighbor_plot(self, test: Part, train: Part, classes: Sequence[str]) -> Plot:
        from repel.images.figures import neighbor_sheet

        caption = "Test images and their nearest training images, by cosine; green: the query's class"
        return Plot("neighbours", caption, neighbor_sheet(test, train, classes))

    def shown(self, network: Network, splits: CompleteSplits) -> None:
        return None

    def thumbnails(self, samples: Samples, places: Tensor, side: int) -> Tensor:
        from repel.images.figures import thumbnails

        return thumbnails(samples, places, side)

    def captions(self, samples: Samples, places: Tensor) -> dict[str, list[str]]:
        return {}

    def embedded(self, splits: Splits) -> tuple[dict[str, Samples], list[str]]:
        return split_parts(splits), splits.classes

    def columns(self, samples: Samples, split: str) -> dict[str, list[str]]:
        """Names of files; sets without files get names such as train/000012."""
        names = samples.names
        return {"file": [f"{split}/{i:06d}" for i in range(len(samples))] if names is None else list(names)}


IMAGES = ImageModality()


def raw_pixels(images: Samples) -> tuple[Tensor, Tensor]:
    """(M, C*h*w) pixels in [0, 1] as features, and the places (M,) of their images, as encode returns them.

    Images above 32 pixels a side are averaged down to 32 first.
    """
    batches, read = [], []
    for batch, good in images.plain(list(torch.arange(len(images)).split(BATCH))):
        height, width = (min(RAW_SIDE, side) for side in batch.shape[2:])
        batches.append(F.adaptive_avg_pool2d(batch.float() / 255, (height, width)).flatten(1))
        read.append(good)
    good = torch.cat(read)
    return torch.cat(batches)[good], good.nonzero().squeeze(1)
