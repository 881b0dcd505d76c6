"""data.image_size: the views and whatever is not augmented have it, whatever size a reader has stored."""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, config, options_of, thinned
from hydra.utils import instantiate
from image_sizes import cases, sizes_seen
from loss_cases import make
from omegaconf import OmegaConf
from PIL import Image

from repel.data.memory import TensorSamples
from repel.data.views import Viewed
from repel.engine.configs import load_config
from repel.engine.notes import notes
from repel.images.contact_sheet import CELL, picture
from repel.images.corruptions import Corruptions
from repel.images.decode import decode
from repel.images.figures import thumbnails
from repel.images.memory import Images
from repel.images.modality import raw_pixels
from repel.images.shapes import height_width
from repel.images.sizes import at_size

STORED = [(28, 28), (24, 40), (44, 28)]


def images(height: int, width: int, channels: int = 3) -> Images:
    return Images(torch.randint(0, 256, (3, channels, height, width), dtype=torch.uint8), torch.arange(3))


def plain(samples) -> torch.Tensor:
    return next(iter(samples.plain([torch.arange(len(samples))])))[0]


@pytest.mark.parametrize("size", [20, 36, [12, 30]], ids=str)
@pytest.mark.parametrize("name", thinned(options_of("views", "images"), 2))
def test_views_and_plain_images_have_one_size(name, size):
    cfg = config(f"views={name}", "data=cifar10", f"data.image_size={size}")
    views, prepare = instantiate(cfg.views), instantiate(cfg.data.datamodule.prepare)
    for stored in STORED:
        samples = prepare(images(*stored))
        made = views(samples.pixels, torch.Generator().manual_seed(0))
        made = made.views if isinstance(made, Viewed) else made
        assert made.shape[-2:] == plain(samples).shape[-2:] == height_width(size)
        assert plain(samples).dtype == torch.uint8


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [20, 28, 36, [12, 30]], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_plain_images_are_what_is_read_of_a_file(stored, size, channels):
    """So that an image of a stored set, saved as a file, is found by a search."""
    samples = at_size(images(*stored, channels), size)
    for pixels, scaled in zip(samples.pixels, plain(samples), strict=True):
        file = io.BytesIO()
        Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(file, "PNG")
        expected = decode(file.getvalue(), size, channels).astype(int)
        assert abs(scaled.numpy() - expected).max() <= 1
        assert expected.std() > 10


@pytest.mark.parametrize("size", [20, [12, 30]], ids=str)
@pytest.mark.parametrize("stored", STORED)
def test_views_without_augmentation_are_the_plain_images(stored, size):
    cfg = config("views=plain", "data=cifar10", f"data.image_size={size}")
    samples, mean, std = at_size(images(*stored), size), cfg.data.mean, cfg.data.std
    made = instantiate(cfg.views)(samples.pixels, torch.Generator())[0]
    pixels = made * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    assert (pixels * 255 - plain(samples)).abs().max() < 1.5


def test_nothing_is_squashed():
    """A disk stays a disk in the plain image and in every view, where boxes have the aspect of the output."""
    rows, columns = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(100) - 49.5, indexing="ij")
    disk = ((rows**2 + columns**2 <= 12**2) * 255).to(torch.uint8).expand(4, 1, -1, -1)
    cfg = config("views=plain", "data.image_size=[20,50]", "views.augmentation.scale=[0.7,1.0]")
    samples = at_size(Images(disk), [20, 50])
    views = instantiate(cfg.views)(samples.pixels, torch.Generator().manual_seed(0)) * 0.353 + 0.286
    for pixels in [plain(samples)[0, 0] / 255, *views[:, :, 0].flatten(0, 1)]:
        tall, wide = (float((pixels > 0.5).any(1 - axis).sum()) for axis in (0, 1))
        assert abs(tall - wide) <= 1
        assert tall >= 10


@pytest.mark.parametrize("wrong", ["0", "[40]", "[40,0]", "[40,100,3]", "[a,b]"])
def test_what_is_no_size_is_refused(wrong):
    size = OmegaConf.create(f"x: {wrong}").x
    with pytest.raises(ValueError, match=r"data\.image_size must be a side in pixels"):
        height_width(size)


def test_parts_of_a_set_keep_its_size():
    samples = at_size(images(28, 28, 1), 20)
    for part in (samples[torch.tensor([2, 0])], samples.labelled, samples.with_labels(torch.arange(3))):
        assert plain(part).shape[1:] == part.shape == (1, 20, 20)
    assert samples.picture_size(0) == (28, 28)  # crops are cut from what is stored
    assert samples.description == "images of 20x20x1, stored as 28x28"
    same = at_size(images(28, 28, 1), 28)
    assert torch.equal(plain(same), same.pixels)
    assert same.description == "images of 28x28x1"


def test_baselines_and_corruptions_see_that_size_too():
    samples = at_size(images(28, 28, 1), 20)
    assert raw_pixels(samples)[0].shape == (3, 400)
    seen = []

    def encode(some):
        seen.append(some.shape)
        return torch.rand(len(some), 4), torch.arange(len(some))

    part = type("Part", (), {"x": torch.rand(3, 4), "y": samples.labels, "samples": samples})()
    network = type("Network", (), {"encode": staticmethod(encode)})()
    Corruptions(k=1, temperature=0.1, images=3, seed=0).fit(part, part, network).score(part)
    assert set(seen) == {(1, 20, 20)}


@dataclass(frozen=True)
class OfMine(TensorSamples):
    """Images of a class of one's own, which knows no sizes."""


def test_samples_of_another_class_must_have_that_size():
    mine = OfMine(images(28, 28).x)
    assert at_size(mine, 28) is mine
    for wrong, words in ((mine, "28x28"), (OfMine(images(28, 20).x), "28x20")):
        with pytest.raises(ValueError, match=rf"data\.image_size=20, but OfMine gives images of {words}"):
            at_size(wrong, 20)


def test_earlier_configs_get_the_size_of_their_run():
    config = yaml.safe_load((ROOT / "tests/runs/first_edition/config.yaml").read_text(encoding="utf-8"))
    config["data"]["image_size"] = 20
    datamodule = load_config(config).data.datamodule
    assert plain(instantiate(datamodule.prepare)(images(28, 28))).shape[-2:] == (20, 20)
    config["data"]["datamodule"]["prepare"] = None  # turned off by hand
    assert load_config(config).data.datamodule.prepare is None


def test_views_of_another_size_are_told():
    module = torch.nn.Module()
    module.target, module.loss, module.micro_batch = None, make("ntxent"), None
    assert notes(config(), module, 1) == []
    (note,) = notes(config("trainer.check_val_every_n_epoch=99"), module, 1)
    assert "nothing is validated: the last epoch counts as the best" in note
    assert notes(config("trainer.limit_val_batches=0"), module, 1) == []  # trainer_notes has it
    (note,) = notes(config("views.augmentation.size=20"), module, 1)
    assert "20 pixels a side" in note
    assert "28" in note


def test_a_sheet_of_pairs_and_thumbnails_keep_the_aspect():
    wide = Images(torch.zeros(2, 1, 10, 40, dtype=torch.uint8))
    cell = np.array(picture(wide.x[0]))
    assert cell.shape == (CELL, CELL, 3)
    assert (cell == 0).all(2).sum() == CELL * CELL // 4
    small = thumbnails(wide, torch.arange(2), 20)
    assert small.shape == (2, 3, 20, 20)
    assert (small == 0).float().mean() == 1 / 4


@pytest.mark.slow
@pytest.mark.parametrize(
    # in turn not square, smaller and larger than the images that are stored; quick encoders all of it. ResNet-50 is the
    # class of ResNet-18, with features and gradients in test_encoders.py
    ("case", "size"),
    [
        (case, size)
        for number, case in enumerate(cases())
        for place, size in enumerate(([16, 24], 20, 36))
        if place == number % 3 or case[0] in ("encoder=small", "encoder=vit", "encoder=timm")
        if case[0] != "encoder=resnet50"
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else str(value),
)
def test_training_and_evaluation_use_one_size(case, size, tmp_path, monkeypatch):
    """An epoch with every option of the groups that have to do with images, and the report at its end."""
    seen, views = sizes_seen(case, size, tmp_path, monkeypatch)
    assert seen["train"] == views
    assert seen["eval"] - views == set()  # validation's views, and what is not augmented
    assert height_width(size) in seen["eval"]


@pytest.mark.slow
def test_a_vit_of_224_pixels_on_the_bundled_images(tmp_path, monkeypatch):
    vit = ("encoder=timm", "encoder.name=vit_tiny_patch16_224", "+encoder.options={depth:1,embed_dim:24,num_heads:2}",
           "data.batch_size=4")  # fmt: skip
    seen, _ = sizes_seen(vit, 224, tmp_path, monkeypatch, fewer=5)
    assert seen["train"] == seen["eval"] == {(224, 224)}
