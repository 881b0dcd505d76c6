"""Encoders: texts (B, L) of token ids, 0 where a text is shorter -> features h (B, F). Each has `out_features`, F."""

import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer as Library
from torch import Tensor, nn

from repel.base.sized import SizedByData, random_vectors
from repel.data.samples import DataInfo
from repel.text.texts import TextInfo

__all__ = ["BagOfTokens", "NGramVectors", "TokenVectors", "mean_of_real", "real_tokens"]

WEIGHTS = ("none", "idf", "learned")
LETTERS = 34  # of a token with its marks, whose n-grams count: the longest token decides what a step costs


def real_tokens(tokens: Tensor) -> Tensor:
    """(B, L) bool, where a text has tokens. The first one counts as such, so that a text without any has a mean too.

    >>> real_tokens(torch.tensor([[5, 7, 0], [0, 0, 0]]))
    tensor([[ True,  True, False],
            [ True, False, False]])
    """
    return (tokens != 0) | (torch.arange(tokens.shape[1], device=tokens.device) == 0)


def mean_of_real(x: Tensor, real: Tensor) -> Tensor:
    """(B, L, F) and which of the L are real, (B, L) bool -> their mean (B, F)."""
    shares = real.to(x.dtype)
    return torch.bmm((shares / shares.sum(1, keepdim=True))[:, None], x)[:, 0]


class TokenVectors(SizedByData):
    """A table with a learned vector for each token id, as many as the data has.

    They are drawn from a normal distribution, so that a vector's length is about 1: in Adam's first steps, which are of
    the size of the learning rate, they then keep their directions.

    Args:
        width: F, dimensions of a vector.
    """

    def __init__(self, width: int):
        super().__init__()
        if width < 1:
            raise ValueError(f"encoder.width must be at least 1, got {width}")
        self.seed = int(torch.randint(2**62, ()))  # reading the data may draw too, as often as it likes
        self.weight = nn.Parameter(torch.empty(0, width))

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, TextInfo)
        self.weight = nn.Parameter(random_vectors(info.vocabulary, self.weight, self.seed))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, F)."""
        return F.embedding(tokens, self.weight)


class NGramVectors(SizedByData):
    """What the character n-grams of a token tell of it: the mean of their vectors (Bojanowski et al. 2017, fastText,
    arXiv:1607.04606, eq. 2, there a sum), so that rare words share what their parts have learned.

    `<` and `>` mark where a token begins and ends; a piece (`##s`) has no beginning. Of longer tokens, such as web
    addresses, the first 33 letters count. n-grams share vectors at random, by CRC-32, if there are more of them than
    vectors.

    Args:
        width: F, dimensions of a vector.
        lengths: n of the shortest and of the longest n-grams.
        buckets: number of vectors.
    """

    units: Tensor

    def __init__(self, width: int, lengths: Sequence[int], buckets: int):
        super().__init__()
        low, high = _lengths(lengths)
        if buckets < 1:
            raise ValueError(f"encoder.buckets must be at least 1, got {buckets}")
        self.low, self.high = low, high
        self.weight = nn.Parameter(torch.randn(buckets + 1, width) * width**-0.5)  # the first one is of none
        self.register_buffer("units", torch.empty(0, 0, dtype=torch.int32))  # of each token, padded with 0

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, TextInfo)
        rows: list[list[int]] = [[] for _ in range(info.vocabulary)]
        for token, place in Library.from_str(info.tokenizer).get_vocab().items():
            marked = (f"{token[2:]}>" if token.startswith("##") else f"<{token}>")[:LETTERS]
            grams = {marked[i : i + n] for n in range(self.low, self.high + 1) for i in range(len(marked) - n + 1)}
            rows[place + 1] = [zlib.crc32(gram.encode()) % (len(self.weight) - 1) + 1 for gram in sorted(grams)]
        units = torch.zeros(info.vocabulary, max(1, *map(len, rows)), dtype=torch.int32, device=self.units.device)
        for token_units, row in zip(units, rows, strict=True):
            token_units[: len(row)] = torch.tensor(row, dtype=torch.int32)
        self.units = units

    def forward(self, tokens: Tensor, weights: Tensor) -> Tensor:
        """Tokens (B, L) and their weights (B, L) -> the weighted sum of what is told of each (B, F)."""
        units = F.embedding(tokens, self.units)  # (B, L, K)
        real = units != 0
        shares = weights[..., None] * real / real.sum(2, keepdim=True).clamp(min=1)
        return F.embedding_bag(
            units.flatten(1), self.weight, mode="sum", per_sample_weights=shares.flatten(1), padding_idx=0
        )


class BagOfTokens(SizedByData):
    """The mean of a text's token vectors: as fast as a text encoder can be.

        h = sum over tokens of w_t v_t / sum over tokens of w_t

    Means of word vectors are hard to beat on short texts (Wieting et al. 2016, arXiv:1511.08198), the more so with
    weights that fall with a word's frequency (Arora, Liang, Ma 2017, ICLR). A text without tokens is 0.

    Args:
        width: F, dimensions of a vector.
        token_weights: w; `none`: all 1; `idf`: log((1 + N) / (1 + n_t)) + 1, where n_t of the N training texts have the
            token, as scikit-learn's TF-IDF; `learned`: one parameter a token, which begins as idf.
        position_decay: w is also divided by this power of the token's place, counted from 1; 0: order does not matter.
            For texts that say what they are about first: a definition begins with its genus, news with the news.
        ngrams: n of the shortest and of the longest character n-grams, whose vectors are added to v, see NGramVectors;
            None: without.
        buckets: number of their vectors.

    Raises:
        ValueError: unknown weights; a width or a number of buckets below 1; a decay below 0; no lengths of n-grams.

    Example:
        >>> from repel.data.samples import give_info
        >>> encoder = BagOfTokens(width=4, token_weights="none")
        >>> give_info(encoder, TextInfo(train_size=100, vocabulary=50))
        >>> encoder(torch.tensor([[3, 9, 4], [7, 0, 0]])).shape
        torch.Size([2, 4])
    """

    log_weights: Tensor

    def __init__(
        self,
        width: int = 128,
        token_weights: str = "learned",
        position_decay: float = 0.0,
        ngrams: Sequence[int] | None = None,
        buckets: int = 2**15,
    ):
        super().__init__()
        if token_weights not in WEIGHTS:
            raise ValueError(f"encoder.token_weights must be one of {', '.join(WEIGHTS)}, got {token_weights!r}")
        if position_decay < 0:
            raise ValueError(f"encoder.position_decay must be at least 0, got {position_decay}")
        self.out_features, self.token_weights, self.position_decay = width, token_weights, position_decay
        self.vectors = TokenVectors(width)
        self.ngrams = None if ngrams is None else NGramVectors(width, ngrams, buckets)
        if token_weights == "learned":
            self.log_weights = nn.Parameter(torch.empty(0))
        elif token_weights == "idf":
            self.register_buffer("log_weights", torch.empty(0))

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, TextInfo)
        if self.token_weights != "none":
            assert info.counts is not None, "text data counts its tokens"
            idf = ((1 + info.train_size) / (1 + info.counts.double())).log() + 1
            logs = idf.log().to(self.log_weights)
            self.log_weights = nn.Parameter(logs) if self.token_weights == "learned" else logs

    def forward(self, tokens: Tensor) -> Tensor:
        weights = self.shares(tokens)
        if torch.compiler.is_exporting():  # ONNX would loop over texts, and takes no int32
            return torch.bmm(weights[:, None], F.embedding(tokens, self.table()))[:, 0]
        # one fused operation: in backward up to five times as fast as a gather and a product
        h = F.embedding_bag(tokens, self.vectors.weight, mode="sum", per_sample_weights=weights)
        return h if self.ngrams is None else h + self.ngrams(tokens, weights)

    def shares(self, tokens: Tensor) -> Tensor:
        """(B, L), each token's share of its text's mean; 0 for padding."""
        if self.token_weights == "none":
            weights = (tokens != 0).to(self.vectors.weight.dtype)
        else:
            weights = F.embedding(tokens, self.log_weights[:, None])[..., 0].exp() * (tokens != 0)
        if self.position_decay:
            places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=weights.dtype)
            weights = weights * places**-self.position_decay
        total = weights.sum(1, keepdim=True)
        return weights / total.masked_fill(total == 0, 1)

    def table(self) -> Tensor:
        """(vocabulary, F), v of every token, with what its n-grams tell of it."""
        own = self.vectors.weight
        if self.ngrams is None:
            return own
        every = torch.arange(len(own), device=own.device)[:, None]
        return own + self.ngrams(every, torch.ones_like(every, dtype=own.dtype))


def _lengths(lengths: Sequence[int]) -> tuple[int, int]:
    if not (len(lengths) == 2 and 1 <= lengths[0] <= lengths[1]):
        raise ValueError(f"encoder.ngrams must be two lengths such as [3,5], or null, got {list(lengths)}")
    return lengths[0], lengths[1]
