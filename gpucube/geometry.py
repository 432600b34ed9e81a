"""The cube's axes: where every pixel lies on the sky and every plane on the frequency axis.

In: validated parameters (image size, cell) and the field's phase centre, plus the output channels chosen by
`gpucube.channels`. Out: frozen dataclasses that INGEST, IMAGE and the FITS writer share, so that the sky
geometry is stated once.

Convention: image arrays are `[y, x]`; x grows to the west (falling RA), y to the north; the phase centre is
the centre of pixel (ny/2, nx/2) counted from 0 (FITS CRPIX = N/2 + 1); the projection is SIN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIGHT_SPEED = 299_792_458.0
"""Metres per second."""


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


@dataclass(frozen=True)
class SpectralAxis:
    """The frequency side of the cube.

    Attributes
    ----------
    frequency : numpy.ndarray
        Centre of every output channel, Hz, float64, shape (nchan,).
    width : numpy.ndarray
        Width of every output channel, Hz, positive, shape (nchan,).
    specsys : str
        FITS name of the frame: ``"LSRK"``, ``"TOPOCENT"``, ``"BARYCENT"`` ...
    restfreq : float or None
        Rest frequency, Hz.
    """

    frequency: np.ndarray
    width: np.ndarray
    specsys: str
    restfreq: float | None

    @property
    def nchan(self) -> int:
        """Number of output channels."""
        return len(self.frequency)

    def increment(self) -> float:
        """Best constant channel step in Hz (the channel's own width when there is only one)."""
        if self.nchan == 1:
            return float(self.width[0])
        return float((self.frequency[-1] - self.frequency[0]) / (self.nchan - 1))

    def is_regular(self) -> bool:
        """True if a linear axis places every channel within 1 % of a channel width."""
        linear = self.frequency[0] + self.increment() * np.arange(self.nchan)
        return bool(np.all(np.abs(linear - self.frequency) <= 0.01 * self.width))


@dataclass(frozen=True)
class Beam:
    """A Gaussian restoring beam: full widths at half maximum in radians, position angle east of north in radians."""

    bmaj: float
    bmin: float
    bpa: float
