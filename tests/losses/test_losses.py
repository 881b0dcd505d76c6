"""Losses: the contract for every YAML in conf with every strategy, options that are refused."""

import itertools

import pytest
import torch
from conftest import options
from hydra.errors import InstantiationException
from loss_cases import (
    CHOSEN,
    DIM,
    IDS,
    LABELS,
    NO_NEGATIVES,
    NO_SUM,
    PAIRS,
    REFUSED,
    assert_equal,
    batch,
    each_once,
    make,
    node,
    rowwise,
    setting,
    stops_gradient,
    value_and_gradient,
    with_and_without_memory,
)


def test_all_pairs_and_each_part_with_and_without_a_memory_are_tested():
    covered = {(*pair, memory) for pair, memory in CHOSEN}
    assert {(loss, strategy) for loss, strategy, memory in covered if not memory} == set(PAIRS)
    assert {(loss, memory) for loss, _, memory in covered} == set(itertools.product(options("loss"), (False, True)))
    assert {(part, memory) for _, part, memory in covered} == set(
        itertools.product(options("negatives"), (False, True))
    )
    assert len(covered) < 0.6 * 2 * len(PAIRS)


@with_and_without_memory()
class TestEveryPair:
    def test_scalar_with_finite_gradient(self, pair, memory):
        for views in (2, 3):
            made, arguments = setting(pair, views, memory)
            value, gradient = value_and_gradient(made, batch(views), **arguments)
            assert value.shape == ()
            assert torch.isfinite(value)
            assert torch.isfinite(gradient).all()
            if pair != ("ressl", "semi_hard"):  # six samples leave hardly any anchor two candidates to relate
                assert gradient.abs().sum() > 0

    def test_gradcheck(self, pair, memory):
        if not stops_gradient(pair, memory):
            made, arguments = setting(pair, 2, memory)
            assert torch.autograd.gradcheck(lambda z: made(z, **arguments), batch(), fast_mode=True)


@with_and_without_memory()
class TestContract:
    def test_row_chunks_change_nothing(self, pair, memory):
        if pair[0] in NO_NEGATIVES:
            return
        for views, chunk in ((2, 1), (2, 12), (3, 5)):
            z = batch(views)
            results = []
            for row_chunk in (None, chunk):
                made, arguments = setting(pair, views, memory, row_chunk=row_chunk)
                results.append(value_and_gradient(made, z, **arguments))
            assert_equal(*results, rtol=1e-12, atol=1e-14)

    def test_a_call_changes_nothing(self, pair, memory):
        made, arguments = setting(pair, 2, memory)
        before = {name: value.clone() for name, value in made.state_dict().items()}
        values = [made(batch(), **arguments) for _ in range(2)]
        assert torch.equal(*values)
        assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())

    def test_says_whether_labels_matter(self, pair, memory):
        made, arguments = setting(pair, 2, memory)
        values = [made(batch(), **(arguments | {"labels": labels})) for labels in (LABELS, LABELS.flip(0))]
        assert torch.equal(*values) is not made.supervised
        if not made.supervised:
            assert torch.equal(made(batch(), **(arguments | {"labels": None})), values[0])

    def test_local_anchors_average_to_the_whole(self, pair, memory):
        for views in (2, 3):
            (made, arguments), z = setting(pair, views, memory), batch(views)
            whole = value_and_gradient(made, z, **arguments)
            parts = [value_and_gradient(made, z, **arguments, local=slice(i, i + 2)) for i in (0, 2, 4)]
            assert_equal(whole, [sum(p) / 3 for p in zip(*parts, strict=True)], rtol=1e-12, atol=1e-14)

    def test_order_of_samples_and_views_and_rotation_do_not_matter(self, pair, memory):
        made, arguments = setting(pair, 2, memory)
        z, order, target = batch(), torch.tensor([3, 0, 5, 1, 4, 2]), arguments.get("target")
        value = made(z, **arguments)
        if pair[1] != "random":  # which draws by place
            moved = {"labels": LABELS[order], "ids": IDS[order]}
            if memory:
                moved["target"] = target[:, order]
            torch.testing.assert_close(made(z[:, order], **moved), value, rtol=1e-12, atol=1e-14)
            turned = arguments | ({"target": target.flip(0)} if memory else {})
            torch.testing.assert_close(made(z.flip(0), **turned), value, rtol=1e-12, atol=1e-14)
        if pair[0] in ("barlow", "vicreg", "swav"):
            return  # they know their axes
        rotation = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64)).Q
        if memory:
            arguments["target"] = target @ rotation
            for part in rowwise(made):
                part.queue.z @= rotation
        torch.testing.assert_close(made(z @ rotation, **arguments), value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pair", each_once(PAIRS))
def test_finite_in_low_precision_and_computed_in_float32(pair, dtype):
    z, labels, ids = batch(samples=64, dim=16, dtype=torch.float32).detach(), torch.arange(64) % 4, torch.arange(64)
    for temperature in [0.005, 0.07, 1.0] if "temperature" in node("loss", pair[0]) else [None]:
        changes = {} if temperature is None else {"temperature": temperature}
        changes |= {"dim": 16} if pair[0] == "swav" else {}
        changes |= {"learn_temperature": False} if pair[0] == "siglip" else {}
        made = make(*pair, **changes).float()
        with torch.autocast("cpu", torch.bfloat16):
            value, gradient = value_and_gradient(made, z.to(dtype), labels=labels, ids=ids)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        exact = made.double()(z.to(dtype).double(), labels, ids)
        torch.testing.assert_close(value.double(), exact, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", options("loss"))
def test_one_sample_is_refused(name):
    with pytest.raises(ValueError, match="2 samples"):
        make(name)(batch(samples=1), labels=LABELS[:1])


def test_what_refuses_what():
    assert {"barlow", "vicreg", "swav", "byol"} <= NO_NEGATIVES
    assert {"siglip", "triplet", "margin_cosine", "cosine_regression", "supcon", "sce", "ressl"} <= NO_SUM
    summing = {"ntxent", "infonce", "decoupled", "decoupled_weighted", "dhel", "macl", "nnclr", "align_uniform"}
    assert not (summing | {"multi_similarity"}) & (NO_SUM | NO_NEGATIVES)


@pytest.mark.parametrize("pair", sorted(REFUSED), ids="-".join)
def test_pairs_without_a_meaning_are_refused(pair):
    """By the loss; those without negatives have no key for them, which the config's check refuses (tests/cli)."""
    if pair[0] in NO_NEGATIVES:
        assert "negatives" not in node("loss", pair[0])
        return
    with pytest.raises(InstantiationException, match="negatives") as caught:
        make(*pair)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("name", "changes", "word"),
    [
        ("ntxent", {"temperature": 0.0}, "temperature"),
        ("ntxent", {"temperature": -0.5}, "temperature"),
        ("ntxent", {"temperature": float("nan")}, "temperature"),
        ("ntxent", {"temperature": 0.005, "learn_temperature": True}, "temperature"),
        ("ntxent", {"row_chunk": 0}, "row_chunk"),
        ("ntxent", {"row_chunk": -3}, "row_chunk"),
        ("ntxent", {"row_chunk": 2.5}, "row_chunk"),
        ("ntxent", {"row_chunk": "much"}, "row_chunk"),
        ("ntxent", {"candidates": "others"}, "candidates"),
        ("infonce", {"candidates": "queue"}, "candidates"),
        ("nnclr", {"candidates": "queue", "queue": 8}, "candidates"),
        ("decoupled_weighted", {"sigma": 0}, "sigma"),
        ("macl", {"alpha": 2.0}, "alpha"),
        ("triplet", {"margin": 3.0}, "margin"),
        ("triplet", {"link": "square"}, "link"),
        ("triplet", {"learn_temperature": True}, "learn_temperature"),
        ("margin_cosine", {"learn_temperature": True}, "learn_temperature"),
        ("margin_cosine", {"power": 3}, "power"),
        ("margin_cosine", {"weight": 0.0}, "weight"),
        ("margin_cosine", {"negative_margin": -2.0}, "negative_margin"),
        ("cosine_regression", {"margin": 1.5}, "margin"),
        ("multi_similarity", {"alpha": 0.0}, "alpha"),
        ("supcon", {"positives": "all"}, "positives"),
        ("supcon", {"candidates": "cross"}, "candidates"),
        ("supcon", {"symmetric": False}, "symmetric"),
        ("align_uniform", {"weight": 0.0}, "weight"),
        ("sce", {"coefficient": 1.5}, "coefficient"),
        ("ressl", {"target_temperature": 0.0}, "target_temperature"),
        ("swav", {"prototypes": 0}, "prototypes"),
        ("swav", {"epsilon": 0.0}, "epsilon"),
        ("barlow", {"redundancy": 0.0}, "redundancy"),
        ("vicreg", {"variance": -1.0}, "variance"),
    ],
)
def test_impossible_options_are_named(name, changes, word):
    with pytest.raises(InstantiationException) as caught:
        make(name, **changes)
    assert isinstance(caught.value.__cause__, ValueError)
    assert f"loss.{word}" in str(caught.value.__cause__)
