"""Random bits as a hash of counters: the same on every device and rank, drawn in any order and again."""

import torch
from torch import Tensor

__all__ = ["GOLDEN", "element_bits", "hashed", "signed"]

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd: its multiples lie far from one another


def signed(number: int, bits: int) -> int:
    """The low bits of a number, as a signed integer of so many bits.

    >>> signed(255, 8), signed(127, 8)
    (-1, 127)
    """
    number &= 2**bits - 1
    return number - (number >> bits - 1 << bits)


def hashed(x: Tensor) -> Tensor:
    """int64 -> int64, by the finalizer of splitmix64 (Steele, Lea, Flood 2014). x is overwritten."""
    x = _xor_shift(x, 30, 64) * signed(0xBF58476D1CE4E5B9, 64)
    x = _xor_shift(x, 27, 64) * signed(0x94D049BB133111EB, 64)
    return _xor_shift(x, 31, 64)


def element_bits(keys: Tensor, n: int) -> Tensor:
    """(..., 2) int32 -> (..., n) int32, by lowbias32 of C. Wellons (2018), with the second key between its rounds."""
    x = keys[..., :1] + torch.arange(n, dtype=torch.int32, device=keys.device)
    _xor_shift(x, 16, 32).mul_(signed(0x21F0AAAD, 32)).bitwise_xor_(keys[..., 1:])
    _xor_shift(x, 15, 32).mul_(signed(0x735A2D97, 32))
    return _xor_shift(x, 15, 32)


def _xor_shift(x: Tensor, shift: int, bits: int) -> Tensor:
    """x ^= x >>> shift; torch's own shift would repeat the sign."""
    x ^= (x >> shift).bitwise_and_((1 << bits - shift) - 1)
    return x
