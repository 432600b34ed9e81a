"""A user's mistake gives one line that says what is wrong, and changes nothing on disk."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from astropy.io import fits
from casacore import tables
from jobs import SETTINGS, altered, image, tree

import gpucube
from gpucube.cli import main
from gpucube.execution.tuning import ClusterLimits, Tuning

REPOSITORY = Path(__file__).resolve().parents[2]


def refusal(folder: Path, vis: Any, imagename: Path | None = None, **changes: Any) -> str:
    """The message of a run that must be refused: one line, and everything below `folder` stays as it was."""
    before = contents(folder)
    with pytest.raises(gpucube.GpucubeError) as caught:
        image(vis, imagename or folder / "out" / "cube", **changes)
    assert contents(folder) == before
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def contents(folder: Path) -> dict[str, bytes]:
    """Every path below a folder with what it holds, but for the lock files that casacore writes on reading."""
    paths = [folder / name for name in tree(folder)]
    return {str(p): p.read_bytes() if p.is_file() else b"" for p in paths if p.name != "table.lock"}


def refusal_on_command_line(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    vis: Any,
    imagename: Path | None = None,
    tuning: Tuning | None = None,
    **changes: Any,
) -> str:
    """As `refusal`, by way of ``gpucube image``: status 2, one line on standard error, nothing on standard output."""
    before = contents(folder)
    assert main(command_line(vis, imagename or folder / "out" / "cube", **changes), tuning=tuning) == 2
    assert contents(folder) == before
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("gpucube: error: ")
    assert output.err.count("\n") == 1 and "Traceback" not in output.err
    return output.err.removeprefix("gpucube: error: ").rstrip("\n")


def command_line(vis: Any, imagename: Path, **changes: Any) -> list[str]:
    words = ["image", str(vis), "--imagename", str(imagename)]
    for name, value in (SETTINGS | changes).items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words.append(f"--{name}=" + (",".join(map(str, value)) if isinstance(value, tuple) else str(value)))
    return words


# Parameters


def named(name: str, value: Any) -> str:
    """A pattern for a parameter and its value as Python and as the command line write them."""
    return f"(`{name}={value!r}`|--{name} {value})"


WRONG_PARAMETERS = {
    "imsize 0": ({"imsize": 0}, named("imsize", 0) + ": 0 must be even and at least 32"),
    "imsize odd": ({"imsize": 101}, named("imsize", 101) + ": 101 must be even.*next good size is 108"),
    "imsize too large": ({"imsize": 10**9}, named("imsize", 10**9) + ".*too large"),
    "cell without unit": ({"cell": "20"}, named("cell", "20") + ": '20' has no unit; write e.g. '20arcsec'"),
    "cell of another kind": ({"cell": "20Jy"}, named("cell", "20Jy") + ": .*unknown unit 'Jy'"),
    "cell negative": ({"cell": "-1arcsec"}, named("cell", "-1arcsec") + ".*not positive"),
    "threshold negative": (
        {"threshold": "-3mJy"},
        named("threshold", "-3mJy") + ": a threshold cannot be negative",
    ),
    "unknown parameter": (
        {"imsise": 64},
        r"unknown (parameter|option) '(--)?imsise(=64)?': did you mean '(--)?imsize'",
    ),
    "niter negative": ({"niter": -1}, named("niter", -1) + ": expected a whole number from 0"),
    "nchan 0": ({"nchan": 0}, named("nchan", 0) + ": expected a whole number from 1, or -1"),
    "width 0": ({"width": 0}, named("width", 0) + ": expected a number of channels, not 0, or a frequency"),
    "product unknown": (
        {"products": ("image", "pictures")},
        r"products.*'pictures' is not a product; expected 'image', 'residual', 'model'",
    ),
    "device unknown": ({"device": "gpu"}, named("device", "gpu") + ".*did you mean 'cuda'"),
    "chunksize 0": ({"chunksize": 0}, named("chunksize", 0) + ": expected 'auto', a number of channels from 1, or -1"),
    "tclean only": (
        {"interactive": True},
        r"interactive(=True`)? is not available: gpucube opens no viewer: draw regions .* give this file as (`mask`|--mask)",
    ),
    "specmode": (
        {"specmode": "mfs"},
        named("specmode", "mfs") + " is not available: gpucube makes cubes only; use " + named("specmode", "cube"),
    ),
}

WRONG_SELECTION = {
    "start out of range": (
        {"start": 12},
        r"(`start=12`|--start 12) is out of range: the selection has channels 0 to 11",
    ),
    "nchan out of range": (
        {"start": 4, "nchan": 9},
        r"(`nchan=9`|--nchan 9) is out of range: .* there are 8 output channels",
    ),
    "width too wide": ({"width": 13}, r"(`width=13`|--width 13) is too wide"),
    "width runs off the start": (
        {"start": 0, "width": -2},
        r"(`width=-2`|--width[ =]-2) is too wide: only 12 channels .*start[ =]0",
    ),
    "spw channels out of range": ({"spw": "0:5~12"}, r"channels 0 to 11; (`spw`|--spw) asks for channel 12"),
    "no such window": (
        {"spw": "1"},
        r"\.ms: (`spw='1'`|--spw '?1'?): there is no spectral window 1; the only window is 0",
    ),
    "spw not understood": (
        {"spw": "zero"},
        named("spw", "zero") + ": no spectral window matches; the only window is 0",
    ),
    "no such field number": ({"field": "3"}, r"no field matches; the only field is 0"),
    "no such field": ({"field": "M51"}, r"M51'?`?: no field matches; the only field is 0 \("),
    "no such column": (
        {"datacolumn": "corrected"},
        r"has no column CORRECTED_DATA: (`datacolumn`|--datacolumn) can be data",
    ),
    "stokes not there": ({"stokes": "IQ"}, r"stokes Q cannot be made from .* it has correlations RR, LL"),
    "frame": ({"outframe": "REST"}, r"window 0 is in LSRK, which cannot be converted to REST"),
    "velocity without a line": (
        {"start": "1e6km/s", "restfreq": "1.42GHz"},
        r"no channel lies within the data: check (`start`|--start), (`width`|--width) and (`nchan`|--nchan)",
    ),
    "too little memory": (
        {"imsize": 16384, "memory": "400MB"},
        r"16384 x 16384 pixels needs .* of memory, but only 400 MB is allowed: choose a smaller \S*imsize\S*, or raise \S*memory",
    ),
    "disk cannot hold it": (
        {"imsize": 65536, "memory": "100TB", "products": ("image",)},
        r"cubes need 206 GB of disk but .* has only .* free: choose another (`imagename`|--imagename)",
    ),
    "scratch cannot be there": (
        {"scratch": "/proc/gpucube"},
        r"the scratch folder cannot be in /proc \(name another with (`scratch`|--scratch)\)",
    ),
}


@pytest.mark.parametrize("mistake", WRONG_PARAMETERS | WRONG_SELECTION)
def test_wrong_parameters_are_named(
    mistake: str, tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, pattern = (WRONG_PARAMETERS | WRONG_SELECTION)[mistake]
    assert re.search(pattern, refusal(tmp_path, tiny_ms.ms, **changes))
    assert re.search(pattern, refusal_on_command_line(tmp_path, capsys, tiny_ms.ms, **changes))


# MeasurementSets


def no_such_ms(ms: Path, folder: Path) -> Path:
    return folder / "missing.ms"


def a_plain_folder(ms: Path, folder: Path) -> Path:
    (folder / "folder.ms").mkdir()
    return folder / "folder.ms"


def a_plain_file(ms: Path, folder: Path) -> Path:
    (folder / "file.ms").write_text("no table")
    return folder / "file.ms"


def a_broken_table(ms: Path, folder: Path) -> Path:
    copy = altered(ms, folder, lambda t: None)
    (copy / "table.dat").write_bytes((copy / "table.dat").read_bytes()[:100])
    return copy


def another_table(ms: Path, folder: Path) -> Path:
    shutil.copytree(ms / "ANTENNA", folder / "antenna.ms")
    return folder / "antenna.ms"


def without_a_subtable(ms: Path, folder: Path) -> Path:
    copy = altered(ms, folder, lambda t: None)
    shutil.rmtree(copy / "SPECTRAL_WINDOW")
    return copy


def without_data_column(ms: Path, folder: Path) -> Path:
    return altered(ms, folder, lambda t: t.removecols(["DATA"]))


def without_weights(ms: Path, folder: Path) -> Path:
    return altered(ms, folder, lambda t: t.removecols(["WEIGHT"]))


def without_rows(ms: Path, folder: Path) -> Path:
    with tables.table(str(ms), ack=False) as table:
        table.query("FIELD_ID < 0").copy(str(folder / "altered.ms"), deep=True).close()
    return folder / "altered.ms"


def with_truncated_data(ms: Path, folder: Path) -> Path:
    """The largest file, that of DATA or UVW, is cut short, as by a copy that was broken off."""
    copy = altered(ms, folder, lambda t: None)
    largest = max(copy.glob("table.f*"), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 3)
    return copy


WRONG_MS: dict[Callable[[Path, Path], Path], tuple[dict[str, Any], str]] = {
    no_such_ms: ({}, r"no such MeasurementSet: .*missing\.ms"),
    a_plain_folder: ({}, r"folder\.ms is not a MeasurementSet"),
    a_plain_file: ({}, r"file\.ms is not a MeasurementSet"),
    a_broken_table: ({}, r"cannot open .*altered\.ms"),
    another_table: ({}, r"antenna\.ms is not a MeasurementSet: column ANTENNA1 is missing"),
    without_a_subtable: ({}, r"altered\.ms.*SPECTRAL_WINDOW"),
    without_data_column: ({}, r"altered\.ms has no column DATA"),
    without_weights: ({}, r"column WEIGHT is missing"),
    without_rows: ({}, r"no rows"),
    with_truncated_data: ({}, r"altered\.ms: rows cannot be read from (DATA|UVW)"),
}


@pytest.mark.parametrize("make", WRONG_MS, ids=lambda f: f.__name__)
def test_what_is_no_usable_measurement_set_is_named(
    make: Callable[[Path, Path], Path], tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, pattern = WRONG_MS[make]
    vis = make(tiny_ms.ms, tmp_path)
    assert re.search(pattern, refusal(tmp_path, vis, **changes))
    assert re.search(pattern, refusal_on_command_line(tmp_path, capsys, vis, **changes))


def add_field_and_window(copy: Path) -> None:
    """Give an MS a second field and a second spectral window that no row uses."""
    for name in ("FIELD", "SPECTRAL_WINDOW", "DATA_DESCRIPTION"):
        with tables.table(str(copy / name), readonly=False, ack=False) as table:
            table.copyrows(table, 0, -1, 1)
            if name == "FIELD":
                table.putcell("NAME", 1, "EMPTY")
            if name == "DATA_DESCRIPTION":
                table.putcell("SPECTRAL_WINDOW_ID", 1, 1)


@pytest.mark.parametrize("selection", [{"field": "1"}, {"field": "EMPTY"}, {"spw": "1"}, {"spw": "1:0~3"}], ids=str)
def test_a_selection_without_rows_is_refused(
    selection: dict, tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = altered(tiny_ms.ms, tmp_path, lambda t: None)
    add_field_and_window(copy)
    assert "no rows are left after selection" in refusal(tmp_path, copy, **selection)
    assert "no rows are left after selection" in refusal_on_command_line(tmp_path, capsys, copy, **selection)


@pytest.fixture
def locked_ms(tiny_ms: Any, tmp_path: Path) -> Iterator[Path]:
    """A copy on which another process holds a write lock."""
    copy = altered(tiny_ms.ms, tmp_path, lambda t: None)
    code = (
        "import sys; from casacore.tables import table;"
        "t = table(sys.argv[1], readonly=False, ack=False, lockoptions='user'); t.lock(write=True);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(copy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    yield copy
    holder.communicate("")


def test_a_locked_table_is_named(locked_ms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pattern = r"altered\.ms is locked by another process: wait until it has finished writing, or image a copy"
    assert re.search(pattern, refusal(tmp_path, locked_ms))
    assert re.search(pattern, refusal_on_command_line(tmp_path, capsys, locked_ms))


# Output, scratch, mask


def test_existing_products_are_kept(tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(tiny_ms.ms, tmp_path / "cube", niter=0, products=("psf", "image"))
    pattern = r"cube\.image\.fits exists: give another `imagename`, or `overwrite=True`"
    at_the_shell = r"cube\.image\.fits exists: give another --imagename, or --overwrite"
    # also when it is another product that would be written
    for products in (("image",), ("residual",)):
        assert re.search(pattern, refusal(tmp_path, tiny_ms.ms, tmp_path / "cube", products=products))
    assert re.search(at_the_shell, refusal_on_command_line(tmp_path, capsys, tiny_ms.ms, tmp_path / "cube"))


def test_a_run_that_cannot_begin_keeps_what_it_would_overwrite(tiny_ms: Any, tmp_path: Path) -> None:
    image(tiny_ms.ms, tmp_path / "cube", niter=0)
    (tmp_path / "cube.scratch").mkdir()
    message = refusal(tmp_path, tiny_ms.ms, tmp_path / "cube", overwrite=True)
    assert re.search(r"scratch folder .*cube\.scratch already exists", message)


def test_scratch_of_another_run_is_not_touched(
    tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "partition0.vis").write_bytes(b"another run's")
    settings = {"scratch": tmp_path / "store"}
    assert re.search(r"scratch folder .*store already exists", refusal(tmp_path, tiny_ms.ms, **settings))
    assert "already exists" in refusal_on_command_line(tmp_path, capsys, tiny_ms.ms, **settings)


def test_a_folder_that_cannot_be_made_is_named(
    tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    for settings in ({"imagename": tmp_path / "file" / "cube"}, {"scratch": tmp_path / "file" / "store"}):
        assert str(tmp_path / "file") in refusal(tmp_path, tiny_ms.ms, **settings)
        assert str(tmp_path / "file") in refusal_on_command_line(tmp_path, capsys, tiny_ms.ms, **settings)


@pytest.mark.parametrize("parameter", ["imagename", "scratch"])
def test_a_folder_that_cannot_be_written_is_named(parameter: str, tiny_ms: Any, tmp_path: Path) -> None:
    closed, open_folder = tmp_path / "closed", tmp_path / "open"
    closed.mkdir(mode=0o500)
    open_folder.mkdir()
    imagename, scratch = open_folder / "cube", open_folder / "store"
    if parameter == "imagename":
        imagename = closed / "cube"
    else:
        scratch = closed / "store"
    # root may write anywhere unless this capability is taken from it
    drop = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override"]
    if drop and shutil.which("setpriv") is None:
        pytest.skip("running as root, and setpriv (util-linux) is not there to give up the right to write anywhere")
    done = subprocess.run(
        [*drop, sys.executable, "-m", "gpucube", *command_line(tiny_ms.ms, imagename, scratch=scratch)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"gpucube: error: .*closed.*\n", done.stderr)
    assert tree(tmp_path) == ["closed", "open"]


def test_a_full_disk_is_reported_before_starting(
    tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    # no small disk is at hand
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 10**5, 10**5))
    pattern = r"visibility store and cubes need .* of disk but .* has only 100 kB free: choose another (`imagename`|--imagename)"
    assert re.search(pattern, refusal(tmp_path, tiny_ms.ms))
    assert re.search(pattern, refusal_on_command_line(tmp_path, capsys, tiny_ms.ms))


def mask_of_another_size(path: Path) -> None:
    fits.writeto(path, np.ones((32, 32), np.float32))


def mask_of_another_length(path: Path) -> None:
    fits.writeto(path, np.ones((11, 64, 64), np.float32))


def mask_that_is_no_fits(path: Path) -> None:
    path.write_text("neither an image nor regions")


def mask_without_image(path: Path) -> None:
    fits.HDUList([fits.PrimaryHDU()]).writeto(path)


def mask_elsewhere(path: Path) -> None:
    header = fits.Header({"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN", "CRPIX1": 33, "CRPIX2": 33, "CUNIT1": "deg"})
    header.update({"CUNIT2": "deg", "CRVAL1": 10.0, "CRVAL2": 30.0, "CDELT1": -20 / 3600, "CDELT2": 20 / 3600})
    fits.writeto(path, np.ones((64, 64), np.float32), header)


def mask_cut_short(path: Path) -> None:
    fits.writeto(path, np.ones((12, 64, 64), np.float32))
    os.truncate(path, path.stat().st_size // 2 // 2880 * 2880)


def mask_of_another_band(path: Path) -> None:
    header = fits.Header({"CTYPE3": "FREQ", "CRVAL3": 1.0, "CDELT3": 1.0, "CUNIT3": "GHz", "SPECSYS": "LSRK"})
    fits.writeto(path, np.ones((12, 64, 64), np.float32), header)


WRONG_MASKS = {
    mask_of_another_band: r"m\.fits covers .* GHz and the cube .* GHz: they have no channel in common",
    mask_of_another_size: r"m\.fits has shape 32x32 .* the cube is 12x64x64",
    mask_of_another_length: r"m\.fits has shape 11x64x64 .* the cube is 12x64x64",
    mask_that_is_no_fits: r"cannot read mask .*m\.fits as FITS",
    mask_without_image: r"m\.fits contains no image",
    mask_elsewhere: r"m\.fits lies elsewhere on the sky",
    mask_cut_short: r"m\.fits is cut short",
}


@pytest.mark.parametrize("make", WRONG_MASKS, ids=lambda f: f.__name__)
def test_a_wrong_mask_is_named(
    make: Callable[[Path], None], tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.fits"
    make(path)
    assert re.search(WRONG_MASKS[make], refusal(tmp_path, tiny_ms.ms, mask=path))
    assert re.search(WRONG_MASKS[make], refusal_on_command_line(tmp_path, capsys, tiny_ms.ms, mask=path))


def test_a_plan_reports_the_wrong_mask_that_a_run_would_report(tiny_ms: Any, tmp_path: Path) -> None:
    mask_of_another_band(tmp_path / "m.fits")
    with pytest.raises(gpucube.GpucubeError, match="they have no channel in common"):
        gpucube.plan_cube(tiny_ms.ms, tmp_path / "cube", imsize=64, cell="20arcsec", mask=tmp_path / "m.fits")


def test_a_missing_mask_is_named(tiny_ms: Any, tmp_path: Path) -> None:
    assert re.search(r"cannot read mask .*none\.fits", refusal(tmp_path, tiny_ms.ms, mask=tmp_path / "none.fits"))


# Dask

IMPATIENT = Tuning(cluster=ClusterLimits(connect_seconds=1))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "carrier-pigeon://coop:1"])
def test_an_unreachable_scheduler_is_named(
    address: str, tiny_ms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image(tiny_ms.ms, tmp_path / "cube", niter=0)
    pattern = rf"no Dask scheduler answers at {address}"
    settings = {"scheduler": address, "overwrite": True, "tuning": IMPATIENT}
    assert re.search(pattern, refusal(tmp_path, tiny_ms.ms, tmp_path / "cube", **settings))
    assert re.search(pattern, refusal_on_command_line(tmp_path, capsys, tiny_ms.ms, tmp_path / "cube", **settings))
    # one that the garbage collector closes can stop the next one for ever
    assert {c.status for c in gc.get_objects() if isinstance(c, distributed.Client)} <= {"closed"}


def test_a_scheduler_without_workers_is_named(tiny_ms: Any, tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        message = refusal(tmp_path, tiny_ms.ms, scheduler=cluster.scheduler_address, tuning=IMPATIENT)
    assert "has no workers: start some with 'dask worker" in message


# The command itself


def test_the_command_ends_with_status_2_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gpucube", "image", str(tmp_path / "missing.ms"), "--imagename", str(tmp_path / "x")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(r"gpucube: error: no such MeasurementSet: .*missing\.ms\n", done.stderr)
    assert tree(tmp_path) == []
