"""Beams, for users: fit one to a PSF, and find the one that is common to several.

Examples
--------
>>> from gpucube.beams import Beam, common_beam
>>> common_beam([Beam(bmaj=5e-5, bmin=3e-5, bpa=0.0), Beam(bmaj=2e-5, bmin=2e-5, bpa=0.0)])
Beam(bmaj=5e-05, bmin=3e-05, bpa=0.0)
"""

from __future__ import annotations

from gpucube.devices.psf_fit import fit_beam
from gpucube.sky.beam import Beam, common_beam

__all__ = ["Beam", "common_beam", "fit_beam"]
