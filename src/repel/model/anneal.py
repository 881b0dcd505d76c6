"""Numbers of the loss, its negatives or the target that change during training."""

import math

from torch import nn


class Anneal:
    """Moves options from a first to a last value over some epochs: a function of the time alone, so a run can resume.

    Args:
        values: key in the config, such as negatives.beta -> [first, last], or None. Whole numbers stay whole.
        epochs: when the last value is reached; None: where training ends.
        shape: linear or cosine.
    """

    def __init__(self, values: dict[str, list[float]] | None, epochs: float | None, shape: str):
        if epochs is not None and not epochs > 0:
            raise ValueError(f"anneal.epochs must be > 0, got {epochs}")
        if shape not in ("linear", "cosine"):
            raise ValueError(f"anneal.shape must be linear or cosine, got {shape!r}")
        self.values, self.epochs, self.shape = dict(values or {}), epochs, shape

    def at(self, epoch: float, length: float) -> dict[str, float]:
        """The options' values at a time in epochs of a training of some length."""
        done = min(1.0, epoch / (length if self.epochs is None else self.epochs))
        if self.shape == "cosine":
            done = 0.5 - 0.5 * math.cos(math.pi * done)
        now = {key: first + (last - first) * done for key, (first, last) in self.values.items()}
        whole = {key for key, ends in self.values.items() if all(isinstance(end, int) for end in ends)}
        return {key: round(value) if key in whole else value for key, value in now.items()}

    def apply(self, parts: dict[str, nn.Module | None], epoch: float, length: float) -> dict[str, float]:
        """Set them: in the parts of that name, such as negatives. Returns what was set.

        Raises:
            ValueError: there is no such number.
        """
        now = self.at(epoch, length)
        for key, value in now.items():
            part, *path, name = key.split(".")
            owner = parts.get(part)
            if owner is not None and path:
                owner = owner.get_submodule(".".join(path))
            if not isinstance(getattr(owner, name, None), int | float):
                raise ValueError(f"anneal.values: {key} is no number that can change during training")
            setattr(owner, name, value)
        return now
