"""Every dataset of conf/data that is texts."""

import pytest
from conftest import config, options_of

from repel.engine.build import build_data


def lines(folder) -> list[str]:
    for split, count in (("train", 40), ("test", 8)):
        texts = "".join(f"{split} text {i}\n" for i in range(count))
        (folder / f"{split}.txt").write_text(texts, encoding="utf-8")
    return [f"data.root={folder}"]


def table(folder) -> list[str]:
    rows = "".join(f"a {i},b {i},c {i},d {i},{i % 3}\n" for i in range(40))
    (folder / "pairs.csv").write_text("anchor,positive,n1,n2,kind\n" + rows, encoding="utf-8")
    return [f"data.root={folder}/pairs.csv", "data.positive=positive", "data.negative=[n1,n2]", "data.label=kind"]


def dataset(folder) -> list[str]:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    rows = {"sentence": [f"text {i}" for i in range(40)], "label": [i % 3 for i in range(40)]}
    datasets.Dataset.from_dict(rows).save_to_disk(folder / "saved")
    return [f"data.root={folder}/saved"]


FAKES = {"wordnet_mini": lambda folder: [], "text_lines": lines, "text_csv": table, "text_hf": dataset}
LABELED = {"wordnet_mini": 10, "text_lines": 0, "text_csv": 3, "text_hf": 3}


@pytest.mark.parametrize("name", options_of("data", "text"))
def test_every_dataset_gives_tokens(name, tmp_path, monkeypatch):
    """The real readers on files that are made here; a new YAML needs a fake of its own."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    data = build_data(config("experiment=text", f"data={name}", *FAKES[name](tmp_path)))
    data.setup()
    assert len(data.splits.classes) == LABELED[name]
    assert data.labelled == bool(LABELED[name])
    for part in (data.splits.train, data.splits.val, data.splits.test):
        assert part.x.shape == (len(part), 32)
        assert len(part.texts) == len(part)
        if name == "text_csv":
            assert (part.positives.shape, part.negatives.shape) == ((len(part), 32), (len(part), 2, 32))
