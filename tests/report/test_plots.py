"""Plots show what is in the cube, the right way up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jobs import geometry
from matplotlib.backends.backend_agg import FigureCanvasAgg
from oracles import gaussian
from records import channel_record

from gpucube.constants import ARCSEC
from gpucube.output.fits_cube import create_cubes, write_beams, write_plane
from gpucube.output.fits_header import CubeDescription
from gpucube.output.records import StopCode
from gpucube.report.plots import (
    Cube,
    channel_maps,
    convergence,
    overview,
    read_cube,
    region_of_interest,
    shown_channels,
)
from gpucube.sky.beam import Beam
from gpucube.sky.frames import FRAMES
from gpucube.sky.spectral import SpectralAxis


def write_cube(folder: Path, planes: np.ndarray, beams: Beam | list[Beam | None], cell: float) -> str:
    """An image cube on disk; `beams` is one Beam for all channels or a list with one per channel."""
    nchan, ny, nx = planes.shape
    axis = SpectralAxis(
        frequency=1.42e9 + 1e4 * np.arange(nchan),
        width=np.full(nchan, 1e4),
        frame=FRAMES["LSRK"],
        restfreq=1.42040575e9,
    )
    per_channel = isinstance(beams, list)
    description = CubeDescription(
        geometry=geometry(nx, ny, cell), axis=axis, restoring_beam="channel" if per_channel else beams
    )
    written = create_cubes(folder / "cube", ["image"], description)["image"]
    for channel, plane in enumerate(planes):
        write_plane(written, 0, channel, plane.astype(np.float32))
    if per_channel:
        write_beams(written, [beams])
    return written.path


def cube_of(
    planes: np.ndarray, cell_x: float = 1.0, cell_y: float = 1.0, beams: list[Beam | None] | None = None
) -> Cube:
    return Cube(planes=planes, cell_x=cell_x, cell_y=cell_y, beams=beams or [None] * len(planes))


def test_cube_with_a_beam_per_channel_is_read(tmp_path: Path) -> None:
    beams = [Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3), None, Beam(bmaj=5 * ARCSEC, bmin=3 * ARCSEC, bpa=-0.4)]
    planes = np.arange(3 * 16 * 16, dtype=float).reshape(3, 16, 16)
    planes[1] = np.nan
    cube = read_cube(write_cube(tmp_path, planes, beams, cell=0.5))
    np.testing.assert_array_equal(cube.planes, planes)
    assert (cube.cell_x, cube.cell_y) == pytest.approx((0.5, 0.5))
    for channel in (0, 2):
        read, written = cube.beams[channel], beams[channel]
        # beams are stored as float32
        assert (read.bmaj, read.bmin, read.bpa) == pytest.approx((written.bmaj, written.bmin, written.bpa), rel=1e-6)


def test_cube_with_one_beam_is_read(tmp_path: Path) -> None:
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3)
    cube = read_cube(write_cube(tmp_path, np.zeros((2, 16, 16)), beam, cell=1.0))
    for read in cube.beams:
        assert (read.bmaj, read.bmin, read.bpa) == pytest.approx((beam.bmaj, beam.bmin, beam.bpa), rel=1e-6)


def test_flux_within_a_region_is_in_jansky() -> None:
    beam = Beam(bmaj=8 * ARCSEC, bmin=5 * ARCSEC, bpa=0.6)
    image = 2.5 * gaussian(geometry(cell_x=1.0), beam)
    cube = cube_of(np.stack([image, np.full((64, 64), np.nan)]), beams=[beam, None])
    found = cube.flux_within(np.ones((64, 64), bool))
    # summing a Gaussian over pixels a fifth of its width apart is exact to rounding
    assert found[0] == pytest.approx(2.5, rel=1e-6)
    assert np.isnan(found[1])


def test_map_has_east_to_the_left_and_the_beam_leans_towards_east() -> None:
    beam = Beam(bmaj=20 * ARCSEC, bmin=5 * ARCSEC, bpa=np.deg2rad(30))
    cube = cube_of(np.zeros((1, 64, 64)), beams=[beam])
    axes = channel_maps(cube, np.array([0]), ["x"], np.array([0.01])).axes[0]
    # 64 pixels of 1 arcsec; the centre of pixel 32 is the phase centre
    assert axes.get_xlim() == (32.5, -31.5)
    (ellipse,) = axes.patches
    turn = np.linspace(0, 2 * np.pi, 361)
    rim = np.stack([np.cos(turn), np.sin(turn)], 1) @ ellipse.get_patch_transform().get_matrix()[:2, :2].T
    east, north = rim[np.argmax(np.hypot(*rim.T))]
    assert np.hypot(east, north) == pytest.approx(10.0, rel=0.01)
    assert np.degrees(np.arctan2(east, north)) % 180 == pytest.approx(30.0, abs=1.0)


def test_maps_spread_over_the_line_and_not_over_the_noise() -> None:
    signal = np.full(40, 4.0)
    signal[10:30] = 50.0
    signal[35] = 90.0
    signal[20] = np.nan  # one channel without data does not break the line in two
    shown = shown_channels(signal, np.ones(40), 5)
    assert (shown[0], shown[-1]) == (10, 29)
    assert len(set(shown)) == 5
    assert 20 not in shown


def test_without_a_line_the_brightest_channels_are_shown() -> None:
    signal = np.array([4.0, 3.0, np.nan, 5.0, 4.5])
    np.testing.assert_array_equal(shown_channels(signal, np.ones(5), 2), [3, 4])
    assert len(shown_channels(signal, np.ones(5), 8)) == 4


def test_region_of_interest_holds_the_emission() -> None:
    planes = np.zeros((2, 100, 80))
    planes[0, 60, 30] = planes[1, 75, 35] = 1.0
    rows, columns = region_of_interest(planes, 0.5)
    assert rows.start <= 60 < 75 < rows.stop
    assert columns.start <= 30 < 35 < columns.stop
    assert rows.stop - rows.start == columns.stop - columns.start == 33
    assert region_of_interest(planes, 2.0) == (slice(0, 100), slice(0, 80))


@pytest.mark.filterwarnings("error")
def test_a_cube_without_any_data_still_gets_a_page(tmp_path: Path) -> None:
    cube = cube_of(np.full((3, 16, 16), np.nan))
    blank = np.full(3, np.nan)
    figure = overview(cube, np.arange(3.0), noise=blank, image_flux=blank, model_flux=blank)
    FigureCanvasAgg(figure)
    figure.savefig(tmp_path / "blank.png")
    assert (tmp_path / "blank.png").stat().st_size > 1000


def test_maps_of_rectangular_pixels_keep_their_proportions() -> None:
    planes = np.zeros((1, 32, 32))
    planes[0, 8, 16] = 1.0
    figure = channel_maps(cube_of(planes, 20.0, 10.0), np.array([0]), ["x"], np.array([0.01]))
    image = figure.axes[0].get_images()[0]
    east, west, south, north = image.get_extent()
    assert (east - west) / (north - south) == pytest.approx(2.0)
    row, column = np.argwhere(image.get_array() > 500)[0]
    ny, nx = image.get_array().shape
    # 8 pixels of 10 arcsec south of the centre
    assert south + (row + 0.5) * (north - south) / ny == pytest.approx(-80.0)
    assert east + (column + 0.5) * (west - east) / nx == pytest.approx(0.0)


def test_maps_of_large_images_lose_no_source() -> None:
    planes = np.zeros((1, 1701, 1701), np.float32)
    planes[0, 1700, 1700] = planes[0, 0, 0] = 1.0
    figure = channel_maps(cube_of(planes), np.array([0]), ["x"], np.array([0.01]))
    shown = figure.axes[0].get_images()[0].get_array()
    assert max(shown.shape) <= 800
    assert shown[-1, -1] == shown[0, 0] == 1000.0


def test_a_blank_plane_among_the_maps_leaves_the_others_as_they_are() -> None:
    planes = np.full((2, 32, 32), np.nan)
    planes[1] = 0.0
    planes[1, 8, 16] = 1.0
    figure = channel_maps(cube_of(planes), np.array([0, 1]), ["x", "y"], np.full(2, 0.01))
    assert figure.axes[1].get_images()[0].norm.vmax == 1000.0


@pytest.mark.parametrize("level", [1e-7, 2.1e-3, 1.0, 4e2])
def test_every_logarithmic_axis_has_a_tick(level: float) -> None:
    settings = {"stop_code": StopCode.NSIGMA, "noise": level, "limit": level, "peak_residual": level}
    records = [channel_record(channel, iterations=3, major_cycles=3, **settings) for channel in range(4)]
    for axes in convergence(records, 4).axes[1:3]:
        low, high = axes.get_ylim()
        assert [tick for tick in axes.get_yticks() if low < tick < high]
