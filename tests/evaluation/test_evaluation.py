"""Evaluators against plain forms and scikit-learn, on random and real features."""

import contextlib
import math

import numpy as np
import pytest
import torch

from repel.base.cores import one_thread
from repel.evaluation import knn, linear_classifier, logistic
from repel.evaluation.episodes import _draw_places, _interval, few_shot_accuracies
from repel.evaluation.features import encode
from repel.evaluation.fit_progress import FitProgress
from repel.evaluation.knn import KNN, knn_predict, knn_top1
from repel.evaluation.linear import LinearProbe, _share_of_labels
from repel.evaluation.linear_classifier import Choice, choose_l2, fit_classifiers, linear_probe, mean_and_std
from repel.evaluation.logistic import logistic_regression
from repel.evaluation.protocol import Part, accuracy
from repel.evaluation.retrieval import retrieval_metrics
from repel.images import datasets as readers
from repel.images.memory import Images
from repel.images.modality import raw_pixels


def plain_knn(bank, labels, queries, k, temperature):
    """Wu et al. 2018, sec. 3.4, query by query."""
    predicted = []
    for query in queries:
        cosines = [(float(query @ b / (query.norm() * b.norm())), int(y)) for b, y in zip(bank, labels, strict=True)]
        votes: dict[int, float] = {}
        for cosine, label in sorted(cosines, reverse=True)[:k]:
            votes[label] = votes.get(label, 0) + math.exp(cosine / temperature)
        predicted.append(max(votes, key=votes.get))
    return torch.tensor(predicted)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (5, 0.07), (20, 1.0), (500, 0.1)])
def test_knn_equals_the_plain_form(k, temperature):
    bank, queries = torch.randn(60, 8, dtype=torch.float64), torch.randn(40, 8, dtype=torch.float64)
    labels = torch.randint(0, 4, (60,))
    assert torch.equal(
        knn_predict(bank, labels, queries, k, temperature), plain_knn(bank, labels, queries, k, temperature)
    )


def test_closer_neighbours_weigh_more():
    bank = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]])
    labels, query = torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_predict(bank, labels, query, 3, temperature=0.1).item() == 0
    assert knn_predict(bank, labels, query, 3, temperature=10.0).item() == 1


def test_cold_temperatures_do_not_overflow():
    bank, labels = torch.eye(3).float(), torch.arange(3)
    assert knn_predict(bank, labels, bank, 2, temperature=0.001).tolist() == [0, 1, 2]


def test_queries_are_handled_in_parts(monkeypatch):
    bank, labels, queries = torch.randn(30, 4), torch.randint(0, 3, (30,)), torch.randn(17, 4)
    whole = knn_predict(bank, labels, queries, 3, 0.1)
    monkeypatch.setattr("repel.evaluation.knn.QUERY_BLOCK", 5)
    assert torch.equal(whole, knn_predict(bank, labels, queries, 3, 0.1))


def test_top1_is_a_share():
    bank, labels = torch.eye(4), torch.arange(4)
    assert knn_top1(bank, labels, bank, torch.tensor([0, 1, 2, 0]), 1, 0.1) == 0.75
    assert knn_top1(bank[:1], labels[:1], bank[:1], labels[:1], 1, 0.1) == 1.0  # a single class


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.1), (5, 0.0), (5, -1.0)])
def test_impossible_settings_are_refused(k, temperature):
    with pytest.raises(ValueError, match="kNN"):
        knn_predict(torch.eye(2), torch.arange(2), torch.eye(2), k, temperature)


@pytest.fixture
def images():
    return Images(torch.randint(0, 256, (23, 1, 6, 6), dtype=torch.uint8), torch.arange(23) % 3)


def test_features_are_of_eval_mode_in_order_and_leave_the_encoder_as_it_was(images, monkeypatch):
    monkeypatch.setattr("repel.evaluation.features.BATCH", 10)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(36), torch.nn.Dropout(0.5))
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    features, places = encode(encoder, images, lambda x: x.float() / 255, torch.device("cpu"))
    assert places.tolist() == list(range(len(images)))
    assert encoder.training
    assert not features.requires_grad
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())  # no statistics moved
    expected = encoder.eval()(images.pixels.float() / 255)
    torch.testing.assert_close(features, expected)
    encode(encoder, images, lambda x: x.float() / 255, torch.device("cpu"))
    assert not encoder.training


def test_what_is_frozen_stays_frozen(images):
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(36).eval(), torch.nn.BatchNorm1d(36))
    encode(encoder, images, lambda x: x.float() / 255, torch.device("cpu"))
    assert [part.training for part in encoder.modules()] == [True, True, False, True]


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_give_the_features_of_one(images, monkeypatch, world):
    """The share of each rank, with the exchange played by this process."""
    import repel.evaluation.features as features

    monkeypatch.setattr(features, "BATCH", 10)
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 4))
    alone, _ = encode(encoder, images, lambda x: x.float(), torch.device("cpu"))
    shares = []
    monkeypatch.setattr(features, "world_size", lambda: world)
    for rank in range(world):
        monkeypatch.setattr(features, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(features, "gather", lambda share: shares.append(share) or share.repeat(world, 1, 1))
        encode(encoder, images, lambda x: x.float(), torch.device("cpu"))
    monkeypatch.setattr(features, "gather", lambda share: torch.cat(shares))
    together, _ = encode(encoder, images, lambda x: x.float(), torch.device("cpu"))
    torch.testing.assert_close(together, alone)


def test_raw_pixels():
    small = Images(torch.full((2, 3, 8, 8), 51, dtype=torch.uint8))
    assert raw_pixels(small)[0].shape == (2, 3 * 64)
    torch.testing.assert_close(raw_pixels(small)[0], torch.full((2, 192), 0.2))
    assert raw_pixels(Images(torch.zeros(2, 3, 96, 96, dtype=torch.uint8)))[0].shape == (2, 3 * 32 * 32)


# ------------------------------------------------------------------------------------------- against scikit-learn


@pytest.fixture(scope="module", params=["random", "real"])
def features(request):
    """Bank and queries with labels, (Part, Part), float64: noise around class means, or pixels of real images."""
    if request.param == "random":
        y = torch.arange(300) % 5
        x = torch.randn(5, 20, dtype=torch.float64)[y] + 1.5 * torch.randn(300, 20, dtype=torch.float64)
    else:
        few = readers.fashion_mini(1).train[torch.arange(0, 6000, 13)]
        x, y = torch.nn.functional.avg_pool2d(few.pixels.double() / 255, 4).flatten(1), few.labels
    half = torch.arange(len(x)) % 2 == 0
    return Part(x[half], y[half], None), Part(x[~half], y[~half], None)


@pytest.mark.parametrize("k", [10, 20, 200])
def test_knn_equals_scikit_learns(features, k):
    from sklearn.neighbors import KNeighborsClassifier

    bank, queries = features
    k = min(k, len(bank.y))
    oracle = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: ((1 - d) / 0.1).__rpow__(math.e)
    )
    expected = oracle.fit(bank.x, bank.y).predict(queries.x)
    assert knn_predict(bank.x, bank.y, queries.x, k, 0.1).tolist() == expected.tolist()


def chosen(train: Part, val: Part, grid: list[float]) -> tuple[float, float]:
    """l2 and its validation accuracy."""
    return choose_l2(train.x, [train.y], val.x, [val.y], grid)[0][:2]


@pytest.mark.parametrize("l2", [1e-3, pytest.param(1e-1, marks=pytest.mark.slow)])
def test_logistic_regression_equals_scikit_learns(features, l2):
    from sklearn.linear_model import LogisticRegression

    train, test = features
    mean, std = mean_and_std(train.x)
    x, n, classes = (train.x - mean) / std, len(train.y), int(train.y.max()) + 1
    weight, bias, converged = logistic_regression(x, [train.y], [classes], [l2], None, 1e-7)[0]
    assert converged
    oracle = LogisticRegression(C=1 / (l2 * n), tol=1e-10, max_iter=10000).fit(x, train.y)

    def objective(weight, bias):
        loss = torch.nn.functional.cross_entropy(x @ weight.T + bias, train.y)
        return float(loss + 0.5 * l2 * weight.square().sum())

    theirs = objective(torch.from_numpy(oracle.coef_), torch.from_numpy(oracle.intercept_))
    assert objective(weight, bias) == pytest.approx(theirs, abs=1e-6)
    queries = (test.x - mean) / std
    ours = accuracy((queries @ weight.T + bias).argmax(1), test.y)
    assert ours == pytest.approx(oracle.score(queries, test.y), abs=1e-3)


@pytest.mark.slow
def test_the_probes_own_tolerance_costs_no_accuracy(features):
    """As it is used: float32 and a looser optimum, within 0.1 point of scikit-learn's, refitted on both splits."""
    from sklearn.linear_model import LogisticRegression

    train, test = features
    val = Part(test.x[::2], test.y[::2], None)
    rest = Part(test.x[1::2], test.y[1::2], None)
    fitted = LinearProbe([1e-3, 1e-2, 1e-1]).fit(train, val, None)
    score = fitted.score(rest)[0]
    assert score.settings["l2"] == fitted.chosen[0].settings["l2"] == chosen(train, val, [1e-3, 1e-2, 1e-1])[0]
    x, y = torch.cat([train.x, val.x]), torch.cat([train.y, val.y])
    mean, std = mean_and_std(x)
    oracle = LogisticRegression(C=1 / (score.settings["l2"] * len(y)), tol=1e-10, max_iter=10000).fit(
        (x - mean) / std, y
    )
    assert score.value == pytest.approx(oracle.score((rest.x - mean) / std, rest.y), abs=1e-3)


@pytest.mark.slow
def test_labelings_solved_together_reach_each_ones_optimum(features):
    """Of 5 or 10, of 2 and of 3 classes, with penalties of their own: scikit-learn's weights and biases."""
    from sklearn.linear_model import LogisticRegression

    x = (features[0].x - features[0].x.mean(0)) / features[0].x.std(0).clamp(min=1e-6)
    y = features[0].y
    labels, l2 = [y, (y > 1).long(), y % 3], [0.1, 0.03, 0.3]
    starts = [torch.randn(int(part.max()) + 1, x.shape[1] + 1, dtype=torch.float64) for part in labels]
    classes = [len(start) for start in starts]
    for begun in (None, starts):
        found = logistic_regression(x, labels, classes, l2, begun, 1e-8)
        for part, value, (weight, bias, converged) in zip(labels, l2, found, strict=True):
            oracle = LogisticRegression(C=1 / (value * len(x)), tol=1e-12, max_iter=10000).fit(x, part)
            expected, ours = torch.from_numpy(oracle.decision_function(x)), x @ weight.T + bias
            if ours.shape[1] == 2:  # two classes are one there, with twice the penalty for the same difference
                oracle = LogisticRegression(C=2 / (value * len(x)), tol=1e-12, max_iter=10000).fit(x, part)
                expected, ours = torch.from_numpy(oracle.decision_function(x)), ours[:, 1] - ours[:, 0]
            else:
                expected, ours = (t - t.mean(1, keepdim=True) for t in (expected, ours))
            assert converged
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


def test_a_fit_that_begins_at_the_optimum_is_over_at_once(features):
    """standardized_by says the same of features that are standardized in another way."""
    x, y = features[0].x.float(), features[0].y
    counted = []

    class Count(FitProgress):
        def evaluated(self):
            counted.append(self.begun)

    classifier = choose_l2(x, [y], x, [y], [0.1])[0]
    exact = fit_classifiers(x, [y], [classifier], Count("a", 1))[0]
    again = Choice(0.1, 0.0, exact)
    assert len(counted) < 20
    counted.clear()
    once_more = fit_classifiers(x, [y], [again], Count("a", 1))[0]
    torch.testing.assert_close(once_more.weight, exact.weight, atol=1e-5, rtol=0)
    assert counted == [1]
    moved = exact.standardized_by(exact.mean + 0.5, exact.std * 3)
    logits = ((x.double() - exact.mean - 0.5) / (exact.std * 3)) @ moved[:, :-1].T + moved[:, -1]
    torch.testing.assert_close(logits, ((x.double() - exact.mean) / exact.std) @ exact.weight.T + exact.bias)


def tasks_of(features) -> dict[str, tuple[Part, Part, Part]]:
    """A class, a coarser labeling of all samples, and one that some samples lack, of each split."""
    splits = features[0], *(Part(features[1].x[i::2], features[1].y[i::2], None) for i in (0, 1))
    some = [part.y.where(torch.arange(len(part.y)) % 5 > 0, -1) for part in splits]
    labels = {"class": [part.y for part in splits], "coarse": [part.y // 2 for part in splits], "some": some}

    def known(part: Part, y: torch.Tensor) -> Part:
        keep = y >= 0
        return part._replace(y=y) if bool(keep.all()) else Part(part.x[keep], y[keep], None)

    return {task: tuple(map(known, splits, own)) for task, own in labels.items()}


@pytest.mark.parametrize("evaluator", [KNN(20, [5], 0.1), LinearProbe([1e-1, 1.0])], ids=["knn", "linear"])
def test_tasks_fitted_together_score_as_each_alone(features, evaluator, monkeypatch):
    for tolerance in ("SEARCH_TOLERANCE", "FINAL_TOLERANCE"):  # so that no sample on the border decides
        monkeypatch.setattr(linear_classifier, tolerance, 3e-5)
    tasks = tasks_of(features)
    fitted = evaluator.fit_tasks({task: parts[:2] for task, parts in tasks.items()}, None)
    assert list(fitted) == list(tasks)
    for task, (train, val, test) in tasks.items():
        alone = evaluator.fit(train, val, None)
        assert fitted[task].score(test) == alone.score(test)
        assert list(fitted[task].chosen) == list(alone.chosen)


@pytest.mark.parametrize("evaluator", [KNN(20, [], 0.1), LinearProbe([1e-1])], ids=["knn", "linear"])
def test_a_fit_of_ones_own_is_called_for_every_task(features, evaluator):
    class Own(type(evaluator)):
        def fit(self, train, val, network):
            return "own"

    evaluator.__class__ = Own
    assert evaluator.fit_tasks({task: parts[:2] for task, parts in tasks_of(features).items()}, None) == dict.fromkeys(
        ["class", "coarse", "some"], "own"
    )


def test_neighbors_are_searched_once_for_all_tasks(features, monkeypatch):
    searched = []
    usual = knn.nearest_neighbors
    monkeypatch.setattr(knn, "nearest_neighbors", lambda *args: searched.append(len(args[1])) or usual(*args))
    tasks = tasks_of(features)
    fitted = KNN(20, [5, 10], 0.1).fit_tasks({task: parts[:2] for task, parts in tasks.items()}, None)
    for task, parts in tasks.items():
        fitted[task].score(parts[2])
    assert searched == [len(tasks["class"][2].y), len(tasks["some"][2].y)]


@pytest.mark.parametrize("short", [True, False])
def test_short_evaluations_use_one_thread(monkeypatch, short):
    used = []
    monkeypatch.setattr(logistic, "one_thread", lambda: used.append(True) or contextlib.nullcontext())
    if not short:
        monkeypatch.setattr(logistic, "SHORT", 0)
    logistic_regression(torch.randn(9, 3), [torch.arange(9) % 2], [2], [1.0], None, 1e-3)
    assert used == [True] * short


def test_threads_come_back_after_one_thread():
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        within = []
        with contextlib.suppress(KeyError), one_thread():
            within.append(torch.get_num_threads())
            raise KeyError
        assert [*within, torch.get_num_threads()] == [1, 2]
    finally:
        torch.set_num_threads(usual)


def test_plain_arrays_give_the_evaluators_numbers(features):
    """knn_top1 and linear_probe on NumPy arrays, beside the evaluators on the same features."""
    train, test = features
    val, rest = Part(test.x[::2], test.y[::2], None), Part(test.x[1::2], test.y[1::2], None)
    arrays = [t.numpy() for part in (train, val, rest) for t in part[:2]]
    x, y, val_x, val_y, rest_x, rest_y = arrays
    probe = linear_probe(x, y, val_x, val_y, l2=[1e-2, 1e-1])
    expected = LinearProbe([1e-2, 1e-1]).fit(train, val, None).score(rest)[0].value
    assert accuracy(probe.predict(rest_x), rest_y) == expected
    score = KNN(5, [], 0.1).fit(train, val, None).score(rest)[0]
    bank, labels = np.concatenate([x, val_x]), np.concatenate([y, val_y])
    assert knn_top1(bank, labels.astype("int32"), rest_x, rest_y, 5) == score.value
    with pytest.raises(ValueError, match="l2 needs numbers > 0"):
        linear_probe(x, y, val_x, val_y, l2=[0.0])


def test_fewer_samples_than_features_lose_nothing():
    """The weights lie in the span of the samples: both forms reach the same minimum."""
    x, y = torch.randn(12, 40, dtype=torch.float64), torch.arange(12) % 3
    few = logistic_regression(x, [y], [3], [0.01], None, 1e-9)[0]
    weight = torch.zeros(3, 41, dtype=torch.float64, requires_grad=True)
    plain = torch.optim.LBFGS([weight], max_iter=2000, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        plain.zero_grad()
        logits = x @ weight[:, :-1].T + weight[:, -1]
        value = torch.nn.functional.cross_entropy(logits, y) + 0.005 * weight[:, :-1].square().sum()
        value.backward()
        return value

    plain.step(closure)
    torch.testing.assert_close(few[0], weight.detach()[:, :-1], atol=1e-3, rtol=0)


def test_the_regularisation_is_chosen_on_validation():
    """Of features of which one is a shortcut that validation does not have, the strong penalty is the better one."""
    torch.manual_seed(1)
    y = torch.arange(40) % 2
    signal = (2 * y - 1)[:, None] + 0.1 * torch.randn(40, 1)
    train = Part(torch.cat([signal, torch.randn(40, 200)], 1), y, None)
    val = Part(torch.cat([signal, 5 * torch.randn(40, 200)], 1), y, None)
    values = {l2: chosen(train, val, [l2])[1] for l2 in (1e-4, 1.0, 10.0)}
    best = max(values.values())
    assert len(set(values.values())) > 1
    assert chosen(train, val, list(values)) == (max(l2 for l2, v in values.items() if v == best), best)


def test_a_share_of_the_labels_is_the_same_of_every_class():
    y = torch.tensor([0] * 50 + [1] * 30 + [2] * 3)
    part = Part(torch.arange(83.0)[:, None], y, Images(torch.arange(83).byte().view(-1, 1, 1, 1), y))
    few = _share_of_labels(part, 0.1, torch.Generator().manual_seed(0))
    assert torch.bincount(few.y).tolist() == [5, 3, 1]
    assert few.x.squeeze(1).tolist() == few.samples.pixels.flatten().tolist()


# ------------------------------------------------------------------------------------------------------- retrieval


def plain_retrieval(x, y, ks):
    """Query by query, sorted by hand."""
    recalls, precisions = {k: [] for k in ks}, []
    for i in range(len(x)):
        cosine = [(float(x[i] @ x[j] / (x[i].norm() * x[j].norm())), j) for j in range(len(x)) if j != i]
        hits = [int(y[j] == y[i]) for _, j in sorted(cosine, reverse=True)]
        if (relevant := sum(hits)) == 0:
            continue
        for k in ks:
            recalls[k].append(float(any(hits[:k])))
        precisions.append(sum(sum(hits[: r + 1]) / (r + 1) for r in range(relevant) if hits[r]) / relevant)
    return [sum(recalls[k]) / len(recalls[k]) for k in ks] + [sum(precisions) / len(precisions)]


def test_retrieval_equals_brute_force(features, monkeypatch):
    monkeypatch.setattr("repel.evaluation.retrieval.QUERY_BLOCK", 37)
    x, y = features[1]._replace(samples=None)[:2]
    y = y.clone()
    y[0] = int(y.max()) + 1  # a label that is alone
    found = retrieval_metrics(x, y, [1, 5, 10])
    assert list(found) == ["recall_at_1", "recall_at_5", "recall_at_10", "map_at_r"]
    assert list(found.values()) == pytest.approx(plain_retrieval(x, y, [1, 5, 10]), abs=1e-12)


def test_recall_at_1_equals_scikit_learns(features):
    from sklearn.neighbors import NearestNeighbors

    x, y = features[1][:2]
    nearest = NearestNeighbors(n_neighbors=2, metric="cosine", algorithm="brute").fit(x).kneighbors(x)[1]
    other = torch.tensor([row[1] if row[0] == i else row[0] for i, row in enumerate(nearest.tolist())])
    assert retrieval_metrics(x, y, [1])["recall_at_1"] == pytest.approx(
        float((y[other] == y).double().mean()), abs=1e-12
    )


# -------------------------------------------------------------------------------------------------------- episodes


def test_episodes_of_separate_classes_and_of_noise():
    y = torch.arange(400) % 8
    separate = Part(torch.eye(8)[y] + 0.01 * torch.randn(400, 8), y, None)
    assert few_shot_accuracies(separate, separate, 5, 1, 15, 30, torch.Generator().manual_seed(0)).mean() == 1
    noise = Part(torch.randn(400, 64), y, None)
    top1 = few_shot_accuracies(
        noise, Part(torch.randn(400, 64), y, None), 5, 1, 15, 400, torch.Generator().manual_seed(0)
    )
    assert abs(float(top1.mean()) - 0.2) < 3 * _interval(top1)
    assert _interval(top1) == pytest.approx(1.96 * float(top1.std()) / 20)


def test_an_episode_equals_the_plain_form():
    y = torch.arange(60) % 3
    support, queries = (Part(torch.randn(60, 5) + torch.eye(3, 5)[y], y, None) for _ in range(2))
    found = few_shot_accuracies(support, queries, 3, 4, 6, 5, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    classes = torch.rand(5, 3, generator=generator).argsort(1)
    examples, asked = _draw_places(support.y, classes, 4, generator), _draw_places(queries.y, classes, 6, generator)
    for e in range(5):
        right = 0
        for w in range(3):
            assert set(support.y[examples[e, w]].tolist()) == {int(classes[e, w])}
            assert len(set(asked[e, w].tolist())) == 6
        means = [sum(support.x[i] / support.x[i].norm() for i in examples[e, w]) for w in range(3)]
        for w in range(3):
            for q in asked[e, w]:
                cosines = [float(queries.x[q] @ m / m.norm()) for m in means]
                right += cosines.index(max(cosines)) == w
        assert float(found[e]) == pytest.approx(right / 18)
