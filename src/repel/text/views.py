"""The views of a batch of texts: parameters drawn first, one row per text, then applied on the device."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from repel.data.views import Params, Viewed
from repel.text.augment import OPERATIONS, Share, TokenAugment, augment
from repel.text.texts import TokenBatch

__all__ = ["TextViews"]

PER_VIEW = (*OPERATIONS, "shuffle_window")


class TextViews:
    """V views of every text, tokens (B, L) -> (V, B, L); padding follows the tokens of a view.

    With every operation off, each view is the text itself, and the encoder's dropout is all that differs (Gao et al.
    2021, SimCSE, arXiv:2104.08821).

    Args:
        n: how many views V, at least 2, each a positive of the others.
        max_tokens: the longest text that may come, at least 1.
        pair: view 0 shows the text, the others its positive, which the data brings; each augmented as below.
        crop, delete, shuffle, shuffle_window, mask: of all views, see TokenAugment.
        per_view: what each view changes of these, n entries, or None where all are alike.

    Raises:
        ValueError: n below 2; an option out of its range; per_view without one entry a view, or with other options.

    >>> tokens = torch.tensor([[4, 5, 6, 7], [8, 9, 0, 0]], dtype=torch.int32)
    >>> views = TextViews(2, max_tokens=4, crop=0.5)
    >>> views(TokenBatch(tokens, None, None, mask=2), torch.Generator().manual_seed(1))
    tensor([[[5, 6, 0, 0],
             [9, 0, 0, 0]],
    <BLANKLINE>
            [[6, 7, 0, 0],
             [9, 0, 0, 0]]], dtype=torch.int32)
    """

    def __init__(
        self,
        n: int,
        max_tokens: int,
        pair: bool = False,
        crop: Share = (1.0, 1.0),
        delete: Share = 0.0,
        shuffle: float = 0.0,
        shuffle_window: int | None = None,
        mask: Share = 0.0,
        per_view: Sequence[dict[str, Any]] | None = None,
    ):
        if n < 2:
            raise ValueError(f"a positive pair needs at least views.n=2, got {n}")
        if max_tokens < 1:
            raise ValueError(f"views.max_tokens must be at least 1, got {max_tokens}")
        if per_view is not None and len(per_view) != n:
            raise ValueError(f"views.per_view has {len(per_view)} entries for views.n={n}; it needs one for each view")
        shared = {"crop": crop, "delete": delete, "mask": mask, "shuffle": shuffle, "shuffle_window": shuffle_window}
        changes = per_view or [{}] * n
        if unknown := sorted({str(name) for change in changes for name in change} - set(PER_VIEW)):
            raise ValueError(f"views.per_view changes {', '.join(PER_VIEW)}, not {', '.join(unknown)}")
        self.augments = [TokenAugment(max_tokens, **(shared | dict(change))) for change in changes]
        self.n, self.max_tokens, self.pair = n, max_tokens, pair

    def __len__(self) -> int:
        return self.n

    def draw(self, n: int, generator: torch.Generator) -> Params:
        """Parameters for n texts: a list with an entry per view, each a dict of tensors of first dimension n."""
        seeds = torch.randint(2**62, (self.n, len(OPERATIONS)), generator=generator)
        return [view.draw(n, own) for view, own in zip(self.augments, seeds, strict=True)]

    def apply(self, x: TokenBatch, params: Params) -> Tensor | Viewed:
        """Tokens (B, L) -> views (V, B, L) of the same type, on the same device.

        Where views show positives (B, L'), all are as long as the longer of the two. Explicit negatives come unchanged.

        Raises:
            ValueError: pair without positives; mask without a mask token; a text longer than max_tokens.
        """
        if x.mask < 0 and any("mask" in p for p in params):
            raise ValueError(
                "views.mask needs a tokenizer with a mask token; choose views.delete, or data.tokenizer=FILE"
            )
        made = torch.stack([augment(text, p, x.mask) for text, p in zip(self._shown(x), params, strict=True)])
        return made if x.negatives is None else Viewed(made, negatives=x.negatives)

    def kept(self, x: TokenBatch, params: Params) -> Tensor:
        """(V, B, L) bool: where a token of the text that a view shows is in it; not where it is dropped or masked.

        >>> views = TextViews(2, max_tokens=3, crop=0.5)
        >>> x = TokenBatch(torch.tensor([[4, 5, 0]]), None, None, mask=2)
        >>> views.kept(x, views.draw(1, torch.Generator().manual_seed(0))).tolist()
        [[[True, False, False]], [[False, True, False]]]
        """
        found = []
        for text, p in zip(self._shown(x), params, strict=True):
            places = torch.arange(1, text.shape[1] + 1, device=text.device) * (text > 0)
            left = augment(places, p, mask=0)  # places in the order of the view; 0 for padding and masks
            found.append(torch.zeros_like(pad(places, (1, 0)), dtype=torch.bool).scatter_(1, left, True)[:, 1:])
        return torch.stack(found)

    def _shown(self, x: TokenBatch) -> list[Tensor]:
        """The text (B, L) that each view shows."""
        shown = [x.tokens] * self.n
        if self.pair:
            if x.positives is None:
                raise ValueError("views.pair=true needs data.positive=COLUMN, the texts that are positives")
            length = max(x.tokens.shape[1], x.positives.shape[1])
            text, positive = (pad(tokens, (0, length - tokens.shape[1])) for tokens in (x.tokens, x.positives))
            shown = [text] + [positive] * (self.n - 1)
        if (length := shown[0].shape[1]) > self.max_tokens:
            raise ValueError(f"views.max_tokens={self.max_tokens} is less than the {length} tokens of a text")
        return shown

    def __call__(self, x: TokenBatch, generator: torch.Generator) -> Tensor | Viewed:
        """Draw and apply.

        Args:
            generator: of the CPU; equal states give equal views on any device.
        """
        return self.apply(x, self.draw(len(x.tokens), generator))
