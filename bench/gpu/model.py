"""What each stage of IMAGE should take on a GPU, from bytes, bandwidths and counts: the table of docs/gpu.md.

In: workloads of `python -m gpucube.bench`, and what is known or assumed of two GPUs. Out: a table as Markdown, against which
the first measurement is held. No GPU is needed.

    PYTHONPATH=. python bench/gpu/model.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpucube.bench.meter import meter
from gpucube.bench.workloads import WORKLOADS, Workload
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cuda.kind import CudaKind
from gpucube.devices.cuda.uv_grid import choose_grids
from gpucube.simulate.arrays import ARRAYS
from gpucube.text import markdown_table

PASS = 0.8
"""Share of the copy bandwidth that a pass over arrays reaches."""

GRIDDED, GRIDDED_ONES = 5e9, 8e9
"""Samples per second of gridding: bound by instructions, so the same for both GPUs."""

ITERATION = 1.2e-6
"""Seconds of an iteration of an active set of some 500 pixels; planes are cleaned side by side."""

OPERATION, BATCH = 10e-6, 5e-6
"""Seconds that CuPy takes for a call or a launch, and for a further batch of an FFT."""

LINK = 50e9
"""Bytes per second from pinned memory, PCIe 5."""

MS_READ, MS_BYTES = 1e9, 18
"""Bytes per second at which one process reads a MeasurementSet, and its bytes of a sample of two correlations."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU: bytes per second of a copy, read and written, and the memory that a job may take."""

    name: str
    copy: float
    memory: float


GPUS = (Gpu(name="H100", copy=3.0e12, memory=0.9 * 80e9), Gpu(name="H200", copy=4.3e12, memory=0.9 * 141e9))


@dataclass(frozen=True, kw_only=True)
class Job:
    """A workload, and what its cleaning takes in all: iterations, and cycles of single planes."""

    title: str
    workload: Workload
    iterations: int
    cycles: int


def jobs() -> list[Job]:
    """The three jobs: iterations and cycles are those of the CPU (`bench/results`)."""
    alma = WORKLOADS["alma-line"]
    many = alma.changed(channels=4000, bright=0.1)
    return [
        Job(title="vla-hi", workload=WORKLOADS["vla-hi"], iterations=141_838, cycles=273),
        _as_alma("alma-line", alma),
        _as_alma("4,000 channels, otherwise as alma-line, a tenth of them bright", many),
    ]


def _as_alma(title: str, workload: Workload) -> Job:
    """A job whose bright channels take as much as those of alma-line: 48,036 iterations and 216 cycles for 36."""
    share = len(workload.bright_channels) / 36
    return Job(title=title, workload=workload, iterations=round(48_036 * share), cycles=round(216 * share))


def stages(job: Job, gpu: Gpu) -> dict[str, float]:
    """Seconds of each stage."""
    w, planes = job.workload, job.workload.channels
    array, pixels, samples = ARRAYS[w.array], w.imsize**2, w.channels * w.rows
    longest = array.extent * array.rest_freq / 299_792_458.0
    settings = ImagingSettings(geometry=w.geometry, samples=w.rows, uv_max=longest, w_max=longest)
    grids = choose_grids(settings)
    rate = PASS * gpu.copy

    def transformed(fft: tuple[int, int]) -> float:
        # cells gathered; the transform in two passes, each read and written; the crop: real images, half spectra
        return planes * math.prod(fft) * (4 + 2 * 8 + 4) / rate

    kind = CudaKind()
    fit = min(planes, kind.resources(settings, int(gpu.memory)).planes)
    chunks = math.ceil(planes / fit)
    counts = meter(w.changed(channels=math.ceil(planes / chunks)))
    cycles = math.ceil(job.cycles / max(1, len(w.bright_channels)))  # of a chunk, one after the other
    operations = chunks * (
        sum(counts[step]["operations"] for step in ("begin", "measure", "psf", "finish"))
        + cycles * counts["cycle"]["operations"]
    )
    side_by_side = min(len(w.bright_channels), 132)
    return {
        "upload": 12 * samples / LINK,
        "weights": (96 * samples + 24 * planes * pixels / 2) / rate,
        "sort and place": 200 * samples / rate,
        "dirty images": samples / GRIDDED + transformed(grids.narrow.fft),
        "PSFs": samples / GRIDDED_ONES + transformed(grids.wide.fft) + 4 * planes * pixels * 20 / rate,
        "peaks and noise": (planes + job.cycles) * 6 * 4 * pixels / rate,
        "minor cycles": job.iterations * ITERATION / side_by_side + job.cycles * 4 * pixels / rate,
        "major cycles": job.cycles * 204 * pixels / rate,
        "restore and download": planes * pixels * (20 / rate + 12 / LINK),
        "Python and CuPy": chunks * (counts["python_seconds"] + BATCH * counts["fft_batches"]) + OPERATION * operations,
    }


def main() -> None:
    for job in jobs():
        w, samples = job.workload, job.workload.channels * job.workload.rows
        columns = [stages(job, gpu) for gpu in GPUS]
        rows = [["stage", *(f"{gpu.name}, ms" for gpu in GPUS)]]
        rows += [[name, *(f"{1e3 * column[name]:.3g}" for column in columns)] for name in columns[0]]
        rows.append(["all, one after the other", *(f"{1e3 * sum(column.values()):.3g}" for column in columns)])
        print(f"**{job.title}**: {w.channels} channels of {w.rows} rows, {w.imsize} x {w.imsize} pixels; ", end="")
        print(
            f"{job.iterations} iterations, {job.cycles} cycles of planes. One process reads the MeasurementSet in ",
            end="",
        )
        print(f"{1e3 * MS_BYTES * samples / MS_READ:.3g} ms.\n\n{markdown_table(rows)}\n")


if __name__ == "__main__":
    main()
