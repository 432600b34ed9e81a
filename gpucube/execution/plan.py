"""The plan of a job, made before it begins: chunks, workers, memory, disk.

In: checked parameters, a selection (subtables and index columns of the MSs only) and the hardware. Out: a `Plan`, which
`gpucube plan` prints and the main job follows. It does only arithmetic, apart from asking the machine
for its cores, memory and disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpucube import disk
from gpucube.data.copying import BYTES_TO_COPY
from gpucube.data.ingest import BYTES_TO_SORT, plan_partitions
from gpucube.data.line_search import Proposal
from gpucube.data.scratch import belongs_to
from gpucube.data.selection import Selection
from gpucube.data.store import Partition
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.kind import CpuKind
from gpucube.devices.cycle_rules import needs_w
from gpucube.devices.scales import automatic_scales
from gpucube.errors import GpucubeError
from gpucube.execution.machine import (
    core_limits,
    least,
    memory_limits,
    process_memory_limits,
    resident,
    why_no_processes,
)
from gpucube.execution.memory import PROCESS_BYTES, RECORD_BYTES, HostMemory
from gpucube.execution.progress import duration
from gpucube.execution.tuning import DEFAULT_TUNING, Tuning
from gpucube.imaging.automask import BYTES_OF_MASKS
from gpucube.imaging.forecast import Forecast, forecast
from gpucube.imaging.job import settings_of
from gpucube.imaging.weighting import BYTES_OF_SHARED_DENSITY, expected_weighting, shares_density
from gpucube.output.fits_header import ONE_PIXEL
from gpucube.output.paths import RunPaths
from gpucube.output.summary import SpectralSummary
from gpucube.schema.parameters import Parameters
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis
from gpucube.text import angle_text, counted, flux_text, frequency_text, size_text

SECONDS_A_SAMPLE = 300e-9
SECONDS_A_PIXEL = 120e-9
CLEANING_FACTOR = 10
"""Rough cost of a plane on a CPU core: for each sample, and for each pixel, the latter so many times if it is cleaned. Only the
choice between threads and processes depends on it."""

SCHEDULER = "the workers of the scheduler"
BYTES_A_SECOND = 3e8
"""Rough speed at which one process reads a MeasurementSet."""

_MAJOR_WITH_W = (
    "`majorcycle='image'` is not used, because it neglects w; `gridder='standard'` neglects it everywhere",
)

SHARE_OF_MEMORY = 0.8
"""The part of the available memory that a run may take unless `memory` says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a job will do, and the resources that it will take.

    Attributes
    ----------
    nchan, nstokes : int
    chunksize : int
        Channels of a chunk.
    workers : int
    in_process : bool
        True for threads of this process, False for a Dask cluster.
    paths : RunPaths
    product_names : tuple of str
        Products to be written.
    scratch_bytes, product_bytes, ms_bytes : int
        Bytes of the store that is written, of the cubes, and of what is selected from the MeasurementSets.
    kept : str
        What is used of the visibilities that an earlier run has kept, instead of the MeasurementSets: ``"all"``, ``"channels"``,
        or nothing.
    memory_budget, memory_predicted : int
        Bytes of host memory that all processes together may hold, and are expected to hold.
    device_memory_predicted : int
        Bytes that each GPU is expected to hold; 0 without GPUs.
    limits : str
        The sources of the limits on workers and memory.
    field : str
        Name of the field.
    geometry : ImageGeometry
    axis : SpectralAxis
    continuum : str
        The continuum that is subtracted, in words; empty if none is.
    line_free : Proposal or None
        Line-free channels that the data propose; None if nobody looked for them.
    forecast : Forecast
        Beam, noise and recommended cell.
    gridder : str
        ``"standard"`` or ``"wgridder"``.
    scales : tuple of float
        Scales of multiscale CLEAN in pixels; none for another deconvolver.
    seconds : float or None
        Rough estimate of the duration of the run; None where it is not known.
    warnings : tuple of str
    """

    nchan: int
    nstokes: int
    chunksize: int
    workers: int
    in_process: bool
    paths: RunPaths
    product_names: tuple[str, ...]
    scratch_bytes: int
    product_bytes: int
    ms_bytes: int
    memory_budget: int
    memory_predicted: int
    device_memory_predicted: int
    limits: str
    field: str
    geometry: ImageGeometry
    axis: SpectralAxis
    continuum: str
    forecast: Forecast
    gridder: str
    scales: tuple[float, ...]
    seconds: float | None
    warnings: tuple[str, ...]
    kept: str = ""
    line_free: Proposal | None = None

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(self.nchan / self.chunksize)

    @property
    def scratch(self) -> str:
        """Folder of the visibility store."""
        return self.paths.scratch_folder

    @property
    def products(self) -> tuple[str, ...]:
        """Paths of the products."""
        return tuple(map(self.paths.product, self.product_names))

    @property
    def worker_memory(self) -> int:
        """Bytes of host memory that one worker process may hold."""
        return (self.memory_budget - PROCESS_BYTES) // self.workers

    def __str__(self) -> str:
        how = "threads of one process" if self.in_process else "processes"
        if self.device_memory_predicted:
            how = f"{self.workers} GPU" + ("s" if self.workers > 1 else "")
        lines = [
            *self._what_comes_out(),
            f"chunks     {self.chunks} of up to {counted(self.chunksize, 'channel')}",
            f"workers    {self.workers} ({how})",
            *([f"continuum  {self.continuum}"] if self.continuum else []),
            *self._line_free(),
            *self._visibilities(),
            f"memory     {size_text(self.memory_predicted)} expected, {size_text(self.memory_budget)} allowed",
            f"limits     {self.limits}",
        ]
        if self.device_memory_predicted:
            lines.append(f"GPU memory {size_text(self.device_memory_predicted)} expected")
        if self.seconds is not None:
            lines.append(f"time       very roughly {duration(self.seconds)}")
        lines.append(f"write      {size_text(self.product_bytes)}:")
        lines += [f"           {path}" for path in self.products]
        lines += [f"warning    {text}" for text in self.warnings]
        return "\n".join(lines)

    def _visibilities(self) -> list[str]:
        """Where the visibilities come from, and where they lie."""
        read = f"{size_text(self.ms_bytes)} from the MeasurementSet, once"
        if self.kept:
            read = f"visibilities from {self.paths.visibilities} instead of the MeasurementSet"
        what = "keep      " if self.paths.keeps else "scratch   "
        lies = f"{what} {size_text(self.scratch_bytes)} in {self.paths.store_folder}"
        return [f"read       {read}", *([lies] if self.kept != "all" else [])]

    def _line_free(self) -> list[str]:
        """Line-free channels that are proposed, and why."""
        if self.line_free is None:
            return []
        lines = [f"continuum  {words}" for words in self.line_free.words]
        if self.line_free.contsubspw:
            order = self.line_free.contsuborder
            lines.append(f"line-free  {self.line_free} proposed for contsubspw, with contsuborder {order}")
        return lines

    def _what_comes_out(self) -> list[str]:
        """What an astronomer wants to know of the cube."""
        g, axis, expected = self.geometry, self.axis, self.forecast
        ra, dec = math.degrees(g.centre.ra) % 360, math.degrees(g.centre.dec)
        size = f"{angle_text(g.nx * g.cell_x)} x {angle_text(g.ny * g.cell_y)}"
        first, last = float(axis.frequency[0]), float(axis.frequency[-1])
        lines = [
            f"field      {self.field or '(no name)'}: {g.nx} x {g.ny} pixels, {size}, "
            f"centred on {ra:.5f} {dec:+.5f} deg ({g.centre.frame})",
            f"channels   {self.nchan}" + (f" x {self.nstokes} Stokes" if self.nstokes > 1 else ""),
            f"frequency  {frequency_text(first)} to {frequency_text(last)} ({axis.frame.name}), "
            f"channels of {frequency_text(float(np.median(axis.width)))}",
        ]
        spectral = SpectralSummary.of(axis)
        if words := spectral.words():
            lines.append(f"velocity   {words}, channels of {spectral.channel_width_km_s:.3g} km/s")
        if expected.beam and expected.noise and expected.recommended_cell:
            pixels = f"{expected.beam.bmaj / g.cell_x:.1f} x {expected.beam.bmin / g.cell_x:.1f} pixels"
            lines += [
                f"beam       {_beam_text(expected.beam)} expected in the middle channel, {pixels}",
                f"cell       {angle_text(g.cell_x)}; recommended: at most {angle_text(expected.recommended_cell)}",
                f"noise      {flux_text(expected.noise)}/beam expected, assuming weights of 1 / sigma^2",
            ]
        phase = g.w_phase(expected.w_max)
        if self.scales:
            lines.append(f"scales     {', '.join(f'{scale:g}' for scale in self.scales)} pixels")
        lines.append(f"gridder    {self.gridder}; neglecting w changes phases by up to {phase:.2g} rad")
        return lines


def _beam_text(beam: Beam) -> str:
    return f"{angle_text(beam.bmaj)} x {angle_text(beam.bmin)}"


def make_plan(
    parameters: Parameters,
    selection: Selection,
    hardware: Hardware,
    tuning: Tuning = DEFAULT_TUNING,
    held: int | None = None,
    kept: str = "",
) -> Plan:
    """Work out what a job will do and take, if this process holds `held` bytes of memory; by default what it holds now.

    `kept` says what is used of visibilities that an earlier run has kept, as in `Plan`.

    Raises
    ------
    GpucubeError
        The job needs more memory or disk than there is.
    """
    kind, geometry = hardware.kind, selection.geometry
    nchan, nstokes = selection.axis.nchan, len(selection.stokes)
    paths = RunPaths.of(parameters)
    if kept == "channels":
        paths = replace(paths, keeps=False)  # all channels stay there
    partitions = plan_partitions(selection, paths.store_folder)
    rows, parts = np.zeros((2, nchan), np.int64)  # of the planes of each channel
    for p in partitions:
        rows[list(p.output)] += p.nrow
        parts[list(p.output)] += 1
    samples = int(rows.max(initial=0))
    likely = expected_weighting(parameters)
    expected = forecast(selection, settings_of(parameters, geometry, w_term=False, samples=samples, weighting=likely))
    w_term = needs_w(geometry.w_phase(expected.w_max), parameters.gridder, parameters.epsilon)
    scales = _scales(parameters, geometry, expected)
    settings = settings_of(
        parameters,
        geometry,
        w_term=w_term,
        samples=samples,
        uv_max=expected.uv_max or math.inf,
        w_max=expected.w_max,
        scales=scales,
        sources=int(parts.max(initial=0)),
        alone=nchan * nstokes == 1,
    )
    resources = kind.resources(settings, hardware.gpu_memory)
    if parameters.usemask == "auto-multithresh":
        of_masks = BYTES_OF_MASKS * geometry.nx * geometry.ny * kind.lanes
        resources = replace(resources, host_bytes=resources.host_bytes + of_masks)
    ms_bytes = sum(s.bytes_selected() for s in selection.sources)
    to_read = () if kept else selection.sources

    here, whose = least(core_limits())
    most = hardware.gpu_count or parameters.workers or hardware.workers or here
    if hardware.gpu_count or parameters.workers or hardware.workers:
        whose = "the number of GPUs" if hardware.gpu_count else "workers=" if parameters.workers else SCHEDULER
    workers = min(parameters.workers or most, most, nchan)
    seconds = None
    if kind.workers_share_process:
        seconds = _expected_seconds(partitions, nchan * nstokes * geometry.nx * geometry.ny, parameters.niter > 0)
        small = workers == 1 or seconds / workers < tuning.in_process_seconds
    else:
        small = workers == 1 and (bool(kept) or ms_bytes < tuning.in_process_bytes)
    no_processes = "" if small or parameters.scheduler or not kind.workers_share_process else why_no_processes()
    in_process = not parameters.scheduler and (small or bool(no_processes))

    of_process = {SCHEDULER: hardware.worker_memory} if hardware.workers else process_memory_limits()
    of_run = {SCHEDULER: hardware.workers * hardware.worker_memory} if hardware.workers else memory_limits()
    available, memory_of = least(of_run | of_process if in_process else of_run)
    budget, memory_of = (
        (parameters.memory, "memory=")
        if parameters.memory
        else (
            int(SHARE_OF_MEMORY * available),
            f"{100 * SHARE_OF_MEMORY:.0f} % of {memory_of}",
        )
    )
    memory = HostMemory(
        resources=resources,
        held=resident() if held is None else held,
        reading=lambda threads: max((s.reading_bytes(threads) for s in to_read), default=0),
        sorting=max(
            BYTES_TO_SORT * max((p.nrow for p in partitions if kept != "all"), default=0),
            BYTES_TO_COPY if kept == "channels" else 0,
            BYTES_OF_SHARED_DENSITY * geometry.nx * geometry.ny if shares_density(parameters) else 0,
        ),
        finishing=RECORD_BYTES * nchan * nstokes,
        readers=0 if kind.workers_share_process or parameters.scheduler else here,
    )
    while workers > 1 and memory.of(workers, in_process) > budget:
        workers -= 1
    predicted = memory.of(workers, in_process)
    needs = [(predicted, budget, f" ({memory_of})" if not parameters.memory else "")]
    needs += [
        (memory.of(1, in_process=True), int(SHARE_OF_MEMORY * limit), f" ({name})")
        for name, limit in of_process.items()
    ]
    for needed, allowed, by in needs:
        if needed > allowed:
            raise GpucubeError(
                f"imaging one channel of {geometry.nx} x {geometry.ny} pixels needs {size_text(needed)} of memory, but only "
                f"{size_text(allowed)} is allowed{by}: choose a smaller `imsize`, or raise `memory`"
            )

    busy = workers * (kind.lanes if parameters.chunksize == "auto" else 1)
    fits = max(1, resources.planes // nstokes)
    size = chunk_size(parameters.chunksize, nchan, busy, fits, kind.chunks_a_lane)
    plan = Plan(
        nchan=nchan,
        nstokes=nstokes,
        chunksize=size,
        workers=workers,
        in_process=in_process,
        paths=paths,
        product_names=tuple(parameters.cubes),
        scratch_bytes=0 if kept == "all" else sum(p.nbytes() for p in partitions),
        product_bytes=len(set(parameters.cubes) - set(ONE_PIXEL)) * nchan * nstokes * geometry.nx * geometry.ny * 4,
        ms_bytes=ms_bytes,
        memory_budget=budget,
        memory_predicted=predicted,
        device_memory_predicted=kind.lanes * resources.device_bytes(min(resources.planes, size * nstokes)),
        limits=f"{counted(most, 'worker')} ({whose}), memory: {memory_of}",
        field=selection.object_name,
        geometry=geometry,
        axis=selection.axis,
        continuum=_continuum(selection, ms_bytes),
        forecast=expected,
        gridder="wgridder" if w_term else "standard",
        scales=scales,
        seconds=None if seconds is None else seconds / workers + (0 if kept else ms_bytes) / BYTES_A_SECOND,
        kept=kept,
        warnings=(
            *_processes(no_processes),
            *parameters.warnings,
            *_warnings(selection.axis),
            *selection.warnings,
            *_coarse_cell(geometry, expected),
            *_too_many_workers(parameters, hardware, here),
            *(_MAJOR_WITH_W if w_term and parameters.majorcycle == "image" and parameters.niter else ()),
        ),
    )
    check_disk(plan)
    return plan


def _continuum(selection: Selection, ms_bytes: int) -> str:
    """Say what is fitted to which channels, and how many bytes are read for it alone."""
    fits = [(source.continuum, source) for source in selection.sources]
    if not any(fit for fit, _ in fits):
        return ""
    channels = {
        f"{int(fit.at(source.rows.factor_span[0]).sum())} of {len(fit.frequency)}"
        for fit, source in fits
        if fit is not None
    }
    order = next(fit.order for fit, _ in fits if fit is not None)
    extra = ms_bytes - sum(replace(source, continuum=None).bytes_selected() for _, source in fits)
    outside = f"; {size_text(extra)} more are read for them" if extra else ""
    return f"order {order} is fitted to {' or '.join(sorted(channels))} channels of each row and subtracted{outside}"


def _scales(parameters: Parameters, geometry: ImageGeometry, expected: Forecast) -> tuple[float, ...]:
    """Scales of multiscale CLEAN in pixels: those that were given, or by the expected beam; none for another deconvolver."""
    if parameters.deconvolver != "multiscale":
        return ()
    smaller = min(geometry.nx, geometry.ny)
    if parameters.scales:
        if parameters.scales[-1] > smaller / 2:
            raise GpucubeError(
                f"a scale of {parameters.scales[-1]:g} pixels is more than half of the image: choose smaller `scales`"
            )
        return parameters.scales
    if expected.beam is None:
        return (0.0,)
    beam = math.sqrt(expected.beam.bmaj * expected.beam.bmin / (geometry.cell_x * geometry.cell_y))
    return automatic_scales(beam, smaller)


def _expected_seconds(partitions: Sequence[Partition], pixels: int, cleaned: bool) -> float:
    """Estimate the seconds in which one CPU core would image all planes, with `pixels` pixels in total."""
    samples = sum(math.prod(p.shape) for p in partitions)
    return samples * SECONDS_A_SAMPLE + pixels * SECONDS_A_PIXEL * (CLEANING_FACTOR if cleaned else 1)


def chunk_size(
    chunksize: int | str, nchan: int, workers: int, fits: int, chunks_a_worker: int = CpuKind.chunks_a_lane
) -> int:
    """Channels of a chunk.

    Parameters
    ----------
    chunksize : int or "auto"
        A positive number: that many channels. -1: one chunk for each worker. "auto": as many as the device's memory holds,
        but so few that each worker gets `chunks_a_worker` chunks and none waits long for the last.
    nchan, workers : int
    fits : int
        Channels that the device's memory holds at once.
    """
    if chunksize == "auto":
        return max(1, min(fits, math.ceil(nchan / (chunks_a_worker * workers)), nchan))
    if chunksize == -1:
        return max(1, math.ceil(nchan / workers))
    return min(int(chunksize), nchan)


def make_chunks(size: int, power: np.ndarray, channels: Sequence[int] | None = None) -> list[list[int]]:
    """Neighbouring channels in chunks of `size`, the chunks that are expected to be costly first.

    Parameters
    ----------
    size : int
    power : numpy.ndarray
        Power of each channel, (nchan,), as `VisibilityStore.channel_power`: emission raises it.
    channels : sequence of int, optional
        The channels to be imaged, ascending; by default all.
    """
    todo = list(range(len(power)) if channels is None else channels)
    chunks = [todo[first : first + size] for first in range(0, len(todo), size)]
    return sorted(chunks, key=lambda c: (-float(power[c].sum()), c[0]))


def check_disk(plan: Plan) -> None:
    """Refuse a job that the disk cannot hold, or whose scratch folder belongs to another run or cannot be made.

    Raises
    ------
    GpucubeError
    """
    scratch, store, imagename = plan.scratch, plan.paths.store_folder, plan.paths.imagename
    real, kept = os.path.realpath(scratch), os.path.realpath(plan.paths.visibilities)
    if os.path.commonpath([real, kept]) == kept:
        raise GpucubeError(
            f"scratch folder {scratch} is in {kept}, where visibilities are kept: name another with `scratch`"
        )
    if os.path.lexists(scratch) and not belongs_to(scratch, imagename):
        raise GpucubeError(
            f"scratch folder {scratch} already exists: remove it if no other run uses it, or name another with `scratch`"
        )
    if store != scratch and os.path.lexists(store) and not belongs_to(store):
        raise GpucubeError(
            f"{store} already exists and has no visibilities of gpucube: move it away, or leave out `keep_visibilities`"
        )
    above, folder = disk.nearest_folder(scratch), disk.nearest_folder(imagename)
    if above != folder and not os.access(above, os.W_OK | os.X_OK):
        raise GpucubeError(f"scratch folder {scratch} cannot be made in {above}: name another with `scratch`")
    above = disk.nearest_folder(store)
    # files of an earlier run there will be used again or removed
    left = sum(map(disk.space_taken, Path(store).glob("*")))
    scratch_bytes = max(0, plan.scratch_bytes - left)
    reusable = sum(map(disk.space_taken, plan.paths.existing()))
    if above.stat().st_dev == folder.stat().st_dev:
        needed = scratch_bytes + plan.product_bytes
        disk.check_space(folder, needed, "visibility store and cubes need", "imagename", reusable)
    else:
        disk.check_space(above, scratch_bytes, "the visibility store needs", "scratch")
        disk.check_space(folder, plan.product_bytes, "the cubes need", "imagename", reusable)


def _processes(why_not: str) -> tuple[str, ...]:
    if not why_not:
        return ()
    return (f"no processes can be started ({why_not}): threads do the work",)


def _warnings(axis: SpectralAxis) -> tuple[str, ...]:
    if axis.is_regular():
        return ()
    return (
        "the channels are not evenly spaced: the FITS frequency axis is only the best straight line; "
        "the true frequencies are in the CHANNELS table of every cube and in the summary",
    )


def _coarse_cell(geometry: ImageGeometry, expected: Forecast) -> tuple[str, ...]:
    if expected.on_grid or expected.beam is None or expected.recommended_cell is None:
        return ()
    return (
        f"the `cell` of {angle_text(max(geometry.cell_x, geometry.cell_y))} is too coarse for the longest baselines, which are "
        f"left out; with them the beam is {_beam_text(expected.beam)}: choose a `cell` of at most "
        f"{angle_text(expected.recommended_cell)}",
    )


def _too_many_workers(parameters: Parameters, hardware: Hardware, cores: int) -> tuple[str, ...]:
    there = hardware.gpu_count or cores
    if parameters.scheduler or (parameters.workers or 0) <= there:
        return ()
    what = "GPUs" if hardware.gpu_count else "CPU cores"
    return (
        f"`workers={parameters.workers}` is more than the {there} {what} there are: the run does not become faster",
    )
