"""Encoders of Hugging Face's transformers, with tiny models that are made here."""

import copy

import pytest
import torch
from conftest import CONF
from hydra.utils import instantiate
from omegaconf import OmegaConf

from repel.text.hf import HuggingFaceEncoder
from repel.text.texts import TextInfo

transformers = pytest.importorskip("transformers", reason="the extra text-hf is not installed")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnop"]
COMMON = {"vocab_size": len(WORDS), "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 16, "max_position_embeddings": 20, "pad_token_id": 0}  # fmt: skip
LLAMA = {"bos_token_id": 2, "eos_token_id": 3, "num_key_value_heads": 2}
MODERN = {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 2, "sep_token_id": 3,
          "bos_token_id": 2, "eos_token_id": 3}  # fmt: skip
MODELS = {  # a configuration, how padding is told, and what is put around a text
    "bert": (lambda: transformers.BertConfig(**COMMON), "prepared", ("[CLS]", "[SEP]")),
    "roberta": (lambda: transformers.RobertaConfig(**COMMON | {"pad_token_id": 1}), "prepared", ("[CLS]", "[SEP]")),
    "llama": (lambda: transformers.LlamaConfig(**COMMON, **LLAMA), "none", ("", "[SEP]")),
    "modernbert": (lambda: transformers.ModernBertConfig(**COMMON, **MODERN), "whole", ("[CLS]", "[SEP]")),
    "bare": (lambda: transformers.BertConfig(**COMMON), "prepared", ("", "")),
}


def tokenizer(around: tuple[str, str]):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, WORDS.index(word)) for word in around if word]
    template = " ".join(word for word in (around[0], "$A", around[1]) if word)
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    made.enable_padding(length=9)  # as in files of sentence-transformers
    return made


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """Folder, name."""
    configure, _, around = MODELS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    transformers.AutoModel.from_config(configure()).save_pretrained(folder)
    tokenizer(around).save(str(folder / "tokenizer.json"))
    return folder, request.param


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**COMMON)).save_pretrained(folder)
    tokenizer(("[CLS]", "[SEP]")).save(str(folder / "tokenizer.json"))
    return folder


def texts(n: int = 4, length: int = 5) -> torch.Tensor:
    """Internal ids: the tokenizer's, and 1."""
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, len(WORDS) + 1, (n, length), generator=draws, dtype=torch.int32)
    lengths = torch.tensor([length, 1, *torch.randint(1, length, (n - 2,), generator=draws)])
    return tokens * (torch.arange(length) < lengths[:, None])


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_features_are_the_models_own_of_each_text_alone(model, pooling):
    """Special tokens around it, no padding; and the way it is told of padding needs no look at the device."""
    folder, name = model
    encoder, tokens = HuggingFaceEncoder(str(folder), pooling).eval().double(), texts()
    assert encoder.mask_form == MODELS[name][1]
    net = transformers.AutoModel.from_pretrained(folder).eval().double()
    before, after = ([WORDS.index(word)] if word else [] for word in MODELS[name][2])
    features = encoder(tokens)
    for row, text in zip(features, tokens, strict=True):
        ids = torch.tensor([[*before, *(int(token) - 1 for token in text if token), *after]])
        hidden = net(input_ids=ids).last_hidden_state[0]
        expected = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        torch.testing.assert_close(row, expected, rtol=1e-6, atol=1e-6)  # some compute norms in float32


@pytest.mark.parametrize("lora", [None, {"r": 2, "alpha": 2}])
def test_it_trains_with_dropout(bert, lora):
    """SimCSE's views differ by nothing else; transformers loads a model without."""
    if lora:
        pytest.importorskip("peft", reason="the extra text-hf is not installed")
    encoder, tokens = HuggingFaceEncoder(str(bert), lora=lora), texts()
    assert all(part.training for part in encoder.modules())
    assert not torch.equal(encoder(tokens), encoder(tokens))
    assert torch.equal(encoder.eval()(tokens), encoder(tokens))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_padding_changes_nothing(model, dtype):
    encoder, tokens = HuggingFaceEncoder(str(model[0])).eval(), texts().to(dtype)
    longer = torch.nn.functional.pad(tokens, (0, 4))
    torch.testing.assert_close(encoder(longer), encoder(tokens), rtol=1e-6, atol=1e-6)


def test_a_text_without_tokens_is_finite_and_changes_no_other(model):
    encoder, tokens = HuggingFaceEncoder(str(model[0])).eval(), texts()
    empty = torch.zeros(1, 5, dtype=torch.int32)
    features = encoder(torch.cat([tokens, empty]))
    torch.testing.assert_close(features[:-1], encoder(tokens), rtol=1e-6, atol=1e-6)
    features.square().sum().backward()
    gradients = [p.grad for p in encoder.parameters()]
    assert features.isfinite().all()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)  # no pooler is left over


def test_groups_of_one_length_have_the_features_and_gradients_of_the_whole_batch(model, monkeypatch):
    encoder, lengths = HuggingFaceEncoder(str(model[0])).eval().double(), []
    monkeypatch.setattr("repel.text.hf.GROUP_SIZE", 2)
    tokens = torch.cat([texts(8), torch.zeros(1, 5, dtype=torch.int32)])  # one text has no tokens
    weights = torch.randn(9, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradients(h: torch.Tensor) -> list[torch.Tensor]:
        return torch.autograd.grad((h * weights).sum(), list(encoder.parameters()))

    whole = encoder.features(tokens)
    one_pass = encoder.features
    monkeypatch.setattr(encoder, "features", lambda x: (lengths.append(x.shape[1]), one_pass(x))[1])
    grouped = encoder(tokens)
    assert len(lengths) == 4
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1] == 5
    torch.testing.assert_close(grouped, whole, rtol=1e-6, atol=1e-6)  # some compute norms in float32
    for ours, theirs in zip(gradients(grouped), gradients(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_tokens_must_be_the_models_own(bert):
    encoder = HuggingFaceEncoder(str(bert))
    own = tokenizer(("", ""))
    encoder.on_data(TextInfo(10, vocabulary=len(WORDS) + 1, tokenizer=own.to_str()))
    own.add_tokens(["q"])
    for other in (own.to_str(), ""):
        with pytest.raises(ValueError, match=r"its own model's tokens; add data\.tokenizer=.*tokenizer\.json$"):
            encoder.on_data(TextInfo(10, vocabulary=len(WORDS) + 2, tokenizer=other))


def test_lora_trains_its_updates_alone(bert):
    torch.manual_seed(0)
    encoder, tokens = HuggingFaceEncoder(str(bert), lora={"r": 2, "alpha": 4}).eval(), texts()
    trained = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    torch.testing.assert_close(encoder(tokens), HuggingFaceEncoder(str(bert)).eval()(tokens))  # updates begin at 0
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    before = encoder(tokens)
    before.square().sum().backward()
    optimizer.step()
    assert not torch.allclose(encoder(tokens), before)
    torch.testing.assert_close(copy.deepcopy(encoder)(tokens), encoder(tokens))  # as a target copies it
    # evaluation: the architecture without its weights, then the checkpoint's
    torch.manual_seed(1)
    other = HuggingFaceEncoder(str(bert), lora={"r": 2, "alpha": 4}, pretrained=False).eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(tokens), encoder(tokens))


def test_what_cannot_be_loaded_says_what_to_do(bert, tmp_path):
    node = OmegaConf.load(CONF / "encoder/hf.yaml")
    for name, words in {
        str(tmp_path / "none"): "there is no such folder",
        str(tmp_path): r"cannot be loaded .* give a folder with config\.json, tokenizer\.json and model\.safetensors",
    }.items():
        with pytest.raises(Exception, match=words) as caught:
            instantiate(node, name=name)
        assert "\n" not in str(caught.value.__cause__)
    for changes, words in {
        ("pooling", "max"): "encoder.pooling must be one of mean, cls, last, got 'max'",
        ("lora", (("rank", 2),)): "encoder.lora has no rank; it has r, alpha, dropout, modules",
    }.items():
        key, value = changes
        with pytest.raises(ValueError, match=words):
            HuggingFaceEncoder(str(bert), **{key: dict(value) if key == "lora" else value})
    with pytest.raises(ValueError, match=r"may have 19 tokens, and this model takes 18; cut by data\.max_tokens"):
        HuggingFaceEncoder(str(bert))(torch.ones(1, 19, dtype=torch.int32))


def test_damaged_weights_are_one_line(bert, tmp_path):
    for file in bert.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:100] if file.suffix == ".safetensors" else content)
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        HuggingFaceEncoder(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_defaults_in_python_are_those_of_conf():
    import inspect

    node = OmegaConf.to_container(OmegaConf.load(CONF / "encoder/hf.yaml"))
    defaults = {key: p.default for key, p in inspect.signature(HuggingFaceEncoder).parameters.items() if key != "name"}
    assert defaults == {key: value for key, value in node.items() if key not in ("_target_", "name")}
