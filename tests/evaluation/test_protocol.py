"""The protocol: nothing is chosen on test data, whatever the evaluator; a planted leak is caught."""

import json

import pytest
import torch
from conftest import CONF, config, options, options_of, same, thinned
from hydra.utils import instantiate
from omegaconf import OmegaConf
from runs_here import train

from repel.data.datamodule import PairData
from repel.data.samples import Splits
from repel.evaluation.linear import LinearProbe
from repel.evaluation.linear_classifier import choose_l2
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, ReportRow, Score, measure
from repel.images.memory import Images
from repel.images.views.normalize import Normalize

FILES = {name: (CONF / f"evaluators/{name}.yaml").read_text(encoding="utf-8") for name in options("evaluators")}
EVALUATORS = options_of("evaluators", "images")  # the others are in tests/text
FEWER = {  # so that a fit takes seconds at most
    "few_label": {"fractions": [0.2], "draws": 2},
    "episodes": {"ways": 3, "episodes": 20, "queries": 3},
    "corruptions": {"images": 20},
    "sgd_probe": {"epochs": 2, "batch_size": 20},
    "fine_tune": {"epochs": 1, "batch_size": 20},
}


def evaluator(name: str) -> Evaluator:
    node = OmegaConf.load(CONF / f"evaluators/{name}.yaml")
    node = OmegaConf.merge(node, {name: FEWER.get(name, {})}, {"evaluation": {"k": 5, "temperature": 0.1}})
    return instantiate(OmegaConf.to_container(node, resolve=True)[name])


def images(n: int, seed: int) -> Images:
    """Three classes that differ in where they are bright, with much noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    pixels = torch.randint(0, 200, (n, 1, 9, 9), generator=generator)
    for label in range(3):
        pixels[labels == label, :, 3 * label : 3 * label + 3] += 50
    return Images(pixels.byte(), labels)


def data(test: Images) -> PairData:
    splits = Splits(images(90, 1), test, images(30, 2), classes=["a", "b", "c"])
    tasks = {"ab": ["first", "first", "other"]}
    normalize = Normalize([0.5], [0.25])
    made = PairData(lambda: splits, 10, 0.1, 0.1, 0, tasks, None, False, None, normalize, 1)
    made.setup()
    return made


def network(normalize) -> Network:
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.BatchNorm2d(6), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(294, 8)
    ).eval()

    def encode(part):
        with torch.no_grad():
            return encoder(normalize(part.pixels)), torch.arange(len(part))

    return Network(encode, encoder, normalize, torch.device("cpu"))


class Watched(Evaluator):
    """Scores always the same images, whatever the test split is: what it says shows what was fitted."""

    def __init__(self, inner: Evaluator):
        self.inner = inner

    def fit(self, train, val, network):
        fitted, fixed = self.inner.fit(train, val, network), images(40, 3)
        x, _ = network.encode(fixed)
        return Fitted(lambda test: fitted.score(Part(x, fixed.labels, fixed)), fitted.chosen)


def other_tests() -> list[Images]:
    """A test split, one with other labels, one with other images."""
    usual = images(30, 4)
    return [usual, Images(usual.pixels, usual.labels.roll(1)), Images(255 - usual.pixels, usual.labels)]


def headline(make_network) -> ReportRow:
    return ReportRow("best", "x", "h", make_network, 1, headline=True)


def influence_of_the_test_split(make) -> bool:
    """Whether anything fitted or chosen by make(data), in two rows one after the other, changes with the test split.

    Either by what it says of the same images afterwards, or by the settings that it reports for the split itself, or
    because what it says of a test image depends on the others beside it.
    """
    fitted, settings, usual = [], [], other_tests()[0]
    for test in other_tests():
        one = data(test)
        rows = [ReportRow(n, "x", "h", lambda one=one: network(one.normalize), 1) for n in "ab"]
        leaky = make(one)
        records = [m.record() for m in measure(rows, {"one": leaky}, one, None, 1)]
        assert records
        settings.append([(r["metric"], chosen(r["settings"])) for r in records])
        records = [m.record() for m in measure(rows, {"one": Watched(leaky)}, one, None, 1)]
        fitted.append([(r["metric"], r["value"], chosen(r["settings"])) for r in records])
    right = []
    for test in (usual[:12], usual[12:], usual):
        one = data(test)
        measurements = measure([headline(lambda one=one: network(one.normalize))], {"one": make(one)}, one, None, 1)
        right.append({m.metric: len(test) * m.score.value for m in measurements if m.metric.endswith(OF_AN_IMAGE)})
    together = all(abs(right[0][n] + right[1][n] - right[2][n]) < 1e-3 for n in right[2])
    return not (together and fitted[0] == fitted[1] == fitted[2] and settings[0] == settings[1] == settings[2])


# shares of test images that are told right one by one
OF_AN_IMAGE = (
    "/knn_top1",
    "knn10_top1",
    "knn20_top1",
    "knn200_top1",
    "linear_top1",
    "pct_top1",
    "probe_top1",
    "tuned_top1",
)


def chosen(settings: dict) -> str:
    """All settings but how uncertain the number is, and details of it."""
    return json.dumps({k: v for k, v in settings.items() if k not in ("ci95", "std", "by_strength")})


@pytest.mark.parametrize("name", thinned(EVALUATORS, 2))
def test_nothing_is_fitted_or_chosen_on_the_test_split(name):
    assert not influence_of_the_test_split(lambda _: evaluator(name))


@pytest.mark.parametrize("what", thinned(["labels", "images", "images in score", "labels in score"], 3))
def test_a_planted_leak_is_caught(what):
    """A probe that chooses its regularisation by the test labels, or standardises by the test images, early or late."""

    class Leaky(LinearProbe):
        def __init__(self, one):
            super().__init__([1e-4, 1e-2, 1.0, 100.0])
            self.one = one

        def fit(self, train, val, network):
            usual = super().fit(train, val, network)
            if what == "labels in score":  # the best of all, by the test split's own labels
                fits = [LinearProbe([l2]).fit(train, val, network) for l2 in self.l2]
                return Fitted(lambda test: max((f.score(test) for f in fits), key=lambda scores: scores[0].value))
            if what == "images in score":
                return Fitted(lambda test: usual.score(test._replace(x=test.x - test.x.mean(0))))
            test = self.one.splits.test
            x, _ = network.encode(test)
            if what == "labels":
                l2, top1, *_ = choose_l2(train.x, [train.y], x, [test.labels], self.l2)[0]
                return Fitted(lambda part: [Score("l2", "", l2, {"top1": top1})])
            scale = x.std(0).square()
            return super().fit(train._replace(x=train.x * scale), val._replace(x=val.x * scale), network)

    assert influence_of_the_test_split(Leaky)


def test_the_test_split_is_encoded_after_everything_is_fitted():
    happened, one = [], data(images(30, 4))

    class Fits(Evaluator):
        def fit(self, train, val, network):
            happened.append("fit")
            return Fitted(lambda test: happened.append("score") or [])

    def make():
        usual = network(one.normalize)

        def encode(part):
            happened.append("test" if part is one.splits.test else "other")
            return usual.encode(part)

        return usual._replace(encode=encode)

    measure([headline(make)], {"a": Fits(), "b": Fits()}, one, None, 1)
    assert happened == ["other", "other", "fit", "fit", "test", "score", "score"]


def test_the_best_checkpoint_does_not_depend_on_the_test_split(tmp_path, monkeypatch):

    from repel.engine import checkpoint_io
    from repel.images import datasets as readers

    usual, kept = readers.fashion_mini, []
    for name, change in (("a", lambda t: t), ("b", lambda t: Images(255 - t.pixels, t.labels.roll(1)))):
        monkeypatch.setattr(readers, "fashion_mini", lambda channels, change=change: changed(usual(channels), change))
        train(
            tmp_path / name,
            "data.datamodule.read._target_=repel.images.datasets.fashion_mini",
            "callbacks.progress=null",
        )
        kept.append(checkpoint_io.load(tmp_path / name / "checkpoints/best.ckpt"))
    assert same(kept[0]["state_dict"], kept[1]["state_dict"])
    assert kept[0]["callbacks"]["BestCheckpoint"] == kept[1]["callbacks"]["BestCheckpoint"]


def changed(splits: Splits, change) -> Splits:
    return Splits(splits.train, change(splits.test), splits.val, splits.classes)


def test_records_say_how_they_were_measured():
    one = data(images(30, 4))
    evaluators = {name: evaluator(name) for name in EVALUATORS}
    seen = []
    rows = [headline(lambda: network(one.normalize))]
    records = [m.record() for m in measure(rows, evaluators, one, None, 7, lambda *split: seen.append(split))]
    assert {r["evaluator"] for r in records} == set(EVALUATORS)
    for r in records:
        assert (r["seed"], r["layer"], r["epoch"]) == (7, "h", 1)
        assert "normalize" in r["settings"]
        assert r["metric"].startswith("val/" if r["split"] == "val" else "test/")
    assert len({r["metric"] for r in records}) == len(records)
    assert all({"k", "temperature"} <= set(r["settings"]) for r in records if "knn" in r["metric"])
    tasks = {r["metric"]: r["value"] for r in records if r["task"] == "ab"}
    assert set(tasks) == {"test/ab_knn_top1", "test/ab_linear_top1", "val/ab_linear_top1"}
    assert len(seen) == 1


def test_rows_with_the_same_features_are_measured_once():
    """Such as a last epoch that is also the best; each row has its own names, and its figures."""
    one, made, seen = data(images(30, 4)), [], []

    def make(name):
        return lambda: made.append(name) or network(one.normalize)

    rows = [
        ReportRow("raw", "x", "h", make("raw")),
        ReportRow("last", "x", "h", make("last"), 2, True, "both"),
        ReportRow("best", "x", "h", make("best"), 2, False, "both"),
        ReportRow("last", "x", "z", make("z"), 2, True),
    ]
    measurements = measure(rows, {"knn": evaluator("knn")}, one, None, 1, lambda row, *parts: seen.append(row.source))
    assert made == ["raw", "last", "z"]
    assert seen == ["raw", "last", "best", "last"]
    values = {m.metric: m.score.value for m in measurements}
    assert values["test/best_knn_top1"] == values["test/knn_top1"]
    assert len(values) == len(measurements)


def test_stages_are_counted_to_the_end():
    one, begun = data(images(30, 4)), []
    rows = [ReportRow(n, n, "h", lambda: network(one.normalize)._replace(encoder=None), 1) for n in "ab"]
    evaluators = {name: evaluator(name) for name in ("knn", "fine_tune")}  # the second one needs an encoder
    measure(rows, evaluators, one, None, 1, on_stage=lambda *stage: begun.append(stage))
    assert begun == [
        (0, 8, "a, h: encoding"), (1, 8, "a, h: knn"), (3, 8, "a, h: test split"),
        (4, 8, "b, h: encoding"), (5, 8, "b, h: knn"), (7, 8, "b, h: test split"),
    ]  # fmt: skip


def test_raw_pixels_have_no_numbers_of_an_encoder():
    one = data(images(30, 4))
    rows = [ReportRow("raw", "x", "pixels", lambda: network(one.normalize)._replace(encoder=None))]
    measurements = measure(rows, {n: evaluator(n) for n in ("knn", "fine_tune")}, one, None, 1)
    assert {m.evaluator for m in measurements} == {"knn"}
    assert "baseline/raw_knn_top1" in {m.metric for m in measurements}


@pytest.mark.parametrize("name", EVALUATORS)
def test_evaluators_leave_the_encoder_as_it_is(name):
    """No weight, statistic, gradient or mode changes, and nothing is drawn from the global generator twice alike."""
    one = data(images(30, 4))
    net = network(one.normalize)
    before = {k: v.clone() for k, v in net.encoder.state_dict().items()}
    rows, evaluators = [headline(lambda: net)], {name: evaluator(name)}
    values = [[m.score.value for m in measure(rows, evaluators, one, None, 1)] for _ in range(2)]
    assert values[0] == values[1]  # the same numbers twice
    assert not net.encoder.training
    assert all(torch.equal(before[k], v) for k, v in net.encoder.state_dict().items())
    assert all(p.grad is None for p in net.encoder.parameters())


def test_every_evaluator_has_a_file_of_its_name():
    for name, text in FILES.items():
        assert list(OmegaConf.create(text)) == [name]
    assert set(config(name="evaluate").evaluators) <= {*EVALUATORS, *options_of("evaluators", "interactions")}
    assert Evaluator.task_metrics == ()


@pytest.mark.parametrize(
    ("row", "test", "val"),
    [
        (("best", "h", 1, True), "test/x", "val/x"),
        (("checkpoint", "h", 1, True), "test/x", "val/x"),
        (("last", "h", 1, False), "test/last_x", "val/last_x"),
        (("last", "h", 1, True), "test/x", "val/x"),
        (("best", "h", 1, False), "test/best_x", "val/best_x"),
        (("best", "z", 1, True), "test/z_x", "val/z_x"),
        (("raw", "pixels", None, False), "baseline/raw_x", "val/baseline_raw_x"),
        (("untrained", "h", None, False), "baseline/untrained_x", "val/baseline_untrained_x"),
    ],
)
def test_metric_names(row, test, val):
    source, layer, epoch, is_headline = row
    row = ReportRow(source, "label", layer, lambda: None, epoch, is_headline)
    assert (row.metric_name("x"), row.metric_name("x", "val")) == (test, val)
