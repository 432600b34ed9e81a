"""The products pb and image.pbcor: what they hold, that they leave the other products alone, and whose beam they are of.

The expected beam is that of `gpucube.sky.primary_beams`, which tests/sky holds against tclean's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from casacore import tables
from events import WhenSafe, interrupt
from jobs import altered, image, payload, planes
from spectral_cube import SpectralCube

import gpucube
from gpucube.cli import main
from gpucube.constants import ARCSEC
from gpucube.data.selection import Selection, select
from gpucube.errors import GpucubeError
from gpucube.execution.tuning import Tuning
from gpucube.schema.parameters import make_parameters
from gpucube.sky.primary_beams import of_dish, of_telescope

WIDE: dict[str, Any] = {"imsize": 128, "niter": 50}  # the beam of 30 arcmin ends within 43 arcmin
BLANK = 2  # the channel of `tiny_ms` that is flagged throughout


def beam_by_hand(result: gpucube.Result, channel: int, limit: float) -> np.ndarray:
    """The beam of the EVLA about the middle of the image."""
    y, x = np.indices((128, 128)) - 64
    frequency = result.channels[channel].frequency_hz
    beam = of_telescope("EVLA", 25.0, frequency)
    assert beam is not None
    power = beam.power(np.hypot(x, y) * 20 * ARCSEC, frequency)
    return np.where(power > limit, power, np.nan)


@pytest.fixture(scope="module")
def corrected(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> gpucube.Result:
    return image(tiny_ms.ms, tmp_path_factory.mktemp("pb") / "cube", pbcor=True, **WIDE)


def test_pb_is_the_beam_of_each_channel_and_pbcor_the_image_over_it(corrected: gpucube.Result) -> None:
    pb, images, over = (planes(corrected, name) for name in ("pb", "image", "image.pbcor"))
    for channel in range(12):
        if channel == BLANK:
            assert np.isnan(pb[channel]).all() and np.isnan(over[channel]).all()
            continue
        assert pb[channel] == pytest.approx(beam_by_hand(corrected, channel, 0.2), abs=1e-5, nan_ok=True)
        assert np.array_equal(over[channel], images[channel] / pb[channel], equal_nan=True)
    assert not np.array_equal(pb[0], pb[11], equal_nan=True), "every channel has its own beam"
    assert np.isfinite(images[0]).all(), "the image is not cut"


def test_other_products_do_not_depend_on_the_beam(corrected: gpucube.Result, tiny_ms: Any, tmp_path: Path) -> None:
    plain = image(tiny_ms.ms, tmp_path / "cube", **WIDE)
    assert set(corrected.products) - set(plain.products) == {"pb", "image.pbcor"}
    of_beam = payload(corrected)
    assert {name: of_beam[name] for name in payload(plain)} == payload(plain)
    assert "pbcor" not in str(fits.getheader(plain.products["image"])["HISTORY"])


@pytest.mark.parametrize("limit", [0.5, -0.5, 0.0])
def test_pblimit_says_where_the_beam_ends_whatever_its_sign(limit: float, tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", products=("pb",), pblimit=limit, **(WIDE | {"niter": 0}))
    assert list(result.products) == ["pb", "summary"]
    pb = planes(result, "pb")
    assert np.nanmin(pb[0]) > abs(limit)
    assert pb[0] == pytest.approx(beam_by_hand(result, 0, abs(limit)), abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("products", ["image,image.pbcor", "image.pbcor"])
def test_a_common_beam_is_corrected_too(products: str, tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", products=products, restoringbeam="common", **WIDE)
    whole = image(tiny_ms.ms, tmp_path / "whole", products="image", restoringbeam="common", **WIDE)
    expected = planes(whole, "image")[0] / beam_by_hand(result, 0, 0.2)
    assert planes(result, "image.pbcor")[0] == pytest.approx(expected, rel=1e-4, abs=1e-7, nan_ok=True)
    header = fits.getheader(result.products["image.pbcor"])
    assert header["BMAJ"] == fits.getheader(whole.products["image"])["BMAJ"] > 0


def test_a_given_beam_is_in_the_header_of_the_corrected_image(tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", restoringbeam="120arcsec", pbcor=True, **WIDE)
    assert fits.getheader(result.products["image.pbcor"])["BMAJ"] == pytest.approx(120 / 3600)


def test_programs_open_the_corrected_cube(corrected: gpucube.Result) -> None:
    cube = SpectralCube.read(corrected.products["image.pbcor"])
    assert cube.unit == "Jy / beam" and len(cube.beams) == 12
    header = fits.getheader(corrected.products["pb"])
    assert header["BUNIT"] == ""
    comment = " ".join(header["COMMENT"])
    assert "EVLA" in comment and "centred on 187.500000 +30.000000 deg" in comment and "blank below 0.2" in comment


@pytest.mark.parametrize("beam", ["", "common"])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(beam: str, tiny_ms: Any, tmp_path: Path) -> None:
    settings = WIDE | {"pbcor": True, "restoringbeam": beam}
    undisturbed = image(tiny_ms.ms, tmp_path / "whole", workers=1, **settings)
    with pytest.raises(KeyboardInterrupt):
        image(
            tiny_ms.ms,
            tmp_path / "cube",
            workers=1,
            tuning=Tuning(seconds_between_syncs=0.0),
            observer=WhenSafe(5, interrupt),
            **settings,
        )
    resumed = image(tiny_ms.ms, tmp_path / "cube", resume=True, chunksize=3, **settings)
    assert resumed.summary["resumed_channels"] >= 5
    assert payload(resumed) == payload(undisturbed)


# Whose beam


def chosen(ms: Path, **parameters: Any) -> Selection:
    return select(
        make_parameters(vis=ms, imagename="unused", **({"pbcor": True, "imsize": 64, "cell": "60arcsec"} | parameters))
    )


def put(column: str, values: Any) -> Any:
    return lambda t: t.putcol(column, values)


def beam_name(selection: Selection) -> str:
    assert selection.primary_beam is not None
    return selection.primary_beam.beam.name


def dishes(ms: Path, folder: Path, diameters: np.ndarray, telescope: str = "ALMA") -> Path:
    copy = altered(ms, folder, put("DISH_DIAMETER", diameters), "ANTENNA")
    with tables.table(str(copy / "OBSERVATION"), readonly=False, ack=False) as t:
        t.putcol("TELESCOPE_NAME", [telescope] * t.nrows())
    return copy


def test_the_diameter_tells_the_dishes_of_alma_apart(tiny_ms: Any, tmp_path: Path) -> None:
    ms = dishes(tiny_ms.ms, tmp_path, np.full(10, 7.0))
    assert "7 m" in beam_name(chosen(ms))
    assert "12 m" in beam_name(chosen(ms, dish_diameter="12m"))
    assert beam_name(chosen(ms, dish_diameter="10.4m")) == of_dish(10.4).name


def test_dishes_of_two_sizes_are_refused_unless_antennas_of_one_are_selected(tiny_ms: Any, tmp_path: Path) -> None:
    ms = dishes(tiny_ms.ms, tmp_path, np.where(np.arange(10) < 4, 7.0, 12.0))
    with pytest.raises(GpucubeError, match=r"dishes of 7 and 12 m.*`antenna`, or give `dish_diameter`"):
        chosen(ms)
    assert "7 m" in beam_name(chosen(ms, antenna="0~3&"))
    assert "12 m" in beam_name(chosen(ms, antenna="4~9&"))
    assert chosen(ms, pbcor=False).primary_beam is None, "nobody asks for the beam"


def test_an_unknown_telescope_leads_to_dish_diameter(tiny_ms: Any, tmp_path: Path) -> None:
    ms = dishes(tiny_ms.ms, tmp_path, np.full(10, 15.0), "NOWHERE")
    with pytest.raises(GpucubeError, match="telescope NOWHERE, whose dishes are 15 m wide: give `dish_diameter`"):
        chosen(ms)
    assert beam_name(chosen(ms, dish_diameter=15)) == of_dish(15.0).name


def test_alma_without_diameters_is_not_guessed(tiny_ms: Any, tmp_path: Path) -> None:
    ms = dishes(tiny_ms.ms, tmp_path, np.zeros(10))
    with pytest.raises(GpucubeError, match="no DISH_DIAMETER: give `dish_diameter`"):
        chosen(ms)


def test_the_beam_stays_with_the_field_when_the_image_moves(tiny_ms: Any) -> None:
    selection = chosen(tiny_ms.ms, phasecenter="J2000 187.7deg 30.1deg")
    assert selection.primary_beam is not None
    pointing = selection.primary_beam.pointing
    assert np.degrees([pointing.ra, pointing.dec]) == pytest.approx([187.5, 30.0])
    plane = selection.primary_beam.plane(1.42e9)
    y, x = np.unravel_index(np.nanargmax(plane), plane.shape)
    east, north = -0.2 * 60 * math.cos(math.radians(30.05)), -0.1 * 60  # of the image, arcmin
    assert (x, y) == (round(32 - east), round(32 + north))


def test_the_beam_is_where_the_antennas_point_after_phaseshift(tiny_ms: Any, tmp_path: Path) -> None:
    """CASA's phaseshift changes PHASE_DIR and leaves DELAY_DIR and REFERENCE_DIR."""
    moved = np.radians([[[187.5, 30.2]]])
    ms = altered(tiny_ms.ms, tmp_path, put("PHASE_DIR", moved), "FIELD")
    selection = chosen(ms)
    assert selection.primary_beam is not None
    assert math.degrees(selection.primary_beam.pointing.dec) == pytest.approx(30.0)
    assert math.degrees(selection.geometry.centre.dec) == pytest.approx(30.2)
    assert any("12 arcmin away from its DELAY_DIR and REFERENCE_DIR" in text for text in selection.warnings)


def test_two_pointings_are_refused(tiny_ms: Any, tmp_path: Path) -> None:
    def move(t: tables.table) -> None:
        for column in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
            t.putcol(column, np.radians([[[187.5, 30.1]]]))

    other = altered(tiny_ms.ms, tmp_path, move, "FIELD")
    parameters = make_parameters(
        vis=[tiny_ms.ms, other],
        imagename="unused",
        pbcor=True,
        imsize=64,
        cell="60arcsec",
        phasecenter="J2000 187.5deg 30deg",
    )
    with pytest.raises(GpucubeError, match="point in several directions, up to 6 arcmin apart"):
        select(parameters)


def test_parameters_of_the_beam_without_a_beam_give_a_warning() -> None:
    given = make_parameters(vis="a.ms", imagename="a", pblimit=0.1, dish_diameter=25)
    assert [text for text in given.warnings if "primary beam" in text] == [
        "`pblimit=0.1` is not used, because no primary beam is made: give `pbcor=True`",
        "`dish_diameter=25.0` is not used, because no primary beam is made: give `pbcor=True`",
    ]
    assert not make_parameters(vis="a.ms", imagename="a", pblimit=-0.1).warnings


def test_the_command_line_knows_the_beam(tiny_ms: Any, tmp_path: Path, corrected: gpucube.Result) -> None:
    out = tmp_path / "line"
    options = "--imsize 128 --cell 20arcsec --niter 50 --nsigma 3 --weighting briggs --gridder standard --quiet --pbcor"
    assert main(["image", str(tiny_ms.ms), "--imagename", str(out), *options.split()]) == 0
    for product in ("pb", "image.pbcor"):
        assert fits.getdata(f"{out}.{product}.fits").tobytes() == fits.getdata(corrected.products[product]).tobytes()
