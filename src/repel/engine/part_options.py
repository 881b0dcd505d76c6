"""Options of parts that a part does not take: an experiment sets them, and then another choice was typed."""

import inspect
from collections.abc import Mapping
from typing import Any

import hydra.utils

from repel.engine.targets import check_objects

__all__ = ["PARTS", "check_part_options", "takes"]

PARTS = ("views", "encoder", "head", "predictor", "loss", "negatives", "target")


def takes(target: str, argument: str) -> bool:
    """Whether what a _target_ names has an argument; true of what is not found, of which instantiating it says more.

    >>> takes("repel.losses.ratio.NTXent", "temperature"), takes("repel.losses.ratio.NTXent", "members")
    (True, False)
    """
    check_objects({"_target_": target})
    try:
        parameters = inspect.signature(hydra.utils.get_object(target)).parameters
    except (AttributeError, ImportError, ValueError):
        return True
    return argument in parameters or any(one.kind == one.VAR_KEYWORD for one in parameters.values())


def check_part_options(cfg: Mapping[str, Any]) -> None:
    """Raises ValueError where a part has options that it does not take."""
    for key in PARTS:
        node = cfg.get(key) or {}
        if target := str(node.get("_target_") or ""):
            unknown = [f"{key}.{name}" for name in node if name[0] != "_" and not takes(target, str(name))]
            if unknown:
                raise ValueError(
                    f"{target.rpartition('.')[2]} has no {' and no '.join(unknown)}, which an experiment or the "
                    f"command line sets: type {' '.join(f'~{name}' for name in unknown)} to leave it out"
                )
