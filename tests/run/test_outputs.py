"""The products sumwt and startmodel, and the switches restoration, calcres and calcpsf, which tclean has too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from events import WhenSafe, interrupt
from jobs import image, payload, planes

import gpucube
from gpucube.errors import GpucubeError
from gpucube.execution.tuning import Tuning
from gpucube.schema.parameters import make_parameters

BLANK = 2  # the channel of `tiny_ms` that is flagged throughout
MADE: dict[str, Any] = {"products": ("model", "residual", "sumwt", "startmodel"), "niter": 30}


@pytest.fixture(scope="module")
def four(make_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> gpucube.Result:
    """I and V of all four correlations."""
    return image(make_ms(npol=4).ms, tmp_path_factory.mktemp("four") / "cube", stokes="IV", **MADE)


def test_sumwt_is_the_sum_of_weights_of_every_plane(four: gpucube.Result) -> None:
    """tclean's .sumwt has one pixel for each plane too, 0 without data."""
    sums = four.data("sumwt")
    assert sums.shape == (2, 12, 1, 1)
    for record in four.channels:
        expected = [plane.sum_weights for plane in record.planes.values()]
        assert sums[:, record.channel, 0, 0] == pytest.approx(expected, rel=1e-7)  # float32
    assert (sums[:, BLANK] == 0).all() and (np.delete(sums, BLANK, axis=1) > 0).all()


def test_startmodel_is_the_model_with_casas_axes_and_zeros_for_nothing(four: gpucube.Result) -> None:
    model, start = four.data("model"), four.data("startmodel")
    assert start.shape == (12, 2, 64, 64)
    assert np.array_equal(start, np.nan_to_num(model).transpose(1, 0, 2, 3))
    assert np.isnan(model[:, BLANK]).all() and model[0, 5].any()
    header, other = (fits.getheader(four.products[name]) for name in ("startmodel", "model"))
    assert [header[f"CTYPE{n}"] for n in (1, 2, 3, 4)] == ["RA---SIN", "DEC--SIN", "STOKES", "FREQ"]
    for key in ("CRVAL", "CDELT", "CRPIX", "CUNIT"):
        assert (header[f"{key}3"], header[f"{key}4"]) == (other[f"{key}4"], other[f"{key}3"])
    assert header["BUNIT"] == "Jy/pixel"


def test_a_run_that_was_cut_off_ends_with_the_same_sums_and_models(tiny_ms: Any, tmp_path: Path) -> None:
    undisturbed = image(tiny_ms.ms, tmp_path / "whole", **MADE)
    with pytest.raises(KeyboardInterrupt):
        at_once, observer = Tuning(seconds_between_syncs=0.0), WhenSafe(5, interrupt)
        image(tiny_ms.ms, tmp_path / "cube", workers=1, tuning=at_once, observer=observer, **MADE)
    resumed = image(tiny_ms.ms, tmp_path / "cube", resume=True, **MADE)
    assert resumed.summary["resumed_channels"] >= 5
    assert payload(resumed) == payload(undisturbed)


def test_restoration_false_makes_no_image_and_changes_nothing_else(tiny_ms: Any, tmp_path: Path) -> None:
    plain = image(tiny_ms.ms, tmp_path / "plain", products=("image", "residual", "model"), niter=30)
    without = image(
        tiny_ms.ms, tmp_path / "without", products=("image", "residual", "model"), niter=30, restoration=False
    )
    assert set(without.products) == {"residual", "model", "summary"}
    for name in ("residual", "model"):
        assert planes(without, name).tobytes() == planes(plain, name).tobytes()


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"restoration": False}, ("residual", "model")),
        ({"restoration": False, "pbcor": True}, ("residual", "model", "pb")),
        ({"calcres": False}, ("psf",)),
        ({"calcres": False, "products": "image,sumwt,pb,mask"}, ("psf", "mask", "pb", "sumwt")),
        ({"calcpsf": False}, ("image", "residual", "model")),
        ({"calcpsf": False, "products": "psf,dirty"}, ("dirty",)),
    ],
)
def test_switches_decide_which_products_are_made(given: dict[str, Any], made: tuple[str, ...]) -> None:
    assert make_parameters(vis="a.ms", imagename="a", niter=0, **given).cubes == made


@pytest.mark.parametrize(
    "switches", [{"calcres": False, "calcpsf": False}, {"restoration": False, "products": "image"}]
)
def test_switches_that_leave_nothing_are_refused(switches: dict[str, Any]) -> None:
    with pytest.raises(
        GpucubeError, match="no product is left: leave out `restoration`, `calcres` and `calcpsf`, or name"
    ):
        make_parameters(vis="a.ms", imagename="a", niter=0, **switches)


@pytest.mark.parametrize("name", ["calcres", "calcpsf"])
def test_a_deconvolution_needs_residual_and_psf(name: str) -> None:
    with pytest.raises(GpucubeError, match=f"`{name}=False` needs `niter=0`, because cleaning needs residual and PSF"):
        make_parameters(vis="a.ms", imagename="a", niter=10, nsigma=3, **{name: False})


def test_a_correction_of_no_image_gives_a_warning() -> None:
    given = make_parameters(vis="a.ms", imagename="a", restoration=False, pbcor=True)
    assert "`pbcor=True` corrects no image, because `restoration=False` makes none" in given.warnings
