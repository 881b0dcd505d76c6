"""Processes that are the ranks of a group, forked from one that has everything imported."""

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch


def run_ranks(rank_main: Callable[..., None], world: int, *args: Any) -> None:
    """rank_main(rank, world, *args) in a process for each rank; then this process ends, with the worst exit status."""
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=rank_main, args=(rank, world, *args)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    os._exit(max(abs(process.exitcode) for process in processes))
