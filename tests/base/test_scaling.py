"""docs/scaling.md: its tables are what scripts/scaling.py computes, and the formulas are those of the code."""

import importlib
import json

import pytest
import torch
from conftest import ROOT
from torch.utils.flop_counter import FlopCounterMode

from repel.losses import NTXent


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("scaling")


@pytest.fixture
def formulas(script):
    return importlib.import_module("_scaling_formulas")


def test_the_tables_of_the_page_are_what_the_script_computes(script):
    page = script.PAGE.read_text(encoding="utf-8")
    made = script.tables(json.loads(script.CONSTANTS.read_text(encoding="utf-8")))
    assert script.fill(page, made) == page
    made["ring"] = [*made["ring"], "| another |"]
    assert script.fill(page, made) != page


def test_the_products_of_the_loss_are_those_that_torch_counts(formulas):
    batch = formulas.Batch(B=12, V=2, D=5)
    z = torch.randn(2, 12, 5, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        NTXent(row_chunk=None)(z).backward()
    assert formulas.loss_flops(batch) == counter.get_total_flops() == 3 * 2 * 5 * 24 * 24


def test_copies_per_logit_are_those_of_row_chunk_auto(formulas):
    from repel.losses import chunking

    assert formulas.PEAK_MATRICES == chunking.PEAK_MATRICES
    assert formulas.block_bytes(formulas.Batch(B=4, W=2, V=2, K=10), rows=3) == 8 * 4 * 3 * (16 + 10)


def test_what_a_rank_receives_is_the_sum_of_what_the_others_send(formulas):
    B, W, V, D = 6, 4, 2, 3
    own = [torch.zeros(V, B, D) for _ in range(W)]
    others = sum(z.nbytes for z in own[1:])
    batch = formulas.Batch(B, W, V, D)
    assert formulas.gather_bytes(batch) == others + 2 * (W - 1) / W * (W * own[0].nbytes)  # all-gather, all-reduce
    assert formulas.ring_bytes(batch) == (W - 1) * (1 + 2) * own[0].nbytes  # keys; keys with gradients
    assert formulas.memory(batch, formulas.Model("", 0, 0, 0, 0))["embeddings"] == 5 * sum(z.nbytes for z in own)


def test_one_rank_exchanges_nothing(formulas):
    batch, model = formulas.Batch(8), formulas.Model("", 1000, 1e6, 1e3, 1e4)
    parts = formulas.step_seconds(batch, model, formulas.H100)
    assert parts["exchange"] == parts["gradient"] == 0
    assert formulas.ring_seconds(batch, formulas.H100) == pytest.approx(
        formulas.RING_WORK * formulas.loss_seconds(batch, formulas.H100)
    )


def test_a_ring_is_as_slow_as_the_slower_of_tiles_and_links(formulas):
    """By hand: forward a quarter of the products, backward three, W tiles each; W - 1 of them wait for a link."""
    batch, flops = formulas.Batch(B=2, W=4, V=2, D=3), 10.0
    tile = 4 / 3 * (6 * 3 * 4 * 16) / flops / 4
    slow = formulas.Machine("", 1, flops, 1, 1, near=1.0, far=1.0, reached=1.0, near_hop=5.0, far_hop=0, base=0)
    fast = formulas.Machine("", 1, flops, 1, 1, near=1e30, far=1.0, reached=1.0, near_hop=0.0, far_hop=0, base=0)
    bytes_of = 4 * 2 * 2 * 3
    assert formulas.ring_seconds(batch, fast) == pytest.approx(4 * tile)
    linked = tile + 3 * (max(tile / 4, 5 + bytes_of) + max(3 * tile / 4, 5 + 2 * bytes_of))
    assert formulas.ring_seconds(batch, slow) == pytest.approx(linked)


def test_micro_batches_cost_a_forward_pass_and_save_activations(formulas):
    model = formulas.Model("", 10, 100.0, 1e3, 0.0)
    whole, parts = formulas.Batch(64), formulas.Batch(64, micro=16)
    seconds = [formulas.encoder_seconds(batch, model, formulas.A100) for batch in (whole, parts)]
    assert seconds[1] / seconds[0] == pytest.approx(4 / 3)
    kept = [formulas.memory(batch, model)["activations"] for batch in (whole, parts)]
    assert kept == [2 * 64 * 1e3, 2 * 16 * 1e3]


def test_numbers_in_words(script):
    assert [script.number(x) for x in (0, 0.0512, 4.26, 5234.1)] == ["0", "0.051", "4.3", "5,234"]
    assert script.size_in_words(1.25e9) == "1.2 G"
