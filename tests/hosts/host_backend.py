"""The backend of the CUDA device for machines without a GPU: numpy arrays, kernels run on the host, scipy's FFTs.

docs/gpu.md says what it cannot show. `budget` limits only what the device believes it may take.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from gpucube.devices.choice import Hardware
from gpucube.devices.cuda.backend import Backend
from gpucube.devices.cuda.kernel_sources import kernel_source
from gpucube.devices.cuda.kind import CudaKind
from hosts.cudahost import HostModule


@functools.cache
def host_module(stem: str, options: tuple[str, ...] = ()) -> HostModule:
    """The compiled source of that name."""
    return HostModule(kernel_source(stem), options)


def _in_batches(transform: Callable, destroys: bool = True) -> Callable:
    """Transform whole batches, plane by plane so that it takes no memory, and destroy the input, as a GPU's FFT may."""

    def transformed(given: np.ndarray, out: np.ndarray, batch: int) -> None:
        assert len(given) == len(out) and len(given) % batch == 0
        for plane in range(len(given)):
            result = transform(given[plane], out.shape[1:])
            if destroys:
                given[plane] = np.nan
            out[plane] = result

    return transformed


@dataclass(frozen=True)
class HostCuda(CudaKind):
    """GPUs whose kernels run on the host, as a kind of device."""

    budget: int = 1 << 34  # bytes that the device believes it may take
    shared_bytes: int = 227 << 10  # largest dynamic shared memory of a block

    def backend(self, lanes: int) -> Backend:
        """The host's backend, with a share of the budget."""
        return host_backend(self.budget // lanes, self.shared_bytes)

    def working(self) -> AbstractContextManager[None]:
        """No settings: there is no memory pool."""
        return nullcontext()

    def cluster_factory(self) -> Callable[..., Any]:
        """An ordinary local cluster."""
        from distributed import LocalCluster

        return LocalCluster

    def hardware(self, count: int = 1) -> Hardware:
        """Hardware of so many such GPUs."""
        return Hardware(kind=self, gpu_count=count, gpu_memory=self.budget)


def host_backend(budget: int = 1 << 34, shared_bytes: int = 227 << 10) -> Backend:
    """Make a backend with a `budget` in bytes, and by default the shared memory of an H200."""

    def upload(arrays: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *(np.asarray(a, dtype).reshape(-1) for a in arrays)])

    return Backend(
        xp=np,
        kernel=lambda stem, name, options: host_module(stem, options).get_function(name),
        rfft2=_in_batches(lambda image, shape: scipy.fft.rfft2(image), destroys=False),
        irfft2=_in_batches(lambda grid, shape: scipy.fft.irfft2(grid, s=shape, norm="forward")),
        fft2=_in_batches(lambda grid, shape: scipy.fft.fft2(grid)),
        ifft2=_in_batches(lambda grid, shape: scipy.fft.ifft2(grid, norm="forward")),
        sort=lambda keys: np.argsort(keys, kind="stable").astype(np.int64),
        clear=lambda array: array.fill(0),
        view=lambda block, at, shape, dtype: np.ndarray(shape, dtype, buffer=block, offset=at if np.prod(shape) else 0),
        upload=upload,
        download=np.array,
        synchronise=lambda: None,
        memory=budget,
        free=lambda: None,
        out_of_memory=MemoryError,
        shared_bytes=shared_bytes,
        processors=2,
        fft_memory=0.0,
    )
