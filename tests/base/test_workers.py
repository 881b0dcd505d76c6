"""A data worker and the run that it reads for."""

import multiprocessing
import os
import select
import signal

import pytest

from repel.base.signals import follow_parent

fork = multiprocessing.get_context("fork")


def work(ready: int) -> None:
    signal.alarm(60)  # where it does not end with its run
    follow_parent(0)
    os.write(ready, b"x")
    signal.pause()


def run(ready: int) -> None:
    fork.Process(target=work, args=(ready,)).start()
    signal.pause()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_worker_ends_with_its_run():
    """Whatever ends it: kill -9 leaves nobody who could tell the workers."""
    seen, ready = os.pipe()
    process = fork.Process(target=run, args=(ready,))
    process.start()
    os.close(ready)
    assert os.read(seen, 1) == b"x"
    process.kill()
    process.join()
    ended, _, _ = select.select([seen], [], [], 30)
    assert ended  # nobody is left who could write
    assert os.read(seen, 1) == b""
    os.close(seen)
