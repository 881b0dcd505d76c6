"""A run on texts from training to search, and what evaluate.py measures of it."""

import csv
import json
from importlib.util import find_spec

import pytest
from conftest import command, config, run_folder
from hostile_texts import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from repel.engine.configs import to_container
from repel.report.evaluate import _evaluators

TEXT = {"data": {"datamodule": {"read": {"_target_": "repel.text.datasets.wordnet_mini"}}}}
IMAGES = {"data": {"datamodule": {"read": {"_target_": "repel.images.datasets.fashion_mini"}}}}
PAIRS = {"data": {"datamodule": {"read": {"_target_": "repel.interactions.lightgcn_files.interactions_lightgcn"}}}}


def test_evaluators_for_other_data_are_left_out_unless_they_were_typed(capsys):
    nodes = to_container(config("ckpt=x", name="evaluate"))["evaluators"]
    for typed in ([], ["ckpt=x", "evaluators.knn.k=5"]):
        assert _evaluators(nodes, TEXT, typed).keys() == nodes.keys() - {"corruptions", "ranking", "items"}
        assert capsys.readouterr().out == "note     corruptions is left out: it is for images, and the data is texts\n"
    for typed in ("evaluators=[knn,corruptions]", "evaluators.corruptions.images=5", "+evaluators=corruptions"):
        with pytest.raises(ValueError, match="evaluators=corruptions is for images, and the data is texts"):
            _evaluators(nodes, TEXT, [typed])
    some = {name: nodes[name] for name in ("knn", "corruptions")}
    assert _evaluators(some, IMAGES, ["evaluators=[knn,corruptions]"]) == some
    assert _evaluators(nodes, IMAGES, []).keys() == nodes.keys() - {"ranking", "items"}
    assert _evaluators(nodes, PAIRS, []).keys() == {"ranking", "items"}
    assert _evaluators({"knn": nodes["knn"]}, PAIRS, ["evaluators=[knn]"]).keys() == {"knn"}
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="evaluators=ranking is for users and items, and the data is images"):
        _evaluators({"ranking": nodes["ranking"]}, IMAGES, ["evaluators=[ranking]"])


@pytest.mark.slow
def test_a_run_on_texts_from_training_to_search(tmp_path):
    quick = [option for option in SMALL if "vocabulary" not in option and "split_by" not in option]
    few = ["trainer.max_epochs=1", "data.batch_size=512", "encoder.width=16", "encoder.buckets=999", "evaluators=[knn]",
           "evaluation.bank=1500"]  # fmt: skip

    def done(script: str, *typed: str):
        result = command(script, *typed, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return run_folder(result, tmp_path)

    run = done("train.py", *quick, *few)
    events = EventAccumulator(str(run)).Reload()
    assert {"views/pairs", "embedding/neighbours"} <= set(events.Tags()["tensors"])
    page = (run / "report.html").read_text(encoding="utf-8")
    assert page.count('<tr class="query">') == 10
    measured = done("evaluate.py", f"ckpt={run}", "data=wordnet_mini", "evaluators=[knn]", "evaluation.bank=1500")
    scores = [json.loads((folder / "metrics.json").read_text())["test/knn_top1"] for folder in (run, measured)]
    assert scores[0] == scores[1] > 0.2
    embedded = done("embed.py", f"ckpt={run}")
    with (embedded / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 17_000
    found = command("scripts/search.py", rows[7]["text"], str(embedded), "k=3", cwd=tmp_path)
    assert found.stdout.splitlines()[0].split(None, 3)[-1][:40] == rows[7]["text"][:40]
    (tmp_path / "q.png").write_bytes(b"")
    wrong = command("scripts/search.py", "q.png", str(embedded), cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    needs = {"onnx": "onnxruntime", "sentence_transformers": "sentence_transformers"}
    formats = ["safetensors", *(name for name, package in needs.items() if find_spec(package))]
    exported = done("export.py", f"ckpt={run}", f"format=[{','.join(formats)}]", "compare_on=data")
    files = {"safetensors": "encoder.safetensors", "onnx": "encoder.onnx", "sentence_transformers": "bag_of_tokens.py"}
    for name in formats:
        assert list(exported.rglob(files[name]))
