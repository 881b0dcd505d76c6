"""Text encoders as files that need no repel, each compared with the original."""

import json
import runpy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import thinned
from export_runs import checkpoint
from hostile_texts import WORDS, few_texts, text_run
from safetensors import safe_open
from safetensors.torch import load_file

from repel.engine.pretrained import load_pretrained
from repel.export import text_export, text_templates
from repel.export.export import export
from repel.text.texts import RawTexts
from repel.text.tokenizer import Tokenizer

PLAIN = ["encoder.position_decay=0", "encoder.ngrams=null"]
ENCODERS = {
    "preset": ["encoder.buckets=40"],
    "learned": [
        "encoder.token_weights=learned",
        "encoder.position_decay=1",
        "encoder.ngrams=[2,3]",
        "encoder.buckets=40",
    ],
    "idf": ["encoder.token_weights=idf", *PLAIN],
    "no order": ["encoder.position_decay=0", "encoder.buckets=40"],
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


@pytest.mark.parametrize("name", thinned(ENCODERS, 2))
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


def test_what_n_grams_tell_of_a_token_is_in_its_vector(runs, done):
    """So that the files need no n-grams, and no tokenizer to find them."""
    folder, encoder = done(export, f"ckpt={runs['learned']}"), load_pretrained(str(runs["learned"])).encoder
    state = load_file(folder / "encoder.safetensors")
    assert state.keys() == {"vectors.weight", "log_weights"}
    assert torch.equal(state["vectors.weight"], encoder.table())
    assert not torch.allclose(state["vectors.weight"], encoder.vectors.weight, atol=0.1)
    assert torch.equal(state["log_weights"], encoder.log_weights)
    with safe_open(folder / "encoder.safetensors", "pt") as file:
        assert json.loads(file.metadata()["encoder"])["position_decay"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preset", "learned", "transformer"])
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
folder, code, texts = json.loads(sys.argv[1])
model = SentenceTransformer(folder, trust_remote_code=code)
features = model.encode(texts).tolist()
model.save(folder + "_again", create_model_card=False)
again = SentenceTransformer(folder + "_again", trust_remote_code=code)
assert again.encode(texts).tolist() == features
prompted = model.encode(texts, prompt="red ").tolist() == model.encode(["red " + text for text in texts]).tolist()
print(json.dumps([features, prompted, "repel" in sys.modules]))
"""


@pytest.fixture
def modules_here(monkeypatch, tmp_path):
    """transformers copies modules of folders to a place of its own: not the user's."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf/modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "compared"),
    [("preset", "data"), ("learned", "random"), ("idf", "random"), ("no order", "data"), ("transformer", "data")],
)
def test_sentence_transformers_loads_the_folder(runs, done, name, compared, modules_here):
    """In a Python that knows nothing of repel; what it saves, too."""
    folder = done(export, f"ckpt={runs[name]}", "format=[sentence_transformers]", f"compare_on={compared}")
    early = name in ("preset", "learned")
    texts = [text for text in few_texts().test.texts if "\x00" not in text]
    texts += EMPTY if name != "transformer" else []  # whose attention differs where there is nothing to attend to
    typed = json.dumps([str(folder / "sentence_transformers"), early, texts])
    result = subprocess.run([sys.executable, "-c", LOADED, typed], capture_output=True, text=True, check=True)
    (found, *checks), expected = json.loads(result.stdout), original(runs[name], texts)
    assert checks == [True, False]
    if name in ("idf", "no order"):  # the weighted sum has another length than the weighted mean
        expected = F.normalize(expected, dim=1)
    assert torch.allclose(torch.tensor(found), expected, atol=1e-5)
    assert [path.name for path in folder.glob("sentence_transformers/*.py")] == ["bag_of_tokens.py"] * early
    assert ("trust_remote_code=True" in (folder / "README.md").read_text(encoding="utf-8")) == early


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
    wrong = text_templates.BAG.template.replace("places**-self", "places**self")
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
