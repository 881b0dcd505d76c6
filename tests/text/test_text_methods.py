"""Every loss and every strategy learns from texts."""

import copy

import pytest
import torch
from conftest import config, options
from loss_cases import MATRIX, REFUSED, covering, make
from text_runs import ENCODERS, SMALL, text_info

from repel.data.pair import Pair
from repel.engine.build import build_module

VOCABULARY, STEPS, B = 30, 20, 8
TRAINED = covering([pair for pair in MATRIX if pair not in REFUSED
                    and (pair[1] != "own_negatives" or make(pair[0]).takes_negatives)])  # fmt: skip


def batches(negatives: bool) -> list[Pair]:
    """Of random tokens; the second view is the first without its last token."""
    g = torch.Generator().manual_seed(0)
    found = []
    for step in range(STEPS):
        tokens = torch.randint(1, VOCABULARY, (B, 5), generator=g, dtype=torch.int32)
        shorter = torch.nn.functional.pad(tokens[:, :4], (0, 1))
        hard = torch.randint(1, VOCABULARY, (1, B, 4), generator=g, dtype=torch.int32) if negatives else None
        ids, labels = (torch.arange(B) + step * B).expand(2, B), torch.arange(B) % 3
        found.append(Pair(torch.stack([tokens, shorter]), ids, labels, None, hard))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("loss", options("loss"))
def test_every_loss_and_every_strategy_learns_from_texts(loss):
    """20 steps of the bag, with explicit negatives where the loss takes them; what is refused is in test_methods.py.

    Of all pairs value and gradient are in test_losses.py, over ranks in test_distributed.py.
    """
    around = ["predictor=mlp", "target=ema"] if loss == "byol" else []
    first = build_module(config(*SMALL, *ENCODERS["bag"], *around))
    first.give_data_info(text_info(VOCABULARY))
    takes = make(loss).takes_negatives
    for strategy in (name for of, name in TRAINED if of == loss):
        module = copy.deepcopy(first)
        module.loss = make(loss, strategy, **({"dim": 4} if loss == "swav" else {})).float()
        before = copy.deepcopy(module.encoder.state_dict())
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        for batch in batches(takes):
            value, output = module.shared_step(batch)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            module.loss.update(output.keys, output.labels, output.ids)
            assert torch.isfinite(value), strategy
        after = module.encoder.state_dict()
        assert all(torch.isfinite(tensor).all() for tensor in after.values()), strategy
        assert not torch.equal(before["vectors.weight"], after["vectors.weight"]), strategy
