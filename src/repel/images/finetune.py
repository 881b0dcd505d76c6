"""Evaluators that train on augmented images: a linear probe for large sets, and fine-tuning of the whole network."""

import copy
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repel.base import seeding
from repel.evaluation.features import BATCH
from repel.evaluation.protocol import Evaluator, Fitted, Network, Part, Score, accuracy
from repel.images.encoded import Encoded
from repel.images.memory import Images


class Trained(Evaluator):
    """Trains by SGD with momentum and a cosine schedule, several learning rates; validation chooses among them.

    Args:
        learning_rates: for a batch of 256; scaled with the batch.
        epochs: of training.
        batch_size: images.
        weight_decay: of all weights.
        flip: whether images are mirrored at random; besides, they are moved by up to an eighth of their side.
        seed: of order, augmentation and initial weights.
    """

    of_encoder = True

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

    def batches(self, images: Images | Encoded, network: Network) -> Iterator[tuple[float, Tensor, Tensor]]:
        """The time in [0, 1), augmented normalised images (B, C, H, W) and labels (B,), for all epochs."""
        steps = max(1, len(images) // self.batch_size)
        for epoch in range(self.epochs):
            draws = seeding.generator(self.seed, seeding.PROBE, epoch)
            order = torch.randperm(len(images), generator=draws)
            places = list(order.split(self.batch_size))[:steps]
            for step, (place, (pixels, good)) in enumerate(zip(places, images.plain(places), strict=True)):
                moved = shifted(pixels[good], self.flip, draws)
                x = network.normalize(moved.to(network.device))
                yield (epoch + step / steps) / self.epochs, x, images.labels[place[good]].to(network.device)

    def rate(self, base: float, time: float) -> float:
        return base * self.batch_size / 256 * 0.5 * (1 + math.cos(math.pi * time))


class SGDProbe(Trained):
    """A linear classifier on features of augmented images, for sets too large for L-BFGS; the encoder in eval mode.

    All learning rates are trained at once, on the same features, which a batch norm without parameters standardises.
    """

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        torch.manual_seed(seeding.mix(self.seed, seeding.PROBE))
        classes, width = int(max(train.y.max(), val.y.max())) + 1, train.x.shape[1]
        encoder = network.encoder.eval()
        norm = nn.BatchNorm1d(width, affine=False).to(network.device)
        heads = nn.ModuleList(nn.Linear(width, classes) for _ in self.rates).to(network.device)
        groups = [{"params": head.parameters(), "lr": 0.0} for head in heads]
        optimizer = torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=self.weight_decay)
        with torch.enable_grad():
            for time, x, y in self.batches(train.images, network):
                with torch.no_grad():
                    features = encoder(x).float()
                features = norm(features)
                loss = sum(F.cross_entropy(head(features), y) for head in heads)
                optimizer.zero_grad()
                loss.backward()
                for group, base in zip(optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = self.rate(base, time)
                optimizer.step()
        norm.eval()

        @torch.no_grad()
        def top1(head: nn.Module, part: Part) -> float:
            return accuracy(head(norm(part.x.float())).argmax(1), part.y)

        reached = [top1(head, val) for head in heads]
        chosen = reached.index(max(reached))
        settings = {"learning_rate": self.rates[chosen], "epochs": self.epochs, "batch_size": self.batch_size,
                    "augmentation": "shift" + ", flip" * self.flip, "normalize": "batch norm",
                    "seed": self.seed}  # fmt: skip
        return Fitted(
            lambda test: [Score("sgd_probe_top1", "linear top-1 by SGD", top1(heads[chosen], test), settings)],
            [Score("sgd_probe_top1", "linear top-1 by SGD", reached[chosen], settings, "val")],
        )


class FineTune(Trained):
    """The whole network trained on the labels from these weights on; a copy of the encoder, in training mode."""

    def fit(self, train: Part, val: Part, network: Network) -> Fitted:
        best, reached, chosen = None, -1.0, 0.0
        for rate in self.rates:
            tuned = self.tune(rate, train, val, network)
            if (top1 := predictions_top1(tuned, val, network)) > reached:
                best, reached, chosen = tuned, top1, rate
        settings = {"learning_rate": chosen, "epochs": self.epochs, "batch_size": self.batch_size,
                    "augmentation": "shift" + ", flip" * self.flip, "normalize": "none", "seed": self.seed}  # fmt: skip
        return Fitted(
            lambda test: [
                Score("fine_tuned_top1", "fine-tuned top-1", predictions_top1(best, test, network), settings)
            ],
            [Score("fine_tuned_top1", "fine-tuned top-1", reached, settings, "val")],
        )

    def tune(self, rate: float, train: Part, val: Part, network: Network) -> nn.Module:
        torch.manual_seed(seeding.mix(self.seed, seeding.PROBE))
        classes = int(max(train.y.max(), val.y.max())) + 1
        head = nn.Linear(train.x.shape[1], classes).to(network.device)
        model = nn.Sequential(copy.deepcopy(network.encoder), head).train().requires_grad_()
        optimizer = torch.optim.SGD(
            model.parameters(), 0.0, momentum=0.9, weight_decay=self.weight_decay, nesterov=True
        )
        with torch.enable_grad():
            for time, x, y in self.batches(train.images, network):
                loss = F.cross_entropy(model(x).float(), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.param_groups[0]["lr"] = self.rate(rate, time)
                optimizer.step()
        return model.eval()


@torch.no_grad()
def predictions_top1(model: nn.Module, part: Part, network: Network) -> float:
    right = 0
    places = list(torch.arange(len(part.images)).split(BATCH))
    for place, (pixels, _) in zip(places, part.images.plain(places), strict=True):
        predicted = model(network.normalize(pixels.to(network.device))).argmax(1)
        right += int((predicted == part.y[place.to(part.y.device)]).sum())
    return right / len(part.y)


def shifted(pixels: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) moved by up to an eighth of their side, each its own way, edges mirrored; half flipped."""
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
