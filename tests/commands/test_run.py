"""Whole runs: what they leave, evaluation from the checkpoint, exact resume, several ranks, sweeps, mistakes."""

import contextlib
import csv
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ranks
import torch
from conftest import CONF, ROOT, TINY, check_mistake, command, config, left_over, make_folder, run_folder, same
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from repel.cli.checks import check, check_names, config_mistake, plain
from repel.cli.command import MISTAKE, explain
from repel.engine import checkpoints, runs
from repel.engine.build import build_data, build_module, build_trainer, saved
from repel.engine.fit import fit
from repel.images import contact_sheet as sheet
from repel.module import Contrastive, Diverged
from repel.report.report import finish


def train(folder: Path, *overrides: str, resume: bool = False) -> dict[str, torch.Tensor]:
    """Train in this process, as train.py does; returns the last checkpoint's weights."""
    cfg = config(*TINY, *overrides)
    if not resume:
        runs.claim(folder, plain(cfg), list(overrides))
    fit(saved(runs.read_config(folder)), folder, resume)
    return checkpoints.load(folder / "checkpoints/last.ckpt")["state_dict"]


class TestWhatARunLeaves:
    def test_files(self, finished):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_debug", finished.name)
        assert finished.parent.parts[-2:] == ("runs", "train")
        files = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
        files = {f for f in files if not f.startswith("tensorboard/")}
        records = {"config.yaml", "environment.json", "metrics.json", "metrics.csv", "evaluation.json", "report.html"}
        assert files == records | {"checkpoints/last.ckpt", "checkpoints/best.ckpt"}

    def test_metrics(self, finished):
        metrics = json.loads((finished / "metrics.json").read_text())
        expected = {"train/loss", "train/steps", "val/loss", "val/knn_top1", "test/knn_top1", "test/last_knn_top1"}
        expected |= {"baseline/raw_knn_top1", "baseline/untrained_knn_top1", "val/linear_top1", "test/season_knn_top1"}
        expected |= {"test/linear_top1", "test/last_linear_top1", "test/knn200_top1", "baseline/raw_linear_top1"}
        expected |= {"speed/samples_per_second", "speed/data_wait_fraction"}
        assert expected <= set(metrics)
        assert metrics["train/steps"] == 8
        assert all(0 <= v <= 1 for k, v in metrics.items() if "top1" in k or "fraction" in k)
        assert metrics["baseline/raw_knn_top1"] == pytest.approx(0.7935, abs=1e-3)  # of the bundled data, known
        with (finished / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [int(r["step"]) for r in rows if r["train/loss"]] == list(range(8))
        assert len([r for r in rows if r["val/knn_top1"]]) == 2

    def test_environment_and_config(self, finished):
        environment = json.loads((finished / "environment.json").read_text())
        assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
        assert "head.out_features=8" in environment["overrides"]
        assert runs.read_config(finished)["head"]["out_features"] == 8
        assert "${" not in (finished / "config.yaml").read_text()

    def test_tensorboard(self, finished):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams import plugin_data_pb2

        events = EventAccumulator(str(finished / "tensorboard"))
        events.Reload()
        tags = events.Tags()
        assert {"train/loss", "val/knn_top1", "lr-AdamW/pg1", "test/knn_top1"} <= set(tags["scalars"])
        sheets = {f"embedding/{name}" for name in ("neighbours", "map", "similarities")}
        assert {"views/pairs"} | sheets | {"validation"} >= set(tags["images"]) >= {"views/pairs"} | sheets
        assert (finished / "tensorboard/projector_config.pbtxt").is_file()
        sprites = list((finished / "tensorboard").rglob("sprite.png"))
        assert len(sprites) == 1
        assert len((sprites[0].parent / "metadata.tsv").read_text().splitlines()) == 600  # validation images
        image = events.Images("views/pairs")[0]
        cell = sheet.CELL + sheet.GAP  # four images, plain and their two views with what was drawn
        assert image.width == 4 * cell + sheet.GAP
        assert image.height == 3 * cell + sheet.GAP + sheet.LINE * (1 + 2 * sheet.LINES)
        content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        hparams = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        assert hparams["encoder.width"].number_value == 4

    def test_checkpoints_load_without_running_code(self, finished):
        for name in ("last", "best"):
            contents = torch.load(finished / f"checkpoints/{name}.ckpt", weights_only=True)
            assert contents["config"]["seed"] == 1
        assert checkpoints.load(finished / "checkpoints/last.ckpt")["global_step"] == 8


def test_training_learns(tmp_path):
    """More than a loss that goes down: features of unseen test images beat those before the first step."""
    train(
        tmp_path / "a",
        "encoder.width=8",
        "trainer.limit_train_batches=60",
        "data.batch_size=64",
        "trainer.max_epochs=2",
    )
    finish(saved(runs.read_config(tmp_path / "a")), tmp_path / "a", None)
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert metrics["test/knn_top1"] > metrics["baseline/untrained_knn_top1"] + 0.05


def test_best_is_the_best_and_last_is_the_last(tmp_path, monkeypatch):
    """With a metric that rises, falls, and ties."""
    values = iter([0.3, 0.6, 0.5, 0.6])
    monkeypatch.setattr("repel.evaluation.knn.knn_top1", lambda *args: next(values))
    train(tmp_path / "a", "trainer.max_epochs=4")
    best, last = (checkpoints.load(tmp_path / f"a/checkpoints/{name}.ckpt") for name in ("best", "last"))
    assert (best["epoch"], last["epoch"]) == (1, 3)
    assert last["callbacks"]["BestCheckpoint"]["best"] == pytest.approx(0.6)


def test_without_knn_the_loss_chooses(tmp_path):
    train(tmp_path / "a", "callbacks.knn=null", "callbacks.progress=null", "logger.tensorboard=null")
    with (tmp_path / "a/metrics.csv").open() as file:
        losses = [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]
    best = checkpoints.load(tmp_path / "a/checkpoints/best.ckpt")
    assert best["callbacks"]["BestCheckpoint"]["best"] == pytest.approx(-min(losses))


@pytest.mark.parametrize(("limit", "steps"), [("0.02", 6), ("7", 7), ("1.0", 337)])
def test_limits_of_an_epoch(tmp_path, limit, steps):
    """A fraction is applied once, and every epoch has the same length, a new order and a validation."""
    seen = []

    class Seen(Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            seen.append(tuple(batch.ids.tolist()))
            if len(seen) > 3 * min(steps, 7):
                trainer.should_stop = True

    cfg = config(*TINY, f"trainer.limit_train_batches={limit}", "trainer.max_epochs=3", "callbacks.knn=null")
    module, data, trainer = build_module(cfg), build_data(cfg), build_trainer(cfg, tmp_path, None)
    trainer.callbacks.append(Seen())
    data.trainer = trainer
    data.setup()
    assert data.batches_per_epoch() == steps
    if steps < 10:
        trainer.fit(module, data)
        assert len(seen) == 3 * steps
        assert len({frozenset(sum(seen[i : i + steps], ())) for i in (0, steps, 2 * steps)}) == 3
        assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3 * steps
        with (tmp_path / "metrics.csv").open() as file:
            assert len([row for row in csv.DictReader(file) if row["val/loss"]]) == 3


# ------------------------------------------------------------------------------------------------------- exact resume


def train_until_killed(folder: str, step: int) -> None:
    """In a process of its own: kill -9 itself after the given number of batches."""
    from repel.module import Contrastive

    torch.set_num_threads(1)
    patch_dropout()
    seen = []

    def die(self, *args):
        seen.append(1)
        if len(seen) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    Contrastive.on_train_batch_end = die
    fit(saved(runs.read_config(Path(folder))), Path(folder), resume=False)


def patch_dropout():
    """A head that draws random numbers of its own."""
    import repel.model.heads

    def linear(in_features, out_features):
        return torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(in_features, out_features))

    repel.model.heads.linear = linear


RESUMABLE = ["head=linear", "trainer.max_epochs=3", "schedule.warmup_epochs=2", "trainer.accumulate_grad_batches=2"]


@pytest.fixture
def dropout():
    """One thread, as in the process that is killed, and the same head."""
    import repel.model.heads

    threads, linear = torch.get_num_threads(), repel.model.heads.linear
    torch.set_num_threads(1)
    patch_dropout()
    yield
    repel.model.heads.linear = linear
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("killed_after", "every"), [(6, None), (8, None), (7, 1), (11, 1)], ids=["mid-epoch", "epoch-end", "mid-1", "mid-2"]
)
def test_killed_and_resumed_equals_never_killed(tmp_path, dropout, killed_after, every):
    """Bit for bit: weights, optimiser, schedule, history. Checkpoints at epochs' ends, and every step besides."""
    folder = tmp_path / "run"
    cfg = config(*TINY, *RESUMABLE, f"callbacks.last.every_n_train_steps={every or 'null'}")
    runs.claim(folder, plain(cfg), [])
    process = ranks.server.Process(target=train_until_killed, args=(str(folder), killed_after))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert checkpoints.load(folder / "checkpoints/last.ckpt")["global_step"] < 6
    train(folder, resume=True)
    train(tmp_path / "whole", *RESUMABLE)
    whole = checkpoints.load(tmp_path / "whole/checkpoints/last.ckpt")
    resumed = checkpoints.load(folder / "checkpoints/last.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 6
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(resumed[part], whole[part]), part
    columns = ("step", "train/loss", "val/loss", "val/knn_top1")
    assert table(folder / "metrics.csv", columns) == table(tmp_path / "whole/metrics.csv", columns)


def table(path: Path, columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    rows = csv.DictReader(path.read_text().splitlines())
    return [tuple(row[c] for c in columns) for row in rows if row["train/loss"] or row["val/loss"]]


def test_dropout_differs_between_steps_and_ranks(monkeypatch):
    from types import SimpleNamespace

    from repel.module import Contrastive

    def draw(epoch, step, rank):
        place = SimpleNamespace(seed=1, current_epoch=epoch, global_rank=rank, set_annealed=lambda step: None)
        Contrastive.on_train_batch_start(place, None, step)
        return torch.rand(4)

    draws = [draw(*place) for place in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1))]
    assert len({tuple(d.tolist()) for d in draws}) == 4
    assert torch.equal(draws[0], draw(0, 0, 0))


def test_resume_by_command(finished):
    """A finished run has nothing left to train; its numbers stay. Other options beside resume= are refused."""
    before = json.loads((finished / "metrics.json").read_text())
    result = command("train.py", f"resume={finished}", cwd=finished.parent)
    assert result.returncode == 0, result.stderr
    assert run_folder(result, finished.parent).resolve() == finished.resolve()
    after = json.loads((finished / "metrics.json").read_text())
    assert after["test/knn_top1"] == before["test/knn_top1"]
    assert after["train/steps"] == 8
    result = command("train.py", f"resume={finished}", "seed=3", cwd=finished.parent)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "seed=3" in result.stderr
    assert (finished / "config.yaml").exists()


# ----------------------------------------------------------------------------------------------------- several devices


@pytest.mark.slow
def test_a_sweep_on_several_devices(tmp_path):
    """Every job runs once, in one folder of its own, as it would alone; a failing job does not stop the rest."""
    rates = ["1e-3", "1e30", "2e-3", "3e-3"]
    options = [*TINY, "trainer.devices=2", "evaluators=[]", "evaluation.map=null"]
    result = command("train.py", "-m", *options, "optimizer.lr=" + ",".join(rates), "hydra.sweep.dir=sweep",
                     cwd=tmp_path, timeout=300, OMP_NUM_THREADS="1")  # fmt: skip
    assert result.returncode == 3, result.stderr
    assert sorted(p.name for p in (tmp_path / "sweep").iterdir()) == ["0", "1", "2", "3", "multirun.yaml"]
    assert not (tmp_path / "runs").exists()
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert "is no longer finite after step" in lines[0] or "the loss is" in lines[0]
    assert lines[1:] == ["hint: the traceback is in sweep/1/error.txt"]
    assert not (tmp_path / "sweep/1/metrics.json").exists()
    assert "Diverged" in (tmp_path / "sweep/1/error.txt").read_text()
    for job in (0, 2, 3):
        folder = tmp_path / f"sweep/{job}"
        assert json.loads((folder / "metrics.json").read_text())["train/steps"] == 8
        assert len(list((folder / "tensorboard").glob("events*"))) <= 2  # the first rank's, and the report's
        alone = tmp_path / f"alone{job}"
        assert ranks.run(config(*options, f"optimizer.lr={rates[job]}"), alone) == [0, 0]
        one, two = (checkpoints.load(f / "checkpoints/last.ckpt") for f in (folder, alone))
        assert same(one["state_dict"], two["state_dict"])
    assert left_over(tmp_path) == []


LAYERNORM = [  # a network without batch norm, whose training does not depend on how the batch is divided
    "encoder=timm", "encoder.name=vit_tiny_patch16_224", "head=linear", "trainer.precision=64-true",
    "+encoder.options={img_size:28,patch_size:14,embed_dim:8,depth:1,num_heads:2}",
]  # fmt: skip


def listening(processes: list[int]) -> set[str]:
    """The addresses at which these processes wait for connections."""
    table = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in table.splitlines() if any(f"pid={process}," in line for process in processes)]
    return {line.split()[3].rsplit(":", 1)[0].strip("[]") for line in ours}


@pytest.mark.slow
def test_ranks_die_with_their_parent(tmp_path):
    """kill -9 of the command, in the middle of training: no rank goes on without it. None can be reached from afar."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.devices=2", "trainer.max_epochs=100000"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    alive = []
    alarm = threading.Timer(120, process.kill)  # if the ranks never train, the output ends and the test fails
    alarm.start()
    try:
        assert any(line.startswith("epoch 1/") for line in process.stdout)  # both ranks train now
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        alive = [os.pidfd_open(int(pid)) for pid in children.split()]
        assert len(alive) == 2
        assert listening([process.pid, *map(int, children.split())]) <= {"127.0.0.1", "::1"}
        process.kill()
        for rank in alive:
            assert select.select([rank], [], [], 20)[0], "a rank outlived its parent"
    finally:
        alarm.cancel()
        process.kill()
        for rank in alive:
            if not select.select([rank], [], [], 0)[0]:
                signal.pidfd_send_signal(rank, signal.SIGKILL)


# -------------------------------------------------------------------------------------------------------- other images


def test_own_images_without_labels(tmp_path, capsys):
    make_folder(tmp_path / "images", ["."], 40)
    train(
        tmp_path / "a",
        "data=image_folder",
        f"data.root={tmp_path / 'images'}",
        "data.image_size=12",
        "data.batch_size=4",
    )
    assert finish(saved(runs.read_config(tmp_path / "a")), tmp_path / "a", None) is not None
    printed = capsys.readouterr().out
    assert "no labels" in printed
    metrics = json.loads((tmp_path / "a/metrics.json").read_text())
    assert not [name for name in metrics if "knn" in name]
    assert checkpoints.load(tmp_path / "a/checkpoints/best.ckpt")  # by val/loss


def test_labels_are_asked_for_before_training(tmp_path):
    make_folder(tmp_path / "images", ["."], 40)
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12", "data.batch_size=4"]
    with pytest.raises(ValueError, match="labels"):
        train(tmp_path / "a", *source, "negatives=false_negatives", "negatives.labels=true")


def test_own_images_with_labels_and_broken_files(tmp_path, capsys):
    make_folder(tmp_path / "images", ["red", "green"], 30)
    (tmp_path / "images/red/broken.jpg").write_bytes(b"nothing")
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12", "data.batch_size=4"]
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        train(tmp_path / "a", *source)
    train(tmp_path / "b", *source, "data.on_error=skip")
    assert "1 unreadable files" in capsys.readouterr().out
    assert "broken.jpg" in (tmp_path / "b/skipped.txt").read_text()
    finish(saved(runs.read_config(tmp_path / "b")), tmp_path / "b", None)
    assert json.loads((tmp_path / "b/metrics.json").read_text())["baseline/raw_knn_top1"] == 1.0


def test_divergence_names_the_last_good_checkpoint_and_keeps_it_good(tmp_path):
    """The loss is no number; or the update before it made weights that are none, and would have been saved."""
    for name, options, epochs in (("loss", [], "2"), ("weights", ["callbacks.last.every_n_train_steps=1"], "2")):
        poison = PoisonAtStep(6)
        with pytest.raises(Diverged, match=r"last\.ckpt") as caught, poison.armed():
            train(tmp_path / name, f"trainer.max_epochs={epochs}", *options)
        assert "finite" in str(caught.value) or "nan" in str(caught.value)
        kept = checkpoints.load(tmp_path / name / "checkpoints/last.ckpt")
        assert kept["global_step"] == (4 if name == "loss" else 5)
        assert all(torch.isfinite(v).all() for v in kept["state_dict"].values())


class PoisonAtStep:
    """The given optimiser step leaves a weight that is no number."""

    def __init__(self, step: int):
        self.step, self.steps = step, 0

    @contextlib.contextmanager
    def armed(self):
        usual = Contrastive.optimizer_step

        def poison(module, *args, **kwargs):
            usual(module, *args, **kwargs)
            self.steps += 1
            if self.steps == self.step:
                with torch.no_grad():
                    next(module.encoder.parameters()).fill_(torch.nan)

        Contrastive.optimizer_step = poison
        try:
            yield
        finally:
            Contrastive.optimizer_step = usual


def test_a_value_error_of_the_code_that_trains_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("repel.losses.ratio.InfoNCE.link", broken)
    with pytest.raises(RuntimeError, match="ValueError: not enough values"):
        train(tmp_path / "a")


# ----------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = {  # what is typed -> what the line must hold
    "loss=ntxnt": ["loss=ntxnt", "did you mean ntxent?"],
    "losss=ntxent": ["losss", "did you mean loss?"],
    "experiment=foo": ["experiment=foo", "cifar10_simclr"],
    "trainer.devicez=2": ["trainer.devicez", "did you mean trainer.devices?"],
    "encoder.wdith=3": ["encoder.wdith", "did you mean encoder.width?"],
    "batch_size=3": ["batch_size", "did you mean data.batch_size?"],
    "trainer.devices=abc": ["trainer.devices", "whole number", "'abc'"],
    "trainer.devices=0": ["trainer.devices", "at least 1"],
    "seed=1e3": ["seed", "whole number"],
    "seed=-1": ["seed", ">= 0"],
    "loss.temperature=0": ["loss.temperature", "> 0"],
    "loss.temperature=-1": ["loss.temperature", "> 0"],
    "loss.temperature=": ["loss.temperature", "a number"],
    "loss.temperature=hot": ["loss.temperature", "'hot'"],
    "optimizer.lr=-1": ["optimizer.lr", "> 0"],
    "views.augmentation.scale=1": ["views.augmentation.scale", "list"],
    "trainer.precision=half": ["trainer.precision", "32-true"],
    "trainer.accelerator=tpu": ["trainer.accelerator", "cpu"],
    "data.batch_size=1": ["data.batch_size", "at least 2"],
    "data.batch_size=10 trainer.devices=4": ["data.batch_size=10", "4 ranks"],
    "data=image_folder": ["data.root is not set"],
    "resume=nowhere": ["nowhere", "not a run folder"],
    "trainer.devices=1,2": ["trainer.devices=1,2"],
    "loss=[": ["["],
    "encoder=timm": ["encoder.name is not set"],
    "loss._target_=torch.load": ["_target_", "torch.load"],
    "loss._target_=repel.engine.fit.torch.hub.load": ["_target_", "torch.hub.load"],
    "+temperature=0.1": ["temperature", "did you mean"],
    "callbacks.last=null": ["callbacks.last"],
    "loss=barlow negatives=hcl": ["loss=barlow", "no negatives", "negatives=hcl"],
    "loss=vicreg queue.size=8": ["loss=vicreg", "queue.size=8"],
    "queue.size=-1": ["queue.size", ">= 0"],
    "trainer.max_steps=0": ["trainer.max_steps", "at least 1"],
    "anneal.values={negatives.beta:[0,1]}": ["negatives.beta", "no number"],
    "negatives=tilt anneal.values={negatives.betta:[0,1]}": ["negatives.betta", "did you mean negatives.beta?"],
    "negatives=tilt anneal.values={negatives.beta:3}": ["negatives.beta", "first and last"],
    "loss.learn_temperature=true anneal.values={loss.temperature:[0.5,0.2]}": ["loss.temperature", "learned"],
    "views.augmentation.blur=often": ["views.augmentation.blur", "a number"],
    "views.augmentation.blurr=1": ["views.augmentation.blurr", "did you mean views.augmentation.blur?"],
    "views=simclr_small": ["views=simclr_small", "did you mean"],
    "evaluation.bank=0": ["evaluation.bank", "at least 1"],
    "evaluation.map=umap": ["evaluation.map", "pca or tsne"],
    "evaluators=[knn,linaer]": ["linaer", "did you mean linear?"],
    "data=imagenet": ["data.root is not set"],
    "data=fashion_mini data.channels=3": ["data.mean", "data.channels=3"],
}


@pytest.mark.parametrize("typed", MISTAKES, ids=str)
def test_config_mistakes_get_one_line_before_torch_is_imported(typed, tmp_path, monkeypatch):
    blocker = tmp_path / "blocked"
    (blocker / "torch").mkdir(parents=True)
    (blocker / "torch/__init__.py").write_text("raise RuntimeError('torch was imported')")
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    result = command("train.py", *typed.split(), cwd=cwd, PYTHONPATH=str(blocker))
    check_mistake(result, MISTAKES[typed])
    assert [p for p in cwd.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("typed", ["loss=ntxnt", "losss=ntxent", "views.augmentation.blurr=1", "loss.a.b=1", "los/s=a"])
def test_names_are_judged_before_hydra_and_as_hydra_does(typed):
    with pytest.raises(ValueError, match=re.escape(typed.split("=")[0])) as caught:
        check_names("train", [typed])
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as hydras:
        compose("train", overrides=[typed])
    assert str(caught.value) == config_mistake(hydras.value, "train")


@pytest.mark.parametrize("typed", [
    "", "loss=infonce loss.learn_temperature=true", "experiment=null", "predictor=none",
    "predictor=mlp predictor.hidden=3", "data_views=null", "evaluators=[knn]", "+loss.x=1", "~callbacks.knn",
    "queue.dim=3", "loss.negatives.beta=1", "-m losss=a", "hydra.searchpath=[file:///a] loss=mine", "loss=[",
    "loss=ntxent,triplet loss.margin=1", "views.local=null", "loss=ntxent,infonce", "data.mean.0=1",
])  # fmt: skip
def test_what_may_be_right_is_left_to_hydra(typed):
    check_names("train", typed.split())


def test_a_target_deep_in_a_checkpoints_config_is_refused():
    with pytest.raises(ValueError, match=r"torch\.hub\.load"):
        saved({"encoder": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.hub.load"}]}})


LATER = {  # mistakes that only the data or the machine shows
    "data.batch_size=6000": ["data.batch_size=6000", "5400 training images"],
    "trainer.limit_train_batches=0.0001": ["trainer.limit_train_batches"],
    "data=image_folder data.root=nowhere": ["data.root=nowhere", "no such folder"],
    "trainer.precision=16-mixed trainer.accelerator=cpu": ["trainer.precision=16-mixed", "bf16-mixed"],
    "views.augmentation.flip=2": ["views.augmentation.flip", "[0, 1]"],
    "views.color=quick": ["views.color", "exact or fused"],
    "views.order=none": ["views.order", "batch or image"],
    "views.n=1": ["views.n"],
    "views=byol views.n=3": ["views.per_view", "views.n=3"],
    "views=multi_crop views.local.size=2": ["views.local", "size=2"],
    "views=multi_crop loss=barlow": ["views.local=null"],
    "data.device_cache=maybe": ["data.device_cache", "auto"],
    "data=stream data.root=nowhere": ["data.root=nowhere", "pack_shards"],
    "data=imagenet data.root=nowhere": ["data.root=nowhere", "no such folder"],
    "encoder=resnet18 encoder.weights=DEFAULT": ["encoder.weights", "encoder.stem=imagenet"],
    "callbacks.last.every_n_train_steps=0": ["every_n_train_steps"],
    "loss=siglip negatives=debiased": ["SigLIP", "debiased", "exponentials"],
    "loss=ressl negatives=hardest": ["ressl", "topk"],
    "loss=infonce loss.candidates=queue": ["loss.candidates=queue", "queue.size"],
    "loss=byol": ["predictor=mlp"],
    "negatives=tilt anneal.values={negatives.beta:[0.0,-1.0]}": ["negatives.beta", ">= 0"],
    "negatives=topk anneal.values={negatives.k:[9,0]}": ["negatives.k", "at least 1"],
    "target=ema target.momentum=1.5": ["target.momentum"],
    "anneal.shape=square": ["anneal.shape"],
    "evaluators.knn.others=[0]": ["kNN", "k >= 1"],
    "evaluators.linear.l2=[]": ["evaluators.linear.l2"],
    "+loss.colour=red": ["colour"],
}


@pytest.mark.parametrize("typed", LATER, ids=str)
def test_later_mistakes_raise_before_training(typed, tmp_path):
    """In this process, through the command's own path, to save its start-up."""
    from repel.engine.launch import launch

    cfg = config(*typed.split())
    with pytest.raises(Exception) as caught:  # noqa: PT011
        launch(cfg, tmp_path, resume=False)
    status, line = explain(caught.value, "train")
    assert status == MISTAKE, line
    assert "\n" not in line
    for word in LATER[typed]:
        assert word in line
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("typed", [t for t in [*MISTAKES, *LATER] if not re.search("devices|-m|resume", t)], ids=str)
def test_mistakes_on_two_devices(typed, tmp_path, monkeypatch):
    """The same line from the second of two ranks, before it needs the first; and before anything is written."""
    words = {**MISTAKES, **LATER}[typed]
    options = [*typed.split(), "trainer.devices=2"]
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)  # which Lightning sets, and which would stay
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", None)  # where a mistake goes so far, it is too late
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", overrides=options, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            cfg._set_flag("struct", False)
            del cfg["hydra"]
            check(cfg, "train")
        fit(saved(plain(cfg)), tmp_path, resume=False)
    except Exception as error:
        status, line = explain(error, "train")
    else:
        status, line = 0, ""
    assert status == MISTAKE, line
    assert "\n" not in line
    for word in words:
        assert word in line
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("gpus", "typed", "words"), [
    (0, "trainer.accelerator=gpu", ["no GPU"]),
    (1, "trainer.devices=4", ["trainer.devices=4", "1 GPU", "trainer.accelerator=cpu"]),
])  # fmt: skip
def test_devices_that_are_not_there(monkeypatch, gpus, typed, words):
    from repel.engine.launch import check_devices

    options = {key: config(typed).trainer[key] for key in ("accelerator", "devices", "precision")}
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_devices("trainer.", **options)
    assert all(word in str(caught.value) for word in words)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    check_devices("trainer.", **options)


def test_a_missing_logger_says_how_to_get_it(monkeypatch, tmp_path):
    """conf/logger/wandb.yaml is built as far as it goes without its package."""
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    cfg = config("logger=[default,wandb]")
    assert list(cfg.logger) == ["tensorboard", "csv", "wandb"]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        build_trainer(cfg, tmp_path, None)
    status, line = explain(caught.value, "train")
    assert (status, "pip install -e '.[wandb]'" in line) == (MISTAKE, True)


def test_a_mistake_leaves_no_folder_and_a_taken_folder_stays(finished, tmp_path):
    result = command("train.py", *TINY, "data.batch_size=6000", "trainer.limit_train_batches=1.0", cwd=tmp_path)
    check_mistake(result, ["data.batch_size=6000"])
    assert list((tmp_path / "runs/train").iterdir()) == []
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    result = command("train.py", *TINY, f"hydra.run.dir={finished}", cwd=tmp_path)
    assert result.returncode == 2
    assert "already holds a run" in result.stderr
    after = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file() and p.name != "error.txt"}
    assert after == before


def test_every_mistake_in_conf_is_caught_by_type():
    """Each number in conf refuses text, whatever the group: the check needs no list of keys."""
    from repel.cli.checks import flatten, mismatch

    numbers = [v for v in flatten(OmegaConf.load(CONF / "trainer/default.yaml")).values() if isinstance(v, int | float)]
    assert len(numbers) > 5
    assert all(mismatch(v, "text") for v in numbers)
    assert mismatch(None, "anything") is None
    assert mismatch(1.0, 3) is None
    assert mismatch(True, 1) is not None


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    writer = checkpoints.AtomicCheckpointIO()
    writer.save_checkpoint({"config": {}, "state_dict": {"w": torch.ones(3)}}, path)

    def full(checkpoint, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(OSError, match="No space"):
            writer.save_checkpoint({"config": {}, "state_dict": {"w": torch.zeros(3)}}, path)
    assert torch.equal(checkpoints.load(path)["state_dict"]["w"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_could_not_be_loaded_is_not_saved(tmp_path):
    import numpy as np

    for value in (tmp_path, np.float64(1), OmegaConf.create({}), signal.SIGTERM):
        with pytest.raises(TypeError, match=rf"callbacks.*Best.*0.*{type(value).__name__}"):
            checkpoints.AtomicCheckpointIO().save_checkpoint({"callbacks": {"Best": [value]}}, tmp_path / "x.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_checkpoints_are_named(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello"), ("torn", b"PK\x03\x04 torn")):
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": 1}, tmp_path / "foreign")
    for name in ("missing", "empty", "text", "torn", "foreign"):
        with pytest.raises(ValueError, match=name):
            checkpoints.load(tmp_path / name)


def test_no_module_asks_for_unsafe_loading():
    sources = [p.read_text() for p in [*ROOT.glob("src/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]]
    assert not [s for s in sources if "weights_only=False" in s]
