"""The doctor: a verdict a row, and none of them hides a failure."""

import pytest

from repel.cli import doctor


@pytest.mark.parametrize("name", [name for name in doctor.CHECKS if name not in ("two ranks", "first step")])
def test_quick_checks_say_what_they_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verdict, words = doctor.CHECKS[name]()
    assert verdict in (doctor.GOOD, doctor.LOOK)  # what the other tests need is there
    assert words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two ranks", "first step"])
def test_slow_checks_are_good(name):
    assert doctor.CHECKS[name]()[0] in (doctor.GOOD, doctor.LOOK)


def test_a_wrong_gradient_is_bad(tmp_path, monkeypatch):
    """As if the ranks had come to another one."""
    import torch

    def ranks(function, args, **options):
        for rank in range(2):
            torch.save(doctor.gradient(slice(0, 4)), f"{args[0]}/{rank}.pt")

    monkeypatch.setattr("torch.multiprocessing.start_processes", ranks)
    assert doctor.two_ranks()[0] == doctor.BAD


def test_one_bad_row_is_an_exit_status(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", {"cores": doctor.cores})
    assert doctor.main() == 0
    monkeypatch.setattr(doctor, "CHECKS", {"cores": doctor.cores, "odd": lambda: 1 / 0})
    assert doctor.main() == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
