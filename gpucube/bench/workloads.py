"""Workloads as data, and the visibility store that each stands for.

In: a `Workload`, by name or from a YAML file. Out: the workload cut down to what the machine holds, with a line for every
cut, and its `VisibilityStore`: uvw tracks of a real layout, noise, flags, and point sources in the bright channels,
written channel-major at once. No MeasurementSet is made on the way. Antennas, tracks and exact visibilities are those of
`gpucube.simulate`.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from gpucube.constants import LIGHT_SPEED
from gpucube.data.scratch import allocate
from gpucube.data.store import Partition, VisibilityStore, sort_rows, write_rows
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cycles import needs_w
from gpucube.errors import GpucubeError
from gpucube.imaging.stopping import CleanParameters
from gpucube.schema.validation import validated
from gpucube.simulate import SimulationParameters
from gpucube.simulate.arrays import ARRAYS, antenna_positions, antenna_uvw, track_times
from gpucube.simulate.sky import Sky, point_sky, visibilities
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry
from gpucube.words import did_you_mean

FLAGGED = 0.05
"""Share of the samples without weight."""

BLOCK_SAMPLES = 2_000_000
"""Samples made at a time."""

MEMORY_SHARE = 0.6
DISK_SHARE = 0.5
"""Shares of the memory that is available, and of the disk that is free, which a workload may take."""

GRID_SECONDS = 100e-9
PIXEL_SECONDS = 60e-9
BRIGHT_PIXEL_SECONDS = 900e-9
W_FACTOR, W_TURN_FACTOR = 4.0, 2.0
"""Rough cost of one core: of a visibility gridded, of a pixel of a channel, of a pixel of a bright channel; how many times
more gridding costs with w, and for each turn of the largest w phase. Only for the choice of how many channels fit the
time."""


@dataclass(frozen=True)
class Workload:
    """What is observed and how it is imaged.

    Attributes
    ----------
    name, description : str
    array : str
        Layout, as `gpucube simulate --array`.
    channels, integrations : int
        Rows are integrations times baselines.
    track_hours : float
        The integrations are spread evenly over this time.
    imsize, cell : int, float
        Pixels on a side, and their size in arcsec.
    bright : float
        Share of the channels with emission, 0 to 1: a run of neighbours in the middle of the band.
    sources : int
        Point sources in each of them.
    peak, noise : float
        Jy: of the brightest source; of the real and of the imaginary part of one correlation.
    weighting, robust, gridder, niter, nsigma
        As the parameters of the main job.
    """

    name: str = "own"
    description: str = ""
    array: str = "vla-c"
    channels: int = 64
    integrations: int = 100
    track_hours: float = 4.0
    imsize: int = 512
    cell: float = 4.0
    bright: float = 0.2
    sources: int = 20
    peak: float = 0.1
    noise: float = 0.1
    weighting: str = "briggs"
    robust: float = 0.5
    gridder: str = "standard"
    niter: int = 100_000
    nsigma: float = 3.0

    @property
    def rows(self) -> int:
        """Rows of the data."""
        antennas = ARRAYS[self.array].antennas
        return self.integrations * antennas * (antennas - 1) // 2

    def bright_channels(self) -> range:
        """The channels with emission."""
        count = min(self.channels, math.ceil(self.bright * self.channels)) if self.bright > 0 else 0
        first = (self.channels - count) // 2
        return range(first, first + count)

    def simulation(self, out: Path, integrations: int | None = None) -> SimulationParameters:
        """Parameters of a simulated MeasurementSet like it."""
        values = {
            "out": out,
            "array": self.array,
            "nchan": self.channels,
            "ntime": integrations or self.integrations,
            "track_hours": self.track_hours,
            "noise": self.noise,
            "peak": self.peak,
            "imsize": self.imsize,
            "cell": self.cell,
            "flag_channels": "",
        }
        return validated(SimulationParameters, values)

    def clean(self) -> CleanParameters:
        """Iteration control."""
        return CleanParameters(niter=self.niter, nsigma=self.nsigma)


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "vla-hi", "HI line, VLA C: 117 channels of 200,070 rows, a sixth of them bright", channels=117,
            integrations=570, bright=1 / 6,
        ),
        Workload(
            "alma-line", "ALMA, 43 antennas: 512 channels, half of them bright", "alma", 512, 56, 1.0, 1024, 0.15, 0.5
        ),
        Workload(
            "meerkat-hi", "MeerKAT, 64 antennas, a field of 1.1 degrees with the w term", "meerkat", 64, 100, 4.0, 2048,
            2.0, 0.2, gridder="wgridder",
        ),
        Workload(
            "one-bright", "one hard channel of 60 sources among 100", channels=100, integrations=285, bright=0.01,
            sources=60, peak=1.0, nsigma=5.5,
        ),
        Workload("all-bright", "emission in every channel", channels=64, integrations=285, bright=1.0),
        Workload(
            "snapshot", "VLA B, four integrations: sparse uv coverage, high sidelobes", "vla-b", 128, 4, 0.02, 512, 1.0,
            0.25,
        ),
        Workload(
            "huge-image", "VLA A, 8000 x 8000 pixels with the w term, few channels", "vla-a", 4, 100, 4.0, 8000, 0.4,
            0.25, gridder="wgridder",
        ),
    )
}  # fmt: skip
"""What `--workload` may name."""


def find_workload(name: str) -> Workload:
    """A workload by name, or from a YAML file (a name that ends in .yaml or .yml).

    Raises
    ------
    GpucubeError
        No such workload; the file cannot be read, or has a wrong field or value.
    """
    if name.endswith((".yaml", ".yml")):
        return read_workload(Path(name))
    if name not in WORKLOADS:
        advice = did_you_mean(name, WORKLOADS) or f": there are {', '.join(WORKLOADS)}, or a file NAME.yaml"
        raise GpucubeError(f"no workload {name!r}{advice}")
    return WORKLOADS[name]


def read_workload(path: Path) -> Workload:
    """A workload from a YAML file of `Workload` fields; ``like: NAME`` starts from a built-in one."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GpucubeError(f"cannot read the workload {path}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        raise GpucubeError(f"{path} is not YAML: write lines such as 'imsize: 512'") from None
    if not isinstance(values, dict):
        raise GpucubeError(f"{path} is not a list of fields: write lines such as 'imsize: 512'")
    base = find_workload(str(values.pop("like"))) if "like" in values else Workload()
    kinds = {f.name: type(f.default) for f in fields(Workload)}
    for name, value in values.items():
        if name not in kinds:
            raise GpucubeError(f"{path}: unknown field {name!r}{did_you_mean(str(name), kinds)}")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (isinstance(value, kinds[name]) or (kinds[name] is float and number)):
            raise GpucubeError(f"{path}: {name}={value!r} should be {kinds[name].__name__}")
    workload = replace(base, **({"name": path.stem, "description": ""} | values))
    check(workload, str(path))
    return workload


def check(workload: Workload, where: str) -> None:
    """Refuse a workload that cannot be made.

    Raises
    ------
    GpucubeError
    """
    if workload.array not in ARRAYS:
        raise GpucubeError(f"{where}: array={workload.array!r}: there are {', '.join(ARRAYS)}")
    for name in ("channels", "integrations", "sources"):
        if getattr(workload, name) < 1:
            raise GpucubeError(f"{where}: {name}={getattr(workload, name)} should be at least 1")
    for name in ("cell", "noise", "peak", "nsigma", "track_hours"):
        if not 0 < getattr(workload, name) < math.inf:
            raise GpucubeError(f"{where}: {name}={getattr(workload, name)} should be above 0")
    if not 0 <= workload.bright <= 1:
        raise GpucubeError(f"{where}: bright={workload.bright} should be between 0 and 1")
    if workload.imsize < 16 or workload.imsize % 2:
        raise GpucubeError(f"{where}: imsize={workload.imsize} should be even and at least 16")
    for name, right in (("weighting", ("natural", "uniform", "briggs")), ("gridder", ("auto", "standard", "wgridder"))):
        if getattr(workload, name) not in right:
            raise GpucubeError(f"{where}: {name}={getattr(workload, name)!r}: there are {', '.join(right)}")
    workload.simulation(Path("unused.ms"))


def expected_seconds(workload: Workload, workers: int) -> float:
    """Rough time of imaging all channels once."""
    pixels, bright = workload.imsize**2, len(workload.bright_channels())
    grid = 2 * workload.rows * GRID_SECONDS + pixels * PIXEL_SECONDS
    longest = 2.0 * ARRAYS[workload.array].extent * ARRAYS[workload.array].rest_freq / LIGHT_SPEED
    phase = geometry_of(workload).w_phase(longest)
    factor = 1.0
    if needs_w(phase, workload.gridder, ImagingSettings.epsilon):
        factor = W_FACTOR + W_TURN_FACTOR * phase / (2.0 * math.pi)
    return (workload.channels * grid * factor + bright * pixels * BRIGHT_PIXEL_SECONDS * factor) / workers


def fitted_to_machine(
    workload: Workload, workers: int, seconds: float, folder: Path
) -> tuple[Workload, int, list[str]]:
    """Cut a workload down to the memory, the disk and the time.

    Parameters
    ----------
    workload : Workload
    workers : int
    seconds : float
        That imaging all channels once may take; infinite for no limit.
    folder : pathlib.Path
        Where the store and the cubes will lie.

    Returns
    -------
    workload : Workload
    workers : int
    notes : list of str
        One for each cut.

    Raises
    ------
    GpucubeError
        Not even one channel fits.
    """
    notes = []

    def memory(imsize: int, count: int) -> float:
        settings = ImagingSettings(geometry=geometry_of(replace(workload, imsize=imsize)), samples=workload.rows)
        worker = CpuKind().resources(settings)
        return worker.process_bytes + count * worker.host_bytes

    allowed = MEMORY_SHARE * psutil.virtual_memory().available
    imsize, count = workload.imsize, workers
    while memory(imsize, count) > allowed and (count > 1 or imsize > 16):
        if count > 1:
            count -= 1
        else:
            imsize = max(16, 2 * int(0.4 * imsize))
    if count < workers:
        notes.append(f"{workers} workers -> {count}: {allowed / 1e9:.1f} GB of memory")
    if imsize < workload.imsize:
        notes.append(f"{workload.imsize} x {workload.imsize} pixels -> {imsize} x {imsize}: memory")
        workload = replace(workload, imsize=imsize)
    while expected_seconds(replace(workload, channels=1), 1) > seconds and workload.imsize > 256:
        workload = replace(workload, imsize=2 * int(0.4 * workload.imsize))
    if workload.imsize < imsize:
        notes.append(f"{imsize} x {imsize} pixels -> {workload.imsize} x {workload.imsize}: {seconds:.0f} s a run")
    # as many channels as fit, for they are all alike
    free = DISK_SHARE * shutil.disk_usage(folder).free
    channel_bytes = workload.rows * 12 + workload.imsize**2 * 12
    by_disk = int(free // channel_bytes)
    if by_disk < 1:
        raise GpucubeError(
            f"workload {workload.name}: one channel needs {channel_bytes / 1e9:.1f} GB of disk in {folder}"
        )
    by_time = workload.channels
    while by_time > 1 and expected_seconds(replace(workload, channels=by_time), count) > seconds:
        by_time = max(1, int(0.9 * by_time))
    channels = min(workload.channels, by_disk, by_time)
    if channels < workload.channels:
        reason = f"{seconds:.0f} s a run" if by_time <= by_disk else f"{free / 1e9:.1f} GB of disk"
        notes.append(f"{workload.channels} channels -> {channels}: {reason}")
    return replace(workload, channels=channels), min(count, channels), notes


def geometry_of(workload: Workload) -> ImageGeometry:
    """Its image."""
    cell = float(np.deg2rad(workload.cell / 3600.0))
    simulation = workload.simulation(Path("unused.ms"))
    return ImageGeometry(
        nx=workload.imsize,
        ny=workload.imsize,
        cell_x=cell,
        cell_y=cell,
        centre=Direction(ra=float(np.deg2rad(simulation.ra)), dec=float(np.deg2rad(simulation.dec))),
    )


def frequencies(workload: Workload) -> np.ndarray:
    """Hz, of every channel."""
    simulation = workload.simulation(Path("unused.ms"))
    return simulation.rest_freq + (np.arange(workload.channels) - workload.channels // 2) * simulation.chan_width


def make_store(workload: Workload, folder: str) -> VisibilityStore:
    """Write the visibilities of a workload channel-major, without a MeasurementSet.

    Parameters
    ----------
    workload : Workload
    folder : str
        Must not exist.
    """
    simulation = workload.simulation(Path("unused.ms"))
    rng = np.random.default_rng(simulation.seed)
    frequency = frequencies(workload)
    positions, _ = antenna_positions(workload.array, simulation.antennas)
    ra, dec = np.deg2rad(simulation.ra), np.deg2rad(simulation.dec)
    site = ARRAYS[workload.array].site
    times = track_times(site, ra, workload.integrations, simulation.integration, workload.track_hours)
    antennas = antenna_uvw(positions, times, ra, dec)
    one, two = np.triu_indices(len(positions), 1)
    sky = _sky(workload, rng)
    partition = Partition(
        folder=folder,
        index=0,
        nrow=workload.rows,
        nstokes=1,
        output=tuple(range(workload.channels)),
        frequency=tuple(float(f) for f in frequency),
    )
    allocate([partition])
    # Stokes I of two hands of the same noise
    sigma = workload.noise / math.sqrt(2.0)
    counts, power = np.zeros((1, 1, workload.channels), np.int64), np.zeros((1, 1, workload.channels))
    bright = list(workload.bright_channels())
    step = max(1, BLOCK_SAMPLES // (workload.channels * len(one)))
    for first in range(0, workload.integrations, step):
        uvw = (antennas[first : first + step, one] - antennas[first : first + step, two]).reshape(-1, 3)
        noise = rng.standard_normal((1, workload.channels, len(uvw), 2), np.float32) * np.float32(sigma)
        vis = noise.view(np.complex64)[..., 0]
        if bright:
            vis[0, bright] += visibilities(sky, uvw, frequency[bright]).T
        weight = np.full(vis.shape, 1.0 / sigma**2, np.float32)
        weight[rng.random(vis.shape, np.float32) < FLAGGED] = 0.0
        write_rows(partition, first * len(one), np.ascontiguousarray(uvw), vis, weight)
        counts += (weight > 0).sum(2)
        power += (weight * (vis.real**2 + vis.imag**2)).sum(2, dtype=float)
    sort_rows(partition)
    return VisibilityStore(
        folder=folder,
        partitions=(partition,),
        counts=counts,
        selected=np.full((1, workload.channels), workload.rows),
        power=power / np.maximum(2 * counts, 1),
    )


def _sky(workload: Workload, rng: np.random.Generator) -> Sky:
    """Sources within the inner 60 % of the image; their spectra have only the bright channels."""
    reach = 0.3 * workload.imsize * np.deg2rad(workload.cell / 3600.0)
    flux = workload.peak * rng.uniform(0.1, 1.0, workload.sources)
    flux[0] = workload.peak
    places = rng.uniform(-reach, reach, (workload.sources, 2))
    bright = len(workload.bright_channels())
    return point_sky([(*p, np.full(bright, f)) for p, f in zip(places, flux, strict=True)], bright)


def settings_of(workload: Workload, store: VisibilityStore, **changes: Any) -> ImagingSettings:
    """What the device is told; `changes` replaces fields."""
    geometry = geometry_of(workload)
    uv_max, w_max = store.max_uvw_wavelengths()
    settings = ImagingSettings(
        geometry=geometry,
        weighting=workload.weighting,
        robust=workload.robust,
        w_term=needs_w(geometry.w_phase(w_max), workload.gridder, ImagingSettings.epsilon),
        samples=store.most_samples(),
        uv_max=uv_max,
        w_max=w_max,
    )
    return dataclasses.replace(settings, **changes)
