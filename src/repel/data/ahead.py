"""The next batch is made while the network trains on this one."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import Dataset

from repel.data.sampler import BatchIndices

__all__ = ["Awaited", "MadeAhead"]

AHEAD = 2  # batches: where making one takes longer than a step, two cores make them


class MadeAhead:
    """A sampler of batches that threads make while those before them are used; Awaited gets them out.

    On a CPU a step has parts that keep one core busy: Python, short operations, the optimizer. A thread has another
    core meanwhile. Each batch has a thread of its own, which ends when it is made: nothing is left to close, wherever
    training stops. Its operations use one core each, with the results that they have on several.

    Args:
        indices: the sampler.
        prepare: indices -> what a thread is to call; called itself by the thread that asks for batches.
    """

    def __init__(self, indices: Iterable[BatchIndices], prepare: Callable[[BatchIndices], Callable[[], Any]]):
        self.indices, self.prepare = indices, prepare

    def __len__(self) -> int:
        return len(self.indices)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Future]:
        return self._made(iter(self.indices))  # the sampler looks up now where it begins

    def _made(self, indices: Iterator[BatchIndices]) -> Iterator[Future]:
        waiting: deque[Future] = deque()
        try:
            for index in indices:
                waiting.append(_in_thread(self.prepare(index)))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
            yield from waiting
        finally:
            torch.set_num_threads(torch.get_num_threads())  # later threads begin with what was last set in any


class Awaited(Dataset):
    """What a thread has made, or the exception that it raised."""

    def __getitem__(self, made: Future) -> Any:
        return made.result()


def _in_thread(work: Callable[[], Any]) -> Future:
    pool = ThreadPoolExecutor(1, "repel-batch", torch.set_num_threads, (1,))
    made = pool.submit(work)
    pool.shutdown(wait=False)  # the thread ends when this is done
    return made
