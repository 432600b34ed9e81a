"""The image plane: where every pixel lies on the sky, and the w term that comes with it.

Convention: image arrays are `[y, x]`; x grows to the west (falling right ascension), y to the north; the phase centre is
the centre of pixel (ny // 2, nx // 2) counted from 0 (FITS CRPIX = N/2 + 1); the projection is SIN. Direction cosines l
and m grow to the east and to the north, n = sqrt(1 - l^2 - m^2) towards the phase centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction

Cosine = TypeVar("Cosine", float, np.ndarray)


@dataclass(frozen=True, kw_only=True)
class ImageGeometry:
    """The pixels of one pointing."""

    nx: int  # pixels in right ascension, even
    ny: int  # pixels in declination, even
    cell_x: float  # size of a pixel, radians
    cell_y: float
    centre: Direction  # phase centre

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a plane array, (ny, nx)."""
        return self.ny, self.nx

    def sky_position(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination (radians) of pixels; NaN beyond the horizon."""
        east = (self.nx // 2 - x) * self.cell_x
        north = (y - self.ny // 2) * self.cell_y
        with np.errstate(invalid="ignore"):
            up = np.sqrt(1 - east**2 - north**2)
        return lmn_to_radec(east, north, up, self.centre.ra, self.centre.dec)

    def w_phase(self, w_wavelengths: float) -> float:
        """Largest phase 2 pi |w| (1 - n) in the image, which its corners have, radians."""
        half_l, half_m = 0.5 * self.nx * self.cell_x, 0.5 * self.ny * self.cell_y
        r2 = half_l**2 + half_m**2
        return float(2.0 * np.pi * w_wavelengths * (one_minus_n(r2) if r2 < 1.0 else 1.0))


def lmn_to_radec(l: np.ndarray, m: np.ndarray, n: np.ndarray, ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination of direction cosines about a phase centre, all angles in radians.

    The SIN projection is that of WCS paper II, section 5.1.5.
    """
    sin, cos = np.sin(dec), np.cos(dec)
    return ra + np.arctan2(l, n * cos - m * sin), np.arcsin(m * cos + n * sin)


def one_minus_n(r2: Cosine) -> Cosine:
    """1 - n = 1 - sqrt(1 - r2), without cancellation near the centre, where r2 = l^2 + m^2 is below 1."""
    difference: Cosine = r2 / (1.0 + np.sqrt(1.0 - r2))
    return difference


def n_minus_one(nx: int, ny: int, cell_x: float, cell_y: float) -> np.ndarray:
    """n - 1 of every pixel, float64, (ny, nx). An image with a corner beyond the horizon raises GpucubeError."""
    l = (np.arange(nx) - nx // 2) * cell_x
    m = (np.arange(ny) - ny // 2) * cell_y
    r2 = np.add.outer(m * m, l * l)
    if r2.max() >= 1.0:
        raise GpucubeError("the image's corners lie beyond the horizon: choose a smaller `cell` or `imsize`")
    return -one_minus_n(r2)
