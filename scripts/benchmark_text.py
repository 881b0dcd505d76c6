"""Training a text encoder: speed, memory and accuracy, compared with sentence-transformers.

    pip install -e '.[benchmark,text-hf]'
    python scripts/benchmark_text.py [--quick] [--only bag] [--seeds 3] [--epochs 4]

The same texts (the bundled definitions), tokenizer, encoder, initial weights, loss (MultipleNegativesRankingLoss with
scale 20), batch, learning rate, AdamW and epochs in both; neither logs, validates nor writes checkpoints. A third
training is this project's with all that train.py does besides: kNN on the validation split, monitoring, TensorBoard,
checkpoints. Each runs in a process of its own, in turns. The script checks that both have the same features before
training, and that dropout is on in training. Pairs are the halves of a text, into which its words are divided at
random, or the text twice, of which dropout makes two (SimCSE). Writes docs/benchmarks/text.md and text.json.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from itertools import compress
from pathlib import Path

import torch
from _benchmark import PAGES, spread, versions, write_page
from _text_rivals import MAX_TOKENS, WARM_UP, Case, measure

from repel.base.cores import usable_cores
from repel.base.signals import ends_on_signal

NAMES = {
    "sentence-transformers": "sentence-transformers",
    "repel": "repel",
    "repel-whole": "repel, as `train.py` runs it",
}
WIDTH, VOCABULARY = 128, 8192
BERT = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 4 * WIDTH,
    "max_position_embeddings": 64,
}  # fmt: skip
ROWS = [("bert", "halves"), ("bert", "same"), ("bag", "halves")]  # a bag has no dropout
RATES = {"bert": 1e-3, "bag": 3e-3}
NEEDED = ("sentence_transformers", "datasets", "accelerate", "transformers")


def write_texts(folder: Path, pairs: str, limit: int | None) -> None:
    """texts.json: a tenth of the training texts is for validation, which repel-whole alone makes use of.

    A pair of halves is left out where another text has one of them too ("a of"): sentence-transformers would take equal
    texts for negatives of each other, and this project does not.
    """
    from repel.text.datasets import wordnet_glosses

    texts, labels, test, test_labels, classes = wordnet_glosses()
    step = 1 if limit is None else max(1, len(texts) // limit)
    texts, labels, test, test_labels = texts[::step], labels[::step], test[::step], test_labels[::step]
    held = [i % 10 == 0 for i in range(len(texts))]
    kept, kept_labels = (
        [x for x, out in zip(column, held, strict=True) if not out] for column in (texts, labels.tolist())
    )
    val, val_labels = ([x for x, out in zip(column, held, strict=True) if out] for column in (texts, labels.tolist()))
    divided = [(text, text) if pairs == "same" else halves(text) for text in kept]
    often = Counter(half for pair in divided for half in set(pair))
    alone = [max(often[half] for half in pair) == 1 for pair in divided]
    first, second, train_labels = (
        list(compress(column, alone)) for column in (*zip(*divided, strict=True), kept_labels)
    )
    found = {
        "first": first, "second": second, "train_labels": train_labels,
        "val": val, "val_labels": val_labels, "test": test, "test_labels": test_labels.tolist(),
        "all": kept, "labels": kept_labels, "classes": classes,
    }  # fmt: skip
    (folder / "texts.json").write_text(json.dumps(found), encoding="utf-8")


def halves(text: str) -> tuple[str, str]:
    """Its words, each in one of two texts, in their order."""
    words = text.split()
    first = set(random.Random(text).sample(range(len(words)), len(words) // 2))
    return tuple(" ".join(w for i, w in enumerate(words) if (i in first) == kept) for kept in (True, False))


def write_tokenizer(folder: Path) -> int:
    """tokenizer.json, learned from the training texts, with BERT's special tokens; returns how many tokens it has."""
    from tokenizers import Tokenizer as Library
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    from repel.text.texts import RawTexts
    from repel.text.tokenizer import Tokenizer

    ours = Tokenizer(vocabulary=VOCABULARY, max_tokens=MAX_TOKENS)
    ours.fit(RawTexts.of(json.loads((folder / "texts.json").read_text(encoding="utf-8"))["all"]))
    library = Library.from_str(ours.json)
    library.add_special_tokens(["[PAD]", "[CLS]", "[SEP]"])
    ends = [(token, library.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    library.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"unk": "[UNK]", "mask": "[MASK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=library, **{f"{name}_token": token for name, token in special.items()}
    ).save_pretrained(folder)
    return library.get_vocab_size()


def write_weights(folder: Path, tokens: int, seed: int) -> None:
    """The initial weights of both encoders."""
    from transformers import BertConfig, BertModel, logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    BertModel(BertConfig(vocab_size=tokens, pad_token_id=tokens - 3, **BERT)).save_pretrained(folder)
    torch.save(torch.randn(tokens, WIDTH) * WIDTH**-0.5, folder / "bag.pt")


def run(case: Case) -> dict:
    command = [sys.executable, __file__, "--measure", json.dumps(vars(case))]
    result = subprocess.run(command, capture_output=True, encoding="utf-8")
    if result.returncode:
        raise SystemExit(f"error: {case.library}, {case.encoder} failed:\n{result.stderr}")
    return json.loads(result.stdout.splitlines()[-1])


def measure_row(encoder: str, pairs: str, options: argparse.Namespace) -> dict[str, list[dict]]:
    """Library -> what was found, a seed each; who begins alternates."""
    results: dict[str, list[dict]] = {name: [] for name in NAMES}
    for seed in range(1, options.seeds + 1):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_texts(folder, pairs, options.texts)
            write_weights(folder, write_tokenizer(folder), seed)
            for library in list(NAMES)[:: 1 if seed % 2 else -1]:
                case = Case(library, encoder, seed, options.epochs, options.batch, RATES[encoder], name)
                found = run(case)
                results[library].append(found)
                speed, seconds = f"{found['texts_per_second']:,.0f} texts/s", f"{found['seconds']:.0f} s"
                shown = f"{speed}, kNN {found['knn_top1']:.4f}, {seconds}"
                print(f"{encoder} {pairs} seed {seed} {library:22} {shown}", flush=True)
            same = [torch.tensor(found[-1].pop("start")) for found in results.values()]
            assert all(torch.allclose(same[0], other, atol=1e-4) for other in same), "not the same network"
            assert len({(found[-1]["steps"], found[-1]["threads"]) for found in results.values()}) == 1
    return results


def table(results: dict[tuple[str, str], dict[str, list[dict]]]) -> list[str]:
    lines = [
        "| encoder | pairs | library | texts/s | speed, of sentence-transformers' | by CPU time | training, s "
        "| peak memory, MiB | of it during training, MiB | kNN, test |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (encoder, pairs), row in results.items():
        base = row["sentence-transformers"]
        for library, found in row.items():
            cells = [spread([r["texts_per_second"] for r in found])]
            for key in ("texts_per_second", "texts_per_cpu_second"):
                cells.append(spread([a[key] / b[key] for a, b in zip(found, base, strict=True)], 2))
            cells.append(spread([r["seconds"] for r in found], 1))
            cells += [spread([r[key] / 2**20 for r in found]) for key in ("peak", "growth")]
            accuracies = [r["knn_top1"] for r in found]
            deviation = f" ± {statistics.stdev(accuracies):.4f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(accuracies):.4f}{deviation}")
            lines.append(f"| {encoder} | {pairs} | {NAMES[library]} | {' | '.join(cells)} |")
    return lines


def page(results: dict[tuple[str, str], dict[str, list[dict]]], options: argparse.Namespace, command: str) -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{usable_cores()} CPU cores"
    threads = next(iter(results.values()))["repel"][0]["threads"]
    head = [
        "# Training a text encoder", "",
        f"`{command}`: {options.epochs} epochs of batches of {options.batch} pairs, on {device} "
        f"({platform.machine()}), {threads} thread(s), Python {platform.python_version()}, "
        f"{versions('torch', 'sentence-transformers', 'transformers', 'lightning')}.", "",
        "Each training has a process of its own; libraries take turns. Median (and range) over "
        f"{options.seeds} seed(s), of ratios within a seed; kNN: mean ± standard deviation.",
        f"Speed is that after {WARM_UP} steps. A pair counts as one text. Memory is the process's largest resident "
        "set, or what torch allocated on a GPU.",
        f"bert: 2 layers, width {WIDTH}. bag: the mean of token vectors, `StaticEmbedding` in sentence-transformers.",
        "",
    ]  # fmt: skip
    return "\n".join([*head, *table(results)]) + "\n"


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--texts", type=int, help="at most about so many texts of the 15,000")
    parser.add_argument("--only", choices=sorted(RATES), help="one encoder, no page")
    parser.add_argument("--quick", action="store_true", help="to see that it works: one seed, few texts, no page")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Case(**json.loads(options.measure)))))
        return 0
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        print(f"skipped: {missing[0]} is not installed: pip install -e '.[benchmark,text-hf]'", file=sys.stderr)
        return 2
    if options.quick:
        options.seeds, options.epochs, options.texts = 1, 1, options.texts or 3000
    results = {row: measure_row(*row, options) for row in ROWS if options.only in (None, row[0])}
    flags = [f"--{name} {getattr(options, name)}" for name in ("seeds", "epochs", "batch")]
    text = page(results, options, " ".join(["python scripts/benchmark_text.py", *flags]))
    if options.quick or options.only:
        print(text)
        return 0
    write_page("text.md", text)
    kept = [{"encoder": encoder, "pairs": pairs, "found": found} for (encoder, pairs), found in results.items()]
    (PAGES / "text.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
