"""Rebuild the bundled dependencies of Debian's packages, bit for bit, from Debian's own index `Packages`.

    URL=https://deb.debian.org/debian/dists/bookworm/main/binary-amd64/Packages.xz   # of Debian 12.15
    python scripts/build_debian_mini.py Packages.xz [--check]

A user is a source package, an item a package that it depends on: those in the fields Depends and Pre-Depends of any
package that is built from the source. The source is what the field Source says, without the version in parentheses
that may follow there, and the package itself where the field is missing. Of alternatives, `a | b`, the first counts,
without its version and architecture. Left out are names that are no package of the index (virtual ones, such as the
hashes of Haskell's interfaces) and packages that are built from the same source. Then users with fewer than 6 items
and items with fewer than 8 users are taken out until none is left. An item's label is the section of its package.

Each user's items are ordered by the SHA-256 of `user item`; the first tenth, rounded to whole items (a half to one), is
for testing, the next for validation, the rest for training. `--check` writes nothing and exits 1 if the bundled file
differs from the index.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import argparse
import bz2
import collections
import hashlib
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

from repel.base.signals import ends_on_signal

TARGET = Path(__file__).parents[1] / "src/repel/interactions/debian_mini/dependencies.tsv.bz2"
INDEX_SHA256 = "515e692f2c4121c6fcec444ef100cc18f79a991910615f3a88c8b7becfc94d2f"  # unpacked, as in 12.15's InRelease
FIELDS = ("Depends", "Pre-Depends")
CORE = (6, 8)  # items a user, users an item, at least
Pairs = set[tuple[str, str]]


def packages(index: str) -> Iterator[dict[str, str]]:
    """Field -> its first line, of each package; no field that is used here has more lines."""
    for paragraph in index.split("\n\n"):
        lines = (line.partition(":") for line in paragraph.split("\n") if line and not line[0].isspace())
        if fields := {name: text.strip() for name, _, text in lines}:
            yield fields


def first_alternatives(field: str) -> list[str]:
    """Names of packages in `a (>= 1), b:any | c`: a and b."""
    names = (part.split("|")[0].split("(")[0].split(":")[0].strip() for part in field.split(","))
    return [name for name in names if name]


def dependencies(index: str) -> tuple[Pairs, dict[str, str]]:
    """Pairs of a source package and a package of another source; package -> its section."""
    listed = {package["Package"]: package for package in packages(index)}
    source = {name: package.get("Source", name).split()[0] for name, package in listed.items()}
    pairs = {
        (source[name], other)
        for name, package in listed.items()
        for field in FIELDS
        for other in first_alternatives(package.get(field, ""))
        if other in listed and source[other] != source[name]
    }
    return pairs, {name: package["Section"].split("/")[-1] for name, package in listed.items()}


def core(pairs: Pairs) -> Pairs:
    """The most pairs of which every user has CORE[0] items and every item CORE[1] users."""
    while True:
        users, items = (collections.Counter(pair[side] for pair in pairs) for side in (0, 1))
        kept = {(user, item) for user, item in pairs if users[user] >= CORE[0] and items[item] >= CORE[1]}
        if len(kept) == len(pairs):
            return kept
        pairs = kept


def table(pairs: Pairs, sections: dict[str, str]) -> str:
    """Lines with tabs between: `item name section` for each item, then `user name train val test` for each user.

    The last three are numbers of items, counted from 0 in the order of the lines.
    """
    items = sorted({item for _, item in pairs})
    number, of_user = {item: place for place, item in enumerate(items)}, collections.defaultdict(list)
    for user, item in pairs:
        of_user[user].append(item)
    rows = [("item", item, sections[item]) for item in items]
    for user in sorted(of_user):
        found = sorted(of_user[user], key=lambda item: hashlib.sha256(f"{user} {item}".encode()).digest())
        tenth = (len(found) + 5) // 10
        parts = found[2 * tenth :], found[tenth : 2 * tenth], found[:tenth]
        rows.append(("user", user, *(" ".join(map(str, sorted(number[item] for item in part))) for part in parts)))
    return "".join("\t".join(row) + "\n" for row in rows)


@ends_on_signal
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, metavar="PACKAGES", help="as it is, or .xz")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if not args.index.is_file():
        print(f"error: no file {args.index}; {__doc__.splitlines()[2].strip()} is where it was", file=sys.stderr)
        return 2
    content = args.index.read_bytes()
    content = lzma.decompress(content) if args.index.suffix == ".xz" else content
    if hashlib.sha256(content).hexdigest() != INDEX_SHA256:
        print(f"error: {args.index} is not the index of Debian 12.15, main, amd64, whose sha256, unpacked, is "
              f"{INDEX_SHA256}", file=sys.stderr)  # fmt: skip
        return 2
    pairs, sections = dependencies(content.decode("utf-8"))
    built = table(core(pairs), sections).encode()
    digest = hashlib.sha256(built).hexdigest()
    if args.check:
        same = bz2.decompress(TARGET.read_bytes()) == built
        print(f"{TARGET.name}: {'identical to' if same else 'DIFFERS from'} the index, sha256 {digest}")
        return 0 if same else 1
    TARGET.write_bytes(bz2.compress(built))  # keeps no date or name, so that the same pairs give the same file
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size:,} bytes, pairs sha256 {digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
