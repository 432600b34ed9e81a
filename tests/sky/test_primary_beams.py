"""Primary beams: those of tclean where it knows the telescope, published widths elsewhere, and their place in an image.

`primary_beams_tclean.json` holds values of tclean 6.7's ``.pb`` above 0.2 along a row from the pointing, made by
bench/peers/beams_tclean.py.
"""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord

from gpucube.constants import ARCSEC
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.primary_beams import BeamOnSky, PrimaryBeam, of_dish, of_telescope

TCLEAN = json.loads((Path(__file__).parent / "primary_beams_tclean.json").read_text())
BY_DIAMETER = ("MeerKAT", "GMRT", "ASKAP", "NOEMA", "NOWHERE")
ARCMIN = 60 * ARCSEC
OTHER_ON_PURPOSE = ("wsrt-1.42", "evla-10.06")
TELESCOPES = [("ALMA", 12.0, 230.5), ("ALMA", 7.0, 230.5), ("EVLA", 25.0, 1.42), ("EVLA", 25.0, 0.35), ("VLA", 25.0, 4.9),
    ("MeerKAT", 13.5, 1.42), ("GMRT", 45.0, 0.65), ("ATCA", 22.0, 2.1), ("ATCA", 22.0, 95.0), ("ASKAP", 12.0, 0.9),
    ("WSRT", 25.0, 1.42), ("SMA", 6.0, 345.0), ("ACA", 7.0, 100.0)]  # fmt: skip


def beam_of(telescope: str, diameter: float, ghz: float) -> PrimaryBeam:
    beam = of_telescope(telescope, diameter, 1e9 * ghz)
    assert beam is not None
    return beam


@pytest.mark.parametrize("case", [c for c in TCLEAN if c["case"] not in OTHER_ON_PURPOSE], ids=lambda c: c["case"])
def test_beams_are_those_of_tclean(case):
    """tclean looks its patterns up at the lower of 10,000 radii: that is worth up to 3.3e-4 where they are steep."""
    diameter, frequency = case["diameter"], case["frequency_hz"]
    known = None if case["telescope"] in BY_DIAMETER else of_telescope(case["telescope"], diameter, frequency)
    power = (known or of_dish(diameter)).power(np.array(case["offset_arcsec"]) * ARCSEC, frequency)
    assert power == pytest.approx(case["power"], abs=4e-4)


@pytest.mark.parametrize(
    ("telescope", "diameter", "ghz", "arcmin", "rel"),
    [
        ("MeerKAT", 13.5, 1.5, 57.5, 1e-3),  # Mauch et al. 2020
        ("MEERKAT", 13.5, 0.75, 115.0, 1e-3),
        ("GMRT", 45.0, 0.4, 75.0, 0.05),  # NCRA's table of half-power widths, rounded
        ("GMRT", 45.0, 1.28, 24.0, 0.05),
        ("EVLA", 25.0, 1.42, 42 / 1.42, 0.03),  # NRAO: 42 arcmin / GHz
        ("EVLA", 25.0, 33.0, 42 / 33, 0.03),
        ("ALMA", 12.0, 300.0, 20.0 / 60, 0.03),  # 1.13 to 1.17 wavelengths / 12 m
        ("ASKAP", 12.0, 0.9, math.degrees(1.09 * 0.2998 / 0.9 / 12) * 60, 1e-3),
        ("WSRT", 25.0, 1.4, 34.0, 0.05),
        ("SMA", 6.0, 224.0, 52.3 / 60, 1e-3),
    ],
)
def test_beams_are_as_wide_as_published(telescope, diameter, ghz, arcmin, rel):
    assert beam_of(telescope, diameter, ghz).width(1e9 * ghz) / ARCMIN == pytest.approx(arcmin, rel=rel)


def test_a_dish_is_as_wide_as_the_documented_formula():
    assert of_dish(30.0).width(2e9) / ARCMIN == pytest.approx(1074 / (30 * 2), rel=1e-3)


@pytest.mark.parametrize(("telescope", "diameter", "ghz"), TELESCOPES)
def test_a_beam_falls_from_1_to_0_and_stays_there(telescope, diameter, ghz):
    power = beam_of(telescope, diameter, ghz).power(np.linspace(0, 6e3 / ghz * ARCMIN / diameter, 5000), 1e9 * ghz)
    assert power[0] == pytest.approx(1.0, abs=1e-9)
    assert power.min() >= 0
    assert (np.diff(power) <= 1e-4).all()  # its end is found to 0.1 arcmin GHz, and may lie just beyond a minimum
    assert power[-1] < 1e-3  # Gaussians and inverse polynomials have no end


def test_an_unknown_telescope_has_no_beam():
    assert of_telescope("NOWHERE", 25.0, 1e9) is None


@pytest.mark.parametrize(("dra", "ddec", "frame"), [(0.0, 0.0, "FK5"), (0.21, -0.13, "FK5"), (-0.2, 0.1, "ICRS")])
def test_a_plane_is_the_beam_about_the_pointing(dra, ddec, frame):
    """Angles are astropy's, to 2 pixels in 1e4 of the width (1e-4 of the power) in spite of its other J2000."""
    centre = Direction(ra=math.radians(187.5), dec=math.radians(60.0))
    pointing = Direction(ra=math.radians(187.5 + dra), dec=math.radians(60 + ddec), frame=frame)
    g = ImageGeometry(nx=96, ny=80, cell_x=25 * ARCSEC, cell_y=30 * ARCSEC, centre=centre)
    beam = beam_of("EVLA", 25.0, 1.42)
    plane = BeamOnSky(beam=beam, pointing=pointing, geometry=g, limit=0.1).plane(1.42e9)
    ra, dec = g.sky_position(*np.meshgrid(np.arange(96.0), np.arange(80.0)))
    there = SkyCoord(pointing.ra * u.rad, pointing.dec * u.rad, frame=frame.lower())
    angle = SkyCoord(ra * u.rad, dec * u.rad, frame="fk5").separation(there).rad
    expected = beam.power(angle, 1.42e9)
    assert plane.shape == (80, 96)
    assert plane.dtype == np.float32
    assert np.nan_to_num(plane) == pytest.approx(np.where(np.isnan(plane), 0, expected), abs=1e-4)
    assert (np.isnan(plane) == (expected <= 0.1)).mean() > 0.999  # pixels at the limit may fall to either side
    assert np.isnan(plane).any()


def test_a_plane_is_the_same_when_worked_out_in_parts():
    g = ImageGeometry(nx=600, ny=600, cell_x=6 * ARCSEC, cell_y=6 * ARCSEC, centre=Direction(ra=1.0, dec=0.5))
    beam = BeamOnSky(beam=of_dish(25.0), pointing=g.centre, geometry=g, limit=0.0)
    plane = beam.plane(1.4e9)  # 437 rows, then the rest
    assert plane[1:, 1:] == pytest.approx(plane[:0:-1, :0:-1], abs=1e-7, nan_ok=True)


def test_a_beam_travels_to_workers():
    for telescope, diameter, ghz in TELESCOPES:
        beam = beam_of(telescope, diameter, ghz)
        assert pickle.loads(pickle.dumps(beam)) == beam
