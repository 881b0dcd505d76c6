"""data.micro_batch: the gradient of the whole batch, with the network over parts of it. Float64, real steps."""

import copy
import signal
from functools import partial
from unittest import mock

import pair_gradients
import pytest
import ranks
import text_runs
import torch
import torch.distributed as dist
from conftest import SMALL, TINY, config, same, thinned
from loss_cases import DIM, NO_NEGATIVES, with_and_without_memory
from rank_gradients import TOTAL, Network, data
from rank_processes import run_ranks
from runs_here import train
from torch import nn

from repel.base import seeding
from repel.base.collectives import share
from repel.base.dropout import CountedDropout, DrawCounters, counted_parts
from repel.data.pair import Pair
from repel.engine import runs
from repel.engine.batch_norm import CrossRankBatchNormSync
from repel.engine.build import build_module
from repel.engine.configs import to_container
from repel.engine.notes import notes
from repel.model.anneal import Anneal
from repel.model.ema import EMA
from repel.model.micro_batch import in_micro_batches, micro_batches
from repel.model.optim import constant
from repel.module import Contrastive

SIZE = 5  # of 12 samples: three parts


def module(pair, memory: bool, micro_batch: int | None = None, norm: bool = False) -> Contrastive:
    """A network with dropout; with a memory also with a queue, a target, and a predictor where nothing is repelled."""
    loss = Network(pair, memory).loss
    torch.manual_seed(0)
    layers = nn.Linear(7, 6), nn.BatchNorm1d(6) if norm else nn.Tanh(), CountedDropout(0.3), nn.Linear(6, 5)
    encoder, head = nn.Sequential(*layers), nn.Linear(5, DIM)
    predictor = nn.Linear(DIM, DIM) if loss.needs_predictor or (memory and pair[0] in NO_NEGATIVES) else None
    target = EMA(encoder, head, 0.9) if memory else None
    if memory:
        target.head.weight.data.mul_(-0.5)  # so that it is another function
    optimizer, schedule = partial(torch.optim.SGD, lr=0.1), partial(constant, warmup_epochs=0)
    parts = encoder, head, predictor, loss, target, Anneal(None, 1, "linear")
    made = Contrastive(*parts, optimizer, schedule, 0, micro_batch).double()
    made._counted, made._draw_key = counted_parts(made), 7
    return made


def batch(made: Contrastive, memory: bool, local: slice = slice(None)) -> Pair:
    """Views, and with a memory crops and explicit negatives, where the loss takes them."""
    samples, labels, ids, _ = data()
    more = {"crops": samples[2:3, local]} if memory and made.loss.takes_crops else {}
    if made.loss.takes_negatives:
        more |= {"negatives": samples[3:, local], "negative_ids": ids[3:, local]}
    return Pair(samples[:2, local], ids[:2, local], labels[local], total=TOTAL, **more)


def gradients(made: Contrastive) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def step(made: Contrastive, pair: Pair) -> dict[str, torch.Tensor]:
    """The gradients, the value and the outputs of a step."""
    loss, output = made.shared_step(pair)
    loss.backward()
    return gradients(made) | {"loss": loss.detach(), "h": output.h, "z": output.z, "keys": output.keys}


# ---------------------------------------------------------------------------- the same gradient as the plain form


@with_and_without_memory()
def test_gradient_is_that_of_the_whole_batch(pair, memory):
    """Of every loss and strategy; with dropout, crops, explicit negatives, queue, target, a learned temperature."""
    plain, parts = (module(pair, memory, size) for size in (None, SIZE))
    passes = []
    parts.encoder[0].register_forward_hook(lambda _, args, out: passes.append(len(args[0])))
    expected, found = (step(made, batch(made, memory)) for made in (plain, parts))
    assert_same(found, expected)
    assert max(passes) == 2 * SIZE - 2  # rows of a part with two views: 12 samples are 4, 4 and 4
    assert passes[:3] == [8, 8, 8]
    assert expected["encoder.0.weight"].abs().sum() > 0


@pytest.mark.parametrize("case", thinned(pair_gradients.METHODS, 4))
def test_gradient_on_users_and_items(case):
    """Catalogs, sums of losses on several views, drawn negatives; a graph encoder computes the same, at a cost."""
    assert_same(pair_gradients.gradients(case, micro_batch=3), pair_gradients.gradients(case))


def test_sides_that_differ_in_kind():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 5), nn.Linear(4, 5)

        def forward(self, x):
            return torch.cat([self.left(x[0]), self.right(x[1])])

    found = []
    for size in (None, 4):
        made = module(("infonce", "uniform"), False, size)
        torch.manual_seed(1)
        made.encoder = Towers().double()
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        sides, negatives = (draw(6, 3), draw(6, 4)), (draw(0, 6, 3), draw(2, 6, 4))
        found.append(step(made, Pair(sides, torch.arange(12).view(2, 6), None, None, negatives)))
    assert_same(*found)


# ------------------------------------------------------------------------------------------- what is drawn and normed


def explicit(network, x: torch.Tensor, samples: int, size: int) -> torch.Tensor:
    """The network over the parts, all in one graph."""
    made = []
    for part in micro_batches(samples, size):
        rows = x.unflatten(0, (-1, samples))[:, part]
        torch.manual_seed(seeding.mix(5, part.start))
        made.append(network(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]))
    return torch.cat(made, 1).flatten(0, 1)


def replayed(network: nn.Module, x: torch.Tensor, samples: int, size: int) -> torch.Tensor:
    return in_micro_batches(lambda part: (network(part),), x, DrawCounters(1, samples), size, [network])[0]


def test_dropout_of_torch_is_drawn_again():
    network, x = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double(), torch.randn(14, 4).double()
    found = []
    for run in (explicit, replayed):
        torch.manual_seed(5)
        z = run(network, x, 7, 3)
        torch.manual_seed(9)
        grads = torch.autograd.grad(z.logsumexp(0).sum(), list(network.parameters()))
        found.append({str(n): t for n, t in enumerate([z, *grads])})
    assert_same(*found)
    torch.manual_seed(9)
    drawn = network(x)
    assert not torch.equal(drawn, found[0]["0"])  # so that the seeds above matter


def test_batch_norm_sees_a_part_and_learns_its_statistics_once():
    first = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).double()
    x, found = torch.randn(14, 4).double(), []
    for run in (explicit, replayed):
        network = copy.deepcopy(first)
        z = run(network, x, 7, 3)
        grads = torch.autograd.grad(z.logsumexp(0).sum(), list(network.parameters()))
        found.append({str(n): t for n, t in enumerate([z, *grads])} | dict(network.named_buffers()))
    assert_same(*found)
    assert int(found[1]["1.num_batches_tracked"]) == 3


@pytest.mark.parametrize("inside", [False, True])
def test_autocast_is_as_in_the_first_pass(inside):
    """Also where backward is called within it, which then still has the weights that the first pass has cast."""
    torch.manual_seed(0)
    network, x, seen = nn.Linear(4, 8), torch.randn(12, 4), []
    network.register_forward_hook(lambda _, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        z = replayed(network, x, 6, 2)
        loss = z.float().logsumexp(0).sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    assert z.dtype == torch.bfloat16
    assert seen == 6 * [torch.bfloat16]
    expected = torch.autograd.grad(network(x).logsumexp(0).sum(), network.weight)[0]
    torch.testing.assert_close(network.weight.grad, expected, rtol=0.02, atol=0.02)


def test_a_network_that_learns_nothing_is_not_computed_again():
    network, seen = nn.Linear(4, 2).requires_grad_(False), []
    network.register_forward_hook(lambda *_: seen.append(1))
    z = replayed(network, torch.randn(12, 4), 6, 2)
    assert not z.requires_grad
    assert len(seen) == 3


@pytest.mark.parametrize(("samples", "size"), [(12, 5), (12, 4), (7, 2), (3, 8)])
def test_parts_are_of_about_one_size(samples, size):
    parts = micro_batches(samples, size)
    assert [place for part in parts for place in range(samples)[part]] == list(range(samples))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


# ------------------------------------------------------------------------------------------------------ several ranks

RANK_CASES = [
    (("ntxent", "hcl"), False),
    (("infonce", "mixed"), True),
    (("swav", "uniform"), False),
    (("byol", "uniform"), True),
]


class Step(nn.Module):
    """What DDP wraps, as Lightning has it wrap training_step."""

    def __init__(self, made: Contrastive):
        super().__init__()
        self.of = made

    def forward(self, pair: Pair) -> torch.Tensor:
        return self.of.shared_step(pair)[0]


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = {}
    for case in RANK_CASES:
        made, exchanged = module(*case, 2), []
        ddp = nn.parallel.DistributedDataParallel(Step(made))

        def hook(_, bucket, exchanged=exchanged):
            exchanged.append(bucket.buffer().numel())
            work = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
            return work.then(lambda future: future.value()[0] / world)

        ddp.register_comm_hook(None, hook)
        with mock.patch.object(Contrastive, "global_rank", rank):
            value = ddp(batch(made, case[1], share(TOTAL, rank, world)))
        value.backward()
        found[case] = gradients(made), sum(exchanged)
    torch.manual_seed(0)
    norm = CrossRankBatchNormSync().apply(nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3)).double())
    x = data()[0][:2, share(TOTAL, rank, world)].flatten(0, 1)
    replayed(norm, x, TOTAL // world, 3).square().square().sum().backward()
    found["norm"] = {n: p.grad for n, p in norm.named_parameters()} | dict(norm.named_buffers())
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def ranks_main(folder: str) -> None:
    run_ranks(rank_main, 2, folder)


@pytest.mark.slow
def test_two_ranks_take_the_gradient_of_one_and_exchange_it_once(tmp_path):
    process = ranks.forked(ranks_main, str(tmp_path))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for case in RANK_CASES:
        plain = module(*case)
        step(plain, batch(plain, case[1]))
        for grads, exchanged in (rank[case] for rank in found):
            assert_same(grads, gradients(plain))
            assert exchanged == sum(p.numel() for p in plain.parameters() if p.requires_grad)
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(7, 3), nn.BatchNorm1d(3)).double()
    x = data()[0][:2]
    for first in (0, 3):  # the ranks' first micro-batches are normed together, then their second ones
        places = [*range(first, first + 3), *range(6 + first, 9 + first)]
        norm(x[:, places].flatten(0, 1)).square().square().sum().backward()
    buffers = dict(norm.named_buffers())
    for rank in found:
        assert_same({n: rank["norm"][n] for n in buffers}, buffers)
    for name, p in norm.named_parameters():  # each rank has its own loss, whose gradients DDP would average
        mean = torch.stack([rank["norm"][name] for rank in found]).mean(0)
        torch.testing.assert_close(mean, p.grad / 2, rtol=1e-10, atol=1e-12)


# -------------------------------------------------------------------------------------------------------- whole runs


@pytest.mark.parametrize("method", [
    ["loss=ntxent", "negatives=hcl", "trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2"],
    pytest.param(["loss=infonce", "target=ema", "queue.size=64", "optimizer.lr=1.0e-3"], marks=pytest.mark.slow),
])  # fmt: skip
def test_training_is_that_of_the_whole_batch(few_glosses, tmp_path, method):
    """Steps of a transformer with dropout, and validation."""
    typed = [*text_runs.SMALL, *text_runs.ENCODERS["transformer"], *method, "trainer.precision=64-true",
             "trainer.max_epochs=1", "trainer.limit_train_batches=4"]  # fmt: skip
    plain = train(tmp_path / "plain", *typed)
    parts = train(tmp_path / "parts", *typed, "data.micro_batch=12")
    assert_same(parts, plain)


@pytest.mark.slow
def test_killed_and_resumed_equals_never_killed(few_glosses, tmp_path):
    """kill -9 in the middle of an epoch: the same bits."""
    typed = [*text_runs.SMALL, *text_runs.ENCODERS["transformer"], "head=mlp", "data.micro_batch=12", "target=ema",
             "loss=infonce", "trainer.max_epochs=2", "trainer.limit_train_batches=4"]  # fmt: skip
    cfg = config(*TINY, *typed, "callbacks.last.every_n_train_steps=1")
    runs.create(tmp_path / "killed", to_container(cfg), [])
    process = ranks.forked(text_runs.train_until_killed, str(tmp_path / "killed"), 6)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    resumed = train(tmp_path / "killed", resume=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = train(tmp_path / "whole", *typed)
    torch.set_num_threads(threads)
    assert same(whole, resumed)


def test_passes_draw_differently():
    """Of one step, such as the network's and its target's: the second is seeded by what the first one left."""
    network, x = nn.Dropout(0.5), torch.ones(14, 4)
    torch.manual_seed(5)
    assert not torch.equal(replayed(network, x, 7, 3), replayed(network, x, 7, 3))


def test_what_cannot_work_is_refused():
    typed = ["experiment=lightgcn", "data.micro_batch=64"]
    with pytest.raises(ValueError, match=r"data\.micro_batch: this encoder propagates all nodes"):
        build_module(config(*typed))


THREE = "data.micro_batch=3: 16 samples are encoded in 6 parts, twice a step"
NORMED = "; batch norm takes its statistics of one of them at a time, not of the whole batch"


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["data.micro_batch=3"], THREE + NORMED),
        (["data.micro_batch=3", "encoder=vit", "head=linear"], THREE),
        (["data.micro_batch=16"], "data.micro_batch=16 changes nothing: a rank's batch has 16 samples"),
        ([], None),
    ],
)
def test_a_run_says_what_it_means(typed, line):
    changed = {option.split("=")[0] for option in typed}
    options = [o for o in SMALL if "encoder" not in changed or not o.startswith("encoder.")]
    cfg = config(*options, *typed)
    found = [note for note in notes(cfg, build_module(cfg), 1) if "micro_batch" in note]
    assert found == ([] if line is None else [line])
