"""The main job from end to end: what the cubes and the summary must hold, whatever the way they were made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ducc0
import numpy as np
import pytest
from astropy.io import fits
from casacore import tables
from jobs import CELL, GEOMETRY, IMAGES, PRODUCTS, altered, column, image, payload, planes, tree
from oracles import convolved, direct_dirty, direct_predict, imaging_weights, point_components, stokes_i

import gpucube
from gpucube.cli import main
from gpucube.constants import ARCSEC
from gpucube.data.store import Samples
from gpucube.output.records import StopCode
from gpucube.sky.beam import Beam
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry

DATA_CHANNELS = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]
"""Channels of `tiny_ms` with data; channel 2 is wholly flagged."""

FREQUENCY = 1420.405752e6 + (np.arange(12) - 6) * 15625.0

EPSILON = 1e-4
"""Default accuracy of gridding, relative to the image: an absolute error of 1e-4 Jy for a source of 1 Jy."""

SOME_PIXELS = [(40, 24), (32, 32), (20, 44), (3, 60), (57, 11), (31, 5), (0, 63)]

SUMMARY_KEYS = {
    "parameters", "versions", "ms_bytes_read", "ms_bytes_selected", "memory_predicted", "memory_peak", "wall_seconds",
    "channels",
}  # fmt: skip
RECORD_KEYS = {
    "channel", "frequency_hz", "stop_code", "stop_reason", "iterations", "major_cycles", "peak_residual", "noise",
    "limit", "model_flux", "beam", "sum_weights", "visibilities", "flagged_fraction", "seconds", "chunk", "worker",
    "device",
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> gpucube.Result:
    """`tiny_ms` cleaned to three sigma, all products."""
    return image(tiny_ms.ms, tmp_path_factory.mktemp("tiny") / "cube")


def at_some_pixels(plane: np.ndarray) -> np.ndarray:
    return np.array([plane[y, x] for x, y in SOME_PIXELS])


def recorded_beam(record: dict[str, float]) -> Beam:
    return Beam(
        bmaj=record["bmaj_arcsec"] * ARCSEC, bmin=record["bmin_arcsec"] * ARCSEC, bpa=np.deg2rad(record["bpa_deg"])
    )


def header_beam(header: fits.Header) -> Beam:
    return Beam(**{key.lower(): float(np.deg2rad(header[key])) for key in ("BMAJ", "BMIN", "BPA")})


# Truth


def test_a_bright_source_has_its_flux_and_its_place(tiny: gpucube.Result) -> None:
    restored = planes(tiny, "image")
    for record in tiny.channels:
        if record.channel == 2:
            continue
        plane = restored[record.channel]
        # five sigma: noise, and what CLEAN leaves at its three-sigma limit
        tolerance = 5 * record.noise
        assert plane[44, 20] == pytest.approx(0.4, abs=tolerance)
        if record.channel == 5:  # a third source stands beside it, between pixels
            continue
        assert plane[24, 40] == pytest.approx(1.0 if 3 <= record.channel <= 8 else 0.0, abs=tolerance)
        if 3 <= record.channel <= 8:
            y, x = np.unravel_index(plane.argmax(), plane.shape)
            assert (x, y) == (40, 24)
            # peak of the parabola through the neighbours: noise / flux of a pixel
            for before, here, after in (plane[24, 39:42], plane[23:26, 40]):
                assert abs(0.5 * (after - before) / (2 * here - after - before)) < 0.02
            inside = planes(tiny, "model")[record.channel, 22:27, 38:43].sum()
            assert inside == pytest.approx(1.0, abs=0.02)


def test_a_source_between_pixels_has_its_flux(tiny: gpucube.Result) -> None:
    # at pixel (32 - 10.4, 32 - 3.3)
    assert planes(tiny, "model")[5, 25:33, 18:26].sum() == pytest.approx(0.6, abs=0.03)


def test_peak_residual_is_that_of_the_cube_and_within_the_limit(tiny: gpucube.Result) -> None:
    residual = planes(tiny, "residual")
    for record in tiny.channels:
        if record.channel == 2:
            assert record.peak_residual is None and record.limit is None and record.stop_code == StopCode.NO_DATA
            continue
        assert record.peak_residual <= record.limit
        assert record.peak_residual == pytest.approx(np.abs(residual[record.channel]).max(), rel=1e-7)
        assert record.stop_code == StopCode.NSIGMA
        assert record.limit == pytest.approx(3 * record.noise, rel=1e-12)
        deviation = np.abs(residual[record.channel] - np.median(residual[record.channel]))
        # 4096 pixels have two middle ones, some 0.3 % apart
        assert record.noise == pytest.approx(1.4826 * np.median(deviation), rel=5e-3)
        assert record.model_flux == pytest.approx(planes(tiny, "model")[record.channel].sum(dtype=float), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "w_term"),
    [
        ({}, False),
        ({"majorcycle": "image"}, False),
        ({"majorcycle": "visibility"}, False),
        ({"minorcycle": "textbook"}, False),
        ({"gridder": "wgridder"}, True),
    ],
    ids=lambda v: "-".join(v.values()) or "default" if isinstance(v, dict) else "",
)
def test_the_residual_is_the_exact_one(settings: dict, w_term: bool, tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **settings)
    uvw = column(tiny_ms.ms, "UVW")
    for channel in (0, 5):
        vis, natural = stokes_i(tiny_ms.ms, channel)
        weight = imaging_weights(
            Samples(uvw=uvw, frequency=FREQUENCY[channel], vis=vis, weight=natural), GEOMETRY, "briggs", 0.5
        )
        record = result.channels[channel]
        assert record.sum_weights == pytest.approx(weight.sum(), rel=1e-6)
        assert record.visibilities == np.count_nonzero(natural)
        model = planes(result, "model")[channel]
        predicted = direct_predict(uvw, FREQUENCY[channel], point_components(model, GEOMETRY), w_term)
        for product, seen in (("dirty", vis), ("residual", vis - predicted), ("psf", np.ones(len(vis)))):
            # the PSF is that of the phase centre, where w (n - 1) is 0
            exact = direct_dirty(
                uvw, FREQUENCY[channel], seen, weight, GEOMETRY, SOME_PIXELS, w_term and product != "psf"
            )
            found = at_some_pixels(planes(result, product)[channel])
            np.testing.assert_allclose(found, exact, rtol=0, atol=EPSILON * max(1.0, np.abs(seen).mean()))


def test_image_is_model_with_the_beam_plus_residual(tiny: gpucube.Result) -> None:
    for channel in (0, 5):
        model = planes(tiny, "model")[channel]
        beam = recorded_beam(tiny.channels[channel].beam)
        expected = at_some_pixels(convolved(model, GEOMETRY, beam))
        found = at_some_pixels((planes(tiny, "image") - planes(tiny, "residual"))[channel])
        # the Gaussian is cut where it falls below 1e-7 of its peak; float32 pixels of some 1 Jy
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_summary_is_whole_and_is_what_the_call_returns(tiny: gpucube.Result) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    summary = json.loads(Path(tiny.products["summary"]).read_text(), parse_constant=refuse)
    assert set(summary) >= SUMMARY_KEYS
    assert summary["channels"] == [json.loads(json.dumps(record.as_dict())) for record in tiny.channels]
    assert [record["channel"] for record in summary["channels"]] == list(range(12))
    for record in summary["channels"]:
        assert set(record) >= RECORD_KEYS
        assert record["device"] == "cpu" and record["worker"]
        assert all(seconds >= 0 for seconds in record["seconds"].values())
    assert [record["frequency_hz"] for record in summary["channels"]] == pytest.approx(FREQUENCY, rel=1e-12)
    assert summary["parameters"]["niter"] == 1000 and summary["parameters"]["cell"] == [20.0, 20.0]
    assert {"gpucube", "python", "numpy", "ducc0", "python-casacore"} <= set(summary["versions"])
    assert summary["wall_seconds"] > 0
    assert summary["memory_predicted"] > 0 and summary["memory_peak"] > 0
    assert set(tiny.products) == {*PRODUCTS, "summary"}


def test_flagged_fraction_and_visibilities_count_samples(tiny: gpucube.Result, tiny_ms: Any) -> None:
    for record in tiny.channels:
        good = np.count_nonzero(stokes_i(tiny_ms.ms, record.channel)[1])
        assert record.visibilities == good
        assert record.flagged_fraction == pytest.approx(1 - good / 900, abs=1e-12)


@pytest.mark.parametrize("niter", [0, 10, 1000])
def test_the_measurement_set_is_read_once(niter: int, tiny_ms: Any, tmp_path: Path) -> None:
    summary = image(tiny_ms.ms, tmp_path / "cube", niter=niter).summary
    # UVW 3 doubles, DATA 8 and FLAG 1 byte for 12 channels of 2 correlations, WEIGHT 2 floats
    assert summary["ms_bytes_selected"] == 900 * (24 + 12 * 2 * 9 + 8)
    assert summary["ms_bytes_read"] == summary["ms_bytes_selected"]


def test_command_line_makes_the_same_cube(tiny: gpucube.Result, tiny_ms: Any, tmp_path: Path) -> None:
    out = tmp_path / "line"
    options = "--imsize 64 --cell 20arcsec --niter 1000 --nsigma 3 --weighting briggs --gridder standard --quiet"
    assert main(["image", str(tiny_ms.ms), "--imagename", str(out), *options.split()]) == 0
    for product in ("image", "residual", "model"):
        assert fits.getdata(f"{out}.{product}.fits").tobytes() == fits.getdata(tiny.products[product]).tobytes()


# The cube does not depend on how the work was shared


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Dask scheduler with two workers."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as made:
        yield made.scheduler_address


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("chunksize", [1, 7, -1, "auto"])
def test_same_bits_with_any_chunksize_in_threads(
    chunksize: int | str, workers: int, tiny: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", chunksize=chunksize, workers=workers)
    assert payload(result) == payload(tiny)
    sizes = {1: 1, 7: 7, -1: 12 // workers}
    if chunksize in sizes:
        assert max(np.bincount([r.chunk for r in result.channels])) == sizes[chunksize]


@pytest.mark.parametrize("chunksize", [1, 5, -1, "auto"])
def test_same_bits_with_dask_workers(
    chunksize: int | str, cluster: str, tiny: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", chunksize=chunksize, scheduler=cluster)
    assert payload(result) == payload(tiny)
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    assert tree(tmp_path) == sorted(f"cube.{name}.fits" for name in PRODUCTS) + ["cube.summary.json"]


def test_a_common_beam_and_kept_visibilities_have_the_same_bits_with_dask_workers(
    cluster: str, tiny_ms: Any, tmp_path: Path
) -> None:
    how: dict[str, Any] = {"restoringbeam": "common", "products": ("image", "model")}
    threads = image(tiny_ms.ms, tmp_path / "threads", **how)
    dask = image(tiny_ms.ms, tmp_path / "dask", scheduler=cluster, keep_visibilities=True, **how)
    assert payload(threads) == payload(dask)
    threads = image(tiny_ms.ms, tmp_path / "threads", restart=True, nsigma=2, **how)
    dask = image(tiny_ms.ms, tmp_path / "dask", restart=True, nsigma=2, scheduler=cluster, **how)
    assert dask.summary["ms_bytes_read"] == 0
    assert payload(threads) == payload(dask)


def test_a_channel_alone_is_the_channel_in_the_cube(tiny: gpucube.Result, tiny_ms: Any, tmp_path: Path) -> None:
    alone = image(tiny_ms.ms, tmp_path / "alone", start=5, nchan=1)
    for product in IMAGES:
        assert planes(alone, product)[0].tobytes() == planes(tiny, product)[5].tobytes()


# Restoring beam


def moments(beam: Beam) -> np.ndarray:
    """Second moments (east, north) of a beam: W1 encloses W2 if W1 - W2 has no negative eigenvalue."""
    axes = np.array([[np.sin(beam.bpa), np.cos(beam.bpa)], [np.cos(beam.bpa), -np.sin(beam.bpa)]])
    return axes.T @ np.diag([beam.bmaj**2, beam.bmin**2]) @ axes


def test_each_channel_has_its_own_beam_in_the_table(tiny: gpucube.Result) -> None:
    with fits.open(tiny.products["image"]) as hdus:
        assert hdus[0].header["CASAMBM"] is True and "BMAJ" not in hdus[0].header
        table = hdus["BEAMS"].data
    assert table["CHAN"].tolist() == list(range(12))
    for channel in DATA_CHANNELS:
        record = tiny.channels[channel].beam
        # float32 in the table
        assert table["BMAJ"][channel] == pytest.approx(record["bmaj_arcsec"], rel=1e-6)
        assert table["BMIN"][channel] == pytest.approx(record["bmin_arcsec"], rel=1e-6)
        assert table["BPA"][channel] == pytest.approx(record["bpa_deg"], rel=1e-6)
    assert table["BMAJ"][2] > 0 and table["BMIN"][2] > 0


def test_common_beam_encloses_all_and_restores_every_channel(
    tiny: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", restoringbeam="common")
    header = fits.getheader(result.products["image"])
    common = header_beam(header)
    assert "CASAMBM" not in header
    fitted = [recorded_beam(result.channels[c].beam) for c in DATA_CHANNELS]
    for beam in fitted:
        # a beam may touch the ellipse: rounding alone separates them
        assert np.linalg.eigvalsh(moments(common) - moments(beam)).min() >= -1e-4 * beam.bmin**2
    assert common.bmaj < 1.1 * max(b.bmaj for b in fitted) and common.bmin < 1.1 * max(b.bmin for b in fitted)
    assert planes(result, "residual").tobytes() == planes(tiny, "residual").tobytes()
    for channel in (0, 5):
        found = at_some_pixels(planes(result, "image")[channel])
        model = at_some_pixels(convolved(planes(result, "model")[channel], GEOMETRY, common))
        # what is left is the smoothed residual, scaled by the ratio of the beams' areas (below 1.05)
        assert np.abs(found - model).max() < 1.1 * result.channels[channel].peak_residual
    for channel in (3, 4, 6, 7, 8):
        assert planes(result, "image")[channel, 24, 40] == pytest.approx(1.0, abs=5 * result.channels[channel].noise)
    assert np.isnan(planes(result, "image")[2]).all()


def test_given_beam_restores_every_channel(tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", restoringbeam=["90arcsec", "80arcsec", "30deg"])
    beam = header_beam(fits.getheader(result.products["image"]))
    assert np.rad2deg([beam.bmaj, beam.bmin]) * 3600 == pytest.approx([90, 80], rel=1e-12)
    assert np.rad2deg(beam.bpa) == pytest.approx(30, rel=1e-12)
    for channel in (0, 5):
        found = at_some_pixels(planes(result, "image")[channel])
        expected = at_some_pixels(convolved(planes(result, "model")[channel], GEOMETRY, beam))
        fitted = recorded_beam(result.channels[channel].beam)
        # the residual is smoothed to the new beam, and grows with its area
        area = beam.bmaj * beam.bmin / (fitted.bmaj * fitted.bmin)
        assert np.abs(found - expected).max() < area * result.channels[channel].peak_residual
    # an isolated source keeps its flux density per beam
    assert planes(result, "image")[4, 24, 40] == pytest.approx(1.0, abs=0.02)


def test_given_beam_smaller_than_the_fitted_adds_the_residual_as_it_is(tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", restoringbeam="30arcsec")
    beam = header_beam(fits.getheader(result.products["image"]))
    found = at_some_pixels((planes(result, "image") - planes(result, "residual"))[5])
    expected = at_some_pixels(convolved(planes(result, "model")[5], GEOMETRY, beam))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# Products


@pytest.mark.parametrize("restoringbeam", ["", "common", "60arcsec"])
@pytest.mark.parametrize("products", [("image",), ("psf",), ("image", "model"), ("residual", "mask"), PRODUCTS])
def test_only_what_was_asked_for_is_written(
    products: tuple[str, ...], restoringbeam: str, tiny: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "out" / "cube", products=products, restoringbeam=restoringbeam)
    assert tree(tmp_path) == ["out", *sorted([f"out/cube.{p}.fits" for p in products] + ["out/cube.summary.json"])]
    for product in set(products) - {"image"}:
        assert planes(result, product).tobytes() == planes(tiny, product).tobytes()
    if "image" in products and not restoringbeam:
        assert planes(result, "image").tobytes() == planes(tiny, "image").tobytes()


def test_headers_tell_the_run(tiny: gpucube.Result) -> None:
    for product in PRODUCTS:
        header = fits.getheader(tiny.products[product])
        history = "".join(str(header["HISTORY"]).split("\n"))
        assert "robust=0.5" in history and "niter=1000" in history
        assert header["BUNIT"] == {"model": "Jy/pixel", "psf": "", "mask": ""}.get(product, "Jy/beam")
        assert [header[f"CTYPE{axis}"][:4] for axis in (1, 2, 3, 4)] == ["RA--", "DEC-", "FREQ", "STOK"]
        assert (header["CRPIX1"], header["CRPIX2"]) == (33, 33)
        assert header["CRVAL3"] == pytest.approx(FREQUENCY[0], rel=1e-12) and header["CDELT3"] == 15625.0


# Mask


def write_mask(path: Path, mask: np.ndarray) -> Path:
    fits.writeto(path, mask.astype(np.float32))
    return path


def test_one_plane_of_mask_serves_all_channels(tiny_ms: Any, tmp_path: Path) -> None:
    mask = np.zeros((64, 64))
    mask[20:29, 36:45] = 1
    result = image(tiny_ms.ms, tmp_path / "cube", mask=write_mask(tmp_path / "m.fits", mask))
    model, residual = planes(result, "model"), planes(result, "residual")
    for channel in DATA_CHANNELS:
        assert not model[channel][mask == 0].any()
        record = result.channels[channel]
        assert record.peak_residual == pytest.approx(np.abs(residual[channel][mask != 0]).max(), rel=1e-7)
        assert record.peak_residual <= record.limit
    assert model[4].sum() == pytest.approx(1.0, abs=0.05)
    # the other source is untouched
    assert residual[4, 44, 20] == pytest.approx(0.4, abs=0.05)
    assert (planes(result, "mask") == mask).all()


def test_each_channel_may_have_its_own_mask(tiny_ms: Any, tmp_path: Path) -> None:
    mask = np.zeros((12, 64, 64))
    mask[3:5, 20:29, 36:45] = 1
    mask[9:, 40:49, 16:25] = 1
    result = image(tiny_ms.ms, tmp_path / "cube", mask=write_mask(tmp_path / "m.fits", mask))
    model = planes(result, "model")
    for record in result.channels:
        if record.channel == 2:
            assert record.stop_code == StopCode.NO_DATA
        elif mask[record.channel].any():
            assert not model[record.channel][mask[record.channel] == 0].any()
            assert model[record.channel].sum() == pytest.approx(0.4 if record.channel >= 9 else 1.0, abs=0.05)
        else:
            assert record.stop_code == StopCode.ZERO_MASK and record.iterations == 0
            assert not model[record.channel].any()
            assert (
                planes(result, "residual")[record.channel].tobytes()
                == planes(result, "dirty")[record.channel].tobytes()
            )
    assert (planes(result, "mask") == mask).all()


def test_a_mask_cube_is_placed_by_frequency(tiny_ms: Any, tmp_path: Path) -> None:
    """A run's own mask, turned to fall in frequency and cut to four channels, gives the bits of a mask by index."""
    mask = np.zeros((12, 64, 64), np.float32)
    mask[3:5, 20:29, 36:45] = 1
    by_index = image(tiny_ms.ms, tmp_path / "index", mask=write_mask(tmp_path / "m.fits", mask))
    own = image(tiny_ms.ms, tmp_path / "own", mask=by_index.products["mask"])
    with fits.open(by_index.products["mask"]) as hdus:
        header, values = hdus[0].header, hdus[0].data
        header["CRVAL3"] += 5 * header["CDELT3"]
        header["CDELT3"] *= -1
        fits.writeto(tmp_path / "cut.fits", values[:, 5:1:-1], header)
    with pytest.warns(UserWarning, match=r"covers 4 of the cube's 12 channels \(2~5\): the others are not cleaned"):
        cut = image(tiny_ms.ms, tmp_path / "cut", mask=tmp_path / "cut.fits")
    assert not any("mask" in text for text in own.summary["warnings"])
    assert any("the others are not cleaned" in text for text in cut.summary["warnings"])
    for result in (own, cut):
        assert planes(result, "model").tobytes() == planes(by_index, "model").tobytes()
        assert planes(result, "mask").tobytes() == planes(by_index, "mask").tobytes()


def test_zero_mask_leaves_the_dirty_cube(tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", mask=write_mask(tmp_path / "m.fits", np.zeros((64, 64))))
    assert {result.channels[c].stop_code for c in DATA_CHANNELS} == {7}
    assert [result.channels[c].peak_residual for c in DATA_CHANNELS] == [None] * 11
    np.testing.assert_array_equal(planes(result, "image"), planes(result, "dirty"))


# Stokes


FEEDS = {
    # I = 1, Q = 0.3, U = -0.2, V = 0.1 Jy (Hamaker & Bregman 1996)
    "vla-d": {"cell": 20.0, "hands": (1 + 0.1, 0.3 - 0.2j, 0.3 + 0.2j, 1 - 0.1)},  # RR = I + V, RL = Q + iU ...
    "alma": {"cell": 0.5, "hands": (1 + 0.3, -0.2 + 0.1j, -0.2 - 0.1j, 1 - 0.3)},  # XX = I + Q, XY = U + iV ...
}


@pytest.mark.parametrize("array", FEEDS)
def test_four_stokes_parameters_of_a_polarised_source(array: str, make_ms: Any, tmp_path: Path) -> None:
    ms = make_ms(array=array, nchan=4, npol=4, noise=0.01, cell=FEEDS[array]["cell"], sources=[]).ms
    hands = np.array(FEEDS[array]["hands"])
    polarised = altered(ms, tmp_path, lambda t: t.putcol("DATA", (t.getcol("DATA") + hands).astype(np.complex64)))
    result = image(polarised, tmp_path / "cube", cell=f"{FEEDS[array]['cell']}arcsec", stokes="IQUV", niter=200)
    cube = fits.getdata(result.products["image"])
    assert cube.shape == (4, 4, 64, 64)
    header = fits.getheader(result.products["image"])
    assert (header["CTYPE4"], header["CRVAL4"], header["CDELT4"]) == ("STOKES", 1, 1)
    for record in result.channels:
        if record.channel == 2:
            assert np.isnan(cube[:, 2]).all()
            continue
        assert list(record.planes) == ["I", "Q", "U", "V"]
        for s, (name, flux) in enumerate({"I": 1.0, "Q": 0.3, "U": -0.2, "V": 0.1}.items()):
            of_plane = record.planes[name]
            assert cube[s, record.channel, 32, 32] == pytest.approx(flux, abs=5 * of_plane.noise)
            assert of_plane.peak_residual <= of_plane.limit
        assert record.iterations == sum(p.iterations for p in record.planes.values())
    alone = image(polarised, tmp_path / "alone", cell=f"{FEEDS[array]['cell']}arcsec", stokes="U", niter=200)
    assert fits.getdata(alone.products["image"])[0].tobytes() == cube[2].tobytes()
    assert fits.getheader(alone.products["image"])["CRVAL4"] == 3


@pytest.mark.parametrize(("array", "hands", "first"), [("vla-d", "RRLL", -1), ("alma", "XXYY", -5)])
def test_single_hands_are_imaged_each_from_its_own_samples(
    array: str, hands: str, first: int, make_ms: Any, tmp_path: Path
) -> None:
    cell = FEEDS[array]["cell"]
    ms = make_ms(array=array, nchan=4, npol=4, noise=0.01, cell=cell, sources=[]).ms
    expected = np.array(FEEDS[array]["hands"])

    def source_in_the_centre(t: Any) -> None:
        t.putcol("DATA", (t.getcol("DATA") + expected).astype(np.complex64))
        flag = t.getcol("FLAG")
        flag[::2, :, 3] = True  # half of the second hand
        t.putcol("FLAG", flag)

    made = altered(ms, tmp_path, source_in_the_centre)
    result = image(made, tmp_path / "cube", cell=f"{cell}arcsec", stokes=hands, niter=200, products=("image", "model"))
    header, cube = fits.getheader(result.products["image"]), fits.getdata(result.products["image"])
    assert (header["CTYPE4"], header["CRVAL4"], header["CDELT4"]) == ("STOKES", first, -1)
    planes = result.channels[0].planes
    assert list(planes) == [hands[:2], hands[2:]]
    for plane, (of_plane, value) in enumerate(zip(planes.values(), (expected[0], expected[3]), strict=True)):
        assert cube[plane, 0, 32, 32] == pytest.approx(value.real, abs=5 * of_plane.noise)
    assert planes[hands[2:]].visibilities < 0.6 * planes[hands[:2]].visibilities
    again = image(
        made, tmp_path / "again", cell=f"{cell}arcsec", stokes=hands[2:], startmodel=result.products["model"],
        niter=0, products="residual",
    )  # fmt: skip
    assert again.channels[0].peak_residual == pytest.approx(planes[hands[2:]].peak_residual, rel=1e-3)


def test_pseudo_i_takes_the_hand_that_is_left(tiny_ms: Any, tmp_path: Path) -> None:
    def flag_one_hand(table: Any) -> None:
        flag, weight, data = (table.getcol(name) for name in ("FLAG", "WEIGHT", "DATA"))
        flag[::3, :, 1] = True
        data[::3, :, 1] = 1e4
        weight[:, 1] *= 0.5
        for name, values in (("FLAG", flag), ("WEIGHT", weight), ("DATA", data)):
            table.putcol(name, values)

    ms = altered(tiny_ms.ms, tmp_path, flag_one_hand)
    uvw = column(ms, "UVW")
    good = ~(column(ms, "FLAG")[:, 5] | column(ms, "FLAG_ROW")[:, None])
    weight = column(ms, "WEIGHT") * good
    data = np.where(good, column(ms, "DATA")[:, 5], 0)
    any_hand = (data * weight).sum(1) / np.where(weight.sum(1) > 0, weight.sum(1), 1)
    strict, strict_weight = stokes_i(ms, 5)
    for stokes, vis, natural in (("pseudoI", any_hand, weight.sum(1)), ("I", strict, strict_weight)):
        result = image(ms, tmp_path / stokes, stokes=stokes, niter=0, weighting="natural")
        record = result.channels[5]
        assert record.visibilities == np.count_nonzero(natural)
        assert record.sum_weights == pytest.approx(natural.sum(), rel=1e-6)
        exact = direct_dirty(uvw, FREQUENCY[5], vis, natural, GEOMETRY, SOME_PIXELS, w_term=False)
        found = [planes(result, "dirty")[5, y, x] for x, y in SOME_PIXELS]
        np.testing.assert_allclose(found, exact, rtol=0, atol=EPSILON)


# Spectral axis and several MeasurementSets


DIRTY: dict[str, Any] = {"niter": 0, "weighting": "natural", "products": ("dirty",)}


@pytest.fixture(scope="module")
def dirty(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> gpucube.Result:
    """Every channel of `tiny_ms` as it is."""
    return image(tiny_ms.ms, tmp_path_factory.mktemp("dirty") / "cube", **DIRTY)


@pytest.mark.parametrize(
    ("selection", "channels"),
    [
        ({"start": 4, "nchan": 3}, [4, 5, 6]),
        ({"start": 9}, [9, 10, 11]),
        ({"spw": "0:4~6"}, [4, 5, 6]),
        ({"spw": "*:4~6"}, [4, 5, 6]),
        ({"spw": "0:3~8", "start": 5, "nchan": 2}, [5, 6]),  # start counts within the window
        ({"start": 11, "width": -1}, list(range(11, -1, -1))),
        ({"width": -1}, list(range(11, -1, -1))),
        ({"start": 6, "width": -1, "nchan": 3}, [6, 5, 4]),
    ],
    ids=str,
)
def test_channels_are_those_selected(
    selection: dict, channels: list[int], dirty: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **DIRTY, **selection)
    assert planes(result, "dirty").tobytes() == planes(dirty, "dirty")[channels].tobytes()
    assert [r.frequency_hz for r in result.channels] == pytest.approx(FREQUENCY[channels], rel=1e-13)
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]
    header = fits.getheader(result.products["dirty"])
    assert header["CRVAL3"] == pytest.approx(FREQUENCY[channels[0]], rel=1e-13)


def test_gaps_in_the_selection_are_blank_channels_of_a_regular_axis(
    dirty: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    with pytest.warns(
        UserWarning, match=r"6 of 11 channels are blank, because selected channels of .* are 93.8 kHz apart"
    ):
        result = image(tiny_ms.ms, tmp_path / "cube", **DIRTY, spw="0:1;3~5;11")
    assert [r.frequency_hz for r in result.channels] == pytest.approx(FREQUENCY[1:], rel=1e-13)
    for record in result.channels:
        channel = record.channel + 1
        plane = planes(result, "dirty")[record.channel]
        if channel in (1, 3, 4, 5, 11):
            assert plane.tobytes() == planes(dirty, "dirty")[channel].tobytes()
        else:
            assert np.isnan(plane).all()
            assert (record.stop_code, record.visibilities, record.flagged_fraction) == (StopCode.NO_DATA, 0, 1.0)
    with fits.open(result.products["dirty"]) as hdus:
        assert (hdus[0].header["CRVAL3"], hdus[0].header["CDELT3"]) == pytest.approx((FREQUENCY[1], 15625.0), rel=1e-12)
        assert "CHANNELS" not in hdus
    assert result.summary["ms_bytes_read"] == result.summary["ms_bytes_selected"]


@pytest.mark.parametrize(
    ("selection", "groups"),
    [
        ({"width": 2}, [[0, 1], [3], [4, 5], [6, 7], [8, 9], [10, 11]]),
        ({"width": 5}, [[0, 1, 3, 4], [5, 6, 7, 8, 9]]),
        ({"start": 11, "width": -4}, [[11, 10, 9, 8], [7, 6, 5, 4], [3, 1, 0]]),
    ],
    ids=str,
)
def test_width_averages_channels(
    selection: dict, groups: list[list[int]], dirty: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **DIRTY, **selection)
    assert len(result.channels) == len(groups)
    for record, group in zip(result.channels, groups, strict=True):
        weights = np.array([dirty.channels[c].sum_weights for c in group])
        assert record.sum_weights == pytest.approx(weights.sum(), rel=1e-6)
        mean = np.tensordot(weights / weights.sum(), planes(dirty, "dirty")[group], 1)
        # averaged before gridding: phases change by up to 2 pi u l df / f = 3e-3 over two channels of 15 kHz
        np.testing.assert_allclose(planes(result, "dirty")[record.channel], mean, rtol=0, atol=3e-3)
    steps = np.diff([r.frequency_hz for r in result.channels])
    assert steps == pytest.approx(np.full(len(groups) - 1, 15625.0 * selection["width"]), rel=1e-9)


def test_falling_frequency_is_kept_as_it_is(make_ms: Any, tmp_path: Path) -> None:
    line = np.zeros(6)
    line[4] = 1.0
    ms = make_ms(sources=[(-8 * CELL, 4 * CELL, line)], nchan=6, chan_width=-15625.0).ms
    result = image(ms, tmp_path / "cube")
    frequency = np.array([r.frequency_hz for r in result.channels])
    assert (np.diff(frequency) < 0).all()
    assert fits.getheader(result.products["image"])["CDELT3"] == pytest.approx(-15625.0)
    restored = planes(result, "image")
    assert restored[4, 36, 40] == pytest.approx(1.0, abs=5 * result.channels[4].noise)
    assert abs(restored[3, 36, 40]) < 5 * result.channels[3].noise


def test_two_measurement_sets_make_one_deeper_image(make_ms: Any, tmp_path: Path) -> None:
    source = [(-8 * CELL, -8 * CELL, 1.0)]
    first = make_ms(sources=source, nchan=4, seed=11).ms
    second = make_ms(sources=source, nchan=4, seed=12, noise=0.1, ntime=8, track_hours=2.0).ms
    both, one, two = (
        image(vis, tmp_path / name, **DIRTY)
        for name, vis in (("both", [first, second]), ("one", first), ("two", second))
    )
    for channel in (0, 1, 3):
        weights = [r.channels[channel].sum_weights for r in (one, two)]
        assert both.channels[channel].sum_weights == pytest.approx(sum(weights), rel=1e-6)
        assert both.channels[channel].visibilities == sum(r.channels[channel].visibilities for r in (one, two))
        mean = (weights[0] * planes(one, "dirty") + weights[1] * planes(two, "dirty"))[channel] / sum(weights)
        np.testing.assert_allclose(planes(both, "dirty")[channel], mean, rtol=0, atol=EPSILON)


def test_same_data_twice_make_the_same_image_of_twice_the_weight(
    dirty: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    copy = altered(tiny_ms.ms, tmp_path, lambda table: None)
    twice = image([tiny_ms.ms, copy], tmp_path / "cube", **DIRTY)
    for channel in DATA_CHANNELS:
        assert twice.channels[channel].sum_weights == pytest.approx(2 * dirty.channels[channel].sum_weights, rel=1e-6)
    np.testing.assert_allclose(planes(twice, "dirty"), planes(dirty, "dirty"), rtol=0, atol=EPSILON)
    assert twice.summary["ms_bytes_read"] == 2 * dirty.summary["ms_bytes_read"]


def appended(ms: Path, other: Path, folder: Path) -> Path:
    """A copy of `ms` with the rows of `other`, whose window becomes number 1."""
    copy = altered(ms, folder, lambda table: None)
    for name in ("SPECTRAL_WINDOW", "DATA_DESCRIPTION", "SOURCE", ""):
        with (
            tables.table(str(copy / name), readonly=False, ack=False) as table,
            tables.table(str(other / name), ack=False) as more,
        ):
            first = table.nrows()
            more.copyrows(table)
            if name in ("DATA_DESCRIPTION", "SOURCE"):
                table.putcell("SPECTRAL_WINDOW_ID", 1, 1)
            if not name:
                table.putcol("DATA_DESC_ID", np.full(more.nrows(), 1, np.int32), first)
    return copy


def test_windows_make_one_regular_axis_whatever_their_order(make_ms: Any, tmp_path: Path) -> None:
    """A line in channel 1 of four, in a window and in the one that lies two channels below it."""
    line = np.array([0.0, 1.0, 0.0, 0.0])
    source = [(-8 * CELL, -8 * CELL, line)]
    settings: dict[str, Any] = {"nchan": 4, "ntime": 8, "flag_channels": []}
    high = Path(make_ms(sources=source, **settings).ms)
    low = Path(make_ms(sources=source, **settings, rest_freq=1420.405752e6 - 6 * 15625.0, seed=2).ms)
    cubes = [
        image(vis, tmp_path / f"cube{k}", **DIRTY, restfreq="1.42GHz")
        for k, vis in enumerate(
            ([low, high], [high, low], appended(low, high, tmp_path / "0"), appended(high, low, tmp_path / "1"))
        )
    ]
    expected = planes(cubes[0], "dirty")
    peaks = expected[:, 24, 40]
    # the noise of a channel is 0.05 Jy / sqrt(2 hands x 360 rows): five times that
    assert peaks[[0, 2, 3, 6, 8, 9]] == pytest.approx(0, abs=0.01)
    assert peaks[[1, 7]] == pytest.approx(1, abs=0.01)
    assert np.isnan(expected[4:6]).all()
    for cube in cubes:
        assert planes(cube, "dirty").tobytes() == expected.tobytes()
        header = fits.getheader(cube.products["dirty"])
        assert header["CDELT3"] == pytest.approx(15625.0, rel=1e-9)
        frequency = header["CRVAL3"] + header["CDELT3"] * np.arange(10)
        assert [r.frequency_hz for r in cube.channels] == pytest.approx(frequency, rel=1e-13)


def test_a_field_that_comes_twice_gives_the_image_of_one(dirty: gpucube.Result, tiny_ms: Any, tmp_path: Path) -> None:
    copy = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("FIELD_ID", (np.arange(900) % 2).astype(np.int32)))
    with tables.table(f"{copy}/FIELD", readonly=False, ack=False) as fields:
        fields.copyrows(fields, 0, -1, 1)
    result = image(copy, tmp_path / "cube", **DIRTY, field="SIMLINE")
    assert [r.visibilities for r in result.channels] == [r.visibilities for r in dirty.channels]
    np.testing.assert_allclose(planes(result, "dirty"), planes(dirty, "dirty"), rtol=0, atol=EPSILON)


def test_cross_hands_in_rows_of_their_own_change_no_parallel_hand(
    dirty: gpucube.Result, tiny_ms: Any, tmp_path: Path
) -> None:
    """The rows again, called cross hands: with Stokes IQ the planes of I are those of the parallel hands alone."""

    def again(main: tables.table) -> None:
        main.copyrows(main)
        main.putcol("DATA_DESC_ID", np.ones(900, np.int32), 900)

    copy = altered(tiny_ms.ms, tmp_path, again)
    for name, column_name, value in (("POLARIZATION", "CORR_TYPE", [6, 7]), ("DATA_DESCRIPTION", "POLARIZATION_ID", 1)):
        with tables.table(f"{copy}/{name}", readonly=False, ack=False) as table:
            table.copyrows(table, 0, -1, 1)
            table.putcell(column_name, 1, np.array(value, np.int32) if name == "POLARIZATION" else value)
    result = image(copy, tmp_path / "cube", **DIRTY, stokes="IQ")
    for found in fits.getdata(result.products["dirty"]):  # Q of the mean of "RL" and "LR" is I of that of RR and LL
        np.testing.assert_allclose(found, planes(dirty, "dirty"), rtol=0, atol=EPSILON)
    assert [r.planes["I"].visibilities for r in result.channels] == [r.visibilities for r in dirty.channels]


# Stopping


def test_niter_zero_is_the_dirty_cube(tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", niter=0, nsigma=0)
    assert {(r.iterations, r.major_cycles) for r in result.channels} == {(0, 0)}
    assert not planes(result, "model")[DATA_CHANNELS].any()
    for product in ("residual", "image"):
        assert planes(result, product).tobytes() == planes(result, "dirty").tobytes()
    assert all(record.beam for record in result.channels if record.channel != 2)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"niter": 10, "nsigma": 0}, StopCode.ITERATION_LIMIT),
        ({"threshold": "50mJy", "nsigma": 0}, StopCode.THRESHOLD),
        ({"threshold": "50mJy", "nsigma": 3}, StopCode.THRESHOLD),
        ({"nsigma": 3, "threshold": "0.1mJy"}, StopCode.NSIGMA),
        ({"nsigma": 0, "nmajor": 2}, StopCode.MAJOR_LIMIT),
        ({"threshold": "2Jy"}, StopCode.THRESHOLD),
    ],
    ids=str,
)
def test_every_channel_stops_for_its_own_reason(settings: dict, code: StopCode, tiny_ms: Any, tmp_path: Path) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **settings)
    for channel in DATA_CHANNELS:
        record = result.channels[channel]
        assert (record.stop_code, record.stop_reason) == (code, code.reason)
        if code is StopCode.ITERATION_LIMIT:
            assert record.iterations == 10, "niter counts per channel"
        elif code is StopCode.MAJOR_LIMIT:
            assert record.major_cycles == 2
        else:
            assert record.peak_residual <= record.limit
        if settings.get("threshold") == "50mJy":
            assert record.limit == 0.05
        if settings.get("threshold") == "2Jy":
            assert record.iterations == 0 and record.major_cycles == 0
    assert result.channels[2].stop_code == StopCode.NO_DATA


# Wide fields


@pytest.fixture(scope="module")
def wide_ms(make_ms: Any) -> Path:
    """Two channels of 2.8 degrees with sources near two corners."""
    return make_ms(
        sources=[(200 * CELL, 190 * CELL, 1.0), (-180 * CELL, -220 * CELL, 0.7)], nchan=2, noise=0.1, imsize=512
    ).ms


@pytest.mark.parametrize("epsilon", [1e-3, 1e-4, 1e-6])
def test_wide_field_is_accurate_to_epsilon(epsilon: float, wide_ms: Path, tmp_path: Path) -> None:
    settings = {"imsize": 512, "gridder": "wgridder", "epsilon": epsilon}
    result = image(wide_ms, tmp_path / "cube", **DIRTY, **settings)
    assert result.summary["gridder"] == "wgridder"
    uvw = column(wide_ms, "UVW")
    geometry = ImageGeometry(nx=512, ny=512, cell_x=CELL, cell_y=CELL, centre=Direction(ra=0.0, dec=0.0))
    vis, weight = stokes_i(wide_ms, 1)
    frequency = result.channels[1].frequency_hz
    reference = ducc0.wgridder.vis2dirty(
        uvw=uvw,
        freq=np.array([frequency]),
        vis=vis[:, None],
        wgt=weight[:, None],
        npix_x=512,
        npix_y=512,
        pixsize_x=CELL,
        pixsize_y=CELL,
        epsilon=1e-10,
        do_wgridding=True,
        divide_by_n=False,
        flip_u=True,
        flip_v=True,
        flip_w=False,
    )
    # x index reversed: pixel x is at 512 - x, and pixel 0 has no counterpart
    reference = reference[:0:-1].T / weight.sum()
    found = planes(result, "dirty")[1].astype(float)
    pixels = [(56, 446), (436, 36), (256, 256), (500, 500), (1, 9)]
    exact = direct_dirty(uvw, frequency, vis, weight, geometry, pixels)
    assert [reference[y, x - 1] for x, y in pixels] == pytest.approx(exact, abs=1e-8)
    # float32 pixels add 6e-8 of their value
    assert np.linalg.norm(found[:, 1:] - reference) < (epsilon + 1e-7) * np.linalg.norm(reference)


@pytest.mark.parametrize(("imsize", "cell", "chosen"), [(32, "10arcsec", "standard"), (512, "20arcsec", "wgridder")])
def test_auto_neglects_w_only_in_a_small_field(
    imsize: int, cell: str, chosen: str, wide_ms: Path, tmp_path: Path
) -> None:
    result = image(wide_ms, tmp_path / "cube", **DIRTY, imsize=imsize, cell=cell, gridder="auto")
    assert result.summary["gridder"] == chosen


def test_wide_field_cleans_to_the_truth(wide_ms: Path, tmp_path: Path) -> None:
    result = image(wide_ms, tmp_path / "cube", imsize=512, gridder="auto", nsigma=5, nchan=1)
    restored = planes(result, "image")
    for record in result.channels:
        assert record.stop_code == StopCode.NSIGMA
        assert restored[record.channel, 446, 56] == pytest.approx(1.0, abs=5 * record.noise)
        assert restored[record.channel, 36, 436] == pytest.approx(0.7, abs=5 * record.noise)


# Channels without data, and the scratch folder


def test_an_empty_channel_is_nan_and_has_a_valid_beam(tiny: gpucube.Result) -> None:
    for product in IMAGES:
        empty = np.isnan(planes(tiny, product)).reshape(12, -1)
        assert empty.all(1).tolist() == empty.any(1).tolist() == [c == 2 for c in range(12)]
    record = tiny.channels[2]
    assert (record.stop_code, record.sum_weights, record.visibilities) == (StopCode.NO_DATA, 0, 0)
    assert record.flagged_fraction == 1 and record.beam is None
    for product in ("image", "residual", "psf", "dirty"):
        with fits.open(tiny.products[product]) as hdus:
            assert hdus["BEAMS"].data["BMAJ"].min() > 0 and hdus["BEAMS"].data["BMIN"].min() > 0


@pytest.mark.parametrize("restoringbeam", ["", "common", "30arcsec"])
def test_a_cube_without_any_data_is_refused(
    restoringbeam: str, tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ms = altered(tiny_ms.ms, tmp_path, lambda t: t.putcol("FLAG", np.ones_like(t.getcol("FLAG"))))
    options = f"--imsize 64 --cell 20arcsec --niter 10 --nsigma 3 --quiet --restoringbeam={restoringbeam}".split()
    assert main(["image", str(ms), "--imagename", str(tmp_path / "cube"), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("gpucube: error: no data are left: each selected sample is") and said.count("\n") == 1
    assert list(tmp_path.glob("cube*")) == []


def test_nothing_is_left_in_scratch(tiny_ms: Any, tmp_path: Path) -> None:
    (tmp_path / "fast").mkdir()
    image(tiny_ms.ms, tmp_path / "cube", scratch=tmp_path / "fast" / "store", restoringbeam="common")
    assert tree(tmp_path) == sorted([*(f"cube.{p}.fits" for p in PRODUCTS), "cube.summary.json", "fast"])


def test_overwrite_replaces_all_products_of_the_name(tiny_ms: Any, tmp_path: Path) -> None:
    image(tiny_ms.ms, tmp_path / "cube")
    result = image(tiny_ms.ms, tmp_path / "cube", products=("image",), niter=0, overwrite=True)
    assert tree(tmp_path) == ["cube.image.fits", "cube.summary.json"]
    assert result.summary["parameters"]["niter"] == 0
