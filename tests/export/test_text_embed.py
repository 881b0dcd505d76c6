"""embed.py and search of texts, by the tokenizer that the run learned."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hostile_texts import few_texts, sentences, text_run

from repel.cli.search import parsed, search
from repel.engine.pretrained import load_pretrained
from repel.export.embed import embed
from repel.export.search import nearest_matches, open_folder, text_feature
from repel.text.texts import RawTexts
from repel.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def run(few, tmp_path_factory):
    return text_run(tmp_path_factory.mktemp("text"))


def rows(folder) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def features_of(run, texts: list[str]) -> torch.Tensor:
    trained = load_pretrained(str(run))
    tokenizer = Tokenizer(max_tokens=12)
    tokenizer.load_state_dict(trained.learned)
    with torch.no_grad():
        return trained.encoder(tokenizer(RawTexts.of(texts)).x)


def test_every_text_has_a_row_and_its_features(run, done, capsys):
    folder, splits = done(embed, f"ckpt={run}"), few_texts()
    texts = [*splits.train.texts, *splits.test.texts]
    found = rows(folder)
    assert list(found[0]) == ["row", "text", "split", "label"]
    assert [row["text"] for row in found] == texts
    assert [row["split"] for row in found] == ["train"] * 69 + ["test"] * 29
    assert found[2]["label"] == "<i>artifact</i>"
    expected = features_of(run, texts)
    assert torch.allclose(torch.from_numpy(np.load(folder / "features.npy")), expected, atol=1e-6)
    record = json.loads((folder / "embedding.json").read_text(encoding="utf-8"))
    assert (record["texts"], record["max_tokens"]) == (98, 12)
    assert "69 texts" in capsys.readouterr().out


def own_texts(folder) -> tuple[dict[str, list[str]], list[str]]:
    """What to type for them in a table, and as lines; the texts."""
    texts = [*sentences(20, 3), "鳥は飛ぶ, a bird", 'a "quoted" <b>text</b>']
    with (folder / "own.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("note", "review"), *(("x", text) for text in texts)])
    (folder / "lines").mkdir()
    for name, part in {"train": texts[:15], "test": texts[15:]}.items():
        (folder / f"lines/{name}.txt").write_text("\n".join(part), encoding="utf-8")
    return {
        "csv": ["data=text_csv", f"data.root={folder / 'own.csv'}", "data.text=review"],
        "lines": ["data=text_lines", f"data.root={folder / 'lines'}"],
    }, texts


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", ["csv", "lines"])
def test_own_texts_are_embedded_and_searched(run, done, kind, cache, tmp_path, capsys):
    typed, texts = own_texts(tmp_path)
    out = done(embed, f"ckpt={run}", *typed[kind], f"data.cache={tmp_path / 'cache' if cache else 'null'}")
    assert [row["text"] for row in rows(out)] == texts
    assert [row["split"] for row in rows(out)] == ["train"] * 15 + ["test" if kind == "lines" else "train"] * 7
    assert torch.allclose(torch.from_numpy(np.load(out / "features.npy")), features_of(run, texts), atol=1e-6)
    assert (tmp_path / "cache").exists() == cache
    shutil.move(tmp_path / "own.csv", tmp_path / "elsewhere.csv")  # a search reads the folder alone
    capsys.readouterr()
    search(*parsed([texts[20], str(out), "k=1"]))
    assert capsys.readouterr().out.split(None, 2)[::2] == ["1.0000", texts[20] + "\n"]


@pytest.mark.parametrize("typed", [["format=npy"], ["format=parquet"]])
def test_the_nearest_text_to_a_text_is_itself(run, done, typed, capsys):
    folder = done(embed, f"ckpt={run}", *typed)
    embedded = open_folder(folder, None, None)
    every = F.normalize(features_of(run, [text for text, _, _ in embedded.rows]), dim=1)
    query = few_texts().train.texts[4]
    found = nearest_matches(text_feature(query, embedded, None), embedded, 5)
    expected = (every @ F.normalize(features_of(run, [query]), dim=1)[0]).topk(5).values
    assert [one.similarity for one in found] == pytest.approx(expected.tolist(), abs=1e-5)
    assert (found[0].file, found[0].split, found[0].label) == (query, "train", "b")
    capsys.readouterr()
    search(*parsed([query, str(folder), "k=2"]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].split(None, 3) == ["1.0000", "train", "b", query]


def test_mistakes_are_one_line(run, done, tmp_path, monkeypatch):
    folder = str(done(embed, f"ckpt={run}"))
    (tmp_path / "picture.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    embedded = open_folder(tmp_path / "out", None, None)
    for query in ("", " \n "):
        with pytest.raises(ValueError, match="the query has no words"):
            text_feature(query, embedded, None)
    with pytest.raises(ValueError, match=r"holds texts, and picture\.png is a file"):
        parsed(["picture.png", folder])
    with pytest.raises(ValueError, match=r"it comes last, after the words"):
        parsed([folder, "a funny movie"])
    with pytest.raises(ValueError, match=r"holds no features: python embed\.py"):
        parsed(["a funny movie", str(tmp_path)])
    (tmp_path / "images").mkdir()
    (tmp_path / "images/embedding.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"out= is for a drawing of images"):
        parsed(["a bird", folder, "out=x.png"])
    with pytest.raises(ValueError, match="there is no image a small bird; words search texts"):
        parsed(["a small bird", str(tmp_path / "images")])
    with pytest.raises(ValueError, match="name an image, or words in quotes"):
        parsed(["a", "small", "bird", folder])


def test_a_query_may_have_an_equals_sign_or_be_long(run, done, tmp_path):
    folder = str(done(embed, f"ckpt={run}"))
    for query in ("e = m c c", "word " * 2000):
        assert parsed([query, folder, "k=3"])[0] == query
