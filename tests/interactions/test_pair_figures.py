"""What a report shows of users and items: tables by name, the plot of recall by popularity, the projector's names."""

from types import SimpleNamespace

import pytest
import torch
from item_runs import pair_config, write_pairs

from repel.data.samples import CompleteSplits, Splits
from repel.engine.build import build_data
from repel.evaluation.measurement import Measurement, ReportRow, Score
from repel.evaluation.protocol import Network, Part
from repel.evaluation.ranking_plot import popularity_plot
from repel.evaluation.top_items import CosineScorer
from repel.interactions.counted import counted_entities
from repel.interactions.figures import HIT, neighbor_table, user_table
from repel.interactions.modality import INTERACTIONS
from repel.interactions.pairs import EntityStore, Interactions

NAMES = ["libc6", "zlib1g", "perl", "tcl", "bash", "sed"]
STORE = EntityStore(
    3, 6, ["apt", "git", "vim"], NAMES, torch.tensor([0, 0, 1, 1, 1, -1]), ["libs", "interpreters"]
)  # fmt: skip


def pairs(*rows: tuple[int, int]) -> Interactions:
    return Interactions(torch.tensor(rows, dtype=torch.int32).reshape(-1, 2), store=STORE)


SPLITS = CompleteSplits(
    pairs((0, 0), (0, 1), (1, 2), (2, 0), (2, 1), (2, 2)), pairs((0, 4), (2, 5), (2, 3)), pairs((0, 2)), [], []
)
SCORES = torch.tensor([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.1] * 6, [0.9, 0.8, 0.7, 0.1, 0.3, 0.2]])
SCORER = SimpleNamespace(scores=lambda users: SCORES[users])


def test_users_have_their_items_and_their_ranking():
    table = user_table(SCORER, SPLITS, torch.device("cpu"))
    assert table.rows == [
        ["user", "1 of 1", "apt: libc6, zlib1g"],  # of two users with three known items the first
        ["0.600", "", "tcl (interpreters)"],
        ["0.500", HIT, "bash (interpreters)"],
        ["0.400", "", "sed"],
        ["user", "2 of 2", "vim: libc6, zlib1g, perl"],
        ["0.300", "", "bash (interpreters)"],
        ["0.200", HIT, "sed"],
        ["0.100", HIT, "tcl (interpreters)"],
    ]
    assert table.kinds == ["query", "", "same", "", "query", "", "same", "same"]


def items(labels: torch.Tensor) -> Part:
    x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [0.2, 0.9], [-1.0, 0.0]])
    return Part(x, labels, counted_entities(Splits(SPLITS.train, SPLITS.test, SPLITS.val))["items"])


def test_neighbors_of_an_item_are_others_by_kind():
    part = items(STORE.item_labels)
    table = neighbor_table(part, part, STORE.classes)
    row = table.rows.index(["query", "libs", "libc6"])
    assert [cells[2] for cells in table.rows[row : row + 3]] == ["libc6", "zlib1g", "bash"]
    assert table.kinds[row : row + 3] == ["query", "same", "other"]
    row = table.rows.index(["query", "", "sed"])
    assert table.kinds[row : row + 2] == ["query", ""]
    assert len(table.rows) == 6 * 6


def test_without_labels_there_is_no_column_of_kinds():
    part = items(torch.full((6,), -1))
    table = neighbor_table(part, part, [])
    assert table.columns == ["cosine", "item"]
    assert table.rows[0] == ["query", "libc6"]


def test_what_is_shown_has_vectors_names_and_counts():
    vectors = {"users": torch.eye(3, 4), "items": torch.arange(24.0).view(6, 4)}

    def encode(samples):
        x = vectors["users" if len(samples) == 3 else "items"]
        return x, torch.arange(len(x))

    network = Network(encode, None, lambda x: x, torch.device("cpu"))
    shown = INTERACTIONS.shown(network, SPLITS)
    assert torch.equal(shown.part.x, vectors["items"])
    assert torch.equal(shown.part.y, STORE.item_labels)
    captions = INTERACTIONS.captions(shown.part.samples, torch.tensor([0, 4]))
    assert captions == {"name": ["libc6", "bash"], "training pairs": ["2", "0"]}
    ((name, draw),) = shown.drawings
    expected = user_table(CosineScorer(vectors["users"], vectors["items"]), SPLITS, torch.device("cpu"))
    assert (name, draw().picture) == ("users", expected)


@pytest.mark.parametrize(("typed", "heads"), [
    ([], []), (["views.further=[[user,1],[item,2]]"], ["view 2", "view 3"]),
    (["views=towers", "views.negatives=5"], ["negative 0", "negative 1", "negative 2"]),
])  # fmt: skip
def test_views_are_shown_by_name(tmp_path, typed, heads):
    data = build_data(pair_config(write_pairs(tmp_path), *typed))
    data.setup()
    table = INTERACTIONS.view_pairs(data, 4)
    first = data.splits.train.x[next(iter(data.order(0)))[:4]].tolist()
    assert [row[:2] for row in table.rows] == [[str(user), str(item)] for user, item in first]
    assert table.columns == ["user", "item", *heads]
    if "view 2" in heads:
        assert table.rows[0][2:] == [f"{first[0][0]} in graph 1", f"{first[0][1]} in graph 2"]


def test_recall_is_plotted_by_popularity():
    run, popular = (ReportRow(name, name, "h", lambda: None, epoch, headline) for name, epoch, headline in
                    (("last", 3, True), ("popular", None, False)))  # fmt: skip
    scores = {run: [0.1, 0.2, 0.3, 0.4, 0.5], popular: [0.0, 0.0, 0.0, 0.1, 0.9]}
    measured = [
        Measurement(row, "class", "ranking", Score(f"recall_at_20_fifth_{n}", "", value, {"ci95": 0.01}), 1, 0, 0)
        for row, values in scores.items() for n, value in enumerate(values, 1)
    ]  # fmt: skip
    plot = popularity_plot(measured, 20)
    (axes,) = plot.picture.axes
    drawn = {container.get_label(): container.lines[0].get_ydata().tolist() for container in axes.containers}
    assert drawn == {"last": scores[run], "popular": scores[popular]}
    assert popularity_plot(measured, 10) is None
