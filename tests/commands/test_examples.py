"""The examples in docstrings print what they say."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch

import repel

MODULES = [found.name for found in pkgutil.walk_packages(repel.__path__, "repel.")]


def has_examples(name: str) -> bool:
    path = Path(repel.__path__[0], *name.split(".")[1:])
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ">>> " in source.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in MODULES if has_examples(name)])
def test_examples(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted
    assert not result.failed


# base classes and records, which the examples of others show
SHOWN_ELSEWHERE = {"Loss", "RowwiseLoss", "PairLoss", "NegativeWeights", "LogitBlock", "LinearClassifier",
                   "Evaluator", "Fitted", "Network", "Part", "Score"}  # fmt: skip


@pytest.mark.parametrize("package", ["repel.losses", "repel.negatives", "repel.images.views", "repel.evaluation"])
def test_every_public_name_has_an_example(package):
    module = importlib.import_module(package)
    missing = {name for name in module.__all__ if ">>> " not in (getattr(module, name).__doc__ or "")}
    assert missing <= SHOWN_ELSEWHERE
