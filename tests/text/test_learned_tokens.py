"""Tokens of texts that are no samples, such as texts of items."""

import pytest
import torch
from tokenizers import Tokenizer

from repel.text.learned_tokens import learned_tokens

TEXTS = ["a red bird", "", "a blue bird of the sea", "  ", "the sea"]


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_tokens_are_those_of_the_texts_alone(kind):
    tokens, info, key = learned_tokens(TEXTS, kind=kind, max_tokens=4)
    assert tokens.dtype == torch.int32
    assert tokens.shape == (5, 4)
    assert (tokens != 0).sum(1).tolist() == [3, 0, 4, 0, 2]
    assert (info.train_size, info.max_tokens, info.vocabulary) == (3, 4, int(tokens.max()) + 1)
    ids = Tokenizer.from_str(info.tokenizer).get_vocab()
    counts = {word: int(info.counts[ids[word] + 1]) for word in ("bird", "a", "red")}  # texts, as they are cut
    assert counts == {"bird": 2, "a": 2, "red": 1}
    assert info.counts[0] == 0
    again = learned_tokens(TEXTS, kind=kind, max_tokens=4)
    assert torch.equal(tokens, again[0])
    assert torch.equal(key, again[2])
    assert learned_tokens([*TEXTS, "another"], kind=kind)[2] != key


def test_a_vocabulary_of_a_file_is_taken(tmp_path):
    _, info, key = learned_tokens(TEXTS, kind="word")
    (tmp_path / "tokenizer.json").write_text(info.tokenizer, encoding="utf-8")
    tokens, _, other = learned_tokens(["red sea", "green"], file=str(tmp_path))
    assert torch.equal(other, key)
    assert tokens.shape == (2, 2)


def test_a_line_says_how_many_are_cut(capsys):
    learned_tokens(["one two three", "one"], kind="word", max_tokens=2)
    assert capsys.readouterr().out == ("note     1 of 2 texts are longer than data.max_tokens=2 and are cut there\n")
