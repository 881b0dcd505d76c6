"""Features of texts without an encoder: TF-IDF of the words, and its singular vectors (LSA)."""

from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from repel.data.samples import Samples
from repel.evaluation.features import subset
from repel.evaluation.modality import Baseline
from repel.evaluation.sparse import sparse_tensor
from repel.text.texts import Texts

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["WORDS", "WordFeatures", "text_baselines"]

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Chinese characters
WORDS = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]"  # every text that is not blank has one
VOCABULARY = 2**17  # words at most, the most frequent ones
DIMENSIONS = 128


class WordFeatures:
    """TF-IDF and LSA, by scikit-learn, fitted to the training texts when features are first asked for.

    Words are runs of letters and digits in lower case; Chinese characters, kana and other signs are words of their own.

    Args:
        train: training samples, with or without labels.
        bank: at most so many are fitted to, see features.subset; None: all.
    """

    def __init__(self, train: Samples, bank: int | None = None):
        self.train, self.bank = train, bank

    @cached_property
    def vectorizer(self) -> "TfidfVectorizer":
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(token_pattern=WORDS, max_features=VOCABULARY, dtype=np.float32)
        return vectorizer.fit(_strings(subset(self.train, self.bank)))

    @cached_property
    def svd(self) -> "TruncatedSVD":
        from sklearn.decomposition import TruncatedSVD

        rows = self._rows(subset(self.train, self.bank))
        return TruncatedSVD(min(DIMENSIONS, *rows.shape), random_state=0).fit(rows)

    def _rows(self, samples: Samples) -> "csr_array":
        return self.vectorizer.transform(_strings(samples))

    def tfidf(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Sparse unit rows (N, words), and the places (N,) of their texts: all."""
        return sparse_tensor(self._rows(samples)), torch.arange(len(samples))

    def lsa(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """(N, 128) TF-IDF along its leading singular vectors, fewer where there are fewer words or training texts.

        Deerwester et al. 1990 (latent semantic analysis), without a center, so that nothing becomes dense.
        """
        return torch.from_numpy(self.svd.transform(self._rows(samples))).float(), torch.arange(len(samples))


def text_baselines(train: Samples, bank: int | None = None) -> list[Baseline]:
    """TF-IDF and LSA for a report, see Modality.baselines."""
    features = WordFeatures(train, bank)
    return [
        Baseline("tfidf", "TF-IDF", "words", features.tfidf),
        Baseline("lsa", f"LSA-{DIMENSIONS}", "words", features.lsa),
    ]


def _strings(samples: Samples) -> list[str]:
    return cast(Texts, samples).texts
