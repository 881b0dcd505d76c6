"""The nearest images to one image: repel search QUERY.png EMBED_FOLDER [k=10]

EMBED_FOLDER was written by repel embed; latest is the newest one. Prints cosine similarity, class and file of each
image, and draws them.
Options:

    layer=z        which features, if the folder has both; default h
    out=FILE       the drawing; default EMBED_FOLDER/nearest_QUERY.png
    ckpt=FILE      the checkpoint or the run that made the features, if it has moved; latest is the newest run
    data_root=DIR  the folder of the images, if it has moved
    --config-dir=DIR  the folder of YAML files that name the run's classes of your own, if it has any
"""

import sys
from pathlib import Path

from repel.base.terminal import shown
from repel.cli.latest import EMBEDDED, RUN, newest
from repel.cli.suggestions import nearest as close
from repel.engine.outcomes import is_mistake

OPTIONS = ("k", "layer", "out", "ckpt", "data_root", "--config-dir")


def parsed(arguments: list[str]) -> tuple[Path, Path, dict[str, str]]:
    """Query, folder and options.

    Raises:
        ValueError: one line that names the mistake.
    """
    options = dict(a.split("=", 1) for a in arguments if "=" in a and not Path(a).exists())
    for key in options:
        if key not in OPTIONS:
            raise ValueError(f"unknown option {key}{close(key, list(OPTIONS))} (there are: {', '.join(OPTIONS)})")
    if "ckpt" in options:
        options["ckpt"] = newest(RUN, options["ckpt"], f"ckpt={options['ckpt']}")
    files = [Path(a).expanduser() for a in arguments if "=" not in a or Path(a).exists()]
    if len(files) != 2:
        raise ValueError("name an image and a folder of features: repel search QUERY.png EMBED_FOLDER")
    if not files[0].is_file():
        raise ValueError(f"there is no image {shown(files[0])}")
    k = options.setdefault("k", "10")
    if not k.isdecimal() or int(k) < 1:
        raise ValueError(f"k must be a whole number, at least 1, got {k!r}")
    return files[0], Path(newest(EMBEDDED, str(files[1]), str(files[1]))), options


def search(query: Path, folder: Path, options: dict[str, str]) -> None:
    from repel.engine.targets import allow, allow_folder
    from repel.export.search import (  # torch: after the options
        draw_matches,
        nearest_matches,
        open_folder,
        query_feature,
        read_pictures,
    )

    if "--config-dir" in options:
        allow_folder(Path(options["--config-dir"]).expanduser())
        allow(roots=[str(Path.cwd())])
    embedded = open_folder(folder, options.get("layer"), options.get("data_root"))
    found = nearest_matches(query_feature(query, embedded, options.get("ckpt")), embedded, int(options["k"]))
    for one in found:
        print(f"{one.similarity:.4f}  {one.label or one.split:<16}  {shown(one.file)}")
    out = Path(options.get("out", folder / f"nearest_{query.stem}.png")).expanduser()
    sheet = draw_matches(query, found, read_pictures(found, embedded.record), embedded.record)
    sheet.save(out)
    print(shown(out))


def main() -> int:
    """Find the nearest images to one image: QUERY.png EMBED_FOLDER"""
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return 0
    try:
        search(*parsed(sys.argv[1:]))
    except (ValueError, OSError) as error:
        if isinstance(error, ValueError) and not is_mistake(error):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
