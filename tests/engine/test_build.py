"""Parts built from a config."""

import pytest
import torch
from composing import composed
from conftest import TINY, config, same

from repel.cli.deletions import check_deletions
from repel.engine.build import build_module
from repel.engine.configs import to_container
from repel.engine.data_identity import with_data
from repel.engine.part_options import check_part_options


def test_the_jobs_own_seed_decides_the_weights():
    """Whatever ran before in this process, as an earlier job of a sweep."""
    first = build_module(config(*TINY)).state_dict()
    torch.rand(3)
    assert same(build_module(config(*TINY)).state_dict(), first)
    assert not same(build_module(config(*TINY, "seed=2")).state_dict(), first)


def test_other_data_is_read_as_the_run_reads_its_own():
    """The range too, unless it was typed: 12-bit images would be nearly black. Bundled images have none."""
    run = to_container(config("data=image_folder", "data.root=mine", "data.range=[0,4095]"))
    other = ["data=image_folder", "data.root=other"]

    def read(*typed: str) -> dict:
        return with_data(composed("evaluate", [*typed, "ckpt=x"]), run, typed)["data"]

    assert read(*other)["datamodule"]["read"]["gray_range"] == [0, 4095]
    assert read(*other, "data.range=null")["datamodule"]["read"]["gray_range"] is None
    assert "range" not in read("data=fashion_mini")


@pytest.mark.parametrize(
    ("typed", "left_out"),
    [
        (["experiment=ssm", "loss=byol", "predictor=mlp"], ["loss.temperature", "loss.symmetric"]),
        (["experiment=dns", "negatives=known"], ["negatives.strategies"]),
        (["experiment=sgl", "encoder=table", "views=user_item"], ["encoder.augment", "encoder.rate"]),
    ],
)
def test_an_experiments_options_that_another_choice_has_not_can_be_left_out(typed, left_out):
    with pytest.raises(ValueError, match="which an experiment or the command line sets: type") as caught:
        check_part_options(composed("train", typed))
    deletions = [f"~{key}" for key in left_out]
    assert f"type {' '.join(deletions)} to" in str(caught.value)
    cfg = composed("train", [*typed, *deletions])
    check_part_options(cfg)
    assert not [*check_deletions(cfg, composed("train", typed), deletions)]
