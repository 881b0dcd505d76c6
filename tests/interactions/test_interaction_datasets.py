"""Every dataset of conf/data that is pairs of users and items."""

import pytest
import torch
from conftest import config, options_of
from pair_runs import ITEMS, USERS, make_log

from repel.engine.build import build_data


def table(folder) -> list[str]:
    rows = "".join(f"u{user},i{(user + n) % ITEMS},{n % 5}\n" for user in range(USERS) for n in range(8))
    (folder / "log.csv").write_text("who,what,stars\n" + rows, encoding="utf-8")
    return [f"data.root={folder}/log.csv", "data.user=who", "data.item=what"]


FAKES = {"debian_mini": lambda folder: [], "interactions_csv": table,
         "interactions_lightgcn": lambda folder: [f"data.root={make_log(folder / 'log')}"]}  # fmt: skip
SIZES = {"debian_mini": (6673, 1744), "interactions_csv": (USERS, ITEMS), "interactions_lightgcn": (USERS, ITEMS)}


@pytest.mark.parametrize("name", options_of("data", "interactions"))
def test_every_dataset_gives_pairs(name, tmp_path):
    """The real readers on files that are made here; a new YAML needs a fake of its own."""
    data = build_data(config("experiment=recommendation", f"data={name}", *FAKES[name](tmp_path)))
    data.setup()
    assert not data.labelled  # pairs are of no class
    parts = (data.splits.train, data.splits.val, data.splits.test)
    for part in parts:
        assert part.store is parts[0].store
        assert (part.store.users, part.store.items) == SIZES[name]
        assert part.x.shape == (len(part), 2)
        assert len(part)
        assert (part.x >= 0).all()
        assert (part.x < torch.tensor(SIZES[name])).all()
    every = torch.cat([part.x for part in parts])
    assert len(every.unique(dim=0)) == len(every), "no pair twice"
