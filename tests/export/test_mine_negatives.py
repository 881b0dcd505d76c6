"""mine_negatives.py: a table of hard negatives, which data=text_csv reads."""

import csv
import shlex

import pytest
import torch
import torch.nn.functional as F
from conftest import config
from export_runs import checkpoint
from hostile_texts import FEW, HOSTILE, sentences, text_run

from repel.engine.build import build_data
from repel.engine.pretrained import load_pretrained
from repel.export.mine_negatives import mine_negatives
from repel.text.texts import RawTexts
from repel.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def run(few, tmp_path_factory):
    return text_run(tmp_path_factory.mktemp("text"))


@pytest.fixture
def own(tmp_path) -> list[str]:
    """Own texts: 30 with classes and positives, among them some with commas, quotes, line breaks, other scripts."""
    hostile = [text for text in HOSTILE if "\x00" not in text]
    rows = zip([*sentences(30 - len(hostile), 3), *hostile], "abcde" * 6, sentences(30, 4), strict=True)
    with (tmp_path / "own.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("review", "kind", "other"), *rows])
    return ["data=text_csv", f"data.root={tmp_path / 'own.csv'}", "data.text=review", "data.cache=null"]


def table(file) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def cosines(run, texts: list[str], others: list[str]) -> torch.Tensor:
    trained = load_pretrained(str(run))
    tokenizer = Tokenizer(max_tokens=12)
    tokenizer.load_state_dict(trained.learned)
    with torch.no_grad():
        a, b = (F.normalize(trained.encoder(tokenizer(RawTexts.of(part)).x), dim=1) for part in (texts, others))
    return a @ b.T


def test_negatives_are_the_nearest_of_the_other_positives(run, own, done, capsys):
    out = done(mine_negatives, f"ckpt={run}", *own, "data.label=kind", "data.positive=other", "margin=0.1")
    found, read = table(out / "negatives.csv"), table(out.parent / "own.csv")
    assert list(found[0]) == ["text", "label", "positive", "negative"]
    positives = [row["other"] for row in read]
    by_text = cosines(run, [row["review"] for row in read], positives)
    expected = []
    for row, similar in zip(read, by_text, strict=True):
        limit = similar[positives.index(row["other"])] - 0.1
        allowed = [(float(s), p) for s, p in zip(similar, positives, strict=True) if s <= limit and p != row["other"]]
        if allowed:
            expected.append((row["review"].strip(), row["kind"], row["other"], max(allowed)[1]))
    assert [tuple(row.values()) for row in found] == expected
    assert len(found) > 5
    assert f"{len(found)} of 30 texts have a negative" in capsys.readouterr().out


@pytest.mark.parametrize("k", [1, 3])
def test_training_reads_what_the_last_line_says(run, own, done, k, capsys):
    positive = ["data.label=kind", "data.positive=other", "ranks=[1,20]", "choose=random"]
    out = done(mine_negatives, f"ckpt={run}", *own, *positive, f"k={k}")
    line = capsys.readouterr().out.splitlines()[-1]
    typed = shlex.split(line.removeprefix("use "))
    cfg = config("experiment=simcse_sup", *typed, *FEW, "data.cache=null", "data.val_fraction=0.2")
    data, rows = build_data(cfg), table(out / "negatives.csv")
    data.setup()
    store = data.splits.train.store
    assert list(store.texts) == [row["text"] for row in rows]
    assert list(store.positives) == [row["positive"] for row in rows]
    names = ["negative"] if k == 1 else ["negative_1", "negative_2", "negative_3"]
    assert [list(column) for column in store.negatives] == [[row[name] for row in rows] for name in names]
    assert all(len({row[name] for name in (*names, "positive")}) == k + 1 for row in rows)
    assert data.splits.train.negative_ids.shape == (len(data.splits.train), k)


def test_texts_alone_and_their_classes(run, own, done):
    """Without positives the candidates are the texts themselves."""
    found = table(done(mine_negatives, f"ckpt={run}", *own, "data.label=kind", "classes=true") / "negatives.csv")
    kinds = {row["text"]: row["label"] for row in found}
    assert list(found[0]) == ["text", "label", "negative"]
    assert len(found) == 30
    assert all(kinds[row["negative"]] != row["label"] for row in found)
    of_run = table(done(mine_negatives, f"ckpt={run}", "k=2", name="b") / "negatives.csv")
    assert (len(of_run), list(of_run[0])) == (69, ["text", "label", "negative_1", "negative_2"])


def test_mistakes_are_one_line(run, own, done, tmp_path):
    mistakes = {
        "margin is to the positive": [*own, "margin=0.1"],
        "classes=true needs labels": [*own, "classes=true"],
        "ranks must be the first and the last": [*own, "ranks=[5,2]"],
        "scores must be two cosines": [*own, "scores=[0.9,0.1]"],
        "k=3 negatives do not fit": [*own, "ranks=[1,2]", "k=3"],
    }
    for number, (words, typed) in enumerate(mistakes.items()):
        with pytest.raises(ValueError, match=words):
            done(mine_negatives, f"ckpt={run}", *typed, name=str(number))
    images = checkpoint(tmp_path / "images", "encoder.width=4")
    with pytest.raises(ValueError, match="hard negatives are mined for texts"):
        done(mine_negatives, f"ckpt={images}", name="of images")
