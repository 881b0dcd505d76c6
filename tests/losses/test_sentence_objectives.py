"""Objectives of sentence embeddings: equations written plainly, and the losses of sentence-transformers.

The library is no dependency of the tests: where it is not installed, its tests are skipped.
"""

import math

import pytest
import torch
from loss_cases import assert_equal, make
from torch import nn

from repel.negatives import Guide, OwnNegatives, Tilt

N, DIM, GUIDE_DIM = 6, 8, 4
GENERATOR = torch.Generator().manual_seed(11)
COLUMNS = torch.randn(4, N, DIM, generator=GENERATOR, dtype=torch.float64)  # anchors, positives, two hard negatives
COLUMNS[1:] += COLUMNS[0]
GUIDED = torch.randn(3, N, GUIDE_DIM, generator=GENERATOR, dtype=torch.float64)


def gradients(loss, columns: int):
    """Value and gradient of a loss of the first columns."""
    x = COLUMNS[:columns].clone().requires_grad_()
    value = loss(x)
    value.backward()
    return value.detach(), x.grad


def ours(strategy="uniform", columns: int = 2, temperature: float = 0.05, **changes):
    loss = make("infonce", strategy, temperature=temperature, **({"symmetric": False} | changes))
    return gradients(lambda x: loss(x[:2], negatives=x[2:] if columns > 2 else None), columns)


def simcse(alpha: float | None, t: float = 0.05):
    """Gao et al. 2021, arXiv:2104.08821: eq. 4 (eq. 1 of entailments), or eq. 5 with the weight alpha^1[i=j]."""

    def loss(x):
        def sim(a, b):
            return torch.dot(a, b) / (a.norm() * b.norm())

        terms = []
        for i in range(N):
            total = sum(torch.exp(sim(x[0, i], x[1, j]) / t) for j in range(N))
            if alpha is not None:
                total = total + sum((alpha if i == j else 1.0) * torch.exp(sim(x[0, i], x[2, j]) / t) for j in range(N))
            terms.append(-torch.log(torch.exp(sim(x[0, i], x[1, i]) / t) / total))
        return sum(terms) / N

    return gradients(loss, 2 if alpha is None else 3)


def test_simcse_unsupervised():
    assert_equal(ours(), simcse(None))


@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_simcse_supervised(alpha):
    assert_equal(ours(OwnNegatives(alpha), columns=3), simcse(alpha))
    if alpha == 1:
        assert_equal(ours(columns=3), simcse(alpha))


# -------------------------------------------------------------------------------------------- sentence-transformers


class Given(nn.Module):
    """A model that returns the embeddings it is given."""

    max_seq_length = 32

    def __init__(self, tokenizer=None):
        super().__init__()
        self.tokenizer = tokenizer

    def forward(self, features):
        return dict(features)

    def get_embedding_dimension(self):
        return DIM


@pytest.fixture(scope="module")
def library():
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers.sentence_transformer import losses

    return losses


def theirs(loss, columns: int):
    def call(x):
        return loss([{"sentence_embedding": column} for column in x], torch.empty(0))

    return gradients(call, columns)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_multiple_negatives_ranking(columns, library):
    assert_equal(ours(columns=columns), theirs(library.MultipleNegativesRankingLoss(Given()), columns))


def test_multiple_negatives_ranking_in_other_directions(library):
    queries = ("query_to_doc", "query_to_query")
    loss = library.MultipleNegativesRankingLoss(Given(), directions=queries)
    assert_equal(ours(candidates="all"), theirs(loss, 2))
    both = ("query_to_doc", "doc_to_query")
    loss = library.MultipleNegativesRankingLoss(Given(), directions=both, partition_mode="per_direction")
    assert_equal(ours(symmetric=True), theirs(loss, 2))


SCOPES = {"all": "all_negatives", "own": "hard_negatives", "others": "in_batch_negatives"}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("columns", [3, 4])
def test_hardness(columns, scope, library):
    loss = library.MultipleNegativesRankingLoss(Given(), hardness_mode=SCOPES[scope], hardness_strength=9.0)
    strategy = Tilt(9.0 * 0.05, "none", detach=True, scope=scope)
    assert_equal(ours(strategy, columns), theirs(loss, columns))


@pytest.mark.parametrize("strategy", ["uniform", Tilt(5.0 * 0.05, "none", detach=True)], ids=["plain", "hardness"])
def test_matryoshka(strategy, library):
    hardness = {} if isinstance(strategy, str) else {"hardness_mode": "all_negatives", "hardness_strength": 5.0}
    model = Given()
    loss = library.MultipleNegativesRankingLoss(model, **hardness)
    loss = library.MatryoshkaLoss(model, loss, [8, 4, 2], [1, 1, 1])
    assert_equal(ours(strategy, 3, dims=[8, 4, 2]), theirs(loss, 3))


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize(("margin_strategy", "margin"), [("absolute", 0.0), ("absolute", 0.2), ("relative", 0.4)])
@pytest.mark.parametrize("candidates", ["cross", "all"])
def test_gist(candidates, margin_strategy, margin, columns, library):
    """The guide is a model that is run there; here its embeddings are looked up by the entities that views show."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))

    class GuideModel(Given):
        def forward(self, features):
            return {"sentence_embedding": features["guide"]}

    loss = library.GISTEmbedLoss(
        Given(tokenizer), GuideModel(tokenizer), 0.05, margin_strategy, margin, candidates == "all", False
    )
    pairs = [{"guide": g} for g in GUIDED]
    reference = gradients(
        lambda x: loss([{"sentence_embedding": z} | g for z, g in zip(x, pairs, strict=False)], None), columns
    )
    ids = torch.arange(3 * N).view(3, N)
    strategy = Guide(margin=margin, relative=margin_strategy == "relative")
    strategy.set_embeddings(ids.flatten(), GUIDED.flatten(0, 1))
    made = make("infonce", strategy, temperature=0.05, symmetric=False, candidates=candidates)
    explicit = {"ids": ids[:2]} | ({"negative_ids": ids[2:]} if columns > 2 else {})
    found = gradients(lambda x: made(x[:2], negatives=x[2:] if columns > 2 else None, **explicit), columns)
    assert_equal(found, reference)
    assert not math.isclose(found[0], ours(columns=columns, candidates=candidates)[0])  # something was dropped
