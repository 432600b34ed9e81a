"""Directions: their frames, the axes of uvw and the rotation from one phase centre to another."""

from __future__ import annotations

import numpy as np
import pytest

from gpucube.constants import ARCSEC
from gpucube.sky.directions import (
    B1950_VLA_YEAR,
    CELESTIAL_FRAMES,
    DIRECTION_CODES,
    Direction,
    frame_rotation,
    unit_vectors,
    uvw_axes,
    uvw_rotation,
)

MAS = 1e-3 * ARCSEC

PLACES = np.radians([(187.5, 30.0), (10.0, -72.0), (266.4, -29.0), (83.6, 22.0), (200.0, 89.5)])
"""Longitude and latitude in whatever frame."""

IN_J2000 = {
    "J2000": PLACES.tolist(),
    "ICRS": [
        (3.272492405419, 0.523598859787),
        (0.174532938834, -1.256637146515),
        (4.649557154678, -0.506145445025),
        (1.459095294593, 0.383972393604),
        (3.490658172248, 1.562069767546),
    ],
    "GALACTIC": [
        (2.133815708483, 0.593158123264),
        (6.162464147141, -0.57141750845),
        (1.585143298084, -1.00943341622),
        (4.925970806975, 0.942589632841),
        (3.356464223288, 0.475411690191),
    ],
    "SUPERGAL": [
        (4.571930454714, -0.711695492119),
        (1.723193259943, 0.027802566488),
        (0.671051784171, -0.585815360182),
        (3.662189920836, 0.625604222191),
        (4.951424681784, 0.26550112022),
    ],
    "ECLIPTIC": [
        (3.48042819694, 0.426598664785),
        (0.952196668837, -1.018329359522),
        (4.622310748183, -0.914112951252),
        (1.423454810319, 0.789794925591),
        (4.691916801282, 1.158641852012),
    ],
    "B1950": [
        (3.28329591327, 0.518787238033),
        (0.18307832898, -1.251855348931),
        (4.663430828833, -0.506416959933),
        (1.472229364897, 0.38448216089),
        (3.375521125728, 1.557409412129),
    ],
    "B1950_VLA": [
        (3.283295321191, 0.518786314384),
        (0.183077242127, -1.251854430786),
        (4.663430838627, -0.506416989536),
        (1.472229226801, 0.384482237004),
        (3.375503563564, 1.557408507973),
    ],
}
"""Where casacore sees `PLACES`: casatools 6.7, `measures().measure(direction, "J2000")` at the VLA on MJD 60371.38 UTC."""

YEAR = {"B1950": 2000 + (60371.38 - 51544.5) / 365.25, "B1950_VLA": B1950_VLA_YEAR}


@pytest.mark.parametrize("word", CELESTIAL_FRAMES)
def test_frames_lie_where_casacore_sees_them(word: str) -> None:
    # FK4 is astropy's, whose terms of aberration do not change with time; the others are the same rotations, and the
    # numbers above have twelve digits
    tolerance = 10 * MAS if word.startswith("B1950") else 0.02 * MAS
    for place, (ra, dec) in zip(PLACES, IN_J2000[word], strict=True):
        direction = Direction(ra=place[0], dec=place[1], frame=CELESTIAL_FRAMES[word], year=YEAR.get(word, 2000.0))
        found = direction.to("FK5")
        off = unit_vectors(np.array([found.ra, ra]), np.array([found.dec, dec]))
        assert np.linalg.norm(off[0] - off[1]) < tolerance
        assert found.frame == "FK5"


def test_icrs_and_j2000_differ_by_the_frame_bias_both_ways() -> None:
    """casatools 6.7, `measure(direction("J2000", "68.5deg", "28deg"), "ICRS")`. astropy's FK5 would be 21 mas away."""
    j2000 = Direction(ra=np.radians(68.5), dec=np.radians(28.0))
    icrs = j2000.to("ICRS")
    assert (icrs.ra, icrs.dec) == pytest.approx((1.1955505002458249, 0.4886922508445365), abs=0.001 * MAS)
    back = icrs.to("FK5")
    assert (back.ra, back.dec) == pytest.approx((j2000.ra, j2000.dec), abs=1e-15)


@pytest.mark.parametrize(
    ("word", "angles"),
    [
        ("ICRS", (-1.4733725564634906e-06, -2.306377795203547e-05)),
        ("GALACTIC", (75.77204285740855, 102.68152055333891)),
        ("SUPERGAL", (24.382821988137575, 6.434813934509304)),
        ("ECLIPTIC", (25.670685998048114, 68.92452983468455)),
        ("B1950_VLA", (-0.043618978565908295, -7.239002615081143)),
    ],
)
def test_uvw_turn_with_the_north_of_the_frame(word: str, angles: tuple[float, float]) -> None:
    """Angles: casatools 6.7, `posangle` in J2000 of a point 3.6 arcsec to the frame's north, in degrees."""
    for (lon, lat), angle in zip(PLACES[[0, 4]], angles, strict=True):
        origin = Direction(ra=lon, dec=lat, frame=CELESTIAL_FRAMES[word], year=YEAR.get(word, 2000.0))
        turn = uvw_rotation(origin, origin.to("FK5"))
        assert turn is not None
        sin, cos = np.sin(np.radians(angle)), np.cos(np.radians(angle))
        # 0.15 arcsec: in FK4 the direction of north near the pole changes with the terms of aberration
        tolerance = 1e-6 if word == "B1950_VLA" else 1e-9
        assert turn == pytest.approx(np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]), abs=tolerance)


def test_the_rotation_between_frames_of_the_sky_is_one_for_all_directions() -> None:
    here, there = (Direction(ra=ra, dec=dec, frame="GALACTIC") for ra, dec in PLACES[:2])
    icrs = Direction(ra=1.0, dec=0.5, frame="ICRS")
    rotation = frame_rotation(here, icrs)
    assert np.array_equal(rotation, frame_rotation(there, icrs))
    # the matrix of casacore has ten digits
    assert rotation @ rotation.T == pytest.approx(np.eye(3), abs=1e-9)


def test_uvw_that_are_turned_to_fk4_and_back_are_as_before() -> None:
    fk4 = Direction(ra=1.0, dec=0.5, frame="FK4", year=1979.9)
    fk5 = fk4.to("FK5")
    there, back = uvw_rotation(fk4, fk5), uvw_rotation(fk5, fk4)
    assert there is not None and back is not None
    # north is found by a step of 1e-4 radians, in numbers with an error of 1e-16
    assert back @ there == pytest.approx(np.eye(3), abs=1e-11)
    assert there[2] == pytest.approx([0, 0, 1], abs=1e-11)


def test_the_codes_are_those_of_casacores_class_mdirection() -> None:
    known = {0: "J2000", 4: "B1950", 5: "B1950_VLA", 8: "GALACTIC", 12: "AZELGEO", 15: "ECLIPTIC", 18: "SUPERGAL"}
    known |= {19: "ITRF", 20: "TOPO", 21: "ICRS", 32: "MERCURY", 40: "SUN", 42: "COMET"}
    assert known.items() <= DIRECTION_CODES.items()
    assert len(DIRECTION_CODES) == 22 + 11


def test_the_rotation_takes_one_centre_to_the_other_and_back() -> None:
    a, b = Direction(ra=0.3, dec=-0.5), Direction(ra=0.31, dec=-0.47)
    there, back = uvw_rotation(a, b), uvw_rotation(b, a)
    assert there is not None and back is not None
    assert there @ back == pytest.approx(np.eye(3), abs=1e-15)
    assert np.linalg.det(there) == pytest.approx(1.0, abs=1e-15)
    assert there @ uvw_axes(a.ra, a.dec) == pytest.approx(uvw_axes(b.ra, b.dec), abs=1e-15)
    assert uvw_rotation(a, a) is None


def test_the_year_is_no_part_of_a_direction() -> None:
    a, b = (Direction(ra=0.3, dec=-0.5, frame="FK4", year=year) for year in (1979.9, 1980.1))
    assert uvw_rotation(a, b) is None


def test_w_points_at_the_phase_centre_and_u_to_the_east() -> None:
    """From the definition of right ascension and declination, and by stepping a little to the east and to the north."""
    ra, dec, step = 2.1, -0.7, 1e-6

    def unit(ra: float, dec: float) -> np.ndarray:
        return np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])

    u, v, w = uvw_axes(ra, dec)
    assert w == pytest.approx(unit(ra, dec), abs=1e-15)
    # a difference over 1e-6 is right to 1e-6 squared and its rounding to 1e-16 / 1e-6
    assert u * np.cos(dec) == pytest.approx((unit(ra + step, dec) - unit(ra - step, dec)) / (2 * step), abs=1e-9)
    assert v == pytest.approx((unit(ra, dec + step) - unit(ra, dec - step)) / (2 * step), abs=1e-9)


def test_axes_of_many_directions_are_those_of_each() -> None:
    ra, dec = PLACES.T
    assert np.array_equal(uvw_axes(ra, dec), [uvw_axes(*place) for place in PLACES])
