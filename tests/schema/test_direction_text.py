"""Directions: tclean's text and astropy's objects mean the same, and one line answers what is no direction."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import FK5, ICRS, SkyCoord

from gpucube.schema.quantities import parse_direction


@pytest.mark.parametrize(
    ("text", "coordinate", "radesys"),
    [
        ("J2000 12h30m00s +30d00m00s", SkyCoord("12h30m00s", "+30d00m00s"), "FK5"),
        ("j2000 12:30:00.5 -00:30:15.25", SkyCoord("12h30m00.5s", "-00d30m15.25s"), "FK5"),
        ("J2000 12:30:00 -00.30.00", SkyCoord("12h30m00s", "-00d30m00s"), "FK5"),
        ("ICRS 187.5deg -30deg", SkyCoord(187.5, -30, unit="deg"), "ICRS"),
        ("ICRS -1.5rad 1rad", SkyCoord(-1.5, 1, unit="rad"), "ICRS"),
        ("ICRS 187d30m00s 90deg", SkyCoord(187.5, 90, unit="deg"), "ICRS"),
        ("J2000 187.30.00 +30.00.00", SkyCoord(187.5, 30, unit="deg"), "FK5"),
    ],
)
def test_directions(text: str, coordinate: SkyCoord, radesys: str) -> None:
    ra, dec, frame = parse_direction(text)
    assert frame == radesys
    assert ra == pytest.approx(coordinate.ra.rad, abs=1e-14)
    assert dec == pytest.approx(coordinate.dec.rad, abs=1e-14)


@pytest.mark.parametrize(
    "wrong",
    ["12h30m00s +30d00m00s", "B1950 12h30m00s +30d00m00s", "J2000 187.5 30", "J2000 12h30m00s"]
    + ["J2000 12h60m00s 1deg", "J2000 12h30m00s +30d00m00s x"]
    + ["J2000 12h30m00s +95d00m00s", "J2000 400deg 0deg", "J2000 12h30m00s 2h00m00s"],
)  # fmt: skip
def test_what_is_no_direction_is_quoted_with_a_right_one(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"J2000 12h30m00s \+30d00m00s") as caught:
        parse_direction(wrong)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize(
    ("coordinate", "frame"),
    [
        (SkyCoord(187.5 * u.deg, 30 * u.deg, frame="icrs"), "ICRS"),
        (SkyCoord(187.5 * u.deg, 30 * u.deg, frame="fk5"), "FK5"),
        (SkyCoord(187.5 * u.deg, 30 * u.deg, frame="fk5", equinox="B1975"), "ICRS"),
        (SkyCoord(10 * u.deg, -5 * u.deg, frame="galactic"), "ICRS"),
        (SkyCoord(187.5 * u.deg, 30 * u.deg, frame="fk4"), "ICRS"),
        (ICRS(187.5 * u.deg, 30 * u.deg), "ICRS"),
        (FK5(187.5 * u.deg, 30 * u.deg), "FK5"),
    ],
)
def test_a_coordinate_of_astropy_is_the_same_place_on_the_sky(coordinate: SkyCoord, frame: str) -> None:
    """1e-11 rad: the separation is found by way of ICRS, with rounding of some 1e-16 on angles up to 2 pi."""
    ra, dec, found = parse_direction(coordinate)
    assert found == frame
    assert 0 <= ra < 2 * np.pi
    assert SkyCoord(ra * u.rad, dec * u.rad, frame=found.lower()).separation(SkyCoord(coordinate).icrs).rad < 1e-11


@pytest.mark.parametrize(
    "wrong", [SkyCoord([1, 2] * u.deg, [1, 2] * u.deg), ICRS(), 3, None, [1.0, 2.0], [1, 2, "B1950"]]
)
def test_what_is_no_direction_is_one_line(wrong: object) -> None:
    with pytest.raises(ValueError) as caught:
        parse_direction(wrong)
    assert "expected" in str(caught.value) or "data" in str(caught.value)


def test_the_base_form_is_taken_back() -> None:
    base = parse_direction("ICRS 187.5deg 30deg")
    assert parse_direction(base) == parse_direction(list(base)) == base
