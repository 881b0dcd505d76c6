"""A small transformer for texts: token ids (B, L) -> features h (B, F)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base.dropout import CountedDropout, Packed
from repel.data.samples import DataInfo
from repel.text.encoders import TokenVectors, mean_of_real, real_tokens
from repel.text.texts import TextInfo

__all__ = ["TransformerEncoder"]


class TransformerEncoder(nn.Module):
    """A transformer (Vaswani et al. 2017, arXiv:1706.03762) with normalization first (Xiong et al. 2020,
    arXiv:2002.04745), learned positions and the mean of a text's tokens as its features.

    Padding is neither attended to nor in the mean, so h does not depend on how much of it there is. Dropout, of the
    embeddings and of what attention and MLP add, depends on the sample and its place in the global batch, not on the
    device that has it, see base/dropout.py; there is none of attention probabilities. A text without tokens gets the
    features of one token of padding.

    Args:
        width: F, dimensions of a token; a multiple of heads.
        layers: number of layers.
        heads: number of attention heads.
        max_tokens: tokens that a text may have.
        dropout: share of elements that are dropped in training, in [0, 1).
        mlp_ratio: dimensions between the two layers of an MLP, as a multiple of width.

    Raises:
        ValueError: sizes that do not fit one another; a text is longer than max_tokens.

    Example:
        >>> from repel.data.samples import give_info
        >>> from repel.text.texts import TextInfo
        >>> encoder = TransformerEncoder(width=8, layers=1, heads=2)
        >>> give_info(encoder, TextInfo(train_size=100, vocabulary=50))
        >>> encoder(torch.tensor([[3, 9, 4], [7, 0, 0]])).shape
        torch.Size([2, 8])
    """

    packs = True  # on a CPU it computes no padding, unless it is compiled

    def __init__(
        self,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        max_tokens: int = 32,
        dropout: float = 0.1,
        mlp_ratio: float = 4.0,
    ):
        super().__init__()
        if heads < 1 or width < 1 or width % heads:
            raise ValueError(f"encoder.width={width} must be a multiple of encoder.heads={heads}")
        if layers < 1 or max_tokens < 1:
            raise ValueError(f"encoder needs layers and max_tokens of at least 1, got {layers} and {max_tokens}")
        self.out_features = width
        self.vectors = TokenVectors(width)
        self.positions = nn.Parameter(torch.randn(max_tokens, width) * 0.02)
        self.dropout = CountedDropout(dropout)
        self.layers = nn.ModuleList(_Layer(width, heads, int(mlp_ratio * width), dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def no_weight_decay(self) -> set[str]:
        return {"positions"}

    def on_data(self, info: DataInfo) -> None:
        assert isinstance(info, TextInfo)
        if info.max_tokens > len(self.positions):
            raise ValueError(f"encoder.max_tokens={len(self.positions)} is less than data.max_tokens={info.max_tokens}")

    def forward(self, tokens: Tensor) -> Tensor:
        length, longest = tokens.shape[1], len(self.positions)
        if length > longest:
            raise ValueError(f"a text has {length} tokens, and encoder.max_tokens={longest}; cut it by data.max_tokens")
        real, packed = real_tokens(tokens), None
        x = self.vectors(tokens) + self.positions[:length]
        if tokens.device.type == "cpu" and not torch.compiler.is_compiling():
            # elsewhere the number of tokens is not known without waiting for the device
            packed = Packed(real.flatten().nonzero()[:, 0], *real.shape)
            x = packed.pack(x)
        x = self.dropout(x, packed)
        for layer in self.layers:
            x = layer(x, real[:, None, None], packed)
        x = self.norm(x)
        return mean_of_real(x if packed is None else packed.unpack(x), real)


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        # no bias: the softmax cancels that of keys, and Adam makes steps of any size out of its rounding errors
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.attention_dropout, self.mlp_dropout = CountedDropout(dropout), CountedDropout(dropout)

    def forward(self, x: Tensor, attended: Tensor, packed: Packed | None) -> Tensor:
        """Of tokens (B, L, F), or of the real ones alone, packed, with those attended to, (B, 1, 1, L) bool."""
        qkv = self.qkv(self.attention_norm(x))
        qkv = qkv if packed is None else packed.unpack(qkv)
        q, k, v = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        read = F.scaled_dot_product_attention(q, k, v, attended).transpose(1, 2).flatten(2)
        x = x + self.attention_dropout(self.out(read if packed is None else packed.pack(read)), packed)
        return x + self.mlp_dropout(self.mlp(self.mlp_norm(x)), packed)
