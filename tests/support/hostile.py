"""A folder of 200 image files as they are found in the wild: half of them unusual, the rest broken."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("a", "b")


def picture(seed: int, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(seed)
    base = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return base.convert(mode)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width: int, height: int, data: bytes, depth: int = 8, color: int = 0) -> bytes:
    """A PNG file by hand, so that its header can lie."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def turned(seed: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(seed), "JPEG", exif=exif)


def transparent_palette(seed: int) -> bytes:
    return encoded(picture(seed).quantize(16), "PNG", transparency=3)


def deep(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 65536, (30, 40), np.uint16))


def unusual() -> dict[str, bytes]:
    """Names and contents of files that are images all the same."""
    files: dict[str, bytes] = {}
    for i in range(5):
        files |= {
            f"rgb{i}.jpg": encoded(picture(i), "JPEG"),
            f"progressive{i}.jpg": encoded(picture(i), "JPEG", progressive=True),
            f"gray{i}.jpeg": encoded(picture(i, mode="L"), "JPEG"),
            f"cmyk{i}.jpg": encoded(picture(i, mode="CMYK"), "JPEG"),
            f"rgba{i}.png": encoded(picture(i, mode="RGBA"), "PNG"),
            f"la{i}.png": encoded(picture(i, mode="LA"), "PNG"),
            f"palette{i}.png": encoded(picture(i, mode="P"), "PNG"),
            f"clear{i}.png": transparent_palette(i),
            f"bit{i}.png": encoded(picture(i, mode="1"), "PNG"),
            f"deep{i}.png": encoded(deep(i), "PNG"),
            f"deep{i}.tiff": encoded(deep(i), "TIFF"),
            f"cmyk{i}.tif": encoded(picture(i, mode="CMYK"), "TIFF", compression="tiff_lzw"),
            f"moving{i}.gif": encoded(picture(i), "GIF", save_all=True, append_images=[picture(9)]),
            f"web{i}.webp": encoded(picture(i, mode="RGBA"), "WEBP"),
            f"map{i}.bmp": encoded(picture(i), "BMP"),
            f"raw{i}.ppm": encoded(picture(i), "PPM"),
            f"SHOUTED{i}.PGM": encoded(picture(i, mode="L"), "PPM"),
            f"really_png{i}.jpg": encoded(picture(i), "PNG"),  # a wrong extension
        }
    files |= {f"exif{n}.jpg": turned(n, n) for n in range(1, 9)}
    files |= {
        "one.png": encoded(picture(0, (1, 1)), "PNG"),
        "two.endings.jpg.png": encoded(picture(0), "PNG"),
        "wide.png": encoded(picture(0, (30_000, 3)), "PNG"),
        "tall.jpg": encoded(picture(0, (3, 30_000)), "JPEG"),
        "large.jpg": encoded(picture(0, (4000, 3000)), "JPEG"),
        "blue \u732b \U0001f408 \u00e9.png": encoded(picture(1), "PNG"),
        "l" * 251 + ".png": encoded(picture(2), "PNG"),
        "two\nlines.png": encoded(picture(3), "PNG"),
        "-rf *.png": encoded(picture(4), "PNG"),
        "${HOME} %s {x}.png": encoded(picture(5), "PNG"),
    }
    return files


def broken() -> dict[str, bytes]:
    """Names and contents of files that are none."""
    jpeg, whole, gif = encoded(picture(0), "JPEG"), encoded(picture(0), "PNG"), encoded(picture(0), "GIF")
    tiff, webp = encoded(picture(0), "TIFF"), encoded(picture(0), "WEBP")
    files: dict[str, bytes] = {}
    for i, ending in enumerate(("jpg", "png", "gif", "tif", "webp", "bmp", "ppm")):
        files |= {
            f"empty{i}.{ending}": b"",
            f"text{i}.{ending}": b"<html>404 not found</html>" * 9,
            f"noise{i}.{ending}": np.random.default_rng(i).bytes(500),
            f"nulls{i}.{ending}": bytes(1000),
        }
    for i in range(1, 10):
        files[f"cut{i}.jpg"] = jpeg[: len(jpeg) * i // 10]
        files[f"cut{i}.png"] = whole[: len(whole) * i // 10]
        files[f"cut{i}.gif"] = gif[: len(gif) * i // 20]
        files[f"cut{i}.tif"] = tiff[: len(tiff) * i // 20]
        files[f"cut{i}.webp"] = webp[: len(webp) * i // 10]
    files |= {
        "bomb.png": png(15_000, 15_000, bytes(15_001 * 15_000)),  # 219 kB, 225 megapixels
        "smaller bomb.png": png(11_000, 11_000, bytes(11_001 * 11_000)),
        "header only.png": png(2_000, 2_000, b""),
        "lie.png": png(50_000, 1, bytes(10)),
        "float.tiff": encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
        "wide numbers.tiff": encoded(Image.fromarray(np.full((9, 9), 2**20, np.int32)), "TIFF"),
        "bad sum.png": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        "blue \u732b.jpg": b"",
        "b" * 251 + ".jpg": b"",
        "two\nlines.jpg": b"",
    }
    return files


def make_hostile(root: Path) -> tuple[int, int]:
    """Write all of them below root, by turns into two classes; returns how many can be read and how many cannot."""
    good, bad = unusual(), broken()
    for number, (name, content) in enumerate([*good.items(), *bad.items()]):
        folder = root / CLASSES[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    a = root / "a"
    (a / "loop.png").symlink_to("loop.png")
    (a / "there.jpg").symlink_to("back.jpg")
    (a / "back.jpg").symlink_to("there.jpg")
    (a / "gone.png").symlink_to("nowhere.png")
    (a / "around").symlink_to(root, target_is_directory=True)  # a loop of folders
    (a / "folder.png").mkdir()
    os.mkfifo(a / "pipe.png")
    for number in range(2):
        (a / f"locked{number}.png").write_bytes(b"" if os.geteuid() == 0 else encoded(picture(0), "PNG"))
        (a / f"locked{number}.png").chmod(0)  # root may read it all the same, so its is empty
    with open(os.fsencode(a) + b"/not utf-8 \xff\xfe.png", "wb") as file:
        file.write(encoded(picture(6), "PNG"))
    with open(os.fsencode(a) + b"/not utf-8 \xff.jpg", "wb") as file:
        file.write(b"")
    return len(good) + 1, len(bad) + 4 + 1 + 2 + 1
