"""W ranks of B pairs take the gradient of one rank of W*B, with users, items and pairs that repeat."""

from pathlib import Path

import pytest
import torch
from conftest import made_once, thinned
from loss_cases import covering
from pair_gradients import ALLOWED, METHODS, gradients, ranks_main
from ranks import forked

WORLDS = {"two": 2, "four": 4}
FEWER = covering(ALLOWED)
CASES = pytest.mark.parametrize(  # every pair on two ranks, each loss and strategy on four, too
    ("pair_ranks", "case"),
    [pytest.param(world, case, id=f"{world}-{'-'.join(case)}",
                  marks=pytest.mark.slow)
     for world in WORLDS for case in (ALLOWED if world == "two" else FEWER)],
    indirect=["pair_ranks"],
)  # fmt: skip


@pytest.fixture(scope="session", params=["two", pytest.param("four", marks=pytest.mark.slow)])
def pair_ranks(request, tmp_path_factory):
    world = WORLDS[request.param]

    def make(folder: Path) -> Path:
        chosen = [item.callspec.params for item in request.session.items if "pair_ranks" in item.fixturenames]
        cases = sorted({of["case"] for of in chosen if of["pair_ranks"] == request.param}, key=str)
        process = forked(ranks_main, cases, world, str(folder))
        process.start()
        process.join(200)
        assert process.exitcode == 0
        return folder

    return torch.load(made_once(tmp_path_factory, f"pair_ranks{world}", make) / "found.pt")


def check(alone: dict[str, torch.Tensor], apart: dict[str, torch.Tensor]) -> None:
    assert alone.keys() == apart.keys()
    assert all(gradient.any() for name, gradient in alone.items() if name.endswith("vectors.weight"))
    for name, one in alone.items():
        torch.testing.assert_close(apart[name], one, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


@CASES
def test_a_loss_with_a_strategy(pair_ranks, case):
    check(gradients(case), pair_ranks[case])


@pytest.mark.parametrize("case", thinned(METHODS, 2))
def test_a_method(pair_ranks, case):
    """SGL's graphs, the catalog, with a target too, drawn negatives, a queue of items, texts of items with dropout."""
    check(gradients(case), pair_ranks[case])
