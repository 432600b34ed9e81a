"""Run a kernel of `kernels/*.cu` on numpy arrays, which it changes in place: on the host, or on a GPU where there is one.

Tests take `ORDERS` as a parameter, and so run in every order of threads on the host and once on the GPU.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from gpucube.devices.cuda.cupy_backend import cupy_backend, why_not
from hosts.cudahost import SANITIZE, missing_compiler, thread_order
from hosts.host_backend import host_module

ON_GPU = -1

NO_GPU = why_not()

needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
needs_gpu = (pytest.mark.gpu, pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU))

HOST_ORDERS = [20261122] if SANITIZE in os.environ else [0, 1, 20261122]

ORDERS = [
    *HOST_ORDERS,
    pytest.param(ON_GPU, id="gpu", marks=needs_gpu),
]
"""Threads and blocks upwards, downwards and shuffled; and on a GPU. Accesses out of bounds are so in every order."""


def run(file: str, kernel: str, grid: tuple, block: tuple, *args: Any, shared: int = 0, order: int = 0) -> None:
    """Launch a kernel; Python numbers become int and double."""
    values = [np.int32(a) if isinstance(a, int) else np.float64(a) if type(a) is float else a for a in args]
    if order == ON_GPU:
        _run_on_gpu(file, kernel, grid, block, values, shared)
        return
    with thread_order(order):
        host_module(file).get_function(kernel)(grid, block, values, shared_mem=shared)


def _run_on_gpu(file: str, kernel: str, grid: tuple, block: tuple, values: list[Any], shared: int) -> None:
    backend = cupy_backend()
    there = [backend.xp.asarray(v) if isinstance(v, np.ndarray) else v for v in values]
    backend.kernel(file, kernel, ())(grid, block, tuple(there), shared_mem=shared)
    for here, changed in zip(values, there, strict=True):
        if isinstance(here, np.ndarray):
            here[...] = backend.download(changed)
