"""The features of a run's last validation are those of its report, where the checkpoint gives the same bits."""

import pytest
import torch
from conftest import TINY, config
from torch import nn

from repel.engine import runs
from repel.engine.configs import load_config, to_container
from repel.engine.fit import fit
from repel.evaluation import features
from repel.evaluation.features import Encoded, encode, encode_unless_known
from repel.images.memory import Images
from repel.monitoring.validation_knn import ValidationKNN
from repel.report.report import headline_of, read_checkpoints, report_rows, run_checkpoints

CPU = torch.device("cpu")


@pytest.fixture
def counted(monkeypatch):
    """How many samples each call of encode was given."""
    counts, usual = [], encode
    monkeypatch.setattr(features, "encode", lambda encoder, samples, *more: counts.append(len(samples))
                        or usual(encoder, samples, *more))  # fmt: skip
    return counts


def test_what_is_known_is_taken_if_the_first_batch_is_the_same(counted):
    images = Images(torch.randint(0, 256, (300, 1, 4, 4), dtype=torch.uint8))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    known = [Encoded(images, *encode(encoder, images, torch.Tensor.float, CPU))]
    x, places = encode_unless_known(encoder, images, torch.Tensor.float, CPU, known)
    assert x is known[0].x
    assert places is known[0].places
    assert counted == [128]
    other = images[torch.arange(300)]  # the same pixels, which nothing says
    assert torch.equal(encode_unless_known(encoder, other, torch.Tensor.float, CPU, known)[0], x)
    assert counted == [128, 300]
    encoder[1].bias.data[3] += 1e-3
    changed = encode_unless_known(encoder, images, torch.Tensor.float, CPU, known)[0]
    torch.testing.assert_close(changed, x + torch.tensor([0, 0, 0, 1e-3, 0]))
    assert counted == [128, 300, 128, 300]


def test_a_run_hands_those_of_its_last_epoch_to_its_report(tmp_path, counted, monkeypatch):
    """Before it they would take memory that training needs."""
    kept, usual = [], ValidationKNN.on_validation_epoch_end

    def watched(self, trainer, module):
        usual(self, trainer, module)
        kept.append(len(trainer.datamodule.encoded))

    monkeypatch.setattr(ValidationKNN, "on_validation_epoch_end", watched)
    cfg, folder = config(*TINY, "evaluation.bank=null", "data.val_fraction=0.1"), tmp_path / "run"
    runs.create(folder, to_container(cfg), [])
    data = fit(load_config(runs.current_config(folder)), folder, resume=False)
    assert kept == [0, 2]
    val, paths = data.splits.val, run_checkpoints(folder)
    contents = read_checkpoints(paths)
    found = []
    for known in (data.encoded, ()):
        data.encoded = known
        rows = report_rows(cfg, paths, contents, headline_of(contents, "last"), ["h"], data, CPU)
        found.append(next(row for row in rows if row.source == "last").make_network().encode(val)[0])
    assert torch.equal(*found)
    assert counted == [128, len(val)] == [128, 600]
