"""The plan tells beam, noise, gridder and cell before anything is read. The oracle is the run itself, or a direct sum."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore.tables import makecoldesc, maketabdesc
from jobs import SETTINGS, altered, column, image

import gpucube
from gpucube.cli import main
from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.data.selection import select
from gpucube.devices.base import ImagingSettings
from gpucube.errors import GpucubeError
from gpucube.imaging.forecast import forecast
from gpucube.schema.parameters import make_parameters
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry


def plan(vis: Path, folder: Path, **changes: Any) -> gpucube.Plan:
    return gpucube.plan_cube(vis, folder / "cube", **(SETTINGS | changes))


@pytest.fixture(scope="module")
def unflagged_ms(make_ms: Any) -> Path:
    return make_ms(sources=[], flag_rows=0, flag_cells=0, flag_channels="").ms


@pytest.mark.parametrize(
    "changes",
    [
        {"weighting": "natural"},
        {"weighting": "briggs"},
        {"weighting": "uniform"},
        {"weighting": "natural", "uvtaper": "1klambda"},
        {"weighting": "briggs", "stokes": "pseudoI", "phasecenter": "J2000 12h30m30s +30d10m00s"},
        {"weighting": "briggs", "width": 3},
    ],
    ids=str,
)
def test_the_expected_beam_is_that_of_the_run(changes: dict[str, Any], unflagged_ms: Path, tmp_path: Path) -> None:
    changes = {"imsize": 256, "cell": "5arcsec", "start": 5, "nchan": 1} | changes
    expected = plan(unflagged_ms, tmp_path, **changes).forecast.beam
    beam = image(unflagged_ms, tmp_path / "cube", niter=0, **changes).channels[0].beam
    assert expected is not None and beam is not None
    # both fit a Gaussian to pixels of the main lobe, the run on its own grid with seven pixels to a beam
    assert (expected.bmaj / ARCSEC, expected.bmin / ARCSEC) == pytest.approx(
        (beam["bmaj_arcsec"], beam["bmin_arcsec"]), rel=0.02
    )


def test_the_expected_noise_is_that_of_the_weights(unflagged_ms: Path, tmp_path: Path) -> None:
    """The sky is empty. 12 channels of some 500 beams give the noise to 1 %, and a Gaussian's MAD is as good as its rms."""
    ms = unflagged_ms
    for weighting in ("natural", "uniform"):
        expected = plan(ms, tmp_path, weighting=weighting).forecast.noise
        records = image(ms, tmp_path / weighting, niter=0, weighting=weighting).channels
        assert np.median([record.noise for record in records]) == pytest.approx(expected, rel=0.05)


def test_natural_noise_is_one_over_the_root_of_all_weights(tiny_ms: Any, tmp_path: Path) -> None:
    weight = column(tiny_ms.ms, "WEIGHT")[~column(tiny_ms.ms, "FLAG_ROW")]
    of_i = 4 / (1 / weight).sum(axis=1)
    noise = plan(tiny_ms.ms, tmp_path, weighting="natural").forecast.noise
    assert noise == pytest.approx(1 / math.sqrt(of_i.sum(dtype=float)), rel=1e-6)  # weights are float32
    # three channels in one have three times the weight
    wide = plan(tiny_ms.ms, tmp_path, weighting="natural", width=3).forecast.noise
    assert wide == pytest.approx(noise / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(("cell", "gridder"), [("1arcsec", "standard"), ("20arcsec", "wgridder")])
def test_auto_takes_account_of_w_where_a_phase_is_wrong_by_more_than_a_tenth(
    cell: str, gridder: str, tiny_ms: Any, tmp_path: Path
) -> None:
    chosen = plan(tiny_ms.ms, tmp_path, gridder="auto", cell=cell)
    w = np.abs(column(tiny_ms.ms, "UVW")[:, 2]).max() * chosen.axis.frequency.max() / LIGHT_SPEED
    corner = math.sqrt(2) * 32 * chosen.geometry.cell_x
    phase = 2 * math.pi * w * (1 - math.sqrt(1 - corner**2))
    assert (phase > 0.1) == (gridder == "wgridder")
    assert chosen.gridder == gridder
    run = image(tiny_ms.ms, tmp_path / "run", gridder="auto", cell=cell, niter=0, nchan=1)
    assert run.summary["gridder"] == gridder


def test_a_coarse_cell_gives_a_warning_before_the_run_and_the_recommended_one_does_not(
    tiny_ms: Any, tmp_path: Path
) -> None:
    coarse = plan(tiny_ms.ms, tmp_path, cell="40arcsec")
    assert [w for w in coarse.warnings if "is too coarse for the longest baselines" in w] == list(coarse.warnings)
    cell = coarse.forecast.recommended_cell
    assert cell is not None and coarse.forecast.beam is not None
    # two digits, rounded down
    assert 0.9 * coarse.forecast.beam.bmin / 4 < cell < coarse.forecast.beam.bmin / 4
    assert plan(tiny_ms.ms, tmp_path, cell=f"{cell / ARCSEC}arcsec").warnings == ()


def test_a_cell_that_leaves_no_sample_is_refused_before_reading(tiny_ms: Any, tmp_path: Path) -> None:
    with pytest.raises(
        GpucubeError, match=r"all baselines are too long for this `cell`: choose a `cell` of at most [\d.]+ arcsec"
    ):
        plan(tiny_ms.ms, tmp_path, cell="5000arcsec")


def test_a_plan_of_rows_without_weight_is_refused(tiny_ms: Any, tmp_path: Path) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("WEIGHT", np.zeros_like(t.getcol("WEIGHT"))))
    with pytest.raises(GpucubeError, match=r"no data are left: each selected sample .* has no usable weight"):
        plan(ms, tmp_path)


def test_the_plan_speaks_to_astronomers(tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--imsize", "64", "--cell", "20arcsec", "--niter", "9", "--nsigma", "3"]
    assert main(["plan", str(tiny_ms.ms), "--imagename", str(tmp_path / "cube"), *options]) == 0
    said = capsys.readouterr().out
    for words in (
        "SIMLINE: 64 x 64 pixels, 21.3 arcmin x 21.3 arcmin, centred on 187.50000 +30.00000 deg (FK5)",
        "1420.312002MHz to 1420.483877MHz (LSRK), channels of 15.625kHz",
        "velocity   19.79 to -16.49 km/s (LSRK, radio, rest frequency 1420.405752MHz), channels of 3.3 km/s",
        "expected in the middle channel",
        "recommended: at most",
        "mJy/beam expected, assuming weights of 1 / sigma^2",
        "gridder    wgridder",
        "time       very roughly",
    ):
        assert words in said, words


def test_the_plan_refuses_what_the_run_would_refuse(
    tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tiny_ms.ms, tmp_path / "sim", niter=0, nchan=1)
    with pytest.raises(GpucubeError, match=r"sim.image.fits exists: give another `imagename`"):
        gpucube.plan_cube(tiny_ms.ms, tmp_path / "sim", **SETTINGS)
    assert gpucube.plan_cube(tiny_ms.ms, tmp_path / "sim", **SETTINGS, overwrite=True).nchan == 12
    with pytest.raises(GpucubeError, match=r"cannot resume .*nchan"):
        gpucube.plan_cube(tiny_ms.ms, tmp_path / "sim", **SETTINGS, resume=True)
    # an imagename that the user has not chosen is no reason to refuse
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(tiny_ms.ms), "--imsize", "64", "--cell", "20arcsec"]) == 0
    capsys.readouterr()


def test_more_workers_than_cores_give_a_warning(tiny_ms: Any, tmp_path: Path) -> None:
    (warning,) = plan(tiny_ms.ms, tmp_path, workers=4096).warnings
    assert "`workers=4096` is more than the" in warning


@pytest.mark.parametrize("imsize", [4096, 65536])
def test_a_plan_of_a_large_image_takes_little_memory(imsize: int, tiny_ms: Any, tmp_path: Path) -> None:
    """Uniform weights need the density of samples in every uv cell: 8 bytes each, on half a plane."""
    geometry = ImageGeometry(
        nx=imsize,
        ny=imsize,
        cell_x=ARCSEC,
        cell_y=ARCSEC,
        centre=Direction(ra=math.radians(187.5), dec=math.radians(30)),
    )
    selection = select(make_parameters(vis=tiny_ms.ms, imagename=tmp_path / "cube", **SETTINGS))
    tracemalloc.start()
    expected = forecast(selection, ImagingSettings(geometry=geometry, weighting="uniform"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert expected.beam is not None and expected.on_grid
    assert peak < 1.2 * 8 * 4097 * 2049


def test_a_plan_with_weights_of_another_shape_is_refused(tiny_ms: Any, tmp_path: Path) -> None:
    def narrow(main: Any) -> None:
        description = main.getcoldesc("WEIGHT")
        main.removecols("WEIGHT")
        main.addcols(maketabdesc(makecoldesc("WEIGHT", description | {"dataManagerGroup": "Narrow"})))
        main.putcol("WEIGHT", np.ones((main.nrows(), 1), np.float32))

    with pytest.raises(
        GpucubeError, match=r"WEIGHT in row 0 has shape \(1,\); the other columns and subtables say \(2,\)"
    ):
        plan(altered(tiny_ms.ms, tmp_path, narrow), tmp_path)


@pytest.mark.parametrize(("gridder", "told"), [("wgridder", True), ("auto", True), ("standard", False)])
def test_a_major_cycle_that_cannot_be_used_gives_a_warning(
    gridder: str, told: bool, tiny_ms: Any, tmp_path: Path
) -> None:
    warnings = plan(tiny_ms.ms, tmp_path, gridder=gridder, majorcycle="image").warnings
    assert [text.startswith("`majorcycle='image'` is not used") for text in warnings] == [True] * told
