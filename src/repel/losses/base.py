"""What every loss shares: the call, the batch that it makes of its arguments, and the rule of what is a negative."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Dims = Sequence[int] | None
CATALOG_MISSING = (
    "loss.candidates=catalog compares with all items, which this batch does not bring; choose other candidates"
)
CATALOG_UNUSED = (
    "this loss compares with no catalog, which the batch brings; set loss.candidates=catalog, or leave it out"
)


@dataclass(frozen=True)
class Batch:
    """The arguments of a call, checked, with embeddings as unit vectors (MomentLoss: as they are).

    Shapes: V views, N samples of all ranks, D dimensions.

    Args:
        z: (V, N, D), the anchors.
        keys: (V, N, D), what they are compared with: the target's embeddings, without gradient, or z.
        labels: (N,), or None.
        ids: (V, N), the entity that each view shows; (1, N) where all views of a sample show the same; or None.
        local: the slice of the N samples whose anchors are this rank's.
        crops: (L, N, D), anchors only, or None.
        negatives: (M, N, D), candidates only, or None.
        negative_ids: (M, N), the entities that these show, or None.
        catalog: (E, D), candidates only, or None.
        catalog_ids: (E,), the entities that it shows, or None.
        raw: (V, N, D), the anchors as they were given.
        averaged_by: the loss whose call takes the mean of its losses(batch), or None.
    """

    z: Tensor
    keys: Tensor
    labels: Tensor | None
    ids: Tensor | None
    local: slice
    crops: Tensor | None = None
    negatives: Tensor | None = None
    negative_ids: Tensor | None = None
    raw: Tensor | None = None
    catalog: Tensor | None = None
    catalog_ids: Tensor | None = None
    averaged_by: "Loss | None" = None

    def anchors_and_keys(self) -> tuple[Tensor, Tensor]:
        """z and keys, normalized a second time: for a term beside the logits, whose gradient is then summed with
        theirs in raw, not in z. One sum would do, but would round differently from all earlier runs."""
        assert self.raw is not None
        z = unit(self.raw)
        return z, z if self.keys is self.z else self.keys

    def cut(self, dims: int) -> "Batch":
        """The batch of the first dimensions of all embeddings, unit vectors again."""
        z = unit(self.z[..., :dims])
        keys = z if self.keys is self.z else unit(self.keys[..., :dims])
        further = (self.crops, self.negatives, self.catalog)
        crops, negatives, catalog = (None if t is None else unit(t[..., :dims]) for t in further)
        raw = None if self.raw is None else self.raw[..., :dims]
        return replace(self, z=z, keys=keys, crops=crops, negatives=negatives, catalog=catalog, raw=raw)


class Loss(nn.Module):
    """Base class of all losses: a subclass defines `losses(batch)`; the package's docstring has the contract.

    Args:
        dims: None, or numbers of dimensions d: the loss is the sum over d of that of the first d dimensions of every
            embedding, normalized anew, so that embeddings can be cut to any of these lengths (Matryoshka; Kusupati et
            al. 2022, arXiv:2205.13147, eq. 1 with all c_m = 1). What is learned and kept (temperature, bias, queue) is
            the same for all d.

    Raises:
        ValueError: dims are no different whole numbers above 0; or more than the embeddings have (when called).
    """

    supervised = False  # whether labels enter the loss
    needs_predictor = False  # whether it collapses without one
    tolerates_old_keys = False  # whether a queue makes sense without a momentum network
    takes_negatives = False  # whether it takes explicit negatives, which are candidates only
    takes_crops = False  # whether it takes further crops, which are anchors only
    takes_catalog = False  # whether its candidates are all items of a catalog, without which it is not called
    normalizes = True  # whether it sees embeddings on the sphere
    weighs_alike = False  # whether all anchors weigh the same in losses(batch); a class that overrides it says so

    def __init_subclass__(cls, **kwargs: object):
        super().__init_subclass__(**kwargs)
        said = filter(None, ({"losses", "weighs_alike"} & vars(parent).keys() for parent in cls.__mro__))
        cls.weighs_alike &= next(said) != {"losses"}

    def __init__(self, dims: Dims = None):
        super().__init__()
        self.dims = _checked_dims(dims)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        ids: Tensor | None = None,
        local: slice = slice(None),
        target: Tensor | None = None,
        crops: Tensor | None = None,
        negatives: Tensor | None = None,
        negative_ids: Tensor | None = None,
        catalog: Tensor | None = None,
        catalog_ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch of views.

        Args:
            z: (V, N, D), V >= 2 views of the N >= 2 samples of all ranks, not normalized.
            labels: (N,) classes, -1 where unknown.
            ids: (V, N) the entity that each view shows, 0 or more; (N,) stands for the same row V times.
            local: the slice of the N samples whose anchors are this rank's.
            target: (V, N, D) embeddings to compare anchors with, in place of z; no gradient flows through them.
            crops: (L, N, D) embeddings of further views, which are anchors only: all V views are their positives.
            negatives: (M, N, D) explicit negatives of the N samples, candidates for every anchor. In the space of
                `target` where there is one, and then without gradient, else in that of z.
            negative_ids: (M, N) the entities that they show.
            catalog: (E, D) embeddings of all items there are, the only candidates with candidates=catalog; in the space
                that negatives are in.
            catalog_ids: (E,) the entities that they show.

        Returns:
            A scalar: the mean over the local anchors, or, of a loss that is no such mean, the whole.

        Raises:
            ValueError: shapes do not fit, or the loss does not take these arguments.
        """
        views, samples, _ = z.shape
        if views < 2 or samples < 2:
            raise ValueError(f"a contrastive batch needs at least 2 views of 2 samples, got z {tuple(z.shape)}")
        if self.takes_catalog or any(t is not None for t in (crops, negatives, negative_ids, catalog)):
            self._check_further(ids, crops, negatives, negative_ids, catalog, catalog_ids)
        if ids is not None and ids.shape not in ((samples,), (views, samples)):
            raise ValueError(f"ids must be ({samples},) or ({views}, {samples}), got {tuple(ids.shape)}")
        if self.dims is not None and max(self.dims) > z.shape[-1]:
            raise ValueError(f"loss.dims={list(self.dims)}: the embeddings have {z.shape[-1]} dimensions")
        with torch.autocast(z.device.type, enabled=False):
            embed = unit if self.normalizes else _at_least_float32
            raw, z = z, embed(z)
            keys = z if target is None else embed(target).detach()
            ids = ids[None] if ids is not None and ids.ndim == 1 else ids
            crops = None if crops is None else embed(crops)
            further = [None if t is None else embed(t) for t in (negatives, catalog)]
            if target is not None:
                further = [None if t is None else t.detach() for t in further]
            others = further[0], negative_ids, raw, further[1], catalog_ids
            batch = Batch(z, keys, labels, ids, local, crops, *others, averaged_by=self)
            if self.dims is None:
                return self.losses(batch).mean()
            return torch.stack([self.losses(batch.cut(dims)).mean() for dims in self.dims]).sum()

    def _check_further(
        self, ids: Tensor | None, crops: Tensor | None, negatives: Tensor | None, negative_ids: Tensor | None,
        catalog: Tensor | None, catalog_ids: Tensor | None,
    ) -> None:  # fmt: skip
        """Raises ValueError where a batch has more than views, and the loss does not take it, or ids are missing."""
        if crops is not None and not self.takes_crops:
            raise ValueError(f"{type(self).__name__} takes no crops that are anchors only; set views.local=null")
        if negatives is not None and not self.takes_negatives:
            raise ValueError(f"{type(self).__name__} takes no explicit negatives; leave them out")
        if (catalog is not None) != self.takes_catalog:
            raise ValueError(CATALOG_MISSING if self.takes_catalog else CATALOG_UNUSED)
        if negative_ids is not None and ids is None:
            raise ValueError("negative_ids are compared with ids: pass both or neither")
        if catalog is not None and (ids is None or catalog_ids is None):
            raise ValueError("a catalog has the anchors' own items: pass ids and catalog_ids")

    @abstractmethod
    def losses(self, batch: Batch) -> Tensor:
        """The loss of every local anchor, view by view, then the crops; or a scalar that is no mean over anchors."""

    def update(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None) -> None:
        """Called once after every training batch, the place for state.

        Args:
            keys: (V, N, D), what the batch compared with, the same on all ranks.
            labels: (N,), or None.
            ids: (V, N), or (N,), or None.
        """

    def statistics(self) -> dict[str, Tensor]:
        """What to log of the training batches since the last call: names -> scalars."""
        return {}


def first_dims(past: Tensor, dims: int) -> Tensor:
    """The first dimensions of unit vectors (n, D) that were kept, normalized anew where these are not all of them.

    >>> first_dims(torch.tensor([[0.6, 0.8]]), 1).tolist()
    [[1.0]]
    """
    return past if past.shape[-1] == dims else unit(past[:, :dims])


def unit(z: Tensor) -> Tensor:
    """z on the sphere, in float32 at least. A vector of zeros stays one.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return F.normalize(z if z.dtype == torch.float64 else z.float(), dim=-1, eps=1e-8)


def shows_another(own: Tensor, ids: Tensor) -> Tensor:
    """Which candidates show none of the entities of an anchor's own sample: only these can be its negatives.

    Args:
        own: (K, m) entities of the anchors' samples, K for each.
        ids: (n,) entities of the candidates, -1 where unknown, which are nobody's own.

    Returns:
        (m, n), bool.

    >>> shows_another(torch.tensor([[1, 2], [3, 3]]), torch.tensor([1, 2, 3, -1])).tolist()
    [[False, True, False, True], [True, False, False, True]]
    """
    another = own[0, :, None] != ids
    for more in own[1:]:
        another &= more[:, None] != ids
    return another


def swapped(agreement: Tensor) -> Tensor:
    """(V + L, V) of anchors with views -> mean over all pairs of an anchor and a view other than itself."""
    views, own = agreement.shape[1], agreement.diagonal()
    per_anchor = torch.cat([agreement[:views].sum(1) - own, agreement[views:].sum(1)])
    return per_anchor.sum() / (views * (len(agreement) - 1))


def _checked_dims(dims: Dims) -> tuple[int, ...] | None:
    if dims is None:
        return None
    if not isinstance(dims, Sequence) or not dims or not all(type(d) is int and d > 0 for d in dims):
        raise ValueError(f"loss.dims must be null or numbers of dimensions, such as [128,64,32], got {dims}")
    if len(set(dims)) < len(dims):
        raise ValueError(f"loss.dims names a number of dimensions twice: {dims}")
    return tuple(dims)


def _at_least_float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
