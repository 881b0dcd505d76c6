"""One random view of each text: parameters drawn first, a row for each text, then applied to all texts at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["TokenAugment", "augment"]

OPERATIONS = ("crop", "delete", "shuffle", "mask")  # in the order in which they are applied
Share = float | Sequence[float]


class TokenAugment:
    """One random view: a span of the text, without some tokens, in another order, with some tokens masked.

    In this order, and each operation for each text alone. A share is a number, or two: then it is drawn for each text,
    uniformly between them. Every text keeps at least one token, unmasked.

    Args:
        max_tokens: the longest text that may come; a draw has a number for each of so many places.
        crop: share of the tokens in the span, in (0, 1]; the span's place is uniform. Spans of one text as its views:
            Giorgi et al. 2021 (DeCLUTR), arXiv:2006.03659, whose lengths are drawn in tokens; Izacard et al. 2022
            (Contriever), arXiv:2112.09118, whose code draws 10 to 50 % of 256 tokens and deletes 10 % of these.
            Better than dropout: González-Márquez et al. 2025, arXiv:2508.03453.
        delete: share of tokens that are dropped, in [0, 1): each with this probability (Wei, Zou 2019, EDA,
            arXiv:1901.11196).
        shuffle: share of texts whose tokens are shuffled, in [0, 1] (Yan et al. 2021, ConSERT, arXiv:2105.11741).
        shuffle_window: how many places a token then moves at most, 1 or more (Lample et al. 2018, arXiv:1711.00043);
            None: every order is as likely.
        mask: share of tokens that the mask token replaces, in [0, 1): each with this probability.

    Raises:
        ValueError: an option is out of its range; the message names it as in conf/.

    >>> TokenAugment(8, crop=[0.5, 1.0], delete=0.4).draw(4, torch.tensor([1, 2, 3, 4])).keys()
    dict_keys(['crop', 'delete'])
    """

    def __init__(
        self,
        max_tokens: int,
        crop: Share = (1.0, 1.0),
        delete: Share = 0.0,
        shuffle: float = 0.0,
        shuffle_window: int | None = None,
        mask: Share = 0.0,
    ):
        self.max_tokens = max_tokens
        self.crop = _shares("crop", crop, "above 0 and at most 1", lambda share: 0 < share <= 1)
        self.delete = _shares("delete", delete, "from 0 to below 1", lambda share: 0 <= share < 1)
        self.mask = _shares("mask", mask, "from 0 to below 1", lambda share: 0 <= share < 1)
        if not (_is_number(shuffle) and 0 <= shuffle <= 1):
            raise ValueError(f"views.shuffle must be a share of the texts, from 0 to 1, got {shuffle}")
        if shuffle_window is not None and not (type(shuffle_window) is int and shuffle_window >= 1):
            raise ValueError(f"views.shuffle_window must be a whole number of places or null, got {shuffle_window}")
        self.shuffle, self.shuffle_window = shuffle, shuffle_window

    def draw(self, n: int, seeds: Tensor) -> dict[str, Tensor]:
        """The parameters of n texts, each (n, ...), on the CPU, of those operations alone that are on.

        Args:
            seeds: (4,) int64, one for each operation, so that what one draws does not depend on the others.

        Returns:
            crop (n, 2): the share of the span, and where it begins, from 0 to 1.
            delete, mask (n, max_tokens): a place below 0 is dropped or masked, unless it is the text's highest.
            shuffle (n, max_tokens): places are sorted by it.
        """
        params = {}
        for name, seed in zip(OPERATIONS, seeds.tolist(), strict=True):
            option, draws = getattr(self, name), torch.Generator().manual_seed(seed)
            if name == "shuffle" and option:
                params[name] = self._shuffled(n, draws)
            elif name == "crop" and option != (1, 1):
                params[name] = torch.stack([_uniform(n, option, draws), torch.rand(n, generator=draws)], 1)
            elif name in ("delete", "mask") and option != (0, 0):
                share = _uniform(n, option, draws)
                params[name] = torch.rand(n, self.max_tokens, generator=draws) - share[:, None]
        return params

    def _shuffled(self, n: int, draws: torch.Generator) -> Tensor:
        places = torch.arange(self.max_tokens, dtype=torch.float32)
        chosen = torch.rand(n, 1, generator=draws) < self.shuffle
        key = torch.rand(n, self.max_tokens, generator=draws)
        if self.shuffle_window is not None:
            key = places + key * (self.shuffle_window + 1)  # what lies further ahead than the window stays ahead
        return torch.where(chosen, key, places)


def augment(tokens: Tensor, params: dict[str, Tensor], mask: int) -> Tensor:
    """Tokens (B, L), padded with 0 at the end -> the view (B, L) with these parameters, padded likewise.

    Args:
        params: as drawn, of these B texts.
        mask: what replaces masked tokens.

    >>> tokens = torch.tensor([[5, 6, 7, 8, 0]])
    >>> augment(tokens, {"crop": torch.tensor([[0.5, 0.9]])}, mask=2)
    tensor([[7, 8, 0, 0, 0]])
    """
    length = tokens.shape[1]
    cut = {name: value if name == "crop" else value[:, :length] for name, value in params.items()}
    p = {name: value.to(tokens.device, non_blocking=True) for name, value in cut.items()}
    if "crop" in p or "delete" in p:
        kept = tokens > 0
        if "crop" in p:
            kept &= _span(kept.sum(1, keepdim=True), p["crop"], length)
        if "delete" in p:
            kept &= _stays(p["delete"], kept)
        tokens = _packed(tokens, kept)
    if "shuffle" in p:
        order = p["shuffle"].masked_fill(tokens == 0, torch.inf).argsort(dim=1, stable=True)
        tokens = tokens.gather(1, order)
    if "mask" in p:
        real = tokens > 0
        tokens = tokens.masked_fill(real & ~_stays(p["mask"], real), mask)
    return tokens


def _span(lengths: Tensor, crop: Tensor, length: int) -> Tensor:
    """(B, L), the places of a span of each text; lengths (B, 1)."""
    share, at = crop.split(1, 1)
    size = (share * lengths).round().clamp(min=1)
    start = (at * (lengths - size + 1)).floor().minimum(lengths - size)
    places = torch.arange(length, device=lengths.device)
    return (places >= start) & (places < start + size)


def _stays(margin: Tensor, among: Tensor) -> Tensor:
    """(B, L), where the margin is not below 0, and where it is the highest among some places."""
    highest = margin.masked_fill(~among, -torch.inf).amax(1, keepdim=True)
    return (margin >= 0) | (margin == highest)


def _packed(tokens: Tensor, kept: Tensor) -> Tensor:
    """The kept tokens of each text (B, L), in order, then padding."""
    rank = kept.cumsum(1)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    target = torch.where(kept, rank - 1, rank[:, -1:] + places - rank)  # each place once: the result is the same always
    return torch.zeros_like(tokens).scatter_(1, target, tokens * kept)


def _uniform(n: int, between: tuple[float, float], draws: torch.Generator) -> Tensor:
    return torch.empty(n).uniform_(*between, generator=draws)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shares(name: str, value: Share, words: str, fits: Callable[[float], bool]) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if not (len(pair) == 2 and all(_is_number(share) and fits(share) for share in pair) and pair[0] <= pair[1]):
        shown = list(pair) if isinstance(value, Sequence) and not isinstance(value, str) else value
        raise ValueError(f"views.{name} must be a share {words}, or two such as [0.5,0.8], got {shown}")
    return pair[0], pair[1]
