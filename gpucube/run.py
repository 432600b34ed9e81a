"""The main job, step by step: check, select, plan, ingest, image, finish.

In: `Parameters` that the schema has checked. Out: `Result`, and the products on disk. Each step is a function of a
room below (docs/architecture.md); this module puts them in order, hands each step what the one before it made, and
leaves the disk in order however the run ends.
"""

from __future__ import annotations

import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Protocol

from gpucube import disk
from gpucube.data.ingest import Ingest
from gpucube.data.mask import Mask, load_mask
from gpucube.data.scratch import clear_leftover, load_state, save_state
from gpucube.data.selection import Selection, select
from gpucube.data.store import VisibilityStore
from gpucube.devices.choice import Hardware, find_hardware
from gpucube.devices.cycles import needs_w
from gpucube.errors import GpucubeError, Interrupted
from gpucube.execution.dask_workers import gpus_of_workers
from gpucube.execution.plan import Plan, make_chunks, make_plan
from gpucube.execution.progress import Progress
from gpucube.execution.tuning import DEFAULT_TUNING, Tuning
from gpucube.execution.workers import Workers, make_workers
from gpucube.imaging.job import Events, ImageJob, settings_of
from gpucube.imaging.stopping import CleanParameters
from gpucube.output.fingerprint import NOT_IN_FINGERPRINT, difference, fingerprint
from gpucube.output.fits_cube import (
    CubeFile,
    create_cubes,
    plane_checksum,
    sync,
    write_beam_table,
    write_single_beam,
)
from gpucube.output.fits_header import CubeDescription, has_beam_table
from gpucube.output.footprint import Footprint
from gpucube.output.journal import Journal, is_locked
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord
from gpucube.output.summary import Summary
from gpucube.result import Result
from gpucube.schema.parameters import Parameters
from gpucube.sky.beam import Beam, RestoringBeam, common_beam
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis
from gpucube.version import __version__


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that has passed every check and may begin."""

    parameters: Parameters
    selection: Selection
    hardware: Hardware
    tuning: Tuning
    identity: dict[str, Any]
    plan: Plan
    geometry: ImageGeometry
    axis: SpectralAxis
    mask: Mask | None
    restoring_beam: RestoringBeam

    @property
    def paths(self) -> RunPaths:
        """Names of the files of the run."""
        return RunPaths.of(self.parameters)

    @property
    def products(self) -> dict[str, str]:
        """Paths of the products and of the summary, by name."""
        return {name: self.paths.product(name) for name in self.parameters.products} | {"summary": self.paths.summary}


class Observer(Events, Protocol):
    """Somebody who follows a run: its stages, and the events of its channels. Called from any thread."""

    def stage(self, name: str) -> None:
        """A stage begins: ``"reading"``, ``"imaging"`` or ``"finishing"``. What it raises ends the run."""
        ...


class NoObserver:
    """An observer that ignores everything; a base for those who want to hear of some events only."""

    def stage(self, name: str) -> None: ...

    def started(self, channel: int) -> None: ...

    def finished(self, record: ChannelRecord) -> None: ...

    def safe(self, records: Sequence[ChannelRecord]) -> None: ...


NO_OBSERVER = NoObserver()


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
        """Seconds since the start."""
        return time.perf_counter() - self._began


def image(
    parameters: Parameters,
    *,
    hardware: Hardware | None = None,
    tuning: Tuning = DEFAULT_TUNING,
    observer: Observer = NO_OBSERVER,
) -> Result:
    """Do the main job.

    Parameters
    ----------
    parameters : Parameters
    hardware : Hardware, optional
        By default what `parameters` ask for and this machine has.
    tuning : Tuning
        Limits and times that change no bit of the result.
    observer : Observer
        Hears of every stage and channel.

    Returns
    -------
    Result

    Raises
    ------
    GpucubeError
        Bad input, too few resources, or a disk that fails, in one line.
    Interrupted
        Ctrl-C or SIGTERM came when some channels were safe on disk.
    """
    stopwatch = Stopwatch()
    # the data come first: it takes a while to notice that a scheduler does not answer
    selection = select(parameters)
    hardware = hardware or hardware_for(parameters, tuning)
    identity = fingerprint(parameters.as_json_dict(), hardware.kind.name, __version__)
    check_outputs(parameters)
    if finished := finished_before(parameters, identity):
        return finished
    job = prepare(parameters, selection, hardware, tuning, identity)
    with claimed_outputs(job) as (journal, footprint):
        if finished := finished_before(parameters, identity, ours=True):
            return finished
        with progress_of(job) as progress, workers_of(job) as workers:
            reports = _Reports(progress=progress, journal=journal, observer=observer)
            stopwatch.end_stage("plan")
            reports.stage("reading")
            store = make_store(job, workers, progress, journal, footprint)
            stopwatch.end_stage("read")
            reports.stage("imaging")
            work = image_job(job, store, journal)
            resumed = take_up_records(job, journal, progress)
            records = image_channels(job, work, workers, reports, journal)
            stopwatch.end_stage("image")
            reports.stage("finishing")
            finish(job, work, workers, records)
            stopwatch.end_stage("finish")
        summary = summarize(job, work, workers, records, resumed, stopwatch)
        disk.remove(job.paths.report)  # it describes an older run, or this one when it was not finished
        footprint.made_product(job.paths.summary)
        summary.write(parameters.imagename)
        return Result(channels=records, products=summary.products, summary=summary.model_dump())


def plan(
    parameters: Parameters, *, hardware: Hardware | None = None, tuning: Tuning = DEFAULT_TUNING
) -> tuple[Plan, Hardware]:
    """Work out what `image` would do and need, without doing it.

    Raises
    ------
    GpucubeError
        Bad input or too few resources, in one line.
    """
    hardware = hardware or hardware_for(parameters, tuning)
    return make_plan(parameters, select(parameters), hardware, tuning), hardware


def hardware_for(parameters: Parameters, tuning: Tuning = DEFAULT_TUNING) -> Hardware:
    """What `parameters` ask for and this machine, or the scheduler's workers, have.

    Raises
    ------
    GpucubeError
        ``device="cuda"``, and no GPU can be used.
    """
    if parameters.scheduler:
        return find_hardware(parameters.device, lambda: gpus_of_workers(parameters.scheduler, tuning.cluster))
    return find_hardware(parameters.device)


def check_outputs(parameters: Parameters) -> None:
    """Refuse to touch what another run makes or has made.

    The journal's lock is the final word. This check comes earlier, before any work is done.

    Raises
    ------
    GpucubeError
        Another run is at work, an unfinished run is there without `resume`, or products are there without `overwrite`.
    """
    imagename, paths = parameters.imagename, RunPaths.of(parameters)
    if is_locked(imagename):
        raise GpucubeError(f"another run is making {imagename} now: wait until it ends, or give another `imagename`")
    unfinished = os.path.exists(paths.journal)
    if parameters.overwrite or (unfinished and parameters.resume):
        return
    if unfinished:
        raise GpucubeError(
            f"{paths.journal} belongs to an unfinished run: `resume=True` continues it, `overwrite=True` replaces it"
        )
    if parameters.resume and os.path.exists(paths.summary):
        return
    if existing := paths.existing():
        no_journal = ", and there is no journal to resume from" if parameters.resume else ""
        raise GpucubeError(
            f"{existing[0]} exists{no_journal}: give another `imagename`, or `overwrite=True` to replace it"
        )


def finished_before(parameters: Parameters, identity: dict[str, Any], *, ours: bool = False) -> Result | None:
    """The result of the run that `resume` continues, if that run had finished.

    Parameters
    ----------
    parameters : Parameters
    identity : dict
        Fingerprint of this run.
    ours : bool
        Whether this run holds the journal, so that the summary cannot change any more.

    Raises
    ------
    GpucubeError
        The finished run is another one, or one of its products is gone.
    """
    imagename, paths = parameters.imagename, RunPaths.of(parameters)
    if not parameters.resume or (not ours and os.path.exists(paths.journal)):
        return None
    try:
        summary = Summary.read(imagename)
    except GpucubeError as error:
        raise GpucubeError(f"{error}: start again with `overwrite=True`") from None
    if summary is None:
        return None
    if changed := difference(summary.fingerprint, identity):
        raise GpucubeError(
            f"cannot resume {imagename}, which is finished: {changed}; "
            "give another `imagename`, or start again with `overwrite=True`"
        )
    products = {name: paths.product(name) for name in parameters.products}
    for path in products.values():
        if not os.path.isfile(path):
            raise GpucubeError(
                f"cannot resume {imagename}, which is finished: {path} is gone; start again with `overwrite=True`"
            )
    if not ours:
        clear_leftover(paths.scratch_folder, imagename)
    return Result(
        channels=summary.channels,
        products=products | {"summary": paths.summary},
        summary=summary.model_dump(),
    )


def prepare(
    parameters: Parameters, selection: Selection, hardware: Hardware, tuning: Tuning, identity: dict[str, Any]
) -> Job:
    """Plan the run, and check what its plan does not cover.

    Raises
    ------
    GpucubeError
        Too little memory or disk; a mask that does not fit the cube.
    """
    plan = make_plan(parameters, selection, hardware, tuning)
    geometry, axis = selection.geometry, selection.axis
    for text in plan.warnings:
        warnings.warn(text, stacklevel=4)
    # the mask's path is absolute: a worker of an existing cluster may run in another folder
    mask = load_mask(os.path.abspath(parameters.mask), geometry, axis) if parameters.mask else None
    return Job(
        parameters=parameters,
        selection=selection,
        hardware=hardware,
        tuning=tuning,
        identity=identity,
        plan=plan,
        geometry=geometry,
        axis=axis,
        mask=mask,
        restoring_beam=parameters.beam,
    )


@contextmanager
def claimed_outputs(job: Job) -> Iterator[tuple[Journal, Footprint]]:
    """Lock the imagename for this run, and leave the disk in order however the run ends.

    Raises
    ------
    GpucubeError
        Another run holds the lock; the folder cannot be made; the file system failed meanwhile.
    Interrupted
        The run was interrupted when some channels were safe.
    """
    parameters, footprint = job.parameters, Footprint()
    with (
        disk.folder_made(job.paths.folder),
        footprint,
        Journal(parameters.imagename, job.identity, parameters.resume) as journal,
    ):
        try:
            with disk.explain_failing_disk():
                yield journal, footprint
        except BaseException as error:
            safe = len(journal.safe)
            if safe:
                footprint.keep_all()
                raise _how_to_resume(error, safe, job.plan.nchan) from None
            with suppress(GpucubeError):  # what ended the run may also keep the journal from going
                journal.remove()
            raise
        footprint.keep_products()
        clear_leftover(job.plan.scratch, parameters.imagename)
        journal.remove()


def _how_to_resume(error: BaseException, safe: int, nchan: int) -> BaseException:
    """The error that ended a run, with a word on how to continue it."""
    way_on = f"{safe} of {nchan} channels are safe on disk, the same call with `resume=True` continues the run"
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted: {way_on}")
    if isinstance(error, GpucubeError):
        return GpucubeError(f"{error}; {way_on}")
    return error


@contextmanager
def progress_of(job: Job) -> Iterator[Progress]:
    """The progress display of a run."""
    with Progress(job.plan.nchan, enabled=not job.parameters.quiet) as progress:
        if job.hardware.note:
            progress.stage(job.hardware.note)
        progress.stage("reading" if job.plan.in_process else "starting workers")
        yield progress


@contextmanager
def workers_of(job: Job) -> Iterator[Workers]:
    """The workers of a run, stopped at its end."""
    workers = make_workers(job.plan, job.hardware.kind, job.parameters.scheduler, job.tuning.cluster)
    try:
        yield workers
    finally:
        workers.close()


def make_store(
    job: Job, workers: Workers, progress: Progress, journal: Journal, footprint: Footprint
) -> VisibilityStore:
    """INGEST: read the MeasurementSets into the store, and make the empty cubes.

    A run that is resumed takes up its cubes, and its store if it is whole.
    """
    parameters, plan = job.parameters, job.plan
    if journal.cubes:
        journal.cubes = _check_cubes(job, journal.cubes)
        for name in parameters.products:
            footprint.made_product(journal.cubes[name].path)
    store = load_state(plan.scratch, job.identity) if journal.cubes else None
    if store is None:
        clear_leftover(plan.scratch, parameters.imagename)
    cubes: dict[str, CubeFile] = {}
    if not journal.cubes:
        # every check has passed: only now are older products removed
        journal.clear()
        cubes = create_cubes(
            os.path.abspath(parameters.imagename),
            parameters.products,
            describe_cubes(job),
            overwrite=parameters.overwrite or parameters.resume,
        )
        for cube in cubes.values():
            footprint.made_product(cube.path)
    if store is None:
        reading = Ingest(job.selection, plan.scratch, owner=parameters.imagename)
        footprint.made_scratch(plan.scratch)
        for report in workers.ingest(reading.jobs):
            reading.add(report)
            progress.ingest(reading.rows_done, reading.nrow)
        store = reading.finish()
        save_state(store, job.identity)
    else:
        footprint.made_scratch(plan.scratch)
    if not journal.cubes:
        journal.begin(cubes | _working_cubes(job, cubes))
    else:
        _restore_working_cubes(job, journal)
    return store


def image_job(job: Job, store: VisibilityStore, journal: Journal) -> ImageJob:
    """All that a worker needs to image channels of the store."""
    parameters = job.parameters
    uv_max, w_max = store.max_uvw_wavelengths()
    w_term = needs_w(job.geometry.w_phase(w_max), parameters.gridder, parameters.epsilon)
    settings = settings_of(parameters, job.geometry, w_term, store.most_samples(), uv_max, w_max)
    return ImageJob(
        store=store,
        settings=settings,
        clean=clean_parameters(parameters),
        frequency=job.axis.frequency,
        stokes=job.selection.stokes,
        cubes=journal.cubes,
        mask=job.mask,
        restoring_beam=job.restoring_beam,
        seconds_between_syncs=job.tuning.seconds_between_syncs,
        may_write=journal.lease.check,
    )


def take_up_records(job: Job, journal: Journal, progress: Progress) -> int:
    """Drop the journalled channels whose planes were damaged since, report the others; return how many are left."""
    for record in journal.records():
        if _is_intact(record, journal.cubes):
            progress.finished(record)
        else:
            journal.drop(record.channel)
    return len(journal.safe)


def image_channels(job: Job, work: ImageJob, workers: Workers, events: Events, journal: Journal) -> list[ChannelRecord]:
    """IMAGE: every channel that is not safe yet, the chunks that are expected to be costly first."""
    todo = [c for c in range(job.plan.nchan) if c not in journal.safe]
    chunks = make_chunks(job.plan.chunksize, work.store.channel_power, todo)
    for batch in workers.image(work, chunks, events):
        journal.add(batch)
    return journal.records()


def finish(job: Job, work: ImageJob, workers: Workers, records: Sequence[ChannelRecord]) -> None:
    """FINISH: write the beam tables, restore with a common beam if one is wanted, and sync every product."""
    fitted = {
        (s, record.channel): Beam.from_record(plane.beam)
        for record in records
        for s, plane in enumerate(record.planes.values())
        if plane.beam
    }
    table = [[fitted.get((s, r.channel)) for r in records] for s in range(len(work.stokes))]
    for name, cube in work.cubes.items():
        if has_beam_table(name, work.restoring_beam):
            write_beam_table(cube, table)
    if work.restoring_beam == "common" and "image" in work.cubes:
        # readers refuse a beam of zero: a cube without any data gets a beam of one pixel
        pixel = Beam(bmaj=job.geometry.cell_y, bmin=job.geometry.cell_y, bpa=0.0)
        target = common_beam(list(fitted.values())) if fitted else pixel
        workers.restore(work, target, fitted, make_chunks(job.plan.chunksize, work.store.channel_power))
        write_single_beam(work.cubes["image"], target)
    for name in job.parameters.products:
        sync(work.cubes[name])


def summarize(
    job: Job, work: ImageJob, workers: Workers, records: list[ChannelRecord], resumed: int, stopwatch: Stopwatch
) -> Summary:
    """What ``OUT.summary.json`` tells of the run."""
    plan = job.plan
    return Summary(
        parameters=job.parameters.as_json_dict(),
        fingerprint=job.identity,
        versions=versions(),
        plan={
            "chunksize": plan.chunksize,
            "chunks": plan.chunks,
            "workers": plan.workers,
            "device": job.hardware.kind.name,
        },
        products=job.products,
        ms_bytes_selected=plan.ms_bytes,
        memory_predicted=plan.memory_predicted,
        device_memory_predicted=plan.device_memory_predicted,
        resumed_channels=resumed,
        ms_bytes_read=work.store.ms_bytes_read,
        memory_peak=workers.memory_peak(),
        device_memory_peak=workers.device_memory_peak(),
        gridder="wgridder" if work.settings.w_term else "standard",
        stage_seconds=stopwatch.stages,
        wall_seconds=stopwatch.total(),
        warnings=list(plan.warnings),
        channels=records,
    )


def versions() -> dict[str, str]:
    """Versions of gpucube, Python and the libraries that a run uses."""
    names = ("numpy", "ducc0", "numba", "python-casacore", "astropy", "dask", "distributed")
    found = {"gpucube": __version__, "python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def clean_parameters(parameters: Parameters) -> CleanParameters:
    """The parameters of iteration control."""
    names = CleanParameters.__dataclass_fields__
    return CleanParameters(**{name: getattr(parameters, name) for name in names})


def describe_cubes(job: Job) -> CubeDescription:
    """What the headers of all products have in common; every parameter that changes the cube is in their history."""
    parameters, selection = job.parameters, job.selection
    shown = {name: value for name, value in parameters.as_json_dict().items() if name not in NOT_IN_FINGERPRINT}
    return CubeDescription(
        geometry=job.geometry,
        axis=job.axis,
        stokes=selection.stokes,
        restoring_beam=job.restoring_beam,
        observation=selection.observation,
        object_name=selection.object_name,
        history=(
            f"gpucube {__version__}",
            *(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items()),
        ),
    )


def _working_cubes(job: Job, cubes: dict[str, CubeFile]) -> dict[str, CubeFile]:
    """Residual and model in the scratch folder, where a common beam needs them and the user did not ask for them."""
    hidden = [name for name in ("residual", "model") if name not in cubes] if job.restoring_beam == "common" else []
    return create_cubes(job.paths.working.imagename, hidden, replace(describe_cubes(job), history=()), overwrite=True)


def _restore_working_cubes(job: Job, journal: Journal) -> None:
    """Make the working cubes of a resumed run again if they went with its scratch folder.

    Their channels then fail the check of `take_up_records` and are imaged again.
    """
    shown = {name: cube for name, cube in journal.cubes.items() if name in job.parameters.products}
    if any(not os.path.exists(cube.path) for cube in journal.cubes.values()):
        _working_cubes(job, shown)


def _check_cubes(job: Job, cubes: dict[str, CubeFile]) -> dict[str, CubeFile]:
    """The cubes of the run that is resumed, at the paths of this run, whatever paths the journal names."""
    found = {}
    for name, cube in cubes.items():
        if name in job.parameters.products:
            path = job.paths.product(name)
            if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) < cube.data_end:
                raise GpucubeError(f"cannot resume: {path} is gone or cut short; start again with `overwrite=True`")
        else:
            path = job.paths.working.product(name)
        found[name] = replace(cube, path=os.path.abspath(path))
    return found


def _is_intact(record: ChannelRecord, cubes: dict[str, CubeFile]) -> bool:
    """Whether every plane of a journalled channel has the bytes with which it was journalled."""
    try:
        return all(
            plane_checksum(cubes[name], s, record.channel) == expected
            for name, sums in record.checksums.items()
            for s, expected in enumerate(sums)
        )
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class _Reports:
    """`Events` of a run: the display shows the channels, the journal keeps those that are safe, the observer hears all."""

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
