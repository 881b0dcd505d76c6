"""Evaluators that train on augmented images: a linear probe for large sets, and fine-tuning of the whole network."""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base import seeding
from repel.data.samples import Samples
from repel.evaluation.coverage import ceiling
from repel.evaluation.features import BATCH
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score, accuracy
from repel.evaluation.stored_features import row_blocks

__all__ = ["FineTune", "SGDProbe"]


class _SGDTraining(Evaluator):
    """Training by SGD with momentum and a cosine schedule at several learning rates; validation chooses among them.

    Args:
        learning_rates: for a batch of 256; scaled with the batch.
        epochs: of training.
        batch_size: images.
        weight_decay: of all weights.
        flip: whether images are mirrored at random. They are always shifted at random by up to an eighth of their side.
        seed: of order, augmentation and initial weights.
    """

    needs_encoder = True

    def __init__(
        self, learning_rates: Sequence[float], epochs: int, batch_size: int, weight_decay: float, flip: bool, seed: int
    ):
        if not learning_rates or any(not lr > 0 for lr in learning_rates) or epochs < 1 or batch_size < 2:
            raise ValueError(
                f"{type(self).__name__} needs learning_rates > 0, epochs >= 1 and batch_size >= 2, "
                f"got {list(learning_rates)}, {epochs}, {batch_size}"
            )
        self.rates, self.epochs, self.batch_size = list(learning_rates), epochs, batch_size
        self.weight_decay, self.flip, self.seed = weight_decay, flip, seed

    def _batches(self, images: Samples, network: Network) -> Iterator[tuple[float, Tensor, Tensor]]:
        """For all epochs: the time in [0, 1), augmented and normalized images (B, C, H, W), labels (B,)."""
        labels, steps = images.labels, max(1, len(images) // self.batch_size)
        assert labels is not None
        for epoch in range(self.epochs):
            draws = seeding.generator(self.seed, seeding.PROBE, epoch)
            order = torch.randperm(len(images), generator=draws)
            places = list(order.split(self.batch_size))[:steps]
            for step, (place, (pixels, good)) in enumerate(zip(places, images.plain(places), strict=True)):
                moved = _shift(pixels[good], self.flip, draws)
                x = network.normalize(moved.to(network.device))
                yield (epoch + step / steps) / self.epochs, x, labels[place[good]].to(network.device)

    def _settings(self, rate: float, normalize: str) -> dict[str, Any]:
        """How a score was measured."""
        return {"learning_rate": rate, "epochs": self.epochs, "batch_size": self.batch_size,
                "augmentation": "shift" + ", flip" * self.flip, "normalize": normalize, "seed": self.seed}  # fmt: skip

    def _rate(self, base: float, time: float) -> float:
        return base * self.batch_size / 256 * 0.5 * (1 + math.cos(math.pi * time))


class SGDProbe(_SGDTraining):
    """A linear classifier on features of augmented images, for sets too large for L-BFGS; the encoder in eval mode.

    All learning rates are trained at once, on the same features, standardized by a batch norm without parameters.
    """

    takes_stored = True

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        torch.manual_seed(seeding.mix(self.seed, seeding.PROBE))
        classes, width = int(max(train.y.max(), val.y.max())) + 1, train.x.shape[1]
        assert network.encoder is not None, "needs_encoder"
        encoder = network.encoder.eval()
        norm = nn.BatchNorm1d(width, affine=False).to(network.device)
        heads = nn.ModuleList(nn.Linear(width, classes) for _ in self.rates).to(network.device)
        groups = [{"params": head.parameters(), "lr": 0.0} for head in heads]
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=self.weight_decay)
        with torch.enable_grad():
            for time, x, y in self._batches(train.samples, network):
                with torch.no_grad():
                    features = encoder(x).float()
                features = norm(features)
                loss = sum(F.cross_entropy(head(features), y) for head in heads)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[union-attr]
                for group, base in zip(optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = self._rate(base, time)
                optimizer.step()
        norm.eval()

        @torch.no_grad()
        def top1(head: nn.Module, part: Part) -> float:
            predicted = [head(norm(rows.float())).argmax(1) for rows in row_blocks(part.x)]
            return accuracy(torch.cat(predicted), part.y)

        val_top1 = [top1(head, val) for head in heads]
        chosen = val_top1.index(max(val_top1))

        def score(value: float, split: str, part: Part) -> Score:
            settings = self._settings(self.rates[chosen], normalize="batch norm") | ceiling(train.y, part.y)
            return Score("sgd_probe_top1", "linear top-1 by SGD", value, settings, split)

        return Fitted(
            lambda test: [score(top1(heads[chosen], test), "test", test)], [score(val_top1[chosen], "val", val)]
        )


class FineTune(_SGDTraining):
    """The whole network, trained on the labels: a copy of the encoder, in training mode, with a linear classifier."""

    takes_stored = True

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        best, best_top1, chosen = None, -1.0, 0.0
        for rate in self.rates:
            tuned = self._tune(rate, train, val, network)
            if (top1 := _network_top1(tuned, val, network)) > best_top1:
                best, best_top1, chosen = tuned, top1, rate

        assert best is not None, "accuracies are above -1"

        def score(value: float, split: str, part: Part) -> Score:
            settings = self._settings(chosen, normalize="none") | ceiling(train.y, part.y)
            return Score("fine_tuned_top1", "fine-tuned top-1", value, settings, split)

        return Fitted(
            lambda test: [score(_network_top1(best, test, network), "test", test)], [score(best_top1, "val", val)]
        )

    def _tune(self, rate: float, train: Part, val: Part, network: Network) -> nn.Module:
        torch.manual_seed(seeding.mix(self.seed, seeding.PROBE))
        assert network.encoder is not None, "needs_encoder"
        classes = int(max(train.y.max(), val.y.max())) + 1
        head = nn.Linear(train.x.shape[1], classes).to(network.device)
        model = nn.Sequential(copy.deepcopy(network.encoder), head).train().requires_grad_()
        optimizer = torch.optim.SGD(
            model.parameters(), 0.0, momentum=0.9, weight_decay=self.weight_decay, nesterov=True
        )
        with torch.enable_grad():
            for time, x, y in self._batches(train.samples, network):
                loss = F.cross_entropy(model(x).float(), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.param_groups[0]["lr"] = self._rate(rate, time)
                optimizer.step()
        return model.eval()


@torch.no_grad()
def _network_top1(model: nn.Module, part: Part, network: Network) -> float:
    correct = 0
    places = list(torch.arange(len(part.samples)).split(BATCH))
    for place, (pixels, _) in zip(places, part.samples.plain(places), strict=True):
        predicted = model(network.normalize(pixels.to(network.device))).argmax(1)
        correct += int((predicted == part.y[place.to(part.y.device)]).sum())
    return correct / len(part.y)


def _shift(pixels: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W), each shifted by up to an eighth of its side, edges mirrored; half of them flipped."""
    n, _, height, width = pixels.shape
    pad = max(1, height // 8), max(1, width // 8)
    padded = F.pad(pixels.float(), (pad[1], pad[1], pad[0], pad[0]), mode="reflect").to(pixels.dtype)
    top, left = (torch.randint(2 * p + 1, (n, 1), generator=generator) for p in pad)
    columns = left + torch.arange(width)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows = (top + torch.arange(height))[:, None, :, None]
    return padded[torch.arange(n)[:, None, None, None], torch.arange(pixels.shape[1])[:, None, None], rows,
                  columns[:, None, None, :]]  # fmt: skip
