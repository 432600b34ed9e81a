"""The frames that frequencies are measured in.

`FRAMES` is the one table of them: casacore's codes and names (which tclean uses too), the FITS SPECSYS name (Greisen et
al. 2006, WCS paper III, table 3) and the frame's part in the older VELREF keyword of AIPS.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SpectralFrame:
    """A rest frame of frequencies."""

    name: str  # in casacore and tclean
    code: int  # casacore's number, as in MEAS_FREQ_REF of a MeasurementSet
    specsys: str  # value of the FITS keyword SPECSYS
    velref: int | None = None  # AIPS's number in VELREF (which adds 256 for radio velocities), where it has one


FRAMES: dict[str, SpectralFrame] = {
    frame.name: frame
    for frame in (
        SpectralFrame(name="REST", code=0, specsys="SOURCE"),
        SpectralFrame(name="LSRK", code=1, specsys="LSRK", velref=1),
        SpectralFrame(name="LSRD", code=2, specsys="LSRD", velref=4),
        SpectralFrame(name="BARY", code=3, specsys="BARYCENT", velref=2),
        SpectralFrame(name="GEO", code=4, specsys="GEOCENTR", velref=5),
        SpectralFrame(name="TOPO", code=5, specsys="TOPOCENT", velref=3),
        SpectralFrame(name="GALACTO", code=6, specsys="GALACTOC", velref=7),
        SpectralFrame(name="LGROUP", code=7, specsys="LOCALGRP"),
        SpectralFrame(name="CMB", code=8, specsys="CMBDIPOL"),
    )
}
"""Every frame that a MeasurementSet can name, by its casacore name."""


def frame_of_code(code: int) -> SpectralFrame | None:
    """Return the frame with casacore's number `code`; None for another number, such as 64, which means undefined."""
    return next((frame for frame in FRAMES.values() if frame.code == code), None)
