"""The output files of a run: who owns them, how they are created or resumed, and which of them are kept.

In: a `Job` that has passed every check. Out: its journal under a lock, its empty cubes and its visibility store, new or
from the run that it resumes. A run that finishes keeps its products, and its store if the user wants to keep it, and removes
its scratch folder. A run that fails before any channel is safe removes all its files. A run that is interrupted later keeps
everything, so that ``resume=True`` can continue it.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from gpucube import disk
from gpucube.data.clean_mask import CleanMask
from gpucube.data.copying import copy_channels
from gpucube.data.ingest import Ingest, plan_partitions, warm_up
from gpucube.data.recipe import Recipe
from gpucube.data.scratch import (
    OWNER_FILE,
    STATE_FILE,
    allocate,
    belongs_to,
    clear_leftover,
    find_part,
    find_store,
    keep,
    make_folder,
    save_state,
)
from gpucube.data.selection import Selection
from gpucube.data.start_model import StartModel
from gpucube.data.store import VisibilityStore
from gpucube.devices.choice import Hardware
from gpucube.errors import GpucubeError, Interrupted
from gpucube.execution.plan import Plan
from gpucube.execution.progress import Progress
from gpucube.execution.tuning import Tuning
from gpucube.execution.workers import Workers
from gpucube.output.fingerprint import NOT_IN_FINGERPRINT, difference
from gpucube.output.fits_cube import CubeFile, create_cubes, plane_checksum
from gpucube.output.fits_header import CubeDescription
from gpucube.output.journal import Journal, is_locked
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord
from gpucube.output.summary import Summary
from gpucube.result import Result
from gpucube.schema.parameters import Parameters
from gpucube.schema.types import PRODUCTS, mask_file, mask_files, mask_items, parse_mask
from gpucube.version import __version__


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run that has passed all checks."""

    parameters: Parameters
    selection: Selection
    hardware: Hardware
    tuning: Tuning
    identity: dict[str, Any]
    recipe: Recipe  # of the visibility store
    continues: bool  # whether the run goes on from a finished one
    plan: Plan
    mask: CleanMask | None
    start_model: StartModel | None

    @property
    def paths(self) -> RunPaths:
        return self.plan.paths

    @property
    def products(self) -> dict[str, str]:
        """Paths of the products and of the summary, by name."""
        return {name: self.paths.product(name) for name in self.parameters.cubes} | {"summary": self.paths.summary}


class Footprint(ExitStack):
    """The files that a run has made. They are removed at the end of a ``with`` block unless they are kept."""

    def __init__(self) -> None:
        super().__init__()
        self._scratch = self.enter_context(ExitStack())

    def made_product(self, path: str) -> None:
        self.callback(disk.remove_if_possible, path)

    def made_folder(self, folder: str) -> None:
        self.callback(disk.remove_tree, folder)

    def made_scratch(self, folder: str) -> None:
        self._scratch.callback(disk.remove_tree, folder)

    def keep_products(self) -> None:
        """End a finished run: remove the scratch folder, keep the rest."""
        self._scratch.close()
        self.pop_all()

    def keep_all(self) -> None:
        """End a run that can be resumed: keep everything."""
        self._scratch.pop_all()
        self.pop_all()


def goes_on(parameters: Parameters) -> bool:
    """Whether there is an earlier run that `restart` can continue, and no other run is using the imagename."""
    paths = RunPaths.of(parameters)
    in_the_way = os.path.exists(paths.journal) and not (parameters.resume or parameters.overwrite)
    earlier = os.path.exists(paths.earlier("model")) or os.path.exists(paths.summary)
    return parameters.restart and earlier and not in_the_way and not is_locked(parameters.imagename)


def with_residual(parameters: Parameters) -> Parameters:
    """The parameters with residual and PSF for a run that continues one: both are made anew from the data and the model.

    GpucubeError if they are needed, and there is no run to continue.
    """
    if goes_on(parameters):
        return parameters.model_copy(update={"calcres": True, "calcpsf": True})
    for name in ("calcres", "calcpsf"):
        if not getattr(parameters, name) and (parameters.niter or not parameters.cubes):
            raise GpucubeError(
                f"`{name}=False` needs an earlier run called {parameters.imagename}, and there is none: leave it out"
            )
    return parameters


CARRIED_ON = (*PRODUCTS, "summary")
"""Products that `restart` may go on from: the model, the summary, a mask that was made automatically, and what `mask` names."""


@contextmanager
def restarted(parameters: Parameters) -> Iterator[Parameters]:
    """Turn `restart` into a start model: the model of the earlier run under a second name, which the new run does not replace.

    With automatic masks, the earlier mask becomes the mask that they begin with. If the new run fails before any channel is
    safe, they and the summary get their names back, so that `restart` can be tried again.
    """
    paths = RunPaths.of(parameters)
    parameters = with_residual(parameters)
    if not goes_on(parameters):
        yield parameters
        return
    resume = parameters.resume and os.path.exists(paths.journal)
    changes: dict[str, Any] = {"resume": resume, "overwrite": parameters.overwrite or not resume}
    if _made_only_the_psf(parameters):  # there is nothing to go on from
        yield parameters.model_copy(update=changes)
        return
    if parameters.startmodel:
        raise GpucubeError(
            "`startmodel` cannot be used with `restart=True`, which continues from the model of the finished run"
        )
    keeps_mask, notes = _earlier_mask(parameters, paths)
    in_mask = {_product_of(paths, path) for path in mask_files(parameters.mask)} - {""}
    if not os.path.exists(paths.earlier("model")):
        if not os.path.exists(paths.product("model")):
            missing = paths.product("model")
            raise GpucubeError(f"cannot continue from {parameters.imagename}: {missing} does not exist")
        for name in {"model", "summary"} | ({"mask"} if keeps_mask else in_mask):
            if name == "summary" and not os.path.exists(paths.summary):
                continue
            with disk.explain(f"cannot keep {paths.product(name)}"):
                disk.second_name(paths.product(name), paths.earlier(name))
    changes["startmodel"] = paths.earlier("model")
    if in_mask:
        changes["mask"] = parse_mask([_under_second_name(paths, item) for item in mask_items(parameters.mask)])
    elif not parameters.mask and os.path.exists(paths.earlier("mask")):
        changes["mask"] = paths.earlier("mask")
    try:
        yield parameters.noted(*notes).model_copy(update=changes)
    except BaseException:
        if not os.path.exists(paths.journal):
            for name in CARRIED_ON:
                if os.path.exists(paths.product(name)):
                    disk.remove_if_possible(paths.earlier(name))
                elif os.path.exists(paths.earlier(name)):
                    disk.replace(paths.earlier(name), paths.product(name))
        raise


def begins_with_earlier_mask(parameters: Parameters) -> bool:
    """Whether automatic masks begin with that of the earlier run (`restarted`)."""
    return parameters.usemask == "auto-multithresh" and parameters.mask == RunPaths.of(parameters).earlier("mask")


def _product_of(paths: RunPaths, path: str) -> str:
    """Name of the product of this imagename that a file is; empty if it is none."""
    real = os.path.realpath(path)
    return next((name for name in PRODUCTS if os.path.realpath(paths.product(name)) == real), "")


def _under_second_name(paths: RunPaths, item: str) -> str:
    """A part of a mask, in which a product of the earlier run has the name that it has during the new run."""
    path, above = mask_file(item)
    name = _product_of(paths, path)
    if not name or not os.path.exists(paths.earlier(name)):
        return item
    return paths.earlier(name) + (f" {above[0]} {above[1]!r}" if above else "")


def _made_only_the_psf(parameters: Parameters) -> bool:
    """Whether the earlier run had `calcres=False`."""
    earlier = Summary.read(parameters.imagename)
    before_that = os.path.exists(RunPaths.of(parameters).earlier("model"))
    return earlier is not None and earlier.parameters.get("calcres") is False and not before_that


def _earlier_mask(parameters: Parameters, paths: RunPaths) -> tuple[bool, list[str]]:
    """Whether automatic masks begin with that of the earlier run; also return a warning if an earlier mask is not used."""
    earlier = Summary.read(parameters.imagename)
    if earlier is None or parameters.mask:
        return False, []
    before = earlier.parameters
    if parameters.usemask == "auto-multithresh":
        automatic = before.get("usemask") == "auto-multithresh"
        whole = not automatic and not before.get("mask")  # the mask is the whole image
        return not whole and os.path.exists(paths.product("mask")), []
    if before.get("mask") and before.get("usemask") == parameters.usemask and parameters.niter > 0:
        return False, [
            f"the earlier run was cleaned inside `mask={before['mask']!r}`, this one is not: give `mask` again to keep to it"
        ]
    return False, []


def check_outputs(parameters: Parameters) -> None:
    """Before any work is done, raise an error if there are files of another run. The lock of the journal decides finally."""
    imagename, paths = parameters.imagename, RunPaths.of(parameters)
    if is_locked(imagename):
        raise GpucubeError(f"another run is making {imagename} now: wait until it ends, or give another `imagename`")
    for parameter, files in (
        ("mask", mask_files(parameters.mask)),
        ("startmodel", filter(None, [parameters.startmodel])),
    ):
        for path in files:
            if _product_of(paths, path):
                raise GpucubeError(
                    f"`{parameter}` needs {path}, which this run would replace: give another `imagename`, or `restart=True`"
                )
    unfinished = os.path.exists(paths.journal)
    if parameters.overwrite or (unfinished and parameters.resume):
        return
    if unfinished:
        raise GpucubeError(
            f"{paths.journal} belongs to an unfinished run: `resume=True` continues it, `overwrite=True` replaces it"
        )
    if parameters.resume and os.path.exists(paths.summary):
        return
    existing = [*paths.existing(), *([paths.visibilities] if os.path.lexists(paths.visibilities) else [])]
    if existing:
        no_journal = ", and there is no journal to resume from" if parameters.resume else ""
        raise GpucubeError(
            f"{existing[0]} exists{no_journal}: give another `imagename`, or `overwrite=True` to replace it"
        )


def finished_before(parameters: Parameters, identity: dict[str, Any], *, ours: bool = False) -> Result | None:
    """The result of the run that `resume` continues, if that run had finished.

    An error is raised if its fingerprint is not `identity`, or a product is missing. `ours` means that this run holds the
    journal, so that the summary can no longer change.
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
    products = {name: paths.product(name) for name in parameters.cubes}
    for path in products.values():
        if not os.path.isfile(path):
            raise GpucubeError(
                f"cannot resume {imagename}, which is finished: {path} is gone; start again with `overwrite=True`"
            )
    if not ours:
        clear_leftover(paths.scratch_folder, imagename)
    products["summary"] = paths.summary
    return Result(channels=summary.channels, products=products, summary=summary.model_dump())


@contextmanager
def claimed_outputs(job: Job) -> Iterator[tuple[Journal, Footprint]]:
    """Lock the imagename for this run, and clean up the disk however the run ends."""
    parameters, footprint = job.parameters, Footprint()
    with (
        disk.folder_made(job.paths.folder),
        footprint,
        Journal(parameters.imagename, job.identity, parameters.resume) as journal,
    ):
        try:
            with disk.explain_the_system():
                yield journal, footprint
        except BaseException as error:
            if safe := len(journal.safe):
                footprint.keep_all()
                raise _how_to_resume(error, safe, job) from None
            with suppress(GpucubeError):  # what ended the run may also keep the journal from going
                journal.remove()
            raise
        footprint.keep_products()
        clear_leftover(job.plan.scratch, parameters.imagename)
        for name in CARRIED_ON:
            disk.remove_if_possible(job.paths.earlier(name))
        try:
            journal.remove()
        except GpucubeError as error:
            warnings.warn(f"the run is finished, but {error}: remove it yourself", stacklevel=2)


def _how_to_resume(error: BaseException, safe: int, job: Job) -> BaseException:
    """Add a note to the error that ended a run: how to continue the run."""
    way_on = f"{safe} of {job.plan.nchan} channels are safe on disk, the same call with `resume=True` continues the run"
    if not os.path.exists(job.paths.journal):
        way_on = "its journal is gone, so the run cannot be continued: start again with `overwrite=True`"
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted: {way_on}")
    if isinstance(error, GpucubeError):
        return GpucubeError(f"{error}; {way_on}")
    error.add_note(way_on)
    return error


def kept_visibilities(parameters: Parameters, recipe: Recipe) -> tuple[str, list[str]]:
    """What a run that goes on can use of the visibilities that an earlier one has kept, as in `Plan`; also warn if nothing."""
    folder = RunPaths.of(parameters).visibilities
    if not goes_on(parameters):
        return "", []
    again = "the MeasurementSets are read again"
    if not os.path.lexists(folder):
        earlier = Summary.read(parameters.imagename)
        gone = earlier is not None and earlier.visibilities
        return "", [f"the visibilities in {folder} are gone: {again}"] if gone else []
    store, why_not = find_store(folder, recipe)
    if store is not None:
        return "all", []
    if find_part(folder, recipe):
        return "channels", []
    return "", [f"the visibilities in {folder} are not used, because {why_not}: {again}"]


def make_store(
    job: Job, workers: Workers, progress: Progress, journal: Journal, footprint: Footprint
) -> VisibilityStore:
    """INGEST: read the MeasurementSets into the store, or take what an earlier run has kept, and make the empty cubes.

    A resumed run keeps its cubes, and its store if that is complete.
    """
    parameters, paths, resumed = job.parameters, job.paths, bool(journal.cubes)
    scratch = paths.scratch_folder
    cubes = _check_cubes(job, journal.cubes)
    there = [paths.store_folder] * resumed + [paths.visibilities] * (resumed or job.plan.kept == "all")
    store = next((found for folder in there if (found := find_store(folder, job.recipe)[0])), None)
    part = find_part(paths.visibilities, job.recipe) if store is None and job.plan.kept == "channels" else None
    if store is None or not resumed:
        clear_leftover(scratch, parameters.imagename)
    if store is None and (paths.keeps or not job.continues):
        clear_leftover(paths.visibilities)
    if not resumed:
        # every check has passed: only now are older products removed
        journal.clear()
        cubes = create_cubes(
            os.path.abspath(parameters.imagename),
            parameters.cubes,
            _describe_cubes(job),
            overwrite=parameters.overwrite or parameters.resume,
        )
    for name in parameters.cubes:
        footprint.made_product(cubes[name].path)
    if store is not None or paths.keeps:  # otherwise the store makes the folder
        if not belongs_to(scratch, parameters.imagename):
            make_folder(scratch, parameters.imagename)
        footprint.made_scratch(scratch)
    if store is not None:
        if store.folder == paths.visibilities and not store.safe:
            footprint.made_folder(store.folder)
        _check_sight(job, workers, journal, cubes, store)
    elif part is not None:
        partitions = plan_partitions(job.selection, scratch)
        allocate(partitions, parameters.imagename)
        footprint.made_scratch(scratch)
        store = copy_channels(*part, partitions)
        save_state(store, job.recipe)
        _check_sight(job, workers, journal, cubes, store)
    else:
        reading = Ingest(job.selection, paths.store_folder, owner=parameters.imagename)
        (footprint.made_folder if paths.keeps else footprint.made_scratch)(paths.store_folder)
        _check_sight(job, workers, journal, cubes)
        if reading.jobs:
            with progress.compiling("reading"):
                workers.everywhere(functools.partial(warm_up, reading.jobs[0]))
        for report in workers.ingest(reading.jobs):
            reading.add(report)
            progress.rows_read(reading.rows_done, reading.nrow)
        store = reading.finish()
        save_state(store, job.recipe)
    if not resumed:
        journal.begin(cubes | _working_cubes(job))
    else:
        journal.cubes = cubes
        if not all(os.path.exists(cube.path) for cube in cubes.values()):
            _working_cubes(job)  # `take_up_records` will find that their channels have to be imaged again
    return store


def keep_store(job: Job, store: VisibilityStore) -> str:
    """Make the store safe if it is to be kept. Return the folder of visibilities that were kept or used, or nothing."""
    if store.folder != job.paths.visibilities:
        return "" if store.ms_bytes_read else job.paths.visibilities
    if not store.safe:
        keep(store, job.recipe)
    return store.folder


def _check_sight(
    job: Job, workers: Workers, journal: Journal, cubes: dict[str, CubeFile], store: VisibilityStore | None = None
) -> None:
    """Raise an error if a worker cannot see the MeasurementSets, or cannot write to the folders of scratch files and cubes.

    If there is a `store`, the MeasurementSets are not needed.
    """
    to_read = [os.path.join(source.path, "table.dat") for source in job.selection.sources]
    to_write = [os.path.join(job.plan.scratch, OWNER_FILE), journal.lease.path]
    if store is not None:
        to_read = [os.path.join(store.folder, STATE_FILE)]
    elif job.paths.keeps:
        to_write.append(os.path.join(job.paths.visibilities, OWNER_FILE))
    to_write += [cubes[name].path for name in job.parameters.cubes]
    for node, problem in workers.everywhere(functools.partial(disk.out_of_sight, to_read, to_write)):
        if problem:
            raise GpucubeError(
                f"a worker on node {node} {problem}: all workers must share the folders of the MeasurementSets, "
                "of `imagename` and of `scratch`"
            )


def _describe_cubes(job: Job) -> CubeDescription:
    """Describe what the headers of all products have in common. The history lists every parameter that changes the cube."""
    parameters, selection = job.parameters, job.selection
    unused = NOT_IN_FINGERPRINT | {"restoration", "calcres", "calcpsf"}
    if not parameters.needs_primary_beam:
        unused |= {"pbcor", "pblimit", "dish_diameter"}
    if parameters.weighting != "briggsabs":
        unused |= {"noise"}
    if parameters.weighting != "superuniform" and not parameters.npixels:
        unused |= {"npixels"}
    if parameters.perchanweightdensity:
        unused |= {"perchanweightdensity"}
    shown = {name: value for name, value in parameters.as_json_dict().items() if name not in unused}
    return CubeDescription(
        geometry=selection.geometry,
        axis=selection.axis,
        stokes=selection.stokes,
        restoring_beam=parameters.beam,
        observation=selection.observation,
        object_name=selection.object_name,
        primary_beam=selection.primary_beam,
        history=(
            f"gpucube {__version__}",
            *(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in shown.items()),
        ),
    )


def _working_cubes(job: Job) -> dict[str, CubeFile]:
    """Create residual and model in the scratch folder if a common beam needs them and the user did not ask for them."""
    needed = ("residual", "model") if job.parameters.beam == "common" else ()
    hidden = [name for name in needed if name not in job.parameters.cubes]
    return create_cubes(job.paths.working.imagename, hidden, replace(_describe_cubes(job), history=()), overwrite=True)


def _check_cubes(job: Job, cubes: dict[str, CubeFile]) -> dict[str, CubeFile]:
    """Return the cubes of the resumed run at the paths of this run, whatever paths the journal names."""
    found = {}
    for name, cube in cubes.items():
        if name in job.parameters.cubes:
            path = job.paths.product(name)
            if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) < cube.data_end:
                raise GpucubeError(f"cannot resume: {path} is gone or cut short; start again with `overwrite=True`")
        else:
            path = job.paths.working.product(name)
        found[name] = replace(cube, path=os.path.abspath(path))
    return found


def take_up_records(job: Job, journal: Journal, progress: Progress) -> int:
    """Drop journalled channels whose planes have been damaged since, report the others, and return their number."""
    for record in journal.records():
        if _is_intact(record, journal.cubes):
            progress.finished(record)
        else:
            journal.drop(record.channel)
    return len(journal.safe)


def _is_intact(record: ChannelRecord, cubes: dict[str, CubeFile]) -> bool:
    """Return True if every plane of a journalled channel still has its checksum."""
    try:
        return all(
            plane_checksum(cubes[name], s, record.channel) == expected
            for name, sums in record.checksums.items()
            for s, expected in enumerate(sums)
        )
    except OSError:
        return False
