"""Secrets of the environment: replaced wherever they stand, and refused where they are typed."""

import pytest

from repel.engine.redact import check_secrets, without_secrets


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name, value in {"MY_API_KEY": "hunter2-0123", "DB_PASSWORD": "letmein-4567", "SHORT_TOKEN": "abc",
                        "HOME_FOLDER": "/home/somebody"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def test_values_become_the_interpolation_that_finds_them_again():
    value = {"a": ["x hunter2-0123 y", 3, None], "b": {"c": "letmein-4567hunter2-0123"}, "home": "/home/somebody"}
    assert without_secrets(value) == {
        "a": ["x ${oc.env:MY_API_KEY} y", 3, None],
        "b": {"c": "${oc.env:DB_PASSWORD}${oc.env:MY_API_KEY}"},
        "home": "/home/somebody",
    }
    assert without_secrets("abc") == "abc"  # too short to be told from a word


def test_a_secret_that_is_typed_is_refused_without_repeating_it():
    check_secrets(["logger.wandb.key='${oc.env:MY_API_KEY}'", "name=abc"])
    with pytest.raises(ValueError, match=r"key='\$\{oc\.env:MY_API_KEY\}'") as caught:
        check_secrets(["logger.wandb.key=hunter2-0123"])
    assert "hunter2" not in str(caught.value)
