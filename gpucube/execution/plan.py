"""What a job will do and take, before it does it: chunks, workers, memory, disk.

In: checked parameters and a selection (subtables and index columns of the MSs only). Out: `Plan`, which `gpucube plan`
prints and the main job follows. Pure arithmetic but for asking the machine how many cores, how much memory and how
much disk it has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from gpucube import disk
from gpucube.data.ingest import plan_partitions
from gpucube.data.scratch import belongs_to
from gpucube.data.selection import Selection, select
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.kind import PROCESS_BYTES, CpuKind
from gpucube.errors import GpucubeError
from gpucube.imaging.job import settings_of
from gpucube.output.paths import RunPaths
from gpucube.schema.parameters import Parameters
from gpucube.sky.spectral import SpectralAxis
from gpucube.words import size_text

IN_PROCESS_SECONDS = 120.0
"""Jobs expected to take less than this run in threads of this process: a cluster costs seconds to start."""

IN_PROCESS_BYTES = 10e9
"""With one GPU, MeasurementSets smaller than this are read by this process too: others would have read no sooner."""

SECONDS_A_SAMPLE = 300e-9
SECONDS_A_PIXEL = 120e-9
"""Rough cost of imaging a plane, for that decision only."""


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes
    ----------
    nchan, nstokes : int
    chunksize, chunks, workers : int
    in_process : bool
        Threads of this process instead of a Dask cluster.
    scratch : str
        Folder of the visibility store.
    scratch_bytes, product_bytes, ms_bytes : int
    memory_budget, memory_predicted, worker_memory : int
        Bytes, host: what all processes together may hold, are expected to hold, and what one worker process may.
    device_memory_predicted : int
        Bytes that each GPU is expected to hold; 0 without GPUs.
    products : tuple of str
        Paths to be written.
    warnings : tuple of str
    """

    nchan: int
    nstokes: int
    chunksize: int
    chunks: int
    workers: int
    in_process: bool
    scratch: str
    scratch_bytes: int
    product_bytes: int
    ms_bytes: int
    memory_budget: int
    memory_predicted: int
    worker_memory: int
    device_memory_predicted: int
    products: tuple[str, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        how = "threads of one process" if self.in_process else "processes"
        if self.device_memory_predicted:
            how = f"{self.workers} GPU" + ("s" if self.workers > 1 else "")
        lines = [
            f"channels   {self.nchan}" + (f" x {self.nstokes} Stokes" if self.nstokes > 1 else ""),
            f"chunks     {self.chunks} of up to {self.chunksize} channels, on {self.workers} workers ({how})",
            f"read       {size_text(self.ms_bytes)} from the MeasurementSet, once",
            f"scratch    {size_text(self.scratch_bytes)} in {self.scratch}",
            f"memory     {size_text(self.memory_predicted)} expected, {size_text(self.memory_budget)} allowed",
            *(
                [f"GPU memory {size_text(self.device_memory_predicted)} expected"]
                if self.device_memory_predicted
                else []
            ),
            f"write      {size_text(self.product_bytes)}:",
            *(f"           {path}" for path in self.products),
            *(f"warning    {text}" for text in self.warnings),
        ]
        return "\n".join(lines)


def chunk_size(
    chunksize: int | str, nchan: int, workers: int, fits: int, chunks_a_worker: int = CpuKind.chunks_a_lane
) -> int:
    """Channels in a chunk.

    Parameters
    ----------
    chunksize : int or "auto"
        1 or more: that many; -1: one chunk per worker; "auto": as many as the device's memory takes, but enough chunks
        (`chunks_a_worker`) that none is left waiting for the last.
    nchan, workers : int
    fits : int
        Channels that fit the device's memory at once.
    """
    if chunksize == "auto":
        return max(1, min(fits, math.ceil(nchan / (chunks_a_worker * workers)), nchan))
    if chunksize == -1:
        return max(1, math.ceil(nchan / workers))
    return min(int(chunksize), nchan)


def make_chunks(size: int, power: Sequence[float], channels: Sequence[int] | None = None) -> list[list[int]]:
    """Neighbouring channels in chunks of `size`, the ones expected to be costly first.

    Parameters
    ----------
    size : int
    power : sequence of float
        Of each channel, as `VisibilityStore.power`: emission makes it larger.
    channels : sequence of int, optional
        Those to be done, ascending; by default all.
    """
    power = np.asarray(power)
    todo = list(range(len(power)) if channels is None else channels)
    chunks = [todo[first : first + size] for first in range(0, len(todo), size)]
    return sorted(chunks, key=lambda c: (-float(power[c].sum()), c[0]))


def make_plan(parameters: Parameters, selection: Selection | None = None, hardware: Hardware | None = None) -> Plan:
    """Work out what a job will take.

    Parameters
    ----------
    parameters : Parameters
    selection : Selection, optional
        By default what the parameters say.
    hardware : Hardware, optional
        By default CPU cores.

    Raises
    ------
    GpucubeError
        Bad selection; more memory or disk needed than there is.
    """
    selection = selection or select(parameters)
    geometry = selection.geometry
    nchan, nstokes = selection.axis.nchan, len(selection.stokes)
    paths = RunPaths.of(parameters)
    scratch = paths.scratch_folder
    partitions = plan_partitions(selection, scratch)
    samples = sum(int(np.prod(p.shape)) for p in partitions)
    pixels = geometry.nx * geometry.ny
    hardware = hardware or Hardware(kind=CpuKind())
    kind, lanes = hardware.kind, hardware.kind.lanes
    most = hardware.gpu_count or parameters.workers or len(os.sched_getaffinity(0))
    workers = min(parameters.workers or most, most, nchan)
    seconds = samples * SECONDS_A_SAMPLE + nchan * nstokes * pixels * SECONDS_A_PIXEL * (10 if parameters.niter else 1)
    ms_bytes = sum(s.bytes_selected() for s in selection.sources)
    if kind.workers_share_process:
        in_process = workers == 1 or seconds / workers < IN_PROCESS_SECONDS
    else:
        in_process = workers == 1 and ms_bytes < IN_PROCESS_BYTES
    in_process = in_process and not parameters.scheduler
    budget = parameters.memory or int(0.8 * psutil.virtual_memory().available)
    rows = max((p.nrow for p in partitions), default=0)
    settings = settings_of(parameters, geometry, parameters.gridder == "wgridder", rows, math.inf, 0.0)
    resources = kind.resources(settings, hardware.gpu_memory)
    store = sum(p.nbytes() for p in partitions)

    def predicted(count: int) -> int:
        processes = resources.process_bytes if in_process else PROCESS_BYTES + count * resources.process_bytes
        return processes + count * resources.host_bytes

    while workers > 1 and predicted(workers) > budget:
        workers -= 1
    if predicted(1) > budget:
        raise GpucubeError(
            f"imaging one channel of {geometry.nx} x {geometry.ny} pixels needs {size_text(predicted(1))} of memory, "
            f"{size_text(budget)} are allowed: choose a smaller imsize, or raise memory"
        )
    fits, busy = max(1, resources.planes // nstokes), workers * (lanes if parameters.chunksize == "auto" else 1)
    size = chunk_size(parameters.chunksize, nchan, busy, fits, kind.chunks_a_lane)
    device_memory = lanes * resources.device_bytes(min(resources.planes, size * nstokes))
    product_bytes = len(parameters.products) * nchan * nstokes * pixels * 4
    plan = Plan(
        nchan,
        nstokes,
        size,
        math.ceil(nchan / size),
        workers,
        in_process,
        scratch,
        store,
        product_bytes,
        ms_bytes,
        budget,
        predicted(workers),
        (budget - PROCESS_BYTES) // workers,
        device_memory,
        tuple(map(paths.product, parameters.products)),
        _warnings(selection.axis),
    )
    check_disk(plan, parameters.imagename)
    return plan


def check_disk(plan: Plan, imagename: str) -> None:
    """Refuse a job that the disk cannot hold, or whose scratch folder is another's or cannot be made.

    Raises
    ------
    GpucubeError
    """
    if os.path.lexists(plan.scratch) and not belongs_to(plan.scratch, imagename):
        raise GpucubeError(
            f"scratch folder {plan.scratch} already exists: remove it if no other run uses it, "
            "or name another with scratch"
        )
    above, folder = disk.nearest_folder(plan.scratch), disk.nearest_folder(imagename)
    if above != folder and not os.access(above, os.W_OK | os.X_OK):
        raise GpucubeError(f"scratch folder {plan.scratch} cannot be made in {above}: name another with scratch")
    # what an earlier run left there will be used again or go
    left = sum(map(disk.space_taken, Path(plan.scratch).glob("*")))
    scratch_bytes = max(0, plan.scratch_bytes - left)
    reusable = sum(map(disk.space_taken, RunPaths(imagename).existing()))
    if above.stat().st_dev == folder.stat().st_dev:
        needed = scratch_bytes + plan.product_bytes
        disk.check_space(folder, needed, "visibility store and cubes need", "imagename", reusable)
    else:
        disk.check_space(above, scratch_bytes, "the visibility store needs", "scratch")
        disk.check_space(folder, plan.product_bytes, "the cubes need", "imagename", reusable)


def _warnings(axis: SpectralAxis) -> tuple[str, ...]:
    if axis.is_regular():
        return ()
    return (
        "the channels are not evenly spaced: the FITS frequency axis is only the best straight line; "
        "the true frequencies are in the CHANNELS table of every cube and in the summary",
    )
