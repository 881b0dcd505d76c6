"""Geometry of frozen features, as rows of the report."""

from repel.evaluation import geometry
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score

__all__ = ["FeatureGeometry"]


class FeatureGeometry(Evaluator):
    """Effective rank, uniformity and dead dimensions of the test samples' features; nothing is fitted.

    Neither more nor less of them is better, so tables mark no best value.

    Args:
        images: at most so many test samples, evenly spaced; compare values of the same number only.
    """

    takes_stored = True

    def __init__(self, images: int):
        if images < 2:
            raise ValueError(f"evaluators.geometry.images must be at least 2, got {images}")
        self.images = images

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def score(test: Part) -> list[Score]:
            if len(test.x) < 2:
                return []
            x = test.x[:: -(-len(test.x) // self.images)]
            values = {
                "effective_rank": ("effective rank", geometry.effective_rank(x), "none"),
                "uniformity": ("uniformity", geometry.uniformity(x), "l2"),
                "dead_dimensions": ("share of dead dimensions", geometry.dead_dimensions(x), "none"),
            }
            sizes = {"images": len(x), "dimensions": x.shape[1]}
            return [
                Score(key, label, float(value), sizes | {"normalize": normalize}, higher_is_better=None)
                for key, (label, value, normalize) in values.items()
            ]

        return Fitted(score)
