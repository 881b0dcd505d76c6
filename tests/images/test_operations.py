"""What views are made of, against torchvision: values, and distributions of what is drawn."""

import math

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from view_cases import augment

from repel.images.views import blur, color, crop
from repel.images.views.views import apply

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


@pytest.mark.parametrize("shape", [(16, 16), (40, 30), (9, 70)], ids=str)
def test_crop_and_flip_equal_torchvision(shape):
    """Everywhere, borders included, whether boxes grow or shrink."""
    height, width = shape
    images = torch.rand(6, 3, height, width)
    box = torch.tensor([[0, 0, height, width], [2, 3, 5, 8], [height - 1, width - 1, 1, 1], [1, 0, 8, 2],
                        [0, 1, height - 3, 3], [0, 0, 1, width]])  # fmt: skip
    flip = torch.tensor([False, False, True, False, True, True])
    got = crop.crop_resize(images, box, flip, size=16)
    for image, b, f, out in zip(images, box.tolist(), flip, got, strict=True):
        expected = TF.resized_crop(image, *b, [16, 16], interpolation=T.InterpolationMode.BILINEAR, antialias=True)
        expected = TF.horizontal_flip(expected) if f else expected
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)
        alone = crop.interpolate(image[None], torch.tensor([b]), f, (16, 16))
        torch.testing.assert_close(alone[0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", ["exact", "fused"])
def test_operations_of_wide_images_equal_torchvision(path):
    """Crop, blur and cutout of an output that is not square; exact and fused agree where only these act."""
    make = augment(size=(12, 30), scale=(0.3, 0.9), ratio=(0.8, 1.25), flip=0.5, blur=1, blur_kernel=0.4, color=path)
    images = torch.rand(6, 3, 40, 70)
    p = make.draw(6, torch.Generator().manual_seed(1))
    made = apply([make], images, [p])[0]
    boxes = crop.boxes(p["area"], p["aspect"], p["position"], 40, 70).int().tolist()
    for image, box, flip, sigma, got in zip(images, boxes, p["flip"], p["sigma"].tolist(), made, strict=True):
        expected = TF.resized_crop(image, *box, [12, 30], interpolation=T.InterpolationMode.BILINEAR, antialias=True)
        expected = TF.horizontal_flip(expected) if flip else expected
        expected = TF.gaussian_blur(expected, [5, 5], [sigma, sigma])
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
        assert 0.8 * 0.9 <= box[3] / box[2] / 2.5 <= 1.25 * 1.1  # relative to 30 / 12, boxes being of whole pixels
    holes = crop.erase(torch.ones(4, 1, 12, 30), torch.full((4, 2), 0.5), torch.full((4,), 0.5))
    assert [int((holes == 0).any(axis).sum()) for axis in (-1, -2)] == [4 * 6, 4 * 6]


@pytest.mark.parametrize(("width", "size"), [(3, 16), (9, 16), (23, 24), (23, 70)])
def test_blur_equals_torchvision(width, size):
    images, sigma = torch.rand(5, 3, size, size), torch.tensor([0.1, 0.5, 1.0, 1.7, 4.0])
    table = blur.matrix(sigma, width, size)
    got = crop.resample(images, table, table)
    expected = [
        TF.gaussian_blur(image, [width, width], [s, s]) for image, s in zip(images, sigma.tolist(), strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)
    alone = blur.by_strips(images[2:3], sigma[2:3], width)
    torch.testing.assert_close(alone[0], expected[2], atol=1e-5, rtol=0)
    none = blur.matrix(torch.zeros(5), width, size)
    torch.testing.assert_close(crop.resample(images, none, none), images)


def test_blur_kernels_are_odd_and_fit():
    assert [blur.taps(0.1, size) for size in (8, 32, 96, 224)] == [3, 3, 9, 23]
    with pytest.raises(ValueError, match="too wide"):
        blur.matrix(torch.ones(1), 9, 4)


def test_rotation_equals_torchvision(images):
    degrees = torch.tensor([0.0, 10, -20, 45, 90, 170])
    expected = [
        TF.rotate(image, d, interpolation=T.InterpolationMode.BILINEAR)
        for image, d in zip(images, degrees.tolist(), strict=True)
    ]
    torch.testing.assert_close(crop.rotate(images, degrees), torch.stack(expected), atol=1e-4, rtol=0)
    wide = torch.rand(2, 3, 10, 24)
    expected = [
        TF.rotate(image, d, interpolation=T.InterpolationMode.BILINEAR)
        for image, d in zip(wide, (20, -35), strict=True)
    ]
    torch.testing.assert_close(crop.rotate(wide, torch.tensor([20.0, -35])), torch.stack(expected), atol=1e-4, rtol=0)


def test_solarisation_equals_torchvision(images):
    thresholds = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0, 2.0])
    expected = [TF.solarize(image, t) for image, t in zip(images[:5], thresholds.tolist(), strict=False)]
    got = color.solarize(images, thresholds)
    torch.testing.assert_close(got[:5], torch.stack(expected))
    assert torch.equal(got[5], images[5])


def test_grayscale_equals_torchvision(images):
    torch.testing.assert_close(color.grayscale(images), TF.rgb_to_grayscale(images), atol=1e-4, rtol=0)
    chosen = torch.tensor([True, False] * 3)
    got = color.to_gray(images, chosen)
    torch.testing.assert_close(got[::2], TF.rgb_to_grayscale(images[::2], 3), atol=1e-4, rtol=0)
    assert torch.equal(got[1::2], images[1::2])


def test_cutout_equals_torchvision(images):
    position, side = torch.rand(6, 2), torch.tensor([0.0, 0.25, 0.5, 0.5, 1.0, 0.3])
    got = crop.erase(images, position, side)
    assert torch.equal(got[0], images[0])
    for image, at, s, out in zip(images, position, side, got, strict=True):
        pixels = round(16 * float(s))
        first = [int(16 * float(x)) - pixels // 2 for x in at]
        top, left = (max(0, f) for f in first)
        bottom, right = (min(16, f + pixels) for f in first)
        assert torch.equal(out, TF.erase(image, top, left, max(0, bottom - top), max(0, right - left), torch.zeros(1)))


@pytest.mark.parametrize("order", ["batch", "image"])
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_applies_its_operations_in_the_drawn_order(order, channels):
    images = torch.rand(24, channels, 8, 8)
    generator = torch.Generator().manual_seed(0)
    params = augment(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.4, order=order).draw(24, generator)
    operations = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    expected = []
    for image, factors, places in zip(images, params["factors"], params["order"], strict=True):
        for place in places.tolist():
            image = operations[place](image, float(factors[place]))
        expected.append(image)
    before = images.clone()
    got = color.jitter(images, params["factors"], params["order"])
    torch.testing.assert_close(got, torch.stack(expected), atol=1 / 255 / 10, rtol=0)
    assert torch.equal(images, before)
    assert (len(params["order"].unique(dim=0)) > 1) is (order == "image")


def cumulated(sample: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    return torch.searchsorted(sample.sort().values, grid, right=True) / len(sample)


def same_distribution(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Two-sample Kolmogorov-Smirnov at 0.1 %."""
    grid = torch.cat([ours, theirs])
    gap = (cumulated(ours, grid) - cumulated(theirs, grid)).abs().max()
    return float(gap) < 1.95 * math.sqrt((len(ours) + len(theirs)) / len(ours) / len(theirs))


def test_the_test_of_distributions_can_fail():
    a = torch.rand(20_000)
    assert same_distribution(a, torch.rand(20_000))
    assert not same_distribution(a, torch.rand(20_000) * 0.97)


def test_boxes_are_distributed_as_torchvisions():
    shape, scale, ratio, n = (20, 40), (0.2, 1.0), (3 / 4, 4 / 3), 20_000
    draws = crop.draw_boxes(n, scale, ratio, torch.Generator().manual_seed(1))
    ours = crop.boxes(*draws.values(), *shape)
    transform, blank = T.RandomResizedCrop(8, scale, ratio), torch.zeros(3, *shape)
    theirs = [transform.make_params([blank]) for _ in range(n)]
    theirs = torch.tensor([[p["top"], p["left"], p["height"], p["width"]] for p in theirs]).float()
    top, left, height, width = ours.unbind(1)
    assert ((top >= 0) & (left >= 0) & (top + height <= shape[0]) & (left + width <= shape[1])).all()
    for column in range(4):
        assert same_distribution(ours[:, column], theirs[:, column])


def test_jitter_is_distributed_as_torchvisions():
    n, strengths = 20_000, {"brightness": 0.4, "contrast": 0.8, "saturation": 1.5, "hue": 0.1}
    params = augment(**strengths, order="image").draw(n, torch.Generator().manual_seed(1))
    jitter = T.ColorJitter(*strengths.values())
    theirs = [jitter.make_params([]) for _ in range(n)]
    for number, name in enumerate(strengths):
        factor = torch.tensor([p[f"{name}_factor"] for p in theirs])
        assert same_distribution(params["factors"][:, number], factor), name
    for place in range(4):
        # torchvision's list, too, is the operations in the order of their application
        ours = params["order"][:, place].bincount(minlength=4) / n
        assert (ours - 0.25).abs().max() < 0.02
        theirs_at = torch.tensor([int(p["fn_idx"][place]) for p in theirs]).bincount(minlength=4) / n
        assert (ours - theirs_at).abs().max() < 0.03


def test_blur_and_angles_are_distributed_as_torchvisions():
    n = 20_000
    params = augment(blur=1, rotate=30).draw(n, torch.Generator().manual_seed(1))
    sigma = torch.tensor([T.GaussianBlur(3, (0.1, 2.0)).make_params([])["sigma"][0] for _ in range(n)])
    angle = torch.tensor([T.RandomRotation(30).make_params([])["angle"] for _ in range(n)])
    assert same_distribution(params["sigma"], sigma)
    assert same_distribution(params["angle"], angle)


def test_probabilities_are_kept():
    names = {"flip": 0.5, "grayscale": 0.2, "blur": 0.1, "solarize": 0.2, "cutout": 0.3, "jitter": 0.8}
    params = augment(brightness=0.4, **names).draw(20_000, torch.Generator().manual_seed(0))
    done = {"flip": params["flip"], "grayscale": params["grayscale"], "blur": params["sigma"] > 0,
            "solarize": params["threshold"] <= 1, "cutout": params["hole"] > 0,
            "jitter": params["factors"][:, 0] != 1}  # fmt: skip
    for name, p in names.items():
        assert abs(float(done[name].float().mean()) - p) < 4 * math.sqrt(p * (1 - p) / 20_000), name
        for other in set(names) - {name}:  # drawn independently
            both = float((done[name] & done[other]).float().mean())
            assert abs(both - p * names[other]) < 0.015, (name, other)


def test_impossible_boxes_fall_back_to_the_centre():
    draws = {"area": torch.ones(1, 10), "aspect": torch.full((1, 10), 4.0), "position": torch.tensor([[0.9, 0.9]])}
    assert crop.boxes(**draws, height=16, width=16).tolist() == [[6.0, 0.0, 4.0, 16.0]]
