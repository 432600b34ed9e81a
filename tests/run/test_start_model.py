"""Cleaning that starts from a model: of an earlier run, on other pixels and channels, and in the place of that run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

import gpucube
from gpucube.errors import Interrupted
from gpucube.simulate import SimulationParameters, simulate_ms

SIZE, CELL, NCHAN = 64, 20.0, 4
SKY = [(1e-4, 2e-4, [0.0, 1.0, 2.0, 1.0]), (-8e-4, 3e-4, [0.5, 0.5, 0.5, 0.5])]


@pytest.fixture(scope="module")
def ms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("start") / "points.ms"
    simulate_ms(
        SimulationParameters(out=out, array="vla-d", antennas=12, ntime=20, nchan=NCHAN, noise=0.05, flag_channels=[]),
        SKY,
    )
    return out


def image(ms: Path, imagename: Path, **changes: Any) -> gpucube.Result:
    return jobs.image(
        ms, imagename, **({"imsize": SIZE, "cell": f"{CELL}arcsec", "niter": 2000, "nsigma": 3} | changes)
    )


def write_model(path: Path, like: str, values: np.ndarray, **cards: Any) -> Path:
    header = fits.getheader(like)
    header.update(cards)
    fits.writeto(path, values.astype(np.float32), header)
    return path


@pytest.mark.parametrize("gridder", ["standard", "wgridder"])
def test_the_residual_of_a_given_model_is_exact(gridder, ms, tmp_path):
    """Without iterations the products are those with which the earlier run ended, to the accuracy of the major cycle."""
    first = image(ms, tmp_path / "first", gridder=gridder)
    again = image(ms, tmp_path / "again", gridder=gridder, niter=0, startmodel=first.products["model"])
    assert jobs.planes(again, "model") == pytest.approx(jobs.planes(first, "model"), abs=0)
    peak = float(np.abs(jobs.planes(first, "image")).max())
    for product in ("residual", "image"):
        assert jobs.planes(again, product) == pytest.approx(jobs.planes(first, product), abs=1e-4 * peak)
    assert [r.iterations for r in again.channels] == [0] * NCHAN
    assert [r.model_flux for r in again.channels] == pytest.approx([r.model_flux for r in first.channels])


def test_a_clean_in_two_steps_ends_where_one_deep_clean_ends(ms, tmp_path):
    deep = image(ms, tmp_path / "deep", nsigma=3)
    shallow = image(ms, tmp_path / "two", nsigma=20)
    two = image(ms, tmp_path / "two", nsigma=3, restart=True)
    noise = np.array([r.noise for r in deep.channels])
    for of_two, of_deep, of_shallow in zip(two.channels, deep.channels, shallow.channels, strict=True):
        assert of_two.stop_reason == of_deep.stop_reason
        assert of_two.iterations < of_deep.iterations, "the components of the first step are not found again"
        assert of_two.model_flux == pytest.approx(of_deep.model_flux, abs=3 * of_deep.noise)
        assert of_two.peak_residual < of_shallow.peak_residual
    # both are clean to three sigma; where they differ, both are within it
    difference = np.abs(jobs.planes(two, "image") - jobs.planes(deep, "image")).max(axis=(1, 2))
    assert np.all(difference < 3 * noise)
    assert not (tmp_path / "two.earlier-model.fits").exists()


@pytest.mark.parametrize("how", [{}, {"deconvolver": "multiscale", "scales": [0, 4]}], ids=["hogbom", "multiscale"])
def test_a_clean_that_is_split_after_a_major_cycle_makes_the_same_cube(how, ms, tmp_path):
    """The cycles are the same, and so is everything, to the accuracy with which the residual is computed."""
    deep = image(ms, tmp_path / "deep", **how)
    image(ms, tmp_path / "two", nmajor=1, **how)
    two = image(ms, tmp_path / "two", restart=True, **how)
    peak = float(np.abs(jobs.planes(deep, "image")).max())
    for product in ("image", "residual", "model"):
        assert jobs.planes(two, product) == pytest.approx(jobs.planes(deep, product), abs=1e-4 * peak)
    assert [r.major_cycles + 1 for r in two.channels] == [r.major_cycles for r in deep.channels]


def test_an_unchanged_model_stays_as_it_is(ms, tmp_path):
    """A run that goes on although it was clean: nothing is left to do, and no bit of the model changes."""
    first = image(ms, tmp_path / "x")
    before = jobs.planes(first, "model").copy()
    again = image(ms, tmp_path / "x", restart=True)
    assert np.array_equal(jobs.planes(again, "model"), before)
    assert [r.iterations for r in again.channels] == [0] * NCHAN


def test_psf_residual_and_clean_may_be_three_calls(ms, tmp_path):
    """As tclean is called by programs that look at the PSF first."""
    image(ms, tmp_path / "x", niter=0, calcres=False)
    image(ms, tmp_path / "x", niter=0, calcpsf=False, restart=True)
    steps = image(ms, tmp_path / "x", calcres=False, calcpsf=False, restart=True)
    at_once = image(ms, tmp_path / "at-once")
    assert np.array_equal(jobs.planes(steps, "model"), jobs.planes(at_once, "model"))


def test_restart_without_an_earlier_run_begins_anew(ms, tmp_path):
    assert jobs.payload(image(ms, tmp_path / "a")) == jobs.payload(image(ms, tmp_path / "b", restart=True))


def test_another_mask_goes_on_where_the_first_did_not_clean(ms, tmp_path):
    mask = np.zeros((SIZE, SIZE))
    # the second source lies at l = -8e-4, 8 pixels to the right of the centre
    mask[:, : SIZE // 2] = 1
    fits.writeto(tmp_path / "left.fits", mask)
    left = image(ms, tmp_path / "x", mask=tmp_path / "left.fits")
    assert left.channels[0].model_flux < 0.2, "its sidelobes are all that the mask shows"
    both = image(ms, tmp_path / "x", restart=True)
    assert both.channels[0].model_flux == pytest.approx(0.5, abs=0.05)


def test_automatic_masks_go_on_from_those_that_are_there(ms, tmp_path):
    """The residual of a shallow clean is below the thresholds of a new mask, but not clean."""
    auto = {"usemask": "auto-multithresh", "products": ("image", "residual", "model")}
    deep = image(ms, tmp_path / "deep", nsigma=2, **auto)
    shallow = image(ms, tmp_path / "two", nsigma=15, **auto)
    before = jobs.planes(shallow, "mask") > 0
    two = image(ms, tmp_path / "two", nsigma=2, restart=True, **auto)
    assert np.all(jobs.planes(two, "mask")[before] == 1)
    for last, once in zip(two.channels, deep.channels, strict=True):
        assert last.model_flux == pytest.approx(once.model_flux, abs=3 * once.noise)
    assert not (tmp_path / "two.earlier-mask.fits").exists()
    mask = jobs.planes(two, "mask") > 0
    with pytest.warns(UserWarning, match=r"covers 4096 of the image's 5184 pixels"):
        wider = image(ms, tmp_path / "two", nsigma=2, restart=True, imsize=SIZE + 8, **auto)
    assert np.all(jobs.planes(wider, "mask")[:, 4:-4, 4:-4][mask] == 1)


def test_automatic_masks_do_not_begin_with_the_whole_image(ms, tmp_path):
    """The mask of a run without one is 1 everywhere."""
    image(ms, tmp_path / "x", niter=0, products=("image", "model", "mask"))
    made = jobs.planes(image(ms, tmp_path / "x", restart=True, usemask="auto-multithresh"), "mask")
    assert 0 < made.mean() < 0.9


def test_restarts_on_other_pixels_place_each_model_anew(ms, tmp_path):
    """In one process the earlier model and mask of every step have the same names; copies have others."""
    auto = {"usemask": "auto-multithresh"}
    image(ms, tmp_path / "x", **auto)
    cells = (15, 24, 15, 20, 15)  # 15 from 20, from 24 and from 20 again
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the others are outside the mask")
        for number, cell in enumerate(cells):
            for name in ("model", "mask"):
                (tmp_path / f"{number}.{name}.fits").write_bytes((tmp_path / f"x.{name}.fits").read_bytes())
            if cell == 20:  # begun anew: the model is not interpolated in between
                image(ms, tmp_path / "x", overwrite=True, **auto)
                continue
            chained = image(ms, tmp_path / "x", restart=True, cell=f"{cell}arcsec", niter=0, **auto)
            for name in ("model", "mask"):
                np.save(tmp_path / f"{number}.{name}", jobs.planes(chained, name))
        for number, cell in enumerate(cells):
            if cell == 20:
                continue
            begun = {"startmodel": tmp_path / f"{number}.model.fits", "mask": tmp_path / f"{number}.mask.fits"}
            other = image(ms, tmp_path / f"other-{number}", cell=f"{cell}arcsec", niter=0, **auto, **begun)
            assert jobs.planes(other, "model").any()
            for name in ("model", "mask"):
                assert np.array_equal(np.load(tmp_path / f"{number}.{name}.npy"), jobs.planes(other, name)), number


def test_the_automatic_mask_of_one_channel_goes_to_that_channel_only(ms, tmp_path):
    auto = {"usemask": "auto-multithresh", "niter": 0, "noisethreshold": 1e4, "sidelobethreshold": 1e4}
    first = image(ms, tmp_path / "x", start=2, nchan=1, usemask="auto-multithresh")
    before = jobs.planes(first, "mask")[0] > 0
    assert before.any()
    with pytest.warns(
        UserWarning, match=r"earlier-mask\.fits covers 1 of the cube's 4 channels \(2\): the others begin"
    ):
        made = jobs.planes(image(ms, tmp_path / "x", restart=True, **auto), "mask") > 0
    assert np.array_equal(made[2], before)
    assert not made[[0, 1, 3]].any()


def test_automatic_masks_of_several_stokes_parameters_go_on_each_from_its_own(ms, tmp_path):
    auto = {"usemask": "auto-multithresh", "stokes": "IV"}
    before = fits.getdata(image(ms, tmp_path / "x", nsigma=15, **auto).products["mask"])
    again = fits.getdata(image(ms, tmp_path / "x", niter=0, restart=True, **auto).products["mask"])
    assert before[0].any() and not before[1].any(), "the sources are not polarized"
    assert np.all(again[0][before[0] > 0] == 1) and not again[1].any()


def test_a_mask_that_is_not_given_again_is_named(ms, tmp_path):
    image(ms, tmp_path / "x", mask="circle[[32pix, 32pix], 5pix]")
    with pytest.warns(UserWarning, match=r"cleaned inside `mask='circle\[.+, this one is not: give `mask` again"):
        image(ms, tmp_path / "x", restart=True)


def test_a_restart_that_fails_gives_the_model_its_name_back_and_can_be_repeated(ms, tmp_path):
    auto = {"usemask": "auto-multithresh"}
    first = image(ms, tmp_path / "x", nsigma=20, **auto)
    image(ms, tmp_path / "usual", nsigma=20, **auto)
    before = Path(first.products["model"]).read_bytes()

    from gpucube import run

    class Stops(run.Observer):
        def stage(self, name: str) -> None:
            if name == "imaging":
                raise gpucube.GpucubeError("stopped on purpose")

    with pytest.raises(gpucube.GpucubeError, match="stopped on purpose"):
        image(ms, tmp_path / "x", restart=True, observer=Stops(), **auto)
    assert Path(first.products["model"]).read_bytes() == before
    assert not list(tmp_path.glob("x.earlier-*"))
    again = image(ms, tmp_path / "x", restart=True, **auto)
    assert jobs.payload(again) == jobs.payload(image(ms, tmp_path / "usual", restart=True, **auto))
    assert not list(tmp_path.glob("x.earlier-*"))


@pytest.mark.parametrize("usemask", ["user", "auto-multithresh"])
def test_a_restart_that_is_cut_off_is_resumed_with_the_same_bits(usemask, ms, tmp_path):
    from gpucube import run
    from gpucube.execution.tuning import Tuning

    image(ms, tmp_path / "whole", nsigma=20, usemask=usemask)
    whole = image(ms, tmp_path / "whole", nsigma=3, restart=True, usemask=usemask)
    image(ms, tmp_path / "cut", nsigma=20, usemask=usemask)

    class Stops(run.Observer):
        def safe(self, records: Any) -> None:
            if records:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        image(
            ms,
            tmp_path / "cut",
            nsigma=3,
            usemask=usemask,
            restart=True,
            workers=1,
            observer=Stops(),
            tuning=Tuning(seconds_between_syncs=0),
        )
    assert (tmp_path / "cut.earlier-model.fits").exists()
    resumed = image(ms, tmp_path / "cut", nsigma=3, restart=True, resume=True, usemask=usemask)
    assert resumed.summary["resumed_channels"] > 0
    assert jobs.payload(resumed) == jobs.payload(whole)
    assert not (tmp_path / "cut.earlier-model.fits").exists()


def test_a_model_on_other_pixels_keeps_its_flux_and_place(ms, tmp_path):
    """A smooth model on half as large pixels, as tclean's `imsize` and `cell` may have been others."""
    half = image(ms, tmp_path / "half", imsize=2 * SIZE, cell=f"{CELL / 2}arcsec", niter=0)
    y, x = np.mgrid[: 2 * SIZE, : 2 * SIZE]
    blob = np.exp(-(np.hypot(y - 80, x - 50) ** 2) / (2 * 6.0**2))
    blob *= 3.0 / blob.sum()
    model = np.tile(blob, (1, NCHAN, 1, 1))
    path = write_model(tmp_path / "m.fits", half.products["model"], model)
    result = image(ms, tmp_path / "x", niter=0, startmodel=path)
    got = jobs.planes(result, "model")[1]
    assert got.sum() == pytest.approx(3.0, rel=1e-3)
    # pixel 64 of the fine grid is pixel 32 of the coarse one
    y, x = np.mgrid[:SIZE, :SIZE]
    assert (got * y).sum() / got.sum() == pytest.approx(32 + (80 - 64) / 2, abs=0.02)
    assert (got * x).sum() / got.sum() == pytest.approx(32 + (50 - 64) / 2, abs=0.02)


def test_a_model_may_be_in_galactic_coordinates(ms, tmp_path):
    """The blob above on pixels of half the size, where astropy finds the same places."""
    dirty = image(ms, tmp_path / "dirty", niter=0)
    header = fits.getheader(dirty.products["model"])
    cube = WCS(header).celestial
    middle = cube.pixel_to_world(32, 32).galactic
    cards = {"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN", "CRVAL1": middle.l.deg, "CRVAL2": middle.b.deg}
    cards |= {"CDELT1": -CELL / 7200, "CDELT2": CELL / 7200, "CRPIX1": 81.0, "CRPIX2": 81.0}
    for name in ("RADESYS", "EQUINOX"):
        header.pop(name, None)
    header.update(cards)
    x, y = WCS(header).celestial.world_to_pixel(cube.pixel_to_world(25, 40))
    blob = np.exp(-(np.hypot(*(np.mgrid[:160, :160] - np.array([y, x])[:, None, None])) ** 2) / (2 * 6.0**2))
    path = tmp_path / "galactic.fits"
    fits.writeto(path, np.tile(3 * blob / blob.sum(), (1, NCHAN, 1, 1)).astype(np.float32), header)
    got = jobs.planes(image(ms, tmp_path / "x", niter=0, startmodel=path), "model")[1]
    y, x = np.mgrid[:SIZE, :SIZE]
    assert got.sum() == pytest.approx(3.0, rel=1e-3)
    # astropy's galactic pole is 0.5 arcsec off casacore's, 0.025 pixel
    assert (got * y).sum() / got.sum() == pytest.approx(40, abs=0.05)
    assert (got * x).sum() / got.sum() == pytest.approx(25, abs=0.05)


def test_channels_are_found_by_frequency(ms, tmp_path):
    """A cube in the reverse order and with one channel less starts the channels of the same frequencies."""
    first = image(ms, tmp_path / "first")
    header = fits.getheader(first.products["model"])
    planes = jobs.planes(first, "model")
    turned = planes[:0:-1][None]  # channels 3, 2, 1
    cards = {"CRVAL3": header["CRVAL3"] + 3 * header["CDELT3"], "CDELT3": -header["CDELT3"]}
    path = write_model(tmp_path / "turned.fits", first.products["model"], turned, **cards)
    with pytest.warns(UserWarning, match=r"startmodel .*turned\.fits covers 3 of the cube's 4 channels \(1~3\)"):
        again = image(ms, tmp_path / "again", niter=0, startmodel=path)
    assert np.array_equal(jobs.planes(again, "model")[1:], planes[1:])
    assert not jobs.planes(again, "model")[0].any()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"BUNIT": "Jy/beam"}, "is in Jy/beam: expected a model in Jy/pixel"),
        ({"CRVAL3": 5e9}, "they have no channel in common"),
        ({"CTYPE4": "STOKES", "CRVAL4": 4.0}, "has Stokes V and the cube I"),
        ({"SPECSYS": "BARYCENT"}, "has frequencies in the frame BARYCENT"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(change, line, ms, tmp_path):
    dirty = image(ms, tmp_path / "dirty", niter=0)
    path = write_model(tmp_path / "m.fits", dirty.products["model"], np.ones((1, NCHAN, SIZE, SIZE)), **change)
    with pytest.raises(gpucube.GpucubeError) as refusal:
        image(ms, tmp_path / "x", startmodel=path)
    assert line in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("x.*"))


def test_missing_models_are_named(ms, tmp_path):
    with pytest.raises(gpucube.GpucubeError, match=r"cannot read startmodel .*none\.fits"):
        image(ms, tmp_path / "x", startmodel=tmp_path / "none.fits")
    first = image(ms, tmp_path / "x")
    os.remove(first.products["model"])
    with pytest.raises(gpucube.GpucubeError, match=r"cannot continue from .*x: .*x\.model\.fits does not exist"):
        image(ms, tmp_path / "x", restart=True)


def test_tclean_goes_on_by_default(ms, tmp_path):
    call = {
        "vis": str(ms),
        "imagename": str(tmp_path / "x"),
        "specmode": "cube",
        "imsize": SIZE,
        "cell": f"{CELL}arcsec",
    }
    call |= {"niter": 2000, "interactive": False, "quiet": True}
    with pytest.warns(UserWarning, match="counts for each channel"):
        gpucube.tclean(**call, nsigma=20)
        again = gpucube.tclean(**call, nsigma=3)
    assert again["result"].channels[2].model_flux == pytest.approx(2.5, abs=0.05)


def test_products_of_the_earlier_run_may_be_the_mask(ms, tmp_path):
    """A restart replaces them, but uses them as they were."""
    for name in ("a", "b"):
        image(ms, tmp_path / name, niter=0)
    (tmp_path / "copy.fits").write_bytes((tmp_path / "a.image.fits").read_bytes())
    copied = image(ms, tmp_path / "a", restart=True, mask=f"{tmp_path / 'copy.fits'} > 0.3")
    own = image(ms, tmp_path / "b", restart=True, mask=f"{tmp_path / 'b.image.fits'} > 0.3")
    assert own.channels[1].model_flux > 0.5
    assert jobs.planes(own, "model") == pytest.approx(jobs.planes(copied, "model"), abs=0)
    assert not list(tmp_path.glob("*.earlier-*"))


def test_an_automatic_mask_may_be_given_to_the_next_step(ms, tmp_path):
    first = image(ms, tmp_path / "x", usemask="auto-multithresh", nsigma=15)
    mask = jobs.planes(first, "mask")
    second = image(ms, tmp_path / "x", restart=True, mask=first.products["mask"], products=("image", "model", "mask"))
    assert np.array_equal(jobs.planes(second, "mask"), mask) and mask.any()
    assert not second.failed_channels


@pytest.mark.parametrize(
    ("parameter", "value"), [("mask", "x.image.fits > 0.3"), ("mask", "x.model.fits"), ("startmodel", "x.model.fits")]
)
def test_products_that_would_be_replaced_before_they_are_read_are_refused(parameter, value, ms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = image(ms, Path("x"))
    before = {path: path.read_bytes() for path in tmp_path.glob("x.*")}
    with pytest.raises(gpucube.GpucubeError, match=f"`{parameter}` needs .*which this run would replace: give another"):
        image(ms, Path("x"), overwrite=True, **{parameter: value})
    assert {path: path.read_bytes() for path in tmp_path.glob("x.*")} == before and result.channels
