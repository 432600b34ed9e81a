"""The clean mask of the user: any FITS image on the grid of the cube is taken, anything else is refused in one line."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from gpucube.data.mask import load_mask
from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

CELL = math.radians(2 / 3600)
GEOMETRY = ImageGeometry(
    nx=32, ny=24, cell_x=CELL, cell_y=CELL, centre=Direction(ra=math.radians(68.5), dec=math.radians(28))
)
AXIS = SpectralAxis(frequency=86e9 + 1e5 * np.arange(5), width=np.full(5, 1e5), frame=FRAMES["LSRK"], restfreq=None)


def sky_header(**changes: float | str) -> fits.Header:
    """A mask header on the cube's grid, written down independently of gpucube's own cubes."""
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---SIN", "DEC--SIN"
    header["CRVAL1"], header["CRVAL2"] = 68.5, 28.0
    header["CDELT1"], header["CDELT2"] = -2 / 3600, 2 / 3600
    header["CRPIX1"], header["CRPIX2"] = 17.0, 13.0
    header["CUNIT1"] = header["CUNIT2"] = "deg"
    header["RADESYS"], header["EQUINOX"] = "FK5", 2000.0
    header.update(changes)
    return header


def write_mask(path: Path, data: np.ndarray, header: fits.Header | None = None) -> Path:
    fits.PrimaryHDU(data, header).writeto(path)
    return path


def drawn(nplanes: int) -> np.ndarray:
    return np.random.default_rng(nplanes).random((nplanes, 24, 32)) < 0.3


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(24, 32), (1, 24, 32), (1, 1, 24, 32)])
def test_one_plane_serves_every_channel(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    mask_in = drawn(1)
    path = write_mask(tmp_path / "mask.fits", mask_in.reshape(shape).astype(dtype), sky_header())
    mask = load_mask(path, GEOMETRY, AXIS)
    for channel in range(5):
        plane = mask.plane(channel)
        assert plane.dtype == bool
        assert np.array_equal(plane, mask_in[0])


@pytest.mark.parametrize("shape", [(5, 24, 32), (1, 5, 24, 32), (5, 1, 24, 32)])
def test_one_plane_per_channel_whatever_the_order_of_the_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """FITS writers put STOKES before or after FREQ."""
    mask_in = drawn(5)
    path = write_mask(tmp_path / "mask.fits", mask_in.reshape(shape).astype("f4"), sky_header())
    mask = pickle.loads(pickle.dumps(load_mask(path, GEOMETRY, AXIS)))
    for channel in range(5):
        assert np.array_equal(mask.plane(channel), mask_in[channel])


def test_only_finite_values_other_than_zero_count(tmp_path: Path) -> None:
    data = np.zeros((24, 32), dtype="f4")
    data[0, :5] = [1, -0.5, np.nan, np.inf, 1e-30]
    mask = load_mask(write_mask(tmp_path / "mask.fits", data), GEOMETRY, AXIS)
    assert mask.plane(0)[0, :6].tolist() == [True, True, False, False, True, False]
    assert mask.plane(0).sum() == 3


def test_scaled_integers_count_by_their_physical_value(tmp_path: Path) -> None:
    """BZERO=32768 (unsigned 16 bit): the stored -32768 means 0."""
    mask_in = drawn(5)
    path = write_mask(tmp_path / "mask.fits", mask_in.astype("u2"))
    assert np.array_equal(load_mask(path, GEOMETRY, AXIS).plane(3), mask_in[3])


def test_image_in_an_extension_or_compressed_file_is_found(tmp_path: Path) -> None:
    mask_in = drawn(5).astype("u1")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(mask_in)]).writeto(tmp_path / "extension.fits")
    fits.PrimaryHDU(mask_in).writeto(tmp_path / "packed.fits.gz")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(mask_in)]).writeto(tmp_path / "tiled.fits")
    for name in ("extension.fits", "packed.fits.gz", "tiled.fits"):
        assert np.array_equal(load_mask(tmp_path / name, GEOMETRY, AXIS).plane(4), mask_in[4] != 0)


def test_plane_of_a_large_mask_costs_the_memory_of_a_plane(tmp_path: Path) -> None:
    geometry = ImageGeometry(nx=512, ny=512, cell_x=CELL, cell_y=CELL, centre=Direction(ra=0.0, dec=0.0))
    axis = SpectralAxis(frequency=np.arange(64) + 1e9, width=np.ones(64), frame=FRAMES["LSRK"], restfreq=None)
    path = write_mask(tmp_path / "mask.fits", np.ones((64, 512, 512), dtype="f4"))
    tracemalloc.start()
    assert load_mask(path, geometry, axis).plane(63).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the plane as float32 and four boolean planes are 2.1 MB, the whole mask is 67 MB
    assert peak < 8e6


@pytest.mark.parametrize(
    ("shape", "text"),
    [((24, 30), "24x30"), ((32, 24), "32x24"), ((4, 24, 32), "4x24x32"), ((2, 5, 24, 32), "2x5x24x32"), ((32,), "32")],
)
def test_other_shapes_are_refused_with_both_shapes(tmp_path: Path, shape: tuple[int, ...], text: str) -> None:
    path = write_mask(tmp_path / "mask.fits", np.ones(shape, dtype="f4"))
    with pytest.raises(GpucubeError, match=rf"mask.fits has shape {text} .* cube is 5x24x32") as caught:
        load_mask(path, GEOMETRY, AXIS)
    assert "\n" not in str(caught.value)


def test_a_plane_per_stokes_parameter_is_not_a_plane_per_channel(tmp_path: Path) -> None:
    axis = SpectralAxis(frequency=AXIS.frequency[:4], width=AXIS.width[:4], frame=FRAMES["LSRK"], restfreq=None)
    path = write_mask(tmp_path / "mask.fits", np.ones((4, 24, 32), dtype="f4"), sky_header(CTYPE3="STOKES"))
    with pytest.raises(GpucubeError, match="one such plane per channel"):
        load_mask(path, GEOMETRY, axis)


@pytest.mark.parametrize(
    "changes",
    [
        {"CRPIX1": 16.0},
        {"CRPIX2": 13.2},
        {"CRVAL1": 68.6},
        {"CRVAL2": -28.0},
        {"CDELT1": 2 / 3600},
        {"CDELT2": 2.05 / 3600},
        {"CRVAL1": 248.5, "CRVAL2": -28.0},
    ],
    ids=["x", "tenths of y", "RA", "Dec", "mirrored", "cell", "antipode"],
)
def test_another_place_on_the_sky_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_mask(tmp_path / "mask.fits", np.ones((24, 32), dtype="f4"), sky_header(**changes))
    with pytest.raises(GpucubeError, match="elsewhere on the sky"):
        load_mask(path, GEOMETRY, AXIS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN"}, "GLON GLAT"), ({"RADESYS": "FK4", "EQUINOX": 1950.0}, "FK4")],
)
def test_another_sky_frame_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    path = write_mask(tmp_path / "mask.fits", np.ones((24, 32), dtype="f4"), sky_header(**changes))
    with pytest.raises(GpucubeError, match=rf"sky axes .*{named}.*cube's are RA DEC FK5"):
        load_mask(path, GEOMETRY, AXIS)


def test_a_twentieth_of_a_pixel_and_a_mask_without_sky_are_fine(tmp_path: Path) -> None:
    near = write_mask(tmp_path / "near.fits", np.ones((24, 32), dtype="f4"), sky_header(CRPIX1=17.05))
    bare = write_mask(tmp_path / "bare.fits", np.ones((24, 32), dtype="f4"))
    for path in (near, bare):
        assert load_mask(path, GEOMETRY, AXIS).plane(0).all()


def test_unreadable_files_are_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.fits").write_text("not FITS at all")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "empty.fits")
    for name, message in (("none.fits", "No such file"), ("text.fits", "as FITS"), ("empty.fits", "no image")):
        with pytest.raises(GpucubeError, match=message) as caught:
            load_mask(tmp_path / name, GEOMETRY, AXIS)
        assert "\n" not in str(caught.value) and name in str(caught.value)
