"""A training step on texts: no wait for the host; padding changes nothing; a resumed run goes on in the same bits."""

import signal
from pathlib import Path

import pytest
import ranks
import torch
from conftest import TINY, config, same, thinned
from runs_here import history, train
from text_runs import ENCODERS, SMALL, fit_few, text_info, train_until_killed
from token_modality import on_ranks

from repel.data.pair import Pair
from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.engine.configs import to_container

VOCABULARY = 30


@pytest.mark.parametrize("name", thinned(ENCODERS, 3))
@pytest.mark.parametrize("loss", [["loss=ntxent"], ["loss=infonce", "negatives=hcl", "target=ema", "queue.size=64"]])
def test_a_step_does_not_wait_for_the_host(name, loss):
    """On fake tensors of a GPU: whoever asks for a value fails."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = build_module(config(*SMALL, *ENCODERS[name], *loss))
    module.give_data_info(text_info(VOCABULARY))
    with FakeTensorMode(allow_non_fake_inputs=True):
        own = {key: torch.empty(p.shape, device="cuda", requires_grad=p.requires_grad)
               for key, p in module.named_parameters()}  # fmt: skip
        own |= {key: torch.empty(b.shape, dtype=b.dtype, device="cuda") for key, b in module.named_buffers()}
        views = torch.ones(2, 6, 7, dtype=torch.int32, device="cuda")
        ids = torch.zeros(2, 6, dtype=torch.int64, device="cuda")
        pair = Pair(views, ids, torch.zeros(6, dtype=torch.int64, device="cuda"))

        class Step(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.of = module

            def forward(self, pair):
                return self.of.shared_step(pair)[0]

        value = torch.func.functional_call(Step(), {f"of.{key}": tensor for key, tensor in own.items()}, (pair,))
        assert value.device.type == "cuda"
        assert value.requires_grad


@pytest.mark.parametrize("name", ENCODERS)
def test_padding_changes_no_gradient(name):
    """A batch that is cut to its longest text and one that is not."""
    module = build_module(config(*SMALL, *ENCODERS[name], "loss=ntxent")).double()
    module.give_data_info(text_info(VOCABULARY))
    module.double().eval()  # the same without dropout, whose draws are by position
    tokens = torch.randint(1, VOCABULARY, (2, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    tokens[:, 2, 3:] = 0
    ids = torch.arange(6).expand(2, 6)
    found = []
    for views in (tokens, torch.nn.functional.pad(tokens, (0, 3))):
        loss, _ = module.shared_step(Pair(views, ids, None))
        found.append([loss, *torch.autograd.grad(loss, list(module.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def new_run(folder: Path, *typed: str):
    changed = {option.split("=")[0] for option in typed}
    cfg = config(*TINY, *(option for option in SMALL if option.split("=")[0] not in changed), *typed)
    runs.create(folder, to_container(cfg), [])
    return cfg


@pytest.mark.parametrize("name", thinned(reversed(ENCODERS), 3))
def test_killed_and_resumed_equals_never_killed(few_glosses, tmp_path, name):
    """kill -9 in the middle of an epoch: the same bits, the encoder's dropout included."""
    typed = [*ENCODERS[name], "trainer.max_epochs=2", "trainer.limit_train_batches=4", "head=mlp"]
    new_run(tmp_path / "killed", *typed, "callbacks.last.every_n_train_steps=1")
    process = ranks.forked(train_until_killed, str(tmp_path / "killed"), 6)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint_io.load(tmp_path / "killed/checkpoints/last.ckpt")["global_step"] == 6
    train(tmp_path / "killed", resume=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(tmp_path / "whole", *SMALL, *typed)
    torch.set_num_threads(threads)
    whole, resumed = (checkpoint_io.load(tmp_path / f / "checkpoints/last.ckpt") for f in ("whole", "killed"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "learned"):
        assert same(whole[part], resumed[part]), part


STATEFUL = ["loss=infonce", "negatives=hcl", "target=ema", "queue.size=64"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "several"),
    [("bag", ["loss=ntxent"], [2]), ("ngrams", ["loss=ntxent"], [2]), ("transformer", STATEFUL, [2, 4])],
    ids=ENCODERS,
)
def test_any_number_of_ranks_trains_the_same(tmp_path, name, method, several):
    """20 steps in float64, dropout on: order, views, gather, gradients, schedule, validation."""
    typed = [*ENCODERS[name], *method, "trainer.precision=64-true", "trainer.max_epochs=2",
             "trainer.limit_train_batches=10", "callbacks.knn=null", "callbacks.monitor=null"]  # fmt: skip
    found = {}
    for world in (1, *several):
        folder = tmp_path / str(world)
        cfg = new_run(folder, *typed, f"trainer.devices={world}")
        on_ranks(fit_few, cfg, folder, world)
        rows = [(row["train/loss"], row["val/loss"]) for row in history(folder)]
        found[world] = checkpoint_io.load(folder / "checkpoints/last.ckpt"), rows
    assert found[1][0]["global_step"] == 20
    for world in several:
        for key, one in found[1][0]["state_dict"].items():
            torch.testing.assert_close(
                found[world][0]["state_dict"][key], one, rtol=0, atol=1e-12, msg=f"{world}: {key}"
            )
        for mine, first in zip(found[world][1], found[1][1], strict=True):
            for a, b in zip(mine, first, strict=True):
                assert a == b == "" or float(a) == pytest.approx(float(b), abs=1e-12)
