"""The C allocator's treatment of large arrays while planes are imaged.

glibc returns large freed blocks to the kernel, and every new array then costs a page fault for each 4 KiB. A plane frees
and allocates the same arrays many times: measured on a 1024 x 1024 PSF, the faults take half of the time of gridding.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gpucube.heap import MAPPED

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
"""Numbers of the parameters in glibc's malloc.h."""

_WORKING = {_MMAP_THRESHOLD: MAPPED, _TRIM_THRESHOLD: 1 << 30, _ARENA_MAX: 1}

_AFTERWARDS = {_MMAP_THRESHOLD: MAPPED, _TRIM_THRESHOLD: 64 << 20}
"""Where glibc's own adjustment ends in any process that has freed a large array. The limit on arenas cannot be lifted."""

_lock = threading.Lock()
_users = 0


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Let this process keep the memory that it frees, up to 1 GiB, until the last user leaves.

    The settings apply to the whole process; threads that are started from now on share one arena, for good. Nothing
    happens where the C library is not glibc.
    """
    global _users
    with _lock:
        if not _users:
            _set(_WORKING)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _set(_AFTERWARDS)


def _set(options: dict[int, int]) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            for option, value in options.items():
                libc.mallopt(option, value)
