"""`gpucube.tclean`: calls that were written for tclean 6.7 mean the same here, or say in one line what is different.

The oracles are tclean's documentation (its parameters and defaults) and `gpucube.image_cube` with the same meaning.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY

import gpucube
from gpucube.schema.parameters import make_parameters
from gpucube.schema.tclean import as_tclean_takes

TCLEAN = """vis selectdata field spw timerange uvrange antenna scan observation intent datacolumn imagename imsize cell
phasecenter stokes projection startmodel specmode reffreq nchan start width outframe veltype restfreq interpolation
perchanweightdensity gridder facets psfphasecenter wprojplanes vptable mosweight aterm psterm wbawp conjbeams cfcache
usepointing computepastep rotatepastep pointingoffsetsigdev pblimit normtype deconvolver scales nterms smallscalebias
fusedthreshold largestscale restoration restoringbeam pbcor outlierfile weighting robust noise npixels uvtaper niter gain
threshold nsigma cycleniter cyclefactor minpsffraction maxpsffraction interactive nmajor fullsummary usemask mask pbmask
sidelobethreshold noisethreshold lownoisethreshold negativethreshold smoothfactor minbeamfrac cutthreshold growiterations
dogrowprune minpercentchange verbose fastnoise restart savemodel calcres calcpsf psfcutoff parallel"""
"""The parameters of tclean 6.7."""

DEFAULTS = {
    "specmode": "mfs", "outframe": "LSRK", "gridder": "standard", "datacolumn": "corrected", "facets": 1, "robust": 0.5,
    "psfcutoff": 0.35, "cyclefactor": 1.0, "minpsffraction": 0.05, "maxpsffraction": 0.8, "usemask": "user",
    "growiterations": 75, "fastnoise": True, "savemodel": "none", "weighting": "natural", "niter": 0, "nmajor": -1,
}  # fmt: skip
"""Some of the defaults of tclean 6.7."""

CALL: dict[str, Any] = {"specmode": "cube", "imsize": [48, 48], "cell": ["20arcsec"], "niter": 20, "workers": 1}


def tclean(ms: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return gpucube.tclean(ms, imagename=out, **(CALL | {"quiet": True} | changes))


def warned(caught: pytest.WarningsRecorder) -> list[str]:
    return [str(warning.message) for warning in caught]


def test_the_signature_has_every_parameter_of_tclean_with_its_default() -> None:
    found = inspect.signature(gpucube.tclean).parameters
    assert set(TCLEAN.split()) <= set(found)
    assert {name: found[name].default for name in DEFAULTS} == DEFAULTS


@pytest.mark.filterwarnings("ignore")
def test_a_call_with_every_default_is_the_call_without_them(tiny_ms: Any, tmp_path: Path) -> None:
    named = {
        name: parameter.default
        for name, parameter in inspect.signature(gpucube.tclean).parameters.items()
        if parameter.default is not inspect.Parameter.empty and name in TCLEAN.split()
    }
    whole, short = tclean(tiny_ms.ms, tmp_path / "a", **(named | CALL)), tclean(tiny_ms.ms, tmp_path / "b")
    assert np.array_equal(whole["result"].data(), short["result"].data(), equal_nan=True)


@pytest.mark.filterwarnings("ignore")
def test_the_cube_is_that_of_image_cube_with_the_defaults_of_tclean(tiny_ms: Any, tmp_path: Path) -> None:
    ours = gpucube.image_cube(
        tiny_ms.ms, tmp_path / "ours", imsize=48, cell="20arcsec", niter=20, workers=1, quiet=True,
        outframe="LSRK", gridder="standard",
    )  # fmt: skip
    theirs = tclean(tiny_ms.ms, tmp_path / "theirs")["result"]
    assert np.array_equal(ours.data(), theirs.data(), equal_nan=True)


@pytest.mark.filterwarnings("ignore")  # as above, and below: what is said of niter
@pytest.mark.parametrize(
    "changes",
    [
        {"cell": "20"},
        {"cell": ["20", "20"]},
        {"mask": None, "startmodel": None, "threshold": None, "restfreq": None},
        {
            "mask": "",
            "startmodel": "",
            "threshold": "",
            "restfreq": [],
            "uvtaper": [""],
            "start": "",
            "width": "",
            "veltype": "",
            "interpolation": "",
        },
        {"interactive": False, "savemodel": "none", "parallel": True, "restart": True, "verbose": True},
        {"datacolumn": "corrected", "cycleniter": 0, "chanchunks": -1, "cube_chunksize": 3},
        {
            "selectdata": False,
            "uvrange": "<1m",
            "datacolumn": "observed",
            "nworkers": 1,
            "cell": [{"unit": "deg", "value": 20 / 3600}],
        },
        {"phasecenter": 0, "field": ("0",), "spw": [], "threshold": {"unit": "Jy", "value": 0.0}, "startmodel": [""]},
    ],
    ids=["number as text", "numbers as text", "None", "empty", "harmless", "other", "ignored", "lists and records"],
)
def test_what_tclean_takes_for_the_same_call_gives_the_same_cube(
    changes: dict[str, Any], tiny_ms: Any, tmp_path: Path
) -> None:
    plain, changed = tclean(tiny_ms.ms, tmp_path / "a"), tclean(tiny_ms.ms, tmp_path / "b", **changes)
    assert np.array_equal(plain["result"].data(), changed["result"].data(), equal_nan=True)


LSRK = {"m0": {"unit": "Hz", "value": 1.4201e9}, "refer": "LSRK", "type": "frequency"}
OPTICAL = {"m0": {"unit": "m/s", "value": 2e4}, "refer": "OPTICAL", "type": "doppler"}
BARY = {"m0": {"unit": "m/s", "value": 2e4}, "refer": "BARY", "type": "radialvelocity"}
POLE = {
    "m0": {"unit": "rad", "value": -1.5}, "m1": {"unit": "rad", "value": 0.5}, "refer": "J2000", "type": "direction"
}  # fmt: skip


@pytest.mark.parametrize(
    ("given", "as_text", "said"),
    [
        ({"start": LSRK}, {"start": "1.4201GHz", "outframe": "LSRK"}, []),
        (
            {"start": BARY, "outframe": "TOPO"},
            {"start": "20km/s", "outframe": "BARY"},
            ["`outframe='TOPO'` is not used"],
        ),
        ({"start": OPTICAL, "width": "2km/s"}, {"start": "20km/s", "width": "2km/s", "veltype": "optical"}, []),
        ({"width": {"unit": "kHz", "value": -20.0}}, {"width": "-20kHz"}, []),
        ({"phasecenter": POLE}, {"phasecenter": "J2000 -1.5rad 0.5rad"}, []),
    ],
    ids=["frequency", "velocity", "doppler", "quantity", "direction"],
)
def test_measures_of_casa_are_what_their_text_is(
    given: dict[str, Any], as_text: dict[str, Any], said: list[str]
) -> None:
    """A frame in a measure counts for the cube, as in tclean's code (SynthesisParamsImage)."""
    call = {"vis": "a.ms", "imagename": "a", "specmode": "cube"}
    defaults = {"outframe": "LSRK", "niter": 0}
    measures, notes = as_tclean_takes(call | given, defaults)
    text, _ = as_tclean_takes(call | as_text, defaults)
    assert make_parameters(**measures) == make_parameters(**text)
    assert [line[: len(start)] for line, start in zip(notes, said, strict=True)] == said


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"specmode": None}, "`specmode='mfs'` is not available: gpucube makes cubes only; use `specmode='cube'`"),
        ({"gridder": "mosaic"}, "`gridder='mosaic'` is not available: gpucube makes no mosaics"),
        ({"savemodel": "modelcolumn"}, "`savemodel='modelcolumn'` is not available: gpucube does not write to Measure"),
        ({"imagermode": "csclean"}, "unknown parameter 'imagermode': did you mean 'gridder'?"),
        ({"minpb": 0.1}, "unknown parameter 'minpb': did you mean 'pblimit'?"),
        ({"nitr": 3}, "unknown parameter 'nitr': did you mean 'niter'?"),
        ({"mode": "velocity", "specmode": None}, "unknown parameter 'mode': did you mean 'specmode'?"),
        ({"facets": 2}, "`facets=2` is not available: `gridder='wgridder'` takes the w term into account"),
        ({"phasecenter": 9}, "`phasecenter=9`: "),
        ({"calcres": False, "calcpsf": False}, "`calcres=False` needs an earlier run called "),
    ],
)
def test_what_would_change_the_result_is_refused_in_one_line(
    changes: dict[str, Any], line: str, tiny_ms: Any, tmp_path: Path
) -> None:
    with pytest.raises(gpucube.GpucubeError) as caught:
        tclean(tiny_ms.ms, tmp_path / "cube", **changes)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


CALLS = json.loads((REPOSITORY / "bench/peers/calls.json").read_text())


@pytest.mark.parametrize("call", CALLS, ids=[call["kind"] for call in CALLS])
def test_calls_from_scripts_are_taken_or_refused_by_the_parameter_that_cannot_be(call: dict[str, Any]) -> None:
    """`bench/peers/run_calls.py` runs them on data of their kind."""
    defaults = {name: given.default for name, given in inspect.signature(gpucube.tclean).parameters.items()}
    defaults = {name: value for name, value in defaults.items() if value is not inspect.Parameter.empty}
    values, _ = as_tclean_takes(call["parameters"] | {"imagename": "out"}, defaults)
    if "refused" not in call:
        assert make_parameters(**values).specmode in ("cube", "cubedata")
        return
    with pytest.raises(gpucube.GpucubeError, match=f"^`{call['refused']}=.* is not available: ") as caught:
        make_parameters(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_a_clean_that_asks_for_no_new_residual_continues_as_with_one(tiny_ms: Any, tmp_path: Path) -> None:
    for name in "ab":
        tclean(tiny_ms.ms, tmp_path / name, niter=5)
    plain = tclean(tiny_ms.ms, tmp_path / "a")
    without = tclean(tiny_ms.ms, tmp_path / "b", calcres=False, calcpsf=False)
    assert np.array_equal(plain["result"].data(), without["result"].data(), equal_nan=True)


def test_a_warning_says_that_niter_counts_for_each_channel(tiny_ms: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning) as caught:
        result = tclean(tiny_ms.ms, tmp_path / "cube", nsigma=3)["result"]
    line = "`niter=20` counts for each channel here; tclean counts over all channels"
    assert line in warned(caught) and line in result.summary["warnings"]


def test_interactive_without_a_mask_makes_the_dirty_cube_and_says_how_to_draw_one(tiny_ms: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="in CARTA") as caught:
        returned = tclean(tiny_ms.ms, tmp_path / "cube", interactive=True)
    assert returned["iterdone"] == 0
    assert sum("give this file as `mask`" in line for line in warned(caught)) == 1


def test_interactive_with_a_mask_cleans_inside_it(tiny_ms: Any, tmp_path: Path) -> None:
    mask = np.zeros((48, 48), bool)
    mask[20:28, 20:28] = True
    with pytest.warns(UserWarning) as caught:
        returned = tclean(tiny_ms.ms, tmp_path / "cube", interactive=True, mask=mask)
    assert any("the mask stays as it is" in line for line in warned(caught))
    model = np.nan_to_num(returned["result"].data("model"))
    assert returned["iterdone"] > 0 and model.any()
    assert not model[..., ~mask].any()


@pytest.mark.filterwarnings("ignore")
def test_what_is_returned_adds_up_over_the_planes(tiny_ms: Any, tmp_path: Path) -> None:
    returned = tclean(tiny_ms.ms, tmp_path / "cube", stokes="I", threshold="1mJy")
    channels = returned["result"].channels
    assert returned["iterdone"] == sum(channel.iterations for channel in channels)
    assert returned["nmajordone"] == 1 + max(channel.major_cycles for channel in channels)
    assert returned["stopcode"] == 1 and returned["stopDescription"] == "iteration limit"  # some ended so, none worse
    assert returned["niter"] == 20 and returned["threshold"] == pytest.approx(1e-3)
    for channel in channels:
        plane = returned["summaryminor"][0][channel.channel][0]
        assert plane["iterDone"] == [channel.iterations] and plane["peakRes"] == [channel.peak_residual]
        assert plane["stopCode"] == [channel.stop_code]
