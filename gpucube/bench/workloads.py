"""Workloads as data: what is observed, how it is imaged, and how much of it this machine can do.

In: the name of a built-in workload or of a YAML file. Out: a checked `Workload`, cut down to what memory, disk and time
allow, with a note for every cut. `gpucube.bench.scene` makes its visibilities.
"""

from __future__ import annotations

import math
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.data.store import BYTES_A_SAMPLE
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cycle_rules import needs_w
from gpucube.errors import GpucubeError
from gpucube.execution.machine import available_memory
from gpucube.execution.memory import HostMemory
from gpucube.schema.validation import Written, validated
from gpucube.simulate import SimulationParameters
from gpucube.simulate.arrays import ARRAYS
from gpucube.simulate.parameters import ArrayName
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis
from gpucube.text import did_you_mean

MEMORY_SHARE, DISK_SHARE = 0.6, 0.5
"""Shares of the available memory and of the free disk that a workload may take."""

PRODUCTS = ("image", "residual", "model")
"""The cubes that a workload writes."""

GRID_SECONDS = 100e-9
PIXEL_SECONDS = 60e-9
BRIGHT_PIXEL_SECONDS = 900e-9
W_FACTOR, W_TURN_FACTOR = 4.0, 2.0
"""Rough cost on one core: of gridding a visibility, of a pixel of a channel, of a pixel of a bright channel. With w, imaging
costs `W_FACTOR` times as much, plus `W_TURN_FACTOR` for each turn of the largest w phase. Only the choice of how many
channels fit the time depends on these figures."""

LEAST_PIXELS, LEAST_PIXELS_FOR_TIME = 16, 256
"""Pixels on a side below which an image is not cut, for memory and for time."""

ImageSize = Annotated[int, Field(ge=LEAST_PIXELS, multiple_of=2), Written("int", "N", "an even number from 16")]
Positive = Annotated[float, Field(gt=0)]


class Workload(BaseModel):
    """What is observed, and how it is imaged. The bright channels are neighbours in the middle of the band."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str = "own"
    description: str = ""
    array: ArrayName = "vla-c"  # as the option of `gpucube simulate`
    channels: int = Field(64, ge=1)
    integrations: int = Field(100, ge=1)  # rows are integrations times baselines
    track_hours: Positive = 4.0  # the integrations are spread evenly over these hours
    imsize: ImageSize = 512  # pixels on a side
    cell: Positive = 4.0  # arcsec
    bright: float = Field(0.2, ge=0, le=1)  # share of the channels that hold emission
    sources: int = Field(20, ge=1)  # point sources in each bright channel
    peak: Positive = 0.1  # flux density of the brightest source, Jy
    noise: Positive = 0.1  # of the real and of the imaginary part of one correlation, Jy
    weighting: Literal["natural", "uniform", "briggs"] = "briggs"  # from here on as parameters of the main job
    robust: float = Field(0.5, ge=-2, le=2)
    gridder: Literal["auto", "standard", "wgridder"] = "standard"
    niter: int = Field(100_000, ge=0)
    nsigma: Positive = 3.0

    @model_validator(mode="after")
    def _can_be_simulated(self) -> Self:
        self.simulation()
        return self

    def changed(self, **fields: Any) -> Workload:
        """Return the same workload with other values of some fields."""
        return self.model_copy(update=fields)

    @property
    def rows(self) -> int:
        antennas = ARRAYS[self.array].antennas
        return self.integrations * antennas * (antennas - 1) // 2

    @property
    def bright_channels(self) -> range:
        count = math.ceil(self.bright * self.channels)
        first = (self.channels - count) // 2
        return range(first, first + count)

    @property
    def axis(self) -> SpectralAxis:
        p = self.simulation()
        widths = np.full(self.channels, abs(p.chan_width))
        return SpectralAxis(frequency=p.frequency, width=widths, frame=FRAMES[p.frame], restfreq=None)

    @property
    def geometry(self) -> ImageGeometry:
        p = self.simulation()
        centre = Direction(ra=p.phase_centre[0], dec=p.phase_centre[1])
        return ImageGeometry(
            nx=p.imsize, ny=p.imsize, cell_x=self.cell * ARCSEC, cell_y=self.cell * ARCSEC, centre=centre
        )

    def simulation(self, out: Path = Path("unused.ms"), integrations: int | None = None) -> SimulationParameters:
        """Describe a simulated MeasurementSet like it, with fewer integrations if wanted."""
        same = {name: getattr(self, name) for name in ("array", "track_hours", "noise", "peak", "imsize", "cell")}
        own = {"out": out, "nchan": self.channels, "ntime": integrations or self.integrations, "flag_channels": ""}
        return validated(SimulationParameters, same | own)


_written = yaml.safe_load((files("gpucube.bench") / "workloads.yaml").read_text(encoding="utf-8"))
WORKLOADS = {name: validated(Workload, {"name": name, **fields}) for name, fields in _written.items()}
"""What `--workload` may name."""


def find_workload(name: str) -> Workload:
    """Find a built-in workload, or read a YAML file (a name that ends in .yaml or .yml) of `Workload` fields.

    In a file ``like: NAME`` starts from a built-in workload.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in WORKLOADS:
            advice = did_you_mean(name, WORKLOADS) or f": there are {', '.join(WORKLOADS)}, or a file NAME.yaml"
            raise GpucubeError(f"there is no workload {name!r}{advice}")
        return WORKLOADS[name]
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GpucubeError(f"cannot read the workload {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise GpucubeError(f"{path} is not YAML: write lines such as 'imsize: 512'") from None
    if not isinstance(values, dict):
        raise GpucubeError(f"{path} is not a list of fields: write lines such as 'imsize: 512'")
    like = find_workload(str(values.pop("like"))).model_dump() if "like" in values else {}
    try:
        return validated(Workload, like | {"name": path.stem, "description": ""} | values)
    except GpucubeError as error:
        raise GpucubeError(f"{path}: {error}") from None


def expected_seconds(workload: Workload, workers: int) -> float:
    """Estimate roughly how long it takes to image all channels once."""
    pixels, bright = workload.imsize**2, len(workload.bright_channels)
    grid = 2 * workload.rows * GRID_SECONDS + pixels * PIXEL_SECONDS
    array = ARRAYS[workload.array]
    phase = workload.geometry.w_phase(2.0 * array.extent * array.rest_freq / LIGHT_SPEED)
    factor = 1.0
    if needs_w(phase, workload.gridder, ImagingSettings.epsilon):
        factor = W_FACTOR + W_TURN_FACTOR * phase / (2.0 * math.pi)
    return (workload.channels * grid + bright * pixels * BRIGHT_PIXEL_SECONDS) * factor / workers


def fitted_to_machine(
    workload: Workload, workers: int, seconds: float, folder: Path
) -> tuple[Workload, int, list[str]]:
    """Cut a workload and its workers down to the memory, the disk of `folder` and the time, with a note for each cut.

    `seconds` is the time for imaging all channels once. At least one channel is left: if the disk cannot hold it,
    `GpucubeError` is raised.
    """
    notes = []
    allowed = MEMORY_SHARE * available_memory()
    count, imsize = workers, workload.imsize
    while count > 1 and _memory(workload, count) > allowed:
        count -= 1
    if count < workers:
        notes.append(f"{workers} workers -> {count}: {allowed / 1e9:.1f} GB of memory")

    def too_large(size: int) -> bool:
        return size > LEAST_PIXELS and _memory(workload.changed(imsize=size), count) > allowed

    def too_slow(size: int) -> bool:
        one_channel = workload.changed(imsize=size, channels=1)
        return size > LEAST_PIXELS_FOR_TIME and expected_seconds(one_channel, 1) > seconds

    for exceeds, reason in ((too_large, "memory"), (too_slow, f"{seconds:.0f} s a run")):
        imsize = before = workload.imsize
        while exceeds(imsize):
            imsize = max(LEAST_PIXELS, 2 * int(0.4 * imsize))
        if imsize < before:
            notes.append(f"{before} x {before} pixels -> {imsize} x {imsize}: {reason}")
            workload = workload.changed(imsize=imsize)
    # all channels are alike, so only as many are imaged as there is time for
    free = DISK_SHARE * shutil.disk_usage(folder).free
    channel_bytes = workload.rows * BYTES_A_SAMPLE + 4 * len(PRODUCTS) * workload.imsize**2
    on_disk = int(free // channel_bytes)
    if on_disk < 1:
        raise GpucubeError(
            f"workload {workload.name}: one channel needs {channel_bytes / 1e9:.1f} GB of disk in {folder}"
        )
    in_time = workload.channels
    while in_time > 1 and expected_seconds(workload.changed(channels=in_time), count) > seconds:
        in_time = max(1, int(0.9 * in_time))
    channels = min(workload.channels, on_disk, in_time)
    if channels < workload.channels:
        reason = f"{seconds:.0f} s a run" if in_time <= on_disk else f"{free / 1e9:.1f} GB of disk"
        notes.append(f"{workload.channels} channels -> {channels}: {reason}")
    return workload.changed(channels=channels), min(count, channels), notes


def _memory(workload: Workload, workers: int) -> int:
    """Predict the bytes of host memory that threads of this process will hold."""
    settings = ImagingSettings(geometry=workload.geometry, samples=workload.rows)
    return HostMemory(resources=CpuKind().resources(settings)).of(workers, in_process=True)
