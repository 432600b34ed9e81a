"""What it saves that every channel converges on its own schedule.

In: cubes that differ only in how many of their channels are bright. Out: the wall time of three ways to image each of them,
on the same device, with the same MeasurementSet and the same stopping rules:

* *own schedule*: gpucube's way. One INGEST, and then every channel is cycled until it alone has converged.
* *lock step*: the same INGEST, then chunks of channels. Every major cycle is made for all channels of a chunk, until the last
  of them has converged. A channel that has converged takes no minor iterations, as in tclean.
* *one task per channel*: each channel is a job of its own, which reads the MeasurementSet itself.

    python bench/experiments/convergence.py [--device auto] [--workers 2] [--repeat 3] [--json FILE]
"""

from __future__ import annotations

import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from experiment import command, run_experiment

import gpucube
from gpucube.bench import report
from gpucube.bench.scene import Scene, point_sources, remove_cubes, scene_of
from gpucube.bench.stages import image_once, say
from gpucube.bench.workloads import Workload
from gpucube.data.ingest import Ingest
from gpucube.data.selection import select
from gpucube.data.store import Samples, VisibilityStore
from gpucube.devices.base import Device, DeviceKind
from gpucube.execution.plan import chunk_size
from gpucube.execution.threads import ThreadWorkers
from gpucube.imaging.chunk import image_chunk
from gpucube.imaging.job import ImageJob
from gpucube.output.records import ChannelRecord
from gpucube.schema.parameters import make_parameters
from gpucube.simulate import simulate_ms
from gpucube.text import markdown_table

CUBE = Workload(
    name="convergence",
    description="VLA D, HI line: 100 channels; bright ones hold 60 sources of up to 1 Jy, the others need no cleaning",
    array="vla-d",
    channels=100,
    integrations=144,
    imsize=256,
    cell=10.0,
    sources=60,
    peak=1.0,
    nsigma=5.5,
)
"""The cube whose share of bright channels is varied."""

SHARES = (0.01, 0.05, 0.2, 0.5, 1.0)
LOCK_STEP_CHUNKS = (10, -1)
"""Channels of a lock-step chunk; -1: all channels of a worker."""

MAJOR_CYCLES = ("auto", "visibility")


class LockStep:
    """A device that makes every major cycle for all planes of a chunk, until the last of them has stopped.

    `image_chunk` takes it in place of the device itself. All planes are begun together. A plane that has stopped keeps
    its place and takes part in the major cycles and measurements of the others.
    """

    batch = sys.maxsize  # a chunk is not split

    def __init__(self, device: Device[Any]) -> None:
        self._device = device
        self._planes: list[Any] = []
        self.major_cycles = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def begin(self, samples: Sequence[Samples | None], masks: Sequence[np.ndarray | None]) -> list[Any]:
        """As the device, and keep the planes that have data."""
        planes = self._device.begin(samples, masks)
        self._planes = [plane for plane in planes if plane.sum_weights > 0]
        return planes

    def make_psf(self, planes: Sequence[Any], wide: bool) -> None:
        """Make wide PSFs only: every plane takes part in major cycles."""
        self._device.make_psf(planes, True)

    def measure(self, planes: Sequence[Any]) -> list[tuple[float, float]]:
        """Measure all planes of the chunk."""
        measured = self._device.measure(self._planes)
        return [measured[next(i for i, kept in enumerate(self._planes) if kept is plane)] for plane in planes]

    def major(self, planes: Sequence[Any]) -> None:
        """Make a major cycle of all planes of the chunk."""
        self._device.major(self._planes)
        self.major_cycles += len(self._planes)

    def release(self, planes: Sequence[Any]) -> None:
        """Keep them."""


def lock_step(job: ImageJob, device: Device[Any], channels: Sequence[int]) -> tuple[list[ChannelRecord], int]:
    """Image a chunk of channels in lock step; returns their records and the major cycles of all of them together."""
    together = LockStep(device)
    records = image_chunk(job, together, channels)
    device.reset()
    return records, together.major_cycles


def measure_convergence(
    kind: DeviceKind, workers: int, repeat: int, cube: Workload = CUBE, shares: Sequence[float] = SHARES
) -> tuple[str, dict[str, Any]]:
    """Run the experiment; returns the page and the JSON document."""
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name,
        ProcessPoolExecutor(workers, mp_context=spawn) as pool,
        kind.working(),
    ):
        curve = []
        for share in shares:
            folder = Path(name) / f"{share}"
            folder.mkdir()
            curve.append(_measure_cube(cube.changed(bright=share), kind, workers, repeat, folder, pool))
            shutil.rmtree(folder)
    result = report.document([command()], [], convergence=curve)
    return _page(result), result


def _measure_cube(
    cube: Workload, kind: DeviceKind, workers: int, repeat: int, folder: Path, pool: ProcessPoolExecutor
) -> dict[str, Any]:
    """All ways of imaging one cube."""
    say(f"{len(cube.bright_channels)} of {cube.channels} channels bright")
    sources = point_sources(cube, np.random.default_rng(1))
    ms = str(simulate_ms(cube.simulation(folder / "cube.ms"), sources).ms)
    parameters = _parameters(cube, ms, folder / "unused", kind)
    store, cost = _measure_ingest(parameters, kind, workers, repeat, folder)
    ways: dict[str, dict[str, Any]] = {}
    for majorcycle in MAJOR_CYCLES:
        scene = scene_of(cube, store, majorcycle=majorcycle)
        chunks = scene.chunks(chunk_size("auto", cube.channels, workers, cube.channels))

        def own(job: ImageJob, chunks: Sequence[Sequence[int]] = chunks) -> dict[str, Any]:
            return _own_figures(image_once(job, kind, workers, chunks).records)

        _timed(1, scene, folder, own)  # compiles
        ways[f"own schedule, {majorcycle}"] = _timed(repeat, scene, folder, own)
        for size in LOCK_STEP_CHUNKS:
            of_channels = size if size > 0 else -(-cube.channels // workers)
            chunks = scene.chunks(of_channels)

            def together(job: ImageJob, chunks: Sequence[Sequence[int]] = chunks) -> dict[str, Any]:
                return _lock_steps(job, kind, workers, chunks)

            ways[f"lock step of {of_channels}, {majorcycle}"] = _timed(repeat, scene, folder, together)
    tasks = [parameters | {"imagename": str(folder / f"c{c}"), "start": c, "nchan": 1} for c in range(cube.channels)]
    ways["one task per channel"] = _tasks(tasks, workers, pool)
    return {
        "workload": cube.model_dump() | {"rows": cube.rows},
        "bright_channels": len(cube.bright_channels),
        **cost,
        "ways": ways,
    }


def _parameters(cube: Workload, ms: str, imagename: Path, kind: DeviceKind) -> dict[str, Any]:
    """Parameters of the main job for the cube."""
    names = ("imsize", "weighting", "robust", "gridder", "niter", "nsigma")
    return {name: getattr(cube, name) for name in names} | {
        "vis": ms,
        "imagename": str(imagename),
        "cell": f"{cube.cell}arcsec",
        "device": kind.name,
        "workers": 1,
        "quiet": True,
        "overwrite": True,
    }


def _measure_ingest(
    parameters: dict[str, Any], kind: DeviceKind, workers: int, repeat: int, folder: Path
) -> tuple[VisibilityStore, dict[str, list[float]]]:
    """Time INGEST; returns the last store and the seconds of every repeat but the first, which compiles."""
    selection = select(make_parameters(**parameters))
    walls, cpus = [], []
    for k in range(repeat + 1):
        begin, spent = time.perf_counter(), time.process_time()
        ingest = Ingest(selection, str(folder / f"store{k}"))
        store = ingest.finish(ThreadWorkers(workers, kind).ingest(ingest.jobs))
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - spent)
        if k < repeat:
            shutil.rmtree(store.folder)
    return store, {"ingest_seconds": walls[1:], "ingest_cpu_seconds": cpus[1:]}


def _timed(repeat: int, scene: Scene, folder: Path, run: Callable[[ImageJob], dict[str, Any]]) -> dict[str, Any]:
    """Wall and CPU seconds of every run, and the figures of the last one. Each run writes cubes of its own."""
    walls, cpus, figures = [], [], {}
    for _ in range(repeat):
        job = scene.with_cubes(str(folder / "cube"))
        begin, spent = time.perf_counter(), time.process_time()
        figures = run(job)
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - spent)
        remove_cubes(job)
    return {"image_seconds": walls, "image_cpu_seconds": cpus, **figures}


def _own_figures(records: Sequence[ChannelRecord]) -> dict[str, Any]:
    """Figures of gpucube's own way, with the cost of every channel."""
    ordered = sorted(records, key=lambda r: r.channel)
    return {
        "iterations": sum(r.iterations for r in ordered),
        "major_cycles": sum(r.major_cycles for r in ordered),
        "channel_seconds": [sum(r.seconds.values()) for r in ordered],
        "channel_major_cycles": [r.major_cycles for r in ordered],
    }


def _lock_steps(job: ImageJob, kind: DeviceKind, workers: int, chunks: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Image every chunk in lock step, several at once."""
    with ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(lambda chunk: lock_step(job, kind.make(job.settings, workers), chunk), chunks))
    return {
        "iterations": sum(r.iterations for records, _ in done for r in records),
        "major_cycles": sum(majors for _, majors in done),
    }


def _tasks(tasks: Sequence[dict[str, Any]], workers: int, pool: ProcessPoolExecutor) -> dict[str, Any]:
    """Image every channel as a job of its own."""
    list(pool.map(_one_task, tasks[: 2 * workers]))  # processes start and compile
    begin = time.perf_counter()
    costs = list(pool.map(_one_task, tasks))
    return {
        "wall_seconds": [time.perf_counter() - begin],
        "cpu_seconds": [sum(cpu for _, cpu in costs)],
        "task_seconds": [wall for wall, _ in costs],
    }


def _one_task(parameters: dict[str, Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one channel, reading included."""
    begin, spent = time.perf_counter(), time.process_time()
    gpucube.image_cube(**parameters)
    return time.perf_counter() - begin, time.process_time() - spent


def whole_seconds(entry: dict[str, Any], way: str, cpu: bool = False) -> float:
    """Median wall or CPU seconds of a way, INGEST included."""
    figures, kind = entry["ways"][way], "cpu_" if cpu else ""
    if "wall_seconds" in figures:
        return statistics.median(figures["cpu_seconds" if cpu else "wall_seconds"])
    return statistics.median(entry[f"ingest_{kind}seconds"]) + statistics.median(figures[f"image_{kind}seconds"])


def _page(result: dict[str, Any]) -> str:
    curve = result["convergence"]
    ways, w = list(curve[0]["ways"]), curve[0]["workload"]
    own = ways[0]
    size = f"{w['channels']} channels x {w['rows']} rows, {w['imsize']} x {w['imsize']} pixels"
    lines = [f"# `{result['command']}`", "", report.head(result) + ".", ""]
    lines += [f'{size}. INGEST is included; the ratio to "{own}" is in brackets.', ""]
    for cpu, title in ((False, "Wall seconds"), (True, "CPU seconds, which other programs do not stretch")):
        rows = [["bright channels", *ways]]
        for entry in curve:
            seconds = [whole_seconds(entry, way, cpu) for way in ways]
            rows.append([str(entry["bright_channels"]), *(f"{s:.2f} ({s / seconds[0]:.1f})" for s in seconds)])
        lines += [f"{title}:", "", markdown_table(rows), ""]
    imaging = [way for way in ways if "image_seconds" in curve[0]["ways"][way]]
    rows = [["bright channels", "INGEST", *imaging]]
    for entry in curve:
        figures = [entry["ways"][way] for way in imaging]
        cells = [f"{statistics.median(f['image_seconds']):.2f} ({f['major_cycles']})" for f in figures]
        rows.append([str(entry["bright_channels"]), f"{statistics.median(entry['ingest_seconds']):.2f}", *cells])
    lines += ["IMAGE alone, wall seconds; major cycles in brackets:", "", markdown_table(rows), ""]
    rows = [["bright channels", "least", "median", "95 %", "largest", "largest / median", "largest major cycles"]]
    for entry in curve:
        costs = np.array(entry["ways"][own]["channel_seconds"])
        middle = float(np.median(costs))
        cells = [f"{s:.3f}" for s in (costs.min(), middle, np.percentile(costs, 95), costs.max())]
        cycles = max(entry["ways"][own]["channel_major_cycles"])
        rows.append([str(entry["bright_channels"]), *cells, f"{costs.max() / middle:.1f}", str(cycles)])
    return "\n".join([*lines, f"Cost of a channel ({own}), seconds of one worker:", "", markdown_table(rows), ""])


if __name__ == "__main__":
    sys.exit(run_experiment(measure_convergence, __doc__))
