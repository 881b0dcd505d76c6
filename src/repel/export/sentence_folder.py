"""A folder that sentence_transformers.SentenceTransformer loads: no code of this package."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor, nn

from repel.export.sentence_module import SENTENCE_MODULE
from repel.text.encoders import BagOfTokens
from repel.text.hf import HuggingFaceEncoder
from repel.text.tokenizer import Tokenizer
from repel.text.transformer import TransformerEncoder

__all__ = ["NEEDS", "SentenceFolder", "folded_bag", "write_sentence_folder"]

NEEDS = "sentence-transformers"
UNIT = (
    "A StaticEmbedding of each token's vector times its weight, then Normalize: a sum of weighted vectors points where "
    "their\nweighted mean points, so features have length 1 here and cosines are the original's."
)
PLACES = (
    "In the library's own modules early tokens count no more than late ones, so the folder has one that does,\n"
    "`bag_of_tokens.py`, which the library runs with `trust_remote_code=True` only. Its features are the original's."
)
MEGATRON = (
    "The weights as transformers' MegatronBERT, which is the same network: normalization first and learned positions;\n"
    "then the mean of the tokens. Its features are the original's, but those of texts without words; a batch of these\n"
    "alone is an error."
)
OWN = "The model that was trained, as transformers saves it, and its pooling."
POOLINGS = {"mean": "mean", "cls": "cls", "last": "lasttoken"}


class SentenceFolder(NamedTuple):
    """A folder that was written.

    reopened: texts -> features (B, F), by the library.
    note: what README.md says of it.
    unit: its features have length 1.
    has_code: a module of it is in the folder.
    """

    reopened: Callable[[list[str]], Tensor]
    note: str
    unit: bool
    has_code: bool


def write_sentence_folder(
    folder: Path, encoder: nn.Module, tokenizer: Tokenizer, tokenizer_json: str
) -> SentenceFolder:
    """Write the folder, and read it again.

    Args:
        tokenizer_json: of the tokenizer, with truncation and without padding.

    Raises:
        ValueError: an encoder that the library has no modules for.
    """
    from sentence_transformers import SentenceTransformer

    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    modules: list[nn.Module] = []
    if type(encoder) is BagOfTokens and encoder.position_decay:
        note = PLACES
        _write_own_module(folder, encoder, tokenizer_json)
    elif type(encoder) is BagOfTokens:
        modules, note = _static(encoder, tokenizer_json), UNIT
    elif type(encoder) is TransformerEncoder:
        modules, note = _megatron(encoder, tokenizer, tokenizer_json), MEGATRON
    elif isinstance(encoder, HuggingFaceEncoder):
        modules, note = _hugging_face(encoder, tokenizer), OWN
    else:
        raise ValueError(
            f"format=[sentence_transformers] writes the encoders bag, transformer and hf, not "
            f"{type(encoder).__name__}; choose format=[onnx]"
        )
    if modules:
        SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=not modules)

    def reopened(texts: list[str]) -> Tensor:
        found: Tensor = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return found.float().cpu()

    return SentenceFolder(reopened, note, unit=note is UNIT, has_code=not modules)


@torch.no_grad()
def folded_bag(encoder: BagOfTokens) -> dict[str, Tensor]:
    """Each token's vector, with what its n-grams tell of it, and the logarithm of its weight."""
    vectors = encoder.table().clone()
    logs = torch.zeros(len(vectors)) if encoder.token_weights == "none" else encoder.log_weights.clone()
    return {"vectors.weight": vectors, "log_weights": logs}


def _static(encoder: BagOfTokens, tokenizer_json: str) -> list[nn.Module]:
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer as Library

    vectors, logs = (tensor[1:] for tensor in folded_bag(encoder).values())
    weighted = vectors * logs.exp()[:, None]
    return [StaticEmbedding(Library.from_str(tokenizer_json), embedding_weights=weighted), Normalize()]


def _write_own_module(folder: Path, encoder: BagOfTokens, tokenizer_json: str) -> None:
    """bag_of_tokens.py, and what it reads: no module of the library knows places."""
    vectors, logs = (tensor[1:].contiguous() for tensor in folded_bag(encoder).values())
    state = {"vectors": vectors, "log_weights": logs, "position_decay": torch.tensor(float(encoder.position_decay))}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "bag_of_tokens.BagOfTokens"}]
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(save(state, {"format": "pt"}))
    for name, text in {
        "bag_of_tokens.py": SENTENCE_MODULE,
        "tokenizer.json": tokenizer_json,
        "modules.json": json.dumps(modules, indent=2),
        "config_sentence_transformers.json": json.dumps({"model_type": "SentenceTransformer"}),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")


def _megatron(encoder: TransformerEncoder, tokenizer: Tokenizer, tokenizer_json: str) -> list[nn.Module]:
    from tokenizers import Tokenizer as Library
    from transformers import MegatronBertConfig, MegatronBertModel, PreTrainedTokenizerFast

    described = json.loads(tokenizer_json) | {"truncation": None, "padding": None, "post_processor": None}
    library = Library.from_str(json.dumps(described))
    fast = PreTrainedTokenizerFast(tokenizer_object=library, pad_token="[PAD]", model_max_length=tokenizer.max_tokens)
    first: Any = encoder.layers[0]
    config = MegatronBertConfig(
        vocab_size=max(len(fast), tokenizer.size), hidden_size=encoder.out_features, layer_norm_eps=first.mlp_norm.eps,
        intermediate_size=first.mlp[0].out_features, num_hidden_layers=len(encoder.layers), hidden_act="gelu",
        num_attention_heads=first.heads, max_position_embeddings=len(encoder.positions), type_vocab_size=1,
        pad_token_id=fast.pad_token_id,
    )  # fmt: skip
    model = MegatronBertModel(config, add_pooling_layer=True)  # AutoModel makes the layer, which is not used
    model.load_state_dict(_megatron_state(encoder, model.state_dict(), fast.pad_token_id))
    return _from_transformers(model, fast, tokenizer.max_tokens, "mean")


@torch.no_grad()
def _megatron_state(encoder: TransformerEncoder, state: dict[str, Tensor], pad: int) -> dict[str, Tensor]:
    """The encoder's state by the names of MegatronBERT, and zeros for what it does not have."""
    found = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    vectors, table = encoder.vectors.weight, found["embeddings.word_embeddings.weight"]
    table[pad] = vectors[0]
    table[: len(vectors) - 1] = vectors[1:]
    found["embeddings.position_embeddings.weight"] = encoder.positions.clone()
    parts: dict[str, nn.Module] = {"encoder.ln": encoder.norm}
    for number, layer in enumerate(encoder.layers):
        own: Any = layer
        at = f"encoder.layer.{number}"
        parts |= {f"{at}.attention.ln": own.attention_norm, f"{at}.attention.output.dense": own.out,
                  f"{at}.ln": own.mlp_norm, f"{at}.intermediate.dense": own.mlp[0],
                  f"{at}.output.dense": own.mlp[2]}  # fmt: skip
        for kind, tensor in own.qkv.named_parameters():
            for name, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"{at}.attention.self.{name}.{kind}"] = piece.clone()
    found |= {f"{at}.{kind}": tensor.clone() for at, part in parts.items() for kind, tensor in part.named_parameters()}
    assert found.keys() == state.keys(), found.keys() ^ state.keys()
    return found


def _hugging_face(encoder: HuggingFaceEncoder, tokenizer: Tokenizer) -> list[nn.Module]:
    from transformers import PreTrainedTokenizerFast

    specials = len(encoder.prefix) + len(encoder.suffix)
    pad = tokenizer.library.id_to_token(encoder.padding)
    fast = PreTrainedTokenizerFast(tokenizer_file=encoder.tokenizer_file, pad_token=pad)
    return _from_transformers(_merged(encoder.net), fast, tokenizer.max_tokens + specials, POOLINGS[encoder.pooling])


def _merged(net: Any) -> Any:
    """The model with low-rank updates added to its weights, as any program loads it."""
    for name, part in list(net.named_modules()):
        if hasattr(part, "get_base_layer"):
            part.merge()
            parent, _, own = name.rpartition(".")
            setattr(net.get_submodule(parent), own, part.get_base_layer())
    return net


def _from_transformers(model: Any, fast: Any, longest: int, pooling: str) -> list[nn.Module]:
    """The modules of a model of transformers: they are read from a folder, so it is written first."""
    import transformers
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with TemporaryDirectory() as place:
        transformers.utils.logging.disable_progress_bar()
        model.save_pretrained(place)
        fast.save_pretrained(place)
        transformer = Transformer(place, max_seq_length=longest)
    return [transformer, Pooling(model.config.hidden_size, pooling)]
