"""Files that go with an exported encoder: load_encoder.py, which needs nothing of this package, and README.md."""

from string import Template

LOADER = Template('''"""The encoder of encoder.safetensors, $architecture, without the project that trained it.

Needs: $needs.

    from load_encoder import load_encoder, normalize, read
    encoder = load_encoder()  # in eval mode
    features = encoder(normalize(read("image.png")))  # (1, $features)

Or: python load_encoder.py image.png ...   prints the features of each image in a line.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

CHANNELS, HEIGHT, WIDTH = $channels, $height, $width  # what it was trained on
MEAN, STD = $mean, $std  # of each channel, images in [0, 1]


def load_encoder(path=Path(__file__).with_name("encoder.safetensors")):
    """The trained encoder in eval mode: normalized images (B, $channels, H, W) -> features (B, $features)."""
    encoder = build()
    encoder.load_state_dict(load_file(path))
    return encoder.eval()


def normalize(images):
    """(B, $channels, H, W), uint8 or float in [0, 1] -> what the encoder takes."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


def read(path):
    """An image file -> (1, $channels, $height, $width) uint8: its largest centered box of this shape, scaled.

    Needs: numpy pillow. Transparent and 16-bit images must be converted first: to RGB on white, to 8 bits.
    """
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB" if CHANNELS == 3 else "L")
    if HEIGHT == WIDTH:
        image = ImageOps.fit(image, (WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    else:  # a box of whole pixels, as in training
        scale = min(image.width / WIDTH, image.height / HEIGHT)
        width, height = max(1, round(WIDTH * scale)), max(1, round(HEIGHT * scale))
        left, top = (image.width - width + 1) // 2, (image.height - height + 1) // 2
        box = image.crop((left, top, left + width, top + height))
        image = box.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return (pixels.permute(2, 0, 1) if CHANNELS == 3 else pixels[None])[None]


# the architecture

$source


if __name__ == "__main__":
    encoder = load_encoder()
    for path in sys.argv[1:]:
        with torch.no_grad():
            print(path, *encoder(normalize(read(path)))[0].tolist())
''')

README = Template("""# $architecture, trained

From `$checkpoint`, after epoch $epoch.

| | |
|---|---|
| input | (B, $channels, H, W) float32, trained at $height x $width pixels |
| normalized | images in [0, 1], less mean $mean, divided by std $std |
| of a file | the largest centered box of this shape, scaled bilinearly$gray |
| output | (B, $features) features; their cosine is the similarity of two images |

$uses
Compared with the original encoder after writing, on $images:

$errors
""")

SAFETENSORS = Template("""## encoder.safetensors

The weights, for normalized images; the header repeats the table above. After `pip install $needs`, with
`load_encoder.py` in the same folder:

```python
from load_encoder import load_encoder, normalize, read

encoder = load_encoder()
features = encoder(normalize(read("image.png")))
```
""")

LIBRARY = Template("""\
It is the state dict of $library's own model without the classifier, so $library alone loads it too:

```python
from safetensors.torch import load_file
$source

encoder = build()
encoder.load_state_dict(load_file("encoder.safetensors"))
encoder.eval()
```
""")

ONNX = Template("""## encoder.onnx

It takes $takes, a batch of any size:

```python
import onnxruntime

session = onnxruntime.InferenceSession("encoder.onnx")
(features,) = session.run(None, {"images": images})  # float32
```
""")
