"""Everything that may be given as `mask`: images of FITS and CASA, thresholds, regions, and several of these together.

casacore's own conversion from FITS is the oracle for CASA images.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from casacore import images

from gpucube.data.clean_mask import CleanMask, load_clean_mask
from gpucube.errors import GpucubeError
from gpucube.output.fingerprint import difference, fingerprint
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

CELL = np.radians(2 / 3600)
CENTRE = Direction(ra=np.radians(68.5), dec=np.radians(28.0))
GEOMETRY = ImageGeometry(nx=32, ny=24, cell_x=CELL, cell_y=CELL, centre=CENTRE)
AXIS = SpectralAxis(frequency=86e9 + 1e5 * np.arange(5), width=np.full(5, 1e5), frame=FRAMES["LSRK"], restfreq=86.2e9)
CIRCLE = "circle[[16pix,12pix],4pix]"


def load(*items: str) -> CleanMask:
    return pickle.loads(pickle.dumps(load_clean_mask(items, GEOMETRY, AXIS)))


def planes(mask: CleanMask) -> np.ndarray:
    return np.array([mask.plane(channel) for channel in range(AXIS.nchan)])


@pytest.fixture
def cube(tmp_path: Path) -> Callable[..., Path]:
    """Writes a cube of fluxes on the grid above, 4 axes, the frequencies from high to low."""

    def write(**changes: Any) -> Path:
        header = fits.Header(
            {
                "CTYPE1": "RA---SIN", "CRVAL1": 68.5, "CDELT1": -2 / 3600, "CRPIX1": 17.0, "CUNIT1": "deg",
                "CTYPE2": "DEC--SIN", "CRVAL2": 28.0, "CDELT2": 2 / 3600, "CRPIX2": 13.0, "CUNIT2": "deg",
                "CTYPE3": "STOKES", "CRVAL3": 1.0, "CDELT3": 1.0, "CRPIX3": 1.0,
                "CTYPE4": "FREQ", "CRVAL4": 86.0004e9, "CDELT4": -1e5, "CRPIX4": 1.0, "CUNIT4": "Hz",
                "RADESYS": "FK5", "EQUINOX": 2000.0, "SPECSYS": "LSRK", "RESTFRQ": 86.2e9,
            } | changes
        )  # fmt: skip
        values = np.random.default_rng(1).normal(size=(5, 1, 24, 32)).astype("f4")
        values[:, :, :12] = 0
        fits.PrimaryHDU(values, header).writeto(tmp_path / "cube.fits")
        return tmp_path / "cube.fits"

    return write


def as_casa_image(path: Path) -> Path:
    folder = path.with_suffix(".mask")
    images.image(str(path)).saveas(str(folder))
    return folder


def test_a_casa_image_is_the_mask_that_it_is_as_fits(cube: Callable[..., Path]) -> None:
    path = cube()
    by_fits = planes(load(str(path)))
    assert by_fits.any() and not by_fits.all()
    np.testing.assert_array_equal(planes(load(str(as_casa_image(path)))), by_fits)


@pytest.mark.parametrize(
    "changes",
    [
        {"CRPIX1": 11.0, "CDELT1": -3 / 3600, "CDELT2": 3 / 3600},
        {"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN", "CRVAL1": 171.4236, "CRVAL2": -13.2634},
        {"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN", "CRVAL1": 71.0174, "CRVAL2": 5.9672},
        {"RADESYS": "FK4", "EQUINOX": 1950.0, "CRVAL1": 67.7224, "CRVAL2": 27.8962},
        {"RADESYS": "ICRS", "CRVAL1": 68.502, "PV2_1": 0.0, "PV2_2": 0.02},
    ],
    ids=["cell", "galactic", "ecliptic", "B1950", "oblique"],
)
def test_a_casa_image_on_other_pixels_is_the_mask_that_it_is_as_fits(
    changes: dict[str, Any], cube: Callable[..., Path]
) -> None:
    path = cube(**changes)
    by_fits = planes(load(f"{path} > 0.5"))
    assert by_fits.any()
    np.testing.assert_array_equal(planes(load(f"{as_casa_image(path)} > 0.5")), by_fits)


def test_pixels_that_a_casa_image_masks_do_not_count(cube: Callable[..., Path]) -> None:
    folder = as_casa_image(cube())
    image = images.image(str(folder))
    masked = np.zeros((5, 1, 24, 32), bool)
    masked[:, :, 18:] = True
    image.putmask(masked)
    del image
    allowed = planes(load(str(folder)))
    assert allowed[:, 12:18].all() and not allowed[:, 18:].any()


def test_a_folder_that_is_no_image_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(GpucubeError, match="as a CASA image") as caught:
        load(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("casa", [False, True])
@pytest.mark.parametrize(
    ("expression", "holds"),
    [("{} > 0.5", np.greater), ("{}>=0", np.greater_equal), ('"{}"<-0.5', np.less), ("{} <= -5e-1", np.less_equal)],
)
def test_a_threshold_on_an_image_selects_the_pixels_beyond_it(
    expression: str, holds: Any, casa: bool, cube: Callable[..., Path]
) -> None:
    path = cube()
    values = fits.getdata(path)[::-1, 0]  # in the order of the cube's channels
    level = float(expression.split("=")[-1].split(">")[-1].split("<")[-1])
    found = planes(load(expression.format(as_casa_image(path) if casa else path)))
    np.testing.assert_array_equal(found, holds(values, level))


@pytest.mark.parametrize(
    "text",
    [f"#CRTFv0\n{CIRCLE}\n", "# Region file format: DS9\nimage\ncircle(17,13,4)\n"],
    ids=["CRTF", "DS9"],
)
def test_a_file_of_regions_is_what_its_text_is(text: str, tmp_path: Path) -> None:
    (tmp_path / "drawn.txt").write_text(text)
    np.testing.assert_array_equal(planes(load(str(tmp_path / "drawn.txt"))), planes(load(CIRCLE)))


def test_several_masks_add_up(cube: Callable[..., Path]) -> None:
    path, box = str(cube()), "box[[0pix,0pix],[5pix,5pix]], range=[0chan,1chan]"
    each = [planes(load(item)) for item in (path, CIRCLE, box)]
    np.testing.assert_array_equal(planes(load(path, CIRCLE, box)), np.logical_or.reduce(each))


def test_a_run_is_not_resumed_with_other_regions_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "drawn.crtf"
    path.write_text(CIRCLE)

    def now(mask: Any) -> dict[str, Any]:
        return fingerprint({"vis": [], "imagename": "a", "mask": mask}, "cpu", "1")

    before, of_text = now([str(path), f"{path} > 0"]), now(CIRCLE)
    assert not difference(before, now([str(path), f"{path} > 0"]))
    path.write_text("#\n" + CIRCLE)
    assert "drawn.crtf has changed" in difference(before, now([str(path), f"{path} > 0"]))
    assert "mask was" in difference(of_text, now(CIRCLE.replace("4pix", "5pix")))
