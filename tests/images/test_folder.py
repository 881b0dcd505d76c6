"""Folders of one's own images: layouts, links, broken files, modes, sizes."""

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_folder
from folder_runs import QUICK
from hostile import png
from PIL import Image, features
from runs_here import status

from repel.base.installation import install_extra
from repel.data.samples import Splits
from repel.images import folder
from repel.images.decode import decode
from repel.images.listing import list_images


def read(root, size=8, channels=3, on_error="raise", in_memory=True, gray_range=None) -> Splits:
    return folder.image_folder(str(root), size, channels, on_error, in_memory, 0, "splits", gray_range)


def test_folder_layouts(tmp_path):
    whole = read(make_folder(tmp_path / "whole", ["cat", "dog"], 3))
    assert (len(whole.train), whole.test, whole.classes) == (6, None, ["cat", "dog"])
    assert whole.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for part, each in (("train", 4), ("test", 2)):
        make_folder(tmp_path / "split" / part, ["cat", "dog"], each)
    split = read(tmp_path / "split")
    assert (len(split.train), len(split.test), split.val) == (8, 4, None)
    flat = read(make_folder(tmp_path, ["flat"], 5) / "flat")
    assert flat.train.labels is None
    assert flat.classes == []


def test_folder_pixels_and_colour_order(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(red).save(tmp_path / "a/red.png")
    assert read(tmp_path).train.pixels[0].flatten(1).tolist() == [[200] * 64, [0] * 64, [0] * 64]
    assert read(tmp_path, channels=1).train.pixels.unique().tolist() == [60]


def test_folder_in_parallel_equals_one_by_one(tmp_path, monkeypatch):
    make_folder(tmp_path, ["a", "b"], 12)
    alone = read(tmp_path)
    monkeypatch.setattr(folder, "CHUNK", 5)
    monkeypatch.setattr(folder, "cores_per_rank", lambda: 2)
    together = read(tmp_path)
    assert torch.equal(alone.train.pixels, together.train.pixels)


def test_broken_files_are_named_or_skipped(tmp_path):
    make_folder(tmp_path, ["a", "b"], 3)
    (tmp_path / "a/broken.jpg").write_bytes(b"no image")
    whole = (tmp_path / "b/000.png").read_bytes()
    (tmp_path / "b/half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a/broken\.jpg.*data\.on_error=skip"):
        read(tmp_path)
    splits = read(tmp_path, on_error="skip")
    assert len(splits.train) == 6
    assert [name.split(":")[0] for name in splits.skipped] == [
        str(tmp_path / "a/broken.jpg"),
        str(tmp_path / "b/half.png"),
    ]
    assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_layouts_that_could_mix_the_splits_are_refused(tmp_path):
    for number, folders in enumerate((["test", "training", "bus"], ["train", "bus", "car"], ["val"])):
        make_folder(tmp_path / str(number), folders, 2)
        with pytest.raises(ValueError, match="train, val and test"):
            read(tmp_path / str(number))
    make_folder(tmp_path / "empty", ["train/a", "train/b"], 2)
    (tmp_path / "empty/test").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*test"):
        read(tmp_path / "empty")
    make_folder(tmp_path / "stray", ["a", "b", "."], 2)
    with pytest.raises(ValueError, match=r"000\.png lies outside"):
        read(tmp_path / "stray")


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN"])
def test_folders_of_systems_are_no_classes_and_hold_no_images(tmp_path, name):
    make_folder(tmp_path / "whole", ["a", "b", name, f"a/{name}", f"a/deep/{name}"], 2)
    whole = read(tmp_path / "whole")
    assert (whole.classes, len(whole.train)) == (["a", "b"], 4)
    for split in ("train", "test"):
        make_folder(tmp_path / "split" / split, ["a", "b", name], 2)
    make_folder(tmp_path / "split", [f"{name}/train/a"], 2)
    split = read(tmp_path / "split")
    assert (split.classes, len(split.train), len(split.test)) == (["a", "b"], 4, 4)


def test_hidden_files_are_no_images(tmp_path):
    make_folder(tmp_path / ".hidden/root", ["a"], 2)  # the user named it
    for name in ("._000.png", ".DS_Store", "Thumbs.db"):
        (tmp_path / ".hidden/root/a" / name).write_bytes(b"no image")
    assert list_images(tmp_path / ".hidden/root").files == ["a/000.png", "a/001.png"]


def test_a_test_set_without_labels_is_left_out_and_a_line_says_so(tmp_path, capsys):
    """As competitions give it. Test images are then held out of train, as where there is no test set."""
    make_folder(tmp_path, ["train/a", "train/b"], 3)
    make_folder(tmp_path, ["test", "val"], 2)
    splits = read(tmp_path)
    assert (splits.classes, len(splits.train), splits.val, splits.test) == (["a", "b"], 6, None, None)
    val, test, files = capsys.readouterr().out.splitlines()
    assert files == "files    found 10 files, read 6; left out: 4 images in no split"
    assert val.startswith(f"note     {tmp_path / 'val'} has no class folders: its 2 images are left out")
    assert "data.test_fraction" in test
    assert f"data.root={tmp_path / 'test'} reads them" in test
    make_folder(tmp_path, ["test/a"], 2)
    with pytest.raises(ValueError, match=r"test/000\.png lies outside"):
        read(tmp_path)


def test_imagenet_has_a_test_set_without_labels(tmp_path, capsys):
    """Its archive's; the test split is val, whose place no other images can take."""

    def imagenet() -> Splits:
        return folder.image_folder(str(tmp_path), 8, 3, "raise", in_memory=True, workers=0, layout="imagenet")

    make_folder(tmp_path, ["train/a", "train/b", "val/a", "val/b", "test"], 2)
    splits = imagenet()
    assert (len(splits.train), len(splits.test), splits.val, splits.classes) == (4, 4, None, ["a", "b"])
    assert capsys.readouterr().out.startswith(
        f"note     {tmp_path / 'test'} has no class folders: its 2 images are left"
    )
    make_folder(tmp_path, ["test/a"], 2)
    with pytest.raises(ValueError, match=r"has train, val, test: .*next to train and val"):
        imagenet()
    shutil.rmtree(tmp_path / "test")
    for name in "ab":
        shutil.rmtree(tmp_path / "val" / name)
    make_folder(tmp_path, ["val"], 2)
    with pytest.raises(ValueError, match="val has no class folders, train has"):
        imagenet()


def test_links_to_class_folders_are_followed(tmp_path):
    make_folder(tmp_path / "elsewhere", ["a", "b"], 2)
    (tmp_path / "links").mkdir()
    for name in ("a", "b"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert read(tmp_path / "links").classes == ["a", "b"]


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.png").write_bytes(b"")
    for root, on_error, words in [("none", "raise", "no such folder"), ("empty", "raise", "no images"),
                                  ("bad", "skip", "can be read"), ("bad", "ignore", "on_error")]:  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read(tmp_path / root, on_error=on_error)


def test_a_line_says_what_is_not_read(tmp_path, capsys):
    make_folder(tmp_path, ["train/a", "train/b"], 3)
    read(tmp_path)
    assert capsys.readouterr().out == ""  # nothing
    make_folder(tmp_path, ["."], 1)
    for name in (".DS_Store", "labels.CSV", "train/a/x.txt", "train/a/y.txt", "train/a/00017", "train/disp.pfm"):
        (tmp_path / name).write_text("no image")
    for name in ("train/c/deeper", "train/a/@eaDir", "@eaDir", ".git/annex"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train/b/link").symlink_to("nowhere")
    assert len(read(tmp_path).train) == 6
    assert capsys.readouterr().out == (
        "files    found 14 files, read 6; left out: 2 .txt, 1 .csv, 1 .pfm, 1 broken links, 1 hidden, 2 of other kinds"
        "; not looked into: @eaDir (2), .git; no images in: train/c\n"
    )


def test_every_format_that_pillow_decodes_is_read(tmp_path, capsys):
    endings = (".jfif", ".jp2", ".avif", ".tga", ".ico", ".JPE")
    for ending in (e for e in endings if e != ".avif" or features.check("avif")):
        forms = {".jfif": "JPEG", ".JPE": "JPEG", ".jp2": "JPEG2000", ".tga": "TGA", ".ico": "ICO", ".avif": "AVIF"}
        Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / f"x{ending}", forms[ending])
    files = len(list(tmp_path.iterdir()))
    assert len(read(tmp_path).train) == files >= 5
    for name in ("x.eps", "x.h5", "x.mpg", "x.pdf", "x.heic"):  # named by Pillow, but decoded by other programs
        (tmp_path / name).write_bytes(b"none")
    assert len(read(tmp_path).train) == files
    assert f"1 .heic ({install_extra('heic')} reads them)" in capsys.readouterr().out


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path, ["a", "b", "locked"], 2)
    scan = os.scandir

    def denied(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"locked cannot be read \(Permission denied\)"):
        read(tmp_path)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_split_in_which_nothing_can_be_read_is_refused(tmp_path, in_memory, split):
    make_folder(tmp_path, ["train/a", "train/b", "val/a", "test/a"], 2)
    (tmp_path / "val/a/000.png").write_bytes(b"one of two is no reason")
    read(tmp_path, on_error="skip", in_memory=in_memory)
    for file in (tmp_path / split).rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=rf"none of the \d images of the {split} split can be read, the first: .*000"):
        read(tmp_path, on_error="skip", in_memory=in_memory)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_narrow_range_of_16_bit_images_is_said_and_can_be_set(tmp_path, capsys, in_memory):
    dim = np.arange(0, 512, 8, dtype=np.uint16).reshape(8, 8)
    (tmp_path / "a").mkdir()
    for name in ("x.png", "y.tif"):
        Image.fromarray(dim).save(tmp_path / "a" / name)

    def levels(**options) -> list[int]:
        images = read(tmp_path, channels=1, in_memory=in_memory, **options).train
        return next(images.plain([torch.arange(2)]))[0].unique().tolist()

    assert levels() == [0, 1]
    assert "values from 0 to 504 of 65535 in 2" in (out := capsys.readouterr().out)
    assert "2 of 256 gray levels are left; data.range=[0,511]" in out
    assert levels(gray_range=[0, 511]) == [round(v * 255 / 511) for v in range(0, 512, 8)]
    assert levels(gray_range=[200, 208]) == [0, 255]
    assert capsys.readouterr().out == ""
    Image.fromarray(dim * 128).save(tmp_path / "a/x.png")
    levels()
    assert capsys.readouterr().out == ""  # one that uses them all
    for bad in ([5, 5], [1], [0, True], [0, float("inf")], 7, "ab"):
        with pytest.raises(ValueError, match=r"data\.range must be two numbers"):
            read(tmp_path, gray_range=bad)


def test_16_bit_colors_that_pillow_cuts_are_said(tmp_path, capsys):
    """It keeps their upper 8 bits: two of 256 levels here, which no option brings back."""
    values = np.arange(8 * 8 * 3, dtype=">u2").reshape(8, 24)
    for name, factor in (("dim", 2), ("bright", 340)):
        rows = b"".join(b"\0" + (row * factor).astype(">u2").tobytes() for row in values)
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png(8, 8, rows, depth=16, color=2))
        read(tmp_path / name)
    (line,) = capsys.readouterr().out.splitlines()
    assert "the 16-bit color images keep their upper 8 bits: 2 of 256 levels are left in 1" in line
    read(tmp_path / "bright", gray_range=[0, 511])
    assert "data.range is of gray images alone" in capsys.readouterr().out


def test_floating_point_images_need_a_range(tmp_path):
    values = np.linspace(-1, 2, 64, dtype=np.float32).reshape(8, 8)
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(ValueError, match=r"floating-point.*data\.range"):
        read(tmp_path, channels=1)
    pixels = read(tmp_path, channels=1, gray_range=[0.0, 1.0]).train.pixels
    assert pixels.flatten().tolist() == (np.nan_to_num(values.clip(0, 1), nan=0) * 255).round().flatten().tolist()


def test_pillow_does_not_warn_of_metadata(tmp_path):
    """Of a file whose EXIF ends too early; other warnings are still shown once."""
    exif = Image.Exif()
    exif[0x010E] = "a description that is longer than four bytes"
    Image.new("L", (8, 8)).save(tmp_path / "x.jpg", exif=exif)
    content = (tmp_path / "x.jpg").read_bytes()
    start = content.index(b"Exif\0\0") + 6
    order = "little" if content[start : start + 2] == b"II" else "big"
    entry = start + 10  # the first of IFD0; its value's place is 8 bytes further on
    (tmp_path / "x.jpg").write_bytes(content[: entry + 8] + (60_000).to_bytes(4, order) + content[entry + 12 :])
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        with Image.open(tmp_path / "x.jpg") as image:
            image.getexif()
        assert seen  # without repel
        seen.clear()
        for _ in range(2):
            decode(tmp_path / "x.jpg", 8, 1)
            warnings.warn("ours", stacklevel=1)
    assert [str(w.message) for w in seen] == ["ours"]


def test_image_modes(tmp_path):
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "16bit.png")
    assert abs(int(decode(tmp_path / "16bit.png", 8, 1).mean()) - 127) <= 1  # not clipped to white
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (decode(tmp_path / "clear.png", 8, 3) == 255).all()  # white, not the hidden red
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    assert decode(tmp_path / "palette.png", 8, 3)[:, 0, 0].tolist() == [10, 20, 30]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert decode(tmp_path / "cmyk.jpg", 8, 3)[0].mean() > 200
    upright = Image.new("L", (8, 16), 0)
    upright.paste(255, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg", 8, 1)[0, -1].mean() > 200
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="floating-point"):
        decode(tmp_path / "float.tiff", 8, 1)


def test_images_are_scaled_and_cropped_to_size(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode(tmp_path / "wide.png", 10, 1) == 255).all()


def test_sets_beyond_memory_are_refused(tmp_path):
    make_folder(tmp_path, ["a"], 3)
    with pytest.raises(ValueError, match=r"data\.image_size"):
        read(tmp_path, size=100_000)


# what a Mac, a Windows machine, archivers and annotation tools leave beside images: 60 files
LEFT = [
    *(f"{place}{name}" for place in ("", "cat/", "dog/")
      for name in (".DS_Store", "._.DS_Store", "Thumbs.db", "desktop.ini")),
    *(f"{kind}/._{i:03d}.png" for kind in ("cat", "dog") for i in range(8)),
    *(f"cat/{i:03d}.xml" for i in range(8)), *(f"dog/{i:03d}.json" for i in range(8)),
    "classes.txt", "labels.csv", "data.yaml", "Icon\r", ".picasa.ini", "cat/ehthumbs.db", "dog/notes.txt",
    "cat/.~lock.x#",
]  # fmt: skip
CLOSED = ["__MACOSX/._cat", "__MACOSX/cat/._000.png", "__MACOSX/dog/._000.png", ".labelimg/state.json",
          "cat/@eaDir/000.png", "$RECYCLE.BIN/1.png", "System Volume Information/x", ".Trashes/x.png"]  # fmt: skip


@pytest.mark.slow
def test_a_folder_as_other_machines_and_tools_leave_it_trains(tmp_path, capfd):
    root = make_folder(tmp_path / "images", ["cat", "dog"], 12)
    for name in [*LEFT, *CLOSED]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no image")
    assert len([*LEFT, *CLOSED]) == 60
    assert status(tmp_path / "run", *QUICK, "data=image_folder", f"data.root={root}", "data.batch_size=8") == (0, "")
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("files "))
    assert line == (
        f"files    found {24 + len(LEFT)} files, read 24; left out: {sum(Path(f).name[0] == '.' for f in LEFT)} "
        "hidden, 8 .json, 8 .xml, 4 .db, 3 .ini, 5 of other kinds; not looked into: $RECYCLE.BIN, .Trashes, .labelimg, "
        "@eaDir, System Volume Information"
    )
