"""Files that go with an exported text encoder: load_encoder.py, which needs nothing of this package, and README.md."""

from string import Template

LOADER = Template('''"""The text encoder of encoder.safetensors, $architecture, without the project that trained it.

Needs: torch safetensors tokenizers.

    from load_encoder import load_encoder, to_tokens
    encoder = load_encoder()  # in eval mode
    features = encoder(to_tokens(["a small bird"]))  # (1, $features)

Or: python load_encoder.py "a small bird" ...   prints the features of each text in a line.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

HERE = Path(__file__).parent


def load_encoder(path=HERE / "encoder.safetensors"):
    """The trained encoder in eval mode: tokens (B, L) int64, 0 where a text is shorter -> features (B, $features)."""
    encoder = build()
    encoder.load_state_dict(load_file(path))
    return encoder.eval()


def to_tokens(texts, path=HERE / "tokenizer.json"):
    """Texts -> tokens (B, L): the tokenizer's ids plus 1, of the first $max_tokens, and 0 where a text is shorter."""
    encodings = Tokenizer.from_file(str(path)).encode_batch(list(texts), add_special_tokens=False)
    tokens = torch.zeros(len(encodings), max([1, *(len(one.ids) for one in encodings)]), dtype=torch.int64)
    for row, one in zip(tokens, encodings):
        row[: len(one.ids)] = torch.tensor(one.ids, dtype=torch.int64) + 1
    return tokens


# the architecture

$source


if __name__ == "__main__":
    encoder = load_encoder()
    for text in sys.argv[1:]:
        with torch.no_grad():
            print(text, *encoder(to_tokens([text]))[0].tolist())
''')

BAG = Template('''from torch import nn


class BagOfTokens(nn.Module):
    """The weighted mean of a text's token vectors; a token at place i, from 1, counts i**-position_decay."""

    position_decay = $position_decay

    def __init__(self):
        super().__init__()
        self.vectors = nn.Embedding($vocabulary, $features)  # what character n-grams tell of a token is in its vector
        self.log_weights = nn.Parameter(torch.zeros($vocabulary))

    def forward(self, tokens):
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        weights = self.log_weights[tokens].exp() * (tokens != 0) * places**-self.position_decay
        total = weights.sum(1, keepdim=True)
        shares = weights / total.masked_fill(total == 0, 1)
        return torch.bmm(shares[:, None], self.vectors(tokens))[:, 0]


def build():
    return BagOfTokens()''')

TRANSFORMER = Template('''import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm($features), nn.LayerNorm($features)
        self.qkv, self.out = nn.Linear($features, 3 * $features, bias=False), nn.Linear($features, $features)
        self.mlp = nn.Sequential(nn.Linear($features, $hidden), nn.GELU(), nn.Linear($hidden, $features))

    def forward(self, x, attended):
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(2, (3, $heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, attended).transpose(1, 2).flatten(2))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A transformer with normalization first; the mean of a text's tokens."""

    def __init__(self):
        super().__init__()
        self.vectors = nn.Embedding($vocabulary, $features)
        self.positions = nn.Parameter(torch.zeros($positions, $features))
        self.layers = nn.ModuleList(Layer() for _ in range($layers))
        self.norm = nn.LayerNorm($features)

    def forward(self, tokens):
        length = tokens.shape[1]
        real = (tokens != 0) | (torch.arange(length, device=tokens.device) == 0)
        x = self.vectors(tokens) + self.positions[:length]
        for layer in self.layers:
            x = layer(x, real[:, None, None])
        shares = real / real.sum(1, keepdim=True)
        return torch.bmm(shares[:, None].to(x.dtype), self.norm(x))[:, 0]


def build():
    return Transformer()''')

README = Template("""# $architecture, trained on texts

From `$checkpoint`, after epoch $epoch.

| | |
|---|---|
| input | texts, cut into tokens by `tokenizer.json`; the first $max_tokens count |
| output | (B, $features) features; their cosine is the similarity of two texts |

$uses
Compared with the original encoder after writing, on $texts:

$errors
""")

SAFETENSORS = """## encoder.safetensors

The weights. After `pip install torch safetensors tokenizers`, with `load_encoder.py` and `tokenizer.json` in the same
folder:

```python
from load_encoder import load_encoder, to_tokens

encoder = load_encoder()
features = encoder(to_tokens(["a small bird", "a plane"]))
```
"""

ONNX = """## encoder.onnx

It takes the tokenizer's ids and a mask, (B, L) int64 each, of any B and of any L up to the longest text's:

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_padding()
encodings = tokenizer.encode_batch(["a small bird", "a plane"], add_special_tokens=False)
inputs = {
    "input_ids": np.array([one.ids for one in encodings], np.int64),
    "attention_mask": np.array([one.attention_mask for one in encodings], np.int64),
}
(features,) = onnxruntime.InferenceSession("encoder.onnx").run(None, inputs)  # float32
```
"""

SENTENCE_TRANSFORMERS = Template("""## sentence_transformers/

After `pip install sentence-transformers`:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("sentence_transformers"$options)
features = model.encode(["a small bird", "a plane"])
```

$note
""")
