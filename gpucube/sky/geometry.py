"""The cube's axes: where every pixel lies on the sky and every plane on the frequency axis.

In: validated parameters (image size, cell) and the field's phase centre, plus the output channels chosen by
`gpucube.channels`. Out: frozen dataclasses that INGEST, IMAGE and the FITS writer share, so that the sky
geometry is stated once.

Convention: image arrays are `[y, x]`; x grows to the west (falling RA), y to the north; the phase centre is
the centre of pixel (ny/2, nx/2) counted from 0 (FITS CRPIX = N/2 + 1); the projection is SIN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucube.errors import GpucubeError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class ImageGeometry:
    """The sky side of a plane.

    Attributes
    ----------
    nx, ny : int
        Pixels in RA and in declination, both even.
    cell_x, cell_y : float
        Pixel size in radians, positive.
    ra, dec : float
        Phase centre, radians, in `radesys`.
    radesys : str
        ``"FK5"`` (J2000) or ``"ICRS"``.
    """

    nx: int
    ny: int
    cell_x: float
    cell_y: float
    ra: float
    dec: float
    radesys: str = "FK5"

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a plane array, (ny, nx)."""
        return self.ny, self.nx


def sky_position(geometry: ImageGeometry, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Right ascension and declination (radians) of pixels, by the SIN projection (WCS paper II, section 5.1.5).

    NaN beyond the horizon.
    """
    east = (geometry.nx // 2 - x) * geometry.cell_x
    north = (y - geometry.ny // 2) * geometry.cell_y
    with np.errstate(invalid="ignore"):
        up = np.sqrt(1 - east**2 - north**2)
    sin, cos = math.sin(geometry.dec), math.cos(geometry.dec)
    ra = geometry.ra + np.arctan2(east, up * cos - north * sin)
    return ra, np.arcsin(north * cos + up * sin)


def w_phase(geometry: ImageGeometry, w_wavelengths: float) -> float:
    """Largest phase 2 pi |w| (1 - n) in the field (at a corner of the image), radians."""
    half_l, half_m = 0.5 * geometry.nx * geometry.cell_x, 0.5 * geometry.ny * geometry.cell_y
    r2 = half_l**2 + half_m**2
    # 1 - sqrt(1 - r^2) without cancellation
    return 2.0 * np.pi * w_wavelengths * (r2 / (1.0 + np.sqrt(1.0 - r2)) if r2 < 1.0 else 1.0)


def n_minus_one(nx: int, ny: int, cell_x: float, cell_y: float) -> np.ndarray:
    """n - 1 = sqrt(1 - l^2 - m^2) - 1 of every pixel, without cancellation near the centre.

    Parameters
    ----------
    nx, ny : int
    cell_x, cell_y : float
        Radians.

    Returns
    -------
    numpy.ndarray
        float64, shape (ny, nx).

    Raises
    ------
    GpucubeError
        A corner of the image lies beyond the horizon.
    """
    l = (np.arange(nx) - nx // 2) * cell_x
    m = (np.arange(ny) - ny // 2) * cell_y
    squared = np.add.outer(m * m, l * l)
    if squared.max() >= 1.0:
        raise GpucubeError("the image's corners lie beyond the horizon: choose a smaller cell or image size")
    return -squared / (np.sqrt(1.0 - squared) + 1.0)
