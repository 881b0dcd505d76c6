"""The files of the sentence sets, as they are passed around, and their texts."""

from pathlib import Path

from repel.text.sts import read_pairs

__all__ = ["SETS", "STS", "files_of", "read_lines", "unlabeled_texts"]

SETS = {  # name -> encoding, and files: of all texts; of training and test; or of training, validation and test
    "MR": ("latin-1", ["rt-polarity.all"]),
    "CR": ("latin-1", ["custrev.all"]),
    "SUBJ": ("latin-1", ["subj.all"]),
    "MPQA": ("latin-1", ["mpqa.all"]),
    "SST-2": ("utf-8", ["stsa.binary.train", "stsa.binary.dev", "stsa.binary.test"]),
    "TREC": ("latin-1", ["TREC.train.all", "TREC.test.all"]),
}
STS = ["stsb-en-train.csv", "stsb-en-test.csv"]


def read_lines(path: Path, encoding: str) -> tuple[list[str], list[int]]:
    """Texts and labels of a file with a `label text` a line."""
    lines = path.read_bytes().decode(encoding).split("\n")  # splitlines() would also split at latin-1's 0x85
    rows = [line.split(" ", 1) for line in lines if line.strip()]
    return [text.strip() for _, text in rows], [int(label) for label, _ in rows]


def files_of(name: str) -> list[str]:
    return STS if name == "STS-B" else SETS[name][1]


def unlabeled_texts(folder: Path, names: list[str]) -> list[str]:
    """The texts of these sets, each once, but those of files of test texts."""
    found: dict[str, None] = {}
    tested: set[str] = set()
    for name in names:
        if not all((folder / file).is_file() for file in files_of(name)):
            continue
        if name == "STS-B":
            parts = [[*pairs.first, *pairs.second] for pairs in (read_pairs(folder / file) for file in STS)]
        else:
            encoding, files = SETS[name]
            parts = [read_lines(folder / file, encoding)[0] for file in files]
        tested.update(parts.pop() if len(parts) > 1 else [])
        found |= dict.fromkeys(text for part in parts for text in part)
    return [text for text in found if text not in tested]
