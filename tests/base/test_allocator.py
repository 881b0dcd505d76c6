"""Freed memory stays for what is allocated next."""

import os
import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from repel.base.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [np.ones(2**21) for _ in range(4)]  # 16 MiB each, 4,096 pages
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
faults()
print(usual, faults())
"""


def page_faults(**env: str) -> list[int]:
    """Of ten rounds of four blocks of 4,096 pages, before and after."""
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env={**os.environ, **env})
    return [int(count) for count in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_blocks_are_taken_again_without_new_pages():
    usual, kept = page_faults()
    assert usual > 4096
    assert kept < 100


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_setting_of_the_environment_has_the_word():
    usual, kept = page_faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert min(usual, kept) > 4096
