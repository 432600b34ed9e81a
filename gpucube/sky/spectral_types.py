"""Frequencies of the spectral coordinates that FITS knows: velocities, redshifts, wavelengths, energies.

In: values of a spectral axis in SI units and its type, the first four letters of CTYPE (Greisen et al. 2006, WCS paper III,
tables 1 and 2). Out: frequencies in Hz. `velocity_of` does the reverse, for the velocities in plans, tables and reports.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gpucube.constants import LIGHT_SPEED

PLANCK = 6.626_070_15e-34
"""Joules per hertz."""

NEEDS_REST_FREQUENCY = frozenset({"VRAD", "VOPT", "ZOPT", "VELO", "BETA"})
"""Types that need a rest frequency to become a frequency."""

SPECTRAL_TYPES = NEEDS_REST_FREQUENCY | {"FREQ", "ENER", "WAVN", "WAVE", "AWAV"}
"""All types that `frequency_of` takes."""


VelocityType = Literal["radio", "optical"]
"""Conventions of velocity: c (1 - f / f0), and c (f0 / f - 1)."""


def velocity_of(frequency: np.ndarray, restfreq: float, veltype: VelocityType = "radio") -> np.ndarray:
    """Velocity of frequencies in Hz, km/s.

    Examples
    --------
    >>> velocity_of(np.array([1420.0e6]), 1420.405752e6).round(3)
    array([85.639])
    """
    ratio = np.asarray(frequency) / restfreq
    velocity: np.ndarray = LIGHT_SPEED / 1000 * (1 - ratio if veltype == "radio" else 1 / ratio - 1)
    return velocity


def frequency_of(kind: str, value: np.ndarray, restfreq: float) -> np.ndarray:
    """Frequency of spectral coordinates.

    Parameters
    ----------
    kind : str
        One of `SPECTRAL_TYPES`.
    value : numpy.ndarray
        Hz, J, 1/m, m, m/s; redshift and v/c as numbers.
    restfreq : float
        Hz. Counts only for the types of `NEEDS_REST_FREQUENCY`.

    Returns
    -------
    numpy.ndarray
        Hz; infinite or NaN where a coordinate has no frequency.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        match kind:
            case "FREQ":
                frequency = value
            case "ENER":
                frequency = value / PLANCK
            case "WAVN":
                frequency = value * LIGHT_SPEED
            case "WAVE":
                frequency = LIGHT_SPEED / value
            case "AWAV":
                frequency = LIGHT_SPEED / (value * _refraction_of_air(value))
            case "VRAD":
                frequency = restfreq * (1 - value / LIGHT_SPEED)
            case "VOPT":
                frequency = restfreq / (1 + value / LIGHT_SPEED)
            case "ZOPT":
                frequency = restfreq / (1 + value)
            case "VELO" | "BETA":
                beta = value / LIGHT_SPEED if kind == "VELO" else value
                frequency = restfreq * np.sqrt((1 - beta) / (1 + beta))
            case _:
                raise ValueError(f"no spectral type of FITS: {kind!r}")
    return np.asarray(frequency, np.float64)


def _refraction_of_air(wavelength: np.ndarray) -> np.ndarray:
    """Index of refraction of dry air at a wavelength in air, in metres: WCS paper III, equation 65, as in casacore.

    wcslib has another formula, for air of 15 degrees Celsius. The two differ by 2e-5.
    """
    inverse_square: np.ndarray = (1e6 * wavelength) ** -2.0  # 1/um^2
    index: np.ndarray = 1 + 1e-6 * (287.6155 + 1.62887 * inverse_square + 0.01360 * inverse_square**2)
    return index
