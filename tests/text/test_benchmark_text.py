"""scripts/benchmark_text.py: what is given to both libraries, and that both do the same with it."""

import importlib
import json

import pytest
import torch
from conftest import ROOT
from torch import nn

STEPS = 5


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module


@pytest.fixture
def script(scripts):
    return scripts("benchmark_text")


def test_each_word_is_in_one_half(script):
    first, second = script.halves("one two three four five")
    assert sorted([*first.split(), *second.split()]) == sorted(["one", "two", "three", "four", "five"])
    assert len(first.split()) == 2
    assert script.halves("one two three four five") == (first, second)


@pytest.mark.parametrize("pairs", ["halves", "same"])
def test_pairs_are_of_training_texts_alone(script, tmp_path, pairs):
    script.write_texts(tmp_path, pairs, limit=300)
    found = json.loads((tmp_path / "texts.json").read_text(encoding="utf-8"))
    assert len(found["all"]) + len(found["val"]) == 300
    assert len(found["first"]) == len(found["second"]) == len(found["train_labels"]) <= len(found["all"])
    assert not set(found["all"]) & {*found["val"], *found["test"]}
    assert (found["first"] == found["all"]) == (pairs == "same")


def test_a_half_that_two_texts_have_is_left_out(script, tmp_path, monkeypatch):
    texts = ["a fish of", "a bird of", "red stone", "blue stone", "green leaf"]
    found = [*texts, "held out"], torch.arange(6), ["cat"], torch.tensor([0]), []
    monkeypatch.setattr("repel.text.datasets.wordnet_glosses", lambda: found)
    monkeypatch.setattr(script, "halves", lambda text: (text.split()[-1], text.split()[0]))
    script.write_texts(tmp_path, "halves", limit=None)
    read = json.loads((tmp_path / "texts.json").read_text(encoding="utf-8"))
    assert read["val"] == ["a fish of"]
    assert list(zip(read["first"], read["second"], strict=True)) == [("of", "a"), ("leaf", "green"), ("out", "held")]
    assert read["train_labels"] == [1, 4, 5]
    assert read["all"] == [*texts[1:], "held out"]


def test_encoding_leaves_an_encoder_in_its_mode(scripts):
    class Samples:
        def plain(self, places):
            return [(torch.ones(len(some), 64), None) for some in places]

    encoder = nn.Sequential(nn.Linear(64, 64).eval(), nn.Dropout(0.5))  # in part in training mode
    encode = scripts("_text_training").text_encoder(encoder, lambda texts: Samples())
    assert torch.equal(encode(["a text", "another one"]), encoder[0](torch.ones(2, 64)))
    assert [part.training for part in encoder] == [False, True]


def test_training_without_dropout_is_refused(scripts):
    clock, network = scripts("_text_rivals").Clock(), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1))
    network[1].eval()
    with pytest.raises(RuntimeError, match="without dropout"):
        clock.step(network)
    clock.step(network.train())
    assert len(clock.ends) == 1


def test_a_library_that_is_not_there_is_one_line(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    monkeypatch.setattr("sys.argv", ["benchmark_text.py"])
    assert script.main() == 2
    assert "sentence_transformers is not installed: pip install" in capsys.readouterr().err


@pytest.mark.parametrize("encoder", ["bert", "bag"])
def test_both_trainings_come_to_the_same_features(encoder, script, scripts, tmp_path, monkeypatch):
    """Without dropout, and with all texts in a batch, so that their order does not count."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    rivals = scripts("_text_rivals")
    monkeypatch.setattr(script, "BERT", script.BERT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    script.write_texts(tmp_path, "halves", limit=100)
    script.write_weights(tmp_path, script.write_tokenizer(tmp_path), seed=1)
    texts, found = json.loads((tmp_path / "texts.json").read_text(encoding="utf-8")), []
    for library in ("sentence-transformers", "repel"):
        rate = script.RATES[encoder]
        case = rivals.Case(library, encoder, 1, STEPS, len(texts["first"]), rate, str(tmp_path))
        train, clock = rivals.train_st if library == "sentence-transformers" else rivals.train_repel, rivals.Clock()
        begin, encode = train(case, texts, clock, tmp_path / library)
        before = encode(texts["test"]).float()
        begin()
        assert len(clock.ends) == STEPS
        found.append((before, encode(texts["test"]).float()))
    (before, after), (our_before, our_after) = found
    torch.testing.assert_close(our_before, before, rtol=0, atol=1e-5)
    assert (our_after - after).norm() < 1e-3 * (after - before).norm()


def test_both_drop_the_same_with_the_same_random_numbers(script, scripts, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from tokenizers import Tokenizer

    from repel.text.hf import HuggingFaceEncoder

    texts = ["a small bird", "fish", "a tree with needles"]
    (tmp_path / "texts.json").write_text(json.dumps({"all": texts}), encoding="utf-8")
    script.write_weights(tmp_path, script.write_tokenizer(tmp_path), seed=1)
    case = scripts("_text_rivals").Case("", "bert", 1, 1, 3, 1e-3, str(tmp_path))
    model = library.SentenceTransformer(modules=scripts("_text_rivals")._st_modules(case), device="cpu").train()
    cut = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode_batch(texts, add_special_tokens=False)
    tokens = nn.utils.rnn.pad_sequence([1 + torch.tensor(text.ids) for text in cut], batch_first=True)
    encoder = HuggingFaceEncoder(str(tmp_path))
    torch.manual_seed(3)
    theirs = model(model.preprocess(texts))["sentence_embedding"]
    other = model(model.preprocess(texts))["sentence_embedding"]
    torch.manual_seed(3)
    torch.testing.assert_close(encoder.features(tokens), theirs, rtol=0, atol=1e-5)
    assert (other - theirs).abs().max() > 0.1
