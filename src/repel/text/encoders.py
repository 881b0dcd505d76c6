"""Encoders: texts (B, L) of token ids, 0 where a text is shorter -> features h (B, F). Each has `out_features`, F."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.sized import SizedByData
from repel.data.samples import DataInfo
from repel.text.texts import TextInfo

__all__ = ["BagOfTokens", "TokenVectors", "mean_of_real", "real_tokens"]

WEIGHTS = ("none", "idf", "learned")


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
        draws = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(info.vocabulary, self.weight.shape[1], generator=draws) * self.weight.shape[1] ** -0.5
        self.weight = nn.Parameter(drawn.to(self.weight))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, F)."""
        return F.embedding(tokens, self.weight)


class BagOfTokens(SizedByData):
    """The mean of a text's token vectors, without regard to their order: as fast as a text encoder can be.

        h = sum over tokens of w_t v_t / sum over tokens of w_t

    Means of word vectors are hard to beat on short texts (Wieting et al. 2016, arXiv:1511.08198), the more so with
    weights that fall with a word's frequency (Arora, Liang, Ma 2017, ICLR). A text without tokens is 0.

    Args:
        width: F, dimensions of a vector.
        token_weights: w; `none`: all 1; `idf`: log((1 + N) / (1 + n_t)) + 1, where n_t of the N training texts have the
            token, as scikit-learn's TF-IDF; `learned`: one parameter a token, which begins as idf.

    Raises:
        ValueError: unknown weights; a width below 1.

    Example:
        >>> from repel.data.samples import give_info
        >>> encoder = BagOfTokens(width=4, token_weights="none")
        >>> give_info(encoder, TextInfo(train_size=100, vocabulary=50))
        >>> encoder(torch.tensor([[3, 9, 4], [7, 0, 0]])).shape
        torch.Size([2, 4])
    """

    log_weights: Tensor

    def __init__(self, width: int = 128, token_weights: str = "learned"):
        super().__init__()
        if token_weights not in WEIGHTS:
            raise ValueError(f"encoder.token_weights must be one of {', '.join(WEIGHTS)}, got {token_weights!r}")
        self.out_features, self.token_weights = width, token_weights
        self.vectors = TokenVectors(width)
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
            return torch.bmm(weights[:, None], self.vectors(tokens))[:, 0]
        # one fused operation: in backward up to five times as fast as a gather and a product
        return F.embedding_bag(tokens, self.vectors.weight, mode="sum", per_sample_weights=weights)

    def shares(self, tokens: Tensor) -> Tensor:
        """(B, L), each token's share of its text's mean; 0 for padding."""
        if self.token_weights == "none":
            weights = (tokens != 0).to(self.vectors.weight.dtype)
        else:
            weights = F.embedding(tokens, self.log_weights[:, None])[..., 0].exp() * (tokens != 0)
        total = weights.sum(1, keepdim=True)
        return weights / total.masked_fill(total == 0, 1)
