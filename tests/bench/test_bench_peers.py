"""The comparison with other imagers (bench/): its arithmetic, its account of files, and the ducc0 script.

No other imager is run here: what they leave is made by hand, with known noise, flux, beams and costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import compare_peers
import numpy as np
import pytest
import quality
import run_ducc0
from astropy.io import fits
from astropy.table import Table
from compare_tclean_quality import Truth
from conftest import REPOSITORY
from measure import disk_use, measure
from oracles import direct_dirty

from gpucube.simulate import SimulationResult
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry

CELL = 10.0
SHAPE = (64, 64)


@pytest.fixture
def truth() -> Truth:
    """Channel 0 holds no data, channel 1 no emission; two sources in channel 2, one of them alone in channel 3."""
    flux = np.array([[0, 0, 2.0, 4.0], [0, 0, 1.0, 0]])
    return Truth(np.array([20.0, 40.0]), np.array([30.0, 45.0]), flux, np.array([2, 3]), np.array([1, 2, 3]), CELL)


def chequered(sigma: float, channels: int = 4) -> np.ndarray:
    """Planes whose noise, as `quality.noise` means it, is `sigma`: half the pixels at +sigma/1.4826, half at minus that."""
    y, x = np.indices(SHAPE)
    return np.broadcast_to(np.where((x + y) % 2, 1.0, -1.0) * sigma / 1.4826, (channels, *SHAPE)).copy()


# ---- what a command puts on disk


def test_every_file_below_the_folder_counts(tmp_path: Path) -> None:
    (tmp_path / "table" / "sub").mkdir(parents=True)
    (tmp_path / "a.fits").write_bytes(bytes(1000))
    (tmp_path / "table" / "sub" / "table.f0").write_bytes(bytes(24))
    (tmp_path / "table" / "link").symlink_to(tmp_path / "a.fits")
    length_of_link = len(str(tmp_path / "a.fits"))
    assert disk_use(tmp_path) == (3, 1024 + length_of_link)


def test_temporary_files_count_at_their_moment_and_those_left_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    code = (
        f"import os, time; os.chdir({str(folder)!r}); open('kept', 'wb').write(bytes(2 << 20)); "
        "open('temporary', 'wb').write(bytes(3 << 20)); time.sleep(0.7); os.remove('temporary'); print('done')"
    )
    cost = measure([sys.executable, "-c", code], tmp_path / "log", folder)
    assert cost.exit_status == 0
    assert (tmp_path / "log").read_text() == "done\n"
    assert (cost.files_left, cost.left_mib) == (1, 2.0)
    assert (cost.files_most, cost.most_mib) == (2, 5.0)


def test_bytes_written_hold_those_of_children_and_of_mapped_and_deleted_files(tmp_path: Path) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True).stdout
    if kind.strip() in ("tmpfs", "ramfs"):
        pytest.skip("the kernel does not account what is written to a file system in memory")
    child = (
        "import mmap, os; f = open('mapped', 'wb+'); f.truncate(4 << 20); m = mmap.mmap(f.fileno(), 4 << 20); "
        "m[:] = b'1' * (4 << 20); os.remove('mapped')"
    )
    parent = (
        f"import os, subprocess, sys; os.chdir({str(tmp_path)!r}); subprocess.run([sys.executable, '-c', {child!r}])"
    )
    cost = measure([sys.executable, "-c", parent], tmp_path.with_suffix(".log"), tmp_path)
    # no more than a few pages beside: directories, and compiled modules if any
    assert 4.0 <= cost.written_mib < 6.0
    assert cost.files_left == 0


# ---- quality


def test_noise_is_the_standard_deviation_of_gaussian_noise_wherever_its_mean() -> None:
    plane = 5.0 + 0.3 * np.random.default_rng(1).standard_normal((500, 500))
    plane[:3] = 1e3  # 0.6 % of the pixels far off
    # standard error of the MAD of 250,000 samples: 1.17 / sqrt(n) = 0.23 %; the outliers move it by 0.9 % more
    assert quality.noise(plane) == pytest.approx(0.3, rel=0.015)


def test_a_residual_is_measured_by_its_own_noise_and_its_absolute_peak() -> None:
    residual = chequered(0.01)
    residual[1, 5, 5], residual[3, 7, 9] = 0.027, -0.033
    ratio = quality.peaks_over_limit(residual, np.array([1, 3]))
    # one pixel in 4096 does not move the median of two values
    assert ratio == pytest.approx([0.9, 1.1], rel=1e-12)


def test_flux_error_counts_the_emission_and_nothing_far_from_it(truth: Truth) -> None:
    model = np.zeros((4, *SHAPE))
    model[2, 31, 21], model[2, 45, 40] = 1.7, 0.9  # of 2 and 1; a neighbouring pixel is still the source
    model[3, 30, 20] = 4.6  # of 4
    model[2, 5, 60] = model[3, 45, 40] = 9.0  # far from any source that emits in that channel
    model[1] = 9.0  # not a bright channel
    assert quality.flux_error(model, truth, radius=3.0) == pytest.approx((0.4 + 0.6) / 7.0)


def test_the_truth_convolved_with_a_beam(truth: Truth) -> None:
    beam = quality.Beam(major=np.hypot(80, 80), minor=60.0, angle=45.0)
    image = quality.true_image(truth, 3, beam, SHAPE)
    assert image[30, 20] == pytest.approx(4.0)
    # half the width along the position angle, to the north-east (x falls to the east): 40 arcsec both ways
    assert [image[34, 16], image[26, 24]] == pytest.approx([2.0, 2.0])
    area = np.pi * beam.major * beam.minor / (4 * np.log(2)) / CELL**2
    # the Gaussian is cut off at the edge of the image only where it is below 1e-4 of the peak
    assert image.sum() / area == pytest.approx(4.0, rel=1e-3)


def test_restored_error_is_in_units_of_the_noise_at_the_emission(truth: Truth) -> None:
    beams = [quality.Beam(40.0, 30.0, 10.0), quality.Beam(50.0, 30.0, -70.0)]
    image = np.zeros((4, *SHAPE))
    for channel, beam, error in zip((2, 3), beams, (0.02, 0.04), strict=True):
        image[channel] = quality.true_image(truth, channel, beam, SHAPE)
        image[channel] += np.where(quality.near_emission(truth, channel, 4.0, SHAPE), error, 100.0)
    assert quality.restored_error(image, chequered(0.01), beams, truth, 4.0) == pytest.approx(3.0)


def test_a_cube_and_one_file_per_channel_are_read_alike(tmp_path: Path) -> None:
    cube = np.random.default_rng(2).standard_normal((1, 3, 8, 8)).astype(np.float32)
    beams = Table({"BMAJ": [9.0, 8.0, 7.0], "BMIN": [5.0, 4.0, 3.0], "BPA": [1.0, 2.0, 3.0], "CHAN": [0, 1, 2]})
    table = fits.BinTableHDU(beams, name="BEAMS")
    fits.HDUList([fits.PrimaryHDU(cube), table]).writeto(tmp_path / "cube.image.fits")
    for channel in (0, 2):
        header = fits.Header({"BMAJ": (9 - channel) / 3600, "BMIN": (5 - channel) / 3600, "BPA": 1.0 + channel})
        fits.writeto(tmp_path / f"files-{channel:04d}-image.fits", cube[:, channel : channel + 1], header)

    whole, parts = (quality.read_product(str(tmp_path / name), "image", 3) for name in ("cube", "files"))
    assert np.array_equal(whole, cube[0])
    assert np.array_equal(parts[[0, 2]], cube[0, [0, 2]])
    assert np.isnan(parts[1]).all()
    assert quality.read_product(str(tmp_path / "files"), "model", 3) is None
    for name in ("cube", "files"):
        beam = quality.read_beam(str(tmp_path / name), 2)
        assert (beam.major, beam.minor, beam.angle) == pytest.approx((7.0, 3.0, 3.0))


def test_quality_of_a_run(tmp_path: Path, truth: Truth) -> None:
    """A model without error leaves chequered noise of 0.02 Jy; channel 3 keeps a pixel at 4 times that."""
    beam = quality.Beam(40.0, 30.0, 0.0)
    residual = chequered(0.02)
    residual[3, 60, 60] = -0.08
    residual[0] = np.nan
    model, image = np.zeros((4, *SHAPE)), residual.copy()
    for channel in truth.bright:
        model[channel, truth.y.astype(int), truth.x.astype(int)] = truth.flux[:, channel]
        image[channel] += quality.true_image(truth, channel, beam, SHAPE)
    beams = Table({"BMAJ": [40.0] * 4, "BMIN": [30.0] * 4, "BPA": [0.0] * 4, "CHAN": range(4)})
    for kind, cube in {"residual": residual, "model": model, "dirty": residual, "image": image}.items():
        table = fits.BinTableHDU(beams, name="BEAMS")
        fits.HDUList([fits.PrimaryHDU(cube[None]), table]).writeto(tmp_path / f"run.{kind}.fits")
    reference = residual.copy()
    reference[1, 3, 3] += 0.001

    found = quality.measure_quality(str(tmp_path / "run"), truth, 3.0, True, reference)
    assert (found.channels, found.channels_above_limit, found.residual_worst_channel) == (3, 1, 3)
    assert found.residual_peak_over_limit == pytest.approx(4 / 3)
    assert found.flux_error == pytest.approx(0.0, abs=1e-12)
    assert found.noise_jy == pytest.approx(0.02)
    assert found.dirty_difference == pytest.approx(0.001 / 0.08)
    # the chequered pattern's rms is its MAD, noise / 1.4826
    assert found.restored_error == pytest.approx(1 / 1.4826)

    dirty = quality.measure_quality(str(tmp_path / "run"), truth, 3.0, False, None)
    assert dirty.noise_jy == found.noise_jy
    assert (dirty.flux_error, dirty.residual_peak_over_limit, dirty.dirty_difference) == (None, None, None)


# ---- the result: ratios, merging, tables


def a_run(key: str, wall: float = 1.0, **more: Any) -> dict[str, Any]:
    title = next(program.title for program in compare_peers.PROGRAMS if program.key == key)
    costs = {"wall_seconds": wall, "cpu_seconds": 2 * wall, "peak_tree_mib": 100.0, "peak_process_mib": 90.0}
    files = {"files_left": 5, "left_mib": 1.0, "files_most": 7, "most_mib": 2.0, "written_mib": None}
    return {"program": title, "key": key, **costs, **files, "busy_before_percent": 0.0} | more


def a_result(*runs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    machine = {"cpu": "c", "cores": 2, "memory_gib": 8.0, "accelerators": [], "date": "2026-01-01"}
    data = {"ms": "a.ms", "rows": 9, "channels": 4, "correlations": 2, "imsize": 64, "cell": "10arcsec"}
    result = {"machine": machine, "versions": {"numpy": "2"}, "data": data, "absent": {}, "runs": list(runs)}
    return result | changes


def test_ratios_are_to_the_median_of_gpucube_doing_the_same() -> None:
    runs = [a_run("gpucube", wall) for wall in (2.0, 9.0, 4.0)]
    runs += [a_run("gpucube-dirty", 1.0), a_run("tclean", 40.0), a_run("tclean-dirty", 3.0), a_run("ducc0", 0.5)]
    found = compare_peers.ratios(runs)
    assert found["tclean"] == {"wall": 10.0, "cpu": 10.0, "peak": 1.0}
    assert found["tclean, dirty only"]["wall"] == 3.0
    assert found["ducc0, dirty only"]["wall"] == 0.5
    assert set(found) == {"tclean", "tclean, dirty only", "ducc0, dirty only"}
    assert compare_peers.ratios([a_run("ducc0"), a_run("gpucube")]) == {}


def test_merging_replaces_every_row_of_a_program_and_keeps_the_order() -> None:
    old = a_result(a_run("gpucube", 1.0), a_run("gpucube", 2.0), a_run("tclean", 8.0), a_run("ducc0", 3.0))
    new = a_result(a_run("gpucube", 5.0), a_run("wsclean-default", 6.0), versions={"numpy": "2", "WSClean": "3"})
    old["absent"] = {"WSClean": "no wsclean on the PATH"}
    merged = compare_peers.merge(old, new)
    assert [(run["key"], run["wall_seconds"]) for run in merged["runs"]] == [
        ("gpucube", 5.0),
        ("tclean", 8.0),
        ("wsclean-default", 6.0),
        ("ducc0", 3.0),
    ]
    assert merged["versions"] == {"numpy": "2", "WSClean": "3"}
    assert merged["absent"] == {}
    assert len(old["runs"]) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": {"numpy": "3"}}, "versions: numpy was 2 and is 3"),
        ({"data": a_result()["data"] | {"rows": 10}}, "data: rows was 9 and is 10"),
        ({"machine": a_result()["machine"] | {"cores": 4}}, "machine: cores was 2 and is 4"),
    ],
)
def test_rows_that_cannot_be_compared_are_not_merged(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        compare_peers.merge(a_result(), a_result(**changes))
    assert compare_peers.merge(a_result(), a_result(machine=a_result()["machine"] | {"date": "2027-01-01"}))


def test_the_page_shows_every_run_names_the_absent_and_leaves_empty_what_is_not_there() -> None:
    clean = quality.Quality(3, 4e-4, 1e-3, 1, 1.05, 2, 0.02, 1.1)
    dirty = quality.Quality(3, None, None)
    runs = [
        a_run("gpucube", 1.0, quality=vars(clean), major_cycles=3, iterations=10),
        a_run("gpucube", 1.5, quality=vars(clean), major_cycles=3, iterations=10),
        a_run("ducc0", quality=vars(dirty)),
    ]
    result = a_result(*runs, absent={"tclean": "no --casa-python"})
    result["ratios"] = compare_peers.ratios(runs)
    page = compare_peers.markdown(result)
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("| program")]
    costs, qualities = ([[c.strip() for c in line.split("|")[1:-1]] for line in lines] for lines in tables)
    assert all(len(line) == len(costs[0]) for line in costs)
    assert all(len(line) == len(qualities[0]) for line in qualities)
    assert [line[0] for line in costs[2:]] == ["gpucube", "gpucube", "ducc0, dirty only"]
    assert costs[2][9:13] == ["5", "1.0", "7", "2.0"]
    assert costs[4][3:5] == ["", ""]
    assert qualities[2:] == [
        ["gpucube", "1 of 3", "1.050", "2.00 %", "0.4000", "1.100", "1.0e-03"],
        ["ducc0, dirty only", "", "", "", "", "", ""],
    ]
    assert "Absent: tclean, no --casa-python." in page


def test_commands_are_recorded_without_folders_of_the_machine() -> None:
    options = argparse.Namespace(out=Path("/x/out"), ms=Path("/x/data/a.ms"), casa_python="/y/casa/bin/python")
    command = [
        "/y/casa/bin/python",
        str(REPOSITORY / "bench/peers/run_tclean.py"),
        "--ms",
        "/x/data/a.ms",
        "--out",
        "/x/out/t",
    ]
    assert compare_peers.as_typed(command, options) == "CASA_PYTHON bench/peers/run_tclean.py --ms a.ms --out OUT/t"


# ---- ducc0


def test_briggs_weights_by_hand() -> None:
    """Against the definition in plain Python: a dictionary of cells, both halves of the plane."""
    rng = np.random.default_rng(3)
    imsize, cell, frequency = 32, 1e-4, run_ducc0.LIGHT_SPEED
    uvw = rng.uniform(-150, 150, (400, 3)) / (imsize * cell) * 0.12  # cells of -18 to 18: some beyond the plane of 16
    weight = rng.uniform(0.5, 2.0, 400).astype(np.float32)
    density: dict[tuple[int, int], float] = defaultdict(float)
    cells = {}
    for k, (u, v) in enumerate(uvw[:, :2] * imsize * cell):
        if max(abs(np.floor(u + 0.5)), abs(np.floor(v + 0.5))) < imsize // 2:
            cells[k] = (int(np.floor(u + 0.5)), int(np.floor(v + 0.5)))
            for sign in (1, -1):
                density[int(np.floor(sign * u + 0.5)), int(np.floor(sign * v + 0.5))] += float(weight[k])
    total, squares = sum(density.values()), sum(g * g for g in density.values())
    f_squared = (5 * 10**-0.5) ** 2 / (squares / total)
    expected = [weight[k] / (1 + density[cells[k]] * f_squared) if k in cells else 0 for k in range(400)]
    assert 0 < len(cells) < 400
    # float32 rounding of the result
    assert run_ducc0.briggs(uvw, frequency, weight, imsize, cell, 0.5) == pytest.approx(expected, rel=1e-6)


def test_ducc0_image_is_the_measurement_equation(tiny_ms: SimulationResult) -> None:
    """Against plain sums, on data read by the script itself: signs, axes, flags and weights."""
    imsize, cell, channel = 64, float(np.deg2rad(20 / 3600)), 5
    header, frequency = run_ducc0.header(str(tiny_ms.ms), imsize, cell)
    uvw, vis, weight = run_ducc0.read_stokes_i(str(tiny_ms.ms))
    with np.load(tiny_ms.truth) as npz:
        assert ((weight > 0).sum(axis=1) == npz["nvis"]).all()
        assert (header["CRVAL1"], header["CRVAL2"]) == pytest.approx(np.degrees((npz["phase_ra"], npz["phase_dec"])))
        assert frequency == pytest.approx(npz["freq"])
    assert not weight[2].any()
    imaging = run_ducc0.briggs(uvw, frequency[channel], weight[channel], imsize, cell, 0.5)
    image = run_ducc0.dirty_image(uvw, frequency[channel], vis[channel], imaging, imsize, cell, 1)
    pixels = [(40, 24), (20, 44), (5, 60), (32, 32)]
    geometry = ImageGeometry(nx=imsize, ny=imsize, cell_x=cell, cell_y=cell, centre=Direction(ra=0.0, dec=0.0))
    expected = direct_dirty(uvw, frequency[channel], vis[channel], imaging, geometry, pixels, w_term=False)
    assert image[24, 40] > 0.5  # the source of 1 Jy is where the simulation put it
    # accuracy asked of ducc0, of the brightest pixel
    assert [image[y, x] for x, y in pixels] == pytest.approx(expected, abs=5 * run_ducc0.EPSILON * np.abs(image).max())
