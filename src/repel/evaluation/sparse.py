"""Features that are mostly zeros, such as those of words: kNN and logistic regression without a dense copy of them.

They are sparse COO tensors (N, F), a row a sample. An evaluator that takes them says so, see Evaluator.takes_sparse.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repel.evaluation.protocol import accuracy
from repel.evaluation.stored_features import Features

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "C_GRID",
    "WEIGHTS",
    "SparseClassifier",
    "choose_c",
    "fit_sparse",
    "sparse_neighbors",
    "sparse_tensor",
    "to_csr",
]

QUERY_BLOCK = 256  # queries handled at a time: their cosines to a bank of M take up to 16 * 256 * M bytes
C_GRID = (0.3, 1.0, 3.0, 10.0, 30.0)
ITERATIONS, TOLERANCE = 1000, 1e-5  # of the solver; at 1e-4, probabilities are still wrong by 0.002
WEIGHTS = 2**25  # features x classes; the solver holds several times 8 bytes of each


def sparse_tensor(rows: "csr_array") -> Tensor:
    """A SciPy matrix (N, F) as a sparse COO tensor of float32.

    >>> from scipy.sparse import csr_array
    >>> sparse_tensor(csr_array([[0.0, 2.0], [1.0, 0.0]])).to_dense()
    tensor([[0., 2.],
            [1., 0.]])
    """
    rows = rows.tocoo()
    places = torch.from_numpy(np.stack([rows.row, rows.col]).astype(np.int64))
    values = torch.from_numpy(rows.data.astype(np.float32))
    return torch.sparse_coo_tensor(places, values, rows.shape, check_invariants=True).coalesce()


def to_csr(x: Tensor) -> "csr_array":
    """A sparse tensor (N, F), on any device, as SciPy's matrix."""
    from scipy.sparse import coo_array

    x = x.coalesce().cpu()
    row, column = x.indices().int().numpy()  # 32 bits: LogisticRegression takes no others
    return coo_array((x.values().numpy(), (row, column)), shape=tuple(x.shape)).tocsr()


def sparse_neighbors(bank: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """knn.nearest_neighbors of sparse features (M, F) and (Q, F)."""
    from sklearn.preprocessing import normalize

    columns, rows = normalize(to_csr(bank)).T.tocsr(), normalize(to_csr(queries))
    blocks = []
    for start in range(0, len(queries), QUERY_BLOCK):
        cosines = torch.from_numpy((rows[start : start + QUERY_BLOCK] @ columns).toarray())
        blocks.append(cosines.topk(min(k, len(bank)), dim=1))
    values, places = (torch.cat([block[i] for block in blocks]) for i in range(2))
    return values.to(queries.device), places.to(queries.device)


class SparseClassifier(NamedTuple):
    """A fitted model of scikit-learn, and whether the optimum was reached."""

    model: Any
    converged: bool

    def predict(self, x: Features) -> Tensor:
        """Sparse features (N, F) -> classes (N,)."""
        assert isinstance(x, Tensor), "sparse features are never stored"
        return torch.from_numpy(self.model.predict(to_csr(x))).to(x.device)


def fit_sparse(x: Tensor, y: Tensor, c: float) -> SparseClassifier:
    """Logistic regression of scikit-learn: c sum_i -log softmax(W x_i + b)_{y_i} + 1/2 ||W||^2, solved by SAG.

    The features are taken as they are: to center them would make them dense.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=c, solver="sag", tol=TOLERANCE, max_iter=ITERATIONS, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it is returned
        model.fit(to_csr(x), y.cpu().numpy())
    return SparseClassifier(model, bool(model.n_iter_.max() < ITERATIONS))


def choose_c(x: Tensor, y: Tensor, val_x: Tensor, val_y: Tensor, grid: Sequence[float] = C_GRID) -> tuple[float, float]:
    """The c with the best validation accuracy, the smallest of equals, and that accuracy."""
    scores = {c: accuracy(fit_sparse(x, y, c).predict(val_x), val_y) for c in sorted(grid)}
    best = max(scores, key=lambda c: scores[c])
    return best, scores[best]
