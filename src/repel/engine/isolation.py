"""A job of a sweep leaves its process as it found it, so that the next one runs as it would alone."""

import gc
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["isolated_job"]


@contextmanager
def isolated_job() -> Iterator[None]:
    """What a job changed for all of its process is put back, however it ends: environment, working directory, sys.path,
    filters of warnings, root logger, global random states, matplotlib's settings and figures, torch's settings.
    """
    import matplotlib

    environment, folder, path = dict(os.environ), Path.cwd(), list(sys.path)
    level, handlers = logging.root.level, list(logging.root.handlers)
    with warnings.catch_warnings(), matplotlib.rc_context(), _same_random_states(), _same_torch():
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.path[:] = path
            logging.root.setLevel(level)
            logging.root.handlers[:] = handlers
            if "matplotlib.pyplot" in sys.modules:
                sys.modules["matplotlib.pyplot"].close("all")


@contextmanager
def _same_random_states() -> Iterator[None]:
    import numpy as np
    import torch

    ours, numpys, torchs = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)


@contextmanager
def _same_torch() -> Iterator[None]:
    """Threads, precision, determinism, gradients, process group; and the memory of a GPU is free for the next job."""
    import torch
    import torch.distributed as dist

    cudnn = torch.backends.cudnn
    threads, dtype, precision = torch.get_num_threads(), torch.get_default_dtype(), torch.get_float32_matmul_precision()
    flags = cudnn.benchmark, cudnn.deterministic, torch.is_grad_enabled(), torch.is_anomaly_enabled()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        cudnn.benchmark, cudnn.deterministic, gradients, anomaly = flags
        torch.set_grad_enabled(gradients)
        torch.autograd.set_detect_anomaly(anomaly)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        if dist.is_available() and dist.is_initialized():  # of trainer.strategy=ddp on one device
            dist.destroy_process_group()
        if torch.cuda.is_initialized():
            gc.collect()
            torch.cuda.empty_cache()
