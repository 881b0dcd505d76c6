"""The solver of the linear probe, against scikit-learn in float64 and against known minima."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from repel.evaluation import logistic_objective
from repel.evaluation.fit_progress import FitProgress
from repel.evaluation.lbfgs import minimize
from repel.evaluation.logistic import logistic_regression
from repel.evaluation.logistic_objective import Objective, Scaling


def problem(kind: str) -> tuple[torch.Tensor, torch.Tensor, int, float]:
    """Features (N, F) and labels (N,) of a kind, how many classes, and l2; float64."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(90) % 3
    centers = torch.randn(4, 12, generator=draws, dtype=torch.float64)
    x = centers[y] + 1.5 * torch.randn(90, 12, generator=draws, dtype=torch.float64)
    if kind == "ill-conditioned":  # of variances from 1e-6 to 1e6, turned
        turn = torch.linalg.qr(torch.randn(12, 12, generator=draws, dtype=torch.float64)).Q
        return x * torch.logspace(-3, 3, 12, dtype=torch.float64) @ turn, y, 3, 1e-3
    if kind == "separable":
        return 5 * centers[y] + 0.1 * x, y, 3, 1e-6
    if kind == "a class without samples":
        return x, y, 4, 1e-2
    if kind == "more features than samples":
        return torch.randn(30, 80, generator=draws, dtype=torch.float64), y[:30], 3, 1e-3
    return x, y, 3, 1e-2


KINDS = ["usual", "ill-conditioned", "separable", "a class without samples", "more features than samples"]


@pytest.mark.parametrize("block", [512, 12, 0])  # of the matrix of second derivatives: whole, of few axes, none
@pytest.mark.parametrize("kind", KINDS)
def test_the_minimum_is_scikit_learns(kind, block, monkeypatch):
    monkeypatch.setattr(logistic_objective, "BLOCK", block)
    x, y, classes, l2 = problem(kind)
    weight, bias, converged = logistic_regression(x, [y], [classes], [l2], None, 1e-8)[0]
    oracle = LogisticRegression(C=1 / (l2 * len(y)), solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(x, y)
    assert converged
    theirs = torch.from_numpy(oracle.coef_), torch.from_numpy(oracle.intercept_)
    probabilities = (x @ weight.T + bias).softmax(1)
    torch.testing.assert_close(probabilities[:, :3], (x @ theirs[0].T + theirs[1]).softmax(1), atol=2e-6, rtol=0)
    assert float(probabilities[:, 3:].sum()) < 1e-4
    if classes == 3:
        assert minimized(x, y, l2, weight, bias) <= minimized(x, y, l2, *theirs) + 1e-9
        torch.testing.assert_close(weight, theirs[0], atol=1e-2 * float(weight.abs().max()), rtol=0)


def minimized(x, y, l2, weight, bias) -> float:
    return float(torch.nn.functional.cross_entropy(x @ weight.T + bias, y) + l2 / 2 * weight.square().sum())


def test_float32_reaches_the_minimum_too():
    for kind in KINDS:
        x, y, classes, l2 = problem(kind)
        exact = logistic_regression(x, [y], [classes], [l2], None, 1e-8)[0]
        weight, bias, converged = logistic_regression(x.float(), [y], [classes], [l2], None, 1e-5)[0]
        assert converged, kind
        probabilities = [(x @ w.double().T + b.double()).softmax(1) for w, b in ((weight, bias), exact[:2])]
        torch.testing.assert_close(*probabilities, atol=2e-3, rtol=0, msg=lambda text, kind=kind: f"{kind}: {text}")


def test_the_second_derivatives_save_evaluations(monkeypatch):
    """Of classes and axes that depend on one another, from the solution for another penalty, as on a path."""
    draws = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 6
    x = torch.randn(6, 20, generator=draws, dtype=torch.float64)[y // 2]
    x = x + 0.3 * y[:, None] / 6 + x.norm(dim=1, keepdim=True) / 3 * torch.randn(300, 20, generator=draws)
    start = logistic_regression(x, [y], [6], [1e-2], None, 1e-4)[0].theta
    counts = []

    class Count(FitProgress):
        def evaluated(self):
            counts[-1] += 1

    for block in (512, 0):
        monkeypatch.setattr(logistic_objective, "BLOCK", block)
        counts.append(0)
        assert logistic_regression(x, [y], [6], [3e-3], [start], 1e-5, Count("a", 1))[0].converged
    assert counts[0] < 0.5 * counts[1]


def test_new_variables_have_the_curvature_of_one(monkeypatch):
    """Along them the Hessian, of all axes and of two labelings, is the identity, but for the sums over classes."""
    monkeypatch.setattr(logistic_objective, "FLAT", 0.0)
    x, y, _, _ = problem("usual")
    objective = Objective(x, [y, y % 2], [3, 2], [0.1, 0.2])
    theta = 0.1 * torch.randn(5, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    scaling = Scaling(objective.curvature(theta), objective.classes)
    moves = torch.eye(65, dtype=torch.float64).view(65, 5, 13)
    around = 1e-5 * torch.stack([scaling.spread(move) for move in moves])
    slopes = [scaling.gathered(objective.value_and_gradient(theta + move)[1]).flatten() for move in around]
    back = [scaling.gathered(objective.value_and_gradient(theta - move)[1]).flatten() for move in around]
    hessian = (torch.stack(slopes) - torch.stack(back)) / 2e-5
    values = torch.linalg.eigvalsh(hessian)
    ones = values[values > 0.5]  # a sum of a labeling's biases changes nothing, and may have any scale
    assert len(ones) == 63
    torch.testing.assert_close(ones, torch.ones(63, dtype=torch.float64), atol=1e-5, rtol=0)
    one, other = (torch.randn(5, 13, dtype=torch.float64) for _ in "ab")
    torch.testing.assert_close((scaling.spread(one) * other).sum(), (one * scaling.gathered(other)).sum())


@pytest.mark.parametrize("curvature", [1.0, 1e3, 1e-3])
def test_functions_of_any_curvature_are_minimized(curvature):
    """A quadratic form and log cosh, which is flat far from its minimum."""
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    matrix, aim = curvature * (root @ root.T + torch.eye(6)), torch.arange(6.0, dtype=torch.float64)

    def function(x):
        away = x - aim
        return away @ matrix @ away / 2 + away.cosh().log().sum(), matrix @ away + away.tanh()

    found, converged = minimize(function, torch.zeros(6, dtype=torch.float64), 1e-9, 500)
    assert converged
    torch.testing.assert_close(found, aim, atol=1e-6, rtol=0)


def test_values_do_not_rise_from_step_to_step():
    """From where the curvature is far below its maximum, full steps overshoot."""
    values = []

    def function(x):
        values.append(float((1 + (10 * x).square()).sqrt().sum()))
        return torch.tensor(values[-1]), 100 * x / (1 + (10 * x).square()).sqrt()

    found, converged = minimize(function, torch.tensor([8.0, -3.0]), 1e-4, 200)
    assert converged
    assert found.abs().max() < 1e-5
    assert values[-1] == pytest.approx(2)


def test_a_limit_ends_it_and_so_does_a_gradient_that_is_wrong():
    evaluations = []

    def function(x):
        evaluations.append(0)
        return x.square().sum() / 2 * 1e4, 1e4 * x

    assert not minimize(function, torch.ones(3), 1e-9, 4)[1]
    assert len(evaluations) == 4
    for wrong in (-1.0, torch.nan):
        assert not minimize(lambda x, wrong=wrong: (x.square().sum(), wrong * x), torch.ones(3), 1e-9, 1000)[1]
