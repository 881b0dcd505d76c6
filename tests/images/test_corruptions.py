"""Corrupted images."""

import pytest
import torch

from repel.images import corruptions
from repel.images.finetune import _shift


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
@pytest.mark.parametrize("side", [32, 80])
def test_corruptions_grow_with_their_strength(name, side):
    pixels = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8), side, mode="bilinear").mul(255).byte()
    away = [
        float(
            (corruptions.corrupt(pixels, name, s, torch.Generator().manual_seed(0)).float() - pixels.float())
            .square()
            .mean()
        )
        for s in range(1, 6)
    ]
    assert away[0] > 0
    assert away == sorted(away) or name == "pixelate"  # blocks that fit the side come out better


def test_noise_has_its_strength_and_brightness_adds():
    gray = torch.full((2, 1, 64, 64), 128, dtype=torch.uint8)
    noisy = corruptions.corrupt(gray, "noise", 5, torch.Generator().manual_seed(0)).float()
    assert float(noisy.std() / 255) == pytest.approx(0.10, rel=0.03)
    assert int(corruptions.corrupt(gray, "brightness", 3, torch.Generator())[0, 0, 0, 0]) == round(128 + 0.15 * 255)


@pytest.mark.parametrize("flip", [False, True])
def test_shifted_images_are_windows_of_padded_ones(flip):
    pixels = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8)
    made = _shift(pixels, flip, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(pixels.float(), (2, 2, 2, 2), mode="reflect").byte()
    flips = set()
    for i in range(20):
        windows = {
            (t, left, m): torch.equal(made[i], w.flip(-1) if m else w)
            for t in range(5) for left in range(5) for m in (False, True)
            for w in [padded[i, :, t : t + 16, left : left + 16]]
        }  # fmt: skip
        assert any(windows.values())
        flips |= {m for (_, _, m), equal in windows.items() if equal}
    assert flips == ({False, True} if flip else {False})
