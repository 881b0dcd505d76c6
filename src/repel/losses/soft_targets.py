"""Losses whose target is a distribution: L_i = log sum_j e^{l_ij} - sum_j y_ij l_ij, y without gradient."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.losses.base import Batch, Dims, Loss, swapped, unit
from repel.losses.queue import Queue
from repel.losses.rowwise import CandidateSet, RowChunk, RowwiseLoss
from repel.negatives.strategy import LogitBlock, Strategy


class Relational(RowwiseLoss):
    """The anchor should be as similar to the candidates as its positive is, as the target network sees them.

        y_ij = softmax over j of ( s(k_p, k_j) / t_target ),   k: target embeddings, p the anchor's positive

    What the strategy drops is dropped from y too; its weights count in the anchor's own distribution.

    Args:
        target_temperature: t_target > 0, lower than the temperature.
    """

    takes_correction = False

    def __init__(
        self, target_temperature: float, temperature: float, learn_temperature: bool, candidates: CandidateSet,
        symmetric: bool, negatives: Strategy | None, queue: Queue | None, row_chunk: RowChunk, dims: Dims,
    ):  # fmt: skip
        super().__init__(temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk, dims)
        if not target_temperature > 0:
            raise ValueError(f"loss.target_temperature must be > 0, got {target_temperature}")
        self.target_temperature = target_temperature

    def expected(self, block: LogitBlock, keys: Tensor) -> Tensor:
        """sum_j y_ij l_ij for each positive, (m, P); 0 where no candidate is left."""
        assert block.candidates is not None, "losses pass them"
        n = len(block.candidates)
        keep, logits = block.negative[:, :n], block.logits[:, :n]
        empty = ~keep.any(1, keepdim=True)
        sums = []
        for key in keys.unbind(1):
            with torch.no_grad():
                relation = key @ block.candidates.T / self.target_temperature
                y = relation.masked_fill(~keep & ~empty, -torch.inf).softmax(1).masked_fill(~keep, 0)
            sums.append((y * logits).sum(1))
        return torch.stack(sums, dim=1)


class ReSSL(Relational):
    """The relation alone is learned: the positive is no candidate.

        L_i = log Z_i - sum_j y_ij l_ij

    Zheng, You, Wang, Qian, Zhang, Wang, Xu 2021, arXiv:2107.09282, eq. 3 to 5, where the candidates are a queue and the
    target network sees weaker augmentations.

    Args:
        target_temperature: of the target distribution, > 0; smaller than `temperature` in the paper.

    Raises:
        ValueError: target_temperature is not above 0.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(ReSSL()(z).item(), 4)
    0.0
    """

    def __init__(
        self, target_temperature: float = 0.04, *, temperature: float = 0.1, learn_temperature: bool = False,
        candidates: CandidateSet = "cross", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(
            target_temperature, temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk,
            dims,
        )  # fmt: skip
        if getattr(self.negatives, "k", None) == 1:
            raise ValueError(
                "loss=ressl compares candidates with one another, and these negatives (hardest, or k=1) leave one; use "
                "negatives=topk, or a larger negatives.k"
            )

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor) -> Tensor:
        block = self.negatives.weigh(block)
        log_z = self.negatives.log_z(block)[:, None]
        empty = log_z == -torch.inf
        return (log_z.masked_fill(empty, 0) - self.expected(block, keys)).masked_fill(empty, 0).mean(1)


class SCE(Relational):
    """Between InfoNCE and the relation: y = coefficient on the positive, the rest as the target network sees it.

        L_i = log( e^{l_ip} + Z_i ) - lambda l_ip - (1 - lambda) sum_{j not i} y_ij l_ij

    Denize, Rabarisoa, Orcesi, Herault, Canu 2023 (similarity contrastive estimation), arXiv:2111.14585, eq. 3 to 5. The
    positive is masked in y, as the paper's equation says; its released code leaves it in with a logit of 0.

    Args:
        target_temperature: of the target distribution, > 0.
        coefficient: lambda in [0, 1]; 1 is InfoNCE.

    Raises:
        ValueError: target_temperature or coefficient is out of its range.

    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> round(SCE()(z).item(), 4)
    2.5641
    """

    def __init__(
        self, target_temperature: float = 0.05, coefficient: float = 0.5, *,
        temperature: float = 0.1, learn_temperature: bool = False,
        candidates: CandidateSet = "cross", symmetric: bool = True, negatives: Strategy | None = None,
        queue: Queue | None = None, row_chunk: RowChunk = "auto", dims: Dims = None,
    ):  # fmt: skip
        super().__init__(
            target_temperature, temperature, learn_temperature, candidates, symmetric, negatives, queue, row_chunk,
            dims,
        )  # fmt: skip
        if not 0 <= coefficient <= 1:
            raise ValueError(f"loss.coefficient must be in [0, 1], got {coefficient}")
        self.coefficient = coefficient

    def per_anchor(self, block: LogitBlock, positives: Tensor, keys: Tensor) -> Tensor:
        block = self.negatives.weigh(block)
        log_z = self.negatives.log_z(block)[:, None]
        empty = log_z == -torch.inf
        contrast = F.softplus(log_z.masked_fill(empty, 0) - positives)  # log( e^{l_p} + Z ) - l_p
        relation = (1 - self.coefficient) * (positives - self.expected(block, keys))
        return (contrast + relation).masked_fill(empty, 0).mean(1)


class SwAV(Loss):
    """Swapped prediction: one view's cluster assignment is predicted from the other view.

        L = mean over pairs of an anchor i and a positive p of -sum_k q_pk log softmax_k( z_i c_k / t )

    Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, arXiv:2006.09882, eq. 2 and 3. q: codes of all ranks' samples,
    view by view, by Sinkhorn-Knopp, in the log domain (e^{1/0.05} overflows float16). No samples are compared, so there
    are no negatives. Prototypes are normalized where they are used. With crops every pair weighs the same, as in the
    authors' code; a mean over anchors would give a pair of views twice the weight of a crop with a view.

    Args:
        temperature: t > 0.
        prototypes: their number.
        dim: D.
        epsilon: smoothness of the codes, > 0.
        iterations: of Sinkhorn-Knopp.

    Raises:
        ValueError: a number is out of its range; dim is not that of the embeddings (when called).

    >>> loss, z = SwAV(dim=2, prototypes=4), torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])
    >>> loss.prototypes.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> round(loss(z).item(), 4)
    6.0768
    """

    takes_crops = True

    def __init__(
        self, dim: int, prototypes: int = 100, temperature: float = 0.1, epsilon: float = 0.05, iterations: int = 3
    ):
        super().__init__()
        for name, value in (("temperature", temperature), ("epsilon", epsilon)):
            if not value > 0:
                raise ValueError(f"loss.{name} must be > 0, got {value}")
        for name, value in (("prototypes", prototypes), ("iterations", iterations)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"loss.{name} must be a whole number, at least 1, got {value}")
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim))

    def losses(self, batch: Batch) -> Tensor:
        if batch.z.shape[-1] != self.prototypes.shape[1]:
            raise ValueError(
                f"loss.dim={self.prototypes.shape[1]} must be the embeddings' {batch.z.shape[-1]} dimensions"
            )
        prototypes = unit(self.prototypes).to(batch.z.dtype)
        with torch.no_grad():
            codes = torch.stack([sinkhorn(k @ prototypes.T, self.epsilon, self.iterations) for k in batch.keys])
        anchors = batch.z if batch.crops is None else torch.cat([batch.z, batch.crops])
        log_p = (anchors[:, batch.local] @ prototypes.T / self.temperature).log_softmax(-1)  # (V + L, local, K)
        agreement = torch.einsum("vnk,unk->vu", log_p, codes[:, batch.local]) / log_p.shape[1]
        return -swapped(agreement)


def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments (N, K) of N samples to K prototypes: rows sum to 1, columns nearly to N / K.

    Cuturi 2013, arXiv:1306.0895; the columns are balanced before the rows, as in Caron et al. 2020, appendix A.
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()
