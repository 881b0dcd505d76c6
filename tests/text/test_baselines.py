"""TF-IDF and LSA against plain scikit-learn, and how a report measures them."""

import numpy as np
import pytest
import torch
from conftest import config
from plain_texts import plain_texts, sentences, text_data
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from repel.evaluation import sparse
from repel.evaluation.feature_files import FeatureFiles
from repel.evaluation.geometry_evaluator import FeatureGeometry
from repel.evaluation.knn import KNN, nearest_neighbors
from repel.evaluation.linear import LinearProbe
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, ReportRow, measure
from repel.evaluation.stored_features import StoredFeatures
from repel.report.report import report_rows
from repel.text.baselines import WordFeatures, text_baselines

K, T = 5, 0.1


def rows(data, bank=None) -> list[ReportRow]:
    def network(encode):
        return lambda: Network(encode, None, data.normalize, torch.device("cpu"))

    return [ReportRow(b.source, b.label, b.layer, network(b.encode)) for b in text_baselines(data.splits.train, bank)]


def evaluators() -> dict[str, Evaluator]:
    return {"knn": KNN(K, [], T), "linear": LinearProbe([1e-2, 1.0])}


@pytest.fixture(scope="module")
def plain():
    """(train, val, test) of TF-IDF rows and labels, by scikit-learn alone."""
    splits = text_data().splits
    vectorizer = TfidfVectorizer(token_pattern=r"\w+").fit(splits.train.texts)
    return [(vectorizer.transform(s.texts), s.labels.numpy()) for s in (splits.train, splits.val, splits.test)]


@pytest.fixture(scope="module")
def measured():
    data = text_data()
    return {m.metric: m for m in measure(rows(data), evaluators(), data, None, 1)}


def test_knn_is_that_of_scikit_learn(plain, measured):
    (x, y), (val_x, val_y), (test_x, test_y) = plain
    model = KNeighborsClassifier(K, metric="cosine", weights=lambda distance: np.exp(-distance / T))
    model.fit(np.vstack([x.toarray(), val_x.toarray()]), np.concatenate([y, val_y]))
    expected = model.score(test_x.toarray(), test_y)
    assert 0.5 < expected < 1
    assert measured["baseline/tfidf_knn_top1"].score.value == pytest.approx(expected, abs=1e-6)
    assert measured["baseline/tfidf_knn_top1"].score.settings == {"k": K, "temperature": T, "normalize": "l2"}


def test_lsa_in_a_file_has_the_same_numbers_and_tfidf_stays_sparse(measured, tmp_path):
    data, files = text_data(), FeatureFiles(tmp_path, 0, "float32", torch.device("cpu"))

    def stored(row: ReportRow) -> ReportRow:
        return row._replace(make_network=lambda: row.make_network()._replace(files=files))

    parts = []
    found = measure([stored(row) for row in rows(data)], evaluators(), data, None, 1, lambda *of: parts.append(of[1].x))
    assert [type(x) for x in parts] == [torch.Tensor, StoredFeatures]
    assert {m.metric: m.score for m in found} == {name: m.score for name, m in measured.items()}


def test_linear_is_that_of_scikit_learn_with_c_by_validation(plain, measured):
    (x, y), (val_x, val_y), (test_x, test_y) = plain

    def fitted(c, x, y):
        return LogisticRegression(C=c, tol=1e-8, max_iter=2000).fit(x, y)

    scores = {c: fitted(c, x, y).score(val_x, val_y) for c in sparse.C_GRID}
    best = max(scores, key=scores.get)
    both = fitted(best, np.vstack([x.toarray(), val_x.toarray()]), np.concatenate([y, val_y]))
    test, val = measured["baseline/tfidf_linear_top1"], measured["val/baseline_tfidf_linear_top1"]
    assert test.score.settings == val.score.settings == {"C": best, "normalize": "none"}
    assert val.score.value == pytest.approx(scores[best], abs=1e-6)
    assert test.score.value == pytest.approx(both.score(test_x.toarray(), test_y), abs=1e-6)
    assert (test.fitted_on, test.scored_on, val.fitted_on, val.scored_on) == (120, 40, 90, 30)


def test_the_classifier_is_at_the_optimum(plain):
    x, y = plain[0]
    found = sparse.fit_sparse(sparse.sparse_tensor(x), torch.from_numpy(y), 3.0)
    exact = LogisticRegression(C=3.0, tol=1e-8, max_iter=2000).fit(x, y)
    assert found.converged
    assert np.abs(found.model.predict_proba(x) - exact.predict_proba(x)).max() < 5e-4


def test_rows_have_every_number_that_fits_their_features(measured):
    """Further tasks too; of words alone, LSA is dense and so has what other features have."""
    data = text_data()
    for source in ("tfidf", "lsa"):
        for key in ("knn_top1", "linear_top1", "alive_knn_top1", "alive_linear_top1"):
            assert 0.5 < measured[f"baseline/{source}_{key}"].score.value <= 1
    assert measured["baseline/lsa_linear_top1"].score.settings["normalize"] == "standardised"
    found = {m.metric for m in measure(rows(data), {"geometry": FeatureGeometry(50)}, data, None, 1)}
    assert "baseline/lsa_uniformity" in found
    assert not any("tfidf" in metric for metric in found)


def test_a_new_evaluator_gets_no_sparse_features_unless_it_says_so():
    class Own(KNN):
        def fit(self, train, val, network):
            assert not train.x.is_sparse
            return Fitted(lambda test: [])

    class Takes(Own):
        takes_sparse = True

    assert KNN.takes_sparse
    assert not Own.takes_sparse
    assert Takes.takes_sparse
    data = text_data()
    measure(rows(data), {"own": Own(K, [], T)}, data, None, 1)


def test_nothing_is_fitted_or_chosen_on_the_test_split():
    usual, fixed, seen = sentences(40, 2), sentences(30, 5), []
    other = plain_texts([text + " entirely different words" for text in usual.texts], usual.labels.roll(1).tolist())

    class Watched(Evaluator):
        """Scores always the same texts."""

        takes_sparse = True

        def __init__(self, inner):
            self.inner = inner

        def fit(self, train, val, network):
            fitted, (x, _) = self.inner.fit(train, val, network), network.encode(fixed)
            return Fitted(lambda test: fitted.score(Part(x, fixed.labels, fixed)), fitted.chosen)

    for test in (usual, other):
        data, watched = text_data(test), {name: Watched(one) for name, one in evaluators().items()}
        records = [m.record() for m in measure(rows(data), watched, data, None, 1)]
        seen.append([(r["metric"], r["value"], r["settings"]) for r in records])
    assert seen[0] == seen[1]
    assert len(seen[0]) == 6


def test_lsa_is_the_best_approximation_of_tfidf():
    train = sentences(200, 1)
    features = WordFeatures(train)
    x = features.tfidf(train)[0].to_dense().double().numpy()
    z = features.lsa(train)[0].double().numpy()
    assert z.shape == (200, min(128, x.shape[1]))
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    r = z.shape[1]
    np.testing.assert_allclose(z @ z.T, (u[:, :r] * s[:r] ** 2) @ u[:, :r].T, atol=1e-4)


def test_the_vocabulary_is_of_the_training_texts_within_the_bank():
    train = plain_texts(["red red fox", "red hen", "blue whale", "blue sky"], [0, 0, 1, 1])
    assert set(WordFeatures(train).vectorizer.vocabulary_) == {"red", "fox", "hen", "blue", "whale", "sky"}
    assert set(WordFeatures(train, bank=2).vectorizer.vocabulary_) == {"red", "fox", "blue", "whale"}
    x, places = WordFeatures(train).tfidf(plain_texts(["a zebra", "red red"]))
    assert places.tolist() == [0, 1]
    assert x.to_dense().norm(dim=1).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I like R2-D2", {"i", "like", "r2", "-", "d2"}),
        ("我喜欢猫 cat猫", {"我", "喜", "欢", "猫", "cat"}),
        ("ねこ", {"ね", "こ"}),
        ("😀😀", {"😀"}),
        ("שלום עולם", {"שלום", "עולם"}),
    ],
)
def test_words_of_any_script(text, words):
    assert set(WordFeatures(plain_texts([text])).vectorizer.vocabulary_) == words


def test_neighbors_of_sparse_features_are_those_of_dense_ones(monkeypatch):
    monkeypatch.setattr(sparse, "QUERY_BLOCK", 3)
    draws = torch.Generator().manual_seed(0)
    bank, queries = (torch.rand(n, 20, generator=draws) * (torch.rand(n, 20, generator=draws) < 0.4) for n in (30, 8))
    found, expected = nearest_neighbors(bank.to_sparse(), queries.to_sparse(), 4), nearest_neighbors(bank, queries, 4)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert nearest_neighbors(bank.to_sparse(), queries.to_sparse(), 99)[1].shape == (8, 30)


def test_samples_of_known_label_of_sparse_features():
    x, y = torch.eye(4).to_sparse(), torch.tensor([0, -1, 1, -1])
    known = Part(x, y, plain_texts(list("abcd"), y.tolist())).known()
    assert torch.equal(known.x.to_dense(), torch.eye(4)[[0, 2]])
    assert known.samples.texts == ["a", "c"]


def test_a_report_asks_the_modality_with_its_bank(monkeypatch, tmp_path):
    data, asked = text_data(), []

    def asked_for(train, bank):
        asked.append((train, bank))
        return text_baselines(train, bank)

    monkeypatch.setattr("repel.text.baselines.text_baselines", asked_for)
    contents = {"checkpoint": {"state_dict": {}, "epoch": 0}}
    made = report_rows(config(), {}, contents, "checkpoint", ["h"], data, torch.device("meta"), 7)
    assert asked == [(data.splits.train, 7)]
    names = [row.metric_name("knn_top1") for row in made]
    assert names[:3] == ["baseline/tfidf_knn_top1", "baseline/lsa_knn_top1", "baseline/untrained_knn_top1"]
    few = data.splits.test[torch.arange(5)]
    words, lsa = (row.make_network().encode(few)[0] for row in made[:2])
    assert words.is_sparse
    assert (words.device.type, lsa.device.type, len(lsa)) == ("cpu", "meta", 5)
