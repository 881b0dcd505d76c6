"""The trials of make two-machines and make slurm: what can be said of them without root, namespaces and SLURM."""

import csv
import sys

import pytest
from conftest import ROOT


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield
    for name in ("_machines", "_slurm", "two_machines", "slurm_trials"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("scripts")
def test_where_they_cannot_run_they_say_why(monkeypatch, capsys):
    import slurm_trials
    import two_machines

    monkeypatch.setattr("shutil.which", lambda tool: None if tool in ("ip", "slurmd") else tool)
    for name in ("_machines", "_slurm"):
        monkeypatch.setattr(f"{name}.os.geteuid", lambda: 0)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["script"])
    assert two_machines.main() == slurm_trials.main() == 0
    printed = capsys.readouterr().out
    assert "skipped: two machines cannot be made here: needs ip" in printed
    assert "skipped: no SLURM can be set up here: needs slurmd, ip (Debian: apt install slurm-wlm munge)" in printed
    monkeypatch.setattr("shutil.which", lambda tool: tool)
    monkeypatch.setattr("_machines.os.geteuid", lambda: 1000)
    assert two_machines.main() == slurm_trials.main() == 0
    assert capsys.readouterr().out.count("needs root on Linux") == 2


@pytest.mark.usefixtures("scripts")
def test_metrics_are_compared_without_speeds(tmp_path):
    from two_machines import _metrics

    with (tmp_path / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [["epoch", "step", "train/loss", "speed/images"], [0, 1, 2.5, ""], [0, 1, "", 90.0]]
        csv.writer(file).writerows(rows)
    assert _metrics(tmp_path) == [{"epoch": "0", "step": "1", "train/loss": "2.5"}]
