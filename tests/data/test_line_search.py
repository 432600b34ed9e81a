"""Line-free channels are proposed where the data show a line on a continuum, and nowhere else.

The data are simulated: a Gaussian line 3 channels wide (standard deviation) in channel 32 of 64 on 5 Jy of continuum that is
not at the centre, 1700 spectra with a noise of 0.1 Jy, channel 5 flagged.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from jobs import altered, image, planes

import gpucube
from gpucube.data.line_search import Proposal, propose
from gpucube.data.selection import select
from gpucube.schema.parameters import make_parameters

NCHAN = 64
CELL = np.deg2rad(20 / 3600)
CONTINUUM = (10 * CELL, 5 * CELL, 5.0)


def gaussian(peak: float, centre: float = 32, width: float = 3, nchan: int = NCHAN) -> np.ndarray:
    return peak * np.exp(-0.5 * ((np.arange(nchan) - centre) / width) ** 2)


@pytest.fixture(scope="module")
def simulated(make_ms: Any) -> Any:
    def make(*sources: tuple[float, float, Any], **changes: Any) -> Path:
        made = make_ms(sources=list(sources), **({"nchan": NCHAN, "noise": 0.1, "flag_channels": [5]} | changes))
        return Path(made.ms)

    return make


def proposed(*vis: Path, **changes: Any) -> Proposal:
    return propose(select(make_parameters(vis=list(vis), imagename="unused", imsize=64, cell="20arcsec", **changes)))


def channels(text: str) -> np.ndarray:
    """Channels of window 0 that a text names."""
    (of_window,) = re.fullmatch(r"0:([0-9~;]+)", text).groups()  # type: ignore[union-attr]
    runs = [list(map(int, part.split("~"))) for part in of_window.split(";")]
    return np.concatenate([np.arange(run[0], run[-1] + 1) for run in runs])


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ((0, 0, gaussian(1.0)), gaussian(1.0)),
        ((-8 * CELL, 6 * CELL, gaussian(1.0)), gaussian(1.0)),
        ((0, 0, gaussian(0.05)), gaussian(0.05)),
        ((0, 0, gaussian(-0.5)), gaussian(-0.5)),
        ((0, 0, gaussian(1.0, 20, 1) + gaussian(0.5, 40, 2)), gaussian(1.0, 20, 1) + gaussian(0.5, 40, 2)),
        ((-8 * CELL, 6 * CELL, 20.0 * (np.arange(NCHAN) == 32)), 20.0 * (np.arange(NCHAN) == 32)),
        ((0, 0, 1.0 * (np.abs(np.arange(NCHAN) - 32) < 14)), 1.0 * (np.abs(np.arange(NCHAN) - 32) < 14)),
    ],
    ids=["centre", "elsewhere", "faint at the centre", "absorption", "two lines", "one channel", "flat top"],
)
@pytest.mark.parametrize("step", [15625.0, -15625.0], ids=["rising", "falling"])
def test_what_is_proposed_is_free_of_the_line(simulated: Any, source: Any, line: np.ndarray, step: float) -> None:
    """Less than 1 % of the line, or a tenth of the noise, is left in the mean of the channels; half of the window is found."""
    proposal = proposed(simulated(source, CONTINUUM, chan_width=step))
    (text,) = proposal.contsubspw
    found = channels(text)
    assert np.abs(line[found]).max() < max(0.05 * np.abs(line).max(), 0.01)
    free = np.abs(line) < 0.01 * np.abs(line).max()
    assert len(found) > 0.6 * free.sum()
    assert found.min() == 0 and found.max() == NCHAN - 1
    assert str(proposal) == f'"{text}"'


def test_the_proposal_may_be_pasted_and_takes_the_continuum_out(simulated: Any, tmp_path: Path) -> None:
    ms = simulated((0, 0, gaussian(1.0)), CONTINUUM)
    plan = gpucube.plan_cube(ms, tmp_path / "cube", imsize=64, cell="20arcsec")
    pasted = re.search(r'line-free  "(.*)" proposed for contsubspw, with contsuborder (\d)', str(plan))
    assert pasted
    settings = {"niter": 0, "weighting": "natural", "products": ("dirty",)}
    result = image(ms, tmp_path / "cube", **settings, contsubspw=pasted[1], contsuborder=int(pasted[2]))
    dirty = planes(result, "dirty")
    # 0.1 Jy / sqrt(1700) is 2.4 mJy; five times that, where 5 Jy were
    np.testing.assert_allclose(dirty[[0, 10, 50, 63], 32 + 5, 32 - 10], 0, atol=0.0125)
    assert dirty[32, 32, 32] == pytest.approx(1, abs=0.0125)


@pytest.mark.parametrize("seed", range(1, 7))
def test_nothing_is_proposed_if_there_is_no_line(simulated: Any, seed: int) -> None:
    proposal = proposed(simulated(CONTINUUM, seed=seed))
    assert proposal.contsubspw == () and str(proposal) == ""
    assert re.match(r"continuum of (5|5\.0\d|4\.9\d*) Jy", proposal.words[0])
    assert proposal.words[1].startswith("no line was found")


@pytest.mark.parametrize("line", [gaussian(0.0), gaussian(1.0)], ids=["nothing", "a line"])
def test_nothing_is_proposed_if_there_is_no_continuum(simulated: Any, line: np.ndarray) -> None:
    proposal = proposed(simulated((0, 0, line)))
    assert proposal.contsubspw == ()
    # 0.1 Jy of noise in each part, 58 channels, products of 860 pairs of hands: six times 0.1^2 / 58 sqrt(2) / sqrt(860) Jy^2
    (words,) = proposal.words
    assert re.search(r"no continuum was found in a sample of 1\d\d\d spectra: one of more than 0\.00[6-9]\d* Jy", words)


@pytest.mark.parametrize(
    "line",
    [
        gaussian(1.0, width=20),
        1.0 * (np.abs(np.arange(NCHAN) - 32) < 24),
        gaussian(1.0, 61, 3),
        np.linspace(-1, 1, NCHAN) ** 2,
    ],
    ids=["broad", "flat over most of the window", "at the edge", "curved continuum"],
)
def test_lines_that_leave_no_continuum_to_see_are_not_guessed(simulated: Any, line: np.ndarray) -> None:
    proposal = proposed(simulated((0, 0, line), CONTINUUM))
    if proposal.contsubspw:  # whatever is proposed must be right
        assert np.abs(line[channels(proposal.contsubspw[0])]).max() < 0.05
    else:
        assert "no line-free channels are proposed" in proposal.words[-1]


def test_a_continuum_whose_phase_turns_by_radians_is_no_polynomial(simulated: Any) -> None:
    proposal = proposed(simulated((20 * CELL, 15 * CELL, 50.0), chan_width=1e6))
    assert proposal.contsubspw == () and "not a straight line" in proposal.words[-1]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_is_the_one_that_the_continuum_needs(simulated: Any, seed: int) -> None:
    """A source at the centre is flat. One 8 arcmin away turns its phase by 0.3 rad over 20 MHz on a kilometre."""
    line = (0, 0, gaussian(1.0))
    assert proposed(simulated(line, (0, 0, 5.0), seed=seed)).contsuborder == 0
    assert proposed(simulated(line, (20 * CELL, 15 * CELL, 5.0), seed=seed, chan_width=125e3)).contsuborder >= 1


def test_weights_of_another_scale_and_garbage_change_nothing(simulated: Any, tmp_path: Path) -> None:
    ms = simulated((0, 0, gaussian(1.0)), CONTINUUM, flag_cells=0.2)
    expected = proposed(ms)

    def scale(t: tables.table) -> None:
        t.putcol("WEIGHT", 1e-4 * t.getcol("WEIGHT"))
        data, flag = t.getcol("DATA"), t.getcol("FLAG")
        data[flag] = np.nan
        t.putcol("DATA", data)

    assert proposed(altered(ms, tmp_path, scale)).contsubspw == expected.contsubspw != ()


def test_every_window_leaves_out_the_lines_of_all_in_the_frame_of_the_cube(simulated: Any, tmp_path: Path) -> None:
    """The line lies 8 channels lower in the second set, where it is too faint to be seen."""
    strong = simulated((0, 0, gaussian(1.0)), CONTINUUM)
    faint = simulated((0, 0, gaussian(0.004, 24)), CONTINUUM, seed=2)
    assert proposed(faint).contsubspw == ()

    def raise_by_eight(t: tables.table) -> None:
        t.putcell("CHAN_FREQ", 0, t.getcell("CHAN_FREQ", 0) + 8 * 15625.0)

    shifted = altered(faint, tmp_path, raise_by_eight, "SPECTRAL_WINDOW")
    proposal = proposed(strong, shifted)
    first, second = map(channels, proposal.contsubspw)
    np.testing.assert_array_equal(np.intersect1d(first - 8, np.arange(NCHAN - 8)), second[second < NCHAN - 8])
    assert json.loads(str(proposal).strip("'")) == list(proposal.contsubspw)
    result = image([strong, shifted], tmp_path / "cube", niter=0, contsubspw=str(proposal).strip("'"))
    assert result.summary["parameters"]["contsubspw"] == list(proposal.contsubspw)


def test_nothing_is_proposed_for_few_channels_or_rows(simulated: Any) -> None:
    line = gaussian(1.0, 4, 1, 9)
    words = proposed(simulated((0, 0, line), CONTINUUM, nchan=9)).words
    assert words == (
        "no line-free channels are proposed: to find them, every window needs at least 16 channels and 50 unflagged spectra in "
        "the sample",
    )


def test_a_cell_that_cannot_be_read_is_reported_and_the_plan_goes_on(simulated: Any, tmp_path: Path) -> None:
    def shorten(t: tables.table) -> None:
        t.removecols("FLAG")
        t.addcols(tables.maketabdesc(tables.makearrcoldesc("FLAG", False, ndim=2)))

    ms = altered(simulated((0, 0, gaussian(1.0)), CONTINUUM), tmp_path, shorten)
    (words,) = proposed(ms).words
    assert words.startswith("no line-free channels are proposed: ") and "FLAG is not written in row 0" in words


def test_a_plan_says_where_the_channels_that_were_named_have_a_line(simulated: Any, tmp_path: Path) -> None:
    ms = simulated((0, 0, gaussian(1.0)), CONTINUUM)
    settings = {"imsize": 64, "cell": "20arcsec"}
    good = gpucube.plan_cube(ms, tmp_path / "cube", **settings, contsubspw="0:0~20;44~63")
    assert good.line_free == Proposal(contsubspw=(), contsuborder=0, words=()) and "line-free" not in str(good)
    bad = gpucube.plan_cube(ms, tmp_path / "cube", **settings, contsubspw="0:0~26;44~63")
    assert re.search(r"continuum  channels 2[345]~26 of .* stand out, and `contsubspw` takes them as free of", str(bad))
