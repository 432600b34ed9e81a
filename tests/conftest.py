"""Fixtures that every test may use: small simulated MeasurementSets, and real ones where they are at hand.

`tiny_ms` is made once per session, `make_ms(**parameters)` makes one to measure, `real_data(name)` gives the path of a
real MeasurementSet, unpacked once per session for all test processes.
"""

from __future__ import annotations

import fcntl
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hosts.host_backend import HostCuda, host_backend
from hosts.kernel_runs import needs_compiler, needs_gpu

from gpucube.devices.base import DeviceKind
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cuda.backend import Backend
from gpucube.devices.cuda.cupy_backend import cupy_backend
from gpucube.devices.cuda.kind import CudaKind
from gpucube.schema.validation import validated

if TYPE_CHECKING:
    from gpucube.simulate import SimulationResult

REPOSITORY = Path(__file__).resolve().parent.parent

NEEDS_A_GPU = re.compile(r"\b(ON_GPU|ORDERS|device_kind|backend)\b")
"""What tests that also run on a GPU mention."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu``, import the files that have such tests and no others: a machine with a GPU may lack what others need."""
    if config.option.markexpr != "gpu" or collection_path.suffix != ".py":
        return None
    return None if NEEDS_A_GPU.search(collection_path.read_text()) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long tests first, so that no test process waits for one of them at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


TINY: dict[str, Any] = {
    "array": "vla-d",
    "antennas": 10,
    "ntime": 20,
    "nchan": 12,
    "noise": 0.05,
    "peak": 1.0,
    "imsize": 64,
    "cell": 20.0,
}
"""900 rows of 12 channels: made in a tenth of a second."""

MakeMS = Callable[..., "SimulationResult"]


@pytest.fixture(scope="session")
def make_ms(tmp_path_factory: pytest.TempPathFactory) -> MakeMS:
    """Factory: simulate an MS with `TINY` changed by keyword arguments; `sources` replaces the default sky."""
    # not above: tests of kernels and devices run where casacore is not
    from gpucube.simulate import SimulationParameters, simulate_ms

    def make(sources: Any = None, **changes: Any) -> SimulationResult:
        out = tmp_path_factory.mktemp("simulated") / "sim.ms"
        return simulate_ms(validated(SimulationParameters, {"out": out} | TINY | changes), sources)

    return make


@pytest.fixture(scope="session")
def tiny_ms(make_ms: MakeMS) -> SimulationResult:
    """10 antennas, 20 times, 12 channels, 2 correlations, 64x64 pixels of 20 arcsec; read only.

    1 Jy at pixel (40, 24) in channels 3 to 8, 0.6 Jy between pixels in channel 5 and 0.4 Jy at pixel (20, 44) in every
    channel; channel 2 is wholly flagged.
    """
    cell = np.deg2rad(TINY["cell"] / 3600.0)
    line, narrow = np.zeros(TINY["nchan"]), np.zeros(TINY["nchan"])
    line[3:9], narrow[5] = 1.0, 0.6
    sources = [
        (-8 * cell, -8 * cell, line),
        (10.4 * cell, -3.3 * cell, narrow),
        (12 * cell, 12 * cell, 0.4),
    ]
    return make_ms(sources=sources)


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Factory: path of a real MS by name, e.g. ``real_data("dmtau_co21_sma")``; read only.

    The packed sets (``<name>.ms.tar.xz``) are looked for in ``$GPUCUBE_TEST_DATA``, else in ``../shared/data`` beside
    the repository.
    """
    folder = Path(os.environ.get("GPUCUBE_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    base = tmp_path_factory.getbasetemp()
    unpacked = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "real_data"
    unpacked.mkdir(exist_ok=True)

    def find(name: str) -> Path:
        archive, ms = folder / f"{name}.ms.tar.xz", unpacked / f"{name}.ms"
        if not archive.is_file():
            pytest.skip(
                f"no real data: {archive} is not there; set GPUCUBE_TEST_DATA to the folder that holds {archive.name}"
            )
        with open(unpacked / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not ms.is_dir():
                partial = unpacked / f"{name}.partial"
                with tarfile.open(archive, "r:xz") as tar:
                    tar.extractall(partial, filter="data")
                (partial / ms.name).rename(ms)
        return ms

    return find


ON_HOST = pytest.param(HostCuda(), marks=needs_compiler, id="cuda-on-host")
ON_GPU = pytest.param(CudaKind(), marks=needs_gpu, id="cuda")


@pytest.fixture(params=[pytest.param(CpuKind(), id="cpu"), ON_HOST, ON_GPU])
def device_kind(request: pytest.FixtureRequest) -> DeviceKind:
    """Every kind of device that the shared tests run on; "cuda-on-host" is the CUDA device with its kernels run on the host."""
    return request.param


@pytest.fixture(params=[ON_HOST, ON_GPU])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Where kernels run."""
    return host_backend() if isinstance(request.param, HostCuda) else cupy_backend()
