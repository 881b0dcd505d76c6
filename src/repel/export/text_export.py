"""export.py for texts: files that need nothing of this package, each compared with the original first."""

import json
import os
import runpy
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import save
from torch import Tensor, nn

from repel.base.installation import install_extra
from repel.engine.build import build_data
from repel.engine.configs import load_config
from repel.engine.data_identity import with_data
from repel.engine.pretrained import PretrainedEncoder
from repel.evaluation.features import subset
from repel.export import text_templates as templates
from repel.export.comparison import check_difference, describe_error
from repel.export.onnx_file import write_onnx
from repel.export.sentence_folder import NEEDS, folded_bag, write_sentence_folder
from repel.export.source import Recipe, recipe
from repel.text.encoders import BagOfTokens
from repel.text.hf import HuggingFaceEncoder
from repel.text.texts import RawTexts
from repel.text.tokenizer import FILE, Tokenizer
from repel.text.transformer import TransformerEncoder

__all__ = ["export_texts"]

COMPARED = 32  # texts on which files are compared with the original

_Reopened = Callable[[list[str]], Tensor]  # a written file, read again: texts -> features (B, F)


def export_texts(cfg: DictConfig, folder: Path, trained: PretrainedEncoder) -> None:
    """Write tokenizer.json, README.md and, as format= says, encoder.safetensors with load_encoder.py, encoder.onnx, and
    the folder sentence_transformers/.

    Raises:
        ValueError: the user's mistake.
        RuntimeError: a file gives other features than the original; then no file is written.
    """
    if cfg.normalize:
        raise ValueError("normalize=true is for images; leave it out")
    if cfg.top_k is not None:
        raise ValueError("top_k is for users and items, and the run learned texts; leave it out")
    if "sentence_transformers" in cfg.format and find_spec("sentence_transformers") is None:
        raise ValueError(f"format=[sentence_transformers] needs {NEEDS}: {install_extra('sentence-transformers')}")
    data = build_data(load_config(with_data(cfg, trained.config)), trained.learned)
    tokenizer: Any = data.transform
    texts = _random_texts(tokenizer) if cfg.compare_on == "random" else _validation_texts(data)
    with torch.no_grad():
        expected = trained.encoder(tokenizer(RawTexts.of(texts)).x)
    with TemporaryDirectory(prefix=".", dir=folder) as temporary:
        part, errors, uses = Path(temporary), {}, []
        (part / FILE).write_text(plain_tokenizer(tokenizer), encoding="utf-8")
        for name in dict.fromkeys(cfg.format):
            file, reopened, use, unit = _write(name, part, trained, tokenizer)
            of = nn.functional.normalize if unit else nn.Identity()
            errors[file] = check_difference(file, reopened(texts), of(expected))
            uses.append(use)
            print(f"{file}: {describe_error(errors[file])}, on {len(texts)} texts")
        values = {
            "architecture": trained.config["encoder"].get("name", type(trained.encoder).__name__),
            "checkpoint": trained.path, "epoch": trained.epoch, "max_tokens": tokenizer.max_tokens,
            "features": trained.encoder.out_features, "uses": "\n".join(uses),
            "texts": f"{len(texts)} " + ("texts of random words" if cfg.compare_on == "random" else "validation texts"),
            "errors": "\n".join(f"- `{file}` {describe_error(error)}" for file, error in errors.items()),
        }  # fmt: skip
        (part / "README.md").write_text(templates.README.substitute(values), encoding="utf-8")
        for path in sorted(part.iterdir()):
            if path.is_dir():  # no folder takes the place of one with files
                shutil.rmtree(folder / path.name, ignore_errors=True)
            os.replace(path, folder / path.name)


def _write(name: str, part: Path, trained: PretrainedEncoder, tokenizer: Tokenizer) -> tuple[str, _Reopened, str, bool]:
    """Write one format: its file, how to read it again, its part of README.md, whether its features have length 1."""
    if name == "onnx":
        return "encoder.onnx", _write_onnx(part, trained, tokenizer), templates.ONNX, False
    if name == "safetensors":
        return "encoder.safetensors", _write_safetensors(part, trained, tokenizer), templates.SAFETENSORS, False
    file = "sentence_transformers"
    folder = write_sentence_folder(part / file, trained.encoder, tokenizer, plain_tokenizer(tokenizer))
    options = ", trust_remote_code=True" if folder.has_code else ""
    use = templates.SENTENCE_TRANSFORMERS.substitute(note=folder.note, options=options)
    return file, folder.reopened, use, folder.unit


def plain_tokenizer(tokenizer: Tokenizer) -> str:
    """tokenizer.json of a tokenizer that cuts texts where the encoder was trained to, and adds nothing to them."""
    from tokenizers import Tokenizer as Library

    library = Library.from_str(tokenizer.json)
    library.no_padding()
    library.enable_truncation(tokenizer.max_tokens)
    return library.to_str(pretty=True)


def _random_texts(tokenizer: Tokenizer) -> list[str]:
    """Texts of random words, of one word to more than are taken."""
    library, draws = tokenizer.library, torch.Generator().manual_seed(0)
    names = [library.id_to_token(id) for id in range(library.get_vocab_size())]
    words = [name for name in names if name and name.isalnum()] or ["word"]
    lengths = torch.randint(1, tokenizer.max_tokens + 8, (COMPARED,), generator=draws).tolist()
    return [" ".join(words[i] for i in torch.randint(len(words), (n,), generator=draws).tolist()) for n in lengths]


def _validation_texts(data: Any) -> list[str]:
    data.setup()
    texts: list[str] = subset(data.splits.val, COMPARED).texts  # type: ignore[attr-defined]
    return texts


def _recipe(encoder: nn.Module, config: dict[str, Any]) -> tuple[Recipe, dict[str, Tensor]]:
    """How to build the network elsewhere, and its state.

    Raises:
        ValueError: there is no source that runs alone.
    """
    if isinstance(encoder, HuggingFaceEncoder):
        raise ValueError(
            "encoder=hf is a model of transformers: 'format=[sentence_transformers]' writes it so that transformers "
            "and sentence-transformers load it, 'format=[onnx]' as one file"
        )
    if type(encoder) is BagOfTokens:
        state = folded_bag(encoder)
        source = templates.BAG.substitute(_sizes(encoder), position_decay=float(encoder.position_decay))
    elif type(encoder) is TransformerEncoder:
        state = {name: tensor.detach().contiguous() for name, tensor in encoder.state_dict().items()}
        first: Any = encoder.layers[0]
        own = {"heads": first.heads, "hidden": first.mlp[0].out_features, "layers": len(encoder.layers)}
        source = templates.TRANSFORMER.substitute(_sizes(encoder), **own, positions=len(encoder.positions))
    else:
        return (own_recipe := recipe(encoder, config)), dict(own_recipe.network.state_dict())
    return Recipe(None, type(encoder).__name__, encoder, source), state


def _sizes(encoder: Any) -> dict[str, int]:
    return {"vocabulary": len(encoder.vectors.weight), "features": encoder.out_features}


def _write_safetensors(folder: Path, trained: PretrainedEncoder, tokenizer: Tokenizer) -> _Reopened:
    """encoder.safetensors and load_encoder.py, which reads it again."""
    how, state = _recipe(trained.encoder, trained.config["encoder"])
    facts = {"architecture": how.architecture, "features": trained.encoder.out_features,
             "max_tokens": tokenizer.max_tokens, "encoder": trained.config["encoder"]} | trained.source  # fmt: skip
    header = {"format": "pt"} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    # not save_file, whose file only its owner can read
    (folder / "encoder.safetensors").write_bytes(save(state, header))
    values = {"architecture": how.architecture, "features": trained.encoder.out_features, "source": how.source,
              "max_tokens": tokenizer.max_tokens}  # fmt: skip
    (folder / "load_encoder.py").write_text(templates.LOADER.substitute(values), encoding="utf-8")
    module = runpy.run_path(str(folder / "load_encoder.py"))
    encoder = module["load_encoder"]()

    @torch.no_grad()
    def reopened(texts: list[str]) -> Tensor:
        return encoder(module["to_tokens"](texts))

    return reopened


class _IdsAndMask(nn.Module):
    """The tokenizer's ids and a mask (B, L) -> features (B, F)."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder((input_ids + 1) * attention_mask)


def _write_onnx(folder: Path, trained: PretrainedEncoder, tokenizer: Tokenizer) -> _Reopened:
    """An ONNX file for batches of any size and length, read again by onnxruntime."""
    network: nn.Module = trained.encoder
    if type(network) in (BagOfTokens, TransformerEncoder):  # whose fast operations have no counterpart
        how, state = _recipe(network, trained.config["encoder"])
        space: dict[str, Any] = {"torch": torch}
        exec(how.source, space)
        network = space["build"]()
        network.load_state_dict(state)
    examples = tuple(torch.ones(2, max(2, tokenizer.max_tokens // 2), dtype=torch.int64) for _ in range(2))
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=max(3, tokenizer.max_tokens))}
    path, names = folder / "encoder.onnx", ["input_ids", "attention_mask"]
    session = write_onnx(path, _IdsAndMask(network).eval(), examples, names, ["features"], (sizes, sizes))

    def reopened(texts: list[str]) -> Tensor:
        found = []
        for some in (texts[:1], texts[1:]):  # batches of two sizes and lengths
            tokens = tokenizer(RawTexts.of(some)).x.long()
            tokens = tokens[:, : max(1, int((tokens != 0).sum(1).max()))]
            real = (tokens != 0).long()
            inputs = {"input_ids": ((tokens - 1) * real).numpy(), "attention_mask": real.numpy()}
            found.append(torch.from_numpy(session.run(None, inputs)[0]))
        return torch.cat(found)

    return reopened
