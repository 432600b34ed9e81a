"""Spectral coordinates of FITS as frequencies, against wcslib."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.wcs import WCS

from gpucube.sky.spectral_types import SPECTRAL_TYPES, VelocityType, frequency_of, velocity_of

RESTFREQ = 115.271202e9

VALUES = {
    "FREQ": 110e9,
    "ENER": 7e-23,
    "WAVN": 370.0,
    "WAVE": 2.7e-3,
    "VRAD": 1.2e7,
    "VOPT": 1.2e7,
    "ZOPT": 0.04,
    "VELO": -1.2e7,
    "BETA": 0.04,
}


@pytest.mark.parametrize("kind", sorted(VALUES))
def test_frequencies_are_those_of_wcslib(kind: str) -> None:
    value = VALUES[kind]
    wcs = WCS(naxis=1).wcs
    wcs.ctype, wcs.crval, wcs.cdelt, wcs.restfrq = [kind], [value], [value / 1e3], RESTFREQ
    wcs.set()
    wcs.sptr("FREQ-???")
    # wcslib has Planck's constant of 1986, which differs by 8e-7; the other results differ in rounding alone
    tolerance = 1e-6 if kind == "ENER" else 1e-14
    assert frequency_of(kind, np.array([value]), RESTFREQ) == pytest.approx(wcs.crval, rel=tolerance)


def test_light_is_slower_in_air() -> None:
    """The index of refraction of dry air at 0 degrees Celsius is 1.0002926 in sodium light, as textbooks have it."""
    frequency = frequency_of("AWAV", np.array([589.29e-9]), RESTFREQ)
    # the last digit of the textbook's number
    assert 299792458 / 589.29e-9 / frequency == pytest.approx(1.0002926, abs=3e-7)


def test_every_type_is_tested() -> None:
    assert set(VALUES) | {"AWAV"} == SPECTRAL_TYPES


def test_an_unknown_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="no spectral type of FITS: 'VELOCITY'"):
        frequency_of("VELOCITY", np.array([1.0]), RESTFREQ)


@pytest.mark.parametrize(
    ("veltype", "convention"), [("radio", units.doppler_radio), ("optical", units.doppler_optical)]
)
def test_velocities_are_astropys(veltype: VelocityType, convention: Any) -> None:
    frequency = np.array([1.419e9, 1.4204e9, 1.422e9])
    expected = (frequency * units.Hz).to_value("km/s", convention(1.420405752e9 * units.Hz))
    np.testing.assert_allclose(velocity_of(frequency, 1.420405752e9, veltype), expected, rtol=1e-9)
