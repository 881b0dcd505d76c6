"""Views of texts: each operation against a loop over texts and places, counted randomness, nothing waits for data."""

import numpy as np
import pytest
import torch
from conftest import config, options_of, thinned
from hydra.utils import instantiate
from torch.utils._python_dispatch import TorchDispatchMode

from repel.data.views import Viewed, slice_params
from repel.text.texts import TokenBatch
from repel.text.views import TextViews

MASK, LONGEST = 2, 9
PRESETS = options_of("views", "text")
EACH = {
    "crop": {"crop": [0.3, 0.9]},
    "delete": {"delete": [0.2, 0.95]},
    "shuffle": {"shuffle": 0.6},
    "shuffle within a window": {"shuffle": 0.8, "shuffle_window": 2},
    "mask": {"mask": 0.7},
    "all": {"crop": [0.5, 1.0], "delete": [0.1, 0.6], "shuffle": 0.5, "shuffle_window": 1, "mask": [0.0, 0.9]},
}


def texts(n: int = 60, longest: int = LONGEST, seed: int = 0) -> torch.Tensor:
    """Of 1 to `longest` tokens; and one without any."""
    draws = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 1000, (n, longest), generator=draws, dtype=torch.int32)
    lengths = torch.randint(1, longest + 1, (n, 1), generator=draws)
    lengths[0], lengths[1], lengths[2] = 0, 1, longest
    return tokens * (torch.arange(longest) < lengths)


def batch(tokens=None, positives=None, negatives=None, mask=MASK) -> TokenBatch:
    return TokenBatch(texts() if tokens is None else tokens, positives, negatives, mask)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_view(tokens: list[int], p: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """By a loop over places: the tokens of one text's view, without padding, and the places that are in it."""
    places = [place for place, token in enumerate(tokens) if token]
    if "crop" in p and places:
        share, at = p["crop"]
        size = max(1, round(share * np.float32(len(places))))
        start = int(at * np.float32(len(places) - size + 1))
        places = places[start : start + size]
    if "delete" in p and places:
        best = max(places, key=lambda place: p["delete"][place])
        places = [place for place in places if p["delete"][place] >= 0 or place == best]
    if "shuffle" in p:
        places = [place for _, place in sorted(zip(p["shuffle"], places, strict=False))]
    masked = []
    if "mask" in p and places:
        best = max(range(len(places)), key=lambda i: p["mask"][i])
        masked = [i for i in range(len(places)) if p["mask"][i] < 0 and i != best]
    view = [MASK if i in masked else tokens[place] for i, place in enumerate(places)]
    return view, [place for i, place in enumerate(places) if i not in masked]


@pytest.mark.parametrize("name", EACH)
def test_every_operation_is_that_of_a_loop_over_texts(name):
    views, x = TextViews(3, LONGEST + 3, **EACH[name]), batch()
    params = views.draw(len(x.tokens), generator())
    made, kept = views.apply(x, params), views.kept(x, params)
    assert made.dtype == torch.int32
    for v, p in enumerate(params):
        for row, tokens in enumerate(x.tokens.tolist()):
            view, places = one_view(tokens, {key: value[row].numpy() for key, value in p.items()})
            assert made[v, row].tolist() == view + [0] * (LONGEST - len(view))
            assert kept[v, row].nonzero().flatten().tolist() == sorted(places)
            assert places or not any(tokens)
    assert not torch.equal(made[0], made[1])


@pytest.mark.parametrize("name", thinned(PRESETS, 2))
def test_presets(name):
    views, x = instantiate(config(f"views={name}", f"+data.max_tokens={LONGEST}").views), batch(positives=texts(seed=1))
    made = views(x, generator())
    assert made.shape == (len(views), *x.tokens.shape)
    assert ((made > 0).sum(2) >= 1)[:, 1:].all()
    same = [torch.equal(view, x.tokens) for view in made]
    assert same == {"dropout": [True, True], "pair": [True, False]}.get(name, [False, False])
    if name == "pair":
        assert torch.equal(made[1], x.positives)


def test_the_default_keeps_about_half_of_the_tokens():
    views = instantiate(config("views=crop", "+data.max_tokens=20").views)
    x = batch(torch.full((2000, 20), 7))
    assert (views(x, generator()) > 0).float().mean().item() == pytest.approx(0.75 * 0.6, abs=0.02)


def test_what_is_drawn_is_uniform():
    x = batch(torch.arange(3, 13).expand(4000, -1))
    spans = TextViews(2, 10, crop=[0.5, 1.0])
    found = spans.kept(x, spans.draw(4000, generator()))[0]
    lengths, starts = found.sum(1), found.int().argmax(1)
    assert lengths.bincount().tolist()[:5] == [0] * 5
    assert lengths.bincount().nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 10]
    of_seven = starts[lengths == 7].bincount(minlength=4) / (lengths == 7).sum()
    torch.testing.assert_close(of_seven, torch.full((4,), 0.25), atol=0.05, rtol=0)
    for name in ("delete", "mask"):
        views = TextViews(2, 10, **{name: 0.3})
        share = views.kept(x, views.draw(4000, generator())).float().mean((0, 1))
        torch.testing.assert_close(share, torch.full((10,), 0.7), atol=0.03, rtol=0)
    shuffled = TextViews(2, 10, shuffle=0.4)(x, generator())[0]
    moved = (shuffled != x.tokens).any(1)
    assert moved.float().mean().item() == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(shuffled[moved].float().mean(0), torch.full((10,), 7.5), atol=0.4, rtol=0)


def test_tokens_move_within_the_window():
    x = batch(torch.arange(3, 13).expand(500, -1))
    made = TextViews(2, 10, shuffle=1.0, shuffle_window=2)(x, generator())
    distance = (made - x.tokens).abs()
    assert distance.max() == 2
    assert torch.equal(made.sort(2).values, x.tokens.expand(2, -1, -1))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_views_of_a_rank_are_its_slice_of_the_global_draw(ranks):
    """Also where its own batch is cut to its longest text."""
    views, x = TextViews(2, LONGEST, **EACH["all"]), batch()
    params = views.draw(60, generator(3))
    whole, size = views.apply(x, params), 60 // ranks
    for part in (slice(rank * size, (rank + 1) * size) for rank in range(ranks)):
        longest = int((x.tokens[part] > 0).sum(1).max())
        own = batch(x.tokens[part, :longest])
        assert torch.equal(views.apply(own, slice_params(params, part)), whole[:, part, :longest])
        assert not whole[:, part, longest:].any()
    assert torch.equal(whole, views(x, generator(3)))  # replayed
    assert not torch.equal(whole, views(x, generator(4)))


def test_an_operation_draws_the_same_whatever_else_is_on():
    every = {"crop": 0.5, "delete": 0.3, "shuffle": 0.5, "mask": 0.2}
    everything, more = (TextViews(n, LONGEST, **every).draw(5, generator()) for n in (2, 3))
    assert [list(p) for p in everything] == [["crop", "delete", "shuffle", "mask"]] * 2
    for name, value in every.items():
        alone = TextViews(2, LONGEST, **{name: value}).draw(5, generator())
        for view in range(2):
            assert list(alone[view]) == [name]  # and what is off is not drawn
            assert torch.equal(alone[view][name], everything[view][name])
            assert torch.equal(alone[view][name], more[view][name])
    before = torch.get_rng_state()
    assert TextViews(2, LONGEST).draw(5, generator()) == [{}, {}]
    assert torch.equal(before, torch.get_rng_state())


def test_pairs_and_explicit_negatives():
    """The first view shows the text, the others the positive, all as long as the longer; negatives stay as they are."""
    text, positive, negatives = texts(8), texts(8, longest=5, seed=1), torch.stack([texts(8, seed=s) for s in (2, 3)])
    x, every = batch(text, positive, negatives), EACH["all"]
    views = TextViews(3, LONGEST, pair=True, **every)
    params = views.draw(8, generator())
    made = views.apply(x, params)
    assert isinstance(made, Viewed)
    assert made.crops is None
    assert made.negatives is negatives
    assert made.views.shape == (3, 8, LONGEST)
    plain = TextViews(3, LONGEST, **every)
    assert torch.equal(made.views[0], plain.apply(batch(text), params)[0])
    assert torch.equal(made.views[1:, :, :5], plain.apply(batch(positive), params)[1:])
    assert not made.views[1:, :, 5:].any()
    assert not views.kept(x, params)[1:, :, 5:].any()


def test_views_that_differ():
    views, x = TextViews(2, LONGEST, delete=0.5, per_view=[{"delete": 0.0}, {"crop": [0.5, 0.5]}]), batch()
    params = views.draw(60, generator())
    assert [list(p) for p in params] == [[], ["crop", "delete"]]
    assert torch.equal(views.apply(x, params)[0], x.tokens)


class Count(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


def test_nothing_waits_for_data_or_goes_text_by_text():
    """Tensors without data cannot be looked at; and as many calls are made for 4 texts as for 60."""
    views, calls = TextViews(2, LONGEST, pair=True, **EACH["all"]), []
    for n in (4, 60):
        x = batch(*(tokens.to("meta") for tokens in (texts(n), texts(n), texts(n)[None])))
        params = views.draw(n, generator())
        with Count() as count:
            made, kept = views.apply(x, params), views.kept(x, params)
        assert made.views.shape == kept.shape == (2, n, LONGEST)
        assert made.views.is_meta
        calls.append(count.calls)
    assert calls[0] == calls[1] > 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_equals_cpu():
    views, x = TextViews(2, LONGEST, **EACH["all"]), batch()
    params = views.draw(60, generator())
    assert torch.equal(views.apply(batch(x.tokens.cuda()), params).cpu(), views.apply(x, params))
