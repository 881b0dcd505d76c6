"""Every encoder of texts in conf/encoder."""

import sys
import zlib

import pytest
import torch
from conftest import CONF, config, options_of
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models
from torch import nn

from repel.base.dropout import CountedDropout, DrawCounters, counted_parts, give_counters
from repel.data.samples import give_info
from repel.model.optim import parameter_groups
from repel.text.encoders import BagOfTokens, NGramVectors, TokenVectors
from repel.text.texts import TextInfo
from repel.text.transformer import TransformerEncoder

VOCABULARY = 30
SIZES = {
    "bag": {"width": 8},
    "bag_of_ngrams": {"width": 8, "ngrams": [2, 3], "buckets": 64},
    "transformer": {"width": 8, "heads": 2},
}
ELSEWHERE = {"hf"}  # test_hf.py: it needs a package
NAMES = [name for name in options_of("encoder", "text") if name not in ELSEWHERE]


WORDS = ["[UNK]", "[MASK]", "##s", "bird", "birds", *(f"word{i}" for i in range(VOCABULARY - 6))]


def info() -> TextInfo:
    counts = torch.randint(0, 50, (VOCABULARY,), generator=torch.Generator().manual_seed(0)).float()
    library = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, "[UNK]"))
    return TextInfo(train_size=50, vocabulary=VOCABULARY, counts=counts, tokenizer=library.to_str())


def build(name: str, **changes) -> nn.Module:
    torch.manual_seed(0)
    encoder = unsized(name, **changes)
    give_info(encoder, info())
    return encoder


def unsized(name: str, **changes) -> nn.Module:
    """Before it is told of the data."""
    cfg = config("data=wordnet_mini", "views=delete", f"encoder={name}", "data.max_tokens=12")
    return instantiate(cfg.encoder, **SIZES[name] | changes)


def texts(n: int = 6, length: int = 7) -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (n, length), generator=draws, dtype=torch.int32)
    lengths = torch.randint(1, length + 1, (n, 1), generator=draws)
    return tokens * (torch.arange(length) < lengths)


def float64(encoder: nn.Module) -> nn.Module:
    return encoder.double().eval()


@pytest.mark.parametrize("name", NAMES)
def test_encoders_give_features(name):
    encoder = build(name)
    features = encoder(texts())
    assert features.shape == (6, encoder.out_features)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_padding_changes_nothing(name, dtype):
    tokens, encoder = texts().to(dtype), build(name).eval()
    longer = nn.functional.pad(tokens, (0, 5))
    torch.testing.assert_close(encoder(longer), encoder(tokens), rtol=1e-6, atol=1e-6)
    encoder = float64(encoder)
    torch.testing.assert_close(encoder(longer), encoder(tokens), rtol=1e-12, atol=1e-12)
    for row, text in zip(encoder(longer), tokens, strict=True):
        torch.testing.assert_close(row, encoder(text[None, text != 0])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_without_tokens_is_finite_and_changes_no_other(name):
    tokens, encoder = texts(), float64(build(name))
    empty = torch.zeros(1, 7, dtype=torch.int32)
    features = encoder(torch.cat([tokens, empty]))
    torch.testing.assert_close(features[:-1], encoder(tokens), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(features[-1:], encoder(empty[:, :1]), rtol=1e-12, atol=1e-12)
    features.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_text_is_seen(name):
    """Each of its tokens; and, but to the plain bag, their order matters."""
    encoder, text = float64(build(name)), torch.tensor([[3, 9, 4, 12]])
    for place in range(4):
        other = text.clone()
        other[0, place] = 20
        assert (encoder(other) - encoder(text)).abs().max() > 1e-3
    turned = (encoder(text.flip(1)) - encoder(text)).abs().max()
    assert turned < 1e-12 if name == "bag" else turned > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_host(name):
    """On fake tensors of a GPU there is nothing to wait for: whoever asks for a value fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    encoder = build(name)
    give_counters(counted_parts(encoder), DrawCounters(1, 3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        own = {key: torch.empty(p.shape, device="cuda", requires_grad=True) for key, p in encoder.named_parameters()}
        own |= {key: torch.empty(p.shape, dtype=p.dtype, device="cuda") for key, p in encoder.named_buffers()}
        tokens = torch.ones(6, 7, dtype=torch.int32, device="cuda")
        assert torch.func.functional_call(encoder, own, (tokens,)).device.type == "cuda"


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_brings_the_sizes_that_the_data_gave(name):
    encoder, tokens = build(name).eval(), texts()
    other = unsized(name).eval()
    other.load_state_dict(encoder.state_dict())
    assert torch.equal(other(tokens), encoder(tokens))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_exported_encoder_takes_any_number_of_texts_of_any_length(name):
    encoder, tokens = build(name).eval(), texts()
    sizes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(encoder, (tokens[:2, :3].clone(),), dynamic_shapes=(sizes,)).module()
    torch.testing.assert_close(exported(tokens), encoder(tokens), rtol=1e-6, atol=1e-6)


def test_token_vectors_depend_on_the_seed_alone():
    """Not on what reading the data has drawn in between."""
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        vectors = TokenVectors(8)
        torch.rand(1 + len(made))
        vectors.on_data(info())
        made.append(vectors.weight)
    assert torch.equal(*made)
    assert made[0].requires_grad
    assert 0.8 < made[0].norm(dim=1).mean() < 1.2


# ------------------------------------------------------------------------------------------------------------- bag


@pytest.mark.parametrize("weights", ["none", "idf", "learned"])
def test_the_bag_is_the_weighted_mean_of_its_tokens(weights):
    encoder, tokens = float64(build("bag", token_weights=weights)), texts()
    w = torch.ones(VOCABULARY).double() if weights == "none" else (51 / (1 + info().counts.double())).log() + 1
    for row, text in zip(encoder(tokens), tokens, strict=True):
        real = text[text != 0]
        mean = (w[real, None] * encoder.vectors.weight[real]).sum(0) / w[real].sum()
        torch.testing.assert_close(row, mean, rtol=1e-6, atol=1e-8)  # idf is kept in float32
    trained = {name for name, _ in encoder.named_parameters()}
    assert trained == {"vectors.weight"} | ({"log_weights"} if weights == "learned" else set())


def test_gradients_of_the_bag_are_those_of_a_plain_mean():
    encoder, tokens = float64(build("bag")), texts()
    upstream = torch.randn(6, 8, dtype=torch.float64)
    found = torch.autograd.grad((encoder(tokens) * upstream).sum(), list(encoder.parameters()))
    w = encoder.log_weights[tokens].exp() * (tokens != 0)
    plain = (w[..., None] * encoder.vectors.weight[tokens]).sum(1) / w.sum(1, keepdim=True)
    expected = torch.autograd.grad((plain * upstream).sum(), list(encoder.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_token_counts_less_the_later_it_comes():
    encoder, text = float64(build("bag", token_weights="none", position_decay=0.5)), torch.tensor([[3, 9, 4]])
    w = torch.tensor([1, 2, 3]).double() ** -0.5
    torch.testing.assert_close(encoder(text)[0], w @ encoder.vectors.weight[text[0]] / w.sum())


def test_ngrams_are_fasttexts():
    """The mean of the vectors of a word's n-grams, with marks where it begins and ends, is added to its own."""
    encoder = float64(build("bag_of_ngrams", position_decay=0))
    own, parts = encoder.vectors.weight, encoder.ngrams.weight
    grams = {"bird": ["<b", "bi", "ir", "rd", "d>", "<bi", "bir", "ird", "rd>"], "##s": ["s>"]}
    for word, found in grams.items():
        token = WORDS.index(word) + 1
        mean = torch.stack([parts[zlib.crc32(gram.encode()) % 64 + 1] for gram in found]).mean(0)
        torch.testing.assert_close(encoder(torch.tensor([[token]]))[0], own[token] + mean)
        torch.testing.assert_close(encoder.table()[token], own[token] + mean)
    tokens = texts()
    torch.testing.assert_close(encoder(tokens), (encoder.shares(tokens)[..., None] * encoder.table()[tokens]).sum(1))


def test_a_rare_word_learns_from_its_parts():
    encoder = build("bag_of_ngrams")
    seen, unseen = (torch.tensor([[WORDS.index(word) + 1]]) for word in ("bird", "birds"))
    before = encoder(unseen)
    encoder(seen).sum().backward()
    with torch.no_grad():
        for p in encoder.parameters():
            p -= 0.1 * p.grad
    assert (encoder(unseen) - before).max() < -1e-3
    assert not encoder.ngrams.weight.grad[0].any()  # of padding


def test_a_word_of_thousands_of_letters_makes_no_step_dear():
    """All tokens have room for as many n-grams as the longest one."""
    words = ["[UNK]", "[MASK]", "bird", "".join(map(chr, range(0x4E00, 0x5E00)))]
    library = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, "[UNK]"))
    vectors = NGramVectors(4, [3, 5], 16)
    vectors.on_data(TextInfo(train_size=1, vocabulary=5, tokenizer=library.to_str()))
    assert vectors.units.shape == (5, 32 + 31 + 30)
    assert (vectors.units != 0).sum(1).tolist()[3] == 9


def test_weights_of_tokens_do_not_decay():
    encoder = build("bag")
    groups = parameter_groups([encoder], 0.1)
    assert [p is encoder.log_weights for p in groups[1]["params"]] == [True]


# ----------------------------------------------------------------------------------------------------- transformer


def test_the_transformer_is_torchs():
    """The same weights in nn.TransformerEncoder, on texts of one length."""
    encoder = float64(build("transformer", layers=2))
    plain = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True),
        2, nn.LayerNorm(8), enable_nested_tensor=False,
    ).double().eval()  # fmt: skip
    for layer, other in zip(encoder.layers, plain.layers, strict=True):
        names = [("qkv.weight", "self_attn.in_proj_weight"),
                 *((f"{one}.{part}", f"{two}.{part}") for part in ("weight", "bias") for one, two in (
                     ("out", "self_attn.out_proj"), ("mlp.0", "linear1"), ("mlp.2", "linear2"),
                     ("attention_norm", "norm1"), ("mlp_norm", "norm2")))]  # fmt: skip
        none = {"self_attn.in_proj_bias": torch.zeros(24)}
        other.load_state_dict({theirs: layer.state_dict()[ours] for ours, theirs in names} | none)
    plain.norm.load_state_dict(encoder.norm.state_dict())
    tokens = texts().clamp(min=1)
    x = encoder.vectors(tokens) + encoder.positions[:7]
    torch.testing.assert_close(encoder(tokens), plain(x).mean(1), rtol=1e-10, atol=1e-10)


def test_dropout_of_the_transformer_is_the_same_on_any_number_of_ranks():
    """Two views of six texts, cut to the longest of each rank."""
    encoder = build("transformer", dropout=0.2).double().train()
    views, parts = torch.stack([texts(), texts().flip(1).sort(1, descending=True).values]), counted_parts(encoder)
    give_counters(parts, DrawCounters(9, 6))
    whole = encoder(views.flatten(0, 1)).view(2, 6, 8)
    assert (whole - encoder.eval()(views.flatten(0, 1)).view(2, 6, 8)).abs().min() > 0
    encoder.train()
    for start in range(0, 6, 2):
        own = views[:, start : start + 2]
        longest = int((own != 0).sum(-1).max())
        give_counters(parts, DrawCounters(9, 2, start))
        features = encoder(own[..., :longest].flatten(0, 1)).view(2, 2, 8)
        torch.testing.assert_close(features, whole[:, start : start + 2], rtol=1e-10, atol=1e-12)
    assert [type(part) for part in parts] == [CountedDropout] * 5
    assert all(isinstance(part, CountedDropout) for part in encoder.modules() if "ropout" in type(part).__name__)


def test_padding_is_left_out_of_the_computation_on_a_cpu(monkeypatch):
    """Which changes neither values nor gradients, with dropout on. On a GPU, and compiled, texts stay padded."""
    encoder, tokens = build("transformer", dropout=0.3).double().train(), texts(8)
    give_counters(counted_parts(encoder), DrawCounters(4, 4))
    computed, found = [], []
    encoder.layers[0].mlp.register_forward_hook(lambda module, inputs, out: computed.append(out.shape))
    for compiling in (False, True):
        monkeypatch.setattr("torch.compiler.is_compiling", lambda compiling=compiling: compiling)
        features = encoder(tokens)
        found.append([features, *torch.autograd.grad(features.square().sum(), list(encoder.parameters()))])
    assert computed == [((tokens != 0).sum(), 8), (8, 7, 8)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    padded = encoder.eval()(torch.nn.functional.pad(tokens, (0, 4)))
    monkeypatch.undo()
    torch.testing.assert_close(padded, encoder(tokens), rtol=1e-12, atol=1e-12)


def test_positions_do_not_decay():
    encoder = build("transformer")
    assert any(p is encoder.positions for p in parameter_groups([encoder], 0.1)[1]["params"])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: BagOfTokens(token_weights="tfidf"),
            "encoder.token_weights must be one of none, idf, learned, got 'tfidf'",
        ),
        (lambda: BagOfTokens(position_decay=-1), "encoder.position_decay must be at least 0, got -1"),
        (lambda: BagOfTokens(ngrams=[5, 3]), r"encoder.ngrams must be two lengths such as \[3,5\], or null, got \[5"),
        (lambda: BagOfTokens(ngrams=[3, 5], buckets=0), "encoder.buckets must be at least 1, got 0"),
        (lambda: BagOfTokens(width=0), "encoder.width must be at least 1, got 0"),
        (lambda: TransformerEncoder(width=8, heads=3), "encoder.width=8 must be a multiple of encoder.heads=3"),
        (lambda: TransformerEncoder(layers=0), "layers and max_tokens of at least 1, got 0 and 32"),
        (lambda: TransformerEncoder(dropout=1), "encoder.dropout must be at least 0 and below 1, got 1"),
        (lambda: build("transformer")(torch.ones(1, 13).int()), "encoder.max_tokens=12; cut it by data.max_tokens"),
    ],
)
def test_impossible_encoders_are_explained(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_what_is_not_installed_is_named(monkeypatch):
    from repel.text.hf import HuggingFaceEncoder

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"encoder=hf needs transformers: pip install .*text-hf"):
        HuggingFaceEncoder("sentence-transformers/all-MiniLM-L6-v2")


def test_defaults_in_python_are_those_of_conf():
    import inspect

    for kind, name in ((BagOfTokens, "bag"), (TransformerEncoder, "transformer")):
        node = OmegaConf.to_container(OmegaConf.load(CONF / f"encoder/{name}.yaml"))
        defaults = {key: p.default for key, p in inspect.signature(kind).parameters.items()}
        assert {"_target_": node["_target_"], **defaults, "max_tokens": 0} == {**node, "max_tokens": 0}
