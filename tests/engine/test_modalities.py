"""Parts for another kind of data than is read are refused in one line."""

import pytest
from conftest import TINY, config
from runs_here import status

from repel.engine.configs import to_container
from repel.engine.data_identity import with_data
from repel.engine.modalities import modality_of, other_modality
from repel.engine.outcomes import MISTAKE


@pytest.mark.parametrize(("typed", "line"), [
    (["data=wordnet_mini"], "encoder=small is for images, and data=wordnet_mini is texts: choose parts for texts"),
    (["experiment=text", "views=simclr"], "views=simclr is for images, and data=wordnet_mini is texts"),
    (["experiment=text", "data=fashion_mini"], "encoder=bag_of_ngrams is for texts, and data=fashion_mini is images"),
    (["encoder=bag"], "encoder=bag is for texts, and data=fashion_mini is images: leave it out; experiment=text"),
    (["experiment=text", "evaluators=[corruptions]"], "evaluators.corruptions is for images"),
    (["experiment=recommendation", "data.labels=a.csv"], "data.labels labels images or texts"),
    (["experiment=recommendation_large", "loss.candidates=catalog"], "set negatives=known"),
])  # fmt: skip
def test_parts_for_other_data_are_refused(tmp_path, typed, line):
    code, said = status(tmp_path / "run", *typed)
    assert (code, line in said) == (MISTAKE, True), said
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_run_is_not_evaluated_on_other_data():
    run, other = to_container(config(*TINY)), config("experiment=text")
    other["data_root"] = None
    with pytest.raises(ValueError, match="data= is texts, and the run learned from images"):
        with_data(other, run)


def test_parts_of_ones_own_are_of_any_modality():
    mine = {"_target_": "mine.encoders.Encoder"}
    images = to_container(config(*TINY))
    assert modality_of(mine) is None
    nodes = {"a": mine, "b": {"_target_": "repel.text.encoders.BagOfTokens"}, "c": images["encoder"], "d": None}
    assert other_modality(images, nodes) == ["b"]


def test_a_run_is_evaluated_with_its_own_tokenizer(tmp_path):
    run = to_container(config("experiment=text"))
    typed = ["data=text_csv", f"data.root={tmp_path}", "data.vocabulary=9"]
    other = config("experiment=text", *typed)
    other["data_root"] = None
    with pytest.raises(ValueError, match=r"data\.vocabulary= is of training: the run's own tokenizer is taken"):
        with_data(other, run, typed)
    assert with_data(other, run, typed[:2])["data"]["root"] == str(tmp_path)
