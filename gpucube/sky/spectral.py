"""The spectral axis of a cube and the frames its frequencies are measured in.

`FRAMES` is the one table of frames: casacore's codes and names (which tclean uses too), the FITS SPECSYS name
(Greisen et al. 2006, WCS paper III, table 3) and the frame's part in the older VELREF keyword of AIPS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class SpectralFrame:
    """A rest frame of frequencies.

    Attributes
    ----------
    name : str
        Name in casacore and tclean.
    code : int
        casacore's number for it, as in MEAS_FREQ_REF of a MeasurementSet.
    specsys : str
        Value of the FITS keyword SPECSYS.
    velref : int or None
        AIPS's number of the frame in VELREF (which adds 256 for radio velocities); None where it has none.
    """

    name: str
    code: int
    specsys: str
    velref: int | None = None


FRAMES: dict[str, SpectralFrame] = {
    frame.name: frame
    for frame in (
        SpectralFrame(name="REST", code=0, specsys="REST"),
        SpectralFrame(name="LSRK", code=1, specsys="LSRK", velref=1),
        SpectralFrame(name="LSRD", code=2, specsys="LSRD", velref=4),
        SpectralFrame(name="BARY", code=3, specsys="BARYCENT", velref=2),
        SpectralFrame(name="GEO", code=4, specsys="GEOCENTR", velref=5),
        SpectralFrame(name="TOPO", code=5, specsys="TOPOCENT", velref=3),
        SpectralFrame(name="GALACTO", code=6, specsys="GALACTOC", velref=7),
        SpectralFrame(name="LGROUP", code=7, specsys="LGROUP"),
        SpectralFrame(name="CMB", code=8, specsys="CMBDIPOL"),
    )
}
"""Every frame that a MeasurementSet can name, by its casacore name."""


def frame_of_code(code: int) -> SpectralFrame:
    """Return the frame with casacore's number `code`; TOPO, in which telescopes observe, for an unknown number."""
    return next((frame for frame in FRAMES.values() if frame.code == code), FRAMES["TOPO"])


@dataclass(frozen=True, kw_only=True)
class SpectralAxis:
    """The channels of a cube.

    Attributes
    ----------
    frequency : numpy.ndarray
        Centre of every output channel, Hz, float64, shape (nchan,).
    width : numpy.ndarray
        Width of every output channel, Hz, positive, shape (nchan,).
    frame : SpectralFrame
        Frame of the frequencies.
    restfreq : float or None
        Rest frequency, Hz.
    """

    frequency: np.ndarray
    width: np.ndarray
    frame: SpectralFrame
    restfreq: float | None

    @property
    def nchan(self) -> int:
        """Number of output channels."""
        return len(self.frequency)

    def increment(self) -> float:
        """Return the best constant channel step in Hz (the channel's own width when there is only one)."""
        if self.nchan == 1:
            return float(self.width[0])
        return float((self.frequency[-1] - self.frequency[0]) / (self.nchan - 1))

    def is_regular(self) -> bool:
        """Return True if a linear axis places every channel within 1 % of a channel width."""
        linear = self.frequency[0] + self.increment() * np.arange(self.nchan)
        return bool(np.all(np.abs(linear - self.frequency) <= 0.01 * self.width))
