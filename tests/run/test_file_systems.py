"""File systems of clusters and containers lack this or that: a run goes on without, or ends in one line and leaves nothing."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs import image, payload
from refusals import in_text, refusing, seen_by
from torture import make_ms as make_small_ms
from torture import refuse

import gpucube
from gpucube import disk
from gpucube.execution.tuning import Tuning

NO_LOCKS = "has no locks: two runs with the same `imagename` would not notice each other"
NO_SYNC = "cannot sync files: a power failure may destroy channels that were reported as safe"


@pytest.fixture(scope="module")
def expected(tiny_ms: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return payload(image(tiny_ms.ms, tmp_path_factory.mktemp("usual") / "cube", workers=1))


GOES_ON: dict[str, tuple[str, int, str, str]] = {
    **{f"no locks: {errno.errorcode[n]}": ("flock", n, "", NO_LOCKS) for n in sorted(disk.NO_LOCKS)},
    **{f"no fsync: {errno.errorcode[n]}": ("fsync", n, "", NO_SYNC) for n in (errno.EINVAL, errno.ENOSYS)},
    **{f"no allocation: {errno.errorcode[n]}": ("posix_fallocate", n, "", "") for n in sorted(disk.UNSUPPORTED)},
    "files cannot be lengthened": ("ftruncate", errno.EPERM, "", ""),
    "the free space is not known": ("disk_usage", errno.ENOSYS, "", ""),
    "blocks are not known": ("lstat", errno.EACCES, "scratch", ""),
    "the journal stays": ("unlink", errno.EBUSY, "cube.journal", "the run is finished, but cannot remove the journal"),
}
"""A system call, what it answers, for which arguments, and the warning."""


@pytest.mark.parametrize("name", GOES_ON)
def test_a_run_goes_on_without_what_a_file_system_lacks(
    name: str, tiny_ms: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    call, number, about, warning = GOES_ON[name]
    with warnings.catch_warnings(record=True) as caught, refusing(call, number, about):
        warnings.simplefilter("always")
        result = image(tiny_ms.ms, tmp_path / "cube", workers=1)
    told = [str(w.message) for w in caught if "file system" in str(w.message) or "journal" in str(w.message)]
    assert payload(result) == expected
    assert len(told) == bool(warning) and all(warning in text for text in told)
    left = {path.name for path in tmp_path.iterdir()} - {Path(path).name for path in result.products.values()}
    assert left == ({"cube.journal"} if name == "the journal stays" else set())


def test_warnings_about_a_file_system_are_in_the_summary(tiny_ms: Any, tmp_path: Path) -> None:
    with refusing("flock", errno.ENOLCK), pytest.warns(UserWarning, match=NO_LOCKS):
        result = image(tiny_ms.ms, tmp_path / "cube")
    assert any(NO_LOCKS in text for text in result.summary["warnings"])


def test_a_store_that_cannot_be_mapped_shared_is_mapped_privately(
    tiny_ms: Any, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    def no_shared_mapping(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "memmap" and arguments[2] == "r":
            raise OSError(errno.ENODEV, "No such device")

    with seen_by(no_shared_mapping):
        assert payload(image(tiny_ms.ms, tmp_path / "cube", workers=1)) == expected


STOPS: dict[str, tuple[str, int, str, str]] = {
    "locks that fail": ("flock", errno.EIO, "", r"products cannot be written in .*`imagename`"),
    "syncs that fail": ("fsync", errno.EIO, "", r"products cannot be written in .*`imagename`"),
    "no renaming": ("replace", errno.EPERM, "", r"products cannot be written in .*`imagename`"),
    "no new files": ("open", errno.EACCES, "cube.trial", r"products cannot be written in .*`imagename`"),
    **{
        f"no mappings: {errno.errorcode[n]}": ("memmap", n, "", r"scratch folder cannot be in .*`scratch`")
        for n in (errno.ENODEV, errno.EINVAL, errno.EACCES, errno.ENOMEM)
    },
    "no scratch files": ("posix_fallocate", errno.EDQUOT, "", r"scratch folder cannot be in .*`scratch`"),
    "no room for the store": ("posix_fallocate", errno.ENOSPC, "83520", r"cannot reserve .*vis"),
    "no scratch folder": ("makedirs", errno.EROFS, "cube.scratch", r"scratch folder .* cannot be made"),
    "the store cannot be opened": ("open", errno.ENOTCONN, "partition0.vis", r"cannot reserve .*vis"),
    "too many open files": ("open", errno.EMFILE, "partition0.weight", r"cannot reserve .*weight"),
    "writing to the store": ("pwrite", errno.EIO, "", r"cannot write the visibility store"),
    "the store's note": ("open", errno.ENOTCONN, "store.json.new", r"cannot write .*store\.json"),
    "the first line of the journal": ("write", errno.EDQUOT, '{"run"', r"cannot write the journal"),
    "new cubes": ("open", errno.EACCES, "model.fits.new", r"cannot create the products"),
    "planes": ("open", errno.ESTALE, "cube.image.fits", r"cannot write channel \d+ to .*image\.fits|cannot create"),
    "the MeasurementSet": ("memmap", errno.ESTALE, "partition0.uvw", r"cannot read the visibility store"),
}
"""A system call, what it answers, for which arguments, and the error."""


@pytest.mark.parametrize("name", STOPS)
def test_a_refusal_ends_a_run_in_one_line_and_leaves_nothing(name: str, tiny_ms: Any, tmp_path: Path) -> None:
    call, number, about, message = STOPS[name]
    folder = tmp_path / "out"
    folder.mkdir()
    with refusing(call, number, about), pytest.raises(gpucube.GpucubeError, match=message) as told:
        image(tiny_ms.ms, folder / "cube", workers=1)
    assert os.strerror(number) in str(told.value) and "\n" not in str(told.value)
    assert list(folder.iterdir()) == []


def after(safe: int, call: str, number: int, about: str) -> Any:
    """Refuse a call once so many channels have been written to the journal."""
    noted = []

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        text = in_text(arguments)
        if len(noted) >= safe and name == call and about in text:
            raise OSError(number, os.strerror(number))
        if name == "write" and '{"channel"' in text:
            noted.append(text)

    return seen_by(hook)


@pytest.mark.parametrize(
    ("safe", "call", "number", "about", "message"),
    [
        (4, "open", errno.ENOTCONN, "cube.model.fits", "cannot write"),
        (4, "write", errno.EDQUOT, '"channel"', "cannot write the journal"),
        (4, "memmap", errno.ENOMEM, "partition0", "cannot read the visibility store"),
        (12, "read", errno.EIO, "", "cannot read"),
        (12, "open", errno.ENOTCONN, "summary.json.new", "cannot write"),
    ],
)
def test_a_refusal_after_some_channels_are_safe_says_how_to_go_on(
    safe: int, call: str, number: int, about: str, message: str, tiny_ms: Any, tmp_path: Path
) -> None:
    settings = {"workers": 1, "chunksize": 1, "restoringbeam": "common"}
    usual = payload(image(tiny_ms.ms, tmp_path / "usual", **settings))
    tuning = Tuning(seconds_between_syncs=0.0)
    way_on = re.compile(
        message + r".*; \d+ of 12 channels are safe on disk, the same call with `resume=True` continues"
    )
    with after(safe, call, number, about), pytest.raises(gpucube.GpucubeError, match=way_on):
        image(tiny_ms.ms, tmp_path / "cube", tuning=tuning, **settings)
    assert payload(image(tiny_ms.ms, tmp_path / "cube", resume=True, **settings)) == usual


def vanish(path: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """Remove a file or folder when the first rows have been written to the store."""

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "pwrite" and path.exists():
            disk.shutil.rmtree(path) if path.is_dir() else path.unlink()

    return hook


@pytest.mark.parametrize("name", ["out/cube.scratch", "out"])
def test_folders_that_go_away_while_rows_are_read_end_a_run_in_one_line(
    name: str, tiny_ms: Any, tmp_path: Path
) -> None:
    with seen_by(vanish(tmp_path / name)), pytest.raises(gpucube.GpucubeError, match="No such file") as told:
        image(tiny_ms.ms, tmp_path / "out" / "cube", workers=1)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_many_spectral_windows_need_few_open_files(make_ms: Any, tmp_path: Path) -> None:
    """A mapped array keeps its file open; the arrays of a plane are copied partition by partition."""
    import resource

    from casacore import tables

    ms = make_ms(ntime=60, nchan=2, antennas=5).ms
    with tables.table(str(ms), readonly=False, ack=False) as main:
        moments = sorted(set(main.getcol("TIME")))
        main.putcol("DATA_DESC_ID", [moments.index(moment) for moment in main.getcol("TIME")])
    for name in ("SPECTRAL_WINDOW", "DATA_DESCRIPTION"):
        with tables.table(f"{ms}/{name}", readonly=False, ack=False) as table:
            table.addrows(len(moments) - 1)
            for column in table.colnames():
                for row in range(1, len(moments)):
                    if table.iscelldefined(column, 0):
                        table.putcell(column, row, table.getcell(column, 0))
            if name == "DATA_DESCRIPTION":
                table.putcol("SPECTRAL_WINDOW_ID", list(range(len(moments))))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 60, before[1]))
    try:
        assert image(ms, tmp_path / "cube", workers=1).failed_channels == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_random_refusals_at_random_moments_change_no_bit(tmp_path: Path) -> None:
    """``make torture`` does the same 200 times."""
    assert len(refuse(make_small_ms(tmp_path, nchan=6, antennas=8, ntime=10), tmp_path / "refused", 8, seed=5)) == 8
