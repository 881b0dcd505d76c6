"""Tables of texts: nearest neighbors, views."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from repel.base import seeding
from repel.data.sampler import BatchIndices
from repel.data.views import Params, ViewDraws
from repel.evaluation.class_names import class_name
from repel.evaluation.features import evenly_spaced
from repel.evaluation.knn import nearest_neighbors
from repel.evaluation.protocol import Part
from repel.evaluation.text_table import TextTable, on_one_line
from repel.text.augment import augment
from repel.text.texts import TokenBatch
from repel.text.views import TextViews

__all__ = ["neighbor_table", "view_table"]

QUERIES, NEIGHBORS = 10, 5
STRUCK = "\N{COMBINING LONG STROKE OVERLAY}"  # TensorBoard lets no tag through that strikes out
MASKED = "[mask]"
LETTERS = 400  # of a view at most; a stroke is one too


def neighbor_table(queries: Part, bank: Part, classes: Sequence[str]) -> TextTable:
    """For each of 10 queries its text, then its 5 nearest of the bank with cosine and class, most similar first.

    Args:
        queries: of which 10 are shown, evenly spaced over the part sorted by class.
        bank: the texts that are searched.
        classes: their names.
    """
    chosen = queries.y.argsort(stable=True)[evenly_spaced(len(queries.y), QUERIES).to(queries.y.device)]
    similarity, nearest = nearest_neighbors(bank.x, queries.x[chosen], NEIGHBORS)
    rows, kinds = [], []
    for row, place in enumerate(chosen.tolist()):
        label = int(queries.y[place])
        rows.append(["query", class_name(classes, label), on_one_line(_text(queries, place))])
        kinds.append("query")
        for cosine, other in zip(similarity[row].tolist(), nearest[row].tolist(), strict=True):
            theirs = int(bank.y[other])
            rows.append([f"{cosine:.3f}", class_name(classes, theirs), on_one_line(_text(bank, other))])
            kinds.append("same" if theirs == label else "other")
    return TextTable(["cosine", "class", "text"], rows, kinds)


def _text(part: Part, place: int) -> str:
    return part.samples.text(place)  # type: ignore[attr-defined]


def view_table(data: Any, n: int) -> TextTable:
    """The first n texts of the first training batch, and each view of them.

    What a view drops is struck through, what it masks is `[mask]`; of a shuffled view, the words are in its order, and
    what it drops comes last. Of views of your own, the tokens are shown.
    """
    texts, n = data.splits.train, min(n, data.batch_size, len(data.splits.train))
    places = next(iter(data.order(0)))[:n]
    draws = ViewDraws(data.views, data.seed, seeding.VIEWS, BatchIndices(0, 0, places, slice(0, n), data.batch_size))
    batch, params = texts.fetch(places, draws).x, draws.params()
    if isinstance(data.views, TextViews):
        columns = _marked_views(texts, places, data.views, batch, params)
    else:
        made = data.views.apply(batch, params)
        name = texts.tokenizer.library.id_to_token
        columns = [
            [on_one_line(" ".join(name(id - 1) for id in row if id)) for row in view.tolist()]
            for view in getattr(made, "views", made)
        ]
    shown = [on_one_line(texts.text(place)) for place in places.tolist()]
    heads = ["text", *(f"view {number}" for number in range(len(columns)))]
    return TextTable(heads, [list(cells) for cells in zip(shown, *columns, strict=True)], [""] * n)


def _marked_views(texts: Any, places: Tensor, views: TextViews, batch: TokenBatch, params: Params) -> list[list[str]]:
    """Of each view, the words of its texts."""
    unmasked = [{name: value for name, value in p.items() if name != "mask"} for p in params]
    kept, stayed = views.kept(batch, params), views.kept(batch, unmasked)
    store, library, length = texts.store, texts.tokenizer.library, kept.shape[2]
    columns = []
    for number, p in enumerate(unmasked):
        strings = store.positives if views.pair and number else store.texts
        cells = []
        for row, place in enumerate(texts.places[places.numpy()].tolist()):
            offsets = library.encode(strings[place], add_special_tokens=False).offsets[:length]
            order = None
            if "shuffle" in p:
                own = {name: value[row : row + 1] for name, value in p.items()}
                numbers = torch.arange(1, length + 1) * (torch.arange(length) < len(offsets))
                order = [at - 1 for at in augment(numbers[None], own, mask=0)[0].tolist() if at]
            pieces = _pieces(strings[place], offsets)
            cells.append(_marked(pieces, kept[number, row].tolist(), stayed[number, row].tolist(), order))
        columns.append(cells)
    return columns


def _pieces(text: str, offsets: Sequence[tuple[int, int]]) -> list[tuple[str, str]]:
    """Of each token, what is between it and the one before, and the letters that it stands for, as they were written.

    >>> _pieces("Two birds", [(0, 3), (4, 8), (8, 9)])
    [('', 'Two'), (' ', 'bird'), ('', 's')]
    """
    found, done = [], 0
    for start, end in offsets:
        found.append((text[done:start], text[max(done, start) : end]))
        done = max(done, end)
    return found


def _marked(pieces: list[tuple[str, str]], kept: list[bool], stayed: list[bool], order: list[int] | None) -> str:
    """One view of one text.

    Args:
        pieces: see _pieces.
        kept, stayed: which tokens the view shows; and with those that it masks.
        order: places of the tokens that stay, where they are shuffled.

    >>> _marked([("", "a"), (" ", "bird")], [True, False], [True, False], None) == "a b\u0336i\u0336r\u0336d\u0336"
    True
    """
    places = list(range(len(pieces)))
    if order is not None:
        places = order + [place for place in places if not stayed[place]]
    words = []
    for place in places:
        before, word = pieces[place]
        if not stayed[place]:
            word = "".join(letter + STRUCK for letter in word)
        elif not kept[place]:
            word = MASKED
        words.append((before if order is None else " ") + word)
    return on_one_line("".join(words), 2 * LETTERS)
