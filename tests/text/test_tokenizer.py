"""The vocabulary: of training texts alone, the same every time, kept with the run."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import config
from runs_here import train

from repel.engine import checkpoint_io
from repel.engine.build import build_data
from repel.text.texts import RawTexts, text_ids
from repel.text.tokenizer import Tokenizer

WORDS = ("the", "of", "red", "green", "blue", "bird", "fish", "stone", "river", "mountain", "small", "large", "old",
         "swims", "flies", "sleeps", "under", "over")  # fmt: skip
LEARN = """
import hashlib
from repel.text.texts import RawTexts
from repel.text.tokenizer import Tokenizer
tokenizer = Tokenizer("{kind}", vocabulary=60, max_tokens=8)
tokenizer.fit(RawTexts.of([" ".join({words}[(i * j + j) % 18] for j in range(1, 9)) for i in range(40)]))
print(hashlib.sha256(tokenizer.json.encode()).hexdigest())
"""


def sentences(n: int = 40) -> list[str]:
    draws = torch.randint(len(WORDS), (n, 6), generator=torch.Generator().manual_seed(0)).tolist()
    return [" ".join(WORDS[place] for place in row) for row in draws]


def fitted(kind: str, **options) -> Tokenizer:
    tokenizer = Tokenizer(kind, **{"vocabulary": 60, "max_tokens": 8} | options)
    tokenizer.fit(RawTexts.of(sentences()))
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_every_process_learns_the_same_vocabulary(kind):
    """Each rank learns its own; the library's order of pieces differs from process to process."""
    code = LEARN.format(kind=kind, words=WORDS)
    run = [sys.executable, "-c", code]
    found = {subprocess.run(run, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 1


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_tokens_are_the_librarys_ids_plus_one(kind):
    tokenizer = fitted(kind)
    made = tokenizer(RawTexts.of([*sentences(5), "", "red", "a zebra"]))
    for row, text in enumerate(made.texts):
        ids = tokenizer.library.encode(text, add_special_tokens=False).ids
        assert made.x[row, : len(ids)].tolist() == [id + 1 for id in ids]
        assert made.x[row, len(ids) :].sum() == 0
        assert made.lengths[row] == len(ids)
    assert int(made.x.max()) < tokenizer.size
    assert tokenizer.mask == 2


def test_texts_are_cut():
    made = fitted("word", max_tokens=3)(RawTexts.of(sentences(4)))
    assert made.x.shape == (4, 3)
    assert made.lengths.tolist() == [3] * 4


def test_positives_and_negatives_are_learned_and_tokenized():
    raw = RawTexts.of(
        ["red bird", "old fish"], positives=["a swan sings", "a carp"], negatives=[["iron"], ["gold bar"]][:1] * 2
    )
    raw = RawTexts.of(["red bird", "old fish"], positives=["a swan sings", "a carp"],
                      negatives=[["iron", "gold bar"], ["tin", "lead"]])  # fmt: skip
    tokenizer = Tokenizer("word", vocabulary=100, max_tokens=4)
    tokenizer.fit(raw)
    made = tokenizer(raw)
    assert not bool((made.x == 1).any() | (made.positives == 1).any() | (made.negatives == 1).any())  # none unknown
    assert made.negatives.shape == (2, 2, 4)
    assert torch.equal(made.positive_ids, text_ids(["a swan sings", "a carp"]))
    assert torch.equal(made.negative_ids, torch.stack([text_ids(["iron", "tin"]), text_ids(["gold bar", "lead"])]))
    assert made.lengths.tolist() == [3, 2]
    assert made.negative_lengths.tolist() == [1, 2]


def test_counts_are_of_texts():
    made = fitted("word")(RawTexts.of(["red red bird", "red fish", ""]))
    info, id_of = made.info(), made.tokenizer.library.token_to_id
    assert (info.train_size, info.vocabulary) == (3, made.tokenizer.size)
    assert [int(info.counts[id_of(word) + 1]) for word in ("red", "bird", "fish", "river")] == [2, 1, 1, 0]
    assert info.counts[0] == 0


def test_the_vocabulary_is_of_training_texts_alone(few_glosses):
    """Not of those that are held out."""
    data = build_data(config("experiment=text", "data.tokens=word", "data.vocabulary=100000"))
    data.setup()
    known = set(data.transform.library.get_vocab()) - {"[UNK]", "[MASK]"}
    library = data.transform.library

    def words(texts):
        normal = (library.normalizer.normalize_str(text) for text in texts)
        return {word for text in normal for word, _ in library.pre_tokenizer.pre_tokenize_str(text)}

    assert known == words(data.splits.train.texts)
    assert words(data.splits.val.texts) - known


@pytest.mark.slow
def test_a_run_keeps_its_tokenizer(few_glosses, tmp_path, monkeypatch):
    """In its folder and in its checkpoints; a resumed run and one that starts from its weights take it."""
    folder = tmp_path / "run"
    quick = ["experiment=text", "head=linear", "data.vocabulary=300", "trainer.limit_train_batches=2",
             "callbacks.pairs=null", "callbacks.knn=null", "logger.tensorboard=null", "data.tokens=word",
             "data.max_tokens=8", "data.batch_size=64"]  # fmt: skip
    train(folder, *quick, "trainer.max_epochs=1")
    contents = checkpoint_io.load(folder / "checkpoints/last.ckpt")
    kept = (folder / "tokenizer.json").read_text(encoding="utf-8")
    assert contents["learned"] == {"tokenizer.json": kept}
    assert json.loads(kept)["model"]["type"] == "WordLevel"
    monkeypatch.setattr(Tokenizer, "fit", lambda self, train: pytest.fail("it was learned a second time"))
    train(folder, resume=True)
    train(tmp_path / "next", *quick, "trainer.max_epochs=1", f"init={folder}")
    assert (tmp_path / "next/tokenizer.json").read_text(encoding="utf-8") == kept
