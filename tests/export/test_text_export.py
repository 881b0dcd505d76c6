"""Text encoders as files that need no repel, each compared with the original."""

import json
import runpy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from export_runs import checkpoint
from hostile_texts import WORDS, few_texts, text_run

from repel.engine.pretrained import load_pretrained
from repel.export import text_export, text_templates
from repel.export.export import export
from repel.text.texts import RawTexts
from repel.text.tokenizer import Tokenizer

ENCODERS = {
    "learned": ["encoder=bag", "encoder.token_weights=learned"],
    "idf": ["encoder=bag", "encoder.token_weights=idf"],
    "none": ["encoder=bag", "encoder.token_weights=none"],
    "ngrams": ["encoder=bag_of_ngrams"],
    "transformer": ["encoder=transformer", "encoder.max_tokens=12", "encoder.heads=2", "encoder.layers=2"],
}
EMPTY = ["", "a bird"]


@pytest.fixture(scope="module")
def runs(few, tmp_path_factory):
    return {name: text_run(tmp_path_factory.mktemp(name), *typed) for name, typed in ENCODERS.items()}


def original(run, texts: list[str]) -> torch.Tensor:
    trained = load_pretrained(str(run))
    tokenizer = Tokenizer(max_tokens=12)
    tokenizer.load_state_dict(trained.learned)
    with torch.no_grad():
        return trained.encoder(tokenizer(RawTexts.of(texts)).x)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_files_give_the_features_of_the_original(runs, done, name, capsys):
    folder = done(export, f"ckpt={runs[name]}")
    written = {"encoder.safetensors", "load_encoder.py", "tokenizer.json", "README.md"}
    assert written == {path.name for path in folder.iterdir()} - {"config.yaml", "environment.json"}
    assert "on 32 texts" in capsys.readouterr().out
    loader = runpy.run_path(str(folder / "load_encoder.py"))
    texts = [*few_texts().test.texts, *EMPTY]
    with torch.no_grad():
        found = loader["load_encoder"]()(loader["to_tokens"](texts))
    assert torch.allclose(found, original(runs[name], texts), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned", "transformer"])
def test_onnx_takes_ids_and_a_mask_of_any_size(runs, done, name, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")
    from tokenizers import Tokenizer as Library

    folder = done(export, f"ckpt={runs[name]}", "format=[onnx]", "compare_on=data")
    assert "on " in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(folder / "encoder.onnx"))
    library = Library.from_file(str(folder / "tokenizer.json"))
    library.enable_padding()
    for texts in (["red bird"], few_texts().test.texts):
        encodings = library.encode_batch(texts, add_special_tokens=False)
        inputs = {
            "input_ids": torch.tensor([one.ids for one in encodings]).numpy(),
            "attention_mask": torch.tensor([one.attention_mask for one in encodings]).numpy(),
        }
        (found,) = session.run(None, inputs)
        assert torch.allclose(torch.from_numpy(found), original(runs[name], texts), atol=1e-5)


LOADED = """
import json, sys
from sentence_transformers import SentenceTransformer
print(json.dumps(SentenceTransformer(sys.argv[1]).encode(json.loads(sys.argv[2])).tolist()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["learned", "transformer"])
def test_sentence_transformers_loads_the_folder(runs, done, name):
    """In a Python that knows nothing of repel."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = done(export, f"ckpt={runs[name]}", "format=[sentence_transformers]")
    texts = [text for text in few_texts().test.texts if "\x00" not in text]
    command = [sys.executable, "-c", LOADED, str(folder / "sentence_transformers"), json.dumps(texts)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    found, expected = torch.tensor(json.loads(result.stdout)), original(runs[name], texts)
    if name != "transformer":  # the weighted sum has another length than the weighted mean
        expected = F.normalize(expected, dim=1)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not any(path.suffix == ".py" for path in folder.rglob("*"))


def test_weights_by_position_have_no_module_of_sentence_transformers(runs, done):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    with pytest.raises(ValueError, match=r"has no module for encoder.position_decay; choose format=\[onnx\]"):
        done(export, f"ckpt={runs['ngrams']}", "format=[sentence_transformers]")


@pytest.mark.slow
@pytest.mark.parametrize("typed", [["encoder.pooling=mean"], ["encoder.pooling=last"], ["encoder.lora={r:2,alpha:4}"]])
def test_a_model_of_transformers(few, done, tmp_path, typed, capsys):
    """Export compares each file with the original; low-rank updates, which begin at 0, are drawn anew before."""
    transformers = pytest.importorskip("transformers", reason="the extra text-hf is not installed")
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    if "lora" in typed[0]:
        pytest.importorskip("peft", reason="the extra text-hf is not installed")
    sizes = {"vocab_size": 22, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 0}  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "bert")
    word_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]).save(str(tmp_path / "bert/tokenizer.json"))
    names = [f"encoder.name={tmp_path / 'bert'}", f"data.tokenizer={tmp_path / 'bert/tokenizer.json'}"]
    run = text_run(tmp_path / "run", "encoder=hf", *names, *typed)
    capsys.readouterr()
    folder = done(export, f"ckpt={run}", "format=[onnx,sentence_transformers]", "compare_on=data")
    assert capsys.readouterr().out.count("differs from the original by at most") == 2
    assert "lora" not in (folder / "sentence_transformers/model.safetensors").read_bytes()[:20_000].decode("latin-1")
    with pytest.raises(ValueError, match="encoder=hf is a model of transformers"):
        done(export, f"ckpt={run}", name="b")


def word_tokenizer(words: list[str]):
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers, processors

    library = Library(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return library


def test_a_file_that_differs_is_not_written(runs, done, monkeypatch):
    wrong = text_templates.BAG.template.replace("self.log_weights[tokens].exp()", "self.log_weights[tokens]")
    monkeypatch.setattr(text_templates, "BAG", type(text_templates.BAG)(wrong))
    with pytest.raises(RuntimeError, match=r"encoder\.safetensors differs from the original"):
        done(export, f"ckpt={runs['learned']}")


def test_mistakes_are_one_line(runs, done, monkeypatch):
    with pytest.raises(ValueError, match="normalize=true is for images"):
        done(export, f"ckpt={runs['learned']}", "format=[onnx]", "normalize=true", name="a")
    monkeypatch.setattr(text_export, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"format=\[sentence_transformers\] needs sentence-transformers"):
        done(export, f"ckpt={runs['learned']}", "format=[sentence_transformers]", name="b")


@pytest.mark.slow
def test_a_run_on_images_is_no_sentence_transformer(done, tmp_path):
    run = checkpoint(tmp_path / "run", "encoder.width=4")
    with pytest.raises(ValueError, match="is for texts, and the run learned images"):
        done(export, f"ckpt={run}", "format=[sentence_transformers]")
