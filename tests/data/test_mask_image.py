"""The clean mask of the user: any FITS image is placed by its coordinates, or refused in one line."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK4
from astropy.io import fits
from astropy.wcs import WCS

from gpucube.data.mask_image import MaskImage, load_mask
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


@pytest.mark.parametrize("order", [("STOKES", "FREQ"), ("FREQ", "STOKES")])
def test_a_mask_with_stokes_parameters_has_one_for_each(tmp_path: Path, order: tuple[str, str]) -> None:
    """As gpucube and tclean write it; a cube in I takes that of I."""
    mask_in = drawn(20).reshape(4, 5, 24, 32)
    cards: dict[str, Any] = {"CTYPE4": order[0], "CTYPE3": order[1], "SPECSYS": "LSRK"}
    spectral, stokes = (3, 4) if order[1] == "FREQ" else (4, 3)
    cards |= {f"CRVAL{spectral}": 86e9, f"CDELT{spectral}": 1e5, f"CRPIX{spectral}": 1.0}
    cards |= {f"CRVAL{stokes}": 1.0, f"CDELT{stokes}": 1.0, f"CRPIX{stokes}": 1.0}
    written = mask_in if order[0] == "STOKES" else mask_in.swapaxes(0, 1)
    path = write_mask(tmp_path / "mask.fits", written.astype("f4"), sky_header(**cards))
    mask = load_mask(path, GEOMETRY, AXIS, stokes=("I", "V"))
    for channel in range(5):
        assert np.array_equal(mask.plane(channel, "I"), mask_in[0, channel])
        assert np.array_equal(mask.plane(channel, "V"), mask_in[3, channel])
    assert np.array_equal(load_mask(path, GEOMETRY, AXIS, stokes=("pseudoI",)).plane(2, "pseudoI"), mask_in[0, 2])


def test_stokes_parameters_that_the_mask_lacks_are_named(tmp_path: Path) -> None:
    cards: dict[str, Any] = {"CTYPE3": "STOKES", "CRVAL3": 1.0, "CDELT3": 3.0, "CRPIX3": 1.0}
    path = write_mask(tmp_path / "mask.fits", np.ones((2, 24, 32), dtype="f4"), sky_header(**cards))
    with pytest.raises(GpucubeError, match=r"mask.fits has Stokes I, V and the cube I, Q: expected one plane for all"):
        load_mask(path, GEOMETRY, AXIS, stokes=("I", "Q"))


# Masks on other pixels

DEGREE = 1 / 3600
GRIDS: dict[str, tuple[tuple[int, int], dict[str, Any], str]] = {
    "half the cell": ((48, 64), {"CDELT1": -DEGREE, "CDELT2": DEGREE, "CRPIX1": 33.0, "CRPIX2": 25.0}, "fk5"),
    "a part of the image": ((10, 12), {"CRPIX1": 9.0, "CRPIX2": 3.0}, "fk5"),
    "larger, tenths of pixels off": ((50, 40), {"CRPIX1": 20.3, "CRPIX2": 24.4}, "fk5"),
    "another centre and projection": (
        (70, 90),
        {"CRVAL1": 68.51, "CRVAL2": 27.99, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 30.2, "CRPIX2": 44.9},
        "fk5",
    ),
    "mirrored": ((24, 32), {"CDELT1": 2 * DEGREE, "CRPIX1": 15.7}, "fk5"),
    "turned": ((40, 40), {"PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8, "CRPIX1": 20.2}, "fk5"),
    "ICRS": ((40, 40), {"RADESYS": "ICRS", "CRPIX1": 20.2, "CRPIX2": 20.3}, "icrs"),
    "galactic": (
        (30, 30),
        {"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR", "CRVAL1": 171.4236, "CRVAL2": 0.0, "CDELT1": -5 * DEGREE,
         "CDELT2": 5 * DEGREE, "CRPIX1": 15.0, "CRPIX2": 15.0 + 13.2634 / (5 * DEGREE)},
        "galactic",
    ),
    "B1950": (
        (30, 30),
        {"RADESYS": "FK4", "EQUINOX": 1950.0, "CRVAL1": 67.7224, "CRVAL2": 27.8962, "CDELT1": -3.7 * DEGREE,
         "CDELT2": 3.7 * DEGREE, "CRPIX1": 15.0},
        "fk4",
    ),
    "B1950 of AIPS": (
        (30, 30),
        {"RADESYS": None, "EQUINOX": None, "EPOCH": 1950.0, "CRVAL1": 67.7224, "CRVAL2": 27.8962, "CDELT1": -3.7 * DEGREE,
         "CDELT2": 3.7 * DEGREE, "CRPIX1": 15.0},
        "fk4",
    ),
}  # fmt: skip


def in_mask(shape: tuple[int, int], header: fits.Header, frame: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """astropy: the nearest pixels (y, x) of a mask at the pixel centres of the cube, and where they are beyond doubt.

    Frames of astropy are up to 0.5 arcsec away from casacore's (the galactic pole), a tenth of the pixels in these frames.
    """
    x, y = np.meshgrid(np.arange(32), np.arange(24))
    sky = WCS(sky_header()).pixel_to_world(x, y)
    there = sky.transform_to(FK4(equinox="B1950", obstime="J2000") if frame == "fk4" else frame)
    pixels = WCS(header).celestial.wcs_world2pix(there.spherical.lon.deg, there.spherical.lat.deg, 0)
    nearest = [np.floor(p + 0.5).astype(int) for p in pixels[::-1]]
    doubtful = np.any([np.abs(p - np.floor(p) - 0.5) < 0.13 for p in pixels], axis=0) & (frame in ("fk4", "galactic"))
    doubtful |= np.any([np.abs(p - np.floor(p) - 0.5) < 0.02 for p in pixels], axis=0)
    return nearest[0], nearest[1], ~doubtful


@pytest.mark.parametrize("grid", GRIDS)
def test_a_pixel_takes_the_nearest_pixel_of_a_mask_on_other_pixels(tmp_path: Path, grid: str) -> None:
    shape, cards, frame = GRIDS[grid]
    header = sky_header(**{name: value for name, value in cards.items() if value is not None})
    for name in (name for name, value in cards.items() if value is None):
        del header[name]
    mask_in = np.random.default_rng(5).random(shape) < 0.4
    path = write_mask(tmp_path / "mask.fits", mask_in.astype("f4"), header)
    mask = pickle.loads(pickle.dumps(load_mask(path, GEOMETRY, AXIS)))
    y, x, sure = in_mask(shape, header, frame)
    inside = (y >= 0) & (y < shape[0]) & (x >= 0) & (x < shape[1])
    expected = inside & mask_in[np.clip(y, 0, shape[0] - 1), np.clip(x, 0, shape[1] - 1)]
    assert sure.mean() > 0.5 and expected[sure].any()
    assert np.array_equal(mask.plane(3)[sure], expected[sure])
    warned = [line for line in mask.warnings if "pixels: the others are outside the mask" in line]
    assert bool(warned) == (not inside.all())


def test_a_mask_that_is_written_anew_is_found_at_its_new_place(tmp_path: Path) -> None:
    """In one process, under the same name and with the same shape."""
    mask_in = np.zeros((24, 32), "f4")
    mask_in[8, 20] = 1
    places = []
    for number, ra in enumerate((68.501, 68.504)):
        header = sky_header(CRVAL1=ra)
        fits.writeto(tmp_path / "mask.fits", mask_in, header, overwrite=True)
        other = write_mask(tmp_path / f"{number}.fits", mask_in, header)
        allowed = load_mask(tmp_path / "mask.fits", GEOMETRY, AXIS).plane(0)
        assert np.array_equal(allowed, load_mask(other, GEOMETRY, AXIS).plane(0))
        places.append(np.argwhere(allowed).tolist())
    assert places[0] != places[1]


def test_a_cube_of_masks_on_other_pixels_keeps_its_channels(tmp_path: Path) -> None:
    mask_in = np.zeros((5, 48, 64), "f4")
    mask_in[np.arange(5), 0, 2 * np.arange(5)] = 1  # marks plane j in pixel (0, j) of the cube
    header = spectral_header(CDELT1=-DEGREE, CDELT2=DEGREE, CRPIX1=33.0, CRPIX2=25.0, CRVAL3=86.0004e9, CDELT3=-1e5)
    mask = load_mask(write_mask(tmp_path / "mask.fits", mask_in, header), GEOMETRY, LSRK)
    assert [np.argwhere(mask.plane(n)).tolist() for n in range(5)] == [[[0, 4 - n]] for n in range(5)]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"CRVAL1": 68.6}, "lies elsewhere on the sky: it does not overlap"),
        ({"CRVAL2": -28.0}, "lies elsewhere on the sky"),
        ({"CRVAL1": 248.5, "CRVAL2": -28.0}, "lies elsewhere on the sky"),
        ({"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN"}, "lies elsewhere on the sky"),
        ({"RADESYS": "FK4", "EQUINOX": 1950.0}, "lies elsewhere on the sky"),
        ({"EQUINOX": 1975.0}, "sky axes RA DEC FK5 of equinox 1975: expected FK5 of equinox 2000, FK4 of equinox 1950"),
        ({"RADESYS": "FK4-NO-E", "EQUINOX": 1950.0}, "sky axes RA DEC FK4-NO-E: expected"),
        ({"CTYPE1": "DEC--SIN", "CTYPE2": "RA---SIN"}, "longitude and latitude as its axes 2 and 1: expected 1 and 2"),
        ({"CDELT1": 0.0}, "coordinates that cannot be read"),
        ({"CTYPE2": "DEC--TAN"}, "coordinates that cannot be read"),
        ({"CRVAL1": 1e300}, "coordinates that cannot be read|lies elsewhere on the sky"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_another_place_on_the_sky_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    path = write_mask(tmp_path / "mask.fits", np.ones((20, 30), dtype="f4"), sky_header(**changes))
    with pytest.raises(GpucubeError, match=line) as caught:
        load_mask(path, GEOMETRY, AXIS)
    assert "\n" not in str(caught.value)


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


# Celestial frames

FINE = ImageGeometry(
    nx=32, ny=24, cell_x=math.radians(5e-3 / 3600), cell_y=math.radians(5e-3 / 3600), centre=GEOMETRY.centre
)
"""Pixels of 5 mas: FK5 and ICRS are some 20 mas apart."""
FINE_CELLS: dict[str, Any] = {"CDELT1": -5e-3 / 3600, "CDELT2": 5e-3 / 3600}


def test_icrs_and_fk5_differ_where_pixels_are_small(tmp_path: Path) -> None:
    icrs: dict[str, Any] = {"RADESYS": "ICRS", **FINE_CELLS}
    same_numbers = write_mask(tmp_path / "same.fits", np.ones((24, 32), "f4"), sky_header(**icrs))
    assert load_mask(same_numbers, FINE, AXIS).warnings, "its edges lie inside the image"
    # FINE's centre as casatools 6.7 converts it from J2000
    icrs |= {"CRVAL1": math.degrees(1.1955505002458249), "CRVAL2": math.degrees(0.4886922508445365)}
    same_place = write_mask(tmp_path / "place.fits", np.ones((24, 32), "f4"), sky_header(**icrs))
    assert load_mask(same_place, FINE, AXIS).plane(0).all()


def test_a_cube_in_b1950_takes_its_own_masks_and_those_in_j2000(tmp_path: Path) -> None:
    cube = replace(GEOMETRY, centre=Direction(ra=math.radians(187.5), dec=math.radians(30), frame="FK4", year=1979.9))
    own = sky_header(CRVAL1=187.5, CRVAL2=30.0, RADESYS="FK4", EQUINOX=1950.0)
    # casatools 6.7: where B1950_VLA (187.5, 30) lies in J2000; the pixels there are turned by 157 arcsec
    where = {"CRVAL1": math.degrees(3.283295321191), "CRVAL2": math.degrees(0.518786314384)}
    for name, header in (("own", own), ("j2000", sky_header(**where))):
        path = write_mask(tmp_path / f"{name}.fits", np.ones((24, 32), "f4"), header)
        assert load_mask(path, cube, AXIS).plane(0).all()
    same_numbers = write_mask(tmp_path / "same.fits", np.ones((24, 32), "f4"), sky_header(CRVAL1=187.5, CRVAL2=30.0))
    with pytest.raises(GpucubeError, match="elsewhere on the sky"):
        load_mask(same_numbers, cube, AXIS)


def test_j2000_is_another_name_of_fk5(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "mask.fits", np.ones((24, 32), "f4"), sky_header(RADESYS="J2000", **FINE_CELLS))
    assert load_mask(path, FINE, AXIS).plane(0).all()


def test_icrs_and_fk5_are_one_where_pixels_are_large(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "mask.fits", np.ones((24, 32), "f4"), sky_header(RADESYS="ICRS"))
    assert load_mask(path, GEOMETRY, AXIS).plane(0).all()


def test_a_mask_that_names_no_celestial_frame_has_the_cubes(tmp_path: Path) -> None:
    header = sky_header(**FINE_CELLS)
    del header["RADESYS"], header["EQUINOX"]
    assert load_mask(write_mask(tmp_path / "mask.fits", np.ones((24, 32), "f4"), header), FINE, AXIS).plane(0).all()


# Channels: every mask below marks its plane j by the pixel (0, j)

RESTFREQ = 86.3e9
LSRK = SpectralAxis(frequency=AXIS.frequency, width=AXIS.width, frame=FRAMES["LSRK"], restfreq=RESTFREQ)
FALLING = SpectralAxis(frequency=AXIS.frequency[::-1], width=AXIS.width, frame=FRAMES["LSRK"], restfreq=RESTFREQ)
IN_ORDER = [[0], [1], [2], [3], [4]]
BACKWARDS = IN_ORDER[::-1]


def marked(nplane: int) -> np.ndarray:
    planes = np.zeros((nplane, 24, 32), "f4")
    planes[np.arange(nplane), 0, np.arange(nplane)] = 1
    return planes


def spectral_header(**changes: Any) -> fits.Header:
    """A mask header with the frequencies of `LSRK`, unless it is changed."""
    cards: dict[str, Any] = {"CTYPE3": "FREQ", "CRVAL3": 86e9, "CDELT3": 1e5, "CRPIX3": 1.0, "CUNIT3": "Hz"}
    return sky_header(**(cards | {"SPECSYS": "LSRK", "RESTFRQ": RESTFREQ} | changes))


def placed(
    tmp_path: Path, axis: SpectralAxis = LSRK, nplane: int = 5, **changes: Any
) -> tuple[MaskImage, list[list[int]]]:
    """The mask, and the planes that each channel of `axis` got."""
    path = tmp_path / "mask.fits"
    fits.PrimaryHDU(marked(nplane), spectral_header(**changes)).writeto(path, overwrite=True)
    mask = pickle.loads(pickle.dumps(load_mask(path, GEOMETRY, axis)))
    return mask, [np.flatnonzero(mask.plane(channel)[0]).tolist() for channel in range(axis.nchan)]


@pytest.mark.parametrize(
    ("changes", "planes"),
    [
        ({}, IN_ORDER),
        ({"CRVAL3": 86.0004e9, "CDELT3": -1e5}, BACKWARDS),
        ({"CRVAL3": 86.0002e9, "CRPIX3": 3.0}, IN_ORDER),
        ({"CRVAL3": 86.0e6, "CDELT3": 100.0, "CUNIT3": "kHz"}, IN_ORDER),
        ({"CRVAL3": 86.0e3, "CDELT3": 0.1, "CUNIT3": "MHZ"}, IN_ORDER),
        ({"CRVAL3": 86.0, "CDELT3": 1e-4, "CUNIT3": "GHz"}, IN_ORDER),
        ({"CTYPE3": "freq", "CUNIT3": ""}, IN_ORDER),
        ({"CTYPE3": "FREQ-LSR", "SPECSYS": ""}, IN_ORDER),
        ({"CD3_3": -1e5, "CD1_1": -2 / 3600, "CD2_2": 2 / 3600, "CRVAL3": 86.0004e9}, BACKWARDS),
        ({"CTYPE4": "STOKES", "CRPIX4": 1.0, "CRVAL4": 1.0, "CDELT4": 1.0}, IN_ORDER),
        ({"CRVAL3": 86.00005e9 + 5e3}, IN_ORDER[:0] + [[0], [0, 1], [1, 2], [2, 3], [3, 4]]),
    ],
    ids=[
        "same",
        "reversed",
        "CRPIX3",
        "kHz",
        "MHZ",
        "GHz",
        "lower case",
        "AIPS",
        "CD matrix",
        "axis dropped",
        "half a channel off",
    ],
)
def test_planes_are_placed_by_frequency(tmp_path: Path, changes: dict[str, Any], planes: list[list[int]]) -> None:
    assert placed(tmp_path, **changes)[1] == planes


def velocity(frequency: float, convention: Callable[..., Any]) -> float:
    return float((frequency * u.Hz).to_value(u.m / u.s, convention(RESTFREQ * u.Hz)))


FIRST, LAST = AXIS.frequency[[0, -1]]
RADIO: dict[str, Any]
OPTICAL: dict[str, Any]
RELATIVISTIC: dict[str, Any]
RADIO, OPTICAL, RELATIVISTIC = (
    {"CRVAL3": velocity(FIRST, convention), "CDELT3": (velocity(LAST, convention) - velocity(FIRST, convention)) / 4}
    for convention in (u.doppler_radio, u.doppler_optical, u.doppler_relativistic)
)
KILOMETRES: dict[str, Any] = {name: value / 1000 for name, value in RADIO.items()}
REDSHIFT = {name: value / 299792458 for name, value in OPTICAL.items()}
WAVELENGTH = {"CRVAL3": 299792458e3 / FIRST, "CDELT3": (299792458e3 / LAST - 299792458e3 / FIRST) / 4}
# the index of refraction of air is 1.0002876155 at radio wavelengths (WCS paper III, section 4)
IN_AIR = {name: value / 1.0002876155 for name, value in WAVELENGTH.items()}


@pytest.mark.parametrize(
    ("axis", "cards"),
    [
        ({"CTYPE3": "VRAD", "CUNIT3": "m/s"}, RADIO),
        ({"CTYPE3": "VRAD", "CUNIT3": "km/s"}, KILOMETRES),
        ({"CTYPE3": "VRAD", "CUNIT3": "KM/S"}, KILOMETRES),
        ({"CTYPE3": "VELO-LSR", "CUNIT3": "m/s", "VELREF": 257}, RADIO),
        ({"CTYPE3": "VELO", "CUNIT3": "m/s", "VELREF": 257}, RADIO),
        ({"CTYPE3": "VOPT", "CUNIT3": "m/s"}, OPTICAL),
        ({"CTYPE3": "VOPT-F2W", "CUNIT3": "m/s"}, OPTICAL),
        ({"CTYPE3": "FELO-LSR", "CUNIT3": "m/s"}, OPTICAL),
        ({"CTYPE3": "ZOPT", "CUNIT3": ""}, REDSHIFT),
        ({"CTYPE3": "VELO", "CUNIT3": "m/s"}, RELATIVISTIC),
        ({"CTYPE3": "WAVE", "CUNIT3": "mm"}, WAVELENGTH),
        ({"CTYPE3": "AWAV", "CUNIT3": "mm"}, IN_AIR),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if "CTYPE3" in value else "",
)
def test_velocities_and_wavelengths_are_frequencies(
    tmp_path: Path, axis: dict[str, Any], cards: dict[str, Any]
) -> None:
    """astropy.units gives the velocities of the channels; over five channels every axis is straight."""
    assert placed(tmp_path, **axis, **cards)[1] == IN_ORDER
    assert placed(tmp_path, FALLING, **axis, **cards)[1] == BACKWARDS


def test_an_axis_linear_in_frequency_but_given_in_velocity_is_followed_over_a_wide_band(tmp_path: Path) -> None:
    """VOPT-F2W from 80 to 110 GHz: a straight line in velocity would be many channels off."""
    wide = SpectralAxis(
        frequency=80e9 + 1e9 * np.arange(31), width=np.full(31, 1e9), frame=FRAMES["LSRK"], restfreq=RESTFREQ
    )
    step = -299792458 * RESTFREQ / 80e9**2 * 1e9  # dv/df at the first channel
    cards: dict[str, Any] = {"CRVAL3": velocity(80e9, u.doppler_optical), "CDELT3": step, "CUNIT3": "m/s"}
    assert placed(tmp_path, wide, 31, CTYPE3="VOPT-F2W", **cards)[1] == [[n] for n in range(31)]


@pytest.mark.parametrize("cards", [{"RESTFREQ": RESTFREQ}, {"RESTWAV": 299792458 / RESTFREQ}])
def test_a_rest_frequency_goes_by_several_names_and_the_masks_own_counts(tmp_path: Path, cards: dict[str, Any]) -> None:
    other = SpectralAxis(frequency=AXIS.frequency, width=AXIS.width, frame=FRAMES["LSRK"], restfreq=115e9)
    mask, planes = placed(tmp_path, other, CTYPE3="VRAD", CUNIT3="m/s", RESTFRQ=0.0, **RADIO, **cards)
    assert planes == IN_ORDER and not mask.warnings


def test_a_velocity_without_rest_frequency_takes_the_cubes_with_a_warning(tmp_path: Path) -> None:
    mask, planes = placed(tmp_path, CTYPE3="VRAD", CUNIT3="m/s", RESTFRQ=0.0, **RADIO)
    assert planes == IN_ORDER
    assert len(mask.warnings) == 1 and "no RESTFRQ: the cube's is used, 86.300000 GHz" in mask.warnings[0]
    with pytest.raises(GpucubeError, match="add RESTFRQ to its header, or give `restfreq`"):
        placed(tmp_path, AXIS, CTYPE3="VRAD", CUNIT3="m/s", RESTFRQ=0.0, **RADIO)


@pytest.mark.parametrize("shape", [(5, 1, 24, 32), (1, 5, 24, 32)])
def test_a_stokes_axis_of_length_one_may_stand_before_or_after(tmp_path: Path, shape: tuple[int, ...]) -> None:
    spectral, stokes = (4, 3) if shape[0] == 5 else (3, 4)
    header = sky_header(SPECSYS="LSRK")
    for name, value in {"CTYPE": "FREQ", "CRVAL": 86.0004e9, "CDELT": -1e5, "CRPIX": 1.0, "CUNIT": "Hz"}.items():
        header[f"{name}{spectral}"] = value
    for name, value in {"CTYPE": "STOKES", "CRVAL": 1.0, "CDELT": 1.0, "CRPIX": 1.0}.items():
        header[f"{name}{stokes}"] = value
    mask = load_mask(write_mask(tmp_path / "mask.fits", marked(5).reshape(shape), header), GEOMETRY, LSRK)
    assert [np.flatnonzero(mask.plane(channel)[0]).tolist() for channel in range(5)] == BACKWARDS


def test_a_plane_with_a_wide_channel_serves_all_channels_inside_it(tmp_path: Path) -> None:
    """Channels twice as wide, as of a cube made with `width=2`, in both directions of both axes."""
    rising: dict[str, Any] = {"CRVAL3": 86e9 + 0.5e5, "CDELT3": 2e5}
    falling: dict[str, Any] = {"CRVAL3": 86e9 + 4.5e5, "CDELT3": -2e5}
    for changes, planes in ((rising, [[0], [0], [1], [1], [2]]), (falling, [[2], [2], [1], [1], [0]])):
        mask, found = placed(tmp_path, nplane=3, **changes)
        assert found == planes and not mask.warnings
        assert placed(tmp_path, FALLING, 3, **changes)[1] == planes[::-1]


def test_a_channel_is_cleaned_where_any_of_the_narrow_planes_inside_it_allows(tmp_path: Path) -> None:
    """A mask at full resolution for a cube made with `width=-2`: channels that fall in frequency."""
    wide = SpectralAxis(
        frequency=86e9 + 0.5e5 + 2e5 * np.arange(3)[::-1], width=np.full(3, 2e5), frame=FRAMES["LSRK"], restfreq=None
    )
    mask, found = placed(tmp_path, wide, nplane=6)
    assert found == [[4, 5], [2, 3], [0, 1]] and not mask.warnings


@pytest.mark.parametrize("off", [-0.09, 0.09])
def test_a_tenth_of_a_channel_off_is_the_same_channel(tmp_path: Path, off: float) -> None:
    mask, found = placed(tmp_path, CRVAL3=86e9 + off * 1e5)
    assert found == IN_ORDER and not mask.warnings


def test_a_single_channel_takes_its_plane_out_of_a_mask_cube(tmp_path: Path) -> None:
    single = SpectralAxis(frequency=AXIS.frequency[3:4], width=AXIS.width[3:4], frame=FRAMES["LSRK"], restfreq=None)
    assert placed(tmp_path, single)[1] == [[3]]


def test_planes_across_the_edge_of_a_channel_all_count_with_a_warning(tmp_path: Path) -> None:
    mask, found = placed(tmp_path, CRVAL3=86e9 + 0.3e5, nplane=6)
    assert found == [[0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert len(mask.warnings) == 1
    assert (
        "planes of 100 kHz that are not aligned with the cube's channels of 100 kHz: 5 channels (0~4)"
        in mask.warnings[0]
    )


def test_a_mask_may_be_longer_than_the_cube(tmp_path: Path) -> None:
    mask, found = placed(tmp_path, nplane=9, CRVAL3=86e9 - 2e5)
    assert found == [[2], [3], [4], [5], [6]] and not mask.warnings


def test_channels_outside_the_mask_are_not_cleaned_with_a_warning(tmp_path: Path) -> None:
    mask, found = placed(tmp_path, nplane=3, CRVAL3=86e9 + 1e5)
    assert found == [[], [0], [1], [2], []]
    assert len(mask.warnings) == 1 and "covers 3 of the cube's 5 channels (1~3)" in mask.warnings[0]


def test_a_mask_of_another_band_is_refused_with_both_ranges(tmp_path: Path) -> None:
    ranges = r"covers 87\.999950 GHz to 88\.000450 GHz and the cube 85\.999950 GHz to 86\.000450 GHz"
    with pytest.raises(GpucubeError, match=ranges):
        placed(tmp_path, CRVAL3=88e9)


def test_one_plane_serves_every_channel_whatever_its_frequency(tmp_path: Path) -> None:
    """A mask drawn on a moment map or a continuum image keeps a spectral axis of length 1."""
    mask, found = placed(tmp_path, nplane=1, CRVAL3=90e9, SPECSYS="TOPOCENT")
    assert found == [[0]] * 5 and not mask.warnings


@pytest.mark.parametrize("ctype", ["", "LINEAR", "CHANNEL"])
def test_planes_without_a_spectral_coordinate_are_placed_by_index(tmp_path: Path, ctype: str) -> None:
    assert placed(tmp_path, CTYPE3=ctype, CUNIT3="", CDELT3=1.0)[1] == IN_ORDER
    with pytest.raises(GpucubeError, match=r"shape 4x24x32 .* cube is 5x24x32"):
        placed(tmp_path, nplane=4, CTYPE3=ctype, CUNIT3="", CDELT3=1.0)


@pytest.mark.parametrize("specsys", ["TOPOCENT", "BARYCENT", "LSRD"])
def test_frequencies_of_another_frame_are_refused(tmp_path: Path, specsys: str) -> None:
    with pytest.raises(GpucubeError, match=f"in the frame {specsys}, but the cube is in LSRK: regrid it to LSRK"):
        placed(tmp_path, SPECSYS=specsys)
    with pytest.raises(GpucubeError, match="in the frame BARYCENT"):
        placed(tmp_path, SPECSYS="", VELREF=258)  # AIPS's older keyword


def test_frames_that_differ_by_less_than_a_tenth_of_a_channel_are_one(tmp_path: Path) -> None:
    """The Sun moves by up to 16 m/s about the barycentre. 100 kHz are 349 m/s here, and 10 kHz 35 m/s."""
    bary, narrow = (
        SpectralAxis(frequency=86e9 + w * np.arange(5), width=np.full(5, w), frame=FRAMES["BARY"], restfreq=None)
        for w in (1e5, 1e4)
    )
    assert placed(tmp_path, bary, SPECSYS="HELIOCEN")[1] == IN_ORDER
    with pytest.raises(GpucubeError, match="frame HELIOCEN"):
        placed(tmp_path, narrow, SPECSYS="HELIOCEN", CDELT3=1e4)


def test_a_mask_that_names_no_spectral_frame_has_the_cubes_with_a_warning(tmp_path: Path) -> None:
    mask, found = placed(tmp_path, SPECSYS="")
    assert found == IN_ORDER
    assert len(mask.warnings) == 1 and "names no spectral frame (SPECSYS)" in mask.warnings[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"CTYPE3": "VELOCITY", "CUNIT3": "m/s"}, "VELOCITY, which is no spectral coordinate"),
        ({"CTYPE3": "FREQ-OHEL"}, "coordinates that cannot be read"),
        ({"CTYPE3": "FREQ-TAB"}, "coordinates that cannot be read"),
        ({"CUNIT3": "bogus"}, "coordinates that cannot be read .*bogus"),
        ({"CTYPE3": "VRAD"}, "coordinates that cannot be read .*Hz"),
        ({"CDELT3": 0.0}, "coordinates that cannot be read .*singular"),
        ({"PC3_1": 0.5}, "coordinates that cannot be read"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_an_axis_that_cannot_be_read_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(GpucubeError, match=text) as caught:
        placed(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_uneven_channels_are_placed_by_gpucubes_own_table_or_by_the_line_of_its_header(tmp_path: Path) -> None:
    """The header of such a cube holds a straight line, and its table CHANNELS the true frequencies."""
    offsets = np.array([0, 1, 2, 7, 8, 12]) * 1e5
    uneven = SpectralAxis(frequency=86e9 + offsets, width=np.full(6, 1e5), frame=FRAMES["LSRK"], restfreq=None)
    columns = [
        fits.Column("CHAN", "1J", array=np.arange(6)),
        fits.Column("FREQ", "1D", "Hz", array=uneven.frequency),
        fits.Column("WIDTH", "1D", "Hz", array=uneven.width),
    ]
    image = fits.PrimaryHDU(marked(6), spectral_header(CDELT3=2.4e5))
    for name, extensions in (
        ("own.fits", [fits.BinTableHDU.from_columns(columns, name="CHANNELS")]),
        ("line.fits", []),
    ):
        fits.HDUList([image, *extensions]).writeto(tmp_path / name)
        mask = load_mask(tmp_path / name, GEOMETRY, uneven)
        assert [np.flatnonzero(mask.plane(n)[0]).tolist() for n in range(6)] == [[n] for n in range(6)]
    inner = SpectralAxis(frequency=uneven.frequency[3:5], width=uneven.width[3:5], frame=FRAMES["LSRK"], restfreq=None)
    mask = load_mask(tmp_path / "own.fits", GEOMETRY, inner)
    assert [np.flatnonzero(mask.plane(n)[0]).tolist() for n in range(2)] == [[3], [4]]


def test_many_narrow_planes_cost_the_memory_of_one(tmp_path: Path) -> None:
    geometry = ImageGeometry(nx=512, ny=512, cell_x=CELL, cell_y=CELL, centre=GEOMETRY.centre)
    axis = SpectralAxis(frequency=np.array([1e9]), width=np.array([64e3]), frame=FRAMES["LSRK"], restfreq=None)
    header = spectral_header(CRVAL3=1e9 - 31.5e3, CDELT3=1e3, CRPIX1=257.0, CRPIX2=257.0)
    path = write_mask(tmp_path / "mask.fits", np.ones((64, 512, 512), dtype="f4"), header)
    mask = load_mask(path, geometry, axis)
    tracemalloc.start()
    assert mask.plane(0).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # as of one plane: float32 and a few boolean planes are 2.4 MB, the whole mask is 67 MB
    assert peak < 8e6
