"""export.py for users and items: files that need nothing of this package, each compared with the original first."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from safetensors.torch import load_file, save
from torch import Tensor, nn

from repel.engine.build import build_data
from repel.engine.configs import load_config
from repel.engine.data_identity import with_data
from repel.engine.pretrained import PretrainedEncoder
from repel.evaluation.features import encode, evenly_spaced
from repel.export import pair_templates as templates
from repel.export.comparison import check_difference, describe_error
from repel.export.embed import label_words
from repel.export.onnx_file import write_onnx
from repel.interactions.pairs import EntityStore, Interactions

__all__ = ["export_pairs"]

COMPARED = 32  # users whose scores are compared with the original
VECTORS, NAMES, SCORER = "vectors.safetensors", "names.json", "scorer.onnx"


class _Vectors(NamedTuple):
    """Unit vectors, (users, F) and (items, F)."""

    users: Tensor
    items: Tensor

    def scores(self, users: Tensor) -> Tensor:
        """Users' numbers (n,) -> cosines (n, items)."""
        return self.users[users] @ self.items.T


def export_pairs(cfg: DictConfig, folder: Path, trained: PretrainedEncoder) -> None:
    """Write names.json, README.md and, as format= says, vectors.safetensors and scorer.onnx.

    Raises:
        ValueError: the user's mistake.
        RuntimeError: a file gives other scores than the original; then no file is written.
    """
    if cfg.normalize:
        raise ValueError("normalize=true is for images; leave it out")
    if "sentence_transformers" in cfg.format:
        raise ValueError(
            "format=[sentence_transformers] is for texts, and the run learned users and items; leave it out"
        )
    data = build_data(load_config(with_data(cfg, trained.config)), trained.learned)
    splits = data.read()
    train: Any = splits.train
    assert isinstance(train, Interactions)
    store, cpu = train.store, torch.device("cpu")
    if cfg.top_k is not None and not 1 <= cfg.top_k <= store.items:
        raise ValueError(f"top_k must be from 1 to the number of items, {store.items}, got {cfg.top_k}")
    sides = (store.all_users(), store.all_items())
    vectors = _Vectors(*(F.normalize(encode(trained.encoder, of, data.normalize, cpu)[0], dim=1) for of in sides))
    users = _compared_users(cfg.compare_on, store, splits.val)
    with TemporaryDirectory(prefix=".", dir=folder) as temporary:
        part, errors = Path(temporary), {}
        (part / NAMES).write_text(json.dumps(_names(store), ensure_ascii=False, indent=1), encoding="utf-8")
        for name in dict.fromkeys(cfg.format):
            file = SCORER if name == "onnx" else VECTORS
            if name == "onnx":
                errors[file] = _write_scorer(part / file, vectors, cfg.top_k, users)
            else:
                errors[file] = _write_vectors(part / file, vectors, trained, users)
            print(f"{file}: {describe_error(errors[file], 'score')}, on {len(users)} users")
        (part / "README.md").write_text(_readme(cfg, trained, vectors, errors, len(users)), encoding="utf-8")
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)


def _compared_users(compare_on: str, store: EntityStore, val: Any) -> Tensor:
    """Numbers of some users: random, or of those with a validation pair."""
    if compare_on == "random":
        return torch.randint(store.users, (COMPARED,), generator=torch.Generator().manual_seed(0))
    known = val.x[:, 0].long().unique()
    return known[evenly_spaced(len(known), COMPARED)]


def _names(store: EntityStore) -> dict[str, list[str]]:
    """Names in the order of the vectors, and the items' labels where there are some."""
    named = {
        "users": [store.user_name(user) for user in range(store.users)],
        "items": [store.item_name(item) for item in range(store.items)],
    }
    words = label_words(store.all_items(), store.classes)
    return named if words is None else named | {"labels": words}


def _write_vectors(path: Path, vectors: _Vectors, trained: PretrainedEncoder, users: Tensor) -> float:
    facts = {"features": vectors.items.shape[1], "encoder": trained.config["encoder"]} | trained.source
    header = {"format": "pt"} | {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    # not save_file, whose file only its owner can read
    path.write_bytes(save({"users": vectors.users.contiguous(), "items": vectors.items.contiguous()}, header))
    found = load_file(path)
    return check_difference(path.name, found["users"][users] @ found["items"].T, vectors.scores(users), "score")


class _Scorer(nn.Module):
    """Users' numbers (B,) -> scores (B, items), or the best k and these items' numbers, (B, k) each."""

    users: Tensor
    items: Tensor

    def __init__(self, vectors: _Vectors, k: int | None):
        super().__init__()
        self.k = k
        self.register_buffer("users", vectors.users)
        self.register_buffer("items", vectors.items)

    def forward(self, users: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        scores = self.users[users] @ self.items.T
        if self.k is None:
            return scores
        values, items = scores.topk(self.k, dim=1)
        return values, items


def _write_scorer(path: Path, vectors: _Vectors, k: int | None, users: Tensor) -> float:
    """An ONNX file for batches of any size, read again by onnxruntime."""
    outputs = ["scores"] if k is None else ["scores", "items"]
    shapes = ({0: torch.export.Dim("batch")},)
    example = torch.arange(2) % len(vectors.users)
    session = write_onnx(path, _Scorer(vectors, k).eval(), (example,), ["users"], outputs, shapes)
    batches = [session.run(None, {"users": some.numpy()}) for some in (users[:1], users[1:]) if len(some)]  # two sizes
    scores, *items = (torch.cat([torch.from_numpy(part) for part in parts]) for parts in zip(*batches, strict=True))
    expected = vectors.scores(users)
    if k is None:
        return check_difference(path.name, scores, expected, "score")
    best = check_difference(path.name, scores, expected.topk(k, dim=1).values, "score")
    return max(best, check_difference(path.name, scores, expected.gather(1, items[0]), "score"))


def _readme(
    cfg: DictConfig, trained: PretrainedEncoder, vectors: _Vectors, errors: dict[str, float], compared: int
) -> str:
    values = {
        "encoder": trained.config["encoder"]["_target_"].rsplit(".", 1)[-1], "checkpoint": trained.path,
        "epoch": trained.epoch, "features": vectors.items.shape[1], "users": len(vectors.users),
        "items": len(vectors.items), "k": cfg.top_k,
    }  # fmt: skip
    scorer = templates.SCORER if cfg.top_k is None else templates.TOP_SCORER
    uses = {VECTORS: templates.VECTORS, SCORER: scorer}
    return templates.README.substitute(
        values,
        uses="\n".join(uses[file].substitute(values) for file in errors),
        compared=f"{compared} {'random users' if cfg.compare_on == 'random' else 'users of the validation split'}",
        errors="\n".join(f"- `{file}` {describe_error(error, 'score')}" for file, error in errors.items()),
    )
