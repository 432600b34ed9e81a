"""Things to image, for the tests of every room: samples made up in memory, jobs on a MeasurementSet, and whole runs.

* `samples` scatters visibilities over the uv plane of an image: what a device is given.
* `read` puts a MeasurementSet into a store and `make_job` prepares everything up to the moment when imaging begins: what
  `image_chunk` and workers are given.
* `image` is one call of `gpucube.image_cube` with `SETTINGS`; `planes` and `payload` look at what it made.
* `altered` copies a MeasurementSet and changes something in the copy; `column` reads one of its columns.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from oracles import LIGHT_SPEED

import gpucube
from gpucube.constants import ARCSEC
from gpucube.data.mask_image import MaskImage
from gpucube.data.store import Samples, VisibilityStore
from gpucube.devices.base import ImagingSettings
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.kind import CpuKind
from gpucube.execution.tuning import DEFAULT_TUNING, Tuning
from gpucube.imaging.job import ImageJob
from gpucube.imaging.stopping import CleanParameters
from gpucube.output.fits_cube import create_cubes
from gpucube.output.fits_header import CubeDescription
from gpucube.schema.parameters import make_parameters
from gpucube.sky.beam import RestoringBeam
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

if TYPE_CHECKING:
    from casacore import tables

    from gpucube.execution.workers import Workers
    from gpucube.run import Observer

IMAGES = ("image", "residual", "model", "psf", "dirty")
PRODUCTS = (*IMAGES, "mask")

SETTINGS: dict[str, Any] = {
    "imsize": 64,
    "cell": "20arcsec",
    "niter": 1000,
    "nsigma": 3,
    "weighting": "briggs",
    "robust": 0.5,
    "gridder": "standard",
    "products": PRODUCTS,
    "quiet": True,
}
"""What `tiny_ms` is imaged with unless a test says otherwise."""

CELL = 20 * ARCSEC
GEOMETRY = ImageGeometry(nx=64, ny=64, cell_x=CELL, cell_y=CELL, centre=Direction(ra=0.0, dec=0.0))
"""The pixels of `SETTINGS`; the oracles need no phase centre."""


# Samples in memory


def geometry(nx: int = 64, ny: int = 64, cell_x: float = 20.0, cell_y: float | None = None) -> ImageGeometry:
    """An image with cells in arcsec."""
    return ImageGeometry(
        nx=nx, ny=ny, cell_x=cell_x * ARCSEC, cell_y=(cell_y or cell_x) * ARCSEC, centre=Direction(ra=1.0, dec=0.5)
    )


def samples(
    g: ImageGeometry, n: int = 700, seed: int = 1, frequency: float = 1.4e9, fill: float = 0.35, w: float = 0.0
) -> Samples:
    """Random uv points with unequal weights and random values.

    They are denser near the middle, and lie within `fill` of 1 / cell; |w| goes up to `w` wavelengths. One sample in ten
    has no weight, and a value so large that it would be seen.
    """
    rng = np.random.default_rng(seed)
    uv = np.clip(rng.normal(0, 0.4, (n, 2)), -1, 1) * fill / np.array([g.cell_x, g.cell_y])
    uvw = np.column_stack([uv, rng.uniform(-w, w, n)]) * LIGHT_SPEED / frequency
    vis = (rng.standard_normal((n, 2)) @ [1, 1j]).astype(np.complex64)
    weight = rng.uniform(0.2, 5.0, n).astype(np.float32)
    weight[::10], vis[::10] = 0, 1e4
    return Samples(uvw=uvw, frequency=frequency, vis=vis, weight=weight)


def with_sky(s: Samples, vis: np.ndarray) -> Samples:
    """The same samples of another sky; those without weight keep their nonsense."""
    return replace(s, vis=np.where(s.weight > 0, vis, s.vis).astype(np.complex64))


# Jobs on a MeasurementSet


def read(
    ms: Path, folder: Path, stores: ExitStack, workers: Workers | None = None, **changes: Any
) -> tuple[VisibilityStore, ImageGeometry, SpectralAxis]:
    """The store of an MS in ``folder/scratch``, and the axes of its cube.

    `SETTINGS` with `changes` select the data, `workers` read them (by default this process), and the store lives as long
    as `stores`.
    """
    # tests of kernels and devices run where casacore is not installed
    from gpucube.data.ingest import Ingest
    from gpucube.data.selection import select
    from gpucube.execution.threads import ThreadWorkers

    selection = select(make_parameters(vis=ms, imagename=folder / "cube", **(SETTINGS | changes)))
    reading = Ingest(selection, str(folder / "scratch"))
    stores.callback(shutil.rmtree, folder / "scratch", ignore_errors=True)
    store = reading.finish((workers or ThreadWorkers(1, CpuKind())).ingest(reading.jobs))
    return store, selection.geometry, selection.axis


def make_job(
    store: VisibilityStore,
    image_geometry: ImageGeometry,
    axis: SpectralAxis,
    imagename: Path,
    *,
    stokes: Sequence[str] = ("I",),
    products: Sequence[str] = PRODUCTS,
    clean: CleanParameters | None = None,
    mask: MaskImage | None = None,
    beam: RestoringBeam = "channel",
    **settings: Any,
) -> ImageJob:
    """A job with its cubes on disk: Briggs 0.5 and the stopping rule of `SETTINGS`; `settings` change `ImagingSettings`."""
    cubes = create_cubes(imagename, products, CubeDescription(geometry=image_geometry, axis=axis, stokes=tuple(stokes)))
    chosen = ImagingSettings(geometry=image_geometry, **({"weighting": "briggs", "robust": 0.5} | settings))
    clean = clean or CleanParameters(niter=SETTINGS["niter"], nsigma=SETTINGS["nsigma"])
    return ImageJob(
        store=store,
        settings=chosen,
        clean=clean,
        frequency=axis.frequency,
        stokes=tuple(stokes),
        cubes=cubes,
        mask=mask,
        restoring_beam=beam,
    )


# Whole runs


def image(
    vis: Path | Iterable[Path],
    imagename: Path,
    *,
    hardware: Hardware | None = None,
    tuning: Tuning = DEFAULT_TUNING,
    observer: Observer | None = None,
    **changes: Any,
) -> gpucube.Result:
    """Run the main job with `SETTINGS` changed; without `nsigma`, which would be warned of, if nothing is cleaned."""
    from gpucube import run

    settings = SETTINGS | ({"nsigma": 0} if changes.get("niter") == 0 else {}) | changes
    parameters = make_parameters(vis=vis, imagename=imagename, **settings)
    return run.image(parameters, hardware=hardware, tuning=tuning, observer=observer or run.NO_OBSERVER)


def planes(result: gpucube.Result, product: str) -> np.ndarray:
    """Planes of the first Stokes parameter, float32 (nchan, ny, nx)."""
    return fits.getdata(result.products[product])[0]


def payload(result: gpucube.Result) -> dict[str, bytes]:
    """What was computed, byte for byte: pixels and tables of every product, without the headers that name the run."""
    found = {}
    for product, path in result.products.items():
        if product != "summary":
            with fits.open(path) as hdus:
                found[product] = b"".join(np.ascontiguousarray(hdu.data).tobytes() for hdu in hdus)
    return found


def altered(ms: Path, folder: Path, change: Callable[[tables.table], None], subtable: str = "") -> Path:
    """Copy an MS to ``folder/altered.ms`` and let `change` work on the main table of the copy, or on a subtable."""
    from casacore import tables

    copy = folder / "altered.ms"
    shutil.copytree(ms, copy)
    with tables.table(str(copy / subtable), readonly=False, ack=False) as table:
        change(table)
    return copy


def ephemeris(
    ms: Path,
    *rows: tuple[float, ...],
    offset: tuple[float, float] = (0.0, 0.0),
    frame: str = "ICRF/ICRS",
    units: tuple[str, ...] = ("d", "deg", "deg", "AU"),
    name: str = "EPHEM3_X_60371.0.tab",
    number: int = 3,
    keywords: dict[str, Any] | None = None,
) -> None:
    """Attach an ephemeris with rows (MJD, RA, DEC, Rho[, RadVel]) as CASA does; PHASE_DIR becomes an offset in radians."""
    from casacore import tables

    with tables.table(str(ms / "FIELD"), readonly=False, ack=False) as t:
        if "EPHEMERIS_ID" not in t.colnames():
            t.addcols(tables.maketabdesc(tables.makescacoldesc("EPHEMERIS_ID", 0)))
        t.putcell("EPHEMERIS_ID", 0, number)
        t.putcell("PHASE_DIR", 0, np.array([offset]))
    names = ("MJD", "RA", "DEC", "Rho", "RadVel")[: len(units)]
    columns = [
        tables.makescacoldesc(column, 0.0, keywords={"UNIT": unit}) for column, unit in zip(names, units, strict=True)
    ]
    with tables.table(str(ms / "FIELD" / name), tables.maketabdesc(columns), nrow=len(rows), ack=False) as t:
        for column, values in zip(names, np.reshape(rows, (-1, len(names))).T, strict=True):
            t.putcol(column, values)
        t.putkeywords(({"posrefsys": frame} if frame else {}) | (keywords or {}))


def column(ms: Path, name: str) -> np.ndarray:
    """A column of the main table."""
    from casacore import tables

    with tables.table(str(ms), ack=False) as table:
        return table.getcol(name)


def tree(folder: Path) -> list[str]:
    """Everything below a folder, in order."""
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, d, f in os.walk(folder) for name in d + f)
