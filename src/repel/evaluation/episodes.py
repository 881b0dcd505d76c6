"""n-way k-shot episodes: classification from a few examples of each class."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from repel.base import seeding
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score

__all__ = ["Episodes", "few_shot_accuracies"]


class Episodes(Evaluator):
    """Nearest class mean of unit features, mean accuracy over random episodes with its 95 % interval.

    Snell, Swersky, Zemel 2017 (prototypical networks), arXiv:1703.05175, eq. 1 and 2, by cosine, on frozen features as
    in Wang et al. 2019 (SimpleShot), arXiv:1911.04623. Support samples are training samples, queries are test samples.

    Args:
        ways: classes of an episode; at most as many as there are.
        shots: examples of each class, several values.
        queries: test samples of each class.
        episodes: number of episodes.
        seed: of the draws.
    """

    takes_stored = True

    def __init__(self, ways: int, shots: Sequence[int], queries: int, episodes: int, seed: int):
        if ways < 2 or episodes < 2 or queries < 1 or any(k < 1 for k in shots):
            raise ValueError(
                f"evaluators.episodes needs ways >= 2, shots >= 1, queries >= 1 and episodes >= 2, "
                f"got {ways}, {list(shots)}, {queries}, {episodes}"
            )
        self.ways, self.shots, self.queries, self.episodes, self.seed = ways, list(shots), queries, episodes, seed

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def score(test: Part) -> list[Score]:
            scores, ways = [], min(self.ways, len(set(train.y.tolist()) & set(test.y.tolist())))
            if ways < 2:
                return []  # fewer than two classes in common
            for shots in self.shots:
                generator = seeding.generator(self.seed, seeding.EPISODES, shots)
                top1 = few_shot_accuracies(train, test, ways, shots, self.queries, self.episodes, generator)
                settings = {"ways": ways, "shots": shots, "queries": self.queries, "episodes": self.episodes,
                            "labels": len(train.y),
                            "normalize": "l2", "seed": self.seed, "ci95": _interval(top1)}  # fmt: skip
                key, label = f"episodes_{ways}way_{shots}shot", f"{ways}-way {shots}-shot episodes"
                scores.append(Score(key, label, float(top1.mean()), settings))
            return scores

        return Fitted(score)


def few_shot_accuracies(
    support: Part, queries: Part, ways: int, shots: int, per_class: int, episodes: int, generator: torch.Generator
) -> Tensor:
    """Accuracies (episodes,) of nearest class mean on unit features; a sample may occur in several episodes.

    Args:
        support: whose samples are the examples.
        queries: whose samples are classified.
        ways: classes of an episode; at most as many as both parts have in common.
        shots: examples of a class.
        per_class: queries of a class.
        episodes: number of episodes.
    """
    device = support.x.device
    present = sorted(set(support.y.tolist()) & set(queries.y.tolist()))
    ways = min(ways, len(present))
    chosen = torch.rand(episodes, len(present), generator=generator).argsort(1)[:, :ways]  # (episodes, ways)
    classes = torch.tensor(present)[chosen]
    examples, asked = (F.normalize(part.x[_draw_places(part.y, classes, n, generator).to(device)].float(), dim=-1)
            for part, n in ((support, shots), (queries, per_class)))  # fmt: skip
    means = F.normalize(examples.mean(2), dim=-1)  # (episodes, ways, F)
    predicted = torch.einsum("ewqf,ecf->ewqc", asked, means).argmax(-1)
    return (predicted == torch.arange(ways, device=device)[:, None]).double().mean((1, 2)).cpu()


def _draw_places(labels: Tensor, classes: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Places (*classes.shape, n) of samples with these labels, without repetition where a class has enough."""
    labels = labels.cpu()
    places = torch.empty(*classes.shape, n, dtype=torch.int64)
    for label in classes.unique():
        own, here = (labels == label).nonzero().squeeze(1), classes == label
        draws = int(here.sum())
        if len(own) >= n:
            pick = torch.rand(draws, len(own), generator=generator).topk(n, dim=1).indices
        else:
            pick = torch.randint(len(own), (draws, n), generator=generator)
        places[here] = own[pick]
    return places


def _interval(values: Tensor) -> float:
    """Half the width of the 95 % interval of a mean of many."""
    return float(1.96 * values.std() / len(values) ** 0.5)
