"""What libraries ask of the environment: checked before they are loaded, or set where they would refuse to work.

In: environment variables and limits of the shell. Out: variables that casacore and ducc0 accept, or one line that says what
is wrong.
"""

from __future__ import annotations

import os
import resource

from gpucube.errors import GpucubeError
from gpucube.text import size_text

LIMITS = {
    resource.RLIMIT_AS: ("the limit of address space (ulimit -v)", 650_000_000),
    resource.RLIMIT_DATA: ("the limit of data (ulimit -d)", 170_000_000),
}
"""What a process may map, and what the libraries take before any data. Measured: 558 and 171 MB. Up to 590, OpenBLAS hangs."""


def check_for_libraries() -> None:
    """Refuse limits and variables with which libraries cannot be loaded. OpenBLAS, for one, would wait for memory for ever.

    Raises
    ------
    GpucubeError
    """
    for kind, (name, needed) in LIMITS.items():
        most = resource.getrlimit(kind)[0]
        if most != resource.RLIM_INFINITY and most < needed:
            raise GpucubeError(
                f"{name} is {size_text(most)}, but the libraries of gpucube need {size_text(needed)}: raise it"
            )
    threads = os.environ.get("NUMBA_NUM_THREADS")
    if threads is not None and not (_is_number(threads) and int(threads)):
        raise GpucubeError(f"NUMBA_NUM_THREADS is {threads!r}: set it to 1, or to nothing at all with 'unset'")


def provide_home() -> None:
    """Before casacore opens a table: it refuses to if HOME is not set, as in some containers and services."""
    if not os.environ.get("HOME"):
        os.environ["HOME"] = os.sep


def provide_threads() -> None:
    """Before ducc0 is called: it refuses to work unless its variable holds one number, where OpenMP takes ``4,2``.

    gpucube always asks it for one thread.
    """
    given = os.environ.get("DUCC0_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    if not _is_number(given):
        os.environ["DUCC0_NUM_THREADS"] = "1"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 9
