"""Texts of items out of a table: read, ranked by, and runs with them, from training to export."""

import pytest
import torch
import torch.nn.functional as F
from conftest import config
from item_texts import write_log
from safetensors.torch import load_file

from repel.data.samples import Splits, give_info
from repel.engine import runs
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit
from repel.export.export import export
from repel.export.recommend import open_catalog, recommend_for_user
from repel.interactions.csv_columns import CsvFormat
from repel.interactions.csv_logs import interactions_csv
from repel.interactions.item_tables import ItemTable, with_table
from repel.interactions.pairs import EntityStore, Interactions
from repel.interactions.two_tower import TwoTower
from repel.losses import InfoNCE
from repel.report.evaluate import evaluate
from repel.text.encoders import BagOfTokens
from repel.text.learned_tokens import learned_tokens


def test_texts_of_a_table_of_items(tmp_path):
    """The column of texts may be that of titles; items and texts that are not there are empty."""
    rows = ["item,title", "b, Blue bird ", "x,none", "c,"]
    (tmp_path / "items.csv").write_text("\n".join(rows), encoding="utf-8")
    log = Interactions(torch.tensor([[0, 0], [0, 1], [0, 2]]), store=EntityStore(1, 3, item_names=["a", "b", "c"]))

    def read(title: str | None, text: str | None):
        table = ItemTable.of(str(tmp_path / "items.csv"), None, title, None, CsvFormat(), text, learned_tokens)
        assert table is not None
        return with_table(Splits(log, log, log), table).train.store

    assert read(None, "title").item_texts.texts == ["", "Blue bird", ""]
    both = read("title", "title")
    assert both.item_texts.texts == ["", "Blue bird", ""]
    assert [both.item_name(item) for item in range(3)] == ["a", "Blue bird", "c"]
    assert read("title", None).item_texts is None
    (tmp_path / "items.csv").write_text("\n".join(["item,title", "b,", "c,"]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"data\.item_text=title: no item of the log has a text in items\.csv"):
        read(None, "title")


def recall_at_5(encoder: TwoTower, splits) -> float:
    """Of pairs whose item is in no training pair: how often it is among the first five of all that the user has not."""
    store = splits.train.store
    with torch.no_grad():
        users, items = (F.normalize(encoder.eval()(of.x), dim=1) for of in (store.all_users(), store.all_items()))
    scores, (known, asked) = users @ items.T, (part.x.long() for part in (splits.train, splits.test))
    scores[known[:, 0], known[:, 1]] = -2
    ranks = (scores[asked[:, 0]] > scores[asked[:, 0], asked[:, 1]][:, None]).sum(1)
    return (ranks < 5).double().mean().item()


@pytest.mark.parametrize(("item_text", "low", "high"), [(lambda: BagOfTokens(8), 0.6, 1), (lambda: None, 0, 0.3)])
def test_items_without_training_pairs_are_ranked_by_their_texts(tmp_path, capsys, item_text, low, high):
    """By chance five of 37 are the first. Without texts such items have vectors that nothing has trained."""
    options = {option.partition("=")[0][5:]: option.partition("=")[2] for option in write_log(tmp_path / "log")[1:]}
    splits = interactions_csv(**options, val_fraction=0.1, test_fraction=0.1, split_seed=0, tokenize=learned_tokens)
    assert "items    log.csv: of 40 items, 40 have a text" in capsys.readouterr().out
    torch.manual_seed(0)
    text = item_text()
    encoder = TwoTower(8, own_vectors=["user"] if text else ["user", "item"], item_text=text)
    give_info(encoder, splits.train.info())
    loss, optimizer = InfoNCE(temperature=0.2, symmetric=False), torch.optim.Adam(encoder.parameters(), 0.03)
    nodes = splits.train.x.long().T + torch.tensor([[0], [splits.train.store.users]])
    sides = tuple(torch.stack([side, torch.zeros_like(side)], 1) for side in nodes)
    for _ in range(60):
        optimizer.zero_grad()
        loss(encoder(sides).unflatten(0, (2, -1)), ids=nodes).backward()
        optimizer.step()
    assert low <= recall_at_5(encoder, splits) <= high


RUN = ["experiment=two_tower", "encoder=two_tower_text", "encoder@encoder.item_text=transformer", "encoder.width=8",
       "encoder.item_text.width=8", "encoder.item_text.heads=2", "encoder.item_text.layers=1", "data.batch_size=32",
       "trainer.max_epochs=2", "callbacks.progress=null", "callbacks.pairs=null", "logger.tensorboard=null",
       "evaluators=[ranking]", "trainer.accelerator=cpu"]  # fmt: skip


@pytest.mark.slow
def test_a_run_with_texts_is_evaluated_exported_and_recommends(tmp_path, done):
    cfg, run = config(*RUN, *write_log(tmp_path / "log")), tmp_path / "run"
    runs.create(run, to_container(cfg), [])
    fit(load_config(runs.current_config(run)), run, resume=False)
    typed = [f"ckpt={run}", "evaluators=[ranking]"]
    evaluate(config(*typed, name="evaluate"), tmp_path / "evaluation", typed)
    assert 0 < runs.read_metrics(tmp_path / "evaluation")["test/ndcg_at_20"] <= 1
    catalog = open_catalog(str(run), None, None)
    vectors = load_file(done(export, f"ckpt={run}") / "vectors.safetensors")
    torch.testing.assert_close(vectors["items"], catalog.items)
    assert len(recommend_for_user(catalog, "u0", 5, exclude_known=True)) == 5
