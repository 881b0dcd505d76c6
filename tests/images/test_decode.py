"""Image files: crops, EXIF, large ones, bombs; folders of hostile files."""

import numpy as np
import pytest
import torch
from conftest import make_folder
from folder_runs import QUICK
from hostile import make_hostile, picture, turned
from PIL import Image, ImageOps
from runs_here import status

from repel.base.terminal import shown
from repel.engine.outcomes import MISTAKE
from repel.images import folder
from repel.images.decode import MAX_PIXELS, decode, decode_crops
from repel.images.listing import list_images
from repel.images.sources import PackedStrings
from repel.images.views import crop


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_a_worker_are_those_of_the_device(tmp_path, channels, flip):
    """Pillow's resampling with a box and the views' own agree to a grey level or two."""
    image = picture(3, (90, 70), "L" if channels == 1 else "RGB")
    image.save(tmp_path / "x.png")
    box = torch.tensor([[3.0, 8, 50, 60], [0, 0, 70, 90], [20, 30, 11, 7]])
    made = decode_crops(str(tmp_path / "x.png"), lambda h, w: box.tolist(), [16, 24, 16], [flip] * 3, channels)
    whole = torch.from_numpy(np.asarray(image).copy()).reshape(70, 90, channels).permute(2, 0, 1)[None].float()
    for one, size, got in zip(box, (16, 24, 16), made, strict=True):
        expected = crop.crop_resize(whole, one[None], torch.tensor([flip]), size)[0]
        assert got.shape == (channels, size, size)
        assert (torch.from_numpy(got.copy()) - expected).abs().max() <= 2


def test_exif_turns_the_picture_before_it_is_cropped(tmp_path):
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        path.write_bytes(turned(5, orientation))
        upright = Image.open(path)
        size = upright.size if orientation >= 5 else upright.size[::-1]

        def boxes(height, width, size=size):
            assert (height, width) == size
            return [(0, 0, height / 2, width / 2)]

        crops = decode_crops(path, boxes, [8], [False], 3)[0]
        straight = ImageOps.exif_transpose(upright).convert("RGB")
        straight = straight.crop((0, 0, straight.width // 2, straight.height // 2))
        expected = straight.resize((8, 8), Image.Resampling.BILINEAR)
        assert np.abs(crops.transpose(1, 2, 0).astype(int) - np.asarray(expected)).max() <= 1


def test_large_jpegs_are_read_at_a_reduced_scale_and_look_the_same(tmp_path, monkeypatch):
    image = picture(2, (1600, 1200))
    image.save(tmp_path / "x.jpg", quality=95)
    drafts = []
    from PIL.JpegImagePlugin import JpegImageFile

    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, mode, size: drafts.append(draft(self, mode, size)))
    got = decode_crops(tmp_path / "x.jpg", lambda h, w: [(100, 200, 900, 1000)], [64], [False], 3)[0]
    assert drafts[0] is not None  # it was taken up
    full = image.resize((64, 64), Image.Resampling.BILINEAR, (200, 100, 1200, 1000))
    assert np.abs(got.transpose(1, 2, 0).astype(int) - np.asarray(full)).mean() < 2
    small = decode_crops(tmp_path / "x.jpg", lambda h, w: [(0, 0, 60, 60)], [64], [False], 3)[0]
    full = image.resize((64, 64), Image.Resampling.BILINEAR, (0, 0, 60, 60))
    assert (
        np.abs(small.transpose(1, 2, 0).astype(int) - np.asarray(full)).mean() < 2
    )  # never from fewer pixels than that


def test_bombs_are_refused_by_their_header(tmp_path):
    from hostile import png

    side = int(MAX_PIXELS**0.5) + 10
    (tmp_path / "bomb.png").write_bytes(png(side, side, b""))
    with pytest.raises(ValueError, match="decompression bomb"):
        decode(tmp_path / "bomb.png", 8, 3)


def test_names_that_cannot_be_printed():
    assert shown("a\nb\x1b[31m.png") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m.png"
    assert shown("\udcff.png") == "\N{REPLACEMENT CHARACTER}.png"
    assert shown("猫 é.png") == "猫 é.png"
    names = ["a", "", "猫", "\udcff", "x" * 300]
    assert list(PackedStrings(names)) == names


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp("hostile")
    return root, *make_hostile(root)


def test_every_unusual_file_is_read_and_every_broken_one_named(hostile):
    root, good, bad = hostile
    assert good + bad >= 200
    splits = folder.image_folder(str(root), 16, 3, "skip", True, 0, "splits")
    assert (len(splits.train), len(splits.skipped)) == (good, bad)
    assert all("\n" not in line and line.isprintable() for line in splits.skipped)
    assert len(set(splits.skipped)) == bad
    for name in ("cut5.jpg", "bomb.png", "pipe.png", "loop.png", "float.tiff", "empty0.jpg"):
        assert sum(f"/{name}: " in line for line in splits.skipped) == 1, name


@pytest.mark.parametrize("in_memory", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_training_on_hostile_files_skips_the_broken_ones_and_names_them(hostile, tmp_path, in_memory, capsys):
    root, _, bad = hostile
    typed = ["data=image_folder", f"data.root={root}", f"data.in_memory={in_memory}", "data.on_error=skip",
             "data.workers=2"]  # fmt: skip
    assert status(tmp_path / "run", *QUICK, *typed) == (0, "")
    named = (tmp_path / "run/skipped.txt").read_text().splitlines()
    assert len(named) == len(set(named)) <= bad
    assert len(named) == bad or (
        in_memory == "false" and len(named) > bad / 2
    )  # those that fell to an epoch's training
    assert f"skipped  {len(named)} unreadable files" in capsys.readouterr().out


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_training_on_hostile_files_stops_at_the_first_broken_one(hostile, tmp_path, in_memory):
    root, *_ = hostile
    typed = ["data=image_folder", f"data.root={root}", f"data.in_memory={in_memory}", "data.workers=2"]
    code, line = status(tmp_path / "run", *QUICK, *typed)
    assert code == MISTAKE
    assert line.startswith("cannot read the image")
    assert "data.on_error=skip" in line
    assert "\n" not in line


def test_a_folder_that_holds_itself_is_walked_once(tmp_path):
    make_folder(tmp_path, ["a", "b"], 2)
    (tmp_path / "a/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "b/here").symlink_to(tmp_path / "b", target_is_directory=True)
    assert list_images(tmp_path).files == [f"{c}/{n:03d}.png" for c in ("a", "b") for n in range(2)]
