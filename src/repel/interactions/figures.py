"""Tables of users and items: views, rankings of test users, neighbors of items."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from repel.base import seeding
from repel.data.sampler import BatchIndices
from repel.data.samples import CompleteSplits
from repel.data.views import ViewDraws, Viewed
from repel.evaluation.class_names import class_name
from repel.evaluation.features import evenly_spaced
from repel.evaluation.knn import nearest_neighbors
from repel.evaluation.protocol import Part
from repel.evaluation.text_table import TextTable, on_one_line
from repel.evaluation.top_items import KnownItems, Scorer, top_items
from repel.interactions.pairs import EntityStore

__all__ = ["neighbor_table", "user_table", "view_table"]

USERS, TOP, OWN = 6, 10, 8  # users shown; items ranked for each; training items named
QUERIES, NEIGHBORS = 10, 5
DRAWN = 3  # negatives of a pair that are shown
HIT = "\N{CHECK MARK}"


def view_table(data: Any, n: int) -> TextTable:
    """The first n pairs of the first training batch, by name, what further views show, and some drawn negatives."""
    train, n = data.splits.train, min(n, data.batch_size, len(data.splits.train))
    places = next(iter(data.order(0)))[:n]
    draws = ViewDraws(data.views, data.seed, seeding.VIEWS, BatchIndices(0, 0, places, slice(0, n), data.batch_size))
    made = data.views.apply(train.fetch(places, draws).x, draws.params())
    made = made if isinstance(made, Viewed) else Viewed(made)
    drawn = [] if made.negatives is None else list(made.negatives)[:DRAWN]
    columns = [[_shown(train.store, *entity) for entity in view.tolist()] for view in [*made.views, *drawn]]
    heads = ["user", "item", *(f"view {number}" for number in range(2, len(made.views)))]
    heads += [f"negative {number}" for number in range(len(drawn))]
    return TextTable(heads, [list(cells) for cells in zip(*columns, strict=True)], [""] * n)


def _shown(store: EntityStore, node: int, graph: int) -> str:
    name = store.user_name(node) if node < store.users else store.item_name(node - store.users)
    return on_one_line(name) + f" in graph {graph}" * (graph > 0)


def user_table(scorer: Scorer, splits: CompleteSplits, device: torch.device) -> TextTable:
    """For each of 6 test users some training items, then the first 10 of all others, those of the test split marked.

    Args:
        scorer: ranks items.
        splits: of pairs. Users are evenly spaced over those who have a test item, by their number of known items.
        device: of the scorer.
    """
    train, val, test = (part.x for part in (splits.train, splits.val, splits.test))  # type: ignore[attr-defined]
    store: EntityStore = splits.train.store  # type: ignore[attr-defined]
    known, trained, tested = (KnownItems.of(x, store.users) for x in (torch.cat([train, val]), train, test))
    users = tested.counts.nonzero().squeeze(1)
    users = users[known.counts[users].argsort(stable=True)]
    users = users[evenly_spaced(len(users), USERS)]
    top = top_items(scorer, users.to(device), known.to(device), TOP)
    cosines = scorer.scores(users.to(device)).gather(1, top.clamp(min=0)).tolist()
    words = _words(store.item_labels, store.classes)
    rows, kinds = [], []
    for place, user in enumerate(users.tolist()):
        own, wanted = _items(trained, user), set(_items(tested, user))
        ranked = [(cosine, item) for cosine, item in zip(cosines[place], top[place].tolist(), strict=True) if item >= 0]
        some = ", ".join(on_one_line(store.item_name(item), 40) for item in own[:OWN])
        more = f" and {len(own) - OWN} more" * (len(own) > OWN)
        hits = sum(item in wanted for _, item in ranked)
        rows.append(["user", f"{hits} of {len(wanted)}", f"{on_one_line(store.user_name(user))}: {some}{more}"])
        kinds.append("query")
        for cosine, item in ranked:
            name = on_one_line(store.item_name(item)) + (f" ({words[item]})" if words and words[item] else "")
            rows.append([f"{cosine:.3f}", HIT * (item in wanted), name])
            kinds.append("same" if item in wanted else "")
    return TextTable(["cosine", "in test", "item"], rows, kinds)


def _items(known: KnownItems, user: int) -> list[int]:
    return known.items[known.starts[user] : known.starts[user + 1]].tolist()


def _words(labels: Tensor | None, classes: Sequence[str]) -> list[str]:
    """The kind of each item, empty where unknown; nothing where none is known."""
    return [] if labels is None else ["" if y < 0 else on_one_line(class_name(classes, y)) for y in labels.tolist()]


def neighbor_table(queries: Part, bank: Part, classes: Sequence[str]) -> TextTable:
    """For each of 10 items its name, then the 5 nearest others with cosine and kind, most similar first.

    Args:
        queries: of which 10 are shown, evenly spaced over the part sorted by kind.
        bank: the items that are searched; the query is among them.
        classes: names of the kinds.
    """
    chosen = queries.y.argsort(stable=True)[evenly_spaced(len(queries.y), QUERIES).to(queries.y.device)]
    similarity, nearest = nearest_neighbors(bank.x, queries.x[chosen], NEIGHBORS + 1)
    labelled = bool((queries.y >= 0).any())
    rows, kinds = [], []
    for row, place in enumerate(chosen.tolist()):
        label, name = int(queries.y[place]), _name(queries, place)
        rows.append(["query", _kind(classes, label), name])
        kinds.append("query")
        others = zip(similarity[row].tolist(), nearest[row].tolist(), strict=True)
        for cosine, other in [(c, o) for c, o in others if _name(bank, o) != name][:NEIGHBORS]:
            theirs = int(bank.y[other])
            rows.append([f"{cosine:.3f}", _kind(classes, theirs), _name(bank, other)])
            kinds.append("" if min(label, theirs) < 0 else "same" if theirs == label else "other")
    heads = ["cosine", "kind", "item"]
    if not labelled:
        heads, rows = [heads[0], heads[2]], [[cells[0], cells[2]] for cells in rows]
    return TextTable(heads, rows, kinds)


def _name(part: Part, place: int) -> str:
    assert part.samples.names is not None
    return on_one_line(str(part.samples.names[place]))


def _kind(classes: Sequence[str], label: int) -> str:
    return "" if label < 0 else on_one_line(class_name(classes, label))
