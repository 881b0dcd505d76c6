"""How far fits are that take long."""

import time
from collections.abc import Sequence

from repel.base.collectives import rank
from repel.base.progress import PROGRESS_SECONDS

__all__ = ["FitProgress"]


class FitProgress:
    """Prints how far a number of fits is, every 20 s on the first rank: nothing where they are quicker than that.

    Args:
        name: of what fits.
        fits: how many there will be.
    """

    def __init__(self, name: str, fits: int):
        self.name, self.fits, self.begun, self.settings, self.evaluations = name, fits, 0, "", 0
        self.printed = time.perf_counter()

    def begin(self, l2: Sequence[float]) -> "FitProgress":
        """The next fit, with these penalties."""
        values = ", ".join(dict.fromkeys(f"{value:g}" for value in l2))
        self.begun, self.settings, self.evaluations = self.begun + 1, f"l2={values}", 0
        return self

    def evaluated(self) -> None:
        """Value and gradient were computed once more."""
        self.evaluations += 1
        if time.perf_counter() - self.printed >= PROGRESS_SECONDS and rank() == 0:
            self.printed = time.perf_counter()
            print(f"{self.name:8} fit {self.begun} of {self.fits} ({self.settings}): {self.evaluations} evaluations of "
                  "the loss", flush=True)  # fmt: skip
