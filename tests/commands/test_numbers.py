"""Numbers in README and docs: those of the code, and one number where a quantity is named on two pages."""

import re
import statistics

import pytest
import yaml
from conftest import CONF, ROOT, config, options

from repel import __version__


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """Tables of a page: the first cell of a row -> the column's head -> the cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in block.splitlines()]
        found.append({row[0].strip(" `"): dict(zip(head[1:], row[1:], strict=False)) for row in rows})
    return found


def table(name: str, column: str) -> dict[str, dict[str, str]]:
    """The first table of a page with such a column."""
    return next(rows for rows in tables(page(name)) if column in next(iter(rows.values())))


SAME = {  # page, column of its table -> rows and columns of README's -> of the page's
    ("docs/results.md", "test/knn_top1"): (
        "raw pixels", {"kNN top-1, k=20": "(default)"},
        {"raw pixels": "baseline/raw_knn_top1", "untrained encoder": "baseline/untrained_knn_top1",
         "last epoch": "test/knn_top1", "best on validation": "test/best_knn_top1"}),
    ("docs/losses.md", "untrained"): (
        "raw pixels", {"kNN top-1, k=20": "negatives=uniform"}, {"untrained encoder": "untrained"}),
    ("docs/text.md", "mean ± deviation"): (
        "TF-IDF", {"kNN top-1, k=20": "kNN top-1", "linear top-1": "linear top-1"},
        {"TF-IDF": "TF-IDF", "LSA-128": "LSA-128", "untrained encoder": "untrained encoder",
         "last epoch": "mean ± deviation"}),
    ("docs/recommendation.md", "mean ± deviation"): (
        "popular", {"recall@20": "recall@20", "NDCG@20": "NDCG@20"},
        {"popular": "popular", "item-kNN": "item-kNN", "EASE": "EASE", "untrained encoder": "untrained encoder",
         "best on validation": "mean ± deviation"}),
}  # fmt: skip


@pytest.mark.parametrize(("name", "column"), SAME)
def test_a_default_run_has_one_result(name, column):
    ours, rows, columns = SAME[name, column]
    readme, there = table("README.md", ours), table(name, column)
    for row, other in rows.items():
        assert {c: readme[row][c] for c in columns} == {c: there[other][d] for c, d in columns.items()}


@pytest.mark.parametrize("name", ["docs/text.md", "docs/recommendation.md"])
def test_means_are_those_of_the_seeds(name):
    for row in table(name, "seed 1").values():
        values = [float(row[f"seed {seed}"]) for seed in (1, 2, 3)]
        mean, deviation = map(float, row["mean ± deviation"].split(" ± "))
        assert mean == pytest.approx(statistics.mean(values), abs=1e-4)
        assert deviation == pytest.approx(statistics.stdev(values), abs=1e-4)


def test_the_run_that_the_readme_prints_is_one_of_seed_1():
    """Its untrained encoder and raw pixels are those of the other runs of that seed."""
    raw, untrained = re.search(r"│ kNN top-1, k=20, t=0.1 +│ +([\d.]+) │ +([\d.]+) │", page("README.md")).groups()
    losses = page("docs/losses.md")
    assert f"Raw pixels reach {raw}." in losses
    assert untrained == table("docs/losses.md", "untrained")["negatives=semi_hard"]["untrained"]
    assert table("README.md", "raw pixels")["kNN top-1, k=20"]["raw pixels"] == f"{raw} ± 0.0000"


def test_sizes_of_the_bundled_data_and_of_the_default_network():
    from hydra.utils import instantiate

    from repel.engine.build import build_data
    from repel.interactions.datasets import debian_mini
    from repel.text.datasets import wordnet_glosses

    cfg = config()
    data = build_data(cfg)
    data.setup()
    parts = data.splits.train, data.splits.val, data.splits.test
    train, val, test = (f"{len(part):,}" for part in parts)
    readme = page("README.md")
    assert f"data     {train} train, {val} validation, {test} test images of 28x28x1, 10 classes\n" in readme
    assert f"test split, {test} images\n" in readme
    assert f"bundled Fashion-MNIST subset, {train} training images" in page("docs/results.md").replace("\n", " ")
    encoder = instantiate(cfg.encoder)
    head = instantiate(cfg.head, in_features=encoder.out_features)
    parameters = sum(p.numel() for part in (encoder, head) for p in part.parameters())
    assert f"model    {parameters:,} parameters, {encoder.out_features} features\n" in readme

    pairs = debian_mini()
    train, val, test = (f"{len(part):,}" for part in (pairs.train, pairs.val, pairs.test))
    users, items = (f"{n:,}" for n in (pairs.train.store.users, pairs.train.store.items))
    reco = " ".join(page("docs/recommendation.md").split())
    assert f"learns from {train} pairs of {users} source packages" in reco
    assert f"{val} pairs are for validation, {test} for the test" in reco
    logs = " ".join(page("docs/interactions_data.md").split())
    assert f"{users} source packages are the users, {items} packages the items" in logs
    assert f"{sum(map(len, (pairs.train, pairs.val, pairs.test))):,} pairs" in logs

    texts, _, tests, *_ = wordnet_glosses()
    val_share = config("experiment=text").data.val_fraction
    text = " ".join(page("docs/text.md").split())
    left, held = f"{len(texts) * (1 - val_share):,.0f}", f"{len(texts) * val_share:,.0f}"
    assert f"learns from {left} definitions of nouns" in text
    assert f"{held} definitions for validation, {len(tests):,} for the test" in text


def test_numbers_of_losses_and_strategies():
    """Losses of negatives, and strategies; chains that have a name of their own are no others."""
    weighing = [loss for loss in options("loss") if "_rowwise" in (CONF / f"loss/{loss}.yaml").read_text("utf-8")]
    files = [CONF / f"negatives/{name}.yaml" for name in options("negatives")]
    targets = {yaml.safe_load(file.read_text("utf-8"))["_target_"] for file in files}
    assert f"{len(weighing)} losses and {len(targets)} strategies combine freely" in " ".join(page("README.md").split())


def limits() -> list[tuple[str, str, str]]:
    """(page, words around a number, the number)"""
    from repel.engine.external_launcher import DATA, START
    from repel.images import arrays, decode, folder
    from repel.images import modality as images
    from repel.interactions.baselines import EASE_ITEMS
    from repel.monitoring import validation_knn
    from repel.text import cache

    stream = yaml.safe_load(page("conf/data/stream.yaml"))
    text = yaml.safe_load(page("conf/data/_text.yaml"))
    ease = f"{EASE_ITEMS:,}"
    return [
        ("docs/data.md", r"more than (\d+) megapixels", f"{decode.MAX_PIXELS / 1e6:g}"),
        ("docs/security.md", r"more than (\d+) million pixels", f"{decode.MAX_PIXELS / 1e6:g}"),
        ("CHANGELOG.md", r"it is (\d+) million pixels", f"{decode.MAX_PIXELS / 1e6:g}"),
        ("docs/data.md", r"`array` up to (\d+) GiB", f"{arrays.HELD >> 30}"),
        ("docs/data.md", r"file above (\d+) GiB stays memory-mapped", f"{arrays.HELD >> 30}"),
        ("docs/data.md", r"`image_folder` up to (\d+) pixels", f"{folder.SMALL}"),
        ("docs/data.md", r"`image_folder` above (\d+) pixels", f"{folder.SMALL}"),
        ("docs/data.md", r"compares with \(([\d,]+) for `stream`", f"{stream['bank']:,}"),
        ("docs/evaluation.md", r"averaged down to (\d+) pixels a side", f"{images.RAW_SIDE}"),
        ("docs/evaluation.md", r"left out above ([\d,]+) of them", ease),
        ("docs/recommendation.md", r"With more than some ([\d,]+) items", ease),
        ("docs/recommendation.md", r"`catalog` up to some ([\d,]+) items", ease),
        ("docs/habits.md", r"kNN compares with (\d+) training samples", f"{validation_knn.FEW}"),
        ("docs/text_data.md", r"more than (\d+) MiB together", f"{cache.LARGE >> 20}"),
        ("docs/text_data.md", r"at most ([\d,]+) of them", f"{text['tokenizer_texts']:,}"),
        ("docs/reliability.md", r"wait at most (\w+) minutes", {300.0: "five"}[START]),
        ("docs/reliability.md", r"and (half an hour) for all to have read", {1800.0: "half an hour"}[DATA]),
        ("README.md", r"repel-([\d.]+)-py3", __version__),
    ]


def test_limits_are_those_of_the_code():
    for name, pattern, value in limits():
        found = re.findall(pattern, " ".join(page(name).split()))
        assert found == [value], (name, pattern)


def cell(name: str, row: str, column: str, heading: str = "") -> float:
    """The number of a cell of a benchmark's table, without its range."""
    rows = tables(page(name).partition(heading)[2] if heading else page(name))[0]
    return float(rows[row][column].split(" (")[0].replace(",", ""))


def test_speeds_of_the_readme_are_those_of_the_benchmarks():
    readme = " ".join(page("README.md").split())
    views = "docs/benchmarks/views.md"
    small, large = "## `views=simclr_no_blur`, 32", "## `views=simclr`, 256"
    exact, fused = "repel, `views.color=exact", "repel, `views.color=fused"
    column = "times torchvision v1"
    both = [cell(views, fused, column, heading) for heading in (small, "## `views=simclr`, 32")]
    least, most = (int(f(both) + 0.5) for f in (min, max))
    assert (f"they are {cell(views, exact, column, small):.0f} times as fast as torchvision, or {least} to {most} "
            f"times with `views.color=fused`; at 224 pixels {cell(views, exact, column, large)} and "
            f"{cell(views, fused, column, large)} times") in readme  # fmt: skip

    loss = page("docs/benchmarks/loss.md")
    memory = [re.search(rf"^\| 16,384 \| {library} \|[^|]*\| ([\d,]+) ", loss, re.MULTILINE)[1]
              for library in (r"repel, `row_chunk=auto`", "lightly `NTXentLoss`")]  # fmt: skip
    assert "NT-Xent takes {} MiB, where lightly's takes {} MiB".format(*memory) in readme

    text = page("docs/benchmarks/text.md")
    speeds = {library: [float(x) for x in re.findall(rf"\| {re.escape(library)} \|[^|]*\| ([\d.]+) ", text)]
              for library in ("repel", "repel, as `train.py` runs it")}  # fmt: skip
    slow, fast, slower, faster = (f(values) for values in speeds.values() for f in (min, max))
    assert (f"train at {slow:.1f} to {fast:.1f} times the speed of sentence-transformers' trainer, {slower:.1f} to "
            f"{faster:.1f} with all that `train.py` logs") in readme  # fmt: skip
