"""Warnings when training looks wrong. docs/monitoring.md lists them; symptoms.py has the conditions and thresholds."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from repel.data.pair import Pair
from repel.losses.gradient_weights import negative_weights
from repel.module import Contrastive, StepOutput
from repel.monitoring.item_negatives import user_items
from repel.monitoring.item_symptoms import find_item_symptoms
from repel.monitoring.monitor import optimizer_step_follows
from repel.monitoring.symptoms import ANCHORS, Symptom, find_causes, find_symptoms, is_filling

__all__ = ["Health", "LossHistory"]

WINDOW = 20  # optimizer steps over which the loss is averaged
MAX_LOSS_INCREASE = 0.1  # above its start, relative to it


class Health(Callback):
    """Prints one line, `health   ...`, the first time that training shows a symptom.

    Checked at the first optimizer step and then every trainer.log_every_n_steps, on the first rank, from numbers that
    it has itself: no rank waits for it, and training does not change by it. Each symptom is reported once per run,
    resumed or not, and written to `<run>/health.txt`. While inputs, features or the batch cannot work, nothing else is
    reported.
    """

    def __init__(self) -> None:
        self.reported: list[str] = []
        self.since: dict[str, int] = {}  # the step from which on a symptom was there at every check
        self.weights_before: list[Tensor] = []
        self.losses = LossHistory()
        self.due = False

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.reported}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reported = list(state_dict["told"])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Pair, batch_idx: int) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = optimizer_step_follows(trainer, batch_idx) and every > 0 and trainer.global_step % every == 0
        self.due = due and trainer.is_global_zero

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.due:
            self.weights_before = [p.detach().clone() for p in _weights(pl_module)]

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Pair, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Contrastive)
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        self.losses.add(loss)
        if not self.due:
            return
        step: StepOutput = pl_module.step_output
        seen = negative_weights(pl_module.loss, step.z, step.keys, step.labels, step.ids, ANCHORS, **step.further)
        symptoms = list(find_causes(batch, pl_module, step, seen))[:1]
        if not symptoms and step.z.shape[1] > 1:  # with gather=ring a rank may have one sample
            length = _step_length(self.weights_before, _weights(pl_module))
            rise = self.losses.rise(pl_module)
            symptoms = list(find_symptoms(pl_module, step, float(loss), seen, length, rise))
            if (pairs := user_items(trainer)) is not None:
                symptoms += find_item_symptoms(pl_module.loss, step, pairs.negatives(seen), pairs)
        self._report(trainer, symptoms)

    def _report(self, trainer: Trainer, symptoms: list[Symptom]) -> None:
        """Report the symptoms that have lasted and were not reported before."""
        step = trainer.global_step
        self.since = {s.name: self.since.get(s.name, step) for s in symptoms}
        for symptom in symptoms:
            if symptom.name in self.reported or step - self.since[symptom.name] < symptom.patience:
                continue
            self.reported.append(symptom.name)
            line = f"step {step}: {symptom.message}"
            print(f"health   {line}", flush=True)
            with (Path(trainer.default_root_dir) / "health.txt").open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class LossHistory:
    """Means of the loss over windows of WINDOW steps at least, the first and the last two; kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total: Tensor | float = 0.0
        self.count = 0
        self.means: list[float] = []

    def add(self, loss: Tensor) -> None:
        self.total, self.count = self.total + loss, self.count + 1

    def rise(self, module: Contrastive) -> tuple[float, float] | None:
        """The loss at the start and now, if the last two windows are well above the start."""
        annealed = any(not key.startswith("target.") for key in module.anneal.values)
        if annealed or is_filling(module.loss):
            self.reset()  # another loss from step to step: more negatives, other weights
        elif self.count >= WINDOW:
            self.means = [*self.means[:1], *self.means[1:][-1:], float(self.total / self.count)]
            self.total, self.count = 0.0, 0
        if len(self.means) < 3:
            return None
        first, *last = self.means
        return (first, last[-1]) if min(last) > first + MAX_LOSS_INCREASE * abs(first) else None


def _weights(module: LightningModule) -> list[Tensor]:
    """Parameters with a norm of their own: no biases and gains, which start at 0 or 1."""
    return [p for p in module.parameters() if p.requires_grad and p.ndim > 1]


def _step_length(before: list[Tensor], after: list[Tensor]) -> float:
    """||w' - w|| / ||w|| of all weights together."""
    moved = torch.stack([(a - b).square().sum() for a, b in zip(after, before, strict=True)]).sum()
    return float((moved / torch.stack([b.square().sum() for b in before]).sum()).sqrt())
