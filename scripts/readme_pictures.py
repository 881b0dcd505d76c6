"""The pictures of the README, from the report of a run: python scripts/readme_pictures.py RUN [FOLDER]

RUN is the folder of a run of the default, `make train`. Writes its map and its nearest neighbors, as report.html has
them, into FOLDER, docs/pictures by default, in 64 colors, so that the files are small.
"""

from repel.base.scripts import begin_script

begin_script(__name__)

import base64
import io
import re
import sys
from pathlib import Path

from PIL import Image

from repel.base.signals import ends_on_signal

PICTURES = Path(__file__).parents[1] / "docs/pictures"
FIGURES = {"map": "Map of", "neighbors": "nearest training"}  # name of the file -> what the caption has
FIGURE = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">')


@ends_on_signal
def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__)
        return 2
    run, folder = Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else PICTURES
    figures = FIGURE.findall((run / "report.html").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    for name, words in FIGURES.items():
        (content,) = (content for caption, content in figures if words in caption)
        picture = Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")
        picture.quantize(64, Image.Quantize.MAXCOVERAGE).save(folder / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
