"""encoder=two_tower_text: an item's text is its tower's input, by the text encoders."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import config, same
from hydra.utils import instantiate
from item_texts import ITEMS, TEXTS, info, nodes, towers
from runs_here import status
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from repel.base.dropout import FIRST_CATALOG, DrawCounters, counted_parts, give_counters
from repel.cli.baseline import baseline
from repel.data.samples import give_info
from repel.engine.build import build_module
from repel.engine.configs import to_container
from repel.engine.initial_weights import Weights, start_from
from repel.engine.modalities import check_modality
from repel.interactions.two_tower import TwoTower
from repel.model.ema import EMA
from repel.text.encoders import BagOfTokens
from repel.text.transformer import TransformerEncoder

TYPED = ["experiment=two_tower", "encoder=two_tower_text"]
CHOICES = ["bag", "bag_of_ngrams", "transformer"]
ENCODERS = {
    "bag": lambda: BagOfTokens(width=4),
    "ngrams": lambda: BagOfTokens(width=4, token_weights="none", position_decay=0.5, ngrams=[2, 3], buckets=16),
    "transformer": lambda: TransformerEncoder(width=4, layers=1, heads=2),
}
NOT_ALL = {"own_vectors": ["user"], "hidden": []}


def by_hand(encoder: TwoTower, number: int) -> torch.Tensor:
    """An item's features: its own tokens alone, as no other item has any part in them."""
    part = encoder.item.text
    row = part.tokens[number]
    row = row[row != 0]
    x = encoder.item.own[number] if encoder.item.own is not None else torch.zeros(5, dtype=torch.float64)
    if len(row):
        h = part.encoder(row[None])[0]
        x = x + (h / (h * h).sum().sqrt()) @ part.projection
    for linear in (one for one in encoder.item.mlp if isinstance(one, nn.Linear)):
        x = linear.weight @ (x if linear is encoder.item.mlp[0] else x.relu()) + linear.bias
    return x


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("options", [{}, NOT_ALL], ids=["all", "text alone"])
def test_a_texts_vector_is_added_in_value_and_gradient(name, options):
    encoder, numbers = towers(ENCODERS[name](), **options), [5, 2, 0, 0, 3, 1, 4]
    h, theirs = encoder(nodes(*numbers)), torch.stack([by_hand(encoder, number) for number in numbers])
    torch.testing.assert_close(h, theirs, rtol=0, atol=1e-12)
    weights = [weight for weight in encoder.item.parameters() if weight.requires_grad]
    for mine, own in zip(*(torch.autograd.grad((x**3).sum(), weights) for x in (h, theirs)), strict=True):
        torch.testing.assert_close(mine, own, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_and_the_batch_change_nothing_and_no_text_is_zero(name):
    part = towers(ENCODERS[name]()).item.text
    every = torch.arange(ITEMS)
    assert part.tokens.shape == (ITEMS, 6)  # of the longest text
    found = part(every.repeat(2))  # each text once
    torch.testing.assert_close(found, part.features(every).repeat(2, 1), rtol=0, atol=1e-12)
    assert (found[TEXTS.index("")] == 0).all()
    assert (found[[0, 1, 3]] != 0).all()
    part.tokens = F.pad(part.tokens, (0, 9))
    torch.testing.assert_close(part(every.repeat(2)), found, rtol=0, atol=1e-12)
    found.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in part.parameters() if weight.grad is not None)


def test_what_a_text_tells_begins_as_long_as_an_own_vector():
    for name in ("bag", "transformer"):
        torch.manual_seed(0)
        encoder = TwoTower(width=64, item_text=ENCODERS[name]())
        give_info(encoder, info())
        lengths = encoder.eval().item.text(torch.tensor([0, 1, 3, 4, 5])).norm(dim=1)
        assert ((lengths > 0.6) & (lengths < 1.4)).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_text_encoders_are_chosen_by_name_and_a_checkpoint_needs_no_texts(choice):
    node = config(*TYPED, *([f"encoder@encoder.item_text={choice}"] if choice != "bag" else [])).encoder
    assert node.item_text._target_.startswith("repel.text.")
    one, two = (instantiate(node, item_text={"width": 8}) for _ in range(2))
    give_info(one, info())
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.eval()(nodes(0, 1, 2)), two.eval()(nodes(0, 1, 2)))
    assert two.item.text.tokens.shape == (ITEMS, 6)


def test_a_target_knows_the_texts_too():
    module = build_module(config(*TYPED))
    module.target = EMA(module.encoder, module.head, 0.9)
    module.give_data_info(info())
    assert same(module.encoder.state_dict(), module.target.encoder.state_dict())
    assert len(module.target.encoder.item.text.tokens) == ITEMS
    kept = module._ddp_params_and_buffers_to_ignore
    assert {"encoder.item.text.tokens", "target.encoder.item.text.tokens"} <= set(kept)


def test_a_rank_drops_of_its_texts_what_one_rank_drops():
    """Of the catalog, whose parts the ranks encode."""
    encoder = towers(TransformerEncoder(width=4, layers=1, heads=2, dropout=0.5)).train()
    parts = counted_parts(encoder)
    assert len(parts) == 3

    def drawn(part: slice) -> torch.Tensor:
        give_counters(parts, DrawCounters(7, part.stop - part.start, part.start, FIRST_CATALOG))
        return encoder(nodes(*range(part.start, part.stop)))

    whole = drawn(slice(0, ITEMS))
    torch.testing.assert_close(torch.cat([drawn(slice(0, 2)), drawn(slice(2, ITEMS))]), whole, rtol=0, atol=1e-12)
    assert not torch.allclose(whole, encoder.eval()(nodes(*range(ITEMS))))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("training", [True, False])
def test_no_step_waits_for_the_host(name, training):
    """On fake tensors of a GPU: whoever asks for a value fails."""
    encoder = towers(ENCODERS[name]()).train(training)
    give_counters(counted_parts(encoder), DrawCounters(1, 3))
    with FakeTensorMode(allow_non_fake_inputs=True):
        own = {key: torch.empty(p.shape, device="cuda", requires_grad=True) for key, p in encoder.named_parameters()}
        own |= {key: torch.empty(p.shape, dtype=p.dtype, device="cuda") for key, p in encoder.named_buffers()}
        side = torch.ones(3, 2, dtype=torch.int64, device="cuda")
        assert torch.func.functional_call(encoder, own, ((side, side),)).device.type == "cuda"


@pytest.mark.parametrize(
    ("item_text", "line"),
    [
        (
            {"_target_": "repel.images.encoders.SmallResNet"},
            "encoder@encoder.item_text=x is for images, and",
        ),
        ({"_target_": "repel.interactions.encoders.Table"}, "encoder@encoder.item_text=x is for users and items, and"),
        ("bag", "encoder.item_text=bag: type encoder=two_tower_text encoder@encoder.item_text=bag"),
    ],
)
def test_other_parts_are_no_text_encoders(item_text, line):
    composed = to_container(config(*TYPED))
    check_modality(composed, {})
    composed["encoder"]["item_text"] = item_text
    with pytest.raises(ValueError, match=re.escape(line)):
        check_modality(composed, {"encoder@encoder.item_text": "x"})


def test_a_mistake_in_a_text_encoders_option_names_it(tmp_path):
    assert status(tmp_path / "run", *TYPED, "encoder.item_text.width=0") == (
        2,
        "encoder.item_text.width must be at least 1, got 0",
    )


def test_options_of_a_chosen_text_encoder_are_known():
    typed = ["experiment=two_tower", "encoder=two_tower_text", "encoder@encoder.item_text=transformer"]
    assert "heads" in baseline("train", [*typed, "encoder.item_text.heads=2"]).encoder.item_text


def test_data_without_texts():
    with pytest.raises(ValueError, match=re.escape("add data.items=FILE data.item_text=COLUMN")):
        give_info(TwoTower(item_text=BagOfTokens(4)), info(None))


def test_weights_of_other_tokens_are_not_taken(tmp_path):
    """init=: of texts with other words; those of the same words are."""
    module, other = (build_module(config(*TYPED)) for _ in range(2))
    module.give_data_info(info())
    words = {"same": TEXTS[::-1], "others": [text.replace("red", "tan") for text in TEXTS]}
    for name, texts in words.items():
        own, theirs = copy.deepcopy(module), copy.deepcopy(other)
        theirs.give_data_info(info(texts))
        nn.init.ones_(theirs.encoder.item.text.encoder.vectors.weight)
        nn.init.ones_(theirs.encoder.item.mlp[0].weight)
        start_from(Weights(theirs.state_dict(), {}), config(*TYPED), own, tmp_path, say=False)
        assert (own.encoder.item.mlp[0].weight == 1).all()
        assert bool((own.encoder.item.text.encoder.vectors.weight == 1).all()) == (name == "same")
        assert torch.equal(own.encoder.item.text.tokens, module.encoder.item.text.tokens)
