"""One random view of each image: parameters drawn first, one row per image, then applied on the device."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from repel.images.shapes import Size, height_width
from repel.images.views import blur, color, crop, fused
from repel.images.views.normalize import Normalize

__all__ = ["Augment"]


class Augment:
    """One random view: crop and flip, rotation, jitter, grayscale, blur, solarization, normalization, cutout.

    In this order (Chen et al. 2020, SimCLR, appendix A; solarization: Grill et al. 2020, BYOL, appendix B). What is
    random about an image is drawn for it alone; conf/views/_base.yaml has every operation turned off.

    A batch (B, C, H, W) becomes (B, C, *size); `Views` makes several of it. Probabilities, `blur_kernel` and
    `solarize_threshold` are in [0, 1], strengths and `rotate` are >= 0.

    Args:
        size: of the output, in pixels: a square's side, or height and width.
        mean, std: per channel, of images in [0, 1].
        scale, ratio: lowest and highest crop area, as a fraction of the image in (0, 1], and aspect, above 0, as in
            torchvision's RandomResizedCrop; where the output is not square, relative to the output's aspect, so that
            a ratio of 1 distorts nothing.
        flip: probability of a horizontal flip.
        rotate: angles are uniform in [-rotate, rotate] degrees.
        jitter: probability that an image is jittered at all, by the next five.
        brightness, contrast, saturation: factors are uniform in [max(0, 1 - x), 1 + x].
        hue: shift uniform in [-hue, hue], in turns; at most 0.5.
        gamma: exponents log-uniform in [1 / (1 + gamma), 1 + gamma].
        grayscale: probability of dropping the color.
        blur: probability of a Gaussian blur.
        blur_sigma: its standard deviation is uniform between these, in pixels, above 0.
        blur_kernel: its width, as a fraction of the shorter side, made odd.
        solarize: probability of inverting what is brighter than solarize_threshold.
        solarize_threshold: of images in [0, 1].
        cutout: probability of erasing a square.
        cutout_size: its side, as a fraction of the image's shorter one, in (0, 1].
        color: `exact` is torchvision's arithmetic; `fused` folds brightness, contrast, saturation, hue, grayscale and
            normalization into one affine map per image, see views/fused.py.
        order: of brightness, contrast, saturation and hue: drawn once per `batch` or for each `image`.

    Raises:
        ValueError: an option is out of its range; the message names it as in conf/.

    >>> augment = Augment(8, mean=[0.5], std=[0.25], scale=[0.2, 1.0], flip=0.5)
    >>> augment.draw(4, torch.Generator().manual_seed(0))["area"].shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        size: Size,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        scale: Sequence[float] = (1.0, 1.0),
        ratio: Sequence[float] = (1.0, 1.0),
        flip: float = 0.0,
        rotate: float = 0.0,
        jitter: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        gamma: float = 0.0,
        grayscale: float = 0.0,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        blur_kernel: float = 0.1,
        solarize: float = 0.0,
        solarize_threshold: float = 0.5,
        cutout: float = 0.0,
        cutout_size: float = 0.5,
        color: str = "exact",
        order: str = "batch",
    ):
        height, width = height_width(size, "views.augmentation.size")
        _check_range("scale", scale, 0, 1)
        _check_range("ratio", ratio, 0, float("inf"))
        _check_range("blur_sigma", blur_sigma, 0, float("inf"))
        _check_range("cutout_size", [cutout_size, cutout_size], 0, 1)
        probabilities = {"flip": flip, "jitter": jitter, "grayscale": grayscale, "blur": blur}
        probabilities |= {"solarize": solarize, "cutout": cutout, "blur_kernel": blur_kernel}
        for name, p in {**probabilities, "solarize_threshold": solarize_threshold}.items():
            if not 0 <= p <= 1:
                raise ValueError(f"views.augmentation.{name} must be in [0, 1], got {p}")
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "gamma": gamma}
        for name, strength in {**strengths, "rotate": rotate}.items():
            if strength < 0:
                raise ValueError(f"views.augmentation.{name} must be >= 0, got {strength}")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"views.augmentation.hue must be in [0, 0.5], got {hue}")
        _check_choice("color", color, ("exact", "fused"))
        _check_choice("order", order, ("batch", "image"))
        self.size, self.flip, self.rotate = (height, width), flip, rotate
        self.aspect = width / height
        self.scale, self.ratio = (scale[0], scale[1]), (ratio[0] * self.aspect, ratio[1] * self.aspect)
        self.jitter, self.strengths = jitter, (brightness, contrast, saturation)
        self.hue, self.gamma, self.grayscale = hue, gamma, grayscale
        self.blur, self.blur_sigma, self.blur_kernel = blur, tuple(blur_sigma), blur_kernel
        self.solarize, self.solarize_threshold = solarize, solarize_threshold
        self.cutout, self.cutout_size = cutout, cutout_size
        self.color, self.order, self.normalize = color, order, Normalize(mean, std)
        self.single = False  # True: one image at a time, on a CPU, see views.apply

    def scaled(self, factor: float) -> "Augment":
        """The same views at another size, blurred by as much of their side.

        >>> Augment(28, mean=[0.5], std=[0.25]).scaled(0.64).size
        (18, 18)
        """
        other = copy.copy(self)
        other.size = (max(1, round(factor * self.size[0])), max(1, round(factor * self.size[1])))
        other.blur_sigma = tuple(factor * sigma for sigma in self.blur_sigma)
        return other

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The parameters of n images, each (n, ...), on the CPU; neutral where an operation is left out."""

        def uniform(low: float, high: float) -> Tensor:
            return torch.empty(n).uniform_(low, high, generator=generator)

        def chosen(p: float) -> Tensor:
            return uniform(0, 1) < p

        params = crop.draw_boxes(n, self.scale, self.ratio, generator)
        params["flip"] = chosen(self.flip)
        params["angle"] = uniform(-self.rotate, self.rotate)
        jittered = chosen(self.jitter)
        factors = [uniform(max(0.0, 1 - s), 1 + s).where(jittered, 1.0) for s in self.strengths]
        shift = uniform(-self.hue, self.hue).where(jittered, 0.0)
        params["factors"] = torch.stack([*factors, shift], 1)
        params["gamma"] = ((1 + self.gamma) ** uniform(-1, 1)).where(jittered, 1.0)
        params["grayscale"] = chosen(self.grayscale)
        params["sigma"] = uniform(*self.blur_sigma).where(chosen(self.blur), 0.0)
        params["threshold"] = torch.where(chosen(self.solarize), self.solarize_threshold, 2.0)  # above 1: nothing
        params["hole"] = torch.where(chosen(self.cutout), self.cutout_size, 0.0)
        params["hole_at"] = torch.rand(n, 2, generator=generator)
        if self.order == "image":
            params["order"] = torch.rand(n, 4, generator=generator).argsort(1)
        else:  # repeated, so that every parameter is cut into ranks along its first dimension
            params["order"] = torch.randperm(4, generator=generator).expand(n, -1)
        return params

    def prepared(self, params: dict[str, Tensor], channels: int, height: int, width: int, device: torch.device) -> dict:
        """What make needs of the parameters, on the device."""
        p = {name: value.to(device, non_blocking=True) for name, value in params.items()}
        needed = {name: p[name] for name in ("flip", "angle", "gamma", "grayscale", "sigma", "threshold")}
        box = crop.boxes(params["area"], params["aspect"], params["position"], height, width)
        needed["box"] = box.to(device, non_blocking=True)
        if self.color == "fused":
            needed["matrix"], needed["toward"] = fused.affine(p["factors"], p["order"], p["grayscale"], channels)
        else:  # looked at on the CPU, so that nothing has to wait for the device
            needed["factors"], needed["order"] = params["factors"], params["order"]
        return needed | {"hole": p["hole"], "hole_at": p["hole_at"]}

    def make(self, images: Tensor, p: dict[str, Tensor], cropped: bool, out: Tensor) -> None:
        """images (B, C, H, W) in [0, 1] -> out (B, C, *size); p as prepared.

        Args:
            cropped: the images are this view's crops already, flipped; they may be larger than it.
        """
        # a blur's weights sum to 1, so that it may as well come before linear colors, as part of the resampling
        early = self.blur and self.color == "fused" and not self.rotate and not self.single
        images = self.resampled(images, p, cropped, self.blurring(p["sigma"]) if early else None)
        if self.rotate:
            images = crop.rotate(images, p["angle"])
        if self.color == "fused":
            if self.blur and not early:
                images = self.blurred(images, p["sigma"])
            self.fused(images, p, out)
        else:
            images = color.jitter(images, p["factors"], p["order"])
            if self.gamma:
                images = color.gamma(images, p["gamma"])
            if self.grayscale:
                images = color.to_gray(images, p["grayscale"])
            if self.blur:
                images = self.blurred(images, p["sigma"])
            if self.solarize:
                images = color.solarize(images, p["threshold"])
            self.normalize.into(out, images)
        if self.cutout:
            out.copy_(crop.erase(out, p["hole_at"], p["hole"]))

    def blurring(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The blur's matrices of rows (B, H, H) and of columns (B, W, W)."""
        height, width = self.size
        taps = blur.taps(self.blur_kernel, min(self.size))
        rows = blur.matrix(sigma, taps, height)
        return rows, rows if height == width else blur.matrix(sigma, taps, width)

    def blurred(self, images: Tensor, sigma: Tensor) -> Tensor:
        if self.single:
            return blur.by_strips(images, sigma, blur.taps(self.blur_kernel, min(self.size)))
        return crop.resample(images, *self.blurring(sigma))

    def resampled(
        self, images: Tensor, p: dict[str, Tensor], cropped: bool, after: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Crop, flip and scaling, and `after` these what is one more matrix of rows and one of columns."""
        height, width = images.shape[2:]
        uncropped = self.scale == (1, 1) and self.ratio == (self.aspect, self.aspect) and not self.flip
        if (cropped or uncropped) and (height, width) == self.size:
            return images.contiguous() if after is None else crop.resample(images, *after)
        box, flip = p["box"].to(images.dtype), p["flip"]
        if cropped:
            box, flip = torch.zeros_like(box) + box.new_tensor([0, 0, height, width]), torch.zeros_like(flip)
        if self.single:
            return crop.interpolate(images, box, flip, self.size)
        top, left, tall, wide = box.unbind(1)
        rows = crop.weights(top, tall, height, self.size[0])
        columns = crop.weights(left, wide, width, self.size[1], flip)
        if after is not None:
            rows, columns = after[0] @ rows, after[1] @ columns
        return crop.resample(images, rows, columns)

    def fused(self, images: Tensor, p: dict[str, Tensor], out: Tensor) -> None:
        matrix, offset = p["matrix"], (p["toward"] * images.mean((2, 3))).sum(1).view(-1, 1, 1)
        if self.gamma or self.solarize:  # these are not linear: normalization waits for them
            images = torch.baddbmm(offset, matrix, images.flatten(2)).clamp_(0, 1).view_as(images)
            if self.gamma:
                images = color.gamma(images, p["gamma"])
            if self.solarize:
                images = color.solarize(images, p["threshold"])
            self.normalize.into(out, images)
            return
        mean, std = (c.view(-1, 1) for c in self.normalize.constants(images))
        torch.baddbmm((offset - mean) / std, matrix / std, images.flatten(2), out=out.flatten(2))  # out is contiguous
        for channel, (m, s) in enumerate(zip(self.normalize.mean, self.normalize.std, strict=True)):
            out[:, channel].clamp_(-m / s, (1 - m) / s)


def _check_range(name: str, pair: Sequence[float], low: float, high: float) -> None:
    if len(pair) != 2 or not low < pair[0] <= pair[1] <= high:
        raise ValueError(
            f"views.augmentation.{name} must be two numbers, {low} < first <= second <= {high}, got {list(pair)}"
        )


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"views.{name} must be {' or '.join(known)}, got {value!r}")
