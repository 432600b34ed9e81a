"""Caches of compiled code. They need a writable folder, and the home of a batch job or container is often read-only.

In: functions for numba to compile. Out: the same functions, which are compiled when they are first called, or loaded from a
cache on disk if there is one. If a cache is full, damaged or missing, compiling takes longer, but the run goes on.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., Any])


def njit(**options: Any) -> Callable[[F], F]:
    """Let numba compile a function that does not hold the interpreter lock, and cache it if possible."""

    def decorate(function: F) -> F:
        compiled: Any = numba.njit(nogil=True, **options)(function)
        with suppress(RuntimeError, OSError):  # no folder can be written
            compiled._cache = _cache_of(function)
        result: F = compiled
        return result

    return decorate


def _cache_of(function: Callable[..., Any]) -> Any:
    """Numba's cache of a function: beside the source, in the user's cache folder or in one for temporary files."""
    settings: Any = numba.config
    make: Any = FunctionCache
    chosen = settings.CACHE_DIR
    try:
        cache = make(function)
    except (RuntimeError, OSError):
        settings.CACHE_DIR = private_folder("numba")
        try:
            cache = make(function)
        finally:
            settings.CACHE_DIR = chosen
    cache.load_overload, cache.save_overload = _or_nothing(cache.load_overload), _or_nothing(cache.save_overload)
    return cache


def is_compiled(function: Callable[..., Any]) -> bool:
    """Whether the cache holds code of a function that `njit` made."""
    compiled: Any = function
    with suppress(Exception):  # a damaged file may raise anything
        return bool(compiled._cache._cache_file._load_index())
    return False


def _or_nothing(action: Callable[..., Any]) -> Callable[..., Any]:
    """Return nothing where an action on a cache fails: the disk may be full, or a file damaged."""

    def attempt(*arguments: Any) -> Any:
        try:
            return action(*arguments)
        except Exception:  # unpickling a damaged file may raise anything
            return None

    return attempt


def private_folder(name: str) -> str:
    """Make a folder for temporary files that lasts, and that only this user can write. OSError if there is none.

    Code in a cache is executed, so a folder that belongs to another user is not used.
    """
    folder = os.path.join(tempfile.gettempdir(), f"gpucube-{name}-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def choose_cupy_cache() -> None:
    """Before CuPy is imported, choose another folder for its kernels, or none, if it cannot write to its own."""
    folder = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        try:
            os.environ["CUPY_CACHE_DIR"] = private_folder("cupy")
        except OSError:
            os.environ["CUPY_CACHE_IN_MEMORY"] = "1"
