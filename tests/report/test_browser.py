"""In a real browser: every tab of TensorBoard, and report.html, show what they should."""

import json
import re
import subprocess
import sys

import browser
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())]


@pytest.fixture(scope="module")
def window():
    opened = browser.Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tensorboard(finished):
    """Its address, of the folder `runs` that holds one run."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(finished.parents[1]), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    yield next(found[0] for line in process.stderr if (found := re.search(r"http://localhost:\d+/", line)))
    process.terminate()
    process.communicate()


GROUPS = ["1_train", "2_val", "3_test", "geometry", "negatives", "similarity", "speed"]
TABS = {
    "timeseries": ["train/RUN", "1_train", "2_val"],
    "scalars": ["train/RUN", *GROUPS],
    "images": ["train/RUN", "views/pairs", "embedding/map"],
    "histograms": ["train/RUN", "similarity/negatives", "similarity/positives"],
    "text": [
        "train/RUN",
        "results/test",
        "raw pixels",
        "kNN top-1, k=20",
        "run/config",
        "train.py",
        "encoder.width: 4",
    ],
    "hparams": ["encoder.width", "loss.temperature", "negatives", "overrides", "test/knn_top1", "val/knn_top1", "KNN"],
    "projector": ["600", "Dimension", "Total variance described"],
}


@pytest.mark.parametrize("tab", TABS)
def test_a_tab_of_tensorboard(window, tensorboard, finished, tab):
    knn = json.loads((finished / "metrics.json").read_text(encoding="utf-8"))["test/knn_top1"]
    words = [word.replace("RUN", finished.name).replace("KNN", f"{knn:.4f}".rstrip("0")) for word in TABS[tab]]
    text = window.text(f"{tensorboard}#{tab}", *words)
    assert [word for word in words if word not in text] == []
    assert not re.search(r"baseline/|/tensorboard\b" + "|_target_" * (tab != "text"), text)  # which has the config
    if tab == "scalars":
        places = [text.index(f" {group} ") for group in GROUPS]
        assert places == sorted(places)


def test_report_html(window, finished):
    text = window.text(f"file://{finished}/report.html", "Settings")
    command = json.loads((finished / "environment.json").read_text(encoding="utf-8"))["command"]
    for words in (
        "What was run",
        " ".join(command)[:40],
        "commit ",
        "Test split",
        "kNN top-1, k=20",
        "untrained encoder",
    ):
        assert words in text
    assert window.run("return [...document.images].every(image => image.naturalWidth > 100)")
    assert window.run("return document.images.length") == 4
    assert window.run("return document.documentElement.scrollWidth <= innerWidth")
    assert window.run("return document.querySelectorAll('.best').length") == 0
