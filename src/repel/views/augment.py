"""The views of a batch: parameters drawn first, one row per image, then applied on the device.

So a draw can be logged, replayed, tested, and cut into the slices of several ranks: a rank draws for the whole global
batch and applies its own rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from repel.views import color, crop

JITTER = (color.brightness, color.contrast, color.saturation, color.hue)

Params = list[dict[str, Tensor]]


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] -> float32 in [0, 1]; floats stay as they are."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


class Normalize:
    """Subtract mean and divide by std, one value per channel, images in [0, 1]: the plain view, evaluation's."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]):
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"mean and std need one value per channel and std > 0, got mean={mean} std={std}")
        self.mean, self.std = tuple(mean), tuple(std)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {}

    def apply(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        images = to_float(images)
        if images.shape[1] != len(self.mean):
            raise ValueError(f"images have {images.shape[1]} channels, data.mean has {len(self.mean)} values")
        mean, std = images.new_tensor(self.mean), images.new_tensor(self.std)
        return (images - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return self.apply(images, {})


class Augment(Normalize):
    """Random resized crop, flip, colour jitter, gamma, grayscale, normalise (SimCLR, Chen et al. 2020, appendix A).

    Args:
        size: side of the square output, in pixels.
        scale, ratio: crop area as a fraction of the image, and its aspect, as in torchvision's RandomResizedCrop.
        flip: probability of a horizontal flip.
        brightness, contrast, saturation: factors are uniform in [max(0, 1 - x), 1 + x].
        hue: shift uniform in [-hue, hue], in turns; at most 0.5.
        gamma: exponents log-uniform in [1 / (1 + gamma), 1 + gamma]; 0 turns it off.
        jitter: probability that an image is jittered at all, gamma included.
        grayscale: probability of dropping the colour.
        mean, std: per channel.

    The order of the jitter's four operations is drawn once per batch and view, everything else per image.
    """

    def __init__(
        self,
        size: int,
        scale: Sequence[float],
        ratio: Sequence[float],
        flip: float,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        gamma: float,
        jitter: float,
        grayscale: float,
        mean: Sequence[float],
        std: Sequence[float],
    ):
        super().__init__(mean, std)
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"views.scale must be 0 < low <= high <= 1, got {list(scale)}")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"views.ratio must be 0 < low <= high, got {list(ratio)}")
        for name, p in (("flip", flip), ("jitter", jitter), ("grayscale", grayscale)):
            if not 0 <= p <= 1:
                raise ValueError(f"views.{name} is a probability in [0, 1], got {p}")
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "gamma": gamma}
        for name, strength in strengths.items():
            if strength < 0:
                raise ValueError(f"views.{name} must be >= 0, got {strength}")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"views.hue must be in [0, 0.5], got {hue}")
        if size < 1:
            raise ValueError(f"views.size must be at least 1 pixel, got {size}")
        self.size, self.scale, self.ratio = size, tuple(scale), tuple(ratio)
        self.flip, self.jitter, self.grayscale = flip, jitter, grayscale
        self.strength = (brightness, contrast, saturation)
        self.hue, self.gamma = hue, gamma

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return torch.empty(n, *shape).uniform_(low, high, generator=generator)

        params = crop.draw_boxes(n, self.scale, self.ratio, generator)
        params["flip"] = uniform(0, 1) < self.flip
        params["jitter"] = uniform(0, 1) < self.jitter
        params["factors"] = torch.stack(
            [uniform(max(0.0, 1 - s), 1 + s) for s in self.strength] + [uniform(-self.hue, self.hue)], 1
        )
        params["gamma"] = (1 + self.gamma) ** uniform(-1, 1)
        params["grayscale"] = uniform(0, 1) < self.grayscale
        # one order for the batch, repeated so that every parameter is cut into ranks along its first dimension
        params["order"] = torch.randperm(len(JITTER), generator=generator).expand(n, -1)
        return params

    def apply(self, images: Tensor, params: dict[str, Tensor]) -> Tensor:
        """images (B, C, H, W) -> (B, C, size, size), normalised; params as draw gives them, B rows."""
        order = params["order"][0].tolist()
        p = {name: value.to(images.device, non_blocking=True) for name, value in params.items() if name != "order"}
        box = crop.boxes(p["area"], p["aspect"], p["position"], *images.shape[-2:])
        images = crop.crop_resize(to_float(images), box, p["flip"], self.size)
        jittered = images
        for index in order:
            if (index == 3 and self.hue == 0) or (index < 3 and self.strength[index] == 0):
                continue
            jittered = JITTER[index](jittered, p["factors"][:, index].to(images))
        if self.gamma:
            jittered = color.gamma(jittered, p["gamma"].to(images))
        images = torch.where(color.column(p["jitter"]), jittered, images)
        if images.shape[1] > 1:
            images = torch.where(color.column(p["grayscale"]), color.grayscale(images), images)
        return super().apply(images, {})


class Views:
    """V augmentations of every image.

    Args:
        augmentations: one per view, each with draw(n, generator) and apply(images, params).
    """

    def __init__(self, augmentations: Sequence[Normalize]):
        if len(augmentations) < 2:
            raise ValueError(f"a positive pair needs at least 2 views, got {len(augmentations)}")
        self.augmentations = list(augmentations)

    def __len__(self) -> int:
        return len(self.augmentations)

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """Parameters for n images: a list with an entry per view, each a dict of tensors of first dimension n."""
        return [augmentation.draw(n, generator) for augmentation in self.augmentations]

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """images (B, C, H, W), uint8 or float in [0, 1] -> (V, B, C, H', W') float, normalised, on the same device."""
        return torch.stack([a.apply(images, p) for a, p in zip(self.augmentations, params, strict=True)])

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self.apply(images, self.draw(len(images), generator))


def rows(params: Params, index: slice) -> Params:
    """The parameters of some of the images: what one rank applies of the global batch's draw."""
    return [{name: value[index] for name, value in view.items()} for view in params]


def repeated(n: int, augmentation: Normalize) -> Views:
    """Views of n equal augmentations, each with its own draws: what SimCLR uses."""
    return Views([augmentation] * n)
