"""The main job from end to end: MeasurementSets in, deconvolved FITS cubes and a summary out.

In: parameters by name (tclean's where tclean has them). Out: `Result`, and the products on disk. The steps are those of the
package: plan, INGEST, IMAGE, FINISH; what fails leaves nothing half-written behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from gpucube import __version__
from gpucube import plan as planning
from gpucube.beams import beam_from_record, common_beam
from gpucube.controller import CleanParameters
from gpucube.devices import ImagingSettings
from gpucube.errors import GpucubeError
from gpucube.geometry import Beam, ImageGeometry, SpectralAxis
from gpucube.imaging import ImageJob
from gpucube.ingest import Selection, ingest
from gpucube.mask import load_mask
from gpucube.parameters import Parameters, make_parameters
from gpucube.plan import Plan, make_chunks, make_plan
from gpucube.planes import CubeFile, create_cubes, sync, write_beam_table, write_single_beam
from gpucube.progress import Progress
from gpucube.quantities import ARCSEC_PER_RADIAN
from gpucube.records import ChannelRecord, StopCode
from gpucube.schedule import Workers, make_workers
from gpucube.store import VisibilityStore

W_PHASE_LIMIT = 0.1
"""Radians. ``gridder="auto"`` neglects w only where no visibility's phase is wrong by more than this anywhere in the
field: an error of at most 0.5 % of a source in the corner."""


@dataclass(frozen=True)
class Result:
    """What a run made.

    Attributes
    ----------
    channels : list of ChannelRecord
        In order of channel.
    products : dict
        Product name -> path, and ``"summary"``.
    summary : dict
        What ``OUT.summary.json`` holds.
    """

    channels: list[ChannelRecord]
    products: dict[str, str]
    summary: dict[str, Any]

    @property
    def failed_channels(self) -> list[int]:
        """Channels that could not be imaged; their planes are NaN."""
        return [r.channel for r in self.channels if r.stop_code == StopCode.FAILED]


def image_cube(vis: str | Sequence[str], imagename: str, **parameters: Any) -> Result:
    """Image MeasurementSets into a deconvolved spectral cube.

    Parameters
    ----------
    vis : str or sequence of str
        MeasurementSet, or several.
    imagename : str
        Products are called ``<imagename>.image.fits`` and so on.
    **parameters
        See docs/parameters.md; names, meanings and defaults are tclean's where tclean has them. `niter` counts per channel.

    Returns
    -------
    Result

    Raises
    ------
    GpucubeError
        Bad parameters, bad input or too few resources, in one line.
    """
    return run(make_parameters(vis=vis, imagename=imagename, **parameters))


def run(parameters: Parameters) -> Result:
    """`image_cube` with parameters that have been checked."""
    begun = time.perf_counter()
    device = choose_device(parameters.device)
    selection = planning.make_selection(parameters)
    plan = make_plan(parameters, selection)
    geometry, axis = planning.image_geometry(parameters, selection), planning.spectral_axis(selection)
    for text in plan.warnings:
        warnings.warn(text, stacklevel=3)
    mask = load_mask(parameters.mask, geometry, axis) if parameters.mask else None
    beam = _restoring_beam(parameters)
    with contextlib.ExitStack() as on_failure:
        for folder in _missing_folders(parameters.imagename):
            on_failure.callback(_remove_folder, folder)
        with (
            Progress(plan.nchan, enabled=not parameters.quiet) as progress,
            contextlib.ExitStack() as scratch,
            contextlib.ExitStack() as always,
        ):
            progress.stage("starting workers" if not plan.in_process else "reading")
            workers = make_workers(plan.in_process, plan.workers, device, parameters.scheduler)
            always.callback(workers.close)
            # last of all that may refuse: only now older products go
            cubes = _create(parameters, selection, geometry, axis, beam)
            for cube in cubes.values():
                on_failure.callback(_remove, cube.path)
            stages = {"plan": time.perf_counter() - begun}
            progress.stage("reading")
            clock = time.perf_counter()
            store, bytes_read = ingest(selection, plan.scratch, progress.ingest, workers.ingest, on_allocated=scratch)
            stages["read"] = time.perf_counter() - clock
            settings = _settings(parameters, geometry, store)
            working = dict(cubes)
            if beam == "common":
                hidden = [name for name in ("residual", "model") if name not in cubes]
                working |= create_cubes(
                    os.path.join(plan.scratch, "work"), hidden, geometry, axis, selection.stokes, ()
                )
            job = ImageJob(
                store,
                settings,
                _clean(parameters),
                axis.frequency,
                selection.stokes,
                working,
                mask,
                beam,
            )
            progress.stage("imaging")
            clock = time.perf_counter()
            chunks = make_chunks(plan.chunksize, store.power.sum(0))
            records = [r for batch in workers.image(job, chunks, _notifier(progress)) for r in batch]
            records.sort(key=lambda r: r.channel)
            stages["image"] = time.perf_counter() - clock
            progress.stage("finishing")
            clock = time.perf_counter()
            _finish(job, workers, records, chunks, beam)
            for cube in cubes.values():
                sync(cube)
            stages["finish"] = time.perf_counter() - clock
            peak = workers.memory_peak()
        summary = {
            "parameters": parameters.as_json_dict(),
            "versions": versions(),
            "plan": {"chunksize": plan.chunksize, "chunks": plan.chunks, "workers": plan.workers, "device": device},
            "ms_bytes_read": bytes_read,
            "ms_bytes_selected": plan.ms_bytes,
            "memory_predicted": plan.memory_predicted,
            "memory_peak": peak,
            "gridder": "wgridder" if settings.w_term else "standard",
            "stage_seconds": stages,
            "wall_seconds": time.perf_counter() - begun,
            "warnings": list(plan.warnings),
            "channels": [r.as_dict() for r in records],
        }
        products = {name: cube.path for name, cube in cubes.items()}
        products["summary"] = f"{parameters.imagename}.summary.json"
        on_failure.callback(_remove, products["summary"])
        with open(products["summary"], "w") as file:
            json.dump(summary, file, indent=1)
        on_failure.pop_all()
    return Result(records, products, summary)


def choose_device(name: str) -> str:
    """The device that ``"auto"``, ``"cpu"`` or ``"cuda"`` stands for.

    Raises
    ------
    GpucubeError
        It is not available.
    """
    if name == "cuda":
        raise GpucubeError("device='cuda' is not available in this version: use device='cpu' or 'auto'")
    return "cpu"


def needs_w(phase: float, gridder: str, epsilon: float) -> bool:
    """Whether the w term must be taken into account.

    Parameters
    ----------
    phase : float
        Largest phase 2 pi |w| (1 - n) in the field, radians.
    gridder : str
        ``"standard"`` never does; ``"wgridder"`` does unless the phase is so small that neglecting it is as accurate as
        `epsilon`; ``"auto"`` does from `W_PHASE_LIMIT` on.
    epsilon : float
    """
    if gridder == "auto":
        return phase > W_PHASE_LIMIT
    return gridder == "wgridder" and phase > 0.1 * epsilon


def w_phase(geometry: ImageGeometry, w_wavelengths: float) -> float:
    """Largest phase 2 pi |w| (1 - n) in the field (at a corner of the image), radians."""
    half_l, half_m = 0.5 * geometry.nx * geometry.cell_x, 0.5 * geometry.ny * geometry.cell_y
    r2 = half_l**2 + half_m**2
    # 1 - sqrt(1 - r^2) without cancellation
    return 2.0 * np.pi * w_wavelengths * (r2 / (1.0 + np.sqrt(1.0 - r2)) if r2 < 1.0 else 1.0)


def versions() -> dict[str, str]:
    """Versions of what took part."""
    names = ("numpy", "ducc0", "numba", "python-casacore", "astropy", "dask", "distributed")
    found = {"gpucube": __version__, "python": platform.python_version()}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _settings(parameters: Parameters, geometry: ImageGeometry, store: VisibilityStore) -> ImagingSettings:
    phase = w_phase(geometry, store.max_uvw_wavelengths()[1])
    return ImagingSettings(
        geometry,
        parameters.weighting,
        parameters.robust,
        tuple(parameters.uvtaper),
        parameters.epsilon,
        needs_w(phase, parameters.gridder, parameters.epsilon),
        parameters.minorcycle,
        parameters.majorcycle,
    )


def _clean(parameters: Parameters) -> CleanParameters:
    names = CleanParameters.__dataclass_fields__
    return CleanParameters(**{name: getattr(parameters, name) for name in names})


def _restoring_beam(parameters: Parameters) -> str | Beam:
    if parameters.restoringbeam in ("", "common"):
        return "common" if parameters.restoringbeam else "channel"
    bmaj, bmin, bpa = parameters.restoringbeam
    return Beam(bmaj / ARCSEC_PER_RADIAN, bmin / ARCSEC_PER_RADIAN, float(np.deg2rad(bpa)))


def _create(
    parameters: Parameters, selection: Selection, geometry: ImageGeometry, axis: SpectralAxis, beam: str | Beam
) -> dict[str, CubeFile]:
    history = [f"gpucube {__version__}"]
    history += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in parameters.as_json_dict().items()]
    return create_cubes(
        parameters.imagename,
        parameters.products,
        geometry,
        axis,
        selection.stokes,
        history,
        telescope=selection.info.telescope,
        objectname=selection.field.name,
        observer=selection.info.observer,
        dateobs=_iso_date(selection.info.start_time_mjd_s),
        beams={"channel": "table", "common": None}.get(beam, beam) if isinstance(beam, str) else beam,
        overwrite=parameters.overwrite,
    )


def _iso_date(mjd_seconds: float) -> str:
    if mjd_seconds <= 0:
        return ""
    return str(np.datetime64("1858-11-17T00:00:00.000") + np.timedelta64(round(mjd_seconds * 1000), "ms"))


def _notifier(progress: Progress):  # type: ignore[no-untyped-def]
    def notify(event: str, what: Any) -> None:
        (progress.started if event == "started" else progress.finished)(what)

    return notify


def _finish(
    job: ImageJob,
    workers: Workers,
    records: Sequence[ChannelRecord],
    chunks: Sequence[Sequence[int]],
    beam: str | Beam,
) -> None:
    """Step 3, FINISH: beam tables, and the restoring pass if one beam is wanted for all."""
    fitted = {
        (s, r.channel): beam_from_record(of_plane["beam"])
        for r in records
        for s, of_plane in enumerate(r.planes.values() if r.planes else [r.as_dict()])
        if of_plane["beam"]
    }
    table = [[fitted.get((s, r.channel)) for r in records] for s in range(len(job.stokes))]
    for name in ("image", "residual", "psf", "dirty"):
        if name in job.cubes and (name != "image" or beam == "channel"):
            write_beam_table(job.cubes[name], table)
    if beam == "common" and "image" in job.cubes:
        geometry = job.settings.geometry
        pixel = Beam(geometry.cell_y, geometry.cell_y, 0.0)
        # readers refuse a beam of zero: a cube without any data gets a pixel's
        target = common_beam(list(fitted.values())) if fitted else pixel
        workers.restore(job, target, fitted, chunks)
        write_single_beam(job.cubes["image"], target)


def _remove(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _missing_folders(imagename: str) -> list[Path]:
    """Folders that will have to be made for the products, outermost first."""
    return [folder for folder in list(Path(imagename).absolute().parents)[::-1] if not folder.exists()]


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not there, or somebody else's file is in it
        folder.rmdir()
