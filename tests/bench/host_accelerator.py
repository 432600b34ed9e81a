"""An accelerator for `bench/gpu/gpu_speed.py` on machines without a GPU: kernels run on the host, at tiny sizes.

It exercises every line of the benchmark but those of `Gpu`, and measures nothing of interest.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import Sizes
from hosts.host_backend import HostCuda, host_backend

from gpucube.bench.workloads import Workload

TINY = Sizes(
    copy=1 << 16,
    images=(32,),
    images_with_w=(32,),
    samples=300,
    samples_with_w=100,
    textbook=(2, 24, 3),
    active_set=(2, 24, 5),
    active=20,
    large_set=(1, 24, 5),
    large_active=200,
    large=(1, 24, 3),
    workload=Workload(
        name="tiny", array="vla-d", channels=3, integrations=1, imsize=32, cell=60.0, bright=0.3, sources=2
    ),
    busy_seconds=0.0,
    planes_in_memory=2,
    planes_repeated=2,
)


class HostAccelerator:
    """Kernels run on the host, in threads of this process."""

    least_seconds = 0.0

    def __init__(self) -> None:
        self.kind = HostCuda()
        self.backend = host_backend()

    def synchronise(self) -> None:
        """Nothing is ever under way."""

    def pinned(self, size: int) -> np.ndarray:
        return np.empty(size, np.uint8)

    def send(self, out: Any, pinned: np.ndarray) -> None:
        out[...] = pinned

    def plan_bytes(self, array: Any, kind: str, shape: tuple[int, int] | None = None) -> int:
        """Not known."""
        return 0

    def peak_memory(self, call: Callable[[], object]) -> tuple[int, int]:
        tracemalloc.start()
        try:
            call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return peak, peak

    def busy(self, call: Callable[[], object]) -> tuple[list[float], str]:
        """There is no GPU that could be busy."""
        call()
        return [], ""

    def describe(self) -> dict[str, Any]:
        return {"gpu": "none: kernels run on the host", "cufinufft": ""}
