"""What a user can get wrong: one line that names the key, status 2, and nothing left behind."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from composing import composed
from conftest import CONF, ROOT, TINY, check_mistake, command, config, made_once, thinned
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from repel.cli.checks import check
from repel.cli.hydra_errors import config_mistake, explain
from repel.cli.names import check_names
from repel.engine.build import build_trainer
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit
from repel.engine.outcomes import MISTAKE

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
    "loss.temperature=": ["loss.temperature", "a number"],
    "loss.temperature=hot": ["loss.temperature", "'hot'"],
    "optimizer.lr=-1": ["optimizer.lr", "> 0"],
    "optimizer.scale_lr=cubic": ["optimizer.scale_lr", "off, linear or sqrt", "'cubic'"],
    "views.augmentation.scale=1": ["views.augmentation.scale", "list"],
    "gather=rings": ["gather", "all or ring", "'rings'"],
    "trainer.precision=half": ["trainer.precision", "32-true"],
    "trainer.accelerator=tpu": ["trainer.accelerator", "cpu"],
    "data.batch_size=1": ["data.batch_size", "at least 2"],
    "data.batch_size=10 trainer.devices=4": ["data.batch_size=10", "4 ranks"],
    "data=image_folder": ["data.root is not set"],
    "resume=nowhere": ["nowhere", "not a run folder"],
    "trainer.devices=1,2": ["trainer.devices=1,2"],
    "loss=[": ["["],
    "encoder=timm": ["encoder.name is not set"],
    "experiment=text encoder=transformer encoder.max_tokens=many": ["encoder.max_tokens", "whole number"],
    "experiment=text encoder=hf encoder.name=MODEL": ["head=identity", "type head.out_features=N"],
    "loss._target_=torch.load": ["_target_", "torch.load"],
    "loss._target_=repel.engine.fit.torch.hub.load": ["_target_", "torch.hub.load"],
    "+temperature=0.1": ["temperature", "did you mean"],
    "callbacks.last=null": ["callbacks.last"],
    "loss=barlow negatives=hcl": ["loss=barlow", "no negatives", "negatives=hcl"],
    "loss=vicreg queue.size=8": ["loss=vicreg", "queue.size=8"],
    "trainer.max_steps=0": ["trainer.max_steps", "at least 1"],
    "anneal.values={negatives.beta:[0,1]}": ["negatives.beta", "no number"],
    "negatives=tilt anneal.values={negatives.betta:[0,1]}": ["negatives.betta", "did you mean negatives.beta?"],
    "negatives=tilt anneal.values={negatives.beta:3}": ["negatives.beta", "first and last"],
    "experiment=byol target=none": ["target.momentum", "anneal.values=null"],
    "loss.learn_temperature=true anneal.values={loss.temperature:[0.5,0.2]}": ["loss.temperature", "learned"],
    "views.augmentation.blur=often": ["views.augmentation.blur", "a number"],
    "views.augmentation.blurr=1": ["views.augmentation.blurr", "did you mean views.augmentation.blur?"],
    "views=simclr_small": ["views=simclr_small", "did you mean"],
    "evaluation.bank=0": ["evaluation.bank", "at least 1"],
    "evaluation.map=umap": ["evaluation.map", "pca or tsne"],
    "evaluators=[knn,linaer]": ["linaer", "did you mean linear?"],
    "data=imagenet": ["data.root is not set"],
    "data=fashion_mini data.mean=[0.5,0.5]": ["data.mean needs a value per channel", "data.channels=1"],
}


@pytest.fixture(scope="session")
def answers(request, tmp_path_factory) -> dict[str, subprocess.CompletedProcess]:
    """What train.py answers to those of MISTAKES that are tested, where torch cannot be imported."""
    tests = [item for item in request.session.items if "answers" in item.fixturenames]
    typed = [test.callspec.params["typed"] for test in tests]

    def make(folder: Path) -> Path:
        (folder / "blocked/torch").mkdir(parents=True)
        (folder / "blocked/torch/__init__.py").write_text("raise RuntimeError('torch was imported')", encoding="utf-8")
        (folder / "typed.json").write_text(json.dumps(typed), encoding="utf-8")
        result = command("tests/support/without_torch.py", "typed.json", str(ROOT / "train.py"), cwd=folder,
                         PYTHONPATH=str(folder / "blocked"))  # fmt: skip
        assert result.returncode == 0, result.stderr
        return folder / "answers.json"

    written = made_once(tmp_path_factory, "answers", make).read_text(encoding="utf-8")
    return {typed: subprocess.CompletedProcess(typed, *answer) for typed, answer in json.loads(written).items()}


# by the command those of which test_mistakes_on_two_devices, in this process, has no line, and some of the others
BY_COMMAND = [
    typed for number, typed in enumerate(MISTAKES) if number % 6 == 0 or re.search("devices|-m|resume", typed)
]


@pytest.mark.parametrize("typed", thinned(BY_COMMAND, 4))
def test_config_mistakes_get_one_line_before_torch_is_imported(answers, typed):
    check_mistake(answers[typed], MISTAKES[typed])
    assert answers[typed].stdout == ""  # without_torch.py adds each file that is left


@pytest.mark.parametrize("typed", ["--methods"])
def test_methods_are_listed_before_torch_is_imported(answers, typed):
    assert (answers[typed].returncode, answers[typed].stderr) == (0, "")
    row = next(line for line in answers[typed].stdout.splitlines() if line.startswith("SimCLR"))
    assert row.split() == ["SimCLR", "experiment=simclr", "Chen", "et", "al.", "2020,", "arXiv:2002.05709"]


@pytest.mark.parametrize("typed", ["loss=ntxnt", "losss=ntxent", "views.augmentation.blurr=1", "loss.a.b=1", "los/s=a"])
def test_names_are_judged_before_hydra_and_as_hydra_does(typed):
    with pytest.raises(ValueError, match=re.escape(typed.split("=")[0])) as caught:
        check_names("train", [typed])
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as hydras:
        compose("train", overrides=[typed])
    assert str(caught.value) == config_mistake(hydras.value, "train")


def test_names_are_judged_before_hydra_runs(monkeypatch, capsys):
    """Which would compose the config twice."""
    from repel.cli.main import train

    monkeypatch.setattr("hydra.main", None)
    monkeypatch.setattr("repel.cli.command.raise_on_signal", lambda: None)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets
    monkeypatch.setattr(sys, "argv", ["train.py", "loss=ntxnt"])
    with pytest.raises(SystemExit) as ended:
        train()
    assert ended.value.code == MISTAKE
    assert "did you mean ntxent?" in capsys.readouterr().err


@pytest.mark.parametrize("typed", [
    "", "loss=infonce loss.learn_temperature=true", "experiment=null", "predictor=none",
    "predictor=mlp predictor.hidden=3", "data_views=null", "evaluators=[knn]", "+loss.x=1", "~callbacks.knn",
    "queue.dim=3", "loss.negatives.beta=1", "-m losss=a,b", "hydra.searchpath=[file:///a] loss=mine",
    "loss=ntxent,triplet loss.margin=1", "views.local=null", "loss=ntxent,infonce", "data.mean.0=1",
    "evaluators=[knn,corruptions] evaluators.corruptions.images=20", "logger=[default,wandb] ~logger.wandb",
])  # fmt: skip
def test_what_may_be_right_is_left_to_hydra(typed):
    check_names("train", typed.split())


def test_a_target_deep_in_a_checkpoints_config_is_refused():
    with pytest.raises(ValueError, match=r"torch\.hub\.load"):
        load_config({"encoder": {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.hub.load"}]}})


LATER = {  # mistakes that a part, the data or the machine shows
    "loss.temperature=0": ["loss.temperature", "> 0"],
    "loss.temperature=-1": ["loss.temperature", "> 0"],
    "queue.size=-1": ["queue.size", "0 or more"],
    "anneal.epochs=0": ["anneal.epochs", "> 0"],
    "data.batch_size=6000": ["data.batch_size=6000", "5400 training samples"],
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
    "data=stream data.root=nowhere": ["data.root=nowhere", "pack-shards"],
    "data=imagenet data.root=nowhere": ["data.root=nowhere", "no such folder"],
    "encoder=resnet18 encoder.weights=DEFAULT": ["encoder.weights", "encoder.stem=imagenet"],
    "encoder=vit encoder.patch_size=5": ["encoder.patch_size=5", "data.image_size=28"],
    "optimizer=lars optimizer.momentum=2": ["optimizer.momentum", "[0, 1)"],
    "+optimizer.foo=1": ["optimizer", "'foo'"],
    "callbacks.last.every_n_train_steps=0": ["every_n_train_steps"],
    "loss=siglip negatives=debiased": ["SigLIP", "debiased", "exponentials"],
    "loss=ressl negatives=hardest": ["ressl", "topk"],
    "loss=infonce loss.candidates=queue": ["loss.candidates=queue", "queue.size"],
    "gather=ring negatives=hardest": ["gather=ring", "negatives=Hardest", "gather=all works"],
    "gather=ring loss=supcon": ["gather=ring", "loss=SupCon", "gather=all works"],
    "loss=byol": ["predictor=mlp"],
    "negatives=tilt anneal.values={negatives.beta:[0.0,-1.0]}": ["negatives.beta", ">= 0"],
    "negatives=topk anneal.values={negatives.k:[9,0]}": ["negatives.k", "at least 1"],
    "target=ema target.momentum=1.5": ["target.momentum"],
    "anneal.shape=square": ["anneal.shape"],
    "evaluators.knn.others=[0]": ["evaluators.knn", "k >= 1"],
    "evaluators.linear.l2=[]": ["evaluators.linear.l2"],
    "+loss.color=red": ["color"],
    "experiment=simcse encoder.max_tokens=9": ["encoder.max_tokens=9", "data.max_tokens=32"],
}


@pytest.mark.parametrize("typed", thinned(LATER, 3), ids=str)
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


ON_TWO_DEVICES = [typed for typed in [*MISTAKES, *list(LATER)[::4]] if not re.search("devices|-m|resume", typed)]


@pytest.mark.parametrize("typed", thinned(ON_TWO_DEVICES, 4))
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
        cfg = composed("train", options, hydra=True)
        HydraConfig.instance().set_config(cfg)
        cfg._set_flag("struct", False)
        del cfg["hydra"]
        check(cfg, "train")
        fit(load_config(to_container(cfg)), tmp_path, resume=False)
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


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_logger_says_how_to_get_it(monkeypatch, tmp_path, name):
    """It is built as far as it goes without its package."""
    monkeypatch.setattr(f"lightning.pytorch.loggers.{name}._{name.upper()}_AVAILABLE", False)
    for module in (name, f"{name}.exceptions"):
        monkeypatch.setitem(sys.modules, module, None)
    cfg = config(f"logger=[default,{name}]")
    assert list(cfg.logger) == ["tensorboard", "csv", name]
    with pytest.raises(Exception) as caught:  # noqa: PT011
        build_trainer(cfg, tmp_path, None)
    status, line = explain(caught.value, "train")
    assert (status, f"pip install -e '.[{name}]'" in line) == (MISTAKE, True)


@pytest.mark.slow
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
    from repel.cli.checks import mismatch
    from repel.engine.configs import flatten

    numbers = [v for v in flatten(OmegaConf.load(CONF / "trainer/default.yaml")).values() if isinstance(v, int | float)]
    assert len(numbers) > 5
    assert all(mismatch(v, "text") for v in numbers)
    assert mismatch(None, "anything") is None
    assert mismatch(1.0, 3) is None
    assert mismatch(True, 1) is not None
