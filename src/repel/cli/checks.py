"""What a user can get wrong in a config, answered in one line each, before torch or lightning is imported."""

import difflib
import functools
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from repel.base.installation import install_extra
from repel.engine.configs import CONF
from repel.engine.redact import check_secrets, without_secrets

TARGETS = (  # what a config may call besides
    r"torch\.(optim|nn)\.\w+|lightning\.pytorch\.(callbacks|loggers)\.\w+|optuna\.pruners\.\w+"
)

POSITIVE = (lambda v: is_number(v) and v > 0, "a number > 0")
NOT_NEGATIVE = (lambda v: is_number(v) and v >= 0, "a number >= 0")
AT_LEAST_1 = (lambda v: is_number(v, int) and v >= 1, "a whole number, at least 1")
AT_LEAST_2 = (lambda v: is_number(v, int) and v >= 2, "a whole number, at least 2")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
RANGES = {  # of the keys that every run has; each part checks the rest of its own when it is built
    "seed": NOT_NEGATIVE,
    "data.batch_size": AT_LEAST_2,
    "trainer.devices": AT_LEAST_1,
    "trainer.num_nodes": AT_LEAST_1,
    "devices": AT_LEAST_1,
    "evaluation.map": (lambda v: v in ("pca", "tsne"), "null, pca or tsne"),
    "trainer.max_epochs": AT_LEAST_1,
    "trainer.max_steps": (lambda v: v == -1 or AT_LEAST_1[0](v), "-1, or a whole number, at least 1"),
    "trainer.accumulate_grad_batches": AT_LEAST_1,
    "trainer.precision": (lambda v: str(v) in PRECISIONS, "one of " + ", ".join(PRECISIONS)),
    "trainer.accelerator": (lambda v: v in ("auto", "cpu", "gpu"), "auto, cpu or gpu"),
    "accelerator": (lambda v: v in ("auto", "cpu", "gpu"), "auto, cpu or gpu"),
    "optimizer.lr": POSITIVE,
    "optimizer.weight_decay": NOT_NEGATIVE,
    "schedule.warmup_epochs": NOT_NEGATIVE,
    "loss.temperature": POSITIVE,
    "queue.size": NOT_NEGATIVE,
    "anneal.epochs": POSITIVE,
    "evaluation.k": AT_LEAST_1,
    "evaluation.temperature": POSITIVE,
    "evaluation.bank": AT_LEAST_1,
    "images": AT_LEAST_1,
}


def one_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda v: v in choices), " or ".join(choices)


def some_of(*choices: str) -> tuple[Callable[[Any], bool], str]:
    holds = lambda v: isinstance(v, ListConfig) and len(v) > 0 and all(item in choices for item in v)  # noqa: E731
    return holds, f"a list of one or more of {', '.join(choices)}, such as [{choices[0]}]"


OF_COMMAND = {  # the choices that are a command's own
    "embed": {
        "checkpoint": one_of("best", "last"),
        "layer": one_of("h", "z", "both"),
        "format": one_of("npy", "parquet"),
    },
    "export": {
        "checkpoint": one_of("best", "last"),
        "format": some_of("safetensors", "onnx"),
        "compare_on": one_of("random", "data"),
    },
}


def is_number(value: Any, kind: type = float) -> bool:
    """Whether value is an int, or for kind=float any real number; a bool is none."""
    return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)


def check_names(name: str, arguments: list[str]) -> None:
    """Keys and choices that do not exist, answered before Hydra composes the config, which it does twice.

    What this cannot judge, as choices in other folders or a sweep over choices with keys of their own, Hydra will.

    Raises:
        ValueError: one line that names the key or the choice, and the nearest valid one.
    """
    if any(argument.startswith(("-", "hydra")) for argument in arguments):
        return
    try:
        overrides = OverridesParser.create().parse_overrides(arguments)
    except HydraException:
        return
    for override in overrides:
        group, choice = override.key_or_group, override.value()
        if (CONF / group).is_dir() and isinstance(choice, str) and choice not in group_options(group):
            raise ValueError(no_such_choice(group, choice))
    if any(override.is_sweep_override() for override in overrides):
        return
    known = OmegaConf.to_container(baseline(name, arguments), resolve=False)
    for override in overrides:
        key = override.key_or_group
        if not (override.is_add() or (CONF / key).is_dir()):
            node = known
            for part in key.split("."):
                if isinstance(node, dict) and part not in node:
                    raise ValueError(unknown(key, name))
                node = node[part] if isinstance(node, dict) else None


def check(cfg: DictConfig, name: str) -> None:
    """Types, ranges and missing values, before anything is built.

    Raises:
        ValueError: one line that names the key.
    """
    overrides = as_typed()
    check_secrets(overrides)
    for key, value in flatten(cfg).items():
        if value == "???":
            raise ValueError(f"{key} is not set; add {key}=...")
    check_ranges(cfg, OF_COMMAND.get(name, {}))
    typed = [overrides, [o for o in overrides if not o.startswith("experiment=")]]
    defaults = [baseline(name, o) for o in typed]
    check_types(cfg, defaults, overrides)
    check_ranges(cfg, RANGES)
    if OmegaConf.select(cfg, "evaluation.map") == "tsne" and importlib.util.find_spec("sklearn") is None:
        raise ValueError(f"evaluation.map=tsne needs scikit-learn: {install_extra('map')}; or use evaluation.map=pca")
    if name in ("train", "show_views"):
        check_train(cfg)
    if name == "export" and cfg.normalize and "onnx" not in cfg.format:
        raise ValueError("normalize=true is for onnx: add format=[onnx], or leave it out")
    check_targets(plain(cfg))


def check_ranges(cfg: DictConfig, ranges: dict[str, tuple[Callable[[Any], bool], str]]) -> None:
    for key, (holds, words) in ranges.items():
        value = OmegaConf.select(cfg, key)
        if value is not None and not holds(value):
            raise ValueError(f"{key} must be {words}, got {value!r}")


def check_train(cfg: DictConfig) -> None:
    """What options of a training run have to do with one another."""
    world, batch, channels = cfg.trainer.devices * cfg.trainer.num_nodes, cfg.data.batch_size, cfg.data.channels
    if batch % world:
        raise ValueError(f"data.batch_size={batch} cannot be divided over {world} ranks; use a multiple of {world}")
    for key in ("mean", "std"):
        if len(cfg.data[key]) != channels:
            raise ValueError(f"data.{key} needs a value per channel, data.channels={channels}, got {cfg.data[key]}")
    check_loss(cfg)
    if cfg.sweep.resume is not None and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise ValueError("sweep.resume= takes up a sweep: add -m; resume= goes on with one run")
    if cfg.callbacks.get("pruning") and chosen_sweeper() != "optuna":
        raise ValueError("callbacks.pruning compares the trials of a study: it needs sweep=optuna")
    if cfg.callbacks.last is None:
        raise ValueError("callbacks.last=null would leave a run without a checkpoint; keep it")


def as_typed(overrides: ListConfig | None = None) -> list[str]:
    """Overrides, by default the job's, as they were typed: read one by one, interpolations would be resolved."""
    return OmegaConf.to_container(HydraConfig.get().overrides.task if overrides is None else overrides, resolve=False)


def chosen_sweeper() -> str:
    return HydraConfig.get().runtime.choices["hydra/sweeper"]


def check_loss(cfg: DictConfig) -> None:
    """What the loss has to do with its negatives, the queue and what changes during training."""
    chosen = HydraConfig.get().runtime.choices
    if "negatives" not in cfg.loss and chosen["negatives"] != "uniform":
        raise ValueError(f"loss={chosen['loss']} has no negatives to weigh; leave out negatives={chosen['negatives']}")
    if "queue" not in cfg.loss and cfg.queue.size:
        raise ValueError(f"loss={chosen['loss']} uses no queue; leave out queue.size={cfg.queue.size}")
    annealed = cfg.anneal["values"]
    if not isinstance(annealed, DictConfig | None):
        raise ValueError(
            f"anneal.values must be keys with two values, such as {{negatives.beta:[0.0,2.0]}}, got {annealed}"
        )
    for key, ends in (annealed or {}).items():
        if key.split(".")[0] not in ("loss", "negatives", "target") or not is_number(OmegaConf.select(cfg, key)):
            numbers = [k for k, v in flatten(cfg).items() if k.split(".")[0] in ("loss", "negatives") and is_number(v)]
            raise ValueError(f"anneal.values: {key} is no number of the loss or negatives{nearest(key, numbers)}")
        if not isinstance(ends, ListConfig) or len(ends) != 2 or not all(is_number(end) for end in ends):
            raise ValueError(f"anneal.values: {key} needs its first and last value, such as {key}:[0.5,1.0]")
        if key == "loss.temperature" and cfg.loss.learn_temperature:
            raise ValueError("anneal.values: loss.temperature is learned; set loss.learn_temperature=false")


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain containers, but for what secrets of the environment are in it."""
    return without_secrets(OmegaConf.to_container(cfg, resolve=True))


def check_types(cfg: DictConfig, defaults: list[DictConfig], overrides: list[str]) -> None:
    """What the user typed must be of the kind of what it replaces, without the experiment's changes or with them.

    A default of null, ??? or auto takes anything.
    """
    for override in OverridesParser.create().parse_overrides(overrides):
        key = override.key_or_group
        if override.is_delete() or (CONF / key).is_dir():
            continue
        if override.is_add() and not reaches_a_part(cfg, key):
            raise ValueError(f"+{key}: nothing would read it{nearest(key, list(flatten(defaults[0])))}")
        expected, got = [OmegaConf.select(default, key) for default in defaults], OmegaConf.select(cfg, key)
        if got is None and key in RANGES and "null" in RANGES[key][1]:
            continue
        if all(words := [mismatch(e, got) for e in expected]):
            raise ValueError(f"{key} must be {words[0]}, got {got!r}")


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


def check_targets(config: Any) -> None:
    """A config, also one inside a checkpoint, is no program: it calls what conf/ names, or a class of torch's own.

    Raises:
        ValueError: names the _target_.
    """
    known = {name for path in CONF.rglob("*.yaml") for name in re.findall(r"_target_: *([\w.]+)", path.read_text())}
    for target in targets(config):
        if target not in known and not re.fullmatch(TARGETS, str(target)):
            raise ValueError(f"_target_={target}: a config may call what some file in conf/ names, or torch.optim.*")


def targets(config: Any) -> Iterator[str]:
    """Every _target_ at any depth, in lists too."""
    if isinstance(config, dict):
        yield from [config["_target_"]] if "_target_" in config else []
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from targets(item)


def one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split())


def config_mistake(error: Exception, name: str) -> str:
    """One line for an error of Hydra or OmegaConf: which key, and the nearest valid one."""
    text = str(error)
    if found := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        group, choice = found.groups()
        if (group, choice) == ("hydra/sweeper", "optuna"):
            return f"sweep=optuna needs Optuna's plugin for Hydra: {install_extra('optuna')}"
        return no_such_choice(group, choice)
    if found := re.search(r"Could not override '([^']+)'", text):
        return unknown(found[1], name)
    if found := re.search(r"^\w+ raised while resolving interpolation: (.*)", text):
        return found[1]  # raised by a resolver of ours
    if isinstance(error, MissingConfigException):
        return one_line(error)
    return one_line(text.splitlines()[0]) if text else type(error).__name__


def no_such_choice(group: str, choice: str) -> str:
    options = group_options(group)
    return f"{group}={choice}: there is no such choice{nearest(choice, options)} (there are: {', '.join(options)})"


def unknown(key: str, name: str) -> str:
    return f"unknown option {key}{nearest(key, known_keys(name))}"


def nearest(word: str, known: list[str]) -> str:
    """'; did you mean ...?', or nothing when nothing is close. A key is also compared by its last part."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if not close:
        tails = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
        close = [tails[t] for t in difflib.get_close_matches(word.rsplit(".", 1)[-1], list(tails), n=1, cutoff=0.75)]
    return f"; did you mean {close[0]}?" if close else ""


def group_options(group: str) -> list[str]:
    """What can be chosen for a config group; files that begin with an underscore are shared parts, no choices."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if not p.stem.startswith("_"))


def known_keys(name: str) -> list[str]:
    """All groups and all dotted keys of a config as composed with this command's choices of groups."""
    groups = [p.name for p in CONF.iterdir() if p.is_dir()]
    return groups + list(flatten(baseline(name, sys.argv[1:])))


def baseline(name: str, overrides: list[str]) -> DictConfig:
    """The config before any value was changed: groups chosen, those that do not exist left at their default."""
    return composed(name, tuple(o for o in overrides if is_choice(o)))


@functools.cache  # composing takes a third of a second
def composed(name: str, choices: tuple[str, ...]) -> DictConfig:
    with hydra_compose() as compose:
        try:
            return compose(name, overrides=list(choices))
        except HydraException:
            return compose(name)


def is_choice(override: str) -> bool:
    """Whether an override picks one option of a group, as in loss=ntxent."""
    group, _, choice = override.partition("=")
    return bool(choice) and (CONF / group).is_dir() and choice in group_options(group)


class hydra_compose:
    """A context with compose(), inside a running job (which has Hydra initialised) or outside."""

    def __enter__(self) -> Callable:
        from hydra.core.global_hydra import GlobalHydra

        self.own = None
        if not GlobalHydra.instance().is_initialized():
            self.own = hydra.initialize_config_dir(str(CONF), version_base="1.3")
            self.own.__enter__()
        return hydra.compose

    def __exit__(self, *exception: object) -> None:
        if self.own:
            self.own.__exit__(*exception)


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys -> leaves, unresolved; lists are leaves."""
    if not isinstance(cfg, DictConfig | dict):
        return {prefix: cfg}
    if isinstance(cfg, DictConfig):
        cfg = OmegaConf.to_container(cfg, resolve=False) or {}
    leaves: dict[str, Any] = {}
    for key, value in cfg.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        leaves |= flatten(value, dotted) if isinstance(value, dict) and value else {dotted: value}
    return leaves
