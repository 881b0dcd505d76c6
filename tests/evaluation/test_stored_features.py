"""Features in files: the numbers are those of memory, on one rank and on several, and no file stays."""

import json
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from conftest import TINY, command, run_folder
from rank_processes import run_ranks
from test_protocol import EVALUATORS, data, evaluator, headline, images, network

from repel.base.collectives import share_blocks
from repel.evaluation import feature_files, knn, linear_classifier, retrieval, stored_features, stored_search, top_items
from repel.evaluation.feature_files import FeatureFiles, encode_stored
from repel.evaluation.item_rankings import rank_all
from repel.evaluation.knn import KNN, knn_predict, nearest_neighbors
from repel.evaluation.linear import FewLabels, LinearProbe
from repel.evaluation.linear_classifier import Choice, choose_l2, fit_classifiers, mean_and_std
from repel.evaluation.logistic_stored import stored_axes
from repel.evaluation.protocol import Evaluator, Fitted, Part, Score, measure
from repel.evaluation.retrieval import Retrieval, retrieval_metrics
from repel.evaluation.stored_features import StoredFeatures, join
from repel.evaluation.top_items import CosineScorer, KnownItems, StoredScorer

CPU = torch.device("cpu")
N, WIDTH = 150, 8


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    set_small_blocks(monkeypatch.setattr)


def set_small_blocks(set_attribute=setattr) -> None:
    """40 rows of features, 7 queries."""
    set_attribute(stored_features, "BLOCK", 40 * 4 * WIDTH)
    set_attribute(knn, "QUERY_BLOCK", 7)
    set_attribute(retrieval, "QUERY_BLOCK", 7)
    set_attribute(stored_search, "QUERIES", 3 * 7 * 4 * WIDTH)  # for which a file is read once
    set_attribute(top_items, "USERS", 9)
    set_attribute(feature_files, "CHUNK", 20)
    for tolerance in ("SEARCH_TOLERANCE", "FINAL_TOLERANCE"):  # so that no sample on the border decides
        set_attribute(linear_classifier, tolerance, 1e-5)


def stored(x: torch.Tensor, folder: Path, dtype: str = "float32", limit: float = 0) -> StoredFeatures:
    files = FeatureFiles(folder, limit, dtype, CPU)
    file = files.create(len(x), x.shape[1])
    files.write(file, x)
    return files.open(file, *x.shape)


def mixture(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(seed)
    y = torch.arange(N) % 5
    centers = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(9))
    return centers[y] + torch.randn(N, WIDTH, generator=draws), y


def parts(folder: Path | None) -> list[Part]:
    """Training, validation and test split; training and test in files where there is a folder."""
    made = []
    for seed in range(3):
        x, y = mixture(seed)
        samples = images(N, 0).with_labels(y)
        made.append(Part(x if folder is None or seed == 1 else stored(x, folder), y, samples))
    return made


def test_rows_are_those_that_were_written(tmp_path):
    x, _ = mixture()
    held, places = stored(x, tmp_path), torch.randperm(N)
    assert not list(tmp_path.iterdir())  # the file has no name
    for rows in (held, held.subset(places[:90]), join([held, x[:30]]), join([x[:30], held.subset(places)])):
        assert isinstance(rows, StoredFeatures)
    both, plain = join([x[:30], held.subset(places)]), torch.cat([x[:30], x[places]])
    assert torch.equal(torch.cat([rows for _, rows in both.blocks()]), plain)
    assert torch.equal(join([held, x[:30]])[N - 5 : N + 9], torch.cat([x[-5:], x[:9]]))
    again = torch.tensor([[3, 170], [31, 3]])
    assert torch.equal(both[again], plain[again])
    assert torch.equal(held[::7], x[::7])
    assert torch.equal(both[torch.tensor([-1, 3])], plain[torch.tensor([-1, 3])])
    for rows, of in ((held, x), (both, plain)):
        mask = torch.arange(len(of)) % 3 == 1
        assert torch.equal(rows[mask], of[mask])
        assert torch.equal(rows.subset(mask)[:], of[mask])
        with pytest.raises(IndexError):
            rows[torch.tensor([len(of)])]
    assert torch.equal(stored(x, tmp_path, limit=4 * WIDTH * 90).subset(places[:90]), x[places[:90]])
    assert torch.equal(stored(x, tmp_path, "float16")[:], x.half().float())
    turns = [list(held.blocks(turn, 3)) for turn in range(3)]
    assert sorted(places.start for own in turns for places, _ in own) == [0, 40, 80, 120]


def test_a_full_disk_and_large_values_are_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="file_dtype=float16: features above 65,504"):
        stored(torch.tensor([[7e4]]), tmp_path, "float16")
    with pytest.raises(ValueError, match="file_dtype must be one of float32, float16"):
        FeatureFiles(tmp_path, 0, "bfloat16", CPU)
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match=r"features of 150 samples take .* evaluation.file_dtype=float16"):
        stored(mixture()[0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_sets_are_encoded_in_parts_and_what_cannot_be_read_is_left_out(tmp_path, monkeypatch):
    x, _ = mixture()
    samples, asked = images(N, 0).with_labels(torch.arange(N)), []

    def encode(some):
        asked.append(len(some))
        good = some.labels % 10 != 3
        return x[some.labels[good]], good.nonzero().squeeze(1)

    expected, kept = encode(samples)
    whole = 4 * WIDTH * N
    cases = [(0, 20, [1, *[20] * 7, 10]), (whole, 20, [1, N]), (float("inf"), 20, [N]), (0, N, [N]), (whole, N, [N])]
    for limit, chunk, parts_of in cases:
        asked.clear()
        monkeypatch.setattr(feature_files, "CHUNK", chunk)
        found, places = encode_stored(samples, encode, FeatureFiles(tmp_path, limit, "float32", CPU))
        assert isinstance(found, StoredFeatures) == (limit == 0)
        assert torch.equal(found[:], expected)
        assert torch.equal(places, kept)
        assert asked == parts_of


def test_searches_find_what_is_found_in_memory(tmp_path):
    (x, y), (queries, _) = mixture(), mixture(1)
    held = stored(x, tmp_path)
    for k in (5, 60, 500):
        plain = nearest_neighbors(x, queries, k)
        for bank, asked in ((held, queries), (held, stored(queries, tmp_path)), (x, stored(queries, tmp_path))):
            found = nearest_neighbors(bank, asked, k)
            torch.testing.assert_close(found[0], plain[0], atol=1e-6, rtol=0)
            assert torch.equal(found[1], plain[1])
    assert retrieval_metrics(held, y, [1, 5]) == retrieval_metrics(x, y, [1, 5])


def test_value_and_gradient_are_those_of_all_rows_at_once(tmp_path):
    """Against autograd in float64, along the axes that were found."""
    x, y = mixture()
    held, y2 = stored(x, tmp_path), y % 2
    mean, std = mean_and_std(held)
    torch.testing.assert_close(mean, x.double().mean(0))
    torch.testing.assert_close(std, x.double().std(0, correction=0))
    axes = stored_axes(held, mean, std)
    unit = (x.double() - mean) / std
    torch.testing.assert_close(axes.axes.T @ axes.axes, torch.eye(WIDTH), atol=1e-6, rtol=0)
    spread = axes.axes.double().T @ (unit.T @ unit) @ axes.axes.double() / N
    torch.testing.assert_close(spread, spread.diag().diag(), atol=1e-5, rtol=0)

    objective = axes.objective([y, y2], [5, 2], [0.1, 0.3])
    theta = torch.randn(7, WIDTH + 1, generator=torch.Generator().manual_seed(1))

    def loss(theta):
        logits = unit @ axes.axes.double() @ theta[:, :-1].T + theta[:, -1]
        value = sum(torch.nn.functional.cross_entropy(*pair) for pair in ((logits[:, :5], y), (logits[:, 5:], y2)))
        return value + 0.1 / 2 * theta[:5, :-1].square().sum() + 0.3 / 2 * theta[5:, :-1].square().sum()

    exact = theta.double().requires_grad_()
    value, gradient = objective.value_and_gradient(theta)
    torch.testing.assert_close(value, loss(exact).detach(), atol=1e-6, rtol=0)
    expected = torch.autograd.grad(loss(exact), exact)[0]
    torch.testing.assert_close(gradient.double(), expected, atol=1e-6, rtol=0)
    hessian = torch.autograd.functional.hessian(loss, exact)
    flat = torch.tensor([1e-2 / 5] * 5 + [1e-2 / 2] * 2)
    hessian.flatten(2).flatten(0, 1).diagonal().view_as(theta)[:, -1] += flat
    found = objective.curvature(theta)
    diagonal = hessian.flatten(2).flatten(0, 1).diagonal().view_as(theta)
    torch.testing.assert_close(found.diagonal.double(), diagonal, atol=1e-6, rtol=0)
    for block, own in zip(found.blocks, (slice(0, 5), slice(5, 7)), strict=True):
        K = block.shape[1]
        torch.testing.assert_close(block.double(), hessian[own, -K:, own, -K:], atol=1e-6, rtol=0)
    assert K > 1


def test_the_probe_reaches_the_same_optimum(tmp_path):
    (x, y), (val_x, val_y) = mixture(), mixture(1)
    for features in (x, stored(x, tmp_path)):
        choice = choose_l2(features, [y], val_x, [val_y], [1e-2, 1e-1])[0]
        weak = Choice(1e-2, 0.0, choice.classifier)
        found = fit_classifiers(join([features, val_x]), [torch.cat([y, val_y])], [weak])
        if features is x:
            expected = choice, found[0]
    assert (choice.l2, choice.top1) == (expected[0].l2, expected[0].top1)
    torch.testing.assert_close(found[0].weight, expected[1].weight, atol=2e-4, rtol=0)
    assert torch.equal(found[0].predict(stored(val_x, tmp_path)), expected[1].predict(val_x))


def test_a_limit_of_work_is_an_option_and_logits_of_all_are_not_held(tmp_path, monkeypatch, capsys):
    train, val, test = parts(tmp_path)
    monkeypatch.setattr("repel.evaluation.logistic.LOGITS", 40 * 5)
    assert LinearProbe([1e-1]).fit(*parts(None)[:2], None).score(test) == []  # in memory
    printed = capsys.readouterr().out
    assert printed.startswith("linear   left out: ")
    assert "evaluation.memory=0" in printed
    assert "linear.work" not in printed  # which would change nothing
    few = FewLabels([0.4], 1, [1e-1], 0)  # of 60 samples, more than a block of 40
    assert few.fit(*parts(None)[:2], None).score(test) == []
    fits = Part(stored(train.x[:], tmp_path, limit=4 * 60 * WIDTH), train.y, train.samples)
    assert few.fit(fits, val, None).score(test) == []  # the share is in memory
    assert few.fit(train, val, None).score(test)
    capsys.readouterr()
    assert LinearProbe([1e-1]).fit(train, val, None).score(test)
    assert not capsys.readouterr().out
    assert LinearProbe([1e-1], work=10 * 2 * N * WIDTH * 5).fit(train, val, None).score(test) == []
    assert "or a larger evaluators.linear.work" in capsys.readouterr().out
    with pytest.raises(ValueError, match="work must be a number > 0"):
        LinearProbe([1e-1], work=0)


def test_labelings_are_solved_one_by_one_where_all_together_would_take_too_long():
    train, val, test = parts(None)
    tasks = dict.fromkeys(("class", "other"), (train, val))
    fitted = LinearProbe([1e-1], work=22 * 2 * N * WIDTH * 5).fit_tasks(tasks, None)
    assert all(fitted[task].score(test) for task in tasks)


def test_every_evaluator_has_the_numbers_of_memory(tmp_path):
    chosen = {name: evaluator(name) for name in EVALUATORS}
    found = []
    for files in (None, FeatureFiles(tmp_path, 0, "float32", CPU)):
        made = data(images(30, 4))
        rows = [headline(lambda made=made, files=files: network(made.normalize)._replace(files=files))]
        records = [m.record() for m in measure(rows, chosen, made, None, 1)]
        found.append({(r["metric"], r["task"]): (r["value"], json.dumps(r["settings"])) for r in records})
    assert {r["evaluator"] for r in records} == set(EVALUATORS)
    assert found[0] == found[1]


def test_an_evaluator_that_takes_no_files_is_left_out_with_a_line(tmp_path, capsys):
    class Own(Evaluator):
        def fit(self, train, val, network):
            return Fitted(lambda test: [Score("own", "own", float(test.x.sum()), {})])

    class OwnKNN(KNN):
        def fit(self, train, val, network):
            return Own().fit(train, val, network)

    made, files = data(images(30, 4)), FeatureFiles(tmp_path, 0, "float32", CPU)
    rows = [headline(lambda: network(made.normalize)._replace(files=files))]
    assert not measure(rows, {"own": Own(), "knn2": OwnKNN(1, [], 0.1)}, made, None, 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["own      left out", "knn2     left out"]


# ------------------------------------------------------------------------------------------------------- rankings


def rankings(folder: Path | None) -> tuple:
    """Of a few users and items with many equal scores."""
    draws = torch.Generator().manual_seed(0)
    users, items = (torch.randint(-2, 3, (n, WIDTH), generator=draws).float() for n in (31, N))
    kinds = torch.rand(31, N, generator=draws)
    known, test = (KnownItems.of(pairs.nonzero(), 31) for pairs in (kinds < 0.2, kinds > 0.9))
    scorer = CosineScorer(users, items) if folder is None else StoredScorer(users, stored(items, folder))
    fifths = torch.arange(N) % 5
    return top_items.top_items(scorer, torch.arange(31), known, 9), rank_all(scorer, known, test, [3, 9], 9, fifths)


def test_rankings_are_those_of_memory_equal_scores_included(tmp_path):
    (top, result), (stored_top, stored_result) = rankings(None), rankings(tmp_path)
    assert torch.equal(top, stored_top)
    assert torch.equal(result.shown, stored_result.shown)
    means, stored_means = ([*r.metrics.values(), *r.fifths] for r in (result, stored_result))
    for mean, stored_mean in zip(means, stored_means, strict=True):
        assert stored_mean == pytest.approx(mean, abs=1e-12)


# -------------------------------------------------------------------------------------------------- several ranks


def everything(folder: Path) -> dict:
    """What the evaluators find, in files and in memory, on the ranks that there are."""
    found = {}
    for form, where in (("memory", None), ("file", folder)):
        train, val, test = parts(where)
        chosen = {"knn": KNN(20, [5], 0.1), "retrieval": Retrieval([1, 5]), "linear": LinearProbe([1e-2, 1e-1]),
                  "few": FewLabels([0.2], 2, [1e-2], 0)}  # fmt: skip
        for name, one in chosen.items():
            fitted = one.fit(train, val, None)
            found[form, name] = [score.value for score in [*fitted.score(test), *fitted.chosen]]
        found[form, "ranking"] = [mean.value for mean in rankings(where)[1].metrics.values()]
    found["blocks"] = share_blocks(lambda places: 3 * places, 23, 7, CPU).tolist()
    return found


def knn_predict_of(rank: int) -> torch.Tensor:
    """What anyone's own loop may call: on one rank alone, or with what no other rank has."""
    train, _, test = parts(None)
    return knn_predict(train.x, train.y, test.x[: 4 + rank], 5, 0.1)


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    set_small_blocks()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    files = Path(folder) / "files"
    files.mkdir(exist_ok=True)
    if rank == 0:
        knn_predict_of(rank)
    own = knn_predict_of(rank)
    torch.save(everything(files) | {"own": own}, f"{folder}/{rank}.pt")
    dist.barrier()
    assert not list(files.iterdir())
    dist.destroy_process_group()


def ranks_main(folder: str) -> None:
    run_ranks(rank_main, 3, folder)


@pytest.mark.slow
def test_ranks_share_the_work_and_find_what_one_does(tmp_path):
    process = ranks.forked(ranks_main, str(tmp_path))
    process.start()
    process.join(200)
    assert process.exitcode == 0
    alone = everything(tmp_path)
    assert alone["blocks"] == [3 * place for place in range(23)]
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(found["own"], knn_predict_of(rank))
        for key, values in alone.items():
            assert found[key] == pytest.approx(values, abs=1e-12), key
        for name in ("knn", "retrieval", "linear", "few", "ranking"):
            assert found["file", name] == pytest.approx(found["memory", name], abs=1e-12)


@pytest.mark.slow
def test_evaluate_py_on_one_device_and_two(tmp_path):
    trained = command("train.py", *TINY, "evaluation.memory=0", cwd=tmp_path)
    run = run_folder(trained, tmp_path)
    found = []
    for more in (["evaluation.memory=inf"], ["evaluation.memory=0"], ["evaluation.memory=0", "devices=2"]):
        result = command(
            "evaluate.py", f"ckpt={run}", "evaluators=[knn,linear,retrieval]", "layers=[h]", *more, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        folder = run_folder(result, tmp_path)
        assert not list(folder.rglob("features*"))
        found.append(json.loads((folder / "metrics.json").read_text(encoding="utf-8")))
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=0.003), name  # a sample on a border
        assert found[2][name] == pytest.approx(found[1][name], abs=0.003), name
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["test/knn_top1"] == found[0]["test/knn_top1"]
