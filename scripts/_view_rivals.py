"""The same views by torchvision, lightly, kornia and repel, for benchmark_views.py."""

from collections.abc import Callable

import torch
from _benchmark import compose_config
from hydra.utils import instantiate
from torch import Tensor

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
PRESETS = {  # preset -> lower end of the crop's scale, color strength s, probability of a blur
    "simclr_no_blur": (0.2, 0.5, 0.0),
    "simclr": (0.08, 1.0, 0.5),
}
NAMES = {
    "v1": "torchvision v1, PIL, image by image",
    "v2": "torchvision v2, tensors, image by image",
    "lightly": "lightly `SimCLRTransform`",
    "kornia": "kornia `AugmentationSequential`, batch",
    "exact-image": "repel, `views.color=exact views.order=image`",
    "exact": "repel, `views.color=exact`",
    "fused": "repel, `views.color=fused`",
}
IMAGE_BY_IMAGE = ("v1", "v2", "lightly")


def make_rival(name: str, preset: str, size: int) -> Callable[[Tensor], object]:
    """A function of uint8 images (B, 3, H, W) -> one view of each, two by repel; its preparation is not timed."""
    if name in ("v1", "v2"):
        return torchvision_views(name, preset, size)
    if name == "lightly":
        return lightly_views(preset, size)
    if name == "kornia":
        return kornia_views(preset, size)
    return repel_views(name, preset, size)


def make_images(name: str, batch: int, size: int, device: str = "cpu") -> Tensor | list:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, generator=generator)
    if name in ("v1", "lightly"):
        from torchvision.transforms.functional import to_pil_image

        return [to_pil_image(image) for image in images]
    return images.to(device)


def jitter_strength(s: float) -> tuple[float, float, float, float]:
    return 0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s


def blur_kernel(size: int) -> int:
    return max(3, int(0.1 * size) // 2 * 2 + 1)


def torchvision_views(name: str, preset: str, size: int) -> Callable:
    scale, s, blur = PRESETS[preset]
    if name == "v1":
        import torchvision.transforms as T

        last = [T.ToTensor(), T.Normalize(MEAN, STD)]
    else:
        import torchvision.transforms.v2 as T

        last = [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]
    steps = [T.RandomResizedCrop(size, (scale, 1.0)), T.RandomHorizontalFlip(),
             T.RandomApply([T.ColorJitter(*jitter_strength(s))], 0.8), T.RandomGrayscale(0.2)]  # fmt: skip
    steps += [T.RandomApply([T.GaussianBlur(blur_kernel(size), (0.1, 2.0))], blur)] if blur else []
    transform = T.Compose(steps + last)
    return lambda images: [transform(image) for image in images]


def lightly_views(preset: str, size: int) -> Callable:
    from lightly.transforms import SimCLRTransform

    scale, s, blur = PRESETS[preset]
    transform = SimCLRTransform(size, cj_strength=s, min_scale=scale, gaussian_blur=blur).transforms[0]
    return lambda images: [transform(image) for image in images]


def kornia_views(preset: str, size: int) -> Callable:
    import kornia.augmentation as K

    scale, s, blur = PRESETS[preset]
    kernel = blur_kernel(size)
    steps = [K.RandomResizedCrop((size, size), scale=(scale, 1.0)), K.RandomHorizontalFlip(),
             K.ColorJitter(*jitter_strength(s), p=0.8), K.RandomGrayscale(p=0.2)]  # fmt: skip
    steps += [K.RandomGaussianBlur((kernel, kernel), (0.1, 2.0), p=blur)] if blur else []
    transform = K.AugmentationSequential(*steps, K.Normalize(torch.tensor(MEAN), torch.tensor(STD)))
    return lambda images: transform(images.float() / 255)


def repel_views(name: str, preset: str, size: int) -> Callable:
    color, _, order = name.partition("-")
    cfg = compose_config(
        "data=cifar10", f"views={preset}", f"views.color={color}", f"views.order={order or 'batch'}",
        f"data.image_size={size}", f"views.augmentation.scale=[{PRESETS[preset][0]},1.0]",
    )  # fmt: skip
    views = instantiate(cfg.views)
    generator = torch.Generator().manual_seed(0)
    return lambda images: views(images, generator)
