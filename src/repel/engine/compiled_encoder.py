"""compile=true: torch.compile of the encoder in training."""

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from repel.engine.outcomes import one_line
from repel.module import Contrastive

__all__ = ["CompiledEncoder", "check_compiler"]


class CompiledEncoder(Callback):
    """Compiles the encoder, and that of the momentum target, for training steps.

    The modules stay what they are, with the same names of weights: a checkpoint fits a run with or without. Validation
    runs them as they are: its batches have other sizes, each of which would be compiled, and its numbers are those that
    evaluate.py finds. In training, results agree within rounding.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Contrastive)
        target = [] if pl_module.target is None else [pl_module.target.encoder]
        for encoder in (pl_module.encoder, *target):
            encoder.compile(dynamic=False)  # all training batches have one size

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            print("compile  the first step compiles the encoder, which takes a while", flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("default")

    def teardown(self, *_: Any, **__: Any) -> None:
        torch.compiler.set_stance("default")

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
