"""mine_negatives.py: a table of texts, their positives and hard negatives that a trained encoder finds."""

import csv
from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor

from repel.engine import runs
from repel.engine.build import build_data
from repel.engine.configs import load_config
from repel.engine.data_identity import with_data
from repel.engine.modalities import modality_of
from repel.engine.pretrained import load_pretrained, select_device
from repel.evaluation.features import encode
from repel.export.embed import FeatureLayers, label_words
from repel.text.mining import Window, mine
from repel.text.texts import Texts

__all__ = ["mine_negatives"]

FILE = "negatives.csv"


def mine_negatives(cfg: DictConfig, folder: Path, overrides: Collection[str] = ()) -> None:
    """Write negatives.csv: text, label where known, positive where the data has them, negative or negative_1, ...

    Raises:
        ValueError: the user's mistake.
    """
    window, device = _window(cfg), select_device(cfg.accelerator)
    trained = load_pretrained(cfg.ckpt, cfg.checkpoint)
    config = with_data(cfg, trained.config, overrides)
    if modality_of(config["data"]["datamodule"]["read"]) not in ("text", None):
        raise ValueError(f"ckpt={cfg.ckpt}: hard negatives are mined for texts, and this run learned something else")
    loaded = load_config(config)
    splits = build_data(loaded, trained.learned).read()
    texts = splits.train
    assert isinstance(texts, Texts)
    layers = FeatureLayers(trained, cfg.layer).eval().to(device)

    def features(strings: Sequence[str]) -> Tensor:
        return encode(layers, texts.like(strings), lambda tokens: tokens, device)[0].cpu()

    anchors, store = texts.texts, texts.store
    positives = None if store.positives is None else [store.positives[place] for place in texts.places.tolist()]  # type: ignore[union-attr]
    if positives is None and (window.margin or window.relative_margin):
        raise ValueError("margin is to the positive, and this data has none; name its column, data.positive=COLUMN")
    queries = features(anchors)
    candidates = list(dict.fromkeys(anchors if positives is None else positives))
    place = {text: number for number, text in enumerate(candidates)}
    corpus = features(candidates)
    positive = None if positives is None else F.cosine_similarity(queries, corpus[[place[p] for p in positives]])
    found = mine(
        queries, corpus, _own(anchors, positives, candidates), positive, window, cfg.k,
        torch.Generator().manual_seed(cfg.seed) if cfg.choose == "random" else None,
        _classes(cfg, texts, anchors, positives, candidates),
    )  # fmt: skip
    whole = (found.places >= 0).all(1)
    columns = {"text": anchors, "label": label_words(texts, splits.classes), "positive": positives}
    known = {name: column for name, column in columns.items() if column is not None}
    _write(folder / FILE, known, [[candidates[p] for p in row] for row in found.places.tolist()], whole.tolist())
    written, mean = int(whole.sum()), float(found.cosines[whole].mean())
    runs.write_json(folder / "mining.json", trained.source | {"texts": len(anchors), "written": written})
    names = _names(cfg.k)
    typed = [f"data.{name}={name}" for name in known] + [
        "data.negative=negative" if cfg.k == 1 else f"'data.negative=[{','.join(names)}]'"
    ]
    each = "a negative" if cfg.k == 1 else f"{cfg.k} negatives"
    print(f"mined    {written:,} of {len(anchors):,} texts have {each}, mean cosine {mean:.3f}")
    print("use      data=text_csv", f"data.root={folder / FILE}", *typed)


def _names(k: int) -> list[str]:
    return ["negative"] if k == 1 else [f"negative_{number}" for number in range(1, k + 1)]


def _write(file: Path, known: dict[str, list[str]], negatives: list[list[str]], whole: list[bool]) -> None:
    """A row for each text that has all its negatives."""
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened)
        table.writerow([*known, *_names(len(negatives[0]))])
        rows = zip(*known.values(), negatives, whole, strict=True)
        table.writerows([*cells, *found] for *cells, found, good in rows if good)


def _window(cfg: DictConfig) -> Window:
    ranks, scores = tuple(cfg.ranks), tuple(cfg.scores)
    if len(ranks) != 2 or not 1 <= ranks[0] <= ranks[1]:
        raise ValueError(f"ranks must be the first and the last, 1 or more, such as [10,100], got {list(ranks)}")
    if len(scores) != 2 or not -1 <= scores[0] < scores[1] <= 1:
        raise ValueError(f"scores must be two cosines, the lower first, such as [0.0,0.9], got {list(scores)}")
    if ranks[1] - ranks[0] + 1 < cfg.k:
        raise ValueError(f"k={cfg.k} negatives do not fit into ranks={list(ranks)}; widen it")
    return Window(ranks, scores, cfg.margin, cfg.relative_margin)


def _own(anchors: Sequence[str], positives: Sequence[str] | None, candidates: Sequence[str]) -> list[list[int]]:
    """For each text the candidates that are itself, or a positive of an equal text."""
    place = {text: number for number, text in enumerate(candidates)}
    own: dict[str, set[int]] = defaultdict(set)
    for row, text in enumerate(anchors):
        own[text] |= {place[text]} if text in place else set()
        own[text] |= {place[positives[row]]} if positives is not None else set()
    return [sorted(own[text]) for text in anchors]


def _classes(
    cfg: DictConfig, texts: Texts, anchors: Sequence[str], positives: Sequence[str] | None, candidates: Sequence[str]
) -> tuple[Tensor, Tensor] | None:
    """Classes of texts and candidates, where those of one class are no negatives."""
    if not cfg.classes:
        return None
    if texts.labels is None:
        raise ValueError("classes=true needs labels, and this data has none; leave it out")
    of = dict(zip(anchors if positives is None else positives, texts.labels.tolist(), strict=True))
    return texts.labels, torch.tensor([of[text] for text in candidates])
