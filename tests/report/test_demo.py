"""The demo runs as for a user, and finds what was simulated."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from gpucube.cli import main
from gpucube.demo import REGION_RADIUS, run_demo, source_region
from gpucube.report.plots import read_cube


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A finished demo: its folder, its exit status, and what it printed."""
    folder, printed = tmp_path_factory.mktemp("demo"), StringIO()
    with redirect_stdout(printed):
        status = run_demo(folder)
    return folder, status, printed.getvalue()


def test_demo_ends_well_and_names_its_cube_and_picture(demo: tuple[Path, int, str]) -> None:
    folder, status, printed = demo
    assert status == 0
    for name in ("gpucube-demo.image.fits", "gpucube-demo.png", "gpucube-demo.report.html"):
        assert str(folder / name) in printed
        assert (folder / name).is_file()


def test_demo_lists_the_channels_with_emission_or_without_data_in_80_columns(demo: tuple[Path, int, str]) -> None:
    folder, _, printed = demo
    rows = re.findall(r"^ *(\d+) +-?\d+\.\d (?:no data|.+threshold|.+ limit)", printed, flags=re.M)
    emission = np.flatnonzero(np.load(folder / "gpucube-demo.truth.npz")["flux"].sum(0))
    assert [int(row) for row in rows] == sorted({2, *emission})
    assert f"{60 - len(rows)} more channels hold noise only" in printed
    table = [line for line in printed.splitlines() if "/" not in line]
    assert max(map(len, table)) <= 80


def test_demo_table_shows_that_the_image_holds_the_true_flux(demo: tuple[Path, int, str]) -> None:
    rows = re.findall(r"threshold .* (\S+) +(\S+) +(\S+)$", demo[2], flags=re.M)
    image, _, true = np.array(rows, float).T
    assert len(image) > 20
    # the bound of test_demo_recovers_the_simulated_spectrum
    assert np.all(np.abs(image - true) < 0.015 + 0.05 * true)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc, in which nobody can make a folder")
def test_demo_in_a_folder_that_cannot_be_made_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", "/proc/x"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("gpucube: error: cannot write /proc/x/gpucube-demo.ms: ")


def test_demo_picture_is_a_drawn_page(demo: tuple[Path, int, str]) -> None:
    page = imread(demo[0] / "gpucube-demo.png")
    assert page.shape[0] > 1000
    assert page.shape[1] > 1000
    dark = page[..., :3].sum(axis=2) < 0.6
    assert 0.1 < dark.mean() < 0.7, "the maps' backgrounds are dark, the rest of the page is white"


def test_demo_recovers_the_simulated_spectrum(demo: tuple[Path, int, str]) -> None:
    folder = demo[0]
    truth = np.load(folder / "gpucube-demo.truth.npz")
    true_flux = truth["flux"].sum(0)
    cube = read_cube(folder / "gpucube-demo.image.fits")
    found = cube.flux_within(source_region(truth, REGION_RADIUS))
    assert np.isnan(found[2])
    measured = np.arange(60) != 2
    # The region holds some 120 beams of 0.45 mJy, and what is left uncleaned below 3 sigma keeps the dirty beam's scale
    assert np.all(np.abs(found - true_flux)[measured] < 0.015 + 0.05 * true_flux[measured])
