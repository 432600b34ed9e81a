"""Parts ``chunk``, ``busy``, ``memory`` and ``repeat`` of `gpu_speed.py`: whole chunks of the workload."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from harness import Bench, Figure

from gpucube.data.store import BYTES_A_SAMPLE, PlaneKey
from gpucube.devices.base import ImagingSettings, MinorCycle
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cuda.memory import DeviceMemory
from gpucube.errors import GpucubeError
from gpucube.execution.machine import cores
from gpucube.execution.plan import chunk_size
from gpucube.execution.threads import ThreadWorkers
from gpucube.imaging.chunk import image_chunk
from gpucube.output.records import ChannelRecord

LEAST_BYTES, AIM_BYTES = 3000, 600
"""A stored byte must be imaged in the time in which so many are copied on the device, and aims at that of so many."""

ITERATIONS = 200
"""Iterations of the minor cycle whose memory is measured."""


def measure_chunk(bench: Bench) -> Iterator[Figure]:
    """A whole chunk from host memory to cleaned planes, on one thread of the GPU and on all cores of the CPU."""
    scene, workers = bench.scene, cores()
    job, channels = scene.job, scene.channels
    chunks = scene.chunks(chunk_size("auto", len(channels), workers, len(channels)))
    records: dict[str, list[ChannelRecord]] = {}

    def on_gpu() -> None:
        records["gpu"] = image_chunk(job, bench.here.kind.make(job.settings), channels)

    def on_cpu() -> None:
        batches = ThreadWorkers(workers, CpuKind()).image(job, chunks)
        records["cpu"] = [record for batch in batches for record in batch]

    gpu, cpu = bench.seconds(on_gpu), bench.seconds(on_cpu, min(3, bench.repeat))
    samples = sum(record.visibilities for record in records["gpu"])
    floor = BYTES_A_SAMPLE * job.store.counts.size * bench.sizes.workload.rows / bench.pinned_bandwidth
    name = f"{bench.sizes.workload.name}, {len(channels)} channels"
    note = f"floor: upload; {samples} samples; {_shares(records['gpu'])}"
    yield Figure("chunk", f"{name}, GPU", "s", gpu, floor, note=note)
    yield Figure("chunk", f"{name}, CPU on {workers} cores", "s", cpu)
    ratios = [statistics.median(cpu) / s for s in gpu]
    yield Figure("chunk", "times faster than the CPU", "x", ratios, note=_agreement(records["cpu"], records["gpu"]))
    stored = floor * bench.pinned_bandwidth
    least, aim = bench.bandwidth / LEAST_BYTES, bench.bandwidth / AIM_BYTES
    rates = [stored / s for s in gpu]
    note = "must be faster than a MeasurementSet is read, 1 GB/s, where a copy has 3 TB/s"
    yield Figure("chunk", "stored visibilities imaged", "B/s", rates, bench.pinned_bandwidth, least, aim, note)


def _shares(records: Sequence[ChannelRecord]) -> str:
    """The shares of the stages."""
    names = {name for record in records for name in record.seconds}
    spent = {name: sum(record.seconds.get(name, 0.0) for record in records) for name in sorted(names)}
    total = sum(spent.values())
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in spent.items() if seconds)


def _agreement(one: Sequence[ChannelRecord], other: Sequence[ChannelRecord]) -> str:
    pairs = list(zip(*(sorted(r, key=lambda r: r.channel) for r in (one, other)), strict=True))
    same = sum(a.stop_code == b.stop_code for a, b in pairs)
    flux = max(abs(a.model_flux - b.model_flux) for a, b in pairs) / max(abs(a.model_flux) for a, _ in pairs)
    return f"same stop reason in {same} of {len(pairs)} channels, model fluxes within {flux:.1e} of the largest"


def measure_busy(bench: Bench) -> Iterator[Figure]:
    """Share of the time that the GPU runs any kernel while many chunks are imaged and written by the threads of one process."""
    job, kind, nchan, lanes = bench.with_cubes(), bench.here.kind, len(bench.scene.channels), bench.lanes
    size = chunk_size("auto", nchan, lanes, nchan, kind.chunks_a_lane)
    chunks = bench.scene.chunks(size)

    def image(rounds: int) -> float:
        begin = time.perf_counter()
        for _ in ThreadWorkers(lanes, kind).image(job, chunks * rounds):
            pass
        return time.perf_counter() - begin

    image(1)
    rounds = max(1, math.ceil(bench.sizes.busy_seconds / image(1)))
    walls: list[float] = []
    percents, how = bench.here.busy(lambda: walls.append(image(rounds)))
    note = f"{len(chunks) * rounds} chunks of up to {size} channels on {lanes} threads, cubes written"
    yield Figure("busy", "channels imaged", "channels/s", [nchan * rounds / walls[0]], note=note)
    if percents:
        yield Figure("busy", "GPU busy", "%", percents, 100.0, 80.0, 95.0, how)
    elif how:
        raise GpucubeError(f"the share of the time that the GPU is busy was not measured: {how}")


def measure_memory(bench: Bench) -> Iterator[Figure]:
    """Peak of device memory over the life of some planes against what `DeviceMemory` predicts: the smaller over the larger."""
    settings = bench.scene.job.settings
    yield _measure_memory(bench, "major cycles in the image", replace(settings, majorcycle="image"))
    yield _measure_memory(bench, "major cycles through visibilities", replace(settings, majorcycle="visibility"))
    yield _measure_memory(bench, "w term", replace(settings, w_term=True))


def _measure_memory(bench: Bench, what: str, settings: ImagingSettings) -> Figure:
    planes = min(bench.sizes.planes_in_memory, len(bench.scene.channels))
    samples = [bench.scene.job.store.samples(PlaneKey(channel=channel, stokes=0)) for channel in range(planes)]
    predicted = DeviceMemory(settings, bench.backend.fft_memory, bench.backend.memory).of(planes)
    device = bench.here.kind.make(settings)

    def live() -> None:
        held = device.begin(samples, [None] * planes)
        device.make_psf(held, True)
        device.measure(held)
        device.minor(held, [MinorCycle(threshold=0.0, max_iterations=ITERATIONS, gain=0.1)] * planes)
        device.major(held)

    most, kept = bench.here.peak_memory(live)
    device.reset()
    taken = f"{most / 1e9:.3f} GB taken, {kept / 1e9:.3f} GB held by the pool"
    note = f"{planes} planes: {predicted / 1e9:.3f} GB predicted, {taken}"
    return Figure("memory", what, "of 1", [min(most / predicted, predicted / most)], 1.0, 0.9, note=note)


def measure_repeat(bench: Bench) -> Iterator[Figure]:
    """The same chunk again and again, and in chunks of one channel: checksums of its planes must not change."""
    workload, runs = bench.sizes.workload, 10 if bench.repeat > 1 else 2
    count = min(bench.sizes.planes_repeated, workload.channels)
    first = max(0, min(workload.bright_channels[0] - count // 2, workload.channels - count))
    channels = range(first, first + count)

    def checksums(chunks: Sequence[Sequence[int]]) -> dict[int, object]:
        job = bench.with_cubes()
        found = [r for c in chunks for r in image_chunk(job, bench.here.kind.make(job.settings), c)]
        return {r.channel: r.checksums for r in found}

    expected = checksums([channels])
    same = 1 + sum(checksums([channels]) == expected for _ in range(runs - 1))
    yield Figure("repeat", "runs with the same bits", "runs", [float(same)], least=float(runs), aim=float(runs))
    alone = checksums([[c] for c in channels])
    equal = float(sum(alone[c] == expected[c] for c in channels))
    what = "channels with the same bits alone"
    yield Figure("repeat", what, "channels", [equal], least=float(count), aim=float(count))
