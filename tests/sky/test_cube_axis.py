"""The spectral axis of a cube: that of tclean for the same parameters, and arithmetic that can be done by hand.

`axis_tclean.json` holds the first, middle and last frequency of cubes that tclean 6.7 made of the MeasurementSets of
`bench/peers/compare_frames.py`: 240 channels of ALMA at 230 GHz in TOPO, rising or falling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import LIGHT_SPEED

import gpucube
from gpucube.sky.cube_axis import AxisRequest, cube_axis
from gpucube.sky.directions import Direction
from gpucube.sky.doppler import frequency_factor

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "axis_tclean.json").read_text())

REST, WIDTH, NCHAN = 230.538e9, 122070.3125, 240
ALMA = np.array([2225172.997, -5440299.083, -2481021.421])
FIELD = Direction(ra=3.27249234748937, dec=-0.6108652381980153)
TIME = {"topo0": 5059861200.0, "falling": 5060293200.0}  # of the first row
UNITS = {"km/s": 1e3, "GHz": 1e9, "kHz": 1e3}


def number(text: Any) -> tuple[float | None, str]:
    """Value in base units and kind of what was given to tclean."""
    for unit, factor in UNITS.items():
        if str(text).endswith(unit):
            return float(str(text)[: -len(unit)]) * factor, "velocity" if unit == "km/s" else "frequency"
    return (None, "channel") if text is None else (float(text), "channel")


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_axis_is_that_of_tclean(case: dict[str, Any]) -> None:
    asked = case["parameters"]
    step = -WIDTH if case["ms"] == "falling" else WIDTH
    frequency = REST * (1 - 15e3 / LIGHT_SPEED) + (np.arange(NCHAN) - NCHAN // 2) * step
    target = "TOPO" if asked.get("specmode") == "cubedata" else asked.get("outframe", "LSRK")
    times = np.array([TIME[case["ms"]]])
    factor = frequency_factor("TOPO", target, direction=FIELD, times=times, position=ALMA)[0]
    first, last = (20, 50) if asked.get("spw") == "0:20~50" else (0, NCHAN - 1)
    (start, of_start), (width, of_width) = number(asked.get("start")), number(asked.get("width"))
    request = AxisRequest(
        kind=next((kind for kind in ("velocity", "frequency") if kind in (of_start, of_width)), "channel"),  # type: ignore[arg-type]
        start=start,
        width=width,
        nchan=asked.get("nchan", -1),
        restfreq=REST,
        optical=asked.get("veltype") == "optical",
    )
    chosen = slice(first, last + 1)
    edges = cube_axis(request, frequency[chosen] * factor, np.full(last + 1 - first, step) * factor, first)
    centre = edges.mean(axis=1)
    found = np.array([centre[0], centre[len(centre) // 2], centre[-1]])
    expected = np.array([case["first"], case["middle"], case["last"]])
    assert len(centre) == case["nchan"]
    # casacore's motion of the Earth is good to 0.15 m/s, which is 1e-3 of these channels
    assert np.abs(found - expected).max() < 1e-3 * np.abs(np.diff(edges)).min()


EVEN = 100.0 + np.arange(10.0), np.ones(10)
"""Centres and widths of ten channels from 99.5 to 109.5."""


def test_channels_touch_and_each_is_as_wide_as_asked() -> None:
    edges = cube_axis(AxisRequest(kind="frequency", start=101.0, width=2.5), *EVEN)
    np.testing.assert_allclose(edges, [[99.75, 102.25], [102.25, 104.75], [104.75, 107.25]])


def test_without_a_start_the_axis_begins_at_the_lowest_frequency() -> None:
    rising = cube_axis(AxisRequest(kind="frequency", width=3.0), *EVEN)
    falling = cube_axis(AxisRequest(kind="frequency", width=-3.0), *EVEN)
    np.testing.assert_allclose(rising.mean(1), [101.0, 104.0, 107.0])
    np.testing.assert_allclose(falling, rising[::-1, ::-1])


def test_a_velocity_axis_needs_a_rest_frequency() -> None:
    with pytest.raises(gpucube.GpucubeError, match="give `restfreq`"):
        cube_axis(AxisRequest(kind="velocity", start=0.0), *EVEN)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (AxisRequest(kind="channel", start=10), "channels 0 to 9"),
        (AxisRequest(kind="frequency", start=200.0), "no channel lies within the data"),
        (AxisRequest(kind="frequency", width=1e-6), "check `width`"),
        (AxisRequest(kind="frequency", start=100.0, width=-30.0, nchan=5), "reach a frequency of 0"),
        (AxisRequest(kind="velocity", start=0.0, width=1e8, nchan=5, restfreq=105.0), "reach a frequency of 0"),
        (
            AxisRequest(kind="velocity", start=0.0, width=-2 * LIGHT_SPEED, nchan=2, restfreq=105.0, optical=True),
            "reach a frequency of 0",
        ),
    ],
)
def test_an_axis_without_data_or_without_end_is_refused(request_: AxisRequest, reason: str) -> None:
    with pytest.raises(gpucube.GpucubeError, match=reason):
        cube_axis(request_, *EVEN)


def test_optical_channels_are_even_in_optical_velocity() -> None:
    request = AxisRequest(kind="velocity", start=2e3, width=1e3, nchan=5, restfreq=105.0, optical=True)
    frequency = cube_axis(request, *EVEN).mean(axis=1)
    velocity = LIGHT_SPEED * (105.0 / frequency - 1)
    np.testing.assert_allclose(np.diff(velocity), 1e3, rtol=1e-5)
