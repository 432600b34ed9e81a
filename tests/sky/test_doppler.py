"""Doppler factors between frames: those of CASA's measures, of astropy, and of plain special relativity.

`doppler_casa.json` holds what `casatools.measures` (CASA 6.7) gives for random directions and dates of a year at four
observatories: `me.measure(me.frequency("TOPO", "1GHz"), frame)`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time
from oracles import LIGHT_SPEED

import gpucube
from gpucube.sky.directions import Direction
from gpucube.sky.doppler import frequency_factor

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "doppler_casa.json").read_text())
FRAMES = sorted(CASES[0]["factor"])


def factor(source: str, target: str, case: dict[str, Any]) -> float:
    direction, times = Direction(ra=case["ra"], dec=case["dec"]), np.array([case["mjd"] * 86400])
    position = np.array(case["position"])
    return float(frequency_factor(source, target, direction=direction, times=times, position=position)[0])


@pytest.mark.parametrize("frame", FRAMES)
def test_frequencies_agree_with_casa_within_0_2_m_s(frame: str) -> None:
    # casacore's own motion of the Earth is a series that is good to 0.15 m/s; without it (GEO) all agree within 0.01 m/s
    tolerance = 0.01 if frame == "GEO" else 0.2
    for case in CASES:
        off = (factor("TOPO", frame, case) / case["factor"][frame] - 1) * LIGHT_SPEED
        assert abs(off) < tolerance, (case["site"], case["mjd"], off)


def test_the_barycentric_velocity_is_that_of_astropy() -> None:
    for case in CASES:
        place = EarthLocation.from_geocentric(*case["position"], unit=units.m)
        source = SkyCoord(case["ra"] * units.rad, case["dec"] * units.rad)
        velocity = source.radial_velocity_correction("barycentric", Time(case["mjd"], format="mjd"), location=place)
        expected = np.sqrt((1 - velocity.to_value("m/s") / LIGHT_SPEED) / (1 + velocity.to_value("m/s") / LIGHT_SPEED))
        # astropy adds gravity and orders of v^2/c^2: a few m/s
        assert abs(factor("TOPO", "BARY", case) / expected - 1) * LIGHT_SPEED < 5


@pytest.mark.parametrize("frame", FRAMES)
def test_there_and_back_is_the_same_frequency(frame: str) -> None:
    case = CASES[0]
    assert factor("TOPO", frame, case) * factor(frame, "TOPO", case) == pytest.approx(1, abs=1e-15)
    assert factor("LSRK", "BARY", case) == pytest.approx(
        factor("LSRK", frame, case) * factor(frame, "BARY", case), rel=1e-15
    )


def test_the_sun_moves_towards_the_apex_at_20_km_s() -> None:
    apex = Direction(ra=np.arctan2(-0.865863, 0.0145021), dec=np.arcsin(0.500071))
    at = {"direction": apex, "times": np.array([5.06e9]), "position": None}
    # what a source at rest in LSRK emits arrives at the Sun with a higher frequency
    assert frequency_factor("LSRK", "BARY", **at)[0] == pytest.approx(1 + 20e3 / LIGHT_SPEED, abs=1e-8)


def test_topo_needs_a_place_and_rest_has_no_velocity() -> None:
    at: dict[str, Any] = {"direction": Direction(ra=0.0, dec=0.0), "times": np.array([5.06e9]), "position": None}
    with pytest.raises(gpucube.GpucubeError, match="position of the observatory"):
        frequency_factor("TOPO", "LSRK", **at)
    with pytest.raises(gpucube.GpucubeError, match="REST"):
        frequency_factor("REST", "LSRK", **at)
