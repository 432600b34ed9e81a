"""Regions select the pixels and channels that CASA selects.

The oracle for CASA's format is CASA: `region_answers.json`, written by bench/peers/region_answers.py. DS9's format is
compared with the same regions in CASA's.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gpucube.constants import ARCSEC
from gpucube.data.regions import load_regions
from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

ANSWERS = json.loads((Path(__file__).parent / "region_answers.json").read_text())
NX, NY, NSTOKES, NCHAN = ANSWERS["shape"]

CENTRE = Direction(ra=math.radians(187.5), dec=math.radians(30.0))
GEOMETRY = ImageGeometry(nx=NX, ny=NY, cell_x=10 * ARCSEC, cell_y=10 * ARCSEC, centre=CENTRE)
AXIS = SpectralAxis(
    frequency=1.4205e9 - 20e3 * np.arange(NCHAN),
    width=np.full(NCHAN, 20e3),
    frame=FRAMES["LSRK"],
    restfreq=1.420405752e9,
)
"""The axes of the image that region_answers.py asks CASA about."""


def selected(text: str, axis: SpectralAxis = AXIS) -> np.ndarray:
    """Pixels of every plane, bool (channel, stokes, y, x)."""
    mask = load_regions(text, "test", GEOMETRY, axis)
    return np.array([[mask.plane(channel, stokes) for stokes in "IQ"] for channel in range(NCHAN)])


@pytest.mark.parametrize("text", ANSWERS["answers"])
def test_a_region_selects_the_pixels_that_casa_selects(text: str) -> None:
    expected = np.zeros((NCHAN, NSTOKES, NY, NX), bool)
    for planes, bits in ANSWERS["answers"][text]:
        pixels = np.unpackbits(np.frombuffer(base64.b64decode(bits), np.uint8), count=NY * NX)
        for channel, stokes in planes:
            expected[channel, stokes] = pixels.reshape(NY, NX)
    assert expected.any()
    np.testing.assert_array_equal(selected(text), expected)


@pytest.mark.parametrize(
    ("ds9", "casa"),
    [
        ("image\ncircle(21,17,5)", "circle[[20pix,16pix],5pix]"),
        ("circle 21 17 5", "circle[[20pix,16pix],5pix]"),
        ("physical; box(21,17,20,6,30)", "rotbox[[20pix,16pix],[20pix,6pix],30deg]"),
        ("image; annulus(21,17,3,5,7)", "annulus[[20pix,16pix],[3pix,7pix]]"),
        ("image; polygon(11,11,31,11,21,26)", "poly[[10pix,10pix],[30pix,10pix],[20pix,25pix]]"),
        ("image; ellipse(21,17,4,10,30)", "ellipse[[20pix,16pix],[10pix,4pix],30deg]"),
        ('fk5; circle(12:30:00,+30:00:00,50")', "circle[[12h30m00s,+30d00m00s],50arcsec]"),
        ("fk5\ncircle(187.51,30.005,0.7') # text={a} color=red", "circle[[187.51deg,30.005deg],0.7arcmin], coord=J2000"),
        ("icrs;circle(187.51,30.005,0.0125d)", "circle[[187.51deg,30.005deg],45arcsec], coord=ICRS"),
        ('galactic;circle(180.28,84.49,55")', "circle[[180.28deg,84.49deg],55arcsec], coord=GALACTIC"),
        ("image;box(16,16,21,21);-circle(16,16,4)", "centerbox[[15pix,15pix],[21pix,21pix]]\n-circle[[15pix,15pix],4pix]"),
        ("# Region file format: DS9\nglobal color=green\nimage\ncircle(21,17,5)\npoint(3,3) # point=x\n# text(3,3)",
         "circle[[20pix,16pix],5pix]"),
    ],
)  # fmt: skip
def test_regions_of_ds9_are_those_of_casa(ds9: str, casa: str) -> None:
    np.testing.assert_array_equal(selected(ds9), selected(casa))


def test_a_first_region_that_is_taken_away_leaves_the_rest_of_the_image() -> None:
    whole, circle = selected("-circle[[20pix,16pix],5pix]"), selected("circle[[20pix,16pix],5pix]")
    np.testing.assert_array_equal(whole, ~circle)


def test_a_range_counts_in_either_direction_of_the_axis() -> None:
    rising = SpectralAxis(frequency=AXIS.frequency[::-1], width=AXIS.width, frame=AXIS.frame, restfreq=AXIS.restfreq)
    text = "circle[[20pix,16pix],5pix], range=[1.420449GHz,1.420471GHz]"
    assert selected(text, rising).any(axis=(1, 2, 3)).tolist() == selected(text).any(axis=(1, 2, 3)).tolist()[::-1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("blob[[1pix,1pix],2pix]", "'blob' is not a shape"),
        ("circle[[1pix,1pix],0pix]", "a radius is not above 0"),
        ("circle[[1pix,1pix],2]", "has no unit"),
        ("circle[[1pix,1pix", "a bracket is not closed"),
        ("poly[[1pix,1pix],[2pix,2pix]]", "2 corners; expected three or more"),
        ("circle[[1deg,1deg],2deg], coord=AZEL", "coord=AZEL is not supported; expected J2000, ICRS, B1950 or GALACTIC"),
        ("circle[[1pix,1pix],2pix], range=[1km/s,2km/s], frame=TOPO", "in the frame TOPO"),
        ("circle[[1pix,1pix],2pix], range=[900km/s,999km/s]", "lies outside the cube"),
        ("circle[[900pix,1pix],2pix]", "lies outside the cube"),
        ("image; panda(1,2,3,4,5,6,7,8)", "'panda' is not a shape"),
        ("#CRTFv0\n", "holds no region"),
        ("hello", "is not a region"),
    ],
)  # fmt: skip
def test_text_that_is_not_understood_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(GpucubeError) as caught:
        load_regions(text, "regions.crtf", GEOMETRY, AXIS)
    assert reason in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("regions.crtf")


def test_a_region_outside_the_cube_beside_others_gives_a_warning() -> None:
    mask = load_regions("circle[[20pix,16pix],5pix]\ncircle[[900pix,16pix],5pix]", "r.crtf", GEOMETRY, AXIS)
    assert mask.warnings == ("region 2 of r.crtf lies outside the cube",)
