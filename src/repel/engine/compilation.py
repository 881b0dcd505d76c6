"""compile=true: torch.compile of encoder, heads and views in training."""

import logging
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from repel.data.datamodule import pair_data
from repel.data.pair import ViewBatch
from repel.data.views import Compilable
from repel.engine.outcomes import one_line
from repel.model.micro_batch import Network

__all__ = ["Compilation", "check_compiler"]

FORMS = 64  # that one function may be compiled in: sizes of views, crops and micro-batches, with and without gradient
NETWORK = ("anchors", "candidates")  # the functions of the module that run encoder, projection head, predictor, target


class Compilation(Callback):
    """Compiles what training steps run: encoder, projection head, predictor, momentum target, and the images' views.

    What is compiled are functions, not modules, whose weights keep their names: a checkpoint fits a run with or
    without. Validation runs all as it is: its batches have other sizes, each of which would be compiled, and its
    numbers are those that evaluate.py finds. In training, results agree within rounding, dropout included, which is
    drawn as it always is.

    Batches of texts differ in length: they are compiled once, for any length, so that results do not depend on which
    came first. Images are compiled for each of their few sizes, which is faster.
    """

    def __init__(self) -> None:
        self.limit: int | None = None  # as it was; torch._dynamo is imported where it is used, as that takes seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        config: Any = torch._dynamo.config
        self.limit, config.recompile_limit = config.recompile_limit, FORMS  # beyond it torch would go on uncompiled
        warnings.filterwarnings("ignore", ".*Dynamo detected a call to a `functools.lru_cache`-wrapped function.*")
        views: Any = pair_data(trainer).views
        reason = views.compile_views() if isinstance(views, Compilable) else "only those of images have a compiled form"
        if trainer.is_global_zero:
            named = "encoder, heads" + (f"; views are made as always: {reason}" if reason else " and views")
            print(f"compile  the first steps compile {named}; this takes a minute or two", flush=True)
            if getattr(pl_module.encoder, "packs", False) and pl_module.device.type == "cpu":
                print("compile  on a CPU this encoder skips padding, but not compiled: compile=false may be faster")
        for name in NETWORK:
            setattr(pl_module, name, _compiled(getattr(pl_module, name)))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("default")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        torch.compiler.set_stance("default")
        if self.limit is not None:
            config: Any = torch._dynamo.config
            config.recompile_limit, self.limit = self.limit, None
        for name in NETWORK:
            vars(pl_module).pop(name, None)

    on_exception = teardown


def _compiled(network: Network) -> Network:
    # the random numbers of modules of other libraries stay torch's
    function = torch.compile(network, dynamic=False, options={"fallback_random": True})

    def run(x: ViewBatch) -> tuple[Tensor, ...]:
        for side in x if isinstance(x, tuple) else (x,):
            if side.ndim == 2 and not side.is_floating_point():  # tokens (n, L)
                torch._dynamo.maybe_mark_dynamic(side, 1)
        return function(x)

    return run


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
