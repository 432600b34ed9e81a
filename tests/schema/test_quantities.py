"""Quantities: every spelling against astropy's own units, and one line for what is no quantity."""

from __future__ import annotations

import math
import re

import astropy.units as u
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucube.schema.quantities import (
    ANGLE,
    FLUX_DENSITY,
    FREQUENCY,
    MEMORY,
    WAVELENGTHS,
    Kind,
    parse_quantity,
    parse_taper_width,
)

ROUNDING = 1e-14
"""A product of two doubles."""


@pytest.mark.parametrize(
    ("text", "kind", "quantity"),
    [
        ("0.2arcsec", ANGLE, 0.2 * u.arcsec),
        ("0.2 arcsec", ANGLE, 0.2 * u.arcsec),
        ("2asec", ANGLE, 2 * u.arcsec),
        ('2"', ANGLE, 2 * u.arcsec),
        ("1'", ANGLE, 1 * u.arcmin),
        ("1arcmin", ANGLE, 1 * u.arcmin),
        ("2mas", ANGLE, 2 * u.mas),
        ("2uas", ANGLE, 2 * u.uas),
        ("2µas", ANGLE, 2 * u.uas),
        ("2microarcsec", ANGLE, 2 * u.uas),
        ("4e-6arcsec", ANGLE, 4e-6 * u.arcsec),
        ("0.1deg", ANGLE, 0.1 * u.deg),
        ("1e-3rad", ANGLE, 1e-3 * u.rad),
        ("-.5deg", ANGLE, -0.5 * u.deg),
        ("0.1Jy", FLUX_DENSITY, 0.1 * u.Jy),
        ("3mJy", FLUX_DENSITY, 3 * u.mJy),
        ("3mJy/beam", FLUX_DENSITY, 3 * u.mJy / u.beam),
        ("10uJy", FLUX_DENSITY, 10 * u.uJy),
        ("230.538GHz", FREQUENCY, 230.538 * u.GHz),
        ("1420.405752MHz", FREQUENCY, 1420.405752 * u.MHz),
        ("1.5e9Hz", FREQUENCY, 1.5 * u.GHz),
        ("8GB", MEMORY, 8 * u.Gbyte),
        ("8gb", MEMORY, 8 * u.Gbyte),
        ("500MB", MEMORY, 500 * u.Mbyte),
        ("2GiB", MEMORY, 2 * u.Gibyte),
        ("1024kB", MEMORY, 1024 * u.kbyte),
    ],
)
def test_text_means_what_astropy_says(text: str, kind: Kind, quantity: u.Quantity) -> None:
    base = kind.other_base if quantity.unit.is_equivalent("Jy / beam") else kind.base
    assert parse_quantity(text, kind) == pytest.approx(quantity.to_value(base), rel=ROUNDING)
    assert parse_quantity(quantity, kind) == pytest.approx(quantity.to_value(base), rel=ROUNDING)


def test_lengths_in_wavelengths() -> None:
    assert parse_quantity("300lambda", WAVELENGTHS) == 300.0
    assert parse_quantity("5klambda", WAVELENGTHS) == 5000.0
    assert parse_quantity("1.5Mlambda", WAVELENGTHS) == 1.5e6


@pytest.mark.parametrize("number", [0.5, 2, np.float32(0.5), np.int64(2), "0", " 0.0 "])
def test_a_number_is_in_the_base_unit_and_0_needs_none(number: object) -> None:
    assert parse_quantity(number, ANGLE) == float(number)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind", "proposed"),
    [
        ("1", ANGLE, "'1arcsec'"),
        (" 2.5e0 ", ANGLE, "'2.5e0arcsec'"),
        ("3", FLUX_DENSITY, "'3mJy' or '3Jy'"),
        ("1420.405752", FREQUENCY, "'1420.405752MHz' or '1420.405752GHz'"),
        ("300.0", WAVELENGTHS, "'300.0klambda' or '300.0lambda'"),
        ("8", MEMORY, "'8GB'"),
    ],
)
def test_text_needs_a_unit(text: str, kind: Kind, proposed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"has no unit; write e.g. {proposed}") + "$"):
        parse_quantity(text, kind)


def test_milli_and_mega_are_never_confused() -> None:
    with pytest.raises(ValueError, match="unknown unit 'MJY'"):
        parse_quantity("3MJY", FLUX_DENSITY)
    with pytest.raises(ValueError, match="unknown unit 'mHz'"):
        parse_quantity("3mHz", FREQUENCY)


@pytest.mark.parametrize(
    "wrong",
    ["", "arcsec", "1,5arcsec", "1arcsec2", "1 2arcsec", "nan", "infarcsec", "1e999arcsec", "3mJy", "1e-arcsec"]
    + [True, None, float("nan"), float("inf"), [1.0], {}, 3 * u.Jy, [1, 2] * u.arcsec, 1j],
)  # fmt: skip
def test_what_is_no_angle_is_quoted_in_one_line_with_a_right_one(wrong: object) -> None:
    with pytest.raises(ValueError) as caught:
        parse_quantity(wrong, ANGLE)
    message = str(caught.value)
    assert "\n" not in message
    assert "'0.2arcsec'" in message
    assert (str(wrong) if hasattr(wrong, "to_value") else repr(wrong)) in message


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(sorted(ANGLE.units)))
def test_every_number_that_python_writes_is_read_back(number: float, unit: str) -> None:
    expected = number * ANGLE.units[unit]
    if math.isfinite(expected):
        assert parse_quantity(f"{number!r}{unit}", ANGLE) == expected


def test_a_taper_on_the_sky_is_its_fourier_transform_in_the_aperture() -> None:
    # the Gaussian's Fourier transform summed numerically: half its peak must lie at the half width
    fwhm_arcsec = 10.0
    fwhm = fwhm_arcsec * u.arcsec.to(u.rad)
    x = np.linspace(-6 * fwhm, 6 * fwhm, 20001)
    sky = np.exp(-4 * np.log(2) * (x / fwhm) ** 2)
    hwhm = parse_taper_width("10arcsec")
    ratio = np.sum(sky * np.cos(2 * np.pi * hwhm * x)) / np.sum(sky)
    assert ratio == pytest.approx(0.5, abs=1e-9)  # the trapezoidal sum of a Gaussian is exact to rounding
    assert parse_taper_width(10 * u.arcsec) == hwhm


def test_a_taper_in_wavelengths_is_taken_as_it_is() -> None:
    assert parse_taper_width("5klambda") == 5000.0
    assert parse_taper_width(300.0) == 300.0  # in wavelengths, as in tclean


@pytest.mark.parametrize("wrong", ["0arcsec", "-5klambda", 0.0, "5kl", "wide", None])
def test_a_taper_is_positive(wrong: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_taper_width(wrong)
