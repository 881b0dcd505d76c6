"""Images and augmentations for tests of views."""

import pytest
import torch

from repel.images.views.augment import Augment


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16)


def augment(**changes) -> Augment:
    zero = ("flip", "rotate", "brightness", "contrast", "saturation", "hue", "gamma", "grayscale", "blur", "solarize",
            "cutout")  # fmt: skip
    neutral = {
        **dict.fromkeys(zero, 0), "size": 8, "scale": (1, 1), "ratio": (1, 1), "jitter": 1,
        "blur_sigma": (0.1, 2.0), "blur_kernel": 0.4, "solarize_threshold": 0.5, "cutout_size": 0.5,
        "color": "exact", "order": "batch", "mean": [0, 0, 0], "std": [1, 1, 1],
    }  # fmt: skip
    return Augment(**{**neutral, **changes})
