"""Real interferometer data: what each set must show.

The tabulated dirty peaks, pixels and sums of weights were computed outside this project with ducc0 at epsilon 1e-8 and
checked by a direct Fourier sum to five digits (the data's README). All are pseudo Stokes I, natural weights, the field's
phase centre at pixel (N/2, N/2), x growing to the west.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from jobs import column

import gpucube
from gpucube.output.records import StopCode

RealData = Callable[[str], Path]

FIVE_DIGITS = 1e-4
"""Relative tolerance: the table has five digits, gridding (epsilon 1e-4 asked) is better than 1e-5."""


@dataclass(frozen=True)
class Reference:
    """One channel of one image: where its dirty peak is, and what its weights sum to."""

    channel: int
    peak: float
    pixel: tuple[int, int] | None
    sum_weights: float | None
    samples: int | None = None


@dataclass(frozen=True)
class Set:
    """One image to make: the set's name, the image's size and pixel, the selection, and what must come out."""

    name: str
    imsize: int
    cell: str
    select: dict
    references: tuple[Reference, ...]


DMTAU = [
    (0.2168, None), (0.3986, (125, 124)), (1.6944, (125, 122)), (3.0605, (126, 120)), (1.9443, (128, 126)),
    (2.8961, (131, 133)), (1.9483, (130, 132)), (0.6423, (129, 129)), (0.2604, None),
]  # fmt: skip

SETS = [
    Set(
        "dmtau_co21_sma",
        256,
        "0.2arcsec",
        {},
        tuple(Reference(c, peak, pixel, 263.866, 7974) for c, (peak, pixel) in enumerate(DMTAU)),
    ),
    Set(
        "hd142527_hcop43_alma",
        256,
        "0.1arcsec",
        {},
        (
            Reference(0, 0.27625, (119, 125), 16267.5, 15816),
            Reference(3, 0.22731, (123, 131), 16570.7, 15812),
        ),
    ),
    Set("hd142527_co65_alma", 256, "0.05arcsec", {}, (Reference(0, 0.55307, (124, 124), 404.506, 55398),)),
    *(
        Set("hd142527_band9_cont_alma", 256, "0.05arcsec", {"spw": window}, (reference,))
        for window, reference in enumerate(
            (
                Reference(0, 0.39645, (128, 143), 541155, 7517),
                Reference(0, 0.35670, (129, 143), 892908, 11904),
                Reference(0, 0.27978, (129, 143), 1110370, 15125),
            )
        )
    ),
    Set("antennae_mosaic_alma", 256, "0.2arcsec", {"field": 10}, (Reference(0, 0.47352, (88, 136), 12118.9, 3585),)),
    Set("antennae_mosaic_alma", 256, "0.2arcsec", {"field": 11}, (Reference(0, 0.93659, (124, 136), 9446.52, 2775),)),
    Set(
        "j0414_vlba_8spw",
        256,
        "0.4mas",
        {},
        (
            Reference(0, 0.15828, (128, 129), 1682.91, 424),
            Reference(800 + 8, 0.21009, (127, 129), 1802.6, 421),  # window 4 begins 400 MHz above window 0
            Reference(800 + 15, 0.12358, (128, 128), None),
        ),
    ),
    Set(
        "m87_eht2017",
        128,
        "2uas",
        {},
        (Reference(0, 0.36552, (65, 55), None, 216), Reference(1, 0.36530, (65, 55), None)),
    ),
]


@pytest.mark.parametrize("case", SETS, ids=lambda s: s.name + "".join(f"-{v}" for v in s.select.values()))
def test_dirty_images_have_the_tabulated_peaks_and_sums_of_weights(
    case: Set, real_data: RealData, tmp_path: Path
) -> None:
    result = gpucube.image_cube(
        real_data(case.name),
        imagename=tmp_path / "dirty",
        imsize=case.imsize,
        cell=case.cell,
        stokes="pseudoI",
        weighting="natural",
        products=("dirty", "image"),
        quiet=True,
        **case.select,
    )
    dirty = fits.getdata(result.products["dirty"])[0]
    for reference in case.references:
        plane, record = dirty[reference.channel], result.channels[reference.channel]
        # DM Tau's table is rounded to four decimals
        assert plane.max() == pytest.approx(reference.peak, rel=FIVE_DIGITS, abs=6e-5 if "dmtau" in case.name else 6e-6)
        if reference.pixel:
            y, x = np.unravel_index(plane.argmax(), plane.shape)
            assert (x, y) == reference.pixel
        if reference.sum_weights:
            assert record.sum_weights == pytest.approx(reference.sum_weights, rel=FIVE_DIGITS)
        if reference.samples:
            assert record.visibilities == reference.samples


@pytest.fixture(scope="module")
def dmtau(real_data: RealData, tmp_path_factory: pytest.TempPathFactory) -> gpucube.Result:
    return gpucube.image_cube(
        real_data("dmtau_co21_sma"),
        imagename=tmp_path_factory.mktemp("dmtau") / "cube",
        imsize=256,
        cell="0.2arcsec",
        niter=2000,
        threshold="0.185Jy",  # three times the theoretical noise, 0.0616 Jy in every channel
        quiet=True,
    )


def _flux_and_centroids(result: gpucube.Result, radius_arcsec: float) -> tuple[np.ndarray, np.ndarray]:
    """Model flux within a radius (Jy), and its centroid (east, north) in arcsec, of every channel."""
    model = fits.getdata(result.products["model"])[0].astype(float)
    y, x = np.indices(model.shape[1:])
    east, north = (128 - x) * 0.2, (y - 128) * 0.2
    inside = np.hypot(east, north) < radius_arcsec
    flux = (model * inside).sum((1, 2))
    safe = np.where(flux > 0.1, flux, np.nan)
    return flux, np.array([(model * inside * e).sum((1, 2)) / safe for e in (east, north)]).T


def test_dmtau_is_a_keplerian_disk(dmtau: gpucube.Result) -> None:
    flux, centroid = _flux_and_centroids(dmtau, 8.0)
    # channels are 0.55 km/s wide; the published range spans CLEAN depth and missing spacings
    assert 11.0 < flux.sum() * 0.55 < 15.0
    assert flux[3] > 1.1 * flux[4] and flux[5] > 1.05 * flux[4], "two horns about 6.03 km/s"
    assert abs(flux[3] - flux[5]) < 0.25 * flux[3]
    assert abs(flux[0]) < 0.2 and abs(flux[8]) < 0.2, "the outer channels are empty"
    blue, red = centroid[2:4].mean(0), centroid[5:7].mean(0)
    assert blue[0] > 0 > blue[1], "blue side to the south-east"
    assert red[0] < 0 < red[1], "red side to the north-west"
    position_angle = np.rad2deg(np.arctan2(*(red - blue))) % 360
    assert position_angle == pytest.approx(335, abs=12)


def test_dmtau_has_the_published_beam_and_a_falling_frequency_axis(dmtau: gpucube.Result) -> None:
    for record in dmtau.channels:
        assert record.beam["bmaj_arcsec"] == pytest.approx(3.7, abs=0.15)
        assert record.beam["bmin_arcsec"] == pytest.approx(3.0, abs=0.15)
        assert record.beam["bpa_deg"] == pytest.approx(22, abs=5)
    header = fits.getheader(dmtau.products["image"])
    assert header["CDELT3"] == pytest.approx(-422945.596, rel=1e-6)
    assert header["RESTFRQ"] == 230.538e9 and header["SPECSYS"] == "LSRK"


def test_hcop_has_two_imaged_and_two_blank_channels(real_data: RealData, tmp_path: Path) -> None:
    result = gpucube.image_cube(
        real_data("hd142527_hcop43_alma"),
        imagename=tmp_path / "hcop",
        imsize=256,
        cell="0.1arcsec",
        niter=3000,
        nsigma=3,
        stokes="pseudoI",
        products=("image", "residual", "model", "psf", "dirty"),
        quiet=True,
    )
    assert [r.stop_code == StopCode.NO_DATA for r in result.channels] == [False, True, True, False]
    for product in ("image", "residual", "model", "psf", "dirty"):
        finite = np.isfinite(fits.getdata(result.products[product])[0]).reshape(4, -1)
        assert finite.all(1).tolist() == [True, False, False, True]
        assert finite.any(1).tolist() == [True, False, False, True]
    model = fits.getdata(result.products["model"])[0]
    y, x = np.indices((256, 256))
    inside = np.hypot(x - 128, y - 128) * 0.1 < 3
    # the tabulated CLEAN fluxes are given to one decimal, and depend on CLEAN depth
    assert (model[0] * inside).sum() == pytest.approx(1.7, abs=0.25)
    assert (model[3] * inside).sum() == pytest.approx(1.5, abs=0.25)
    assert (model[0] * inside * (y - 128)).sum() < 0 < (model[3] * inside * (y - 128)).sum(), "red south, blue north"


def test_vlba_windows_lie_on_one_axis_with_blank_channels_between_them(real_data: RealData, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"868 of 996 channels are blank, because .* are 122 MHz apart"):
        result = gpucube.image_cube(
            real_data("j0414_vlba_8spw"),
            imagename=tmp_path / "vlba",
            imsize=256,
            cell="0.4mas",
            products="image",
            quiet=True,
        )
    frequency = np.array([r.frequency_hz for r in result.channels])
    assert frequency == pytest.approx((4600.99 + 0.5 * np.arange(996)) * 1e6, rel=1e-12)
    windows = np.array([4600.99, 4730.99, 4840.99, 4930.99, 5000.99, 5050.99, 5080.99, 5090.99])
    with_rows = (windows[:, None] + 0.5 * np.arange(16)).ravel() * 1e6
    selected = np.isclose(frequency[:, None], with_rows, rtol=1e-9).any(axis=1)
    assert not any(r.visibilities for r in result.channels if not selected[r.channel])
    assert sum(r.visibilities > 0 for r in result.channels) > 100
    header = fits.getheader(result.products["image"])
    assert (header["NAXIS3"], header["CDELT3"]) == (996, pytest.approx(5e5, rel=1e-9))


def test_windows_that_share_no_grid_are_refused(real_data: RealData, tmp_path: Path) -> None:
    """The third one lies 9.30 of its channels from the first."""
    with pytest.raises(gpucube.GpucubeError, match=r"window \d and .* window \d are 0.29 channel \(542 MHz\) apart"):
        gpucube.image_cube(
            real_data("hd142527_band9_cont_alma"), imagename=tmp_path / "a", imsize=64, cell="0.1arcsec", quiet=True
        )


def test_mosaic_without_a_field_number_names_the_fields(real_data: RealData, tmp_path: Path) -> None:
    path = real_data("antennae_mosaic_alma")
    with pytest.raises(gpucube.GpucubeError, match=r"23 fields fit.*by its number"):
        gpucube.image_cube(path, imagename=tmp_path / "a", imsize=64, cell="0.2arcsec", quiet=True)
    with pytest.raises(gpucube.GpucubeError, match="11 fields fit `field='AntNorth_FIELD_1'`"):
        gpucube.image_cube(
            path, imagename=tmp_path / "a", field="AntNorth_FIELD_1", imsize=64, cell="0.2arcsec", quiet=True
        )


def test_uncalibrated_vla_set_reads_with_all_its_oddities(real_data: RealData, tmp_path: Path) -> None:
    result = gpucube.image_cube(
        real_data("vla_j1008_raw"),
        imagename=tmp_path / "raw",
        imsize=256,
        cell="0.4arcsec",
        stokes="pseudoI",
        products=("dirty",),
        quiet=True,
    )
    dirty = fits.getdata(result.products["dirty"])[0]
    assert dirty.shape == (64, 256, 256)
    # tabulated to one digit
    for channel, rms in ((0, 6e-5), (8, 1.4e-4), (31, 1.4e-4), (63, 8e-5)):
        assert dirty[channel].std() == pytest.approx(rms, rel=0.1)


def test_all_four_stokes_of_circular_feeds(real_data: RealData, tmp_path: Path) -> None:
    result = gpucube.image_cube(
        real_data("vla_j1008_raw"),
        imagename=tmp_path / "iquv",
        imsize=64,
        cell="0.4arcsec",
        stokes="IQUV",
        nchan=2,
        products=("dirty",),
        quiet=True,
    )
    assert fits.getdata(result.products["dirty"]).shape == (4, 2, 64, 64)
    assert sorted(result.channels[0].planes) == ["I", "Q", "U", "V"]


def test_dmtau_without_what_numpy_fits_to_its_outer_channels(real_data: RealData, tmp_path: Path) -> None:
    """The pixel at the phase centre is the weighted mean of the visibilities, so numpy can make it."""
    ms, outer = real_data("dmtau_co21_sma"), np.array([0, 1, 7, 8])
    result = gpucube.image_cube(
        ms,
        imagename=tmp_path / "line",
        imsize=256,
        cell="0.2arcsec",
        weighting="natural",
        products="dirty",
        quiet=True,
        contsubspw="0:0~1;7~8",
    )
    data, flag = column(ms, "DATA")[:, :, 0].astype(complex), column(ms, "FLAG")[:, :, 0]
    weight = np.where(flag, 0.0, column(ms, "WEIGHT")[:, :1])
    fitted = (weight * data)[:, outer].sum(axis=1) / weight[:, outer].sum(axis=1)
    centre = (weight * (data - fitted[:, None]).real).sum(axis=0) / weight.sum(axis=0)
    np.testing.assert_allclose(result.data("dirty")[0][:, 128, 128], centre, atol=1e-5)
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
