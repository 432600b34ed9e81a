"""Per-channel convergence, measured: what every channel's own schedule saves.

In: cubes that differ only in how many of their channels are bright. Out: wall time of three ways to image each of them, on
the same device, the same MeasurementSet and the same stopping rules:

* *own schedule*: gpucube's, one INGEST and then every channel until it alone has converged;
* *lock step*: the same INGEST, then chunks of channels in which every major cycle is made for all channels until the last
  one has converged; those that have converged take no minor iterations, as in tclean;
* *one task per channel*: each channel a job of its own that reads the MeasurementSet itself.

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
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from experiment import command, run_experiment

import gpucube
from gpucube.bench import report
from gpucube.bench.stages import Scene, image_once, say
from gpucube.bench.workloads import Workload, settings_of
from gpucube.data.ingest import Ingest
from gpucube.data.selection import select
from gpucube.data.store import PlaneKey, VisibilityStore
from gpucube.devices.base import Device, DeviceKind, MinorCycle
from gpucube.execution.plan import chunk_size
from gpucube.execution.threads import ThreadWorkers
from gpucube.imaging.job import ImageJob
from gpucube.imaging.restore import restored
from gpucube.imaging.stopping import Action, LoopState, after_cycle, next_cycle, observe
from gpucube.output.fits_cube import sync, write_plane
from gpucube.output.records import ChannelRecord
from gpucube.schema.parameters import make_parameters
from gpucube.simulate import simulate_ms

CUBE = Workload(
    "convergence",
    "VLA D, HI line: 100 channels; bright ones hold 60 sources of up to 1 Jy, the others need no cleaning",
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


def lock_step(job: ImageJob, device: Device[Any], channels: Sequence[int]) -> tuple[int, int]:
    """Image a chunk of channels in lock step: every major cycle is made for all, until the last has converged.

    Returns
    -------
    iterations, major_cycles : int
        Of all channels together.
    """
    samples = [job.store.samples(PlaneKey(channel=c, stokes=0)) for c in channels]
    planes = device.begin(samples, [None] * len(channels))
    kept = [i for i, p in enumerate(planes) if p.sum_weights > 0]
    planes, channels = [planes[i] for i in kept], [channels[i] for i in kept]
    states = [LoopState() for _ in planes]
    _judge(job, device, planes, states)
    device.make_psf(planes, True)
    beams, sidelobes = zip(*device.beams(planes), strict=True)
    iterations = majors = 0
    while any(state.stop is None for state in states):
        cycles = [
            next_cycle(state, sidelobe, job.clean)
            if state.stop is None
            else MinorCycle(threshold=np.inf, max_iterations=0, gain=job.clean.gain)
            for state, sidelobe in zip(states, sidelobes, strict=True)
        ]
        done = device.minor(planes, cycles)
        device.major(planes)
        iterations, majors = iterations + sum(done), majors + len(planes)
        for i, state in enumerate(states):
            if state.stop is None:
                states[i] = after_cycle(state, done[i])
        _judge(job, device, planes, states)
    for plane, channel, beam in zip(planes, channels, beams, strict=True):
        model, residual = (device.fetch(plane, name) for name in ("model", "residual"))
        image = restored(device, job.settings.geometry, model, residual, beam, beam)
        for name, values in (("image", image), ("residual", residual), ("model", model)):
            write_plane(job.cubes[name], 0, channel, values)
    for cube in job.cubes.values():
        sync(cube)  # as gpucube does for every chunk
    return iterations, majors


def _judge(job: ImageJob, device: Device[Any], planes: Sequence[Any], states: list[LoopState]) -> None:
    """Measure all residuals, decide on those that still run; changes `states`."""
    for i, (peak, noise) in enumerate(device.measure(planes)):
        before = states[i]
        if before.stop is not None:
            continue
        states[i], action = observe(before, peak, noise, job.clean)
        if action in (Action.ROLL_BACK_AND_CLEAN, Action.ROLL_BACK_AND_STOP):
            device.roll_back([planes[i]])
        elif states[i].best_peak < before.best_peak and states[i].stop is None:
            device.keep_model([planes[i]])


def measure_convergence(
    device: DeviceKind, workers: int, repeat: int, cube: Workload = CUBE, shares: Sequence[float] = SHARES
) -> tuple[str, dict[str, Any]]:
    """Run the experiment; returns the page and the JSON document."""
    curve = []
    with tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name, ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=spawn))
        for share in shares:
            folder = Path(name) / f"{share}"
            folder.mkdir()
            curve.append(_measure_share(replace(cube, bright=share), device, workers, repeat, folder, pool))
            shutil.rmtree(folder)
    result = report.document([command()], [], convergence=curve)
    return _page(result), result


def _measure_share(
    cube: Workload, device: DeviceKind, workers: int, repeat: int, folder: Path, pool: ProcessPoolExecutor
) -> dict[str, Any]:
    """All ways of imaging one cube."""
    say(f"{len(cube.bright_channels())} of {cube.channels} channels bright")
    ms = _simulated(cube, folder)
    parameters = _parameters(cube, ms, folder / "unused")
    selection = select(make_parameters(**parameters))
    with ExitStack() as removal:
        times, cpu = [], []
        for k in range(repeat + 1):
            begin, spent = time.perf_counter(), time.process_time()
            reading = Ingest(selection, str(folder / f"store{k}"))
            removal.callback(shutil.rmtree, folder / f"store{k}", ignore_errors=True)
            store = reading.finish(ThreadWorkers(workers, device).ingest(reading.jobs))
            times.append(time.perf_counter() - begin)
            cpu.append(time.process_time() - spent)
        entry: dict[str, Any] = {
            "workload": asdict(cube) | {"rows": cube.rows},
            "bright_channels": len(cube.bright_channels()),
            "ingest_seconds": times[1:],
            "ingest_cpu_seconds": cpu[1:],
            "ways": {},
        }
        for majorcycle in MAJOR_CYCLES:
            scene = _scene(cube, store, majorcycle)
            chunks = scene.chunks(chunk_size("auto", cube.channels, workers, cube.channels))
            _repeated(1, scene, folder, lambda job, c=chunks[:workers]: image_once(job, device, workers, c)[1:])
            cost, records = _repeated(
                repeat, scene, folder, lambda job, c=chunks: image_once(job, device, workers, c)[1:]
            )
            entry["ways"][f"own schedule, {majorcycle}"] = cost | _own(records)
            for size in LOCK_STEP_CHUNKS:
                of_channels = size if size > 0 else -(-cube.channels // workers)
                chunks = scene.chunks(of_channels)
                cost, (iterations, majors) = _repeated(
                    repeat, scene, folder, lambda job, c=chunks: _lock_steps(job, device, workers, c)
                )
                entry["ways"][f"lock step of {of_channels}, {majorcycle}"] = cost | {
                    "iterations": iterations,
                    "major_cycles": majors,
                }
    tasks = [parameters | {"imagename": str(folder / f"c{c}"), "start": c, "nchan": 1} for c in range(cube.channels)]
    list(pool.map(_one_task, tasks[: 2 * workers]))  # processes start and compile
    begin = time.perf_counter()
    costs = list(pool.map(_one_task, tasks))
    entry["ways"]["one task per channel"] = {
        "wall_seconds": [time.perf_counter() - begin],
        "cpu_seconds": [sum(cpu for _, cpu in costs)],
        "task_seconds": [wall for wall, _ in costs],
    }
    return entry


def _simulated(cube: Workload, folder: Path) -> str:
    """The cube as a MeasurementSet, its sources as in `workloads.make_store`."""
    rng = np.random.default_rng(1)
    reach = 0.3 * cube.imsize * np.deg2rad(cube.cell / 3600.0)
    spectrum = np.zeros(cube.channels)
    spectrum[list(cube.bright_channels())] = cube.peak
    places = rng.uniform(-reach, reach, (cube.sources, 2))
    brightness = rng.uniform(0.1, 1.0, cube.sources)
    sources = [(*p, b * spectrum) for p, b in zip(places, brightness, strict=True)]
    return str(simulate_ms(cube.simulation(folder / "cube.ms"), sources).ms)


def _parameters(cube: Workload, ms: str, imagename: Path) -> dict[str, Any]:
    names = ("imsize", "weighting", "robust", "gridder", "niter", "nsigma")
    values = {name: getattr(cube, name) for name in names}
    return values | {
        "vis": ms,
        "imagename": str(imagename),
        "cell": f"{cube.cell}arcsec",
        "workers": 1,
        "quiet": True,
        "overwrite": True,
    }


def _scene(cube: Workload, store: VisibilityStore, majorcycle: str) -> Scene:
    frequency = np.array(store.partitions[0].frequency)
    settings = settings_of(cube, store, majorcycle=majorcycle)
    job = ImageJob(store=store, settings=settings, clean=cube.clean(), frequency=frequency)
    return Scene(job, range(cube.channels), float(abs(frequency[1] - frequency[0])))


def _repeated(
    repeat: int, scene: Scene, folder: Path, run: Callable[[ImageJob], tuple[float, Any]]
) -> tuple[dict[str, list[float]], Any]:
    """Wall and CPU seconds of every run, and what the last one gave; each writes cubes of its own."""
    cost: dict[str, list[float]] = {"image_seconds": [], "image_cpu_seconds": []}
    for _ in range(repeat):
        job = scene.with_cubes(str(folder / "cube"))
        spent = time.process_time()
        wall, found = run(job)
        cost["image_cpu_seconds"].append(time.process_time() - spent)
        cost["image_seconds"].append(wall)
        for made in job.cubes.values():
            Path(made.path).unlink()
    return cost, found


def _lock_steps(
    job: ImageJob, device: DeviceKind, workers: int, chunks: Sequence[Sequence[int]]
) -> tuple[float, tuple[int, int]]:
    begin = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        done = list(pool.map(lambda channels: lock_step(job, device.make(job.settings, workers), channels), chunks))
    return time.perf_counter() - begin, (sum(i for i, _ in done), sum(m for _, m in done))


def _own(records: Sequence[ChannelRecord]) -> dict[str, Any]:
    """Figures of gpucube's own way, with the cost of every channel."""
    ordered = sorted(records, key=lambda r: r.channel)
    return {
        "iterations": sum(r.iterations for r in ordered),
        "major_cycles": sum(r.major_cycles for r in ordered),
        "channel_seconds": [sum(r.seconds.values()) for r in ordered],
        "channel_major_cycles": [r.major_cycles for r in ordered],
    }


def _one_task(parameters: dict[str, Any]) -> tuple[float, float]:
    """One channel as a job of its own, reading included: wall and CPU seconds."""
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
    ways = list(curve[0]["ways"])
    first = ways[0]
    lines = [f"# `{result['command']}`", "", report.head(result) + ".", ""]
    w = curve[0]["workload"]
    lines += [
        f"{w['channels']} channels x {w['rows']} rows, {w['imsize']} x {w['imsize']} pixels. INGEST is included; in "
        f'brackets times "{first}".',
        "",
    ]
    for cpu, title in ((False, "Wall seconds"), (True, "CPU seconds, which other programs do not stretch")):
        rows = [["bright channels", *ways]]
        for entry in curve:
            seconds = [whole_seconds(entry, way, cpu) for way in ways]
            rows.append([str(entry["bright_channels"]), *(f"{s:.2f} ({s / seconds[0]:.1f})" for s in seconds)])
        lines += [f"{title}:", "", report.table(rows), ""]
    lines += ["IMAGE alone, wall seconds; major cycles in brackets:", ""]
    imaging = [way for way in ways if "image_seconds" in curve[0]["ways"][way]]
    rows = [["bright channels", "INGEST", *imaging]]
    for entry in curve:
        cells = [
            f"{statistics.median(entry['ways'][way]['image_seconds']):.2f} ({entry['ways'][way]['major_cycles']})"
            for way in imaging
        ]
        rows.append([str(entry["bright_channels"]), f"{statistics.median(entry['ingest_seconds']):.2f}", *cells])
    lines += [report.table(rows), "", f"Cost of a channel ({first}), seconds of one worker.", ""]
    rows = [["bright channels", "least", "median", "95 %", "largest", "largest / median", "largest major cycles"]]
    for entry in curve:
        costs = np.array(entry["ways"][first]["channel_seconds"])
        middle = float(np.median(costs))
        rows.append(
            [
                str(entry["bright_channels"]),
                f"{costs.min():.3f}",
                f"{middle:.3f}",
                f"{np.percentile(costs, 95):.3f}",
                f"{costs.max():.3f}",
                f"{costs.max() / middle:.1f}",
                str(max(entry["ways"][first]["channel_major_cycles"])),
            ]
        )
    return "\n".join([*lines, report.table(rows), ""])


if __name__ == "__main__":
    sys.exit(run_experiment(measure_convergence, __doc__))
