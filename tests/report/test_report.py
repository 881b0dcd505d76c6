"""evaluate.py: the whole table from a checkpoint alone, its files, other data, further tasks, several devices."""

import csv
import json
import re

import pytest
import torch
from conftest import SMALL, command, config, make_folder, run_folder

from repel.engine import checkpoint_io, runs
from repel.engine.build import build_data
from repel.engine.configs import load_config, to_container
from repel.evaluation.protocol import Network
from repel.report.report import device_of, of_run, report, rows_of

QUICK = ["evaluators=[knn,linear]"]


def measured(folder) -> dict[str, float]:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The whole default table of a run, in its folder."""
    cwd = tmp_path_factory.mktemp("evaluated")
    result = command("evaluate.py", f"ckpt={finished}", cwd=cwd, timeout=400, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    return run_folder(result, cwd), result.stdout


@pytest.mark.slow
def test_it_reproduces_the_runs_numbers(finished, whole, tmp_path):
    """Of a run that was measured as it is by default; it trained as `finished` did."""
    result = command("train.py", *SMALL, "evaluators=[knn,linear]", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    run = measured(run_folder(result, tmp_path))
    known = {n: v for n, v in run.items() if re.match("test/|baseline/|val/.*linear", n)}
    assert {"val/linear_top1", "test/linear_top1", "test/last_linear_top1", "baseline/raw_linear_top1"} <= set(known)
    found = measured(whole[0])
    assert len(known) > 20
    assert {name: found[name] for name in known} == known


@pytest.mark.slow
def test_a_checkpoint_file_alone(finished, tmp_path):
    file = tmp_path / "moved.ckpt"
    file.write_bytes((finished / "checkpoints/best.ckpt").read_bytes())
    result = command("evaluate.py", f"ckpt={file}", *QUICK, "layers=[h]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found, known = measured(run_folder(result, tmp_path)), measured(finished)
    assert found["test/knn_top1"] == known["test/knn_top1"]
    assert not [name for name in found if "last" in name or "z_" in name]


@pytest.mark.slow
def test_what_it_leaves(finished, whole):
    folder, printed = whole
    records = json.loads((folder / "evaluation.json").read_text())["records"]
    assert {r["evaluator"] for r in records} == set(config(name="evaluate").evaluators)
    assert {(r["row"], r["layer"]) for r in records} == {
        ("raw pixels", "pixels"), ("untrained encoder", "h"), ("last epoch", "h"), ("best on validation", "h"),
        ("best on validation", "z"),
    }  # fmt: skip
    assert {r["metric"]: r["value"] for r in records} == measured(folder)
    for r in records:
        assert {"normalize"} <= set(r["settings"])
        if r["split"] == "val":
            assert (r["fitted_on"], r["scored_on"]) == (5400, 600)
        else:
            assert r["scored_on"] == (500 if r["evaluator"] == "corruptions" else 2000)
            assert r["fitted_on"] == {"few_label": r["settings"].get("labels"), "episodes": 5400}.get(
                r["evaluator"], 6000
            )
    page = (folder / "report.html").read_text()
    assert page.count("src='data:image/png;base64,") == page.count("<img") >= 5
    assert not re.search(r"(src|href)=.?(http|/|\w+\.)", page)
    for words in ("linear top-1, 1 % of the labels", "5-way 1-shot", "MAP@R", "season", "pixelate", "MAP"):
        assert words in page
    assert "MAP@R" in printed
    assert all(len(line) <= 120 for line in printed.splitlines())


@pytest.mark.slow
def test_raw_pixels_on_the_bundled_images_are_what_they_are(whole):
    """Known values, so that a change of the protocol does not go unnoticed."""
    found = measured(whole[0])
    assert found["baseline/raw_knn_top1"] == pytest.approx(0.7935, abs=5e-4)
    assert found["baseline/raw_knn10_top1"] == pytest.approx(0.8100, abs=5e-4)
    assert found["baseline/raw_linear_top1"] == pytest.approx(0.8510, abs=2e-3)


@pytest.mark.slow
def test_two_devices_and_a_second_time_give_the_same_numbers(finished, whole, tmp_path):
    few = ["evaluators=[knn,linear,retrieval,corruptions]", "evaluators.corruptions.images=60", "layers=[h]"]
    found = []
    for devices in (1, 1, 2):
        result = command("evaluate.py", f"ckpt={finished}", *few, f"devices={devices}", cwd=tmp_path, timeout=400,
                         OMP_NUM_THREADS="1")  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("test split") == 1
        found.append(measured(run_folder(result, tmp_path)))
    assert found[0] == found[1] == found[2]
    one = measured(whole[0])
    assert {n: v for n, v in found[0].items() if "corrupted" not in n}.items() <= one.items()


def test_other_data_with_columns_of_labels(finished, tmp_path):
    """Transfer to coloured images of other classes, with two further columns of labels from a table."""
    make_folder(tmp_path / "images", ["red", "green", "blue"], 40)
    files = sorted((tmp_path / "images").rglob("*.png"))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "warm", "odd"])
        for path in files:
            table.writerow([path.relative_to(tmp_path / "images"), "yes" if path.parent.name == "red" else "no", ""])
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", f"data.labels={tmp_path / 'labels.csv'}"]
    result = command("evaluate.py", f"ckpt={finished}", *source, *QUICK, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = run_folder(result, tmp_path)
    records = json.loads((folder / "evaluation.json").read_text())["records"]
    assert {r["task"] for r in records} == {"class", "warm"}  # nobody is labelled in the last column
    assert {r["scored_on"] for r in records if r["split"] == "test"} == {12}
    run = runs.read_config(folder)["run"]
    assert (run["data"]["channels"], run["data"]["image_size"], run["data"]["mean"]) == (1, 28, [0.286])
    assert run["data"]["datamodule"]["read"]["channels"] == 1


def test_a_table_labels_a_flat_folder(finished, tmp_path):
    make_folder(tmp_path / "images", ["."], 40)
    rows = "".join(f"{i:03d}.png,{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "labels.csv").write_text("file,side\n" + rows)
    source = ["data=image_folder", f"data.root={tmp_path / 'images'}", f"data.labels={tmp_path / 'labels.csv'}"]
    result = command("evaluate.py", f"ckpt={finished}", *source, *QUICK, "layers=[h]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "test/linear_top1" in measured(run_folder(result, tmp_path))


def test_pretrained_weights_are_a_baseline_of_their_own(tmp_path):
    """Beside the encoder without them; nothing is downloaded here: the config says so, the network is random."""
    cfg = config("encoder.width=4", "head.out_features=8", "+encoder.weights=null")
    data = build_data(cfg)
    data.setup()
    checkpoint = {"state_dict": {}, "epoch": 3}
    names = [r.prefix for r in rows_of(cfg, {"test/": checkpoint}, ["h", "z"], data, device_of("cpu"))]
    assert names == ["baseline/raw_", "baseline/untrained_", "test/", "test/z_"]
    cfg.encoder.weights = "DEFAULT"
    names = [r.prefix for r in rows_of(cfg, {"test/": checkpoint}, ["h"], data, device_of("cpu"))]
    assert names == ["baseline/raw_", "baseline/untrained_", "baseline/pretrained_", "test/"]


def test_layers_are_what_the_network_computes(finished):
    cfg = load_config(runs.read_config(finished))
    data = build_data(cfg)
    data.setup()
    weights = {"test/": checkpoint_io.load(of_run(finished)["test/"])}
    rows = {r.layer: r for r in rows_of(cfg, weights, ["h", "z"], data, device_of("cpu"))[2:]}
    few = data.splits.test[torch.arange(5)]
    h, z = (rows[layer].make() for layer in ("h", "z"))
    assert isinstance(h, Network)
    from repel.engine.build import build_module

    module = build_module(cfg).eval()
    module.load_state_dict(weights["test/"]["state_dict"])
    with torch.no_grad():
        expected = module.encoder(data.normalize(few.pixels))
        torch.testing.assert_close(h.encode(few)[0], expected)
        torch.testing.assert_close(z.encode(few)[0], module.head(expected))


def test_unlabelled_data_is_said_to_have_nothing_to_measure(tmp_path, capsys):
    make_folder(tmp_path / "images", ["."], 40)
    cfg = config("data=image_folder", f"data.root={tmp_path / 'images'}", "data.image_size=12")
    job = to_container(cfg) | {"layers": ["h"]}
    assert report(cfg, job, {}, device_of("cpu"), None) == ([], {})
    assert "no labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "words"),
    [("evaluation.k=abc", ["evaluation.k", "whole number"]), ("evaluation.k=2.5", ["evaluation.k"]),
     ("accelerator=tpu", ["accelerator", "cpu"]), ("ckpt=nowhere", ["nowhere"]), ("devices=0", ["devices"]),
     ("layers=[h,y]", ["layers", "'y'"]), ("evaluation.map=umap", ["evaluation.map", "tsne"]),
     ("evaluators=[knn,linaer]", ["linaer", "linear"]), ("evaluators.knn.others=[0]", ["k >= 1"]),
     ("evaluators.linear.l2=[]", ["evaluators.linear.l2"]), ("data=cifar11", ["data=cifar11", "did you mean cifar10"]),
     ("data_root=x", ["data_root"])],
)  # fmt: skip
def test_mistakes(finished, tmp_path, typed, words):
    ckpt = [] if "ckpt" in typed else [f"ckpt={finished}"]
    result = command("evaluate.py", typed, *ckpt, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
