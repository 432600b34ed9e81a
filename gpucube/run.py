"""The main job from end to end: MeasurementSets in, deconvolved FITS cubes and a summary out.

In: parameters by name (tclean's where tclean has them). Out: `Result`, and the products on disk. The steps are those of the
package: plan, INGEST, IMAGE, FINISH; what fails leaves nothing half-written behind.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gpucube.data.ingest import ingest
from gpucube.data.mask import Mask, load_mask
from gpucube.data.selection import Selection, image_geometry, make_selection, spectral_axis
from gpucube.data.store import VisibilityStore, clear_leftover, load_state, save_state
from gpucube.devices.base import ImagingSettings, needs_w
from gpucube.devices.choice import choose_device, gpus_here
from gpucube.errors import GpucubeError, Interrupted
from gpucube.execution.choice import make_workers
from gpucube.execution.dask_workers import gpus_of_workers
from gpucube.execution.plan import Gpus, Plan, make_chunks, make_plan
from gpucube.execution.progress import Progress
from gpucube.execution.workers import Workers
from gpucube.imaging.job import ImageJob, settings_of
from gpucube.imaging.stopping import CleanParameters
from gpucube.output.disk import remove, write_whole
from gpucube.output.fits_cube import CubeFile, create_cubes, plane_checksum, sync, write_beam_table, write_single_beam
from gpucube.output.journal import NOT_IN_FINGERPRINT, Journal, difference, fingerprint, is_locked
from gpucube.output.paths import (
    existing_products,
    journal_path,
    product_path,
    report_path,
    scratch_folder,
    summary_path,
)
from gpucube.output.records import ChannelRecord
from gpucube.output.summary import read_summary
from gpucube.result import Result
from gpucube.schema.parameters import Parameters
from gpucube.schema.quantities import ARCSEC_PER_RADIAN
from gpucube.sky.beam import Beam, RestoringBeam, beam_from_record, common_beam
from gpucube.sky.geometry import ImageGeometry, w_phase
from gpucube.sky.spectral import SpectralAxis
from gpucube.version import __version__


@dataclass(frozen=True)
class _Setup:
    """A job that has been looked at from all sides and may begin."""

    parameters: Parameters
    device: str
    note: str
    selection: Selection
    plan: Plan
    geometry: ImageGeometry
    axis: SpectralAxis
    mask: Mask | None
    beam: RestoringBeam
    identity: dict[str, Any]
    begun: float


def run(parameters: Parameters) -> Result:
    """`image_cube` with parameters that have been checked."""
    begun = time.perf_counter()
    # the data first: a scheduler that does not answer is noticed after a while only
    selection = make_selection(parameters)
    device, note, gpus = hardware(parameters)
    identity = fingerprint(parameters.as_json_dict(), device, __version__)
    _refuse_what_is_there(parameters)
    if parameters.resume and not os.path.exists(journal_path(parameters.imagename)):
        finished = _finished_before(parameters, identity)
        if finished is not None:
            clear_leftover(scratch_folder(parameters), parameters.imagename)
            return finished
    plan = make_plan(parameters, selection, gpus)
    geometry, axis = image_geometry(parameters, selection), spectral_axis(selection)
    for text in plan.warnings:
        warnings.warn(text, stacklevel=3)
    # a worker of an existing cluster may run in another folder
    mask = load_mask(os.path.abspath(parameters.mask), geometry, axis) if parameters.mask else None
    beam = _restoring_beam(parameters)
    setup = _Setup(parameters, device, note, selection, plan, geometry, axis, mask, beam, identity, begun)
    with contextlib.ExitStack() as on_failure, contextlib.ExitStack() as scratch:
        for folder in _missing_folders(parameters.imagename):
            on_failure.callback(_remove_folder, folder)
        _make_folder(parameters.imagename)
        journal = on_failure.enter_context(Journal(parameters.imagename, identity, parameters.resume))
        try:
            result = _finished_before(parameters, identity) if parameters.resume else None
            if result is None:
                with _disk_trouble_told():
                    result = _image(setup, journal, on_failure, scratch)
        except BaseException as error:
            _stop_short(error, journal, plan, on_failure, scratch)
            raise
        scratch.close()
        clear_leftover(plan.scratch, parameters.imagename)
        # whole and safe: nothing of it may go any more
        on_failure.pop_all()
        with journal:
            journal.forget()
    return result


@contextlib.contextmanager
def _disk_trouble_told() -> Iterator[None]:
    """A file system that fails, wherever it is noticed, is no defect of gpucube."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE):
            raise
        raise GpucubeError(f"cannot write {error.filename or 'to disk'}: {error.strerror}") from None


def _image(setup: _Setup, journal: Journal, on_failure: contextlib.ExitStack, scratch: contextlib.ExitStack) -> Result:
    """INGEST, IMAGE and FINISH, under the journal's lock."""
    parameters, plan = setup.parameters, setup.plan
    with Progress(plan.nchan, enabled=not parameters.quiet) as progress, contextlib.ExitStack() as always:
        if setup.note:
            progress.stage(setup.note)
        progress.stage("reading" if plan.in_process else "starting workers")
        workers = make_workers(plan.in_process, plan.workers, setup.device, parameters.scheduler, plan.worker_memory)
        always.callback(workers.close)
        stages = {"plan": time.perf_counter() - setup.begun}
        clock = time.perf_counter()
        progress.stage("reading")
        store, bytes_read = _read(setup, workers, progress, journal, on_failure, scratch)
        stages["read"] = time.perf_counter() - clock
        settings = _settings(parameters, setup.geometry, store)
        job = ImageJob(
            store=store,
            settings=settings,
            clean=_clean(parameters),
            frequency=setup.axis.frequency,
            stokes=setup.selection.stokes,
            cubes=journal.cubes,
            mask=setup.mask,
            restoring_beam=setup.beam,
            may_write=journal.lease.check,
        )
        journal.drop([c for c, record in journal.records.items() if not _is_there(record, journal.cubes)])
        resumed = len(journal.records)
        progress.stage("imaging")
        clock = time.perf_counter()
        for record in journal.records.values():
            progress.finished(record)
        todo = [c for c in range(plan.nchan) if c not in journal.records]
        chunks = make_chunks(plan.chunksize, store.power.sum(0), todo)
        for batch in workers.image(job, chunks, _Reports(progress, journal)):
            journal.add(batch)
        records = [journal.records[c] for c in range(plan.nchan)]
        stages["image"] = time.perf_counter() - clock
        progress.stage("finishing")
        clock = time.perf_counter()
        _finish(job, workers, records, make_chunks(plan.chunksize, store.power.sum(0)))
        for name in parameters.products:
            sync(journal.cubes[name])
        stages["finish"] = time.perf_counter() - clock
        measured = {
            "resumed_channels": resumed,
            "ms_bytes_read": bytes_read,
            "memory_peak": workers.memory_peak(),
            "device_memory_peak": workers.device_memory_peak(),
            "gridder": "wgridder" if settings.w_term else "standard",
            "stage_seconds": stages,
        }
    paths = {name: product_path(parameters.imagename, name) for name in parameters.products}
    paths["summary"] = summary_path(parameters.imagename)
    summary = _summary(setup, paths, measured, records)
    remove(report_path(parameters.imagename))  # of an older run, or of this one when it was not finished
    on_failure.callback(remove, paths["summary"])
    write_whole(paths["summary"], json.dumps(summary, indent=1))
    return Result(records, paths, summary)


def _read(
    setup: _Setup,
    workers: Workers,
    progress: Progress,
    journal: Journal,
    on_failure: contextlib.ExitStack,
    scratch: contextlib.ExitStack,
) -> tuple[VisibilityStore, int]:
    """Take up what an earlier run left, or read the MeasurementSets and make the cubes; the store, and bytes read for it."""
    parameters, selection, plan = setup.parameters, setup.selection, setup.plan
    if journal.cubes:
        journal.cubes = _check_cubes(setup, journal.cubes)
        for name in parameters.products:
            on_failure.callback(remove, journal.cubes[name].path)
    kept = load_state(plan.scratch, setup.identity) if journal.cubes else None
    if kept is None:
        clear_leftover(plan.scratch, parameters.imagename)
    if not journal.cubes:
        # last of all that may refuse: only now older products go
        journal.clear()
        cubes = _create(setup)
        for cube in cubes.values():
            on_failure.callback(remove, cube.path)
    if kept is None:
        kept = ingest(selection, plan.scratch, progress.ingest, workers.ingest, scratch, parameters.imagename)
        save_state(kept[0], setup.identity, kept[1])
    else:
        scratch.callback(shutil.rmtree, plan.scratch, ignore_errors=True)
    store, bytes_read = kept
    if not journal.cubes:
        journal.begin(cubes | _working_cubes(setup, cubes))
    else:
        _restore_working_cubes(setup, journal)
    return store, bytes_read


def _summary(
    setup: _Setup, paths: dict[str, str], measured: dict[str, Any], records: Sequence[ChannelRecord]
) -> dict[str, Any]:
    """What ``OUT.summary.json`` holds."""
    plan = setup.plan
    return {
        "parameters": setup.parameters.as_json_dict(),
        "fingerprint": setup.identity,
        "versions": versions(),
        "plan": {"chunksize": plan.chunksize, "chunks": plan.chunks, "workers": plan.workers, "device": setup.device},
        "products": paths,
        "ms_bytes_selected": plan.ms_bytes,
        "memory_predicted": plan.memory_predicted,
        "device_memory_predicted": plan.device_memory_predicted,
        **measured,
        "wall_seconds": time.perf_counter() - setup.begun,
        "warnings": list(plan.warnings),
        "channels": [r.as_dict() for r in records],
    }


def _finished_before(parameters: Parameters, identity: dict[str, Any]) -> Result | None:
    """The result of the run to be resumed if it had come to its end; None if there is something to do.

    The summary is written last of all, when everything else is safe.
    """
    imagename = parameters.imagename
    try:
        summary = read_summary(imagename)
    except GpucubeError as error:
        raise GpucubeError(f"{error}: start anew with overwrite=True") from None
    if summary is None:
        return None
    if changed := difference(summary.fingerprint, identity):
        raise GpucubeError(
            f"cannot resume {imagename}, which is finished: {changed}; "
            "give another imagename, or start anew with overwrite=True"
        )
    products = {name: product_path(imagename, name) for name in parameters.products}
    for path in products.values():
        if not os.path.isfile(path):
            raise GpucubeError(
                f"cannot resume {imagename}, which is finished: {path} is gone; start anew with overwrite=True"
            )
    return Result(summary.channels, products | {"summary": summary_path(imagename)}, summary.model_dump())


def _refuse_what_is_there(parameters: Parameters) -> None:
    """Another run at work, an unfinished run without `resume`, products without `overwrite`.

    Looked at again under the journal's lock; here, before any work is done.
    """
    imagename, journal = parameters.imagename, journal_path(parameters.imagename)
    if is_locked(imagename):
        raise GpucubeError(f"another run is making {imagename} now: wait for it, or give another imagename")
    unfinished = os.path.exists(journal)
    if parameters.overwrite or (unfinished and parameters.resume):
        return
    if unfinished:
        raise GpucubeError(
            f"{journal} shows an unfinished run: resume=True goes on with it, overwrite=True starts anew"
        )
    existing = existing_products(imagename)
    if parameters.resume and os.path.exists(summary_path(imagename)):
        return
    if existing:
        nothing = ", and no journal to resume from" if parameters.resume else ""
        raise GpucubeError(f"{existing[0]} exists{nothing}; give another imagename, or overwrite=True to replace it")


def _stop_short(
    error: BaseException,
    journal: Journal,
    plan: Plan,
    on_failure: contextlib.ExitStack,
    scratch: contextlib.ExitStack,
) -> None:
    """Keep what is safe and say how to go on; if nothing is, leave nothing behind."""
    safe = len(journal.records)
    if not safe:
        with contextlib.suppress(GpucubeError):  # what ended the run may also be why the journal cannot go
            journal.forget()
        return
    on_failure.pop_all()
    scratch.pop_all()
    journal.close()
    way_on = f"{safe} of {plan.nchan} channels are safe on disk, the same call with resume=True goes on"
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(f"interrupted: {way_on}") from None
    if isinstance(error, GpucubeError):
        raise GpucubeError(f"{error}; {way_on}") from None


def _working_cubes(setup: _Setup, cubes: dict[str, CubeFile]) -> dict[str, CubeFile]:
    """Residual and model in the scratch folder, if the restoring pass of a common beam needs them and nobody asked."""
    hidden = [name for name in ("residual", "model") if name not in cubes] if setup.beam == "common" else []
    return create_cubes(
        _working_name(setup.plan), hidden, setup.geometry, setup.axis, setup.selection.stokes, (), overwrite=True
    )


def _working_name(plan: Plan) -> str:
    return os.path.join(plan.scratch, "work")


def _restore_working_cubes(setup: _Setup, journal: Journal) -> None:
    """Make the hidden cubes of a resumed run again if they went with its scratch folder; their channels then do not count."""
    shown = {name: cube for name, cube in journal.cubes.items() if name in setup.parameters.products}
    if any(not os.path.exists(cube.path) for cube in journal.cubes.values()):
        _working_cubes(setup, shown)


def _check_cubes(setup: _Setup, cubes: dict[str, CubeFile]) -> dict[str, CubeFile]:
    """The cubes of the run that is taken up, where this run puts them, whatever path the journal names."""
    found = {}
    for name, cube in cubes.items():
        if name in setup.parameters.products:
            path = product_path(setup.parameters.imagename, name)
            if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) < cube.data_end:
                raise GpucubeError(f"cannot resume: {path} is gone or cut short; start anew with overwrite=True")
        else:
            path = product_path(_working_name(setup.plan), name)
        found[name] = replace(cube, path=os.path.abspath(path))
    return found


def _is_there(record: ChannelRecord, cubes: dict[str, CubeFile]) -> bool:
    """Whether every plane of a journalled channel has the bytes it was journalled with."""
    try:
        return all(
            plane_checksum(cubes[name], s, record.channel) == expected
            for name, sums in record.checksums.items()
            for s, expected in enumerate(sums)
        )
    except OSError:
        return False


def hardware(parameters: Parameters) -> tuple[str, str, Gpus | None]:
    """What a job will run on.

    Returns
    -------
    device : str
        ``"cpu"`` or ``"cuda"``.
    note : str
        Why ``device="auto"`` does not mean a GPU; empty otherwise.
    gpus : Gpus or None

    Raises
    ------
    GpucubeError
        ``device="cuda"``, and no GPU can be used.
    """
    if parameters.device == "cpu":
        return "cpu", "", None
    seen = gpus_of_workers(parameters.scheduler) if parameters.scheduler else [gpus_here()]
    device, note = choose_device(parameters.device, lambda: next((why for why, _, _ in seen if why), ""))
    if device == "cpu":
        return device, note, None
    # each worker of a cluster has one GPU; a process alone may use all that are visible
    count = len(seen) if parameters.scheduler else seen[0][1]
    return device, note, Gpus(count, min(memory for _, _, memory in seen))


def versions() -> dict[str, str]:
    """Versions of what took part."""
    names = ("numpy", "ducc0", "numba", "python-casacore", "astropy", "dask", "distributed")
    found = {"gpucube": __version__, "python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _settings(parameters: Parameters, geometry: ImageGeometry, store: VisibilityStore) -> ImagingSettings:
    uv_max, w_max = store.max_uvw_wavelengths()
    w_term = needs_w(w_phase(geometry, w_max), parameters.gridder, parameters.epsilon)
    return settings_of(parameters, geometry, w_term, store.most_samples(), uv_max, w_max)


def _clean(parameters: Parameters) -> CleanParameters:
    names = CleanParameters.__dataclass_fields__
    return CleanParameters(**{name: getattr(parameters, name) for name in names})


def _restoring_beam(parameters: Parameters) -> RestoringBeam:
    if parameters.restoringbeam in ("", "common"):
        return "common" if parameters.restoringbeam else "channel"
    bmaj, bmin, bpa = parameters.restoringbeam
    return Beam(bmaj / ARCSEC_PER_RADIAN, bmin / ARCSEC_PER_RADIAN, float(np.deg2rad(bpa)))


def _create(setup: _Setup) -> dict[str, CubeFile]:
    parameters, selection = setup.parameters, setup.selection
    shown = {name: value for name, value in parameters.as_json_dict().items() if name not in NOT_IN_FINGERPRINT}
    history = [f"gpucube {__version__}"]
    history += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items()]
    return create_cubes(
        os.path.abspath(parameters.imagename),
        parameters.products,
        setup.geometry,
        setup.axis,
        selection.stokes,
        history,
        telescope=selection.info.telescope,
        objectname=selection.field.name,
        observer=selection.info.observer,
        dateobs=_iso_date(selection.info.start_time_mjd_s),
        restoring_beam=setup.beam,
        overwrite=parameters.overwrite or parameters.resume,
    )


def _iso_date(mjd_seconds: float) -> str:
    if mjd_seconds <= 0:
        return ""
    return str(np.datetime64("1858-11-17T00:00:00.000") + np.timedelta64(round(mjd_seconds * 1000), "ms"))


@dataclass(frozen=True)
class _Reports:
    """`Events` of a run: the progress display shows the channels, the journal keeps those that are safe."""

    progress: Progress
    journal: Journal

    def started(self, channel: int) -> None:
        self.progress.started(channel)

    def finished(self, record: ChannelRecord) -> None:
        self.progress.finished(record)

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        self.journal.add(records)


def _finish(job: ImageJob, workers: Workers, records: Sequence[ChannelRecord], chunks: Sequence[Sequence[int]]) -> None:
    """Step 3, FINISH: beam tables, and the restoring pass if one beam is wanted for all."""
    fitted = {
        (s, r.channel): beam_from_record(of_plane["beam"])
        for r in records
        for s, of_plane in enumerate(r.planes.values() if r.planes else [r.as_dict()])
        if of_plane["beam"]
    }
    table = [[fitted.get((s, r.channel)) for r in records] for s in range(len(job.stokes))]
    for name in ("image", "residual", "psf", "dirty"):
        if name in job.cubes and (name != "image" or job.restoring_beam == "channel"):
            write_beam_table(job.cubes[name], table)
    if job.restoring_beam == "common" and "image" in job.cubes:
        geometry = job.settings.geometry
        pixel = Beam(geometry.cell_y, geometry.cell_y, 0.0)
        # readers refuse a beam of zero: a cube without any data gets a pixel's
        target = common_beam(list(fitted.values())) if fitted else pixel
        workers.restore(job, target, fitted, chunks)
        write_single_beam(job.cubes["image"], target)


def _missing_folders(imagename: str) -> list[Path]:
    """Folders that will have to be made for the products, outermost first."""
    return [folder for folder in list(Path(imagename).absolute().parents)[::-1] if not folder.exists()]


def _make_folder(imagename: str) -> None:
    folder = Path(imagename).absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GpucubeError(f"cannot create the folder {folder}: {error.strerror}") from None


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not there, or somebody else's file is in it
        folder.rmdir()
