"""The presets for texts, each of which trains; pairs and hard negatives come from a table."""

import csv

import numpy as np
import pytest
import torch
from conftest import config, options_of
from runs_here import status

from repel.engine.build import build_module
from repel.engine.notes import notes
from repel.text.datasets import wordnet_glosses
from repel.text.texts import text_ids

PRESETS = [name for name in options_of("experiment", "text") if name not in options_of("experiment", "images")]
OWN = {"simcse_sup": ["data.positive=positive", "data.negative=negative"], "mnrl": ["data.positive=positive"],
       "gist": ["data.positive=positive", "negatives.margin=0.1"]}  # fmt: skip
SMALL = ["data.vocabulary=200", "data.max_tokens=8", "data.batch_size=8", "trainer.max_epochs=1",
         "trainer.limit_train_batches=10", "trainer.log_every_n_steps=1", "callbacks.pairs=null",
         "callbacks.progress=null", "logger.tensorboard=null", "evaluators=[knn]"]  # fmt: skip


@pytest.fixture
def table(tmp_path):
    """200 definitions with their first half as the positive, and the next one as the negative."""
    texts, labels, *_, classes = wordnet_glosses()
    texts, labels = texts[::75], labels[::75]
    file = tmp_path / "pairs.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["text", "label", "positive", "negative"])
        for row, text in enumerate(texts):
            half = " ".join(text.split()[: max(1, len(text.split()) // 2)])
            rows.writerow([text, classes[labels[row]], half, texts[(row + 1) % len(texts)]])
    with file.open(newline="", encoding="utf-8") as read:
        known = [cell for row in csv.DictReader(read) for cell in (row["text"], row["positive"])]
    draws = torch.randn(len(known), 4, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(tmp_path / "guide.npz", ids=text_ids(known).numpy(), embeddings=draws)
    return file


def test_required_presets_are_there():
    assert {"text", "simcse", "simcse_sup", "mnrl", "gist", "text_supcon", "text_hard", "text_soft"} <= set(PRESETS)


@pytest.mark.parametrize(("typed", "says"), [([], False), (["encoder=bag"], True), (["encoder.dropout=0"], True),
                                             (["encoder=bag", "views=delete"], False)])  # fmt: skip
def test_simcse_of_a_network_without_dropout_gets_a_note(typed, says):
    cfg = config("experiment=simcse", *typed)
    assert any("no dropout" in line for line in notes(cfg, build_module(cfg), 1)) == says


def test_simcse_takes_any_encoder():
    assert "dropout" not in config("experiment=simcse", "encoder=hf", "encoder.name=x").encoder


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_it_trains_and_its_checkpoints_load(name, few_glosses, table, tmp_path):
    own = [f"data.root={table}", "data.text=text", "data.label=label", *OWN[name]] if name in OWN else []
    guide = [f"negatives.embeddings={tmp_path / 'guide.npz'}"] * (name == "gist")
    width = ["encoder.width=8", "encoder.heads=2"] if "transformer" in str(config(
        f"experiment={name}", *own, *guide).encoder) else ["encoder.width=8"]  # fmt: skip
    code, line = status(tmp_path / "run", f"experiment={name}", *SMALL, *own, *guide, *width)
    assert code == 0, line
    with (tmp_path / "run/metrics.csv").open(encoding="utf-8") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == len(set(losses)) == 10
    for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        assert torch.load(path, weights_only=True)["global_step"] == 10
