"""Memory of tensors on a CPU: what one step frees, the next one takes."""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BLOCK, KEPT = 2**25, 2**29  # bytes; larger blocks, and more than that, go back to the system; 2**25 is glibc's maximum


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for what is allocated next, where that is glibc (Linux).

    By itself it gives the tensors of a step back to the system, which hands them out anew in the next step, page by
    page and filled with zeros: a tenth of the time of a small network. Whoever sets this by an environment variable
    of glibc, such as MALLOC_TRIM_THRESHOLD_, has the word.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_")) for name in os.environ):
        return
    if "CS_GNU_LIBC_VERSION" in os.confstr_names:
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, BLOCK)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
