"""The next batch is made while the network trains on this one."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import Dataset

from repel.base.cores import one_thread
from repel.data.sampler import BatchIndices

__all__ = ["Awaited", "MadeAhead"]


class MadeAhead:
    """A sampler of batches that threads make, each while the one before it is used; Awaited gets them out.

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
        made: Future | None = None
        for index in indices:
            following = _in_thread(self.prepare(index))
            if made is not None:
                yield made
            made = following
        if made is not None:
            yield made


class Awaited(Dataset):
    """What a thread has made, or the exception that it raised."""

    def __getitem__(self, made: Future) -> Any:
        return made.result()


def _in_thread(work: Callable[[], Any]) -> Future:
    pool = ThreadPoolExecutor(1, "repel-batch")
    made = pool.submit(one_thread()(work))
    pool.shutdown(wait=False)  # the thread ends when this is done
    return made
