"""The nearest images of an embedded set to an image: python scripts/search.py QUERY.png EMBED_FOLDER [k=10]

EMBED_FOLDER is what embed.py wrote. Prints cosine similarity, class and file of each, and draws them. Further options:

    layer=z        which features, where the folder has both; else h
    out=FILE       the drawing; else EMBED_FOLDER/nearest_QUERY.png
    ckpt=FILE      where the checkpoint that made the features lies now, if it moved
    data_root=DIR  where the images lie now, if they moved
"""

import sys
from pathlib import Path

from repel.cli.suggestions import nearest as close
from repel.images.decode import shown

OPTIONS = ("k", "layer", "out", "ckpt", "data_root")


def parsed(arguments: list[str]) -> tuple[Path, Path, dict[str, str]]:
    """Query, folder and options.

    Raises:
        ValueError: one line on what is wrong.
    """
    options = dict(a.split("=", 1) for a in arguments if "=" in a and not Path(a).exists())
    for key in options:
        if key not in OPTIONS:
            raise ValueError(f"unknown option {key}{close(key, list(OPTIONS))} (there are: {', '.join(OPTIONS)})")
    files = [Path(a).expanduser() for a in arguments if "=" not in a or Path(a).exists()]
    if len(files) != 2:
        raise ValueError("name an image and a folder of features: python scripts/search.py QUERY.png EMBED_FOLDER")
    if not files[0].is_file():
        raise ValueError(f"there is no image {shown(files[0])}")
    k = options.setdefault("k", "10")
    if not k.isdecimal() or int(k) < 1:
        raise ValueError(f"k must be a whole number, at least 1, got {k!r}")
    return *files, options


def search(query: Path, folder: Path, options: dict[str, str]) -> None:
    from repel.export.search import draw, feature_of, nearest, open_folder, pictures  # torch: after the options

    embedded = open_folder(folder, options.get("layer"), options.get("data_root"))
    found = nearest(feature_of(query, embedded, options.get("ckpt")), embedded, int(options["k"]))
    for one in found:
        print(f"{one.similarity:.4f}  {one.label or one.split:<16}  {shown(one.file)}")
    out = Path(options.get("out", folder / f"nearest_{query.stem}.png")).expanduser()
    sheet = draw(query, found, pictures(found, embedded.record), embedded.record["channels"])
    sheet.save(out)
    print(shown(out))


def main() -> int:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return 0
    try:
        search(*parsed(sys.argv[1:]))
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
