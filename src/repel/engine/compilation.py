"""compile=true: torch.compile of encoder, heads and views in training."""

import logging
import warnings
from typing import Any

import torch
import torch._dynamo.config as limits
from lightning.pytorch import Callback, LightningModule, Trainer

from repel.data.datamodule import pair_data
from repel.data.pair import Pair
from repel.data.views import Compilable
from repel.engine.outcomes import one_line

__all__ = ["Compilation", "check_compiler"]

FORMS = 64  # that one function may be compiled in: sizes of views, crops and micro-batches, with and without gradient
NETWORK = ("anchors", "candidates")  # the functions of the module that run encoder, projection head, predictor, target


class Compilation(Callback):
    """Compiles what training steps run: encoder, projection head, predictor, momentum target, and the images' views.

    What is compiled are functions, not modules, whose weights keep their names: a checkpoint fits a run with or
    without. Validation runs all as it is: its batches have other sizes, each of which would be compiled, and its
    numbers are those that evaluate.py finds. In training, results agree within rounding, dropout included, which is
    drawn as it always is.

    Batches of texts differ in length. Their second one is compiled for any length, where images, whose sizes are few,
    are compiled for each of theirs, which is faster.
    """

    def __init__(self) -> None:
        self.before = limits.recompile_limit

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        limits.recompile_limit = FORMS  # beyond it torch would go on uncompiled
        warnings.filterwarnings("ignore", ".*Dynamo detected a call to a `functools.lru_cache`-wrapped function.*")
        views: Any = pair_data(trainer).views
        reason = views.compile() if isinstance(views, Compilable) else "those of whole numbers have nothing to compile"
        if trainer.is_global_zero:
            named = "encoder, heads" + (f"; views are made as always: {reason}" if reason else " and views")
            print(f"compile  the first steps compile {named}; this takes a minute or two", flush=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Pair, batch_idx: int) -> None:
        if NETWORK[0] in vars(pl_module):
            return
        view = batch.views[0]  # of the first view, or side
        for name in NETWORK:
            # the same random numbers as without, also in modules of other libraries
            compiled = torch.compile(
                getattr(pl_module, name),
                dynamic=False if view.is_floating_point() else None,
                options={"fallback_random": True},
            )
            setattr(pl_module, name, compiled)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("default")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        torch.compiler.set_stance("default")
        limits.recompile_limit = self.before
        for name in NETWORK:
            vars(pl_module).pop(name, None)

    on_exception = teardown


def check_compiler(device: torch.device) -> None:
    """Compile something small, to find out whether torch.compile works here.

    Raises:
        ValueError: it does not; one line with the reason.
    """
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # which misses CUDA where there is no GPU
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(2, device=device))
    except Exception as error:  # of any kind: compilers are missing in many ways
        reason = one_line(str(error).partition("\n")[0]) or type(error).__name__
        raise ValueError(
            f"compile=true: torch.compile finds no compiler that works here ({reason}); install g++ (and python3-dev), "
            "or type compile=false"
        ) from error
