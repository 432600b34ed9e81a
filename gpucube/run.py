"""The main job, step by step: check, select, plan, ingest, image, finish.

In: `Parameters` that the schema has checked. Out: `Result`, and the products on disk. Each step is a function of
another package (docs/architecture.md). This module calls them in order, passes the output of each step to the next, and
cleans up the disk however the run ends.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from gpucube import disk
from gpucube.data.clean_mask import CleanMask, load_clean_mask
from gpucube.data.ingest import refuse_if_nothing_counts
from gpucube.data.line_search import propose
from gpucube.data.measurementset import referenced_tables
from gpucube.data.recipe import Recipe, make_recipe
from gpucube.data.selection import Selection, select
from gpucube.data.start_model import StartModel, load_start_model
from gpucube.data.store import PlaneKey, VisibilityStore
from gpucube.devices.choice import Hardware, find_hardware
from gpucube.devices.cycle_rules import needs_w
from gpucube.errors import GpucubeError
from gpucube.execution.dask_workers import hardware_of_workers
from gpucube.execution.machine import open_files_raised
from gpucube.execution.plan import Plan, make_chunks, make_plan
from gpucube.execution.progress import Progress
from gpucube.execution.signals import signals_interrupt
from gpucube.execution.tuning import DEFAULT_TUNING, Tuning
from gpucube.execution.workers import Workers, make_workers
from gpucube.imaging.automask import AutoMask
from gpucube.imaging.job import Events, ImageJob, NoEvents, settings_of
from gpucube.imaging.remarks import refuse_if_all_off_grid, remarks
from gpucube.imaging.stopping import CleanParameters
from gpucube.imaging.warm_up import warm_up
from gpucube.imaging.weighting import host_weighting
from gpucube.output.fingerprint import CONTENTS, fingerprint
from gpucube.output.fits_cube import sync, write_beams, write_single_beam
from gpucube.output.fits_header import RESTORED, has_fitted_beams
from gpucube.output.journal import Journal, resumable
from gpucube.output.records import ChannelRecord
from gpucube.output.summary import ContinuumSummary, SpectralSummary, Summary
from gpucube.result import Result
from gpucube.run_files import (
    Job,
    begins_with_earlier_mask,
    check_outputs,
    claimed_outputs,
    finished_before,
    goes_on,
    keep_store,
    kept_visibilities,
    make_store,
    restarted,
    take_up_records,
    with_residual,
)
from gpucube.schema.parameters import Parameters
from gpucube.schema.types import mask_items
from gpucube.sky.beam import Beam, common_beam
from gpucube.version import __version__, versions


class Observer(NoEvents):
    """Follows a run: its stages and its `Events`. Any thread may call it. This one ignores everything."""

    def stage(self, name: str) -> None:
        """A stage begins: ``"reading"``, ``"imaging"`` or ``"finishing"``. An exception from here ends the run."""


NO_OBSERVER = Observer()


class Stopwatch:
    """Seconds since the start of the run, and of each of its stages."""

    def __init__(self) -> None:
        self._began = self._lap = time.perf_counter()
        self.stages: dict[str, float] = {}

    def end_stage(self, name: str) -> None:
        """Charge the time since the last stage ended to `name`."""
        now = time.perf_counter()
        self.stages[name], self._lap = now - self._lap, now

    def total(self) -> float:
        return time.perf_counter() - self._began


@signals_interrupt()
@open_files_raised()
@disk.explain_the_system()
def image(
    parameters: Parameters,
    *,
    hardware: Hardware | None = None,
    tuning: Tuning = DEFAULT_TUNING,
    observer: Observer = NO_OBSERVER,
) -> Result:
    """Run the main job, by default on the hardware that `parameters` ask for. `tuning` does not change the result.

    Raises
    ------
    GpucubeError
        Bad input, too few resources, or a disk that fails, in one line.
    Interrupted
        Ctrl-C or SIGTERM came when some channels were safe on disk.
    """
    stopwatch = Stopwatch()
    with restarted(parameters) as parameters:
        # check the data first: it takes a while to notice that a scheduler does not answer
        selection = select(parameters)
        hardware = hardware or hardware_for(parameters, tuning)
        identity = _identity(parameters, hardware)
        check_outputs(parameters)
        if finished := finished_before(parameters, identity):
            return finished
        job = prepare(parameters, selection, hardware, tuning, identity)
        _warn(job.plan.warnings)
        with claimed_outputs(job) as (journal, footprint):
            if finished := finished_before(parameters, identity, ours=True):
                return finished
            with (
                progress_of(job) as progress,
                closing(make_workers(job.plan, hardware.kind, parameters.scheduler, tuning.cluster)) as workers,
            ):
                reports = _Reports(progress=progress, journal=journal, observer=observer)
                stopwatch.end_stage("plan")
                reports.stage("reading")
                store = make_store(job, workers, progress, journal, footprint)
                stopwatch.end_stage("read")
                work = image_job(job, store, journal)
                workers.begin_imaging()
                with progress.compiling("imaging"):
                    workers.everywhere(functools.partial(warm_up, hardware.kind, work.settings))
                stopwatch.end_stage("compile")
                reports.stage("imaging")
                resumed = take_up_records(job, journal, progress)
                records = image_channels(job, work, workers, reports, journal)
                stopwatch.end_stage("image")
                reports.stage("finishing")
                target = finish(job, work, workers, records)
                stopwatch.end_stage("finish")
            found = remarks(work, records, target)
            kept = keep_store(job, store)
            summary = summarize(job, work, workers, records, resumed, stopwatch, found, kept)
            disk.remove_if_possible(job.paths.report)  # it describes an older run, or this one when it was not finished
            footprint.made_product(job.paths.summary)
            summary.write(parameters.imagename)
        _warn(found)  # the run is finished and safe, even where warnings are made errors
        return Result(channels=records, products=summary.products, summary=summary.model_dump())


def _warn(texts: Sequence[str]) -> None:
    """Issue Python warnings that point at the line that calls `gpucube.image_cube`."""
    for text in texts:
        warnings.warn(text, stacklevel=7)  # the three decorators of `image` are in between


@disk.explain_the_system()
def plan(
    parameters: Parameters, *, hardware: Hardware | None = None, tuning: Tuning = DEFAULT_TUNING
) -> tuple[Plan, Hardware]:
    """Predict what `image` would do and need, without doing it. Raises the same GpucubeError as `image`."""
    parameters = with_residual(parameters)
    selection = select(parameters)
    hardware = hardware or hardware_for(parameters, tuning)
    if not goes_on(parameters):
        check_outputs(parameters)
    identity = _identity(parameters, hardware)
    if parameters.resume and not parameters.restart and not resumable(parameters.imagename, identity):
        finished_before(parameters, identity, ours=True)
    planned = _plan_and_images(parameters, selection, hardware, tuning, _recipe(selection, identity))[0]
    if not planned.kept:
        refuse_if_nothing_counts(selection)
    return replace(planned, line_free=propose(selection)), hardware


def _identity(parameters: Parameters, hardware: Hardware) -> dict[str, Any]:
    """The fingerprint of a run."""
    tables = [table for path in parameters.vis for table in referenced_tables(path)]
    return fingerprint(parameters.as_json_dict(), hardware.kind.name, __version__, tables)


def _recipe(selection: Selection, identity: dict[str, Any]) -> Recipe:
    """The recipe of the visibility store of a run with this fingerprint."""
    contents = {}
    for path in dict.fromkeys(source.path for source in selection.sources):
        contents[path] = " ".join(identity[CONTENTS + table] for table in (path, *referenced_tables(path)))
    return make_recipe(selection, contents)


def hardware_for(parameters: Parameters, tuning: Tuning = DEFAULT_TUNING) -> Hardware:
    """Choose the hardware: what `parameters` ask for, out of what this machine or the workers of the scheduler have."""
    if parameters.scheduler:
        return hardware_of_workers(parameters.device, parameters.scheduler, tuning.cluster)
    return find_hardware(parameters.device)


def prepare(
    parameters: Parameters, selection: Selection, hardware: Hardware, tuning: Tuning, identity: dict[str, Any]
) -> Job:
    """Plan the run, open the mask and the start model, and test the folders."""
    recipe = _recipe(selection, identity)
    plan, mask, start_model = _plan_and_images(parameters, selection, hardware, tuning, recipe)
    store_folder, by = plan.paths.store_folder, plan.paths.store_parameter
    lacks = disk.rehearse(parameters.imagename, store_folder, links=bool(parameters.scheduler), parameter=by)
    plan = replace(plan, warnings=(*plan.warnings, *lacks))
    return Job(
        parameters=parameters,
        selection=selection,
        hardware=hardware,
        tuning=tuning,
        identity=identity,
        recipe=recipe,
        continues=goes_on(parameters),
        plan=plan,
        mask=mask,
        start_model=start_model,
    )


def _plan_and_images(
    parameters: Parameters, selection: Selection, hardware: Hardware, tuning: Tuning, recipe: Recipe
) -> tuple[Plan, CleanMask | None, StartModel | None]:
    """Make the plan, open the mask and the start model, and add their warnings to those of the plan."""
    kept, notes = kept_visibilities(parameters, recipe)
    plan = make_plan(parameters.noted(*notes), selection, hardware, tuning, kept=kept)
    mask, start_model = None, None
    if parameters.mask:
        mask = load_clean_mask(
            mask_items(parameters.mask),
            selection.geometry,
            selection.axis,
            parameters.stokes_names,
            earlier=begins_with_earlier_mask(parameters),
        )
        plan = replace(plan, warnings=(*plan.warnings, *mask.warnings))
    if parameters.startmodel:
        start_model = load_start_model(
            parameters.startmodel, selection.geometry, selection.axis, parameters.stokes_names
        )
        plan = replace(plan, warnings=(*plan.warnings, *start_model.warnings))
    return plan, mask, start_model


@contextmanager
def progress_of(job: Job) -> Iterator[Progress]:
    """The progress display of a run, at its first stage."""
    with Progress(job.plan.nchan, enabled=not job.parameters.quiet) as progress:
        if job.hardware.note:
            progress.stage(job.hardware.note)
        progress.stage("reading" if job.plan.in_process else "starting workers")
        yield progress


def image_job(job: Job, store: VisibilityStore, journal: Journal) -> ImageJob:
    """Describe the imaging of the store's channels to the workers."""
    parameters, geometry = job.parameters, job.selection.geometry
    uv_max, w_max = store.max_uvw_wavelengths(0.5 / geometry.cell_x, 0.5 / geometry.cell_y)
    w_term = needs_w(geometry.w_phase(w_max), parameters.gridder, parameters.epsilon)
    settings = settings_of(
        parameters,
        geometry,
        w_term=w_term,
        samples=store.most_samples(),
        uv_max=uv_max,
        w_max=w_max,
        scales=job.plan.scales,
    )
    return ImageJob(
        store=store,
        settings=settings,
        clean=CleanParameters.of(parameters),
        frequency=job.selection.axis.frequency,
        stokes=job.selection.stokes,
        cubes=journal.cubes,
        mask=job.mask,
        weighting=host_weighting(parameters, job.selection, store, job.plan.scratch),
        start_model=job.start_model,
        restoring_beam=parameters.beam,
        automask=AutoMask.of(parameters),
        primary_beam=job.selection.primary_beam,
        pb_mask=parameters.pbmask if parameters.masks_with_beam else None,
        seconds_between_syncs=job.tuning.seconds_between_syncs,
        may_write=journal.lease.check,
    )


def image_channels(job: Job, work: ImageJob, workers: Workers, events: Events, journal: Journal) -> list[ChannelRecord]:
    """IMAGE: image every channel that is not yet safe, in chunks, beginning with those that are expected to take longest."""
    todo = [c for c in range(job.plan.nchan) if c not in journal.safe]
    chunks = make_chunks(job.plan.chunksize, work.store.channel_power, todo)
    for batch in workers.image(work, chunks, events):
        journal.add(batch)
    records = journal.records()
    try:
        refuse_if_all_off_grid(work, records)
    except GpucubeError:
        for record in records:  # nothing of the run is worth keeping
            journal.drop(record.channel)
        raise
    return records


def finish(job: Job, work: ImageJob, workers: Workers, records: Sequence[ChannelRecord]) -> Beam | None:
    """FINISH: write the beam tables, restore with a common beam if one is wanted, and sync every product.

    Returns the one beam of the image; None if each channel has its own, or there is no image.
    """
    fitted = {
        PlaneKey(channel=record.channel, stokes=s): Beam.from_record(plane.beam)
        for record in records
        for s, plane in enumerate(record.planes.values())
        if plane.beam
    }
    table = [[fitted.get(PlaneKey(channel=r.channel, stokes=s)) for r in records] for s in range(len(work.stokes))]
    for name, cube in work.cubes.items():
        if has_fitted_beams(name, work.restoring_beam):
            write_beams(cube, table)
    target = work.restoring_beam if isinstance(work.restoring_beam, Beam) else None
    images = [work.cubes[name] for name in RESTORED if name in work.cubes]
    if work.restoring_beam == "common" and images:
        # programs that read cubes refuse a beam of 0, so a cube without data gets a beam of one pixel
        cell = job.selection.geometry.cell_y
        pixel = Beam(bmaj=cell, bmin=cell, bpa=0.0)
        target = common_beam(list(fitted.values())) if fitted else pixel
        workers.restore(work, target, fitted, make_chunks(job.plan.chunksize, work.store.channel_power))
        for cube in images:
            write_single_beam(cube, target)
    for name in job.parameters.cubes:
        sync(work.cubes[name])
    return target if images else None


def summarize(
    job: Job,
    work: ImageJob,
    workers: Workers,
    records: list[ChannelRecord],
    resumed: int,
    stopwatch: Stopwatch,
    found: Sequence[str],
    kept: str,
) -> Summary:
    """Collect the contents of ``OUT.summary.json``."""
    plan = job.plan
    return Summary(
        parameters=job.parameters.as_json_dict(),
        fingerprint=job.identity,
        versions=versions(),
        plan=dict(
            chunksize=plan.chunksize,
            chunks=plan.chunks,
            workers=plan.workers,
            device=job.hardware.kind.name,
            scales=plan.scales,
        ),
        products=job.products,
        ms_bytes_selected=plan.ms_bytes,
        memory_predicted=plan.memory_predicted,
        device_memory_predicted=plan.device_memory_predicted,
        resumed_channels=resumed,
        ms_bytes_read=work.store.ms_bytes_read,
        visibilities=kept,
        memory_peak=workers.memory_peak(),
        device_memory_peak=workers.device_memory_peak(),
        spectral_axis=SpectralSummary.of(job.selection.axis),
        continuum=ContinuumSummary.of(job.selection.sources),
        gridder="wgridder" if work.settings.w_term else "standard",
        stage_seconds=stopwatch.stages,
        wall_seconds=stopwatch.total(),
        warnings=[*plan.warnings, *found],
        channels=records,
    )


@dataclass(frozen=True, kw_only=True)
class _Reports:
    """Passes the `Events` of a run on: to the display, the journal (channels that are safe) and the observer."""

    progress: Progress
    journal: Journal
    observer: Observer

    def stage(self, name: str) -> None:
        self.progress.stage(name)
        self.observer.stage(name)

    def started(self, channel: int) -> None:
        self.progress.started(channel)
        self.observer.started(channel)

    def finished(self, record: ChannelRecord) -> None:
        self.progress.finished(record)
        self.observer.finished(record)

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        self.journal.add(records)
        self.observer.safe(records)
