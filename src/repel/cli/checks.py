"""Validate a composed config before torch is imported. Every error is one line that names the key."""

from collections.abc import Callable
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, InterpolationToMissingValueError

from repel.cli import trainer_options
from repel.cli.baseline import baseline, is_group, task_overrides
from repel.cli.deletions import check_deletions
from repel.cli.habits import instead_of_value
from repel.cli.resolvers import losses_in
from repel.cli.suggestions import nearest
from repel.cli.trainer_options import AT_LEAST_1, check_trainer
from repel.engine.configs import check_targets, flatten, to_container
from repel.engine.modalities import check_modality
from repel.engine.redact import check_secrets

__all__ = ["check", "mismatch"]

POSITIVE = (lambda v: is_number(v) and v > 0, "a number > 0")
NOT_NEGATIVE = (lambda v: is_number(v) and v >= 0, "a number >= 0")
AT_LEAST_2 = (lambda v: is_number(v, int) and v >= 2, "a whole number, at least 2")
RANGES = {  # of keys that code which is not ours reads, or that are read only after training; parts check their own
    **trainer_options.RANGES,
    "seed": NOT_NEGATIVE,
    **dict.fromkeys(("data.batch_size", "data.micro_batch"), AT_LEAST_2),
    "data.image_size": (
        lambda v: all(map(AT_LEAST_1[0], v)) and len(v) == 2 if isinstance(v, ListConfig) else AT_LEAST_1[0](v),
        "a side in pixels, or [HEIGHT,WIDTH]",
    ),
    "devices": AT_LEAST_1,
    "evaluation.checkpoint": (lambda v: v in ("last", "best"), "last or best"),
    "evaluation.map": (lambda v: v in ("pca", "tsne"), "null, pca or tsne"),
    "accelerator": (lambda v: v in ("auto", "cpu", "gpu"), "auto, cpu or gpu"),
    "optimizer.lr": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "optimizer.scale_lr": (lambda v: v in (False, "off", "linear", "sqrt"), "off, linear or sqrt"),
    "schedule.warmup_epochs": NOT_NEGATIVE,
    "schedule.max_epochs": POSITIVE,
    "schedule.on_extend": (lambda v: v in ("stretch", "hold"), "stretch or hold"),
    **dict.fromkeys(("evaluation.k", "evaluation.bank", "evaluation.projector"), AT_LEAST_1),
    "evaluation.temperature": POSITIVE,
    "evaluation.memory": NOT_NEGATIVE,
    "evaluation.file_dtype": (lambda v: v in ("float32", "float16"), "float32 or float16"),
    "images": AT_LEAST_1,
    **dict.fromkeys(("init", "ckpt", "resume", "data_root"), (lambda v: isinstance(v, str), "a path")),
}
OF_SEVERAL_KINDS = ("data.image_size",)  # whose range says all


def one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda v: v in choices), " or ".join(choices)


def some_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    holds = lambda v: isinstance(v, ListConfig) and len(v) > 0 and all(item in choices for item in v)  # noqa: E731
    return holds, f"a list of one or more of {', '.join(choices)}, such as [{choices[0]}]"


OF_COMMAND = {  # the choices that are a command's own
    "train": {"init_parts": some_of("encoder", "head", "predictor"), "gather": one_of("all", "ring")},
    "embed": {
        "checkpoint": one_of("best", "last"),
        "layer": one_of("h", "z", "both"),
        "format": one_of("npy", "parquet"),
    },
    "mine_negatives": {
        "checkpoint": one_of("best", "last"),
        "layer": one_of("h", "z"),
        "choose": one_of("top", "random"),
        "k": AT_LEAST_1,
        "margin": NOT_NEGATIVE,
        "relative_margin": NOT_NEGATIVE,
    },
    "export": {
        "checkpoint": one_of("best", "last"),
        "format": some_of("safetensors", "onnx", "sentence_transformers"),
        "compare_on": one_of("random", "data"),
    },
}


def is_number(value: Any, kind: type = float) -> bool:
    """Whether value is an int, or for kind=float any real number; a bool is none."""
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)


def check(cfg: DictConfig, name: str) -> None:
    """Types, ranges and missing values, before anything is built.

    Raises:
        ValueError: one line that names the key.
    """
    overrides = task_overrides()
    check_secrets(overrides)
    if name in ("train", "show_views"):  # first: an option that other data has would be missed
        composed: Any = OmegaConf.to_container(cfg)
        check_modality(composed, HydraConfig.get().runtime.choices)
    for key, value in flatten(cfg).items():
        if value == "???":
            raise ValueError(f"{key} is not set; add {key}=...")
    typed = [overrides, [o for o in overrides if not o.startswith("experiment=")]]
    defaults = [baseline(name, o) for o in typed]
    for note in check_deletions(cfg, defaults[0], overrides):
        print(f"note     {note}", flush=True)
    check_ranges(cfg, OF_COMMAND.get(name, {}))
    check_types(cfg, defaults, overrides)
    check_ranges(cfg, RANGES)
    if cfg.get("out") is not None and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError("out= names one folder, and a sweep writes several; hydra.sweep.dir=DIR names their place")
    if name in ("train", "show_views"):
        check_train(cfg)
    if name == "export" and cfg.normalize and "onnx" not in cfg.format:
        raise ValueError("normalize=true is for onnx: add 'format=[onnx]', or leave it out")
    check_targets(to_container(cfg))


def check_ranges(cfg: DictConfig, ranges: dict[str, tuple[Callable[[Any], bool], str]]) -> None:
    for key, (holds, words) in ranges.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not holds(value):
            raise ValueError(f"{key} must be {words}, got {value!r}{instead_of_value(key, value)}")


def check_train(cfg: DictConfig) -> None:
    """What options of a training run have to do with one another."""
    world, batch, channels = cfg.trainer.devices * cfg.trainer.num_nodes, cfg.data.batch_size, cfg.data.get("channels")
    if batch % world:
        raise ValueError(f"data.batch_size={batch} cannot be divided over {world} ranks; use a multiple of {world}")
    for key in ("mean", "std") if channels is not None else ():
        if len(cfg.data[key]) != channels:
            raise ValueError(f"data.{key} needs a value per channel, data.channels={channels}, got {cfg.data[key]}")
    check_loss(cfg)
    if cfg.init is None and list(cfg.init_parts) != ["encoder"]:
        raise ValueError("init_parts= chooses what takes the weights of init=; add init=RUN_OR_FILE")
    check_trainer(cfg.trainer)
    known = [*trainer_options.RANGES, "trainer._target_"]
    for key in (f"trainer.{key}" for key in cfg.trainer):
        if key not in known and cfg.trainer["_target_"] == "lightning.pytorch.Trainer":
            raise ValueError(f"unknown option {key}{nearest(key, known)}")
    if cfg.sweep.resume is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise ValueError("sweep.resume= resumes a sweep: add -m; resume= resumes one run")
    check_sweeper(cfg)
    if cfg.callbacks.get("pruning") and HydraConfig.get().runtime.choices["hydra/sweeper"] != "optuna":
        raise ValueError("callbacks.pruning compares the trials of a study: it needs sweep=optuna")
    if cfg.callbacks.get("last") is None:
        raise ValueError("without callbacks.last a run has no checkpoint; keep it")


def check_sweeper(cfg: DictConfig) -> None:
    """Raises ValueError where a study would have nothing to compare its trials by."""
    if HydraConfig.get().runtime.choices["hydra/sweeper"] != "optuna":
        return
    for key in ("fast_dev_run", "overfit_batches"):
        if cfg.trainer.get(key):
            raise ValueError(f"sweep=optuna compares trials by validation, and trainer.{key} leaves none; leave it out")
    if cfg.trainer.get("limit_val_batches") == 0:
        raise ValueError("sweep=optuna compares trials by validation, and trainer.limit_val_batches=0 leaves none")
    if cfg.callbacks.get("pruning") and cfg.trainer.get("val_check_interval", 1.0) != 1.0:
        raise ValueError("callbacks.pruning asks after every epoch: leave out trainer.val_check_interval")


def check_loss(cfg: DictConfig) -> None:
    """What the loss has to do with its negatives, the queue and what changes during training."""
    chosen = HydraConfig.get().runtime.choices
    options = {key for part in losses_in(cfg.loss) for key in part}
    if "negatives" not in options and chosen["negatives"] != "uniform":
        raise ValueError(f"loss={chosen['loss']} has no negatives to weigh; leave out negatives={chosen['negatives']}")
    if "queue" not in options and cfg.queue.size:
        raise ValueError(f"loss={chosen['loss']} uses no queue; leave out queue.size={cfg.queue.size}")
    annealed = cfg.anneal["values"]
    if not isinstance(annealed, DictConfig | None):
        raise ValueError(f"anneal.values must be keys with two values, as {{negatives.beta:[0.0,2.0]}}, got {annealed}")
    roots = ["loss"] if "members" in cfg.loss else ["loss", "negatives"]  # members have strategies of their own
    for key, ends in ((str(key), ends) for key, ends in (annealed or {}).items()):
        if key.startswith("target.") and not cfg.target:
            raise ValueError(f"anneal.values: there is no {key} without target=ema; add anneal.values=null")
        if key.split(".")[0] not in (*roots, "target") or not is_number(OmegaConf.select(cfg, key)):
            numbers = [k for k, v in flatten(to_container(cfg)).items() if k.split(".")[0] in roots and is_number(v)]
            raise ValueError(f"anneal.values: {key} is no number of the loss or negatives{nearest(key, numbers)}")
        if not isinstance(ends, ListConfig) or len(ends) != 2 or not all(is_number(end) for end in ends):
            raise ValueError(f"anneal.values: {key} needs its first and last value, such as {key}:[0.5,1.0]")
        if key.endswith(".temperature") and OmegaConf.select(cfg, learns := key[:-11] + "learn_temperature"):
            raise ValueError(f"anneal.values: {key} is learned; set {learns}=false")


def check_types(cfg: DictConfig, defaults: list[DictConfig], overrides: list[str]) -> None:
    """What the user typed must be of the kind of what it replaces, without the experiment's changes or with them.

    A default of null, ??? or auto takes anything.
    """
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if override.is_delete() or is_group(key):
            continue
        if override.is_add() and not reaches_a_part(cfg, key):
            raise ValueError(f"+{key}: nothing would read it{nearest(key, list(flatten(defaults[0])))}")
        found, got = [_default_of(default, key) for default in defaults], OmegaConf.select(cfg, key)
        expected = [value for value in found if value is not ...] or [None]
        if key in OF_SEVERAL_KINDS or (got is None and key in RANGES and "null" in RANGES[key][1]):
            continue
        if got is not None and key in trainer_options.RANGES and trainer_options.RANGES[key][0](got):
            continue  # such as true or 3 for trainer.fast_dev_run
        if all(words := [mismatch(e, got) for e in expected]):
            kind = trainer_options.RANGES.get(key, (None, words[0]))[1]
            raise ValueError(f"{key} must be {kind}, got {got!r}{instead_of_value(key, got)}")


def _default_of(cfg: DictConfig, key: str) -> Any:
    """A default; None, which takes anything, for one that is read of a file that another option names; ... for one that
    is another option's value, which the experiment brings.
    """
    try:
        return OmegaConf.select(cfg, key)
    except InterpolationKeyError:
        return ...
    except InterpolationToMissingValueError:
        return None


def reaches_a_part(cfg: DictConfig, key: str) -> bool:
    """Whether a dotted key lies in something that is built, which would complain of an option it does not know."""
    parents = key.split(".")[:-1]
    nodes = (OmegaConf.select(cfg, ".".join(parents[: i + 1])) for i in range(len(parents)))
    return any("_target_" in node for node in nodes if isinstance(node, DictConfig)) or parents in (
        ["callbacks"],
        ["logger"],
    )


def mismatch(expected: Any, got: Any) -> str | None:
    """What was expected, in words, or None where got is of that kind."""
    if expected is None or expected == "auto":  # what else it may be, its part knows
        return None
    if isinstance(expected, bool):
        return None if isinstance(got, bool) else "true or false"
    if isinstance(expected, int):
        return None if is_number(got, int) else "a whole number"
    if isinstance(expected, float):
        return None if is_number(got) else "a number"
    if isinstance(expected, str):
        return None if isinstance(got, str | int | float) and not isinstance(got, bool) else "text"
    if isinstance(expected, ListConfig):
        return None if isinstance(got, ListConfig) else "a list, such as [0.5, 1]"
    return None if isinstance(got, DictConfig | None) else "a group of options, or null"
