"""On a GPU no step waits: from the batch's arrival to the optimizer's step nothing is read on the host."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from conftest import options_of
from gpu_steps import Step
from loss_cases import CHOSEN, DIM, FEWER, IDS, LABELS, NO_NEGATIVES, make, name_of, remember
from pretended_gpu import GPU, HostWait, pretended_gpu
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn.parallel import DistributedDataParallel

from repel.base.signals import DeferredSignals
from repel.engine import agreement
from repel.losses import InfoNCE, Queue
from repel.negatives import Mixed

MOCO = ["loss=infonce", "target=ema", "queue.size=16", "negatives=hcl", "optimizer=lars"]
ONE_WAY = ["loss.symmetric=false"]
HF = ("timm", "hf")  # whose models are not ours
slow = pytest.mark.slow


def each(group: str, modality: str, *typed: str) -> list[list[str]]:
    return [[f"{group}={name}", *typed] for name in options_of(group, modality) if name not in HF]


CASES = {
    "images": [
        *each("encoder", "images", *MOCO),
        *each("views", "images", "encoder=small", "encoder.width=4"),
        ["views=simclr", "views.color=fused", "encoder=small", "encoder.width=4", "predictor=mlp", "loss=byol"],
        ["views=simclr", "views.order=image", "encoder=small", "encoder.width=4", "loss=nnclr", "queue.size=16"],
        ["views=multi_crop", "encoder=small", "encoder.width=4", "loss=swav", "data.micro_batch=4"],
        ["encoder=small", "encoder.width=4", "loss.learn_temperature=true", "loss.row_chunk=4", "loss.dims=[8,4]"],
        ["encoder=small", "encoder.width=4", "gather=ring", "negatives=hcl"],
        ["encoder=small", "encoder.width=4", "loss=joint", "loss.members.samples.views=[0,1]", "negatives=mixed"],
    ],
    "text": [
        *each("encoder", "text", *MOCO, "head=linear"),
        *each("views", "text", "encoder=bag", "negatives=own_negatives"),
        ["encoder=transformer", "data.micro_batch=4", "loss.row_chunk=4", "target=ema"],
    ],
    "interactions": [
        *each("encoder", "interactions", "views=user_item", "negatives=known_popularity"),
        *([f"encoder={name}", "views=towers"] for name in ("table", "two_tower", "two_tower_text")),
        *(["encoder=lightgcn", f"encoder.augment={augment}", f"views={views}", "target=ema"]
          for augment, views in (("edges", "sgl"), ("nodes", "sgl"), ("noise", "sgl"), ("layers", "xsimgcl"))),
        ["encoder=lightgcn", "encoder.leave_pair_out=true", "encoder.item_bias=true"],
        ["views.negatives=2", "negatives=own_negatives", *ONE_WAY],
        ["views.catalog=true", "loss.candidates=catalog", "negatives=known", *ONE_WAY],
        ["queue.size=16", "target=ema", "negatives=random", "negatives.flat=true", *ONE_WAY],
    ],
}  # fmt: skip


def case_of_losses(gpu, pair, memory: bool) -> None:
    """A loss by itself, forward, backward and what it remembers: plain, or with all that may stand around it."""
    own = {} if pair[0] in NO_NEGATIVES or not memory else {"queue": 8, "row_chunk": 12}
    loss = make(*pair, **own).float()
    loss = (remember(loss) if own else loss).to(GPU).train()
    z, ids, labels = torch.empty(2, 6, DIM, device=GPU, requires_grad=True), IDS.to(GPU), LABELS.to(GPU)
    more = {}
    if memory:
        more["target"] = torch.empty(2, 6, DIM, device=GPU)
        if loss.takes_crops:
            more["crops"] = torch.empty(1, 6, DIM, device=GPU, requires_grad=True)
        if loss.takes_negatives:
            more |= {"negatives": torch.empty(1, 6, DIM, device=GPU), "negative_ids": ids[None] + 100}
    with gpu.watch():
        loss(z, labels, ids, **more).backward()
        loss.statistics()
        loss.update(more.get("target", z), labels, ids)
    assert z.grad is not None


@pytest.mark.parametrize(  # with a memory and blocks of rows a loss takes all the ways that it has
    ("pair", "memory"),
    [pytest.param(*case, id=name_of(*case), marks=() if case in FEWER and case[1] else slow) for case in CHOSEN],
)
def test_no_loss_with_any_strategy_waits(pair, memory):
    with pretended_gpu() as gpu:
        case_of_losses(gpu, pair, memory)


@pytest.mark.parametrize(("modality", "typed"), [
    pytest.param(modality, typed, id=f"{modality}: {' '.join(typed)}", marks=() if number % 5 == 0 else slow)
    for modality, cases in CASES.items() for number, typed in enumerate(cases[::-1])
])  # fmt: skip
def test_no_step_waits(modality, typed):
    step = Step(modality, typed)
    with pretended_gpu() as gpu:
        step.to_gpu()
        step.take(gpu, step.batch())


@pytest.mark.parametrize("modality", CASES)
def test_no_step_waits_for_a_batch_from_the_host(modality):
    step = Step(modality, CASES[modality][-1], on_device=False)
    with pretended_gpu() as gpu:
        step.to_gpu()
        step.take(gpu, step.batch())


WAITS = {  # what code may do that waits
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool((x > 0).all()),
    "list": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "mask": lambda x: x[x > 0],
    "where": lambda x: torch.where(x > 0),
    "unique": lambda x: x.unique(),
    "counts": lambda x: torch.bincount(x.long()),
    "repeats": lambda x: torch.repeat_interleave(x.long()),
    "to the host": lambda x: x.cpu(),
    "from a list": lambda x: torch.tensor([1.0, 2.0], device=GPU),
    "new from a list": lambda x: x.new_tensor([1.0, 2.0]),
    "from the host": lambda x: torch.ones(2).to(GPU),
    "copied": lambda x: x.copy_(torch.ones(3)),
    "places on the host": lambda x: x[[0, 1]],
    "written there": lambda x: x.index_put_((torch.tensor([0, 1]),), x[:2]),
}


@pytest.mark.parametrize("name", WAITS)
def test_who_waits_is_found(name):
    """What the tests above rest on."""
    with pretended_gpu() as gpu, gpu.watch():
        x = torch.ones(3, device=GPU)
        with pytest.raises((HostWait, DataDependentOutputException, DynamicOutputShapeException)):
            WAITS[name](x)


def test_who_does_not_wait_is_left_alone():
    with pretended_gpu() as gpu, gpu.watch():
        x, there = torch.ones(3, device=GPU), torch.arange(3)
        x[there.to(GPU, non_blocking=True)] = 2 * x.masked_fill(x > 0, 1.0) + torch.tensor(2.0)
        assert torch.where(x > 0, x, 1.0).new_full((), 2.0).device.type == GPU.type
        assert int(there.sum()) == 3  # on the host values are there


def test_the_loss_reaches_the_host_beside_the_backward_pass(monkeypatch):
    """On a stream of its own, begun after the forward pass; it is waited for after the backward pass was begun."""
    calls = []

    class Stream:
        def __init__(self, device):
            assert device.type == GPU.type

        def wait_stream(self, other):
            calls.append(f"after {other}")

        def record_event(self):
            calls.append("copied")
            return SimpleNamespace(synchronize=lambda: calls.append("waited for"))

    @contextlib.contextmanager
    def within(stream):
        calls.append("on another")
        yield

    monkeypatch.setattr(agreement, "_has_streams", lambda device: device.type == GPU.type)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the forward pass")
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda mine, stream: calls.append("kept"))
    ranks = agreement.RankAgreement(DeferredSignals())
    with pretended_gpu() as gpu, gpu.watch():
        ranks.send(torch.empty((), device=GPU))
        calls.append("backward")
        assert ranks.receive() == [0.0]
    assert calls == ["after the forward pass", "on another", "kept", "copied", "backward", "waited for"]


def test_ranks_send_one_another_no_queue():
    """In every step DDP would send the buffers of the first rank to all: 32 MB of a queue of 65,536 x 128."""
    step = Step("images", ["encoder=small", "encoder.width=4", *MOCO])
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sent = DistributedDataParallel(step.module).modules_buffers
    finally:
        dist.destroy_process_group()
    queue = {buffer.data_ptr() for buffer in step.module.loss.queue.buffers()}
    assert len(queue) == 4
    assert not queue & {buffer.data_ptr() for buffer in sent}
    assert sent  # such as running statistics


def test_counts_on_the_host_come_with_a_checkpoint():
    """They are read once, when it is loaded."""
    first, other = (InfoNCE(queue=Queue(4, DIM), negatives=Mixed(2, 1, 0)) for _ in range(2))
    for _ in range(2):
        first.update(torch.randn(2, 3, DIM), None, None)
    other.load_state_dict(first.state_dict())
    z = torch.randn(2, 3, DIM)
    assert torch.equal(first(z), other(z))
    assert len(other.queue) == 4
    for loss in (first, other):
        loss.update(z, None, None)
    assert all(map(torch.equal, first.queue.entries(), other.queue.entries()))
