"""Rebuild the bundled glosses of WordNet, bit for bit, from Debian's package `wordnet-base`.

    apt-get download wordnet-base=1:3.0-37        # Debian 12; the package needs no installation
    python scripts/build_wordnet_mini.py wordnet-base_1%3a3.0-37_all.deb [--check]

A gloss is the definition of a noun; its class is the lexicographer file that the noun is in. Examples in quotes are cut
off, glosses of fewer than 4 or more than 32 words and those that occur more than once are left out. In each of the ten
classes the glosses are ordered by their SHA-256: the first 200 are for testing, the next 1,500 for training. `--check`
writes nothing and exits 1 if the bundled glosses differ from the package.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import bz2
import collections
import hashlib
import io
import sys
import tarfile
from pathlib import Path

from repel.base.signals import ends_on_signal

TARGET = Path(__file__).parents[1] / "src/repel/text/wordnet_mini/glosses.tsv.bz2"
PACKAGE_SHA256 = "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752"
TRAIN, TEST = 1500, 200  # glosses a class
WORDS = range(4, 33)
CLASSES = {  # number of the lexicographer file, lexnames(5WN) -> its name without "noun."
    "04": "act",
    "05": "animal",
    "06": "artifact",
    "08": "body",
    "10": "communication",
    "13": "food",
    "15": "location",
    "18": "person",
    "20": "plant",
    "27": "substance",
}


def noun_file(package: bytes) -> str:
    """WordNet's data.noun in the .deb, an ar archive: 8 bytes, then members with a header of 60 bytes each."""
    place = 8
    while place < len(package):
        name, size = package[place : place + 16].strip(), int(package[place + 48 : place + 58])
        place += 60
        if name.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(package[place : place + size]), encoding="utf-8") as archive:
                return archive.extractfile("./usr/share/wordnet/data.noun").read().decode("latin-1")
        place += size + size % 2  # members begin at even places
    raise SystemExit("error: the package has no data.tar")


def glosses(nouns: str) -> dict[str, list[str]]:
    """Class -> its usable glosses, in an order that depends on each gloss alone."""
    found = collections.defaultdict(list)
    for line in nouns.split("\n"):
        number = line[9:11]
        if line.startswith("  ") or number not in CLASSES:  # the license stands above the data, indented
            continue
        gloss = line.partition(" | ")[2].partition('; "')[0].strip()
        if len(gloss.split()) in WORDS:
            found[CLASSES[number]].append(gloss)
    times = collections.Counter(gloss for members in found.values() for gloss in members)
    return {
        name: sorted((g for g in found[name] if times[g] == 1), key=lambda g: hashlib.sha256(g.encode()).digest())
        for name in CLASSES.values()
    }


def table(by_class: dict[str, list[str]]) -> str:
    """Lines of split, class and gloss with tabs between: the training glosses class by class, then the test glosses."""
    parts = {"train": slice(TEST, TEST + TRAIN), "test": slice(0, TEST)}
    rows = [
        (split, name, gloss) for split, part in parts.items() for name in by_class for gloss in by_class[name][part]
    ]
    return "".join("\t".join(row) + "\n" for row in rows)


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, metavar="DEB")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.package.is_file():
        print(f"error: no file {args.package}; apt-get download wordnet-base=1:3.0-37 fetches it", file=sys.stderr)
        return 2
    package = args.package.read_bytes()
    if hashlib.sha256(package).hexdigest() != PACKAGE_SHA256:
        print(f"error: {args.package} is not wordnet-base 1:3.0-37, whose sha256 is {PACKAGE_SHA256}", file=sys.stderr)
        return 2
    built = table(glosses(noun_file(package))).encode()
    digest = hashlib.sha256(built).hexdigest()
    if args.check:
        same = bz2.decompress(TARGET.read_bytes()) == built
        print(f"{TARGET.name}: {'identical to' if same else 'DIFFERS from'} the package, sha256 {digest}")
        return 0 if same else 1
    TARGET.write_bytes(bz2.compress(built))  # keeps no date or name, so that the same glosses give the same file
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size:,} bytes, glosses sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
