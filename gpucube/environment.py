"""Environment variables and limits that libraries need: check them before the libraries are loaded, or set them.

In: environment variables and limits of the shell. Out: variables that casacore and ducc0 accept, or a one-line error message.
"""

from __future__ import annotations

import os
import resource
import sys

from gpucube.errors import GpucubeError
from gpucube.text import size_text

NO_HOME = "/proc/none"
"""A folder that does not exist and that nobody can make."""

LIMITS = {
    resource.RLIMIT_AS: ("the limit of address space (ulimit -v)", 650_000_000),
    resource.RLIMIT_DATA: ("the limit of data (ulimit -d)", 170_000_000),
}
"""Limits of a process, and what the libraries need without data. Measured: 558 and 171 MB. Below 590, OpenBLAS hangs."""


def check_for_libraries(processes: str = "/proc/self") -> None:
    """Raise an error if a limit or a variable prevents libraries from loading. OpenBLAS, for example, would wait for ever.

    Raises
    ------
    GpucubeError
    """
    if sys.platform == "linux" and not os.path.exists(processes):
        raise GpucubeError("/proc is not there, without which casacore dies: mount it ('mount -t proc proc /proc')")
    for kind, (name, needed) in LIMITS.items():
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY and most < needed:
            raise GpucubeError(
                f"{name} is {size_text(most)}, but the libraries of gpucube need {size_text(needed)}: raise it"
            )
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (_is_number(threads) and int(threads)):
        raise GpucubeError(f"NUMBA_NUM_THREADS is {threads!r}: set it to 1, or remove it with 'unset'")


def provide_home() -> None:
    """Set HOME before casacore and astropy look for settings in it. They fail if it is missing, or if the user may not enter it.

    Containers and services often set no HOME. A user who takes over the environment of another may not enter that home.
    """
    home = os.environ.get("HOME", "")
    if not (os.path.isdir(home) and os.access(home, os.X_OK)):
        os.environ["HOME"] = NO_HOME


def provide_threads() -> None:
    """Set the number of threads before ducc0 is called, which fails unless it is one number. OpenMP also accepts ``4,2``.

    gpucube always uses ducc0 with one thread.
    """
    given = os.environ.get("DUCC0_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    if not _is_number(given):
        os.environ["DUCC0_NUM_THREADS"] = "1"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 9
