"""Notes on choices that are allowed and may surprise, printed when training begins."""

import math
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repel.data.datamodule import PairData
from repel.data.length import TrainingLength
from repel.data.samples import Samples
from repel.engine.batch_norm import has_unsynced_batch_norm
from repel.engine.build import on_gpu
from repel.evaluation.coverage import count_new
from repel.evaluation.features import subset
from repel.model.micro_batch import micro_batches
from repel.model.optim import scaled_rate
from repel.module import Contrastive

__all__ = [
    "end_notes",
    "length_notes",
    "notes",
    "notes_on_tasks",
    "notes_on_test_labels",
    "notes_on_val_labels",
    "resume_notes",
]


def notes(cfg: DictConfig, module: Contrastive, world: int) -> list[str]:
    """On the network, its loss and the devices."""
    found = []
    every, epochs = (cfg.trainer.get(key) for key in ("check_val_every_n_epoch", "max_epochs"))
    if every and 0 < (epochs or 0) < every:
        found.append("nothing is validated: the last epoch counts as the best; trainer.check_val_every_n_epoch="
                     f"{epochs} or lower validates")  # fmt: skip
    if world > 1 and not on_gpu(cfg) and has_unsynced_batch_norm(module):
        found.append("some batch norms of this network take their statistics on each rank alone: on CPUs, only plain "
                     "BatchNorm1d and BatchNorm2d are synchronized")  # fmt: skip
    if cfg.queue.size and module.target is None and not module.loss.tolerates_old_keys:
        found.append("a queue without target=ema holds embeddings of an earlier network")
    if module.loss.dims is not None and cfg.head.out_features not in module.loss.dims:
        found.append(f"loss.dims leaves out {cfg.head.out_features}: whole embeddings are not trained, only cut ones")
    side, plain = (OmegaConf.select(cfg, key) for key in ("views.augmentation.size", "data.image_size"))
    if side != plain:
        found.append(f"views have {side} pixels a side, images in evaluation {plain}: data.image_size sets both")
    if cfg.data.get("item_text") and not cfg.encoder.get("item_text"):
        found.append("data.item_text is not seen by this encoder; encoder=two_tower_text sees it")
    if cfg.trainer.precision in ("bf16-true", "16-true"):
        found.append(
            f"trainer.precision={cfg.trainer.precision} keeps weights in half precision, which loses small steps of "
            "the optimizer; bf16-mixed keeps them in float32"
        )
    found += _scaled_rate_note(cfg)
    found += _micro_batch_note(module, cfg.data.batch_size // world)
    found += _same_views_note(cfg, module)
    tau, t = (OmegaConf.select(cfg, key) for key in ("negatives.tau_plus", "loss.temperature"))
    if tau and t and tau * math.exp(0.8 / t) > 1:  # the share of Z taken out, for positives at a cosine of 0.8
        found.append(
            f"negatives.tau_plus={tau} at loss.temperature={t} will leave no gradient from most negatives; "
            "raise the temperature (0.5 in the papers) or lower tau_plus, and watch negatives/clamped_fraction"
        )
    return found


def _scaled_rate_note(cfg: DictConfig) -> Iterator[str]:
    rule, batch = cfg.optimizer.get("scale_lr") or "off", cfg.data.batch_size
    if rule != "off":
        rate, ratio = cfg.optimizer.lr, f"{batch} / 256" if rule == "linear" else f"sqrt({batch} / 256)"
        result = scaled_rate(rate, rule, batch)
        yield f"optimizer.scale_lr={rule}: the learning rate is {rate:g} * {ratio} = {result:.4g}"


def _micro_batch_note(module: Contrastive, samples: int) -> Iterator[str]:
    """On what a rank makes of its part of the batch, so many samples."""
    if (size := module.micro_batch) is None:
        return
    count = len(micro_batches(samples, size))
    if count == 1:
        yield f"data.micro_batch={size} changes nothing: a rank's batch has {samples} samples"
        return
    learning = [m for m in (module.encoder, module.head, module.predictor) if m is not None]
    normed = any(isinstance(part, _BatchNorm) for m in learning for part in m.modules())
    statistics = "; batch norm takes its statistics of one of them at a time, not of the whole batch" if normed else ""
    yield f"data.micro_batch={size}: {samples:,} samples are encoded in {count} parts, twice a step{statistics}"


def _same_views_note(cfg: DictConfig, module: Contrastive) -> Iterator[str]:
    """On texts whose views are the text itself, and a network that treats them alike."""
    crop = OmegaConf.select(cfg, "views.crop")
    changed = any(cfg.views.get(key) for key in ("delete", "shuffle", "mask", "pair", "per_view"))
    drops = any(getattr(part, "rate", 0) or getattr(part, "p", 0)
                for part in module.modules() if "Dropout" in type(part).__name__)  # fmt: skip
    if crop in (1.0, [1.0, 1.0]) and not changed and not drops:
        yield ("all views of a text are the same, and the network has no dropout, so that positives teach nothing; "
               "views=delete makes different ones, encoder=transformer has dropout")  # fmt: skip


def length_notes(module: Contrastive, now: TrainingLength, before: TrainingLength | None = None) -> Iterator[str]:
    """On where the learning rate's schedule and annealing end, and training.

    Args:
        now: by the run's limits; where it resumes with others than it began with, the module may keep the first.
        before: how long a run that resumes was to last.
    """
    if now.seconds < math.inf:
        yield "trainer.max_time ends training by the clock, and schedule and annealing with it: another run will differ"
    if module.length is not None and module.length != now:
        yield (
            f"training was to last {module.length} when it began, and {now} now: learning rate and annealing still end "
            "with the first, so that nothing jumps; schedule.on_extend=stretch, schedule.max_epochs and anneal.epochs "
            "set another end"
        )
    elif before not in (None, now):
        own_end = isinstance(module.schedule, partial) and module.schedule.keywords.get("max_epochs") is not None
        what = "annealing is" if own_end else "learning rate and annealing are"
        yield (
            f"training was to last {before}, and {now} now: {what} stretched to the new end; schedule.on_extend=hold "
            "keeps the old one"
        )
    yield from end_notes(module, now.epochs)


def end_notes(module: Contrastive, epochs: float) -> Iterator[str]:
    """On a schedule that does not end when training does, after so many epochs."""
    options = module.schedule.keywords if isinstance(module.schedule, partial) else {}
    end, warmup = options.get("max_epochs"), options.get("warmup_epochs") or 0.0
    if warmup >= epochs:
        yield (
            f"schedule.warmup_epochs={warmup:g} takes all of training, {epochs:.3g} epochs: the learning rate only "
            "rises; type schedule.warmup_epochs=X, below that"
        )
    elif end is not None and epochs < math.inf and not math.isclose(end, epochs):
        early = "does not come down to its last value" if end > epochs else "stays at its last value from there on"
        yield f"schedule.max_epochs={end:g} and training ends at epoch {epochs:.3g}: the learning rate {early}"


def resume_notes(module: Contrastive, differences: str) -> Iterator[str]:
    """On a run that resumes in another process than it was trained in.

    Args:
        differences: in words, see resumed.py; empty where there is none.
    """
    if differences:
        yield f"resumes with other rounding, so that numbers agree nearly, not bit for bit: {differences}"
    dropout = any(isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0 for part in module.modules())
    if dropout and differences.startswith("on "):
        yield "this network has dropout, whose draws differ where the number of ranks or the device does"


def notes_on_val_labels(data: PairData, bank: int | None) -> Iterator[str]:
    """On labels with which val/knn_top1 cannot choose the best checkpoint, or cannot reach 1.

    Args:
        bank: at most so many training samples are compared with.
    """
    if data.single_class is not None:
        yield (
            f"all training samples are of one class, {data.single_class}: that is no label; val/loss chooses the best "
            "checkpoint"
        )
    if not data.labelled:
        return
    train, val = _labels(subset(data.splits.train.labelled, bank)), _labels(data.splits.val)
    new = count_new(train, val)
    if not new:
        return
    noun, lacks = data.splits.val.modality.noun, _lacks(data, bank)
    if new == len(val):
        yield (
            f"all {new:,} validation {noun} are of classes that {lacks}: kNN cannot get one right; val/loss chooses "
            "the best checkpoint"
        )
    else:
        yield (
            f"{new:,} of {len(val):,} validation {noun} are of classes that {lacks}: val/knn_top1 is at most "
            f"{1 - new / len(val):.4f}"
        )


def notes_on_test_labels(data: PairData, bank: int | None) -> Iterator[str]:
    """On test samples that no classifier can get right, and on tasks that are in no table.

    kNN and linear are fitted on training and validation samples.

    Args:
        bank: at most so many training samples are used.
    """
    test = data.splits.test
    if not data.labelled or test.labels is None or not len(test.labelled):
        return
    yield from notes_on_tasks(*map(data.columns, (data.splits.train, data.splits.val, test)))
    known = torch.cat([_labels(subset(data.splits.train.labelled, bank)), _labels(data.splits.val)])
    truth = _labels(test)
    if new := count_new(known, truth):
        noun = test.modality.noun
        yield (
            f"{new:,} of {len(truth):,} test {noun} are of classes that {_lacks(data, bank)}, and validation: kNN and "
            f"linear are at most {1 - new / len(truth):.4f}; 'evaluators=[retrieval]' needs no training {noun}"
        )


def notes_on_tasks(train: Mapping[str, Tensor], val: Mapping[str, Tensor], test: Mapping[str, Tensor]) -> Iterator[str]:
    """On tasks that cannot be measured, and so are in no table.

    Args:
        train, val, test: task -> labels (N,) of a split, -1 where unknown.
    """
    for task, labels in train.items():
        if (count := len(labels[labels >= 0].unique())) < 2:
            have = ("no label", "one label alone")[count]
            yield f"task {task}: the training samples have {have}, so that it is not measured"
        for name, part in (("validation", val), ("test", test)):
            if count > 1 and not bool((part[task] >= 0).any()):
                yield f"task {task}: no {name} sample has a label, so that it is not measured"


def _labels(samples: Samples) -> Tensor:
    """Those that are known."""
    known = samples.labelled.labels
    assert known is not None, "data.labelled says so"
    return known


def _lacks(data: PairData, bank: int | None) -> str:
    cut = bank is not None and bank < len(data.splits.train.labelled)
    return f"evaluation.bank={bank} training {data.splits.train.modality.noun} lack" if cut else "training lacks"
