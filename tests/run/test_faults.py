"""Disks that fill up while a run goes on, stores that are damaged, half-written MeasurementSets: one line, nothing lost.

The disks are real: a tmpfs of a few megabytes is mounted, which needs the rights of root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from casacore import tables
from events import AtStage, WhenSafe
from jobs import SETTINGS, altered, image, payload, read
from torture import finish, safe_channels, start

import gpucube
from gpucube.cli import main
from gpucube.devices.cpu.kind import CpuKind
from gpucube.execution.dask_cluster import Call, DaskCluster, start_cluster
from gpucube.execution.dask_workers import DaskWorkers
from gpucube.execution.tuning import ClusterLimits, Tuning

SYNC_AT_ONCE = Tuning(seconds_between_syncs=0.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 6 MB: the products of `tiny_ms` take 1.2 MB, its store 0.2 MB."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount_point)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield mount_point
    # at once, or as soon as the last mapped file is let go of
    subprocess.run(["umount", "--lazy", str(mount_point)], check=True)


@pytest.mark.parametrize("room", [0, 300_000])
def test_a_disk_that_fills_up_is_reported_and_resume_goes_on_once_there_is_room(
    small_disk: Path, tiny_ms: Any, tmp_path: Path, room: int
) -> None:
    whole = image(tiny_ms.ms, tmp_path / "whole", workers=1, chunksize=1)
    filler = small_disk / "filler"

    def fill() -> None:
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))

    with pytest.raises(gpucube.GpucubeError, match=r"cannot write .*No space left on device") as told:
        image(tiny_ms.ms, small_disk / "cube", workers=1, chunksize=1, observer=AtStage("imaging", fill))
    assert "\n" not in str(told.value)
    filler.unlink()
    if room:
        assert "channels are safe on disk, the same call with `resume=True` continues" in str(told.value)
    else:
        assert list(small_disk.iterdir()) == [], "nothing was safe, nothing is left"
    assert payload(image(tiny_ms.ms, small_disk / "cube", resume=True)) == payload(whole)


def remount(folder: Path, *options: str) -> None:
    subprocess.run(["mount", *options, str(folder)], check=True)


@pytest.mark.parametrize("moment", ["imaging begins", "some channels are safe", "all channels are safe"])
def test_a_disk_that_turns_read_only_is_reported_and_resume_goes_on_once_it_can_be_written(
    small_disk: Path, tiny_ms: Any, tmp_path: Path, moment: str
) -> None:
    """A second mount of the same folder over the first: what is opened from then on cannot be written."""
    whole = image(tiny_ms.ms, tmp_path / "whole", workers=1, chunksize=1)
    out = small_disk / "out"
    out.mkdir()

    def turn() -> None:
        remount(out, "--bind", str(out))
        remount(out, "-o", "remount,bind,ro")

    observer = {
        "imaging begins": AtStage("imaging", turn),
        "some channels are safe": WhenSafe(5, turn),
        "all channels are safe": WhenSafe(len(whole.channels), turn),
    }[moment]
    try:
        with pytest.raises(gpucube.GpucubeError, match=r"cannot write .*Read-only file system") as told:
            image(tiny_ms.ms, out / "cube", workers=1, chunksize=1, tuning=SYNC_AT_ONCE, observer=observer)
        with pytest.raises(gpucube.GpucubeError, match=r"Read-only file system"):
            image(tiny_ms.ms, out / "cube", resume=True)
    finally:
        # a mapped file that was opened there may not have been let go of yet
        subprocess.run(["umount", "--lazy", str(out)], check=True)
    assert "\n" not in str(told.value)
    assert ("channels are safe on disk, the same call with `resume=True` continues" in str(told.value)) == (
        moment != "imaging begins"
    )
    again = image(tiny_ms.ms, out / "cube", resume=True)
    assert payload(again) == payload(whole)
    assert sorted(path.name for path in out.iterdir()) == sorted(Path(path).name for path in again.products.values())


def test_a_store_too_large_for_its_disk_is_reported_before_starting(
    small_disk: Path, make_ms: Any, tmp_path: Path
) -> None:
    ms = make_ms(nchan=60, ntime=200).ms
    with pytest.raises(
        gpucube.GpucubeError, match=r"the visibility store needs 6\.\d+ MB of disk .*choose another `scratch`"
    ):
        image(ms, tmp_path / "cube", scratch=str(small_disk / "store"))
    assert list(small_disk.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("place", ["threads", "local"])
def test_a_store_cut_short_while_it_is_used_ends_the_run_and_resume_reads_again(
    make_ms: Any, tmp_path: Path, place: str
) -> None:
    """A mapped page that is gone ends the process that touches it (SIGBUS); a cluster survives even that, and tells."""
    ms = Path(make_ms(nchan=24, ntime=30).ms)
    slow = {"chunksize": 1}
    expected = finish(start(ms, tmp_path / "whole", "threads", **slow), tmp_path / "whole")
    folder = tmp_path / "cut"
    run = start(ms, folder, place, **slow)
    while safe_channels(folder) < 3 and run.poll() is None:
        time.sleep(0.01)
    os.truncate(folder / "run" / "cube.scratch" / "partition0.vis", 1000)
    _, errors = run.communicate(timeout=120)
    if place == "local" or run.returncode != -signal.SIGBUS:
        last = errors.splitlines()[-1]
        assert run.returncode == 2 and "Traceback" not in errors
        assert (
            "the visibility store in" in last
            and "was damaged while in use" in last
            and "--resume continues the run" in last
        )
    assert finish(start(ms, folder, "threads", resume=True, **slow), folder) == expected


class RecordingCluster:
    """A cluster that remembers what was run on it."""

    def __init__(self, cluster: DaskCluster) -> None:
        self.cluster, self.calls = cluster, []

    def run(self, calls: list[Call]) -> Iterator[tuple[tuple, Any]]:
        self.calls += calls
        return self.cluster.run(calls)

    def close(self) -> None:
        self.cluster.close()


def test_a_task_that_reads_too_late_finds_no_way_into_the_store(tiny_ms: Any, tmp_path: Path) -> None:
    """A scheduler goes on with a task whose worker it has lost sight of; the rows it writes have been sorted meanwhile."""
    cluster = RecordingCluster(start_cluster(1, CpuKind(), 10**9, ClusterLimits()))
    workers = DaskWorkers(cluster, CpuKind())
    try:
        with ExitStack() as stores:
            store, _, _ = read(tiny_ms.ms, tmp_path, stores, workers)
            before = {path.name: path.read_bytes() for path in Path(store.folder).iterdir()}
            for task, arguments in cluster.calls:
                assert "No such file or directory" in str(task(*arguments))
            assert {path.name: path.read_bytes() for path in Path(store.folder).iterdir()} == before
            assert cluster.calls and any(before["partition0.vis"])
    finally:
        workers.close()


def test_weights_are_not_taken_for_unfilled_because_some_rows_have_none(make_ms: Any, tmp_path: Path) -> None:
    """An antenna that was off, in rows that come again at regular steps."""
    ms = make_ms(weight_spectrum=True).ms

    def without_weight(main: tables.table) -> None:
        for name in ("WEIGHT_SPECTRUM", "WEIGHT"):
            weight = main.getcol(name)
            weight[:: len(weight) // 16] = 0
            main.putcol(name, weight)

    def flagged(main: tables.table) -> None:
        flag = main.getcol("FLAG_ROW")
        flag[:: len(flag) // 16] = True
        main.putcol("FLAG_ROW", flag)

    found = []
    for change in (without_weight, flagged):
        folder = tmp_path / change.__name__
        folder.mkdir()
        found.append(payload(image(altered(ms, folder, change), folder / "cube")))
    assert found[0] == found[1]


def without(name: str) -> Callable[[Path], None]:
    return lambda ms: shutil.rmtree(ms / name)


def without_rows(name: str) -> Callable[[Path], None]:
    def change(ms: Path) -> None:
        with tables.table(str(ms / name), ack=False) as table:
            table.query("ROWID() < 0").copy(str(ms / "empty"), deep=True).close()
        shutil.rmtree(ms / name)
        (ms / "empty").rename(ms / name)

    return change


def with_values(subtable: str, column: str, value: Any) -> Callable[[Path], None]:
    def change(ms: Path) -> None:
        with tables.table(str(ms / subtable), readonly=False, ack=False) as table:
            values = table.getcol(column)
            values[...] = value
            table.putcol(column, values)

    return change


def with_cells(column: str, *shapes: tuple[int, int]) -> Callable[[Path], None]:
    """The column anew, its cells in turn of these shapes; left empty if there are none."""

    def change(ms: Path) -> None:
        with tables.table(str(ms), readonly=False, ack=False) as table:
            values, kind = table.getcol(column), table.getcoldesc(column)["valueType"]
            table.removecols([column])
            empty = tables.makearrcoldesc(column, values.flat[0].item(), ndim=values.ndim - 1, valuetype=kind)
            table.addcols(tables.maketabdesc(empty))
            for row in range(table.nrows() if shapes else 0):
                table.putcell(column, row, np.zeros(shapes[row % len(shapes)], values.dtype))

    return change


def cut_short(column: str, suffix: str = "") -> Callable[[Path], None]:
    """The file of a column loses all but its first bytes, as one that was not copied to its end."""

    def change(ms: Path) -> None:
        with tables.table(str(ms), ack=False) as table:
            number = table.getdminfo(column)["SEQNR"]
        os.truncate(ms / f"table.f{number}{suffix}", 10)

    return change


def of_other_type(column: str, value: Any, array: bool = False) -> Callable[[Path], None]:
    """The column anew, with values of another type."""

    def change(ms: Path) -> None:
        with tables.table(str(ms), readonly=False, ack=False) as table:
            table.removecols([column])
            make = tables.makearrcoldesc if array else tables.makescacoldesc
            table.addcols(tables.maketabdesc(make(column, value)))

    return change


WRONG_TABLES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"{name} is missing": (without(name), f"cannot open .*{name}: ")
        for name in ("DATA_DESCRIPTION", "FIELD", "POLARIZATION", "SPECTRAL_WINDOW")
    },
    **{
        f"{name} has no rows": (without_rows(name), f"{name} has no rows")
        for name in ("DATA_DESCRIPTION", "FIELD", "POLARIZATION", "SPECTRAL_WINDOW")
    },
    "fields that do not exist": (with_values(".", "FIELD_ID", 99), "no rows are left"),
    "descriptions that do not exist": (with_values(".", "DATA_DESC_ID", 99), "no rows are left"),
    "negative descriptions": (with_values(".", "DATA_DESC_ID", -1), "no rows are left"),
    "NaN frequencies": (with_values("SPECTRAL_WINDOW", "CHAN_FREQ", np.nan), "spectral window 0: a channel's freq"),
    "zero frequencies": (with_values("SPECTRAL_WINDOW", "CHAN_FREQ", 0), "spectral window 0: a channel's freq"),
    "NaN directions": (with_values("FIELD", "PHASE_DIR", np.nan), r"field 0 \(SIMLINE\): its direction PHASE_DIR"),
    "unknown correlations": (with_values("POLARIZATION", "CORR_TYPE", 99), "stokes I cannot be made"),
    "DATA of other channels": (with_cells("DATA", (7, 2)), r"DATA has \(channels, correlations\) = \(7, 2\)"),
    "DATA of other correlations": (with_cells("DATA", (12, 3)), r"DATA has \(channels, correlations\) = \(12, 3\)"),
    "FLAG of another shape": (with_cells("FLAG", (3, 2)), "FLAG in row 0 has shape"),
    "empty DATA": (with_cells("DATA"), "DATA is not written in row 0"),
    "empty FLAG": (with_cells("FLAG"), "FLAG is not written in row 0"),
    "empty WEIGHT": (with_cells("WEIGHT"), "WEIGHT is not written in row 0"),
    "ragged DATA": (with_cells("DATA", (12, 2), (7, 2)), "DATA in row [0-9]+ has shape"),
    **{
        f"{name} is cut short": (cut_short(name, suffix), r"copy\.ms cannot be read: ")
        for name, suffix in (("ANTENNA1", ""), ("DATA_DESC_ID", ""), ("DATA", "_TSM1"))
    },
    "text for ANTENNA1": (of_other_type("ANTENNA1", "x"), "column ANTENNA1 has one string in each row"),
    "arrays for FLAG_ROW": (
        of_other_type("FLAG_ROW", True, array=True),
        "FLAG_ROW has an array of boolean in each row",
    ),
    "text for UVW": (of_other_type("UVW", "x"), "column UVW has one string in each row"),
    "ragged FLAG": (with_cells("FLAG", (12, 2), (7, 2)), "FLAG in row [0-9]+ has shape"),
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_wrong_tables_are_reported_in_one_line(name: str, tiny_ms: Any, tmp_path: Path) -> None:
    change, pattern = WRONG_TABLES[name]
    copy = tmp_path / "copy.ms"
    shutil.copytree(tiny_ms.ms, copy)
    change(copy)
    with pytest.raises(gpucube.GpucubeError, match=pattern) as told:
        image(copy, tmp_path / "out" / "cube")
    assert "\n" not in str(told.value) and "copy.ms" in str(told.value) + str(copy)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ANTENNA", "FEED", "STATE"])
def test_tables_that_imaging_does_not_need_may_be_missing(name: str, tiny_ms: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy.ms"
    shutil.copytree(tiny_ms.ms, copy)
    shutil.rmtree(copy / name)
    assert payload(image(copy, tmp_path / "a")) == payload(image(tiny_ms.ms, tmp_path / "b"))


@pytest.mark.parametrize(
    "name", ["two words", 'it\'s "so"', "-leading", "größe-Ω-星", "a;b$c&d|e", "a'b`c\\d", "%s {x} [y]"]
)
def test_an_imagename_may_hold_odd_characters(
    name: str, tiny_ms: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--imsize", "64", "--cell", "20arcsec", "--quiet"]
    assert main(["image", str(tiny_ms.ms), f"--imagename={name}", *options]) == 0
    assert sorted(os.listdir()) == sorted(
        [f"{name}.{product}.fits" for product in ("image", "model", "residual")] + [f"{name}.summary.json"]
    )
    assert name in capsys.readouterr().out
    assert gpucube.image_cube(tiny_ms.ms, imagename=name, **(SETTINGS | {"overwrite": True})).channels


@pytest.mark.parametrize(
    "target", ["image.fits", "image.fits.new", "summary.json", "summary.json.new", "scratch", "journal"]
)
@pytest.mark.parametrize("dangling", [False, True])
def test_links_are_not_followed(target: str, dangling: bool, tiny_ms: Any, tmp_path: Path) -> None:
    """Whoever may write in the output folder must not make gpucube write elsewhere."""
    precious = tmp_path / "precious"
    if not dangling:
        precious.write_text("mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / f"cube.{target}").symlink_to(precious)
    for changes in ({}, {"resume": True}, {"overwrite": True}):
        try:
            image(tiny_ms.ms, out / "cube", **changes)
        except gpucube.GpucubeError as told:
            assert "\n" not in str(told)
    assert precious.exists() != dangling
    assert dangling or precious.read_text() == "mine"


def test_text_from_the_measurement_set_is_escaped_and_bounded(tiny_ms: Any, tmp_path: Path) -> None:
    from astropy.io import fits

    copy = tmp_path / "copy.ms"
    shutil.copytree(tiny_ms.ms, copy)
    nasty = "Ω'\n\x1b[31m\x07END" + "x" * 5000
    for subtable, column in (("FIELD", "NAME"), ("OBSERVATION", "TELESCOPE_NAME"), ("OBSERVATION", "OBSERVER")):
        with tables.table(str(copy / subtable), readonly=False, ack=False) as table:
            table.putcell(column, 0, nasty)
    result = image(copy, tmp_path / "cube")
    with fits.open(result.products["image"]) as hdus:
        hdus.verify("exception")
        for key in ("OBJECT", "TELESCOP", "OBSERVER"):
            value = hdus[0].header[key]
            assert value.isascii() and value.isprintable() and len(value) <= 68, key
            assert value.startswith("\\u03a9'\\n\\x1b")
    assert payload(result) == payload(image(tiny_ms.ms, tmp_path / "plain"))


def test_a_local_cluster_listens_on_the_loopback_interface_only() -> None:
    import psutil

    cluster = start_cluster(1, CpuKind(), 10**9, ClusterLimits())
    try:
        family = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = {
            c.laddr.ip for p in family for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    finally:
        cluster.close()
