"""The demo runs as for a user and finds what was simulated; plots show what is in the cube, the right way up."""

from __future__ import annotations

import re

import numpy as np
import pytest
from astropy import units
from jobs import geometry
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.image import imread
from oracles import gaussian

from gpucube.constants import ARCSEC
from gpucube.demo import REGION_RADIUS, run_demo, source_region
from gpucube.output.fits_cube import create_cubes, write_beam_table, write_plane
from gpucube.report.plots import (
    Cube,
    channel_maps,
    draw_channel_map,
    overview,
    radio_velocity,
    read_cube,
    region_of_interest,
    shown_channels,
)
from gpucube.sky.beam import Beam
from gpucube.sky.spectral import FRAMES, SpectralAxis


def write_cube(folder, planes, beams, cell):
    """An image cube on disk; `beams` is one Beam for all channels or a list with one per channel."""
    nchan, ny, nx = planes.shape
    axis = SpectralAxis(
        frequency=1.42e9 + 1e4 * np.arange(nchan),
        width=np.full(nchan, 1e4),
        frame=FRAMES["LSRK"],
        restfreq=1.42040575e9,
    )
    per_channel = isinstance(beams, list)
    written = create_cubes(
        folder / "cube",
        ["image"],
        geometry(nx, ny, cell),
        axis,
        ["I"],
        [],
        restoring_beam="channel" if per_channel else beams,
    )["image"]
    for channel, plane in enumerate(planes):
        write_plane(written, 0, channel, plane.astype(np.float32))
    if per_channel:
        write_beam_table(written, [beams])
    return written.path


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo: its folder, its exit status, and what it printed."""
    from contextlib import redirect_stdout
    from io import StringIO

    folder, printed = tmp_path_factory.mktemp("demo"), StringIO()
    with redirect_stdout(printed):
        status = run_demo(folder)
    return folder, status, printed.getvalue()


def test_demo_ends_well_and_names_its_cube_and_picture(demo):
    folder, status, printed = demo
    assert status == 0
    for name in ("gpucube-demo.image.fits", "gpucube-demo.png", "gpucube-demo.report.html"):
        assert str(folder / name) in printed
        assert (folder / name).is_file()


def test_demo_tells_how_every_channel_converged_in_80_columns(demo):
    printed = demo[2]
    rows = re.findall(r"^ *(\d+) +-?\d+\.\d (?:no data|.+threshold|.+ limit)", printed, flags=re.M)
    assert [int(row) for row in rows] == list(range(60))
    table = [line for line in printed.splitlines() if "/" not in line]
    assert max(map(len, table)) <= 80


def test_demo_picture_is_a_drawn_page(demo):
    page = imread(demo[0] / "gpucube-demo.png")
    assert page.shape[0] > 1000
    assert page.shape[1] > 1000
    dark = page[..., :3].sum(axis=2) < 0.6
    assert 0.1 < dark.mean() < 0.7, "the maps' backgrounds are dark, the rest of the page is white"


def test_demo_recovers_the_simulated_spectrum(demo):
    folder = demo[0]
    truth = np.load(folder / "gpucube-demo.truth.npz")
    true_flux = truth["flux"].sum(0)
    cube = read_cube(folder / "gpucube-demo.image.fits")
    found = cube.flux_within(source_region(truth, REGION_RADIUS))
    assert np.isnan(found[2])
    measured = np.arange(60) != 2
    # The region holds some 120 beams of 0.45 mJy, and what is left uncleaned below 3 sigma keeps the dirty beam's scale
    assert np.all(np.abs(found - true_flux)[measured] < 0.015 + 0.05 * true_flux[measured])


def test_cube_with_a_beam_per_channel_is_read(tmp_path):
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


def test_cube_with_one_beam_is_read(tmp_path):
    beam = Beam(bmaj=6 * ARCSEC, bmin=4 * ARCSEC, bpa=0.3)
    cube = read_cube(write_cube(tmp_path, np.zeros((2, 16, 16)), beam, cell=1.0))
    for read in cube.beams:
        assert (read.bmaj, read.bmin, read.bpa) == pytest.approx((beam.bmaj, beam.bmin, beam.bpa), rel=1e-6)


def test_flux_within_a_region_is_in_jansky():
    beam = Beam(bmaj=8 * ARCSEC, bmin=5 * ARCSEC, bpa=0.6)
    image = 2.5 * gaussian(geometry(cell_x=1.0), beam)
    cube = Cube(np.stack([image, np.full((64, 64), np.nan)]), 1.0, 1.0, [beam, None])
    found = cube.flux_within(np.ones((64, 64), bool))
    # summing a Gaussian over pixels a fifth of its width apart is exact to rounding
    assert found[0] == pytest.approx(2.5, rel=1e-6)
    assert np.isnan(found[1])


def test_velocity_follows_the_radio_convention():
    frequency = np.array([1.419e9, 1.4204e9, 1.422e9])
    expected = (frequency * units.Hz).to_value(units.km / units.s, units.doppler_radio(1.420405752e9 * units.Hz))
    np.testing.assert_allclose(radio_velocity(frequency, 1.420405752e9), expected, rtol=1e-9)


def test_map_has_east_to_the_left_and_the_beam_leans_towards_east():
    axes = Figure().subplots()
    beam = Beam(bmaj=20 * ARCSEC, bmin=5 * ARCSEC, bpa=np.deg2rad(30))
    draw_channel_map(axes, np.zeros((64, 64)), (32, -32, -32, 32), AsinhNorm(1.0, vmin=0, vmax=1), beam, ARCSEC, "")
    assert axes.get_xlim() == (32, -32)
    (ellipse,) = axes.patches
    turn = np.linspace(0, 2 * np.pi, 361)
    rim = np.stack([np.cos(turn), np.sin(turn)], 1) @ ellipse.get_patch_transform().get_matrix()[:2, :2].T
    east, north = rim[np.argmax(np.hypot(*rim.T))]
    assert np.hypot(east, north) == pytest.approx(10.0, rel=0.01)
    assert np.degrees(np.arctan2(east, north)) % 180 == pytest.approx(30.0, abs=1.0)


def test_maps_spread_over_the_line_and_not_over_the_noise():
    signal = np.full(40, 4.0)
    signal[10:30] = 50.0
    signal[35] = 90.0
    signal[20] = np.nan  # one channel without data does not break the line in two
    shown = shown_channels(signal, np.ones(40), 5)
    assert (shown[0], shown[-1]) == (10, 29)
    assert len(set(shown)) == 5
    assert 20 not in shown


def test_without_a_line_the_brightest_channels_are_shown():
    signal = np.array([4.0, 3.0, np.nan, 5.0, 4.5])
    np.testing.assert_array_equal(shown_channels(signal, np.ones(5), 2), [3, 4])
    assert len(shown_channels(signal, np.ones(5), 8)) == 4


def test_region_of_interest_holds_the_emission():
    planes = np.zeros((2, 100, 80))
    planes[0, 60, 30] = planes[1, 75, 35] = 1.0
    rows, columns = region_of_interest(planes, 0.5)
    assert rows.start <= 60 < 75 < rows.stop
    assert columns.start <= 30 < 35 < columns.stop
    assert rows.stop - rows.start == columns.stop - columns.start == 33
    assert region_of_interest(planes, 2.0) == (slice(0, 100), slice(0, 80))


@pytest.mark.filterwarnings("error")
def test_a_cube_without_any_data_still_gets_a_page(tmp_path):
    cube = Cube(np.full((3, 16, 16), np.nan), 1.0, 1.0, [None] * 3)
    blank = np.full(3, np.nan)
    figure = overview(cube, np.arange(3.0), blank, blank, blank)
    FigureCanvasAgg(figure)
    figure.savefig(tmp_path / "blank.png")
    assert (tmp_path / "blank.png").stat().st_size > 1000


def test_maps_of_rectangular_pixels_keep_their_proportions():
    planes = np.zeros((1, 32, 32))
    planes[0, 8, 16] = 1.0
    figure = channel_maps(Cube(planes, 20.0, 10.0, [None]), np.array([0]), ["x"], np.array([0.01]))
    image = figure.axes[0].get_images()[0]
    east, west, south, north = image.get_extent()
    assert (east - west) / (north - south) == pytest.approx(2.0)
    row, column = np.argwhere(image.get_array() > 500)[0]
    ny, nx = image.get_array().shape
    # 8 pixels of 10 arcsec south of the centre
    assert south + (row + 0.5) * (north - south) / ny == pytest.approx(-80.0)
    assert east + (column + 0.5) * (west - east) / nx == pytest.approx(0.0)


def test_maps_of_large_images_lose_no_source():
    planes = np.zeros((1, 1701, 1701), np.float32)
    planes[0, 1700, 1700] = planes[0, 0, 0] = 1.0
    figure = channel_maps(Cube(planes, 1.0, 1.0, [None]), np.array([0]), ["x"], np.array([0.01]))
    shown = figure.axes[0].get_images()[0].get_array()
    assert max(shown.shape) <= 800
    assert shown[-1, -1] == shown[0, 0] == 1000.0


def test_a_blank_plane_among_the_maps_leaves_the_others_as_they_are():
    planes = np.full((2, 32, 32), np.nan)
    planes[1] = 0.0
    planes[1, 8, 16] = 1.0
    figure = channel_maps(Cube(planes, 1.0, 1.0, [None, None]), np.array([0, 1]), ["x", "y"], np.full(2, 0.01))
    assert figure.axes[1].get_images()[0].norm.vmax == 1000.0
