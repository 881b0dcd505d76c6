"""Readers of known datasets. Each returns Splits; each has one YAML in conf/data."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import Splits
from repel.images.memory import Images

__all__ = ["cifar10", "cifar100", "fashion_mini", "fashion_mnist", "stl10"]


def fashion_mini(channels: int) -> Splits:
    """The bundled Fashion-MNIST subset: 6,000 train and 2,000 test images, 28x28 grayscale, ten balanced classes."""
    with (
        resources.files("repel.images").joinpath("fashion_mini/images.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        train, test = (to_images(arrays[f"{s}_images"], arrays[f"{s}_labels"], channels) for s in ("train", "test"))
    return Splits(train, test, classes=FASHION_CLASSES)


FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def fashion_mnist(root: str, channels: int) -> Splits:
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 train and 10,000 test images, 28x28 grayscale."""
    return _torchvision_splits("FashionMNIST", root, channels)


def cifar10(root: str, channels: int) -> Splits:
    """CIFAR-10 (Krizhevsky 2009): 50,000 train and 10,000 test images, 32x32 RGB."""
    return _torchvision_splits("CIFAR10", root, channels)


def cifar100(root: str, channels: int) -> Splits:
    """CIFAR-100 (Krizhevsky 2009), its 100 fine classes: 50,000 train and 10,000 test images, 32x32 RGB."""
    return _torchvision_splits("CIFAR100", root, channels)


def stl10(root: str, channels: int) -> Splits:
    """STL-10 (Coates et al. 2011): 5,000 labeled and 100,000 unlabeled training images, 8,000 test, 96x96 RGB.

    Training takes all 105,000; the unlabeled have label -1 and take no part in evaluation.
    """
    from torchvision.datasets import STL10

    train = _download(STL10, root, split="train+unlabeled")
    test = _download(STL10, root, split="test")
    parts = [to_images(part.data, part.labels, channels) for part in (train, test)]
    return Splits(parts[0], parts[1], classes=list(train.classes))


def _torchvision_splits(name: str, root: str, channels: int) -> Splits:
    """Both halves of a torchvision dataset that is built with `train=` and has `.data` and `.targets`."""
    import torchvision.datasets

    train, test = (_download(getattr(torchvision.datasets, name), root, train=train) for train in (True, False))
    parts = [to_images(part.data, part.targets, channels) for part in (train, test)]
    return Splits(parts[0], parts[1], classes=list(train.classes))


# gigabytes that an archive takes with what is in it; torchvision compares its MD5 with the published one, then extracts
ROOM = {"CIFAR10": 0.4, "CIFAR100": 0.4, "FashionMNIST": 0.1, "STL10": 6}


def _download(dataset: Callable, root: str, **split):
    """The torchvision dataset, downloaded on first use; a lock keeps several ranks or runs from fetching it at once.

    Raises:
        ValueError: the download failed; the message says what to do instead.
    """
    root = str(Path(root).expanduser())
    with contextlib.suppress(RuntimeError):  # torchvision's word for: not here, or not whole
        return dataset(root=root, download=False, **split)  # also where nothing can be written
    folder = Path(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 1e9
        if free < (room := ROOM[dataset.__name__]):
            raise OSError(f"{room} GB are needed, and {free:.1f} GB are free")
        with (folder / ".lock").open("w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return dataset(root=root, download=True, **split)
    except (URLError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"cannot download {dataset.__name__} into data.root={root} ({reason}); put torchvision's files there "
            "by hand, point data.root at a folder that has them, or use data=fashion_mini, which needs no network"
        ) from error


def to_images(pixels: np.ndarray | Tensor, labels, channels: int) -> Images:
    """Arrays in any usual layout -> Images with `channels` channels; gray becomes RGB by repetition, never back."""
    pixels = torch.as_tensor(pixels)
    if pixels.ndim == 3:  # (N, H, W)
        pixels = pixels.unsqueeze(1)
    elif pixels.shape[-1] in (1, 3) and pixels.shape[1] not in (1, 3):  # (N, H, W, C)
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[1] == 1 and channels == 3:
        pixels = pixels.expand(-1, 3, -1, -1)
    if pixels.shape[1] != channels:
        raise ValueError(f"data.channels={channels}, but the images have {pixels.shape[1]}; set data.channels to that")
    return Images(pixels.contiguous(), torch.as_tensor(labels, dtype=torch.int64))
