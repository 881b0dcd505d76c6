"""A few texts in the place of the bundled ones, some of them hostile; runs on them with random weights."""

from pathlib import Path

import pytest
import torch
from conftest import config

from repel.data.samples import Splits
from repel.engine import checkpoint_io
from repel.engine.build import build_data, build_module
from repel.engine.configs import to_container
from repel.text import datasets
from repel.text.texts import RawTexts

WORDS = ("the", "of", "red", "green", "blue", "bird", "fish", "stone", "river", "mountain", "small", "large", "old",
         "swims", "flies", "sleeps", "under", "over")  # fmt: skip
HOSTILE = ["<script>alert('x')</script> & <b>bold</b>", "a | b \\| c ** d __ e `f` [g](h) ~~i~~",
           "two\nlines\tand a tab",
           "שלום עולם, a bird", "طائر صغير \u202e turned", "emoji 🐦👩‍👩‍👧 bird", "鳥は飛ぶ", "bell\x07 and \x00 null",
           "word " * 300]  # fmt: skip
FEW = ["data.tokens=word", "data.vocabulary=60", "data.max_tokens=12", "views.max_tokens=12", "data.batch_size=8",
       "data.split_by=name"]  # fmt: skip
SMALL = ["experiment=text", "head=linear", *FEW]


def sentences(n: int, seed: int) -> list[str]:
    draws = torch.randint(len(WORDS), (n, 7), generator=torch.Generator().manual_seed(seed)).tolist()
    return [" ".join(WORDS[place] for place in row) for row in draws]


def few_texts() -> Splits:
    train, test = [*sentences(60, 1), *HOSTILE], [*sentences(20, 2), *HOSTILE]
    labels = [torch.arange(len(part)).remainder(10).tolist() for part in (train, test)]
    classes = ["act", "an|imal", "<i>artifact</i>", *"abcdefg"]
    return Splits(RawTexts.of(train, labels[0]), RawTexts.of(test, labels[1]), classes=classes)


@pytest.fixture(scope="module")
def few():
    """data=wordnet_mini reads these texts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "wordnet_mini", few_texts)
        yield


def text_data(*overrides: str):
    data = build_data(config(*SMALL, *overrides))
    data.setup()
    return data


def text_run(folder: Path, *overrides: str) -> Path:
    """A run folder with a checkpoint, as training leaves it."""
    width = [] if "encoder=hf" in overrides else ["encoder.width=8"]
    cfg = config(*SMALL, "head.out_features=6", *width, *overrides)
    data, module = build_data(cfg), build_module(cfg)
    data.setup()
    module.give_data_info(data.splits.train.info())
    for name, tensor in module.encoder.state_dict().items():
        if name == "log_weights" or "lora_" in name:  # which begin as what changes nothing
            tensor.normal_()
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    contents = {"config": to_container(cfg), "state_dict": module.state_dict(), "epoch": 1, "global_step": 7,
                "learned": data.transform.state_dict()}  # fmt: skip
    checkpoint_io.AtomicCheckpointIO().save_checkpoint(contents, folder / "checkpoints/best.ckpt")
    return folder
