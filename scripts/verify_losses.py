"""Numerical errors of every loss with every strategy: python scripts/verify_losses.py [LOSS ...]

Covers everything in conf/loss and conf/negatives, your additions included, in float64. The tests assert the same.

golden    largest difference of value or gradient from stored values of reference implementations, if there are any
ranks     largest difference of a parameter's gradient, the temperature's included, between 2 ranks and one
chunks    largest difference of value or gradient between row_chunk=5 and all rows at once
gradcheck analytic against numerical gradient; `sg` if a part of the loss has no gradient by definition
All but golden are computed without and with a queue and a target; the larger is shown. Exit status 1 if an error is
above 1e-9.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import sys
import tempfile
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

import golden_cases
import loss_cases as losses
import rank_gradients as ranks
from conftest import options
from hydra.errors import InstantiationException

from repel.base.signals import ends_on_signal

TOLERANCE = 1e-9


def largest(ours, theirs) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def golden(pair: tuple[str, str]) -> float | None:
    found = {
        name: golden_cases.of_options
        for name, (loss, _) in golden_cases.GOLDEN_OPTIONS.items()
        if pair == (loss, "uniform")
    }
    if pair == ("ntxent", "hcl"):
        found = dict.fromkeys(golden_cases.HCL, golden_cases.of_hcl)
    elif pair == ("triplet", "semi_hard"):
        found = {"triplet_semihard_m0.4": lambda name: golden_cases.triplets()}
    elif pair == ("margin_cosine", "uniform"):
        found = {"cosine_embedding": lambda name: golden_cases.cosine_embedding()}
    return max((largest(of(name), golden_cases.golden(name)) for name, of in found.items()), default=None)


def two_ranks() -> dict:
    """(pair, memory) -> the first rank's gradients."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = 2, f"file://{folder}/store", folder, ranks.everything()
        torch.multiprocessing.spawn(ranks.rank_main, arguments, nprocs=2)
        return torch.load(f"{folder}/0.pt")


def across_ranks(pair: tuple[str, str], measured: dict) -> float:
    worst = 0.0
    for memory in (False, True):
        net = ranks.Network(pair, memory)
        samples, labels, ids, target = ranks.data()
        net(samples, labels, ids, target if memory else None, slice(None)).backward()
        gradients = measured[pair, memory][1]
        worst = max(worst, *((gradients[name] - p.grad).abs().max().item() for name, p in net.named_parameters()))
    return worst


def chunked(pair: tuple[str, str]) -> float | None:
    if pair[0] in losses.NO_NEGATIVES:
        return None
    worst = 0.0
    for memory in (False, True):
        results = []
        for chunk in (None, 5):
            made, arguments = losses.setting(pair, 3, memory, row_chunk=chunk)
            results.append(losses.value_and_gradient(made, losses.batch(3), **arguments))
        worst = max(worst, largest(*results))
    return worst


def gradcheck(pair: tuple[str, str]) -> str:
    checked = [memory for memory in (False, True) if not losses.stops_gradient(pair, memory)]
    for memory in checked:
        made, arguments = losses.setting(pair, 2, memory)

        def value(z, made=made, arguments=arguments):
            return made(z, **arguments)

        if not torch.autograd.gradcheck(value, losses.batch(), fast_mode=True, raise_exception=False):
            return "FAILED"
    return "ok" if checked else "sg"


@ends_on_signal
def main() -> int:
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or options("loss")
    if unknown := set(chosen) - set(options("loss")):
        print(f"error: there is no loss {', '.join(sorted(unknown))} in conf/loss", file=sys.stderr)
        return 2
    measured, failed = two_ranks(), False
    print(f"{'loss':20}{'negatives':17}{'golden':>10}{'ranks':>10}{'chunks':>10}  gradcheck")
    for pair in (pair for pair in losses.MATRIX if pair[0] in chosen):
        if pair in losses.REFUSED:
            print(f"{pair[0]:20}{pair[1]:17}  {refusal(pair)}")
            continue
        numbers = [golden(pair), across_ranks(pair, measured), chunked(pair)]
        check = gradcheck(pair)
        failed |= check == "FAILED" or any(n is not None and not n <= TOLERANCE for n in numbers)
        cells = "".join(f"{'-' if n is None else f'{n:.0e}':>10}" for n in numbers)
        print(f"{pair[0]:20}{pair[1]:17}{cells}  {check}", flush=True)
    print("FAILED" if failed else f"all within {TOLERANCE:g}")
    return int(failed)


def refusal(pair: tuple[str, str]) -> str:
    if pair[0] in losses.NO_NEGATIVES:
        return "refused: the loss has no negatives"
    try:
        losses.make(*pair)
    except InstantiationException as error:
        return "refused: " + str(error.__cause__).split(":")[0]
    return "NOT REFUSED"


if __name__ == "__main__":
    sys.exit(main())
