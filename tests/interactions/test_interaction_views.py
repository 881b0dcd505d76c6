"""Every choice of views of users and items in conf/views."""

import pytest
import torch
from conftest import config, options_of
from hydra.utils import instantiate

from repel.interactions.pairs import PairBatch
from repel.interactions.views import PairViews

BATCH = PairBatch(torch.tensor([[0, 5], [1, 7], [1, 5]]), users=3, items=6)


@pytest.mark.parametrize("name", options_of("views", "interactions"))
def test_every_view_shows_the_users_or_the_items_and_says_so(name):
    views = instantiate(config("experiment=recommendation", f"views={name}").views)
    drawn = views.draw(3, torch.Generator())
    viewed = views.apply(BATCH, drawn)
    assert len(viewed.views) == len(drawn) == views.n == len(viewed.ids)
    for view, ids in zip(viewed.views, viewed.ids, strict=True):
        assert view.dtype == torch.int64
        assert torch.equal(view[:, 0], ids)
        assert any(torch.equal(ids, side) for side in BATCH.nodes.T)
    assert torch.equal(viewed.ids[:2], BATCH.nodes.T)
    assert not any(view[:, 1].any() for view in viewed.views[:2]), "the pair itself is in the training graph"


@pytest.mark.parametrize("further", [[["user"]], [["users", 1]], [["user", "1"]], [["item", -1]]])
def test_further_views_are_a_side_and_a_graph(further):
    with pytest.raises(ValueError, match=r"views\.further must be pairs of user or item and a graph, got \["):
        PairViews(further)
