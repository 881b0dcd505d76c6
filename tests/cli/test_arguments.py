"""What is typed: paths and names in any letters, slips of the fingers, and words of other programs."""

import sys
from pathlib import Path

import pytest
from conftest import CONF, TINY, command, make_folder, options, run_folder
from omegaconf import OmegaConf

from repel.cli.arguments import parsed, quoted_for_hydra, spelled_for_hydra
from repel.cli.checks import RANGES, check_ranges, check_types
from repel.cli.names import check_names

PATHS = ["/data/数据", "née", "a=b", "it's", "photos (1)", "[2] photos", "a#b", "a&b;c", "~/photos", "epoch=9.ckpt",
         "2024_01", "1e3", "007", "true", 'a "b"', "a\\", "x(1)", "mül ler=1", "//server/a", "C:\\x", "a{b}", "50%",
         "日本,語", "a\N{NO-BREAK SPACE}b", "{x", "😀"]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["data.root", "ckpt", "resume", "name", "data.labels"])
def test_a_path_is_what_was_typed(path, key):
    override = parsed(spelled_for_hydra([f"{key}={path}"])[0])
    assert str(override.value()) == path
    assert not override.is_sweep_override()


@pytest.mark.parametrize("typed", [
    "data.root='a b'", 'data.root="数据"', "data.root=null", "data.root=${oc.env:HOME}/a", "name=a\\=b",
    "data.root=???",
    "name=1", "optimizer.lr=1e-3", "evaluators=[knn,linear]", "seed=1,2", "loss.x={a:1}", "name=", "~callbacks.knn",
    "seed=range(1,4)", "data.root=a,b", "--config-dir=数据", "-m", "loss=[",
])  # fmt: skip
def test_what_hydra_reads_is_left_alone(typed):
    assert spelled_for_hydra([typed]) == [typed]


@pytest.mark.parametrize(("typed", "group", "some"), [
    ("loss=glob(*)", "loss", {"ntxent", "supcon"}),
    ("views=glob([sim*,b*],exclude=simclr)", "views", {"byol", "simclr_no_blur"}),
])  # fmt: skip
def test_a_glob_leaves_shared_parts_out(typed, group, some):
    """`_rowwise` was a job of the sweep, and failed."""
    names = [path.stem for path in (CONF / group).glob("*.yaml")]
    assert any(name.startswith("_") for name in names)
    found = parsed(spelled_for_hydra([typed])[0]).value().filter(names)
    assert not [name for name in found if name.startswith("_")]
    assert some <= set(found)
    assert typed != "loss=glob(*)" or set(found) == set(options("loss"))


def test_a_glob_of_what_is_no_group_is_refused():
    """It was a sweep without a job."""
    with pytest.raises(ValueError, match=r"glob lists the choices of a group, .*; data\.val_fraction is none"):
        check_names("train", ["-m", "data.val_fraction=glob(*)"])
    with pytest.raises(ValueError, match=r"data\.root is none: type its values, data\.root=A,B"):
        check_names("train", spelled_for_hydra(["-m", "data=image_folder", "data.root=glob(*)"]))


def test_quotes_by_hydras_own_grammar():
    """Every backslash and quote comes back as it was."""
    for text in ["", "\\", "\\\\", '"', '\\"', '\\\\"', "'", "\\'", 'a"b\\"c\\', "${a}", "a\nb"]:
        assert parsed(f"k={quoted_for_hydra(text)}").value() == text


def test_a_path_that_hydra_reads_otherwise_is_one_where_it_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "[x]"):
        assert spelled_for_hydra([f"data.root={name}"]) == [f"data.root={name}"]
        Path(name).mkdir()
        assert spelled_for_hydra([f"data.root={name}"]) == [f'data.root="{name}"']


def test_a_sweep_over_paths_is_cut_at_its_commas():
    assert spelled_for_hydra(["-m", "data.root=a,née,it's"])[0] == 'data.root=a,"née","it\'s"'


def test_flags_may_stand_between_options():
    """They go to the end: argparse would refuse what follows one that stands between options."""
    typed = ["seed=1,2", "-m", "loss=ntxent", "--cfg", "job", "name=a", "--config-dir=x", "--resolve", "b=1",
             "--config-dir", "y", "c=1"]  # fmt: skip
    flags = ["-m", "--cfg", "job", "--config-dir=x", "--resolve", "--config-dir", "y"]
    assert spelled_for_hydra(typed) == ["seed=1,2", "loss=ntxent", "name=a", "b=1", "c=1", *flags]


def test_a_home_that_nobody_has_is_no_crash():
    for key in ("data.root", "ckpt", "resume", "out", "data.labels"):
        with pytest.raises(ValueError, match=f"{key}=~nobody-here/x: nobody here has this home folder; type the path"):
            spelled_for_hydra([f"{key}=~nobody-here/x"])
    assert spelled_for_hydra(["name=~nobody-here"]) == ['name="~nobody-here"']


def test_texts_of_other_keys_and_in_lists():
    assert spelled_for_hydra(["loss.word=née", "hydra.searchpath=[file:///ü,pkg://a]"]) == [
        'loss.word="née"', 'hydra.searchpath=["file:///ü",pkg://a]']  # fmt: skip


def test_line_ends_of_windows_are_no_part_of_an_argument():
    assert spelled_for_hydra(["seed=1\r", "\r", "name=a"]) == ["seed=1", "name=a"]


def test_a_folder_that_hydra_makes_is_below_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/née")
    assert parsed(spelled_for_hydra(["out=~/x"])[0]).value() == "/home/née/x"


SLIPS = {  # command and what is typed -> what the line must hold
    ("train", "—multirun"): ["type --multirun"],
    ("train", "–m"): ["type -m"],
    ("train", "name=“a”"): ["curly"],
    ("train", "+experiment=moco"): ["leave out the +, experiment=moco"],
    ("evaluate", "+data=cifar10 ckpt=x"): ["leave out the +, data=cifar10"],
    ("train", "experiment=[moco,hcl]"): ["moco sets loss=infonce", "hcl sets loss=ntxent"],
    ("train", "experiment=[text_hard,moco]"): ["text_hard sets loss=ntxent", "moco sets loss=infonce"],
    ("train", "-m experiment=[moco,hcl]"): ["choose one"],
    ("train", "loss=["): ["brackets", "'loss=\"[\"'"],
    ("train", "trainer.max_epochs 5"): ["'trainer.max_epochs' is not KEY=VALUE", "spaces"],
    ("train", "--seed=1"): ["without dashes, seed=1"],
    ("train", "-lr=1"): ["without dashes, lr=1"],
    ("train", "--gpus 2"): ["without dashes, gpus=2", "trainer.devices=N"],
    ("train", "losss=(a"): ["losss", "did you mean loss?"],
    ("train", "loss=ñtxent"): ["did you mean ntxent?"],
    ("train", "ünknown=1"): ["unknown option ünknown"],
    ("train", "data.rooot=数据 data=image_folder"): ["did you mean data.root?"],
    ("train", "trainer.gpus=1"): ["trainer.devices=N", "CUDA_VISIBLE_DEVICES"],
    ("evaluate", "gpus=1"): ["type devices=N"],
    ("train", "ckpt_path=x"): ["resume=RUN"],
    ("embed", "ckpt_path=x"): ["type ckpt=RUN_OR_FILE"],
    ("train", "epochs=3"): ["trainer.max_epochs=N"],
    ("train", "data.num_workers=3"): ["data.workers=N"],
    ("train", "model=resnet50"): ["type encoder=resnet50"],
    ("train", "name=../a"): ["name=../a", "leave out /"],
    ("train", "-m name=a/b,c"): ["leave out /"],
}


@pytest.mark.parametrize(("name", "typed"), SLIPS, ids=" ".join)
def test_slips_and_habits_get_one_line_before_hydra_composes(name, typed, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *typed.split()])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_names(name, spelled_for_hydra(typed.split()))
    assert "\n" not in str(caught.value)
    for word in SLIPS[name, typed]:
        assert word in str(caught.value)


@pytest.mark.parametrize("typed", ["experiment=[debug,moco]", "-m experiment=moco,hcl", "--cfg job", "-m seed=1,2",
                                   "experiment=[debug,founding]", "+loss.x=1", "--config-dir a", "--res"])  # fmt: skip
def test_what_is_no_slip(typed):
    check_names("train", typed.split())


@pytest.mark.parametrize(("key", "value", "words"), [
    ("trainer.devices", [1], "CUDA_VISIBLE_DEVICES=1"), ("trainer.devices", "auto", "how many"),
    ("trainer.devices", -1, "how many"), ("trainer.accelerator", "cuda", "type gpu"),
    ("accelerator", "mps", "type cpu"), ("trainer.accelerator", [0, 1], "trainer.accelerator must be"),
])  # fmt: skip
def test_words_of_lightning_for_devices(key, value, words):
    cfg, default = OmegaConf.create({}), OmegaConf.create({})
    OmegaConf.update(cfg, key, value)
    OmegaConf.update(default, key, "cpu" if "accelerator" in key else 1)

    def check() -> None:
        check_types(cfg, [default], [f"{key}={value}"])
        check_ranges(cfg, RANGES)

    with pytest.raises(ValueError, match=words):
        check()


@pytest.mark.slow
def test_data_and_runs_in_folders_with_any_letters(tmp_path):
    """All the way: train, embed, measure again, a sweep; class names that matplotlib could take for formulas."""
    home = tmp_path / "mül ler=1, 数据 (2)"
    make_folder(home / "it's [me]", ["数据", "$_&_ ^$", "_private"], 40)
    data = ["data=image_folder", "data.root=it's [me]", "data.image_size=12", "data.val_fraction=0.2"]
    map_too = ["evaluation.map=pca", "hydra.job.chdir=true"]
    trained = command("train.py", *TINY, *data, *map_too, "name=née #1", cwd=home)
    assert trained.returncode == 0, trained.stderr
    assert trained.stderr.count("Glyph") == 0
    run = run_folder(trained, home)
    assert "née #1" in run.name
    assert {"evaluation.json", "report.html", "metrics.json"} <= {path.name for path in run.iterdir()}
    for script, more in (("embed.py", []), ("evaluate.py", ["evaluators=[knn]"])):
        made = command(script, f"ckpt={run.relative_to(home)}", *more, cwd=home)
        assert made.returncode == 0, made.stderr
    swept = command("train.py", "-m", *TINY, "evaluators=[]", *data, "name=né,b=c", "trainer.max_steps=1", cwd=home)
    assert swept.returncode == 0, swept.stderr
    assert sorted(p.parent.name for p in (home / "sweeps").rglob("metrics.json")) == ["0", "1"]


def test_a_list_is_no_path():
    for key in ("init", "ckpt", "resume", "data_root"):
        check_ranges(OmegaConf.create({key: "???"}), RANGES)
        with pytest.raises(ValueError, match=f"{key} must be a path"):
            check_ranges(OmegaConf.create({key: ["run"]}), RANGES)
