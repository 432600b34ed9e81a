"""The interface between imaging and hardware: what a device does, and what a kind of device costs.

In: samples of planes, and how far to clean them. Out: images on the host, and the numbers that the stopping rule needs.

`gpucube.imaging` is written once against `Device`, `gpucube.execution` once against `DeviceKind`; a new kind of
hardware is one new package beside `cpu` and `cuda`. A device works on *planes* (one channel, one Stokes parameter, one
pointing), many at a time. What it returns for a plane must not depend on which other planes are in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from gpucube.data.store import Samples
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry

Product: TypeAlias = Literal["dirty", "psf", "residual", "model"]
"""The images of a plane that a device can hand out."""


@dataclass(frozen=True, kw_only=True)
class ImagingSettings:
    """What a device needs to know about the job."""

    geometry: ImageGeometry
    weighting: str = "natural"  # or "uniform", or "briggs" with `robust`
    robust: float = 0.5
    taper: tuple[
        float, ...
    ] = ()  # half widths at half maximum along and across an angle, wavelengths; the angle, degrees
    epsilon: float = 1e-4  # accuracy of gridding
    w_term: bool = False  # whether the residual takes account of w (n - 1)
    scales: tuple[float, ...] = ()  # sizes in pixels for multiscale CLEAN; none for points only (Högbom)
    smallscalebias: float = 0.0  # lowers the strengths of large scales
    minorcycle: Literal["activeset", "textbook"] = "activeset"
    majorcycle: Literal["auto", "visibility", "image"] = "auto"
    samples: int = 0  # largest number of samples of any plane of the job
    uv_max: float = math.inf  # longest projected baseline of the job, wavelengths
    w_max: float = 0.0  # largest |w| of the job, wavelengths
    cleaned: bool = True  # whether planes may be cleaned
    masked: bool = False  # whether planes have masks
    smoothed: bool = False  # whether residuals may be smoothed to another beam
    sources: int = 1  # partitions of the store that a plane may have samples of
    alone: bool = False  # whether the job has a single plane


@dataclass(slots=True, kw_only=True)
class MinorCycle:
    """One minor cycle of one plane: clean until |peak| <= `threshold` (Jy/beam) or for `max_iterations`."""

    threshold: float
    max_iterations: int
    gain: float


FINISHED_BYTES = 1 << 29
"""Host memory for images that are finished together. Those of one plane take what they need."""


@dataclass(slots=True, kw_only=True)
class Restoring:
    """How an image is restored: model * `beam` + `scale` * (residual * `smooth`, a Gaussian of unit sum)."""

    beam: Beam
    smooth: Beam | None = None  # None: the residual is added as it is
    scale: float = 1.0


@dataclass(slots=True, kw_only=True)
class Finished:
    """The results of one or more planes: by product an image of each, float32 (ny, nx), read-only; and the models' fluxes, Jy."""

    products: Mapping[str, Sequence[np.ndarray] | np.ndarray]
    model_flux: Sequence[float]


class DeviceArray(Protocol):
    """An array where the device computes: `numpy.ndarray` or `cupy.ndarray`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: Any, /) -> Any: ...

    def __setitem__(self, key: Any, value: Any, /) -> None: ...


class DevicePlane(Protocol):
    """A plane that a device holds. Both numbers are 0 for a plane without data."""

    sum_weights: float  # of the imaging weights
    visibilities: int  # samples with an imaging weight


PlaneT = TypeVar("PlaneT", bound=DevicePlane)


class Device(Protocol[PlaneT]):
    """A processor that holds as many planes as it is given. It belongs to the thread that made it."""

    name: str  # "cpu" or "cuda", for the records
    batch: int  # largest number of planes that it works on at once
    out_of_memory: type[Exception]  # what it raises when it has no memory left
    substage_seconds: dict[str, float]
    """Seconds of ``"upload"`` and ``"weights"`` in `begin`, and of ``"fft"`` in `make_psf` and `major` where those transform
    the image itself. The caller clears it after reading."""

    def begin(self, samples: Sequence[Samples | None], masks: Sequence[np.ndarray | None]) -> list[PlaneT]:
        """Upload, weight and grid samples; the dirty image becomes the first residual.

        A mask is a bool array (ny, nx). None for a plane's samples means no data, None for its mask no mask.
        """

    def set_masks(self, planes: Sequence[PlaneT], masks: Sequence[np.ndarray]) -> None:
        """Replace the masks of planes, bool arrays (ny, nx)."""

    def make_psf(self, planes: Sequence[PlaneT], wide: bool | Sequence[bool]) -> None:
        """Make each plane's PSF, of the image's size, or of twice that (`wide`) if the plane is going to be cleaned."""

    def measure(self, planes: Sequence[PlaneT]) -> list[tuple[float, float]]:
        """Measure each residual: the largest |value| inside the mask (-1 if the mask is empty), and 1.4826 MAD."""

    def minor(self, planes: Sequence[PlaneT], cycles: Sequence[MinorCycle]) -> list[int]:
        """Run one minor cycle on each plane's model; returns the iterations done."""

    def major(self, planes: Sequence[PlaneT]) -> None:
        """Recompute each residual from the plane's model."""

    def set_model(self, planes: Sequence[PlaneT], models: Sequence[np.ndarray]) -> None:
        """Replace each plane's model by an image (ny, nx) in Jy/pixel. The next major cycle makes its residual."""

    def keep_model(self, planes: Sequence[PlaneT]) -> None:
        """Remember each plane's model as its best, with its residual: the exact one."""

    def roll_back(self, planes: Sequence[PlaneT]) -> None:
        """Restore each plane's remembered model, and the residual that belongs to it."""

    def beams(self, planes: Sequence[PlaneT]) -> list[tuple[Beam, float]]:
        """Fit a beam to each PSF, and find the largest |PSF| outside the main lobe."""

    def fetch(self, plane: PlaneT, product: Product) -> np.ndarray:
        """Copy an image to the host, float32 (ny, nx). The caller must not write to it."""

    def finish(
        self, planes: Sequence[PlaneT], products: Sequence[Product], restoring: Sequence[Restoring] | None
    ) -> Iterator[Finished]:
        """Copy images of planes to the host, with restored ones if it is said how; as many planes at a time as is best."""

    def restore(self, model: np.ndarray, residual: np.ndarray, restoring: Restoring) -> np.ndarray:
        """Make the restored image of a model and a residual on the host, float32 (ny, nx)."""

    def release(self, planes: Sequence[PlaneT]) -> None:
        """Free the places of planes that are finished."""

    def reset(self) -> None:
        """Free the places of all planes; raises DeviceLost if only a new process can recover."""

    def shrink(self) -> bool:
        """Halve `batch`; returns False if it cannot be made smaller."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The memory of one worker while it images a job. A worker is a CPU core or a GPU."""

    process_bytes: int  # host memory of a worker process before its first plane: interpreter, libraries, driver
    host_bytes: int  # host memory beside that, with all lanes at work
    planes: int  # planes that the device holds at once for one lane
    device_bytes: Callable[[int], int]  # device memory of a lane with so many planes; 0 if it is the host's


class DeviceKind(Protocol):
    """A kind of hardware: it makes devices, and knows what they cost.

    It can be pickled and travels to the workers of a cluster with their tasks.
    """

    name: str  # "cpu" or "cuda"
    lanes: int  # threads that share one worker's device, each with a `Device` and chunks of its own
    chunks_a_lane: int  # that `chunksize="auto"` makes, so that no lane waits long for the last
    workers_share_process: bool  # whether one process can drive several workers: true for cores, false for GPUs

    def make(self, settings: ImagingSettings, lanes: int = 1) -> Device[Any]:
        """Make a device for the calling thread, one of `lanes` that share the hardware.

        Like `resources`, it raises GpucubeError if not even one plane fits the device's memory.
        """

    def working(self) -> AbstractContextManager[None]:
        """Make process-wide settings for work on this kind of device, and undo them at the end.

        Whoever starts the work enters it once, for the life of a worker process or around a run in threads; it may be
        nested. Without it the results are the same, only slower.
        """

    def resources(self, settings: ImagingSettings, device_memory: int) -> Resources:
        """Predict what one worker takes for a job if `device_memory` bytes of its device are free for it."""

    def memory_peak(self) -> int:
        """Find the largest number of bytes of device memory that this process has held."""

    def cluster_factory(self) -> Callable[..., Any]:
        """Find the local Dask cluster of one worker process for each core or GPU, called as `distributed.LocalCluster` is.

        Raises GpucubeError if a package is missing.
        """
