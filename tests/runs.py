"""Whole runs for tests: one call to image the simulated `tiny_ms`, and copies of an MS with something changed.

In: a MeasurementSet and parameters that differ from `SETTINGS`. Out: `gpucube.Result`, and the planes of its products.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from casacore import tables

import gpucube
from gpucube.sky.geometry import ImageGeometry

IMAGES = ("image", "residual", "model", "psf", "dirty")
PRODUCTS = (*IMAGES, "mask")

SETTINGS: dict[str, Any] = {
    "imsize": 64,
    "cell": "20arcsec",
    "niter": 1000,
    "nsigma": 3,
    "weighting": "briggs",
    "robust": 0.5,
    "products": PRODUCTS,
    "quiet": True,
}
"""What `tiny_ms` is imaged with unless a test says otherwise."""

CELL = float(np.deg2rad(20 / 3600))
GEOMETRY = ImageGeometry(64, 64, CELL, CELL, 0.0, 0.0)
"""Pixels of `SETTINGS`; the oracles need no phase centre."""


def image(vis: Path | Iterable[Path], imagename: Path, **changes: Any) -> gpucube.Result:
    """Run the main job with `SETTINGS` changed."""
    return gpucube.image_cube(vis, imagename=imagename, **(SETTINGS | changes))


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


def altered(ms: Path, folder: Path, change: Callable[[tables.table], None]) -> Path:
    """Copy an MS to ``folder/altered.ms`` and let `change` work on the main table of the copy."""
    copy = folder / "altered.ms"
    shutil.copytree(ms, copy)
    with tables.table(str(copy), readonly=False, ack=False) as table:
        change(table)
    return copy


def column(ms: Path, name: str) -> np.ndarray:
    """A column of the main table."""
    with tables.table(str(ms), ack=False) as table:
        return table.getcol(name)


def stokes_i(ms: Path, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Stokes I of two parallel hands of one channel: visibilities and weights (0 where a sample does not count)."""
    data, flag, weight = (column(ms, name) for name in ("DATA", "FLAG", "WEIGHT"))
    bad = flag[:, channel].any(1) | column(ms, "FLAG_ROW")
    value = np.where(bad, 0, data[:, channel].mean(1).astype(complex))
    return value, np.where(bad, 0.0, 4.0 / (1.0 / weight.astype(float)).sum(1))


def tree(folder: Path) -> list[str]:
    """Everything below a folder, in order."""
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, d, f in os.walk(folder) for name in d + f)
