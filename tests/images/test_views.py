"""Views: the contract of each option, an own draw for every image, fused against exact, counted randomness."""

import pytest
import torch
import torchvision.transforms.v2.functional as TF
from conftest import config, make_folder, options_of
from hydra.utils import instantiate
from lightning.pytorch import Callback
from runs_here import fitted
from torch.utils._python_dispatch import TorchDispatchMode
from view_cases import augment

from repel.data.views import Viewed, slice_params
from repel.images.views import color, crop, fused
from repel.images.views.normalize import Normalize
from repel.images.views.views import apply


def parts(made) -> list[torch.Tensor]:
    return [made.views, made.crops] if isinstance(made, Viewed) else [made]


@pytest.mark.parametrize("path", ["exact", "fused"])
@pytest.mark.parametrize("name", options_of("views", "images"))
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
@pytest.mark.parametrize("name", options_of("views", "images"))
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

    calls(8)  # what blurs keep from call to call is made now
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


@pytest.mark.parametrize("path", ["exact", "fused"])
def test_smaller_views_at_first_are_the_same_views_at_another_size(path):
    """The same draws, blurred by the same share of the side; crops that a reader has made are scaled down."""
    options = ["data=cifar10", "views=multi_crop", f"views.color={path}", "views.augmentation.hue=0.0"]
    views = instantiate(config(*options, "views.progressive={until: 0.5, size: 0.5}").views)
    small = instantiate(config(*options, "data.image_size=16", "views.augmentation.blur_sigma=[0.05,1.0]").views)
    batch = torch.randint(0, 256, (5, 3, 40, 50), dtype=torch.uint8)
    first = views.at(0.49)
    params = first.draw(5, torch.Generator().manual_seed(0))
    made, expected = first.apply(batch, params), small(batch, torch.Generator().manual_seed(0))
    assert made.views.shape[-2:] == (16, 16)
    torch.testing.assert_close(made.views, expected.views)
    torch.testing.assert_close(made.crops, expected.crops)
    assert views.at(0.5) is views

    whole = torch.full((5, 3, 32, 32), 0.5)
    whole[:, :, :, ::2] = 0.25  # a scaling that averages leaves 0.375 of it
    plain = ["data=cifar10", "views=plain", "data.mean=[0,0,0]", "data.std=[1,1,1]"]
    plain += [f"views.color={path}", "views.progressive={until: 0.5, size: 0.5}"]
    plain = instantiate(config(*plain).views).at(0)
    halves = plain.apply([whole, whole], plain.draw(5, torch.Generator()))
    torch.testing.assert_close(halves[..., 1:-1], torch.full((2, 5, 3, 16, 14), 0.375))


@pytest.mark.parametrize("progressive", [{"until": 0.8}, {"until": 1.0, "size": 0.5}, {"until": 0.5, "size": 0}])
def test_wrong_progressive_sizes_are_named(progressive):
    with pytest.raises(Exception, match=r"views\.progressive needs until and size"):
        instantiate(config("data=cifar10").views, progressive=progressive)


class Sizes(Callback):
    """The side of the views of every batch, in training and in validation."""

    def __init__(self):
        self.train, self.val = [], []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.train.append(batch.views.shape[-1])

    def on_validation_batch_start(self, trainer, module, batch, *places):
        self.val.append(batch.views.shape[-1])


@pytest.mark.parametrize("in_memory", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_training_begins_with_smaller_views(tmp_path, in_memory):
    """Until the share of all steps that is asked for, also in the middle of an epoch; validation sees whole views."""
    make_folder(tmp_path / "images", ["a", "b"], 12)
    folder = ["data=image_folder", f"data.root={tmp_path}/images", f"data.in_memory={in_memory}", "data.workers=1",
              "data.image_size=16", "data.batch_size=4", "data.val_fraction=0.2"]  # fmt: skip
    sizes = Sizes()
    fitted(tmp_path, *folder, "trainer.max_epochs=3", "callbacks={}", "logger={}",
           "views.progressive={until: 0.5, size: 0.5}", callback=sizes)  # fmt: skip
    assert sizes.train == [8] * 5 + [16] * 4  # three steps an epoch
    assert set(sizes.val) == {16}


def test_an_encoder_that_takes_one_size_is_named():
    views = instantiate(config("data=cifar10", "views.progressive={until: 0.5, size: 0.5}").views)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(ValueError, match=r"views\.progressive: this encoder takes no images of 16x16 \("):
        views.check_encoder(encoder)
    views.check_encoder(torch.nn.Conv2d(3, 4, 3))


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
