"""What people see of texts: tables of neighbors and views, whatever the texts are."""

import copy
import html
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hostile_texts import HOSTILE, few_texts, text_data
from plain_texts import sentences
from tensorboard.plugin_util import markdown_to_safe_html

from repel.base import seeding
from repel.data.sampler import BatchIndices
from repel.data.views import ViewDraws
from repel.evaluation.modality import Plot
from repel.evaluation.protocol import Part
from repel.evaluation.text_table import TextTable, on_one_line
from repel.report.page import write_page
from repel.report.plots import draw
from repel.report.projector import write_projector
from repel.text.figures import MASKED, STRUCK, neighbor_table, view_table
from repel.text.texts import RawTexts
from repel.text.views import TextViews


class Cells(HTMLParser):
    """The text of each cell of a page, and the names of all its tags."""

    def __init__(self, page: str):
        super().__init__()
        self.cells, self.tags = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data


def hostile_table() -> TextTable:
    rows = [["query" if i % 2 else "0.5", on_one_line(text)] for i, text in enumerate(HOSTILE)]
    return TextTable(["cosine", "text"], rows, ["query" if i % 2 else "other" for i in range(len(rows))])


def test_tensorboard_shows_every_text_as_it_is():
    table = hostile_table()
    page = markdown_to_safe_html(table.markdown())
    found = Cells(page)
    assert [cell.strip() for cell in found.cells] == [cell for row in table.rows for cell in row]
    assert found.tags == {"table", "thead", "tbody", "tr", "th", "td", "strong"}


def test_the_page_shows_every_text_as_it_is(tmp_path):
    table = hostile_table()
    plot = draw("neighbors", lambda: Plot("neighbours", "Nearest <texts>", table))
    write_page(tmp_path / "report.html", "a run", [], [plot])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    body = page[page.index("Nearest &lt;texts&gt;") : page.index("Settings")]
    found = Cells(body)
    assert [cell.strip() for cell in found.cells] == [cell for row in table.rows for cell in row]
    assert not {"script", "b", "img"} & found.tags


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_on_one_line(text):
    shown = on_one_line(text, 40)
    assert len(shown) <= 40
    assert shown.isprintable() or "👩" in shown  # which has joiners
    assert ("…" in shown) == (len(" ".join(text.split())) > 40)
    assert on_one_line("x" * 10**6, 40) == "x" * 39 + "…"


def drawn(data, n: int):
    """Tokens of the views that view_table shows."""
    places = next(iter(data.order(0)))[:n]
    draws = ViewDraws(data.views, data.seed, seeding.VIEWS, BatchIndices(0, 0, places, slice(0, n), data.batch_size))
    made = data.views.apply(data.splits.train.fetch(places, draws).x, draws.params())
    return places, made


@pytest.fixture(scope="module")
def read(few):
    return text_data()


def with_views(data, **options):
    """The same data with other views, of which there are two."""
    changed = copy.copy(data)
    changed.views = TextViews(2, max_tokens=12, **options)
    return changed


@pytest.mark.parametrize(
    "options", [{"crop": 0.5}, {"delete": 0.4}, {"mask": 0.3}, {"shuffle": 0.7}, {"crop": 0.7, "shuffle": 1.0}, {}]
)
def test_a_views_words_are_its_tokens_and_the_rest_is_struck_through(read, options):
    data = with_views(read, **options)
    n = data.batch_size
    table, (places, made) = view_table(data, n), drawn(data, n)
    changed, tokenizer = 0, data.splits.train.tokenizer
    for row, place in enumerate(places.tolist()):
        text, *cells = table.rows[row]
        assert text == on_one_line(data.splits.train.text(place))
        if text not in few_texts().train.texts[:60]:
            continue  # of the others, letters of one word may be several tokens
        for view, cell in zip(made, cells, strict=True):
            left = re.sub(rf"(.{STRUCK})+", "", cell).replace(MASKED, "[MASK]")
            assert tokenizer(RawTexts.of([left])).x[0, : view.shape[1]].tolist() == view[row].tolist()
            if "shuffle" not in options:
                assert re.sub(r"\S+", "w", cell) == re.sub(r"\S+", "w", text)
            changed += cell != text
    assert bool(changed) == bool(options)


def test_texts_of_views_are_those_that_people_wrote(read):
    """Letters that the tokenizer changes, such as capitals and accents."""
    data = with_views(read)
    data._splits = replace(data.splits, train=data.splits.train.like(["Ein Café, ÜBER alles!"] * 8))
    assert view_table(data, 3).rows == [["Ein Café, ÜBER alles!"] * 3] * 3


def test_positives_are_shown_where_views_are_pairs(read):
    data = with_views(read, pair=True)
    both = RawTexts.of(["red bird", "old stone"] * 5, positives=["large bird", "river stone"] * 5)
    data._splits = replace(data.splits, train=data.splits.train.tokenizer(both))
    pairs = {(left, right) for _, left, right in view_table(data, 8).rows}
    assert pairs == {("red bird", "large bird"), ("old stone", "river stone")}


def test_neighbors_are_the_nearest_texts_with_class_and_cosine():
    bank, queries = sentences(30, 1), sentences(6, 2)
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([3, 7, 11, 2, 9, 20])
    table = neighbor_table(
        Part(3 * x[wanted], queries.labels, queries), Part(x, bank.labels, bank), ["bird", "ship", "tree"]
    )
    assert len(table.rows) == 6 * 6
    for start in range(0, 36, 6):
        (_, name, text), *nearest = table.rows[start : start + 6]
        place = queries.texts.index(text)
        assert name == ["bird", "ship", "tree"][queries.labels[place]]
        assert nearest[0] == ["1.000", nearest[0][1], bank.texts[wanted[place]]]
        cosines = [float(cosine) for cosine, _, _ in nearest]
        assert cosines == sorted(cosines, reverse=True)
        kinds = ["same" if theirs == name else "other" for _, theirs, _ in nearest]
        assert table.kinds[start : start + 6] == ["query", *kinds]
    assert {"same", "other"} <= set(table.kinds)


def test_the_projector_names_points_by_text_and_class(read, tmp_path):
    texts = read.splits.test
    part = Part(torch.randn(len(texts), 4), texts.labels, texts)
    write_projector(tmp_path, part, few_texts().classes, None)
    heads, *lines = (tmp_path / "projector/metadata.tsv").read_text(encoding="utf-8").split("\n")[:-1]
    assert heads == "text\tclass"
    assert [line.count("\t") for line in lines] == [1] * len(texts)
    assert lines[0].split("\t")[0] == html.unescape(texts.text(0))
    assert not list(tmp_path.rglob("sprite*"))
