"""Run a kernel of `kernels/*.cu` on numpy arrays, which it changes in place."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import pytest
from cudahost import SANITIZE, HostModule, missing_compiler, thread_order

from gpucube.devices.kernel_sources import kernel_source

ORDERS = [20261122] if SANITIZE in os.environ else [0, 1, 20261122]
"""Threads and blocks upwards, downwards, shuffled; what is out of bounds is so in every order."""

needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))


@functools.cache
def module(file: str) -> HostModule:
    """The compiled source of that name."""
    return HostModule(kernel_source(file))


def run(file: str, kernel: str, grid: tuple, block: tuple, *args: Any, shared: int = 0, order: int = 0) -> None:
    """Launch; Python numbers are taken as the kernel's int and double."""
    values = [np.int32(a) if isinstance(a, int) else np.float64(a) if type(a) is float else a for a in args]
    with thread_order(order):
        module(file).get_function(kernel)(grid, block, values, shared_mem=shared)
