"""What stands around a loss in training: target, predictor, queue, annealing; and every loss with every strategy."""

import copy
import csv
import itertools
import signal

import numpy as np
import pytest
import ranks
import torch
from composing import composed
from conftest import CONF, TINY, config, make_folder, options, options_of, same
from hydra.utils import instantiate
from image_sizes import sizes_of, watch
from lightning.pytorch import Callback
from loss_cases import MATRIX, OF_PAIRS, REFUSED, covering
from omegaconf import OmegaConf
from runs_here import LAYERNORM, fitted, patch_dropout, status, status_of, table, train, train_until_killed

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_module
from repel.engine.configs import to_container
from repel.engine.notes import notes
from repel.engine.outcomes import MISTAKE

# everything that has a state of its own
STATEFUL = [
    "loss=infonce", "target=ema", "queue.size=50", "negatives=mixed", "loss.learn_temperature=true",
    "anneal.values={negatives.hardest:[20,4],target.momentum:[0.5,0.9]}", "trainer.accumulate_grad_batches=2",
    "head=linear", "optimizer=lars", "optimizer.scale_lr=sqrt",
]  # fmt: skip


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_target_follows_once_per_optimizer_step(tmp_path, accumulate):
    """After every batch it is what the recursion says of the weights after each optimizer step, and no other."""
    momentum, expected, steps = 0.9, {}, []

    class Watch(Callback):
        def on_fit_start(self, trainer, module):
            expected.update({k: v.clone() for k, v in module.target.encoder.named_parameters()})
            for key, value in module.encoder.named_parameters():
                assert torch.equal(expected[key], value)

        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            if trainer.global_step > len(steps):
                steps.append(trainer.global_step)
                for key, value in module.encoder.named_parameters():
                    expected[key] = momentum * expected[key] + (1 - momentum) * value.detach()
            for key, value in module.target.encoder.named_parameters():
                torch.testing.assert_close(value, expected[key])

    module = fitted(
        tmp_path, "loss=infonce", "target=ema", f"target.momentum={momentum}",
        f"trainer.accumulate_grad_batches={accumulate}", callback=Watch(),
    )  # fmt: skip
    assert len(steps) == 8 // accumulate
    counts = [m.num_batches_tracked for net in (module.encoder, module.target.encoder) for m in net.modules()
              if isinstance(m, torch.nn.BatchNorm2d)]  # fmt: skip
    assert {int(c) for c in counts} == {8}
    assert not any(p.requires_grad for p in module.target.parameters())


def test_the_queue_holds_the_keys_of_the_last_batches(tmp_path):
    """Its own keys: the target's embeddings, in order, and every sample's id and label."""
    keys, ids, labels = [], [], []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, index):
            compared, batch_labels, batch_ids = (
                module.step_output.keys,
                module.step_output.labels,
                module.step_output.ids,
            )
            keys.append(torch.nn.functional.normalize(compared.flatten(0, 1), dim=-1))
            ids.append(batch_ids.flatten())
            labels.append(batch_labels.repeat(2))
            tail = torch.cat(keys)[-50:]
            held, held_ids, held_labels = module.loss.queue.entries()
            order = torch.cdist(tail, held).argmin(1)  # the ring begins anywhere
            assert len(held) == min(50, 32 * len(keys))
            torch.testing.assert_close(held[order], tail)
            assert torch.equal(held_ids[order], torch.cat(ids)[-50:])
            assert torch.equal(held_labels[order], torch.cat(labels)[-50:])

    fitted(tmp_path, "loss=infonce", "target=ema", "queue.size=50", callback=Watch())
    assert len(keys) == 8


def test_the_predictor_is_for_anchors_alone():
    """BYOL's wiring: predictions of the network against projections of the target, without predictor."""
    module = build_module(config(*TINY, "experiment=byol", "encoder.width=4", "head.out_features=8"))
    seen = {}
    module.loss.forward = lambda z, labels, ids, local, target: seen.update(z=z, target=target) or z.sum()
    from repel.data.pair import Pair

    module._trainer = None
    images = torch.randn(2, 4, 1, 28, 28)
    module.shared_step(Pair(images, torch.arange(4).expand(2, -1), None))
    flat = images.flatten(0, 1)
    torch.testing.assert_close(seen["z"].flatten(0, 1), module.predictor(module.head(module.encoder(flat))))
    torch.testing.assert_close(seen["target"].flatten(0, 1), module.target(flat))
    assert not seen["target"].requires_grad


def test_without_momentum_the_target_is_the_projection():
    """SimSiam's wiring."""
    from repel.data.pair import Pair

    module = build_module(config("experiment=simsiam", "encoder.width=4", "head.out_features=8"))
    seen = {}
    module.loss.forward = lambda z, labels, ids, local, target: seen.update(z=z, target=target) or z.sum()
    images = torch.randn(2, 4, 1, 28, 28)
    module.shared_step(Pair(images, torch.arange(4).expand(2, -1), None))
    torch.testing.assert_close(seen["target"].flatten(0, 1), module.head(module.encoder(images.flatten(0, 1))))
    assert not seen["target"].requires_grad


def test_annealed_numbers_move_and_are_logged(tmp_path):
    train(tmp_path / "a", "negatives=topk", "anneal.values={negatives.k:[30,2]}")
    with (tmp_path / "a/metrics.csv").open() as file:
        logged = [float(row["anneal/negatives.k"]) for row in csv.DictReader(file) if row["anneal/negatives.k"]]
    assert logged == [round(30 - 28 * step / 8) for step in range(8)]


@pytest.mark.slow
def test_learned_temperature_and_clamping_are_logged(tmp_path):
    train(tmp_path / "a", "loss.learn_temperature=true", "negatives=hcl", "loss.temperature=0.5")
    with (tmp_path / "a/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    temperatures = [float(row["train/temperature"]) for row in rows]
    assert temperatures[0] == 0.5
    assert len(set(temperatures)) > 1
    assert all(0 <= float(row["negatives/clamped_fraction"]) <= 1 for row in rows)


def test_killed_and_resumed_equals_never_killed_with_every_state(tmp_path):
    """Bit for bit: target, queue, mixtures, learned temperature and annealing, mid-epoch with accumulation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path / "run"
    cfg = config(*TINY, *STATEFUL, "callbacks.last.every_n_train_steps=1")
    runs.create(folder, to_container(cfg), [])
    process = ranks.forked(train_until_killed, str(folder), 7)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert checkpoint_io.load(folder / "checkpoints/last.ckpt")["global_step"] == 3

    import repel.model.heads

    linear = repel.model.heads.linear
    patch_dropout()  # as the killed process has it
    try:
        train(folder, resume=True)
        train(tmp_path / "whole", *STATEFUL)
    finally:
        repel.model.heads.linear = linear
        torch.set_num_threads(threads)
    whole, resumed = (checkpoint_io.load(f / "checkpoints/last.ckpt") for f in (tmp_path / "whole", folder))
    assert {"loss.queue.z", "loss.queue.written", "loss.negatives.batches", "loss.log_factor"} <= set(
        whole["state_dict"]
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(resumed[part], whole[part]), part
    columns = ("step", "train/loss", "train/temperature", "anneal/target.momentum", "val/loss")
    assert table(folder / "metrics.csv", columns) == table(tmp_path / "whole/metrics.csv", columns)


@pytest.mark.slow
def test_two_ranks_train_as_one_with_targets_and_queues(tmp_path):
    """Weights, target, queue: the whole state, in float64; with a queue of negatives in test_several_ranks.py."""
    changes = [*LAYERNORM, "data.batch_size=16", "trainer.limit_train_batches=6", "trainer.max_epochs=1"]
    # not Adam, which makes steps of any size out of the rounding errors of gradients that are 0 (an attention key bias)
    changes += ["queue.size=50", "optimizer=sgd", "optimizer.lr=0.1"]
    states = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        cfg = config("experiment=nnclr", *changes, f"trainer.devices={devices}")
        assert ranks.run(cfg, folder) == [0] * devices
        states.append(checkpoint_io.load(folder / "checkpoints/last.ckpt")["state_dict"])
    assert states[0]["loss.queue.written"] == 6 * 32
    for name, one in states[0].items():  # batch norm over 16 samples magnifies rounding
        torch.testing.assert_close(states[1][name], one, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


# ----------------------------------------------------------------------------------------------------------- the matrix


QUICK = [
    "encoder.width=2", "head.out_features=8", "data.batch_size=4", "trainer.max_steps=3", "trainer.max_epochs=1",
    "callbacks.pairs=null", "callbacks.progress=null", "callbacks.knn=null", "callbacks.learning_rate=null",
    "logger.tensorboard=null", "trainer.check_val_every_n_epoch=4", "trainer.log_every_n_steps=3", "data.image_size=8",
]  # fmt: skip


OF_OTHER_DATA = {(loss, name) for loss in options("loss") for name in ("own_negatives", *OF_PAIRS)}
NOT_HERE = REFUSED | OF_OTHER_DATA
SAID = covering(sorted(NOT_HERE))
TRAINED = covering([pair for pair in MATRIX if pair not in NOT_HERE])


@pytest.mark.slow
@pytest.mark.parametrize("loss", options("loss"))
def test_losses_with_strategies_train_or_say_why_not(loss, tmp_path, monkeypatch):
    """Three steps end well for each loss and each strategy; what is refused ends with status 2 and a reason.

    Every pair's gradient is in test_distributed.py, every refusal in test_losses.py.
    """
    for name in ("check_types", "baseline"):  # they compose once more for each pair; test_mistakes tests them
        monkeypatch.setattr(f"repel.cli.checks.{name}", lambda *args: None)
    make_folder(tmp_path / "few", ["red", "green", "blue"], 8, size=(8, 8))
    around = ["predictor=mlp"] if loss == "byol" else []
    typed = [f"loss={loss}", *around, *QUICK, "data=image_folder", f"data.root={tmp_path / 'few'}"]
    base = composed("train", typed, hydra=True)
    guide = tmp_path / "guide.npz"
    np.savez(guide, ids=np.arange(50), embeddings=np.random.default_rng(0).normal(size=(50, 3)))
    for strategy in (name for of, name in MATRIX if of == loss and (of, name) in SAID + TRAINED):
        cfg = copy.deepcopy(base)  # as negatives=strategy composes it, which takes longer than the training
        cfg._set_flag("struct", False)
        cfg.negatives = OmegaConf.load(CONF / f"negatives/{strategy}.yaml")
        cfg.hydra.runtime.choices.negatives = strategy
        if strategy == "guide":
            cfg.negatives.embeddings = str(guide)
        code, line = status_of(tmp_path / strategy, cfg)
        if (loss, strategy) in NOT_HERE:
            assert code == MISTAKE, (strategy, line)
            assert "negatives" in line
            assert not (tmp_path / strategy / "checkpoints").exists()
        else:
            assert code == 0, (strategy, line)
            last = checkpoint_io.load(tmp_path / strategy / "checkpoints/last.ckpt")
            assert last["global_step"] == 3
            assert all(torch.isfinite(v).all() for v in last["state_dict"].values() if v.is_floating_point())


@pytest.mark.slow
def test_supervised_losses_need_labels(tmp_path):
    make_folder(tmp_path / "flat", ["."], 60, size=(8, 8))
    for typed in (["loss=supcon"], ["negatives=false_negatives", "negatives.labels=true"]):
        code, line = status(tmp_path / "run", *typed, *QUICK, "data=image_folder", f"data.root={tmp_path / 'flat'}")
        assert (code, "labels" in line) == (MISTAKE, True), line
        assert not (tmp_path / "run" / "checkpoints").exists()
        (tmp_path / "run/config.yaml").unlink()


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("queue.size=64", "target=ema"),
        ("negatives=debiased", "clamped_fraction"),
        ("negatives=hcl loss.temperature=0.3", "clamped_fraction"),
        ("negatives=debiased loss.temperature=0.5", None),
        ("queue.size=64 target=ema", None),
        ("loss=nnclr queue.size=64", None),
        ("loss=ntxent", None),
        ("loss.dims=[4,2]", "loss.dims leaves out 8"),
        ("loss.dims=[8,4]", None),
        ("trainer.precision=bf16-true", "bf16-mixed"),
        ("optimizer.scale_lr=linear data.batch_size=512", "0.003 * 512 / 256 = 0.006"),
        ("optimizer.scale_lr=sqrt data.batch_size=64", "0.003 * sqrt(64 / 256) = 0.0015"),
        ("optimizer.scale_lr=off", None),
    ],
)
def test_what_may_surprise_is_noted(typed, word):
    cfg = config(*TINY, *typed.split())
    found = notes(cfg, build_module(cfg), world=1)
    assert len(found) == (word is not None)
    assert word is None or word in found[0]


def test_more_dims_than_the_head_has_are_refused_before_the_data_is_read():
    with pytest.raises(ValueError, match=r"loss\.dims=\[16, 8\].*head\.out_features=8"):
        build_module(config(*TINY, "loss.dims=[16,8]"))


@pytest.mark.parametrize("name", ["hard", "soft"])
def test_presets_say_what_they_choose(name):
    cfg = config(f"experiment={name}")
    chosen = (cfg.loss._target_.rsplit(".", 1)[1], cfg.negatives._target_.rsplit(".", 1)[1])
    assert chosen == {"hard": ("CosineRegression", "Hardest"), "soft": ("NTXent", "Tilt")}[name]


def test_required_presets_are_there():
    required = [
        "simclr",
        "hard",
        "soft",
        "moco",
        "hcl",
        "debiased",
        "supcon",
        "sce",
        "ressl",
        "nnclr",
        "siglip",
        "barlow",
        "vicreg",
    ]
    assert set(required) <= set(options("experiment"))


PRESETS = options_of("experiment", "images")


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_presets_train_and_their_checkpoints_load(name, tmp_path, monkeypatch):
    """At one size, on the bundled images; those for CIFAR-10 on a few in color, without what must be downloaded."""
    size = ([16, 24], 20, 36)[PRESETS.index(name) % 3]
    pictures = make_folder(tmp_path / "pictures", ["red", "green", "blue"], 40, size=(8, 8))
    color = ["data=image_folder", f"data.root={pictures}"]
    other = {"founding": [*color, "encoder.weights=null"],
             "cifar10_simclr": [*color, "trainer.precision=32-true"]}  # fmt: skip
    typed = [f"experiment={name}", *other.get(name, ["encoder.width=4"]), "data.batch_size=8",
             f"data.image_size={size}", "trainer.max_epochs=1", "trainer.limit_train_batches=3",
             "callbacks.pairs=null", "trainer.log_every_n_steps=1", "callbacks.progress=null"]  # fmt: skip
    seen = watch(monkeypatch)
    code, line = status(tmp_path / "run", *typed)
    assert code == 0, line
    with (tmp_path / "run/metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(losses) == len(set(losses)) == 3
    for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        assert torch.load(path, weights_only=True)["global_step"] == 3
    views = sizes_of(instantiate(config(*typed).views), size)
    assert seen["train"] == views
    assert seen["eval"] - views == set()  # validation's views, and what is not augmented


def test_matrix_is_complete():
    """Every pair that is not refused is allowed: the refusals are exactly those with a reason."""
    assert set(itertools.product(options("loss"), options("negatives"))) >= REFUSED
