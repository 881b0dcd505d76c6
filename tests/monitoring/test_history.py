"""metrics.csv: what a kill leaves of it, and who writes it."""

import csv

import pytest
from lightning.pytorch.utilities import rank_zero_only

from repel.monitoring.loggers import CSVHistory

HISTORY = "epoch,step,train/loss,val/loss\n0,0,3.5,\n0,1,3.4,\n0,1,,3.3\n1,2,3.2,\n"


@pytest.mark.parametrize("torn", ["", "1,3,3.1", "1,", "1,3\n", "1\n", "\n", "1,x,3.1,\n"])
def test_a_history_that_a_kill_has_torn_can_be_gone_on_with(tmp_path, torn):
    """Whole rows before the step stay, new columns included later; what is left of a row goes."""
    (tmp_path / "metrics.csv").write_text(HISTORY + torn)
    logger = CSVHistory(str(tmp_path), purge_step=2)
    logger.log_metrics({"train/loss": 3.0}, step=2)
    logger.log_metrics({"speed/samples_per_second": 9.0}, step=2)
    logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["step"], row["train/loss"], row["val/loss"]) for row in rows] == [
        ("0", "3.5", ""), ("1", "3.4", ""), ("1", "", "3.3"), ("2", "3.0", ""), ("2", "", "")
    ]  # fmt: skip


def test_the_first_rank_alone_touches_the_history(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1, raising=False)
    (tmp_path / "metrics.csv").write_text(HISTORY)
    logger = CSVHistory(str(tmp_path), purge_step=1)
    assert logger.experiment is not None  # Lightning's stand-in, which does nothing
    logger.log_metrics({"train/loss": 3.0}, step=2)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == HISTORY
