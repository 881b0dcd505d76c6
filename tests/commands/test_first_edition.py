"""Runs that the first edition (0.1, commit 3336279) left can still be resumed and evaluated."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT, command, run_folder

FIRST_EDITION = ROOT / "tests/runs/first_edition"


@pytest.fixture
def old_run(tmp_path):
    shutil.copytree(FIRST_EDITION, tmp_path / "old")
    return tmp_path / "old"


def test_every_target_of_the_first_edition_has_a_name_today():
    from repel.engine.configs import RENAMED_TARGETS, check_targets, load_config

    config = yaml.safe_load((FIRST_EDITION / "config.yaml").read_text(encoding="utf-8"))
    load_config(config)
    check_targets([{"_target_": name} for name in RENAMED_TARGETS.values()])
    with pytest.raises(ValueError, match=r"_target_=repel\.anneal\.Anneal"):
        check_targets(config)


@pytest.mark.slow
def test_resume_of_the_first_edition(old_run, tmp_path):
    result = command("train.py", f"resume={old_run}", "trainer.max_epochs=3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "the learning rate stays" not in result.stdout  # its config has the schedule's end as a number
    assert "from step 8" in result.stdout
    assert json.loads((old_run / "metrics.json").read_text(encoding="utf-8"))["train/steps"] == 12


@pytest.mark.slow
def test_evaluation_of_the_first_edition(old_run, tmp_path):
    result = command("evaluate.py", f"ckpt={old_run}", "evaluators=[knn]", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    ours, theirs = (
        json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test/knn_top1"]
        for folder in (run_folder(result, tmp_path), old_run)
    )
    assert ours == pytest.approx(theirs, abs=0.002)  # another processor may round differently
