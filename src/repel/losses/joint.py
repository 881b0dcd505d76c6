"""A weighted sum of losses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repel.losses.base import CATALOG_UNUSED, Loss
from repel.losses.rowwise import RowwiseLoss

__all__ = ["Joint", "Member"]


class Member(nn.Module):
    """A loss of a joint one.

    Args:
        loss: any.
        views: numbers of the views that it sees, at least two; None: all.
        weight: what its value is multiplied by, 0 or more.
    """

    def __init__(self, loss: Loss, views: Sequence[int] | None = None, weight: float = 1.0):
        super().__init__()
        self.loss, self.views, self.weight = loss, None if views is None else list(views), weight

    @property
    def sees_first(self) -> bool:
        """Whether it sees view 0."""
        return self.views is None or 0 in self.views

    def rows(self, per_view: Tensor) -> Tensor:
        """Of (V, ...) the rows of its views."""
        return per_view if self.views is None else torch.stack([per_view[view] for view in self.views])


class Joint(Loss):
    """A weighted sum of losses, each of views of its own: L = sum over members m of weight_m L_m( z[views_m] ).

    Such as SupCon and NT-Xent; or a loss of users and items with one of each side's augmented views (SGL: Wu et al.
    2021, arXiv:2010.10783, eq. 11). A member sees its views in the order in which they are named: with symmetric=false
    the first of these are its anchors. Temperature, strategy, queue, row_chunk and dims are the member's own. Whether
    labels, a predictor, crops, explicit negatives or a catalog are taken follows from the members; the last three go to
    members that see view 0 and take them. Each logs its value, without the weight, as `train/loss_NAME`, and its
    statistics with its name at the end.

    Args:
        members: name -> its `loss`; its `views`, numbers of at least two, all where it is missing or None; and its
            `weight`, 0 or more, 1 where it is missing. A member that is None is left out.

    Raises:
        ValueError: there is no member; a name, views or a weight is none; two members share a part; or the batch lacks
            a view (when called).

    >>> from repel.losses import NTXent, VICReg
    >>> z = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.0, 1.0]]])  # 2 views of 2 samples in the plane
    >>> loss = Joint({"contrast": {"loss": NTXent(temperature=0.5)}, "spread": {"loss": VICReg(), "weight": 0.1}})
    >>> round(loss(z).item(), 4)  # 0.7589 + 0.1 * 30.4972
    3.8086
    """

    def __init__(self, members: Mapping[str, Mapping[str, Any] | None]):
        super().__init__()
        chosen = {str(name): member for name, member in members.items() if member is not None}
        if not chosen:
            raise ValueError(
                "loss.members is empty; add one, such as loss.members.NAME={loss:...,views:[0,1],weight:1}"
            )
        self.members = nn.Module()  # no ModuleDict, which has an attribute items
        for name, member in chosen.items():
            self.members.add_module(_checked(name), _member(name, **member))
        _check_parts(self.parts)
        losses = [member.loss for member in self.parts.values()]
        self.supervised = any(loss.supervised for loss in losses)
        self.needs_predictor = any(loss.needs_predictor for loss in losses)
        queued = [loss for loss in losses if isinstance(loss, RowwiseLoss) and loss.queue.size]
        self.tolerates_old_keys = all(loss.tolerates_old_keys for loss in queued)
        first = [member.loss for member in self.parts.values() if member.sees_first]
        self.takes_negatives = any(loss.takes_negatives for loss in first)
        self.takes_crops = any(loss.takes_crops for loss in first)
        self.takes_catalog = any(loss.takes_catalog for loss in first)
        self.sums: dict[str, Tensor] = {}  # of the members' values, since statistics()
        self.calls = 0

    @property
    def parts(self) -> dict[str, Member]:
        """The members by name."""
        return {name: part for name, part in self.members.named_children() if isinstance(part, Member)}

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
        """See Loss."""
        if crops is not None and not self.takes_crops:
            raise ValueError("no member of loss=joint takes crops that are anchors only; set views.local=null")
        if negatives is not None and not self.takes_negatives:
            raise ValueError("no member of loss=joint takes explicit negatives; leave them out")
        if catalog is not None and not self.takes_catalog:
            raise ValueError(CATALOG_UNUSED)
        self.check_views(len(z))
        values = {}
        for name, member in self.parts.items():
            further = {}
            if member.sees_first and member.loss.takes_crops:
                further["crops"] = crops
            if member.sees_first and member.loss.takes_negatives:
                further |= {"negatives": negatives, "negative_ids": negative_ids}
            if member.sees_first and member.loss.takes_catalog:
                further |= {"catalog": catalog, "catalog_ids": catalog_ids}
            shown = ids if ids is None or ids.ndim == 1 else member.rows(ids)
            compared = None if target is None else member.rows(target)
            values[name] = member.loss(member.rows(z), labels, shown, local, compared, **further)
        if self.training:
            self.sums = {name: self.sums.get(name, 0) + value.detach() for name, value in values.items()}
            self.calls += 1
        return torch.stack([self.parts[name].weight * value for name, value in values.items()]).sum()

    def check_views(self, count: int) -> None:
        """Raises ValueError where a member sees a view that a batch of so many views lacks."""
        for name, member in self.parts.items():
            if max(member.views or [0]) >= count:
                raise ValueError(f"loss.members.{name}.views={member.views}: there are {count} views, from 0 on")

    def update(self, keys: Tensor, labels: Tensor | None, ids: Tensor | None) -> None:
        for member in self.parts.values():
            member.loss.update(member.rows(keys), labels, ids if ids is None or ids.ndim == 1 else member.rows(ids))

    def statistics(self) -> dict[str, Tensor]:
        found = {f"train/loss_{name}": total / self.calls for name, total in self.sums.items()}
        self.sums, self.calls = {}, 0
        for name, member in self.parts.items():
            found |= {f"{key}_{name}": value for key, value in member.loss.statistics().items()}
        return found


def _checked(name: str) -> str:
    if not name.isidentifier() or hasattr(nn.Module(), name):
        raise ValueError(f"loss.members.{name}: a member's name must be a word such as users; choose another")
    return name


def _member(name: str, loss: Any = None, views: Any = None, weight: Any = 1.0, **unknown: Any) -> Member:
    if unknown:
        raise ValueError(f"loss.members.{name} has loss, views and weight, and no {', '.join(map(str, unknown))}")
    if not isinstance(loss, Loss):
        raise ValueError(f"loss.members.{name}.loss must be a loss, got {loss!r}")
    numbers = isinstance(views, Sequence) and all(type(view) is int and view >= 0 for view in views)
    if views is not None and not (numbers and len(views) >= 2 and len(set(views)) == len(views)):
        raise ValueError(
            f"loss.members.{name}.views must be numbers of views, at least two, such as [0,1], got {views}"
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ValueError(f"loss.members.{name}.weight must be a number, 0 or more, got {weight!r}")
    return Member(loss, views, weight)


def _check_parts(members: Mapping[str, Member]) -> None:
    """Raises ValueError where two members share a part: its state would move twice in a step."""
    seen: dict[int, str] = {}
    for name, member in members.items():
        for part in member.modules():
            if seen.setdefault(id(part), name) != name:
                raise ValueError(
                    f"loss.members.{seen[id(part)]} and {name} share a {type(part).__name__}: each needs its own"
                )
