"""Semantic textual similarity: do cosines order pairs of texts as people do?"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score
from repel.evaluation.sparse import to_csr
from repel.text.texts import Texts

__all__ = ["STS", "ScoredPairs", "pair_cosines", "read_pairs"]

COLUMNS = ("sentence1", "sentence2", "score")


class ScoredPairs(NamedTuple):
    """first and second: texts (N,); scores (N,) float64, the higher the more alike."""

    first: list[str]
    second: list[str]
    scores: Tensor


def read_pairs(path: str | Path) -> ScoredPairs:
    """Pairs of a CSV file in UTF-8, or, where its name ends with .tsv, of one with tabs.

    Its columns are sentence1, sentence2 and score: by a header in any order and among others, or else these three.

    Raises:
        ValueError: there is no such file, or it has something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"evaluators.sts.root: there is no file {path}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            rows = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"evaluators.sts.root: {path} is no CSV file in UTF-8: {error}") from None
    columns = [name.strip().lower() for name in rows[0][1]] if rows else []
    if set(COLUMNS) <= set(columns):
        places, rows = [columns.index(name) for name in COLUMNS], rows[1:]
    elif len(columns) == len(COLUMNS):
        places = [0, 1, 2]
    else:
        raise ValueError(
            f"evaluators.sts.root: {path} needs the columns {', '.join(COLUMNS)}, with or without a header"
        )
    pairs = [_pair(path, line, row, places) for line, row in rows]
    first, second, scores = (list(column) for column in zip(*pairs, strict=True)) if pairs else ([], [], [])
    if len(set(scores)) < 2:
        raise ValueError(f"evaluators.sts.root: {path} has no two pairs of different scores")
    return ScoredPairs(first, second, torch.tensor(scores, dtype=torch.float64))


def _pair(path: Path, line: int, row: list[str], places: list[int]) -> tuple[str, str, float]:
    try:
        first, second, score = (row[place] for place in places)
        if not np.isfinite(value := float(score)):
            raise ValueError
    except (IndexError, ValueError):
        raise ValueError(
            f"evaluators.sts.root: {path}, line {line}: needs two sentences and a number, got {row}"
        ) from None
    return first, second, value


def pair_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine (N,) float64 of each row of a (N, F) with the same row of b, both dense or both sparse; 0 for empty rows.

    >>> pair_cosines(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]]))
    tensor([0.0000, 1.0000], dtype=torch.float64)
    """
    if not a.is_sparse:
        return F.cosine_similarity(a.double(), b.double(), dim=1)
    from sklearn.preprocessing import normalize

    rows = [normalize(to_csr(x).astype(np.float64)) for x in (a, b)]
    return torch.from_numpy(np.asarray(rows[0].multiply(rows[1]).sum(axis=1)).ravel())


class STS(Evaluator):
    """Spearman's rank correlation of the cosine of two texts with how alike people found them.

    Cer et al. 2017 (STS benchmark), arXiv:1708.00055; the correlation of all pairs of the file, as SimCSE reports it
    (arXiv:2104.08821, appendix B). Nothing is fitted or chosen, and the file is measured only. 0 where all cosines are
    the same.

    Args:
        root: a file of pairs, see read_pairs.
    """

    takes_sparse = takes_stored = True
    needs_labels = False

    def __init__(self, root: str | None):
        if not root:
            raise ValueError(f"evaluators.sts.root=FILE: sts needs a CSV file with the columns {', '.join(COLUMNS)}")
        self.name, self.pairs = Path(root).name, read_pairs(root)

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        def encode(test: Part, texts: Sequence[str]) -> Tensor:
            x, places = network.encode(cast(Texts, test.samples).like(texts))
            assert len(places) == len(texts), "every string is a text"
            return x

        def score(test: Part) -> list[Score]:
            first, second, human = self.pairs
            cosines = pair_cosines(encode(test, first), encode(test, second))
            value = float(spearman_corrcoef(cosines.cpu(), human))
            settings = {"file": self.name, "samples": len(human), "normalize": "l2"}
            return [Score("sts_spearman", f"Spearman, {self.name}", value, settings)]

        return Fitted(score)
