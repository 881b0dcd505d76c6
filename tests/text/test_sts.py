"""Spearman on scored pairs: the file, the number, and what it is measured with."""

import numpy as np
import pytest
import torch
from plain_texts import bag_network, plain_texts, sentences, text_data
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import paired_cosine_distances

from repel.evaluation.knn import KNN
from repel.evaluation.protocol import Network, ReportRow, measure
from repel.text.baselines import WordFeatures
from repel.text.sts import STS, pair_cosines, read_pairs

PAIRS = [
    ("a bird that sings", "the bird sings", 4.5),
    ("an old ship", "a ship with a mast", 3.25),
    ("a leaf of a tree", "the harbor and the sea", 0.0),
    ("a nest, and an egg", "an egg in a nest", 4.5),
    ("small forest", "a large owl", 0.5),
    ("wave", "crew of a ship", 1.0),
]


def write(path, rows, header=None):
    lines = [header] if header else []
    lines += [",".join(f'"{value}"' if "," in str(value) else str(value) for value in row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "pairs.csv", PAIRS)


def measured(file, network, **options) -> dict:
    data = text_data(**options)
    row = ReportRow("last", "x", "h", lambda: network, 1, headline=True)
    found = measure([row], {"sts": STS(str(file))}, data, None, 1, labelled=options.get("labelled", True))
    return {m.metric: m for m in found}


def test_files_with_and_without_a_header_say_the_same(tmp_path, file):
    bare = read_pairs(file)
    assert bare.first == [first for first, _, _ in PAIRS]
    assert bare.second == [second for _, second, _ in PAIRS]
    assert bare.scores.tolist() == [score for *_, score in PAIRS]
    rows = [(score, "x", second, first) for first, second, score in PAIRS]
    named = write(tmp_path / "named.csv", rows, "Score,genre,sentence2,sentence1")
    with_mark = tmp_path / "mark.csv"
    with_mark.write_text("\ufeff" + named.read_text(encoding="utf-8"), encoding="utf-8")
    tabs = tmp_path / "pairs.tsv"
    tabs.write_text("".join("\t".join(map(str, pair)) + "\n\n" for pair in PAIRS), encoding="utf-8")
    for path in (named, with_mark, tabs):
        found = read_pairs(path)
        assert found[:2] == bare[:2]
        assert torch.equal(found.scores, bare.scores)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no file"]),
        (b"", ["sentence1, sentence2, score"]),
        (b"a,b\nc,d\n", ["sentence1, sentence2, score"]),
        (b"a,b,1\nc,d,high\n", ["line 2", "number", "high"]),
        (b"a,b,1\nc,d,nan\n", ["line 2", "number"]),
        (b"a,b,1\nc,d\n", ["line 2"]),
        (b"a,b,1\nc,d,1\n", ["different scores"]),
        (b"sentence1,sentence2,score\n", ["different scores"]),
        (b"caf\xe9,b,1\nc,d,2\n", ["UTF-8"]),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, content, words):
    path = tmp_path / "pairs.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"evaluators\.sts\.root") as error:
        STS(str(path))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_without_a_file_it_says_what_is_needed():
    with pytest.raises(ValueError, match=r"evaluators\.sts\.root=FILE"):
        STS(None)


def test_it_is_scipys_correlation_of_the_cosines(file):
    network = bag_network()
    x, y = (network.encode(plain_texts([pair[i] for pair in PAIRS]))[0].numpy() for i in range(2))
    expected = spearmanr(1 - paired_cosine_distances(x, y), [pair[2] for pair in PAIRS]).statistic
    found = measured(file, network)
    assert found["test/sts_spearman"].score.value == pytest.approx(expected, abs=1e-6)
    assert found["test/sts_spearman"].record()["scored_on"] == len(PAIRS)
    assert found["test/sts_spearman"].score.settings["file"] == "pairs.csv"
    assert list(found) == ["test/sts_spearman"]


def test_sparse_baselines_have_it_too(file):
    train = text_data().splits.train
    vectorizer = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]").fit(train.texts)
    x, y = (vectorizer.transform([pair[i] for pair in PAIRS]) for i in range(2))
    cosines = np.asarray(x.multiply(y).sum(1)).ravel()
    network = Network(WordFeatures(train).tfidf, None, lambda x: x, torch.device("cpu"))
    expected = spearmanr(cosines, [pair[2] for pair in PAIRS]).statistic
    assert measured(file, network)["test/sts_spearman"].score.value == pytest.approx(expected, abs=1e-6)


def test_cosines_of_sparse_rows_are_those_of_dense_ones():
    draws = torch.Generator().manual_seed(0)
    a, b = (torch.rand(9, 6, generator=draws) * (torch.rand(9, 6, generator=draws) < 0.5) for _ in range(2))
    a[0] = 0
    torch.testing.assert_close(pair_cosines(a.to_sparse(), b.to_sparse()), pair_cosines(a, b))
    assert pair_cosines(a.to_sparse(), b.to_sparse())[0] == 0


def test_features_that_are_all_the_same_order_nothing(file):
    network = bag_network()._replace(encode=lambda samples: (torch.ones(len(samples), 4), torch.arange(len(samples))))
    assert measured(file, network)["test/sts_spearman"].score.value == 0


def test_it_needs_neither_labels_nor_the_splits(file):
    """Only the file counts; data without labels has it too, where no other evaluator runs."""
    network = bag_network()
    usual = measured(file, network)["test/sts_spearman"].score.value
    assert measured(file, network, labelled=False)["test/sts_spearman"].score.value == usual
    assert measured(file, network, test=sentences(20, 9))["test/sts_spearman"].score.value == usual
    assert not STS.needs_labels
    assert KNN.needs_labels
