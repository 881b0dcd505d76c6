"""What a guide model finds more similar to the anchor than its positive is no negative (GIST)."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from loss_cases import assert_equal, batch, make, value_and_gradient

from repel.data.samples import DataInfo
from repel.negatives import Guide

T, N = 0.5, 6
IDS = torch.tensor([[10, 11, 12, 13, 14, 15], [20, 21, 22, 23, 24, 25]])
EXPLICIT, EXPLICIT_IDS = batch(1, seed=2).detach(), torch.tensor([[30, 31, 32, 33, 34, 35]])
QUEUED = torch.tensor([40, 41, 20])
ENTITIES = torch.cat([IDS.flatten(), EXPLICIT_IDS.flatten(), torch.tensor([40, 41])])
TABLE = torch.randn(len(ENTITIES), 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
UNKNOWN = (15, 23, 33)  # an anchor, a positive, an explicit negative


def table(unknown=()):
    """In any order, with an entity named twice, of which the first counts."""
    known = torch.tensor([i not in unknown for i in ENTITIES.tolist()])
    order = torch.randperm(int(known.sum()), generator=torch.Generator().manual_seed(5))
    ids, embeddings = ENTITIES[known][order], TABLE[known][order]
    return torch.cat([ids, ids[:1]]), torch.cat([embeddings, -embeddings[:1]])


def guided(unknown=(), row_chunk=None, **options):
    strategy = Guide(**options).set_embeddings(*table(unknown))
    loss = make("infonce", strategy, queue=4, symmetric=False, temperature=T, row_chunk=row_chunk)
    past = F.normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(6), dtype=torch.float64), dim=-1)
    loss.queue.push(past, QUEUED, None)
    ours = value_and_gradient(loss, batch(), ids=IDS, negatives=EXPLICIT, negative_ids=EXPLICIT_IDS)
    return ours, past, strategy


def expected(past, unknown, margin, relative):
    guide = {i: g for i, g in zip(ENTITIES.tolist(), F.normalize(TABLE, dim=-1), strict=True) if i not in unknown}
    dropped = []

    def loss(z):
        a, b = F.normalize(z, dim=-1)
        candidates = torch.cat([b, past, F.normalize(EXPLICIT[0], dim=-1)])
        shown, terms = [*IDS[1].tolist(), *QUEUED.tolist(), *EXPLICIT_IDS[0].tolist()], []
        for i in range(N):
            own = set(IDS[:, i].tolist())
            logits = [a[i] @ b[i] / T]
            for j, entity in enumerate(shown):
                if own <= guide.keys() and entity in guide:
                    g_p = guide[IDS[0, i].item()] @ guide[IDS[1, i].item()]
                    bound = g_p - margin * (g_p.abs() if relative else 1)
                    if guide[IDS[0, i].item()] @ guide[entity] > bound:
                        dropped.append((i, j))
                        continue
                if entity not in own:
                    logits.append(a[i] @ candidates[j] / T)
            terms.append(torch.stack(logits).logsumexp(0) - logits[0])
        return torch.stack(terms).mean()

    return value_and_gradient(loss, batch()), dropped


@pytest.mark.parametrize("row_chunk", [None, 4])
@pytest.mark.parametrize(("margin", "relative"), [(0.0, False), (0.3, False), (0.5, True)])
@pytest.mark.parametrize("unknown", [(), UNKNOWN], ids=["all known", "some unknown"])
def test_equals_the_equation(unknown, margin, relative, row_chunk):
    ours, past, _ = guided(unknown, row_chunk, margin=margin, relative=relative)
    equation, dropped = expected(past, unknown, margin, relative)
    assert 0 < len(dropped) < N * (N + 3 + N)
    assert_equal(ours, equation)


def test_statistics_say_how_much_it_knew_and_dropped():
    strategy = guided(UNKNOWN)[-1]
    found = strategy.statistics()
    assert found["negatives/guide_known"] == pytest.approx(4 / 6)  # not samples 3 and 5
    assert 0 < found["negatives/guide_dropped"] < 1
    assert strategy.statistics() == {}


def test_an_equal_candidate_is_kept():
    """Rounding must not make it more similar than the positive."""
    same = torch.randn(1, 64).expand(24, -1)
    strategy = Guide().set_embeddings(torch.cat([IDS.flatten(), torch.arange(100, 112)]), same)
    loss = make("infonce", strategy, temperature=T)
    assert_equal(
        value_and_gradient(loss, batch(), ids=IDS), value_and_gradient(make("infonce", temperature=T), batch())
    )


def test_the_file_is_read_when_training_starts(tmp_path):
    ids, embeddings = table()
    np.savez(tmp_path / "guide.npz", ids=ids.numpy(), embeddings=embeddings.numpy())
    strategy = Guide(str(tmp_path / "guide.npz"))
    strategy.on_data(DataInfo(6))
    loss = make("infonce", strategy, temperature=T)
    plain = make("infonce", Guide().set_embeddings(ids, embeddings), temperature=T)
    assert torch.equal(loss(batch(), ids=IDS), plain(batch(), ids=IDS))
    assert not loss.negatives.state_dict()


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        (None, "can be read"),
        ({"embeddings": np.ones((2, 3))}, "ids"),
        ({"ids": np.arange(3), "embeddings": np.ones((2, 3))}, r"\(E, G\)"),
        ({"ids": np.arange(0), "embeddings": np.ones((0, 3))}, r"\(E, G\)"),
        ({"ids": np.arange(2.0), "embeddings": np.ones((2, 3))}, "whole numbers"),
        ({"ids": np.arange(2), "embeddings": np.array([[1.0], [np.nan]])}, "finite"),
    ],
)
def test_other_files_are_refused_in_one_line(arrays, word, tmp_path):
    if arrays is not None:
        np.savez(tmp_path / "guide.npz", **arrays)
    with pytest.raises(ValueError, match=rf"negatives\.embeddings=.*{word}") as caught:
        Guide(str(tmp_path / "guide.npz")).on_data(DataInfo(6))
    assert "\n" not in str(caught.value)


def test_a_text_file_is_refused(tmp_path):
    (tmp_path / "guide.npy").write_text("no array", encoding="utf-8")
    with pytest.raises(ValueError, match=r"no \.npz file"):
        Guide(str(tmp_path / "guide.npy")).on_data(DataInfo(6))
    np.save(tmp_path / "guide.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"no \.npz file"):
        Guide(str(tmp_path / "guide.npy")).on_data(DataInfo(6))


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match=r"set negatives\.embeddings"):
        Guide().on_data(DataInfo(6))
    with pytest.raises(ValueError, match=r"set negatives\.embeddings"):
        make("infonce", Guide())(batch(), ids=IDS)
    with pytest.raises(ValueError, match="ids"):
        make("infonce", Guide().set_embeddings(*table()))(batch())
    with pytest.raises(ValueError, match=r"negatives\.margin"):
        Guide(margin=-0.1)
