"""Views: each operation against torchvision, every image its own draw, counted randomness."""

import math

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from conftest import config, options
from hydra.utils import instantiate

from repel.views import color, crop
from repel.views.augment import Augment, Normalize, rows


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16)


FACTORS = torch.tensor([0.0, 0.3, 0.9, 1.0, 1.4, 1.9])


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (color.brightness, TF.adjust_brightness, FACTORS),
        (color.contrast, TF.adjust_contrast, FACTORS),
        (color.saturation, TF.adjust_saturation, FACTORS),
        (color.hue, TF.adjust_hue, torch.tensor([-0.5, -0.3, -0.1, 0.0, 0.2, 0.5])),
        (color.gamma, TF.adjust_gamma, FACTORS + 0.1),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_color_equals_torchvision(images, ours, theirs, factors):
    expected = torch.stack([theirs(image, float(f)) for image, f in zip(images, factors, strict=True)])
    torch.testing.assert_close(ours(images, factors), expected, atol=1 / 255 / 10, rtol=0)


def test_hue_of_gray_and_primary_colours():
    pixels = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0.2, 0.2, 0.9]])
    image = pixels.T.reshape(1, 3, 1, -1)
    turned = color.hue(image, torch.tensor([1 / 3]))[0, :, 0].T
    expected = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0.4, 0.4, 0.4], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0.9, 0.2, 0.2]])
    torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("operation", [color.saturation, color.hue])
def test_one_channel_has_no_colour_to_change(operation):
    gray = torch.rand(4, 1, 8, 8)
    assert operation(gray, torch.full((4,), 0.3)) is gray


def test_crop_and_flip_equal_torchvision(images):
    box = torch.tensor([[0, 0, 16, 16], [2, 3, 8, 8], [5, 0, 8, 8], [8, 8, 8, 8], [1, 1, 4, 4], [0, 0, 16, 16]])
    flip = torch.tensor([False, False, True, False, True, True])
    got = crop.crop_resize(images, box, flip, size=16)
    for image, b, f, out in zip(images, box.tolist(), flip, got, strict=True):
        expected = TF.resized_crop(image, *b, [16, 16], interpolation=T.InterpolationMode.BILINEAR, antialias=False)
        expected = TF.horizontal_flip(expected) if f else expected
        edge = math.ceil(16 / b[2] / 2)  # at a crop's edge torchvision sees no pixel beyond it
        inner = slice(edge, -edge)
        torch.testing.assert_close(out[:, inner, inner], expected[:, inner, inner], atol=2 / 255, rtol=0)


@pytest.mark.parametrize("shape", [(32, 32), (20, 40)])
def test_boxes_are_distributed_as_torchvisions(shape):
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 4000
    draws = crop.draw_boxes(n, scale, ratio, torch.Generator().manual_seed(1))
    ours = crop.boxes(*draws.values(), *shape)
    transform, blank = T.RandomResizedCrop(8, scale, ratio), torch.zeros(3, *shape)
    theirs = [transform.make_params([blank]) for _ in range(n)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in theirs]).float()
    top, left, height, width = ours.unbind(1)
    assert ((top >= 0) & (left >= 0) & (top + height <= shape[0]) & (left + width <= shape[1])).all()
    for column in range(4):
        a, b = ours[:, column].sort().values, theirs[:, column].sort().values
        grid = torch.arange(0, max(shape) + 1).float()
        gap = (torch.searchsorted(a, grid, right=True) - torch.searchsorted(b, grid, right=True)).abs().max() / n
        assert gap < 1.95 * math.sqrt(2 / n)  # two-sample Kolmogorov-Smirnov at 0.1 %


def test_impossible_boxes_fall_back_to_the_centre():
    draws = {"area": torch.ones(1, 10), "aspect": torch.full((1, 10), 4.0), "position": torch.tensor([[0.9, 0.9]])}
    assert crop.boxes(**draws, height=16, width=16).tolist() == [[6.0, 0.0, 4.0, 16.0]]


@pytest.mark.parametrize("name", options("views"))
def test_contract(name):
    cfg = config(f"views={name}", "data=cifar10")
    views = instantiate(cfg.views)
    batch = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    params = views.draw(5, torch.Generator().manual_seed(3))
    made = views.apply(batch, params)
    assert made.shape == (len(views), 5, 3, 32, 32)
    assert len(views) >= 2
    assert made.dtype == torch.float32
    assert torch.equal(made, views(batch, torch.Generator().manual_seed(3)))  # the generator is all that is random
    assert torch.equal(made, views.apply(batch.float() / 255, params))  # uint8 or [0, 1]
    parts = [views.apply(batch[i : i + 1], rows(params, slice(i, i + 1))) for i in range(5)]
    torch.testing.assert_close(made, torch.cat(parts, 1))  # an image's view depends on its own row alone
    before = torch.get_rng_state()
    views(batch, torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())


def test_every_image_and_view_has_its_own_draw():
    views = instantiate(config("views=simclr", "data=cifar10").views)
    one = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    made = views(one.expand(8, -1, -1, -1), torch.Generator().manual_seed(0)).flatten(0, 1)
    distance = torch.cdist(made.flatten(1), made.flatten(1)) + torch.eye(16) * 1e3
    assert distance.min() > 1


def test_plain_is_normalisation_alone():
    views = instantiate(config("views=plain").views)
    batch = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    made = views(batch, torch.Generator())
    expected = TF.normalize(batch.float() / 255, [0.286], [0.353])
    torch.testing.assert_close(made, torch.stack([expected, expected]))


def augment(**changes) -> Augment:
    neutral = {
        **dict.fromkeys(("flip", "brightness", "contrast", "saturation", "hue", "gamma", "grayscale"), 0),
        "size": 8,
        "scale": (1, 1),
        "ratio": (1, 1),
        "jitter": 1,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
    }
    return Augment(**{**neutral, **changes})


def test_neutral_parameters_change_nothing():
    batch = torch.rand(4, 3, 8, 8)
    made = augment()
    torch.testing.assert_close(made.apply(batch, made.draw(4, torch.Generator())), batch)


@pytest.mark.parametrize(
    "change",
    [
        {"flip": 1},
        {"brightness": 0.5},
        {"contrast": 0.9},
        {"saturation": 0.9},
        {"hue": 0.3},
        {"gamma": 1.0},
        {"grayscale": 1},
        {"scale": (0.3, 0.5)},
    ],
    ids=str,
)
def test_each_parameter_is_used(change):
    batch = torch.rand(4, 3, 8, 8)
    made = augment(**change)
    out = made.apply(batch, made.draw(4, torch.Generator().manual_seed(0)))
    assert ((out - batch).abs().flatten(1).amax(1) > 1e-3).all()
    if "flip" in change:
        torch.testing.assert_close(out, batch.flip(-1))
    if "grayscale" in change:
        torch.testing.assert_close(out, color.grayscale(batch).expand_as(batch))


def test_jitter_probability_is_kept():
    made = augment(brightness=0.9, jitter=0.3)
    batch = torch.full((2000, 3, 2, 2), 0.5)
    out = made.apply(torch.nn.functional.interpolate(batch, 8), made.draw(2000, torch.Generator().manual_seed(0)))
    changed = ((out - 0.5).abs().flatten(1).amax(1) > 1e-6).float().mean()
    assert abs(changed - 0.3) < 0.05


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"scale": (0, 1)}, "scale"),
        ({"scale": (0.5, 1.2)}, "scale"),
        ({"flip": 1.5}, "flip"),
        ({"hue": 0.7}, "hue"),
        ({"contrast": -1}, "contrast"),
        ({"ratio": (2, 1)}, "ratio"),
        ({"size": 0}, "size"),
        ({"std": [1, 1, 0]}, "std"),
    ],
    ids=str,
)
def test_wrong_parameters_are_named(change, word):
    with pytest.raises(ValueError, match=word):
        augment(**change)


def test_wrong_number_of_channels_is_named():
    with pytest.raises(ValueError, match="channels"):
        Normalize([0.5], [0.5])(torch.rand(2, 3, 4, 4))
