"""Views: each operation against torchvision, every image its own draw, counted randomness."""

import math

import pytest
import torch
import torchvision.transforms.v2 as T
import torchvision.transforms.v2.functional as TF
from conftest import config, options
from hydra.utils import instantiate
from torch.utils._python_dispatch import TorchDispatchMode

from repel.data.views import Viewed, slice_params
from repel.images.views import blur, color, crop, fused
from repel.images.views.augment import Augment
from repel.images.views.normalize import Normalize
from repel.images.views.views import apply


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
        torch.testing.assert_close(out, TF.horizontal_flip(expected) if f else expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("width", "size"), [(3, 16), (9, 16), (23, 24)])
def test_blur_equals_torchvision(width, size):
    images, sigma = torch.rand(5, 3, size, size), torch.tensor([0.1, 0.5, 1.0, 1.7, 4.0])
    table = blur.matrix(sigma, width, size)
    got = crop.resample(images, table, table)
    expected = [
        TF.gaussian_blur(image, [width, width], [s, s]) for image, s in zip(images, sigma.tolist(), strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=0)
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


@pytest.mark.parametrize("shape", [(32, 32), (20, 40)], ids=str)
def test_boxes_are_distributed_as_torchvisions(shape):
    scale, ratio, n = (0.2, 1.0), (3 / 4, 4 / 3), 20_000
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


def parts(made) -> list[torch.Tensor]:
    return [made.views, made.crops] if isinstance(made, Viewed) else [made]


@pytest.mark.parametrize("path", ["exact", "fused"])
@pytest.mark.parametrize("name", options("views"))
def test_contract(name, path):
    data = ["data=fashion_mini", "data.image_size=32"] if name == "gray" else ["data=cifar10"]
    cfg = config(f"views={name}", f"views.color={path}", "views.order=image", *data)
    views = instantiate(cfg.views)
    batch = torch.randint(0, 256, (70, cfg.data.channels, 32, 32), dtype=torch.uint8)
    params = views.draw(70, torch.Generator().manual_seed(3))
    made = parts(views.apply(batch, params))
    assert made[0].shape == (len(views), 70, cfg.data.channels, 32, 32)
    assert len(views) >= 2
    assert made[0].dtype == torch.float32
    if name == "multi_crop":
        assert made[1].shape == (6, 70, 3, 14, 14)
    for again in (
        views(batch, torch.Generator().manual_seed(3)),  # the generator is all that is random
        views.apply(batch.float() / 255, params),  # uint8 or [0, 1]
        in_autocast(views, batch, params),
    ):
        assert all(torch.equal(a, b) for a, b in zip(made, parts(again), strict=True))
    cut = [
        parts(views.apply(batch[part], slice_params(params, part))) for part in (slice(0, 1), slice(1, 7), slice(7, 70))
    ]
    for whole, *pieces in zip(made, *cut, strict=True):
        torch.testing.assert_close(whole, torch.cat(pieces, 1), atol=1e-5, rtol=1e-5)  # its own row alone counts
    before = torch.get_rng_state()
    views(batch, torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (cfg.data.mean, cfg.data.std))
    for part in made:
        pixels = part * std + mean
        assert pixels.min() >= -1e-5
        assert pixels.max() <= 1 + 1e-5


def in_autocast(views, batch, params):
    with torch.autocast("cpu", torch.bfloat16):
        return views.apply(batch, params)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["exact", "fused"])
def test_compiled_views_are_the_same(path):
    """Traced by torch.compile, without its code generator, which would need a C++ compiler and a minute."""
    views = instantiate(config("views=simclr", f"views.color={path}", "data=cifar10", "data.image_size=16").views)
    batch = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    params = views.draw(8, torch.Generator().manual_seed(0))
    compiled = torch.compile(views.apply, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, params), views.apply(batch, params), atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("path", ["exact", "fused"])
@pytest.mark.parametrize("name", options("views"))
def test_gpu_equals_cpu(name, path):
    views = instantiate(config(f"views={name}", f"views.color={path}", "views.order=image", "data=cifar10").views)
    batch = torch.randint(0, 256, (70, 3, 32, 32), dtype=torch.uint8)
    params = views.draw(70, torch.Generator().manual_seed(3))
    for here, there in zip(parts(views.apply(batch, params)), parts(views.apply(batch.cuda(), params)), strict=True):
        torch.testing.assert_close(there.cpu(), here, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("path", ["exact", "fused"])
def test_every_image_and_view_has_its_own_draw(path):
    views = instantiate(config("views=simclr", f"views.color={path}", "data=cifar10").views)
    one = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    made = views(one.expand(80, -1, -1, -1), torch.Generator().manual_seed(0)).flatten(0, 1)
    distance = torch.cdist(made.flatten(1), made.flatten(1)) + torch.eye(160) * 1e3
    assert distance.min() > 0.5


class Count(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("path", ["exact", "fused"])
@pytest.mark.parametrize("order", ["batch", "image"])
def test_no_work_is_done_image_by_image(path, order, monkeypatch):
    """As many calls of torch for 8 images as for 64 of them; and on a CPU so many for each block of 64."""
    views = instantiate(config("views=simclr", "data=cifar10", f"views.color={path}", f"views.order={order}").views)

    def calls(n: int) -> int:
        with Count() as count:
            views(torch.zeros(n, 3, 32, 32), torch.Generator().manual_seed(0))
        return count.calls

    few, block, blocks = calls(8), calls(64), calls(256)
    assert abs(few - block) <= 4
    assert blocks < 4 * block


def test_fused_equals_exact_where_nothing_is_clamped_and_no_hue_turned():
    """All else that it does is the same arithmetic in another order."""
    change = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.1, "grayscale": 0.3, "scale": (0.3, 1), "flip": 0.5}
    change |= {"order": "image", "size": 16, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.1]}
    images = 0.4 + 0.2 * torch.rand(40, 3, 20, 20)
    params = [augment(**change).draw(40, torch.Generator().manual_seed(0))]
    exact, quick = (apply([augment(**change, color=path)], images, params) for path in ("exact", "fused"))
    torch.testing.assert_close(exact, quick, atol=1e-4, rtol=0)
    # a thousandth of a grey level, also with a blur, but for what the blur does to the mean that contrast looks at
    blurred = change | {"blur": 0.5, "contrast": 0.0}
    params = [augment(**blurred).draw(40, torch.Generator().manual_seed(0))]
    exact, quick = (apply([augment(**blurred, color=path)], images, params) for path in ("exact", "fused"))
    torch.testing.assert_close(exact, quick, atol=1e-4, rtol=0)


def test_fused_affine_is_the_product_of_its_steps(images):
    """By hand, for one image: contrast, brightness, hue, saturation, then gray."""
    factors, order = torch.tensor([[1.3, 0.6, 1.4, 0.1]]), torch.tensor([[1, 0, 3, 2]])
    x = images[:1].flatten(2)
    luma = torch.tensor(color.LUMA)
    y = 0.6 * x + 0.4 * (luma @ x[0].mean(1))
    y = fused.rotate_hue(torch.tensor([0.1])) @ (1.3 * y)
    y = 1.4 * y - 0.4 * (luma @ y).unsqueeze(1)
    matrix, toward = fused.affine(factors, order, torch.tensor([False]), 3)
    offset = (toward * x.mean(2)).sum(1).view(-1, 1, 1)
    torch.testing.assert_close(matrix @ x + offset, y, atol=1e-4, rtol=0)  # LUMA sums to 0.9999
    matrix, _ = fused.affine(factors, order, torch.tensor([True]), 3)
    torch.testing.assert_close((matrix @ x + offset)[0], (luma @ y[0]).expand(3, -1), atol=1e-4, rtol=0)


def test_hue_by_thirds_of_a_turn_is_the_same_fused(images):
    for shift in (1 / 3, -1 / 3):
        turn = torch.full((6,), shift)
        quick = (fused.rotate_hue(turn) @ images.flatten(2)).view_as(images)
        torch.testing.assert_close(quick, color.hue(images, turn), atol=1e-5, rtol=0)


def test_plain_is_normalisation_alone():
    views = instantiate(config("views=plain").views)
    batch = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    made = views(batch, torch.Generator())
    expected = TF.normalize(batch.float() / 255, [0.286], [0.353])
    torch.testing.assert_close(made, torch.stack([expected, expected]))
    torch.testing.assert_close(Normalize([0.286], [0.353])(batch), expected)


def test_views_may_differ():
    views = instantiate(config("views=byol", "data=cifar10").views)
    first, second = views.draw(2000, torch.Generator().manual_seed(0))
    assert (first["sigma"] > 0).all()
    assert 0.05 < (second["sigma"] > 0).float().mean() < 0.15
    assert (first["threshold"] == 2).all()
    assert 0.15 < (second["threshold"] < 1).float().mean() < 0.25
    weak = instantiate(config("views=weak_target", "data=cifar10").views).draw(100, torch.Generator())[1]
    assert (weak["factors"] == torch.tensor([1.0, 1, 1, 0])).all()
    with pytest.raises(Exception, match=r"views\.per_view has 2 entries"):
        instantiate(config("views=byol", "views.n=3", "data=cifar10").views)


def test_crops_made_elsewhere_are_only_finished():
    """What a reader of large files does: the crop and the flip are done, the rest is not."""
    views = instantiate(config("views=multi_crop", "data=cifar10").views)
    batch = torch.randint(0, 256, (5, 3, 40, 50), dtype=torch.uint8)
    params = views.draw(5, torch.Generator().manual_seed(0))
    crops = []
    for augmentation, p in zip(views.augmentations, params, strict=True):
        box = crop.boxes(p["area"], p["aspect"], p["position"], 40, 50)
        crops.append(crop.crop_resize(batch.float() / 255, box, p["flip"], augmentation.size))
    for here, there in zip(views.apply(batch, params), views.apply(crops, params), strict=True):
        torch.testing.assert_close(here, there, atol=1e-4, rtol=0)


def augment(**changes) -> Augment:
    zero = ("flip", "rotate", "brightness", "contrast", "saturation", "hue", "gamma", "grayscale", "blur", "solarize",
            "cutout")  # fmt: skip
    neutral = {
        **dict.fromkeys(zero, 0), "size": 8, "scale": (1, 1), "ratio": (1, 1), "jitter": 1,
        "blur_sigma": (0.1, 2.0), "blur_kernel": 0.4, "solarize_threshold": 0.5, "cutout_size": 0.5,
        "color": "exact", "order": "batch", "mean": [0, 0, 0], "std": [1, 1, 1],
    }  # fmt: skip
    return Augment(**{**neutral, **changes})


def made_of(batch: torch.Tensor, **changes) -> torch.Tensor:
    one = augment(**changes)
    return apply([one], batch, [one.draw(len(batch), torch.Generator().manual_seed(0))])[0]


@pytest.mark.parametrize("path", ["exact", "fused"])
def test_neutral_parameters_change_nothing(path):
    batch = torch.rand(4, 3, 8, 8)
    torch.testing.assert_close(made_of(batch, color=path), batch)


@pytest.mark.parametrize("path", ["exact", "fused"])
@pytest.mark.parametrize(
    "change",
    [
        {"flip": 1},
        {"rotate": 90},
        {"brightness": 0.5},
        {"contrast": 0.9},
        {"saturation": 0.9},
        {"hue": 0.3},
        {"gamma": 1.0},
        {"grayscale": 1},
        {"blur": 1, "blur_sigma": (1.0, 2.0)},
        {"solarize": 1},
        {"cutout": 1},
        {"scale": (0.3, 0.5)},
    ],
    ids=str,
)
def test_each_parameter_is_used(change, path):
    batch = torch.rand(4, 3, 8, 8)
    out = made_of(batch, color=path, **change)
    assert ((out - batch).abs().flatten(1).amax(1) > 1e-3).all()
    if "flip" in change:
        torch.testing.assert_close(out, batch.flip(-1))
    if "grayscale" in change:
        torch.testing.assert_close(out, color.grayscale(batch).expand_as(batch))


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
        ({"blur_sigma": (0, 1)}, "blur_sigma"),
        ({"rotate": -1}, "rotate"),
        ({"solarize_threshold": 2}, "solarize_threshold"),
        ({"cutout_size": 0}, "cutout_size"),
        ({"color": "quick"}, "color"),
        ({"order": "none"}, "order"),
    ],
    ids=str,
)
def test_wrong_parameters_are_named(change, word):
    with pytest.raises(ValueError, match=word):
        augment(**change)


def test_wrong_number_of_channels_is_named():
    with pytest.raises(ValueError, match="channels"):
        Normalize([0.5], [0.5])(torch.rand(2, 3, 4, 4))
