"""data.tokenizer=FILE, of any kind; texts longer than data.max_tokens; a vocabulary of some of the texts."""

import json

import pytest
import torch
from conftest import config
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, processors

from repel.engine.build import build_data
from repel.engine.initial_weights import Weights
from repel.text import tokenizer as room
from repel.text.texts import RawTexts
from repel.text.tokenizer import Tokenizer


def word_level() -> Library:
    library = Library(models.WordLevel({"a": 7, "bird": 2, "[UNK]": 90, "[PAD]": 0}, unk_token="[UNK]"))  # with gaps
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    return library


def byte_level() -> Library:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Library(
        models.BPE({letter: i + 3 for i, letter in enumerate(letters)} | {"<pad>": 1, "<s>": 0, "<mask>": 2}, [])
    )
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return library


def word_piece() -> Library:
    pieces = {"[PAD]": 3, "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 4, "a": 5, "bi": 6, "##rd": 7}
    library = Library(models.WordPiece(pieces, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    library.enable_padding(pad_id=3, length=9)
    library.enable_truncation(2)
    return library


@pytest.mark.parametrize(("make", "ids", "mask", "size"), [
    (word_level, [8, 3, 91], -1, 92), (byte_level, None, 3, 260), (word_piece, [6, 7, 8, 1], 5, 9),
])  # fmt: skip
@pytest.mark.parametrize("folder", [False, True])
def test_a_file_of_any_kind_is_taken_without_its_special_tokens(make, ids, mask, size, folder, tmp_path):
    library = make()
    library.save(str(tmp_path / "tokenizer.json"))
    made = Tokenizer(max_tokens=12, file=str(tmp_path if folder else tmp_path / "tokenizer.json"))
    made.fit(RawTexts.of(["nothing is learned"]))
    texts = made(RawTexts.of(["a bird 世", "", "a"]))
    ids = ids or [id + 1 for id in library.encode("a bird 世").ids]
    assert texts.x[0].tolist() == ids + [0] * (12 - len(ids))
    assert (texts.x[1].tolist(), texts.lengths.tolist()) == ([0] * 12, [len(ids), 0, 1])
    assert (made.mask, made.size) == (mask, size)
    assert len(texts.info().counts) == size


def test_a_run_keeps_the_file_and_does_without_it(tmp_path):
    file = tmp_path / "own.json"
    word_piece().save(str(file))
    (tmp_path / "t.txt").write_text("a bird\na\nbird a\na a\nbird\nbird bird\n", encoding="utf-8")
    cfg = config("experiment=text", "data=text_lines", f"data.root={tmp_path}/t.txt", f"data.tokenizer={file}",
                 "data.max_tokens=6")  # fmt: skip
    data = build_data(cfg)
    data.setup()
    learned = data.transform.state_dict()
    file.unlink()
    again = build_data(cfg, learned)
    again.setup()
    assert torch.equal(again.splits.train.x, data.splits.train.x)
    with pytest.raises(ValueError, match=r"data\.tokenizer=.*own\.json cannot be read .*name a tokenizer\.json"):
        build_data(cfg).setup()
    file.write_text(json.dumps({"model": {}}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.tokenizer=.*own\.json is no tokenizer\.json"):
        build_data(cfg).setup()


def fitted(learned_from: list[str], **options) -> Tokenizer:
    made = Tokenizer("word", **options)
    made.fit(RawTexts.of(learned_from))
    return made


def test_books_are_cut_as_they_would_be_whole(monkeypatch):
    words = ["one", "two", "three"]
    made = fitted(words, max_tokens=4)
    texts = ["one " * 100_000, "three" + " " * 5_000 + "two", "two " * 4, "two " * 5, "x" * 100_000 + " one", ""]
    tokens = made(RawTexts.of(texts))
    monkeypatch.setattr(room, "LETTERS", 10**6)
    assert torch.equal(tokens.x, made(RawTexts.of(texts)).x)
    assert tokens.lengths.tolist() == [4, 2, 4, 4, 2, 0]
    assert made.cut == (4, 12)
    assert made.notes() == ["4 of 12 texts are longer than data.max_tokens=4 and are cut there"]
    few = fitted(words, max_tokens=4)
    few(RawTexts.of(["one " * 9, *words * 10]))
    assert few.notes() == []


def test_the_file_says_the_same_before_and_after_use():
    """Tokens are kept by it, and ranks compare it."""
    made = fitted(["one two"], max_tokens=4)
    before = made.json
    made(RawTexts.of(["one two one two one"]))
    assert made.json == before
    assert json.loads(before)["truncation"]["max_length"] == 4


def test_a_vocabulary_of_evenly_spaced_texts():
    texts = [f"w{i}" for i in range(100)]
    made = fitted(texts, texts=4)
    assert {*made.library.get_vocab()} == {"[UNK]", "[MASK]", "w0", "w25", "w50", "w75"}
    with pytest.raises(ValueError, match=r"data\.tokenizer_texts"):
        Tokenizer(texts=0)


def test_weights_bring_their_tokenizer(tmp_path):
    """A new run that starts from them takes no other, as their tables know tokens by their ids."""
    made = Tokenizer(kind="word")
    made.fit(RawTexts.of(["a bird", "a plane"]))
    source = {"file": str(tmp_path / "encoder.safetensors")}
    cfg = config("experiment=text", f"init={tmp_path}")
    with pytest.raises(ValueError, match=r"init=\S+: these weights know tokens by their ids, and no tokenizer.json"):
        Weights({}, source).give_learned(Tokenizer(), cfg)
    (tmp_path / "tokenizer.json").write_text(made.json, encoding="utf-8")
    for weights in (Weights({}, source), Weights({}, {"file": "last.ckpt"}, made.state_dict())):
        new = Tokenizer()
        weights.give_learned(new, cfg)
        assert new.json == made.json
        own = Tokenizer(file=str(tmp_path))
        weights.give_learned(own, cfg)
        word_level().save(str(tmp_path / "other.json"))
        with pytest.raises(ValueError, match=r"data.tokenizer=\S+other.json has other tokens than init="):
            weights.give_learned(Tokenizer(file=str(tmp_path / "other.json")), cfg)
    cfg.init_parts = ["head"]
    weights.give_learned(new := Tokenizer(), cfg)
    assert not new.fitted
