"""Files against the encoder that they were made of."""

from torch import Tensor, finfo, float32

__all__ = ["TOLERANCE", "check_difference", "describe_error"]

TOLERANCE = 1e-5  # of the largest feature


def check_difference(file: str, features: Tensor, expected: Tensor, noun: str = "feature") -> float:
    """The largest difference over the largest feature.

    Args:
        noun: what is compared.

    Raises:
        RuntimeError: it is above TOLERANCE, or not finite.
    """
    error = float((features - expected).abs().max() / expected.abs().max().clamp(min=finfo(float32).tiny))
    if not error <= TOLERANCE:
        raise RuntimeError(f"{file} {describe_error(error, noun)}, more than {TOLERANCE}; no file is written")
    return error


def describe_error(error: float, noun: str = "feature") -> str:
    return f"differs from the original by at most {error:.1e} of the largest {noun}"
