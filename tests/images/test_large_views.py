"""Views of 96 pixels and more, made one at a time on a CPU: against torchvision, and against those of whole batches."""

from contextlib import nullcontext

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from conftest import config, options_of
from hydra.utils import instantiate
from torch import Tensor
from view_cases import augment

from repel.images.views import Augment, Views, crop
from repel.images.views.views import SINGLE, apply

ALL = {"scale": (0.1, 1.0), "ratio": (0.75, 1.33), "flip": 0.5, "jitter": 0.8, "brightness": 0.8, "contrast": 0.8,
       "saturation": 0.8, "hue": 0.2, "grayscale": 0.3, "blur": 0.5, "blur_kernel": 0.2, "solarize": 0.3}  # fmt: skip
JITTER = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


def by_torchvision(image: Tensor, size: tuple[int, int], p: dict[str, Tensor]) -> Tensor:
    """The view of one image (C, H, W), operation by operation; p of this image."""
    box = crop.boxes(p["area"][None], p["aspect"][None], p["position"][None], *image.shape[1:])[0].int().tolist()
    image = TF.resized_crop(image, *box, list(size), interpolation=T.InterpolationMode.BILINEAR, antialias=True)
    image = TF.horizontal_flip(image) if p["flip"] else image
    for place in p["order"].tolist():
        image = JITTER[place](image, float(p["factors"][place]))
    image = TF.rgb_to_grayscale(image, 3) if p["grayscale"] else image
    image = TF.gaussian_blur(image, [19, 19], [float(p["sigma"])] * 2) if p["sigma"] else image
    return TF.solarize(image, float(p["threshold"])) if p["threshold"] <= 1 else image


@pytest.mark.parametrize("order", ["batch", "image"])
def test_large_views_equal_torchvisions(order):
    size = (SINGLE, SINGLE + 17)
    make = augment(size=size, order=order, **ALL)
    images = torch.rand(12, 3, 110, 130)
    params = make.draw(12, torch.Generator().manual_seed(2))
    made = apply([make], images, [params])[0]
    for place, image in enumerate(images):
        expected = by_torchvision(image, size, {name: value[place] for name, value in params.items()})
        torch.testing.assert_close(made[place], expected, atol=1 / 255 / 10, rtol=0)
    for name in ("flip", "grayscale", "sigma"):  # of these images some drew it, and some did not
        assert len((params[name] > 0).unique()) == 2, name


def both_forms(views: Views | Augment, images: Tensor | list[Tensor], monkeypatch) -> list[list[Tensor]]:
    """The parts of the views of the same draw, made one at a time and in whole batches."""
    made = []
    params = views.draw(6, torch.Generator().manual_seed(4))
    for single in (1, 1_000):
        monkeypatch.setattr("repel.images.views.views.SINGLE", single)
        if isinstance(views, Augment):
            made.append([apply([views], images, [params])])
        else:
            parts = views.apply(images, params)
            made.append([parts] if isinstance(parts, Tensor) else [parts.views, parts.crops])
    return made


@pytest.mark.parametrize("path", ["exact", "fused"])
@pytest.mark.parametrize("name", options_of("views", "images"))
def test_one_at_a_time_equals_whole_batches(name, path, monkeypatch):
    """Of every preset, for whole images and for crops that a reader made, larger than the view or of its size."""
    data = ["data=fashion_mini", "data.image_size=24"] if name == "gray" else ["data=cifar10", "data.image_size=24"]
    cfg = config(f"views={name}", f"views.color={path}", "views.order=image", *data)
    views = instantiate(cfg.views)
    images = torch.randint(0, 256, (6, cfg.data.channels, 30, 40), dtype=torch.uint8)
    crops = [images[:, :, : a.size[0] + grown, : a.size[1]] for grown in (0, 3) for a in views.augmentations]
    half = len(views.augmentations)
    for given in (images, crops[:half], crops[half:]):
        alone, batch = both_forms(views, given, monkeypatch)
        for a, b in zip(alone, batch, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", ["exact", "fused"])
def test_one_at_a_time_knows_every_operation(path, monkeypatch):
    others = {"rotate": 20.0, "gamma": 0.3, "cutout": 0.5, "order": "image", "color": path}
    alone, batch = both_forms(augment(size=(20, 28), **ALL | others), torch.rand(6, 3, 30, 40), monkeypatch)
    torch.testing.assert_close(alone, batch, atol=1e-4, rtol=0)


def test_threads_make_the_same_views():
    """To the bit, for any number of them; what is set for this thread stays."""
    make = augment(size=SINGLE, **ALL)
    params, images = make.draw(5, torch.Generator().manual_seed(0)), torch.rand(5, 3, 100, 100, requires_grad=True)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made.append(apply([make], images, [params]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*made)
    assert not made[1].requires_grad


def test_a_thread_that_fails_is_heard():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ValueError, match="channels"):
            apply([augment(size=SINGLE)], torch.rand(2, 1, 100, 100), [augment(size=SINGLE).draw(2, torch.Generator())])
    finally:
        torch.set_num_threads(before)


def test_other_devices_take_whole_batches(monkeypatch):
    """Nothing is read there: tensors without values are enough."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know their device
    make = augment(size=SINGLE, **ALL)
    params = make.draw(3, torch.Generator().manual_seed(0))
    made = apply([make], torch.empty(3, 3, 100, 100, dtype=torch.uint8, device="meta"), [params])
    assert made.shape == (1, 3, 3, SINGLE, SINGLE)


class Brighter(Augment):
    """What a user may write."""

    def make(self, *args):
        super().make(*args)
        args[-1].add_(100)


@pytest.mark.parametrize("size", [8, SINGLE])
@pytest.mark.parametrize("compiled", [False, True])
def test_an_augmentation_of_ones_own_makes_its_views(size, compiled, monkeypatch):
    monkeypatch.setattr("torch.compile", lambda function, **options: function)
    views, own = (kind(size, mean=[0.5], std=[0.25], color="fused") for kind in (Augment, Brighter))
    images, params = torch.rand(3, 1, size, size), views.draw(3, torch.Generator().manual_seed(0))
    usual, brighter = (apply([one], images, [params], compiled=compiled) for one in (views, own))
    assert torch.equal(brighter, usual + 100)
