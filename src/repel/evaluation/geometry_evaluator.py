"""Geometry of frozen features, as rows of the report."""

from repel.evaluation import geometry
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score

ALIVE = 1e-3  # a dimension whose deviation is below this part of the largest one's is dead


class Spread(Evaluator):
    """Effective rank, uniformity and dead dimensions of the test images' features; nothing is fitted.

    Args:
        images: at most so many, evenly spaced; values are comparable for the same number alone.
    """

    def __init__(self, images: int):
        if images < 2:
            raise ValueError(f"evaluators.geometry.images must be at least 2, got {images}")
        self.images = images

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def score(test: Part) -> list[Score]:
            if len(test.x) < 2:
                return []
            x = test.x[:: -(-len(test.x) // self.images)]
            found = {
                "effective_rank": ("effective rank", geometry.effective_rank(x), "none"),
                "uniformity": ("uniformity", geometry.uniformity(x), "l2"),
                "dead_dimensions": ("share of dead dimensions", geometry.dead_dimensions(x, ALIVE), "none"),
            }
            size = {"images": len(x), "dimensions": x.shape[1]}
            return [Score(n, words, float(v), size | {"normalize": how}) for n, (words, v, how) in found.items()]

        return Fitted(score)
