"""Where the pixels of a cube lie in an image that a user gives: on the same grid, or anywhere in an image with another one.

In: the header of the image, and the pixels of the cube. Out: whether both have the same pixels, and otherwise the position of
every pixel of the cube in the image. Images may differ in cell, size, centre, rotation, projection and celestial frame.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from gpucube.data.user_image import coordinates, unreadable
from gpucube.errors import GpucubeError
from gpucube.sky.directions import EQUINOX, Direction, frame_rotation, unit_vectors
from gpucube.sky.geometry import ImageGeometry

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

REFERENCE_TOLERANCE = 0.1
"""Largest distance in pixels between the grid of the image and that of the cube."""

_FRAMES = {"GLON": "GALACTIC", "SLON": "SUPERGALACTIC", "ELON": "ECLIPTIC"}
"""FITS names of longitudes -> `Direction.frame`."""

_LAST_OF_FK4 = 1984.0
"""Equinoxes before this year are those of FK4, where RADESYS does not say (WCS paper II, section 3.1)."""

_PIXELS_AT_ONCE = 1 << 16


def has_other_grid(label: str, header: fits.Header, wcs: WCS, shape: tuple[int, ...], geometry: ImageGeometry) -> bool:
    """Whether the pixels of an image lie elsewhere than those of the cube. Without sky coordinates only the size counts.

    Raises
    ------
    GpucubeError
        The image has another size and no sky coordinates, or sky coordinates that cannot be used.
    """
    other_size = shape[-2:] != geometry.shape
    if wcs.has_celestial:
        return other_size or _off_grid(label, header, wcs, geometry) > REFERENCE_TOLERANCE
    if other_size:
        raise GpucubeError(
            f"{label} has {shape[-1]} x {shape[-2]} pixels and no sky coordinates, and the cube {geometry.nx} x "
            f"{geometry.ny}: give its header RA and DEC"
        )
    return False


def _off_grid(label: str, header: fits.Header, wcs: WCS, geometry: ImageGeometry) -> float:
    """Compare the phase centre and the middles of two image edges: largest distance of a pixel from the cube's, in pixels."""
    rotation = _rotation(label, header, wcs, geometry)
    x = np.array([geometry.nx // 2, 0, geometry.nx // 2])
    y = np.array([geometry.ny // 2, geometry.ny // 2, 0])
    ra, dec = geometry.sky_position(x, y)
    there_ra, there_dec = np.radians(wcs.celestial.wcs_pix2world(x, y, 0))
    off = np.linalg.norm(unit_vectors(ra, dec) @ rotation.T - unit_vectors(there_ra, there_dec), axis=1)
    off = off[np.isfinite(ra)] / min(geometry.cell_x, geometry.cell_y)
    # NaN: the projection of the image does not reach this pixel of the cube
    return float(np.max(np.nan_to_num(off, nan=np.inf)))


def _rotation(label: str, header: fits.Header, wcs: WCS, geometry: ImageGeometry) -> np.ndarray:
    """Rotation of unit vectors, (3, 3), from the frame of the cube to that of the image's sky axes."""
    try:
        sky = wcs.celestial
    except ValueError as error:
        raise unreadable(label, error) from error
    if (wcs.wcs.lng, wcs.wcs.lat) != (0, 1):
        raise GpucubeError(
            f"{label} has longitude and latitude as its axes {wcs.wcs.lng + 1} and {wcs.wcs.lat + 1}: expected 1 and 2"
        )
    frame = _frame(label, header, sky, geometry)
    centre = geometry.centre
    # FK4 has another rotation at every direction; the numbers of the centre are near enough in any frame
    return frame_rotation(centre, Direction(ra=centre.ra, dec=centre.dec, frame=frame))


def _frame(label: str, header: fits.Header, sky: WCS, geometry: ImageGeometry) -> str:
    """Name the frame of the image's sky axes; that of the cube if the image does not say."""
    equinox, written = float(sky.wcs.equinox), sky.wcs.radesys.strip().upper()
    if sky.wcs.lngtyp in _FRAMES:
        frame, own_equinox = _FRAMES[sky.wcs.lngtyp], 2000.0 if sky.wcs.lngtyp == "ELON" else None
    else:
        names_frame = any(name in header for name in ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH"))
        of_equinox = "FK4" if equinox < _LAST_OF_FK4 else "FK5"
        frame = {"J2000": "FK5", "": of_equinox}.get(written, written) if names_frame else geometry.centre.frame
        own_equinox = EQUINOX.get(frame)
    turned = not (own_equinox is None or math.isnan(equinox) or equinox == own_equinox)
    if turned or (frame not in EQUINOX and sky.wcs.lngtyp not in _FRAMES):
        of = f" of equinox {equinox:g}" if turned else ""
        raise GpucubeError(
            f"{label} has sky axes {sky.wcs.lngtyp} {sky.wcs.lattyp} {frame}{of}: expected FK5 of equinox 2000, FK4 of"
            " equinox 1950, ICRS, or galactic, supergalactic or ecliptic coordinates; regrid it to one of these"
        )
    return frame


def header_text(header: fits.Header) -> str:
    """A header as text, for `positions`: what is kept under it cannot be found once the file has other coordinates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on cards that are not standard
        return str(header.tostring())


def positions(label: str, text: str, geometry: ImageGeometry) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Find the pixels of the cube in the image with this header (`header_text`), some rows at a time.

    Yields
    ------
    slice
        Rows of the cube.
    y, x : numpy.ndarray
        Pixels of the image at the pixels of these rows, counted from 0, (nrow, nx); NaN where it has none.
    """
    from astropy.io import fits

    header = fits.Header.fromstring(text)
    wcs = coordinates(label, header, None)
    rotation = _rotation(label, header, wcs, geometry)
    step = max(1, _PIXELS_AT_ONCE // geometry.nx)
    for first in range(0, geometry.ny, step):
        rows = slice(first, min(first + step, geometry.ny))
        x, y = np.meshgrid(np.arange(geometry.nx), np.arange(rows.start, rows.stop))
        ra, dec = geometry.sky_position(x.ravel(), y.ravel())
        seen = np.isfinite(ra)
        there = unit_vectors(np.where(seen, ra, 0.0), np.where(seen, dec, 0.0)) @ rotation.T
        longitude, latitude = np.arctan2(there[:, 1], there[:, 0]), np.arcsin(np.clip(there[:, 2], -1, 1))
        px, py = wcs.celestial.wcs_world2pix(np.degrees(longitude), np.degrees(latitude), 0)
        known = seen & np.isfinite(px) & np.isfinite(py)
        y_there, x_there = (np.where(known, found, np.nan).reshape(x.shape) for found in (py, px))
        yield rows, y_there, x_there


@dataclass(frozen=True, kw_only=True)
class NearestPixels:
    """For every pixel of a cube the nearest pixel of an image with another grid."""

    window: tuple[slice, slice]  # the rows and columns of the image in which these lie
    index: np.ndarray  # numbers in the window, int32 (ny, nx); -1 for pixels outside the image

    def of(self, values: np.ndarray) -> np.ndarray:
        """Take bool values of the window at the pixels of the cube, bool (ny, nx); False outside the image."""
        taken: np.ndarray = np.append(values.ravel(), False)[self.index]
        return taken


@lru_cache(maxsize=4)
def nearest_pixels(label: str, text: str, shape: tuple[int, int], geometry: ImageGeometry) -> NearestPixels:
    """Find the nearest pixels in an image of `shape` (ny, nx) with this header (`header_text`); kept for the next plane.

    Raises
    ------
    GpucubeError
        The image does not overlap the cube.
    """
    ny, nx = shape
    row, column = np.empty((2, *geometry.shape), np.int32)
    for rows, y, x in positions(label, text, geometry):
        inside = (y >= -0.5) & (y < ny - 0.5) & (x >= -0.5) & (x < nx - 0.5)
        row[rows], column[rows] = (np.where(inside, np.floor(p + 0.5), -1) for p in (y, x))
    inside = row >= 0
    if not inside.any():
        raise GpucubeError(f"{label} lies elsewhere on the sky: it does not overlap the image of the cube")
    window = tuple(slice(int(p[inside].min()), int(p[inside].max()) + 1) for p in (row, column))
    width = window[1].stop - window[1].start
    index = np.where(inside, (row - window[0].start) * width + (column - window[1].start), -1)
    return NearestPixels(window=(window[0], window[1]), index=index)
