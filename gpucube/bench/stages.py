"""Run a workload through INGEST and IMAGE, and account for its time stage by stage.

In: a workload, or a MeasurementSet. Out: for every stage its seconds, the work it did, and the floor of that work. IMAGE
runs as in the main job (`schedule.ThreadWorkers`, `imaging.image_chunk`, a device by name), and its stages are the `seconds` of
its records. Stages that W workers do side by side count as their seconds over W, so that all stages add up to the wall
time. INGEST is measured on a MeasurementSet of the same channels with some of the rows, and scaled to all of them.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpucube.bench import floors
from gpucube.bench.machine import Others
from gpucube.bench.workloads import (
    Workload,
    expected_seconds,
    fitted_to_machine,
    frequencies,
    geometry_of,
    make_store,
    settings_of,
)
from gpucube.data.ingest import Ingest
from gpucube.data.selection import Selection, select
from gpucube.data.store import BYTES_A_SAMPLE, PlaneKey, VisibilityStore
from gpucube.devices.base import Device, DeviceKind, MinorCycle
from gpucube.devices.cycles import ACTIVE_SET_CUT
from gpucube.errors import GpucubeError
from gpucube.execution.machine import resident_peak
from gpucube.execution.plan import chunk_size, make_chunks
from gpucube.execution.threads import ThreadWorkers
from gpucube.imaging.job import ImageJob
from gpucube.imaging.loop import image_chunk
from gpucube.output.fits_cube import create_cubes, sync
from gpucube.output.fits_header import CubeDescription
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.schema.parameters import make_parameters
from gpucube.simulate import simulate_ms
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

INGEST_STAGES = ("read", "transpose")
RECORD_STAGES = ("upload", "weights", "grid", "psf", "fft", "measure", "minor", "major", "restore", "write")
IMAGE_STAGES = (*RECORD_STAGES, "sync", "idle")
STAGES = INGEST_STAGES + IMAGE_STAGES

SAMPLE_BYTES = 48e6
"""Size of DATA in the MeasurementSet that reading is measured on."""

PRODUCTS = ("image", "residual", "model")

DISTURBED = 0.05
"""Share of the machine that other programs may have during a run."""


@dataclass(frozen=True)
class Request:
    """How to measure: see the command line.

    `seconds` is what imaging all channels once may take; without `floors` only times are measured.
    """

    device: DeviceKind
    workers: int
    chunksize: int | str = "auto"
    repeat: int = 3
    stages: tuple[str, ...] = STAGES
    seconds: float = 20.0
    floors: bool = True


@dataclass
class Stage:
    """One stage of one workload, all channels together.

    Attributes
    ----------
    seconds : list of float
        One for each repeat.
    work, unit : float, str
        What was done, for the rate: visibilities, iterations, pixels, cycles or bytes.
    nbytes : float
        Bytes read and written at least.
    limit : float or None
        Seconds of the floor.
    floor, kind : str
        What the floor is, and which resource it stands for.
    """

    seconds: list[float]
    work: float = 0.0
    unit: str = ""
    nbytes: float = 0.0
    limit: float | None = None
    floor: str = ""
    kind: str = ""

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@dataclass
class Outcome:
    """A workload that was run: `definition` says what was run, `notes` what was cut or scaled, `others` what share of the
    machine other programs used during each repeat."""

    definition: dict[str, Any]
    notes: list[str]
    device: str
    workers: int
    chunksize: int = 0
    stages: dict[str, Stage] = field(default_factory=dict)
    walls: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    records: list[ChannelRecord] = field(default_factory=list)
    memory_peak: int = 0

    @property
    def accounted(self) -> float:
        """Share of the wall time that the stages add up to, median of the repeats."""
        sums = [sum(stage.seconds[i] for stage in self.stages.values()) for i in range(len(self.walls))]
        return statistics.median(s / w for s, w in zip(sums, self.walls, strict=True))


@dataclass(frozen=True)
class Scene:
    """What IMAGE works on: the `channels` of a store, with `width` (Hz) of a channel for the cubes' axis."""

    job: ImageJob
    channels: Sequence[int]
    width: float

    def with_cubes(self, imagename: str) -> ImageJob:
        """The job with fresh cubes."""
        frequency = self.job.frequency
        axis = SpectralAxis(
            frequency=frequency, width=np.full(len(frequency), self.width), frame=FRAMES["LSRK"], restfreq=None
        )
        cubes = create_cubes(
            imagename,
            PRODUCTS,
            CubeDescription(geometry=self.job.settings.geometry, axis=axis, stokes=self.job.stokes),
        )
        return replace(self.job, cubes=cubes)

    def chunks(self, size: int) -> list[list[int]]:
        """Its channels in chunks, the costly ones first."""
        power = self.job.store.channel_power[list(self.channels)]
        return [[self.channels[i] for i in chunk] for chunk in make_chunks(size, power)]


def say(text: str) -> None:
    """Tell what is going on, on standard error."""
    print(f"gpucube.bench: {text}", file=sys.stderr, flush=True)


def run_workload(workload: Workload, request: Request) -> Outcome:
    """Measure a workload.

    Raises
    ------
    GpucubeError
        It does not fit the machine.
    """
    with tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name:
        folder = Path(name)
        workload, workers, notes = fitted_to_machine(workload, request.workers, request.seconds, folder)
        for note in notes:
            say(f"{workload.name}: {note}")
        definition = asdict(workload) | {"rows": workload.rows}
        outcome = Outcome(definition, notes, request.device.name, workers, walls=[0.0] * request.repeat)
        bandwidth = floors.copy_bandwidth(workers)
        if set(request.stages) & set(INGEST_STAGES):
            say(f"{workload.name}: reading")
            ms, share = _sample(workload, folder)
            _, store, _ = measure_ingest(outcome, ms, share, request, folder, bandwidth)
            shutil.rmtree(store.folder)
            if share < 1:
                notes.append(f"read and transpose: measured on {share:.1%} of the rows and scaled to all of them")
        if set(request.stages) & set(IMAGE_STAGES):
            say(f"{workload.name}: making {workload.channels} channels of {workload.rows} rows")
            store = make_store(workload, str(folder / "store"))
            measure_image(outcome, scene_of(workload, store), request, folder, bandwidth)
        return outcome


def run_ms(ms: str, workload: Workload, request: Request) -> Outcome:
    """Measure a user's MeasurementSet, imaged as the workload is: its size, weighting and iteration control.

    The pixel is a third of the resolution. Where imaging all channels would take too long, evenly spaced ones stand for
    all, and the seconds of INGEST count in proportion.

    Raises
    ------
    GpucubeError
        It cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name:
        folder = Path(name)
        outcome = Outcome({}, [], request.device.name, request.workers, walls=[0.0] * request.repeat)
        bandwidth = floors.copy_bandwidth(request.workers)
        say(f"{ms}: reading")
        selection, store, nchan = measure_ingest(outcome, ms, 1.0, request, folder, bandwidth)
        longest = store.max_uvw_wavelengths()[0]
        cell = float(np.rad2deg(1.0 / (3.0 * longest)) * 3600.0)
        like = replace(
            workload, name=Path(ms).name, description=f"imaged as {workload.name}", cell=cell, channels=nchan
        )
        rows = sum(p.nrow for p in store.partitions)
        channels = range(nchan)
        expected = expected_seconds(like, request.workers) * max(1.0, rows / like.rows)
        if expected > request.seconds:
            channels = range(0, nchan, int(np.ceil(expected / request.seconds)))
            outcome.notes.append(f"{len(channels)} of {nchan} channels imaged: {request.seconds:.0f} s a run")
        outcome.definition = asdict(like) | {"ms": ms, "rows": rows, "imaged": len(channels)}
        share = len(channels) / nchan
        for stage in outcome.stages.values():
            stage.seconds = [s * share for s in stage.seconds]
            stage.work, stage.nbytes = stage.work * share, stage.nbytes * share
            stage.limit = None if stage.limit is None else stage.limit * share
        outcome.walls = [w * share for w in outcome.walls]
        geometry = replace(geometry_of(like), centre=selection.geometry.centre)
        settings = settings_of(like, store, geometry=geometry)
        frequency, width = selection.axis.frequency, float(abs(selection.axis.width[0]))
        job = ImageJob(store=store, settings=settings, clean=like.clean(), frequency=frequency)
        if set(request.stages) & set(IMAGE_STAGES):
            measure_image(outcome, Scene(job, channels, width), request, folder, bandwidth)
        return outcome


def scene_of(workload: Workload, store: VisibilityStore, **settings: Any) -> Scene:
    """All channels of a workload; `settings` replaces fields of its `ImagingSettings`."""
    frequency = frequencies(workload)
    job = ImageJob(
        store=store, settings=settings_of(workload, store, **settings), clean=workload.clean(), frequency=frequency
    )
    width = float(frequency[1] - frequency[0]) if len(frequency) > 1 else 1e4
    return Scene(job, range(workload.channels), abs(width))


def _sample(workload: Workload, folder: Path) -> tuple[str, float]:
    """A MeasurementSet of the workload's channels with as many integrations as fit `SAMPLE_BYTES`, and their share."""
    one = workload.rows / workload.integrations * workload.channels * 16
    integrations = max(1, min(workload.integrations, int(SAMPLE_BYTES / one)))
    made = simulate_ms(workload.simulation(folder / "sample.ms", integrations))
    return str(made.ms), integrations / workload.integrations


def measure_ingest(
    outcome: Outcome, ms: str, share: float, request: Request, folder: Path, bandwidth: float
) -> tuple[Selection, VisibilityStore, int]:
    """Time INGEST as a whole, and reading alone; what is more than reading counts as transposing.

    Returns
    -------
    selection : Selection
    store : VisibilityStore
        The last one made; its folder is there.
    nchan : int
        Its channels.
    """
    parameters = make_parameters(vis=ms, imagename=str(folder / "cube"), imsize=64, cell="1arcsec")
    selection = select(parameters)
    pool = ThreadWorkers(outcome.workers, request.device)
    walls, reads = [], []
    with ExitStack() as removal:
        for k in range(request.repeat + 1):
            place = str(folder / f"ingested{k}")
            begin = time.perf_counter()
            reading = Ingest(selection, place)
            removal.callback(shutil.rmtree, place, ignore_errors=True)
            store = reading.finish(pool.ingest(reading.jobs))
            walls.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            _read(selection)
            reads.append(time.perf_counter() - begin)
            if k < request.repeat:
                shutil.rmtree(place)
        removal.pop_all()
    # the first one compiles
    walls, reads = walls[1:], [min(r, w) for r, w in zip(reads[1:], walls[1:], strict=True)]
    limit = sum(
        floors.casacore_read(s.path, ["UVW", s.column, "FLAG", s.weight], s.nrow, s.block_rows)
        for s in selection.sources
    )
    nbytes = store.ms_bytes_read
    moved = nbytes + 2 * store.nbytes()
    outcome.stages["read"] = Stage(
        [r / share for r in reads], nbytes / share, "B", nbytes / share, limit / share, "casacore getcol", "casacore"
    )
    outcome.stages["transpose"] = Stage(
        [(w - r) / share for w, r in zip(walls, reads, strict=True)],
        float(store.selected.sum()) / share,
        "vis",
        moved / share,
        moved / bandwidth / share,
        "memory copy",
        "memory",
    )
    outcome.walls = [a + b / share for a, b in zip(outcome.walls, walls, strict=True)]
    return selection, store, selection.axis.nchan


def _read(selection: Selection) -> None:
    for source in selection.sources:
        reader, step = source.open(), source.block_rows
        for first in range(0, source.nrow, step):
            reader.read(first, min(step, source.nrow - first))
        reader.close()


@dataclass(frozen=True)
class Cycle:
    """One minor and major cycle of one plane: pixels of the active set, iterations, pixels of the model that changed, and
    seconds of the minor cycle, of the major cycle, and of the FFTs in it."""

    active: int
    iterations: int
    changed: int
    minor: float
    major: float
    fft: float


class Watch:
    """A device that notes what every cycle had to do, and passes every call on."""

    def __init__(self, device: Device[Any]):
        self._device = device
        self._model = np.zeros(0)
        self._half: tuple[int, int, float] = (0, 0, 0.0)
        self.cycles: list[Cycle] = []
        self.psf_fft = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def make_psf(self, planes: Sequence[Any], wide: bool) -> None:
        """As the device, and note its FFTs."""
        before = self._device.substage_seconds.get("fft", 0.0)
        self._device.make_psf(planes, wide)
        self.psf_fft += self._device.substage_seconds.get("fft", 0.0) - before

    def minor(self, planes: Sequence[Any], cycles: Sequence[MinorCycle]) -> list[int]:
        """As the device, and note pixels and iterations."""
        (plane,), (cycle,) = planes, cycles
        self._model = self._device.fetch(plane, "model").copy()
        active = np.count_nonzero(np.abs(self._device.fetch(plane, "residual")) > ACTIVE_SET_CUT * cycle.threshold)
        begin = time.perf_counter()
        iterations = self._device.minor(planes, cycles)
        self._half = active, iterations[0], time.perf_counter() - begin
        return iterations

    def major(self, planes: Sequence[Any]) -> None:
        """As the device, and note the change."""
        active, iterations, minor = self._half
        changed = np.count_nonzero(self._device.fetch(planes[0], "model") != self._model)
        before = self._device.substage_seconds.get("fft", 0.0)
        begin = time.perf_counter()
        self._device.major(planes)
        seconds = time.perf_counter() - begin
        fft = self._device.substage_seconds.get("fft", 0.0) - before
        self.cycles.append(Cycle(active, iterations, changed, minor, seconds - fft, fft))


def watch(job: ImageJob, device: DeviceKind, channel: int, workers: int) -> tuple[list[Cycle], float]:
    """Image one channel on all workers at once; its cycles, once for each worker, and the seconds of its PSF's FFTs."""
    begin = time.perf_counter()
    watches = _watch(job, device, channel, workers)
    if time.perf_counter() - begin < 5.0:
        watches = _watch(job, device, channel, workers)  # the first one compiled
    return [c for w in watches for c in w.cycles], sum(w.psf_fft for w in watches)


def _watch(job: ImageJob, device: DeviceKind, channel: int, workers: int) -> list[Watch]:
    def one(_: int) -> Watch:
        # a device belongs to the thread that made it
        watch = Watch(device.make(job.settings, workers))
        image_chunk(job, watch, [channel])
        return watch

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, range(workers)))


class _DiskClock:
    """`Events` that measure how long each worker waits for the disk: from its last channel to "safe"."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}
        self.synced: dict[str, float] = {}

    def _passed(self) -> tuple[str, float]:
        """Name of the worker, whose own thread this is, and seconds since its last event."""
        worker, now = threading.current_thread().name, time.perf_counter()
        passed = now - self.last.get(worker, now)
        self.last[worker] = now
        return worker, passed

    def started(self, channel: int) -> None:
        self._passed()

    def finished(self, record: ChannelRecord) -> None:
        self._passed()

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        worker, passed = self._passed()
        self.synced[worker] = self.synced.get(worker, 0.0) + passed


def image_once(
    job: ImageJob, device: DeviceKind, workers: int, chunks: Sequence[Sequence[int]]
) -> tuple[dict[str, float], float, list[ChannelRecord]]:
    """One run of IMAGE: seconds by stage (over the number of workers), wall seconds, records.

    Raises
    ------
    GpucubeError
        A channel failed.
    """
    clock = _DiskClock()
    begin = time.perf_counter()
    batches = ThreadWorkers(workers, device).image(job, chunks, clock)
    records = [record for batch in batches for record in batch]
    imaged = time.perf_counter()
    failed = [r for r in records if r.stop_code == StopCode.FAILED]
    if failed:
        raise GpucubeError(f"channel {failed[0].channel} of the workload failed: {failed[0].message}")
    for cube in job.cubes.values():
        sync(cube)
    end = time.perf_counter()
    seconds = {name: sum(r.seconds.get(name, 0.0) for r in records) / workers for name in RECORD_STAGES}
    waited = sum(imaged - at for at in clock.last.values()) + (workers - len(clock.last)) * (imaged - begin)
    seconds |= {"sync": end - imaged + sum(clock.synced.values()) / workers, "idle": waited / workers}
    return seconds, end - begin, records


def measure_image(outcome: Outcome, scene: Scene, request: Request, folder: Path, bandwidth: float) -> None:
    """Time IMAGE and its floors."""
    workers, channels = outcome.workers, list(scene.channels)
    outcome.chunksize = chunk_size(request.chunksize, len(channels), workers, len(channels))
    chunks = scene.chunks(outcome.chunksize)
    hardest = channels[int(np.argmax(scene.job.store.channel_power[channels]))]
    job = scene.with_cubes(str(folder / "watched"))  # which also compiles
    cycles, psf_fft = watch(job, request.device, hardest, workers)
    _remove(job)
    say(f"{outcome.definition['name']}: imaging {len(channels)} channels, {request.repeat} times")
    runs: list[tuple[float, float, dict[str, float]]] = []
    begin = time.perf_counter()
    while _wants_another(runs, request, time.perf_counter() - begin):
        job = scene.with_cubes(str(folder / f"run{len(runs)}"))
        others = Others()
        seconds, wall, records = image_once(job, request.device, workers, chunks)
        runs.append((others.share(), wall, seconds))
        _remove(job)
    runs = sorted(runs, key=lambda run: run[0])[: request.repeat]
    outcome.others = [share for share, _, _ in runs]
    outcome.walls = [a + wall for a, (_, wall, _) in zip(outcome.walls, runs, strict=True)]
    outcome.records, outcome.memory_peak = records, resident_peak()
    for name in IMAGE_STAGES:
        outcome.stages[name] = Stage([seconds[name] for _, _, seconds in runs])
    if request.floors:
        say(f"{outcome.definition['name']}: floors")
        _image_floors(outcome, scene, hardest, cycles, psf_fft, folder, bandwidth)


def _wants_another(runs: Sequence[tuple[float, float, dict[str, float]]], request: Request, elapsed: float) -> bool:
    """Whether to run IMAGE once more: a run that other programs disturbed is made again if the time allows, once."""
    if len(runs) < request.repeat:
        return True
    undisturbed = sum(share <= DISTURBED for share, _, _ in runs)
    longest = max(wall for _, wall, _ in runs)
    time_is_left = elapsed + longest < request.repeat * request.seconds
    return undisturbed < request.repeat and len(runs) < 2 * request.repeat and time_is_left


def _remove(job: ImageJob) -> None:
    for cube in job.cubes.values():
        Path(cube.path).unlink()


def _image_floors(
    outcome: Outcome, scene: Scene, hardest: int, cycles: list[Cycle], psf_fft: float, folder: Path, bandwidth: float
) -> None:
    """Fill in work, bytes and floors of the stages of IMAGE."""
    stages, workers, settings = outcome.stages, outcome.workers, scene.job.settings
    geometry, pixels = settings.geometry, settings.geometry.nx * settings.geometry.ny
    samples = scene.job.store.samples(PlaneKey(channel=hardest, stokes=0)).in_order()
    rows, n = len(samples.weight), len(scene.channels)
    cleaned = sum(r.major_cycles > 0 for r in outcome.records)
    majors = sum(r.major_cycles for r in outcome.records)
    vis = float(rows * n)

    def fill(name: str, work: float, unit: str, nbytes: float, limit: float | None, floor: str, kind: str) -> None:
        stage = stages[name]
        stage.work, stage.unit, stage.nbytes = work, unit, nbytes
        stage.limit, stage.floor, stage.kind = limit, floor, kind

    def by_memory(name: str, work: float, unit: str, nbytes: float) -> None:
        fill(name, work, unit, nbytes, nbytes / bandwidth / workers, "memory copy", "memory")

    by_memory("upload", vis, "vis", 2 * BYTES_A_SAMPLE * vis)
    by_memory("weights", vis, "vis", 32 * vis)
    epsilon = settings.epsilon
    grid, degrid = floors.gridding(samples, geometry, 1, settings.w_term, epsilon, workers)
    narrow = floors.gridding(samples, geometry, 1, False, epsilon, workers)[0] if settings.w_term else grid
    wide = floors.gridding(samples, geometry, 2, False, epsilon, workers)[0] if cleaned else 0.0
    fill("grid", vis, "vis", BYTES_A_SAMPLE * vis, n * grid / workers, "ducc0 gridding", "gridding")
    limit = (cleaned * wide + (n - cleaned) * narrow) / workers
    fill("psf", vis, "vis", BYTES_A_SAMPLE * vis, limit, "ducc0 gridding", "gridding")
    look = floors.pixel_pass(pixels, workers)
    measured = float((majors + n) * pixels)
    fill("measure", measured, "pix", 4 * measured, 3 * (majors + n) * look / workers, "three looks at a plane", "loops")
    iterations = float(sum(r.iterations for r in outcome.records))
    if cycles:
        loop = floors.minor_loop([(c.active, c.iterations) for c in cycles], workers) + look * len(cycles)
        limit = stages["minor"].median * loop / sum(c.minor for c in cycles)
    else:
        limit = None
    fill("minor", iterations, "it", 0.0, limit, "peak and touch, active pixels", "loops")
    _major_floors(outcome, cycles, psf_fft, majors, grid + degrid, look, fill, geometry)
    by_memory("restore", float(n * pixels), "pix", 8.0 * n * pixels)
    written = 4.0 * len(PRODUCTS) * n * pixels
    write, synced = floors.disk_write(folder, 4 * pixels)
    fill("write", written, "B", written, written / write / workers, "pwrite", "disk")
    fill("sync", written, "B", written, written / synced, "fsync", "disk")


def _major_floors(
    outcome: Outcome,
    cycles: list[Cycle],
    psf_fft: float,
    majors: int,
    both_ways: float,
    look: float,
    fill: Callable[[str, float, str, float, float | None, str, str], None],
    geometry: ImageGeometry,
) -> None:
    """Floors of the major cycle: through the visibilities, or by FFTs and by components one at a time."""
    stages, workers = outcome.stages, outcome.workers
    if not cycles:
        fill("fft", 0.0, "pix", 0.0, None, "ducc0 FFT", "FFT")
        fill("major", float(majors), "cycle", 0.0, None, "", "loops")
        return
    if psf_fft == 0:
        fill("fft", 0.0, "pix", 0.0, None, "ducc0 FFT", "FFT")
        fill("major", float(majors), "cycle", 0.0, majors * both_ways / workers, "ducc0 degrid and grid", "gridding")
        return
    forward, back = floors.transforms(geometry, workers)
    dense = sum(c.fft > 0 for c in cycles)
    # every worker watched the same channel, and made one PSF
    ideal = dense * (forward + back) + workers * forward
    limit = stages["fft"].median * ideal / (sum(c.fft for c in cycles) + psf_fft)
    transformed = 4.0 * geometry.nx * geometry.ny * limit * workers / (0.5 * (forward + back))
    fill("fft", transformed, "pix", 0.0, limit, "ducc0 FFT of twice the image", "FFT")
    sparse = sum(c.changed for c in cycles if c.fft == 0)
    limit = stages["major"].median * (sparse + len(cycles)) * look / sum(c.major for c in cycles)
    fill("major", float(majors), "cycle", 0.0, limit, "a look at a plane per changed pixel", "loops")
