"""``python -m gpucube.bench meter``: count what a GPU has to do for a workload, and time what Python needs to request it.

No GPU is needed. In: a workload. Out: for each step of a chunk of all channels the operations, looks, copies and bytes (defined
in `gpucube.bench.ghosts`), and the time of Python for the whole job. The imaging loop and the CUDA device run as in the main
job, on arrays without values. The numbers on which the loop decides (peaks, noise, iterations) are invented: the bright channels
of the workload stop after 4 to 9 major cycles.

`python_seconds` is the processor time of one thread for the whole job: imaging loop and device, with beams fitted to Gaussians,
and the counting itself. It is the least of several runs without garbage collection. It does not include reading, writing,
bringing files to disk, work on a GPU, or CuPy's own time for each operation.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from gpucube.bench.ghosts import Counter, Counts, ghost_backend
from gpucube.bench.workloads import PRODUCTS, Workload
from gpucube.output.records import StopCode

STEPS = ("begin", "measure", "psf", "cycle", "finish")
"""A cycle is the largest of all major cycles with its minor cycle; the other steps are added up over the chunk."""

STEP_OF = {
    "begin": "begin",
    "make_psf": "psf",
    "beams": "psf",
    "minor": "cycle",
    "major": "cycle",
    "measure": "cycle",
    "keep_model": "cycle",
    "roll_back": "cycle",
}
"""The step that each call of a `Device` belongs to: finishing if it is not named."""

ANSWERS: dict[str, dict[int, float]] = {
    "hogbom_active_set": {14: 1000},
    "hogbom_textbook": {11: 1000},
    "multiscale_active_set": {16: 1000},
    "make_items": {8: 250},
}
"""A minor cycle is finished and has changed so many pixels of the model; planes have so many items."""

REPEATS = 5


COUNTS = ("operations", "looks", "copies", "bytes")


_NOTHING: Counts = (0,) * len(COUNTS)


def _sum(one: Sequence[int], other: Sequence[int]) -> Counts:
    return tuple(a + b for a, b in zip(one, other, strict=True))


class MeteredDevice:
    """A device whose calls are counted, and which says what the script of the job wants it to say."""

    def __init__(self, device: Any, counter: Counter, bright: Sequence[int]):
        self._device, self._counter, self._bright = device, counter, frozenset(bright)
        self.name, self.batch, self.substage_seconds = device.name, device.batch, device.substage_seconds
        self._peaks: dict[int, float] = {}  # of the planes at work, by the identity of the plane
        self.steps = dict.fromkeys(STEPS, _NOTHING)
        self._cycle = _NOTHING
        self.cycles = 0
        for name in STEP_OF:  # wrapped now, before the clock starts
            getattr(self, name)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._device, name)
        if not callable(found) or isinstance(found, type):
            return found
        said: Callable[..., Any] | None = vars(type(self)).get(f"_say_{name}")

        def counted(*arguments: Any, **options: Any) -> Any:
            before = self._counter.counts()
            result = found(*arguments, **options)
            self._charge(name, before)
            return result if said is None else said(self, result, *arguments)

        setattr(self, name, counted)
        return counted

    def finish(self, *arguments: Any) -> Any:
        """Count what is done whenever the caller asks for the next plane."""
        before = self._counter.counts()
        for finished in self._device.finish(*arguments):
            if self._counter.operations > before[0]:
                self._charge("finish", before)
                before = self._counter.counts()
            yield finished

    def _charge(self, name: str, before: Counts) -> None:
        """Charge what has been asked since then."""
        step = STEP_OF.get(name, "finish")
        if name == "minor":
            self._cycle = _NOTHING
            self.cycles += 1
        if (now := self._counter.counts()) == before:
            return
        spent = [one - other for one, other in zip(now, before, strict=True)]
        if step != "cycle":
            self.steps[step] = _sum(self.steps[step], spent)
        elif not self.cycles:  # the first residual is measured before any cycle
            self.steps["measure"] = _sum(self.steps["measure"], spent)
        else:
            self._cycle = _sum(self._cycle, spent)
            if self._cycle[0] > self.steps[step][0]:
                self.steps[step] = self._cycle

    def _say_begin(self, planes: list[Any], samples: Sequence[Any], masks: Sequence[Any]) -> list[Any]:
        for number, plane in enumerate(planes):
            plane.sum_weights, plane.visibilities = 1.0, 200_000
            self._peaks[id(plane)] = 10.0 + 6.0 * number if number in self._bright else 1.0
        return planes

    def _say_measure(self, found: Any, planes: Sequence[Any]) -> list[tuple[float, float]]:
        return [(self._peaks[id(plane)], 1.0) for plane in planes]

    def _say_minor(self, found: Any, planes: Sequence[Any], cycles: Sequence[Any]) -> list[int]:
        for plane in planes:
            self._peaks[id(plane)] *= 0.5
        return [100] * len(planes)


def ghost_samples(make: Callable[..., Any], rows: int, channels: int) -> list[Any]:
    """Make samples of every channel: they share their rows, as in a store of one MeasurementSet."""
    uvw, order = np.zeros((rows, 3)), np.arange(rows, dtype=np.int32)
    vis, weight = np.zeros(rows, np.complex64), np.ones(rows, np.float32)
    return [
        make(uvw=uvw, frequency=1e9 + 1e4 * k, vis=vis, weight=weight, order=order, rows="rows")
        for k in range(channels)
    ]


def measured(
    run: Callable[[MeteredDevice], list[Any]], device: Callable[[], tuple[Any, Counter]], bright: range
) -> dict[str, Any]:
    """Run a job several times on new devices; returns the counts of one run and the least seconds of Python."""
    seconds, metered, batches = [], None, 0
    for _ in range(REPEATS):
        made, counter = device()
        metered = MeteredDevice(made, counter, bright)
        gc.collect()
        gc.disable()  # its time depends on what else the process holds
        begin = time.thread_time()
        records = run(metered)
        seconds.append(time.thread_time() - begin)
        gc.enable()
        batches = counter.batches
        if failed := next((r for r in records if r.stop_code is StopCode.FAILED), None):
            raise RuntimeError(f"the metered job failed: {failed}")
    assert metered is not None
    return {
        **{step: dict(zip(COUNTS, count, strict=True)) for step, count in metered.steps.items()},
        "cycles": metered.cycles,
        "fft_batches": batches,
        "python_seconds": min(seconds),
    }


def meter(workload: Workload, scales: tuple[float, ...] = ()) -> dict[str, Any]:
    """Meter a workload, cleaned with so many scales if there are any: counts by step, and ``python_seconds``."""
    from gpucube.data.store import PlaneKey, Samples, VisibilityStore
    from gpucube.devices.base import ImagingSettings
    from gpucube.devices.cuda.backend import Backend
    from gpucube.devices.cuda.device import CudaDevice
    from gpucube.devices.cycle_rules import needs_w
    from gpucube.imaging.chunk import image_chunk
    from gpucube.imaging.job import ImageJob
    from gpucube.imaging.stopping import CleanParameters
    from gpucube.simulate.arrays import ARRAYS

    channels, rows, geometry = workload.channels, workload.rows, workload.geometry
    array = ARRAYS[workload.array]
    longest = array.extent * array.rest_freq / 299_792_458.0
    settings = ImagingSettings(
        geometry=geometry,
        weighting=workload.weighting,
        robust=workload.robust,
        w_term=needs_w(geometry.w_phase(longest), workload.gridder, ImagingSettings.epsilon),
        samples=rows,
        uv_max=longest,
        w_max=longest,
        scales=scales,
    )
    samples = ghost_samples(Samples, rows, channels)

    class Store(VisibilityStore):
        """A store without a folder."""

        def samples(self, key: PlaneKey) -> Samples | None:
            return samples[key.channel]  # type: ignore[no-any-return]  # made by the class that was given

        def exists(self) -> bool:
            return True

    store = Store(
        folder="",
        partitions=(),
        counts=np.full((1, 1, channels), rows),
        selected=np.full((1, channels), rows),
        power=np.ones((1, 1, channels)),
    )

    class Job(ImageJob):
        """A job whose planes go nowhere."""

        def write(self, product: str, key: Any, values: np.ndarray) -> str:
            return ""

        def sync(self) -> None: ...

    def device() -> tuple[Any, Counter]:
        backend, counter = ghost_backend(Backend, ANSWERS)
        made = CudaDevice(settings, backend)
        made.batch = max(made.batch, channels)
        return made, counter

    cube: Any = SimpleNamespace(ny=settings.geometry.ny, nx=settings.geometry.nx)
    job = Job(
        store=store,
        settings=settings,
        clean=CleanParameters(niter=workload.niter, nsigma=workload.nsigma),
        frequency=workload.axis.frequency,
        cubes=dict.fromkeys(PRODUCTS, cube),
    )
    return measured(lambda metered: image_chunk(job, metered, range(channels)), device, workload.bright_channels)


def table(workload: Workload, found: dict[str, Any]) -> str:
    """Write the counts as a Markdown table."""
    head = "| step | operations | looks | copies | MB |\n|---|---|---|---|---|\n"
    lines = [
        f"| {step} | {count['operations']} | {count['looks']} | {count['copies']} | {count['bytes'] / 1e6:.2f} |\n"
        for step in STEPS
        for count in [found[step]]
    ]
    return (
        f"{workload.name}: {workload.channels} planes of {workload.imsize} x {workload.imsize} pixels in one chunk, "
        f"{found['cycles']} major cycles.\n\n{head}{''.join(lines)}\n"
        f"cuFFT is called for {found['fft_batches']} batches in all. "
        f"Python takes {1e3 * found['python_seconds']:.1f} ms for the whole job.\n"
    )
