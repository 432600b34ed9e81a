"""The result does not depend on who does the work, and a failure costs nothing but the channel that failed."""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import dask
import numpy as np
import psutil
import pytest
from astropy.io import fits
from distributed import Client, LocalCluster, Nanny
from events import RecordedEvents
from jobs import GEOMETRY, IMAGES, SETTINGS, image, make_job, payload, planes, read, tree

from gpucube import disk
from gpucube.data.mask_image import MaskImage
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.kind import CpuKind
from gpucube.errors import DeviceLost, GpucubeError
from gpucube.execution.dask_cluster import connect, start_cluster
from gpucube.execution.dask_workers import DaskWorkers, hardware_of_workers
from gpucube.execution.threads import ThreadWorkers
from gpucube.execution.tuning import ClusterLimits, Tuning
from gpucube.execution.workers import Workers
from gpucube.imaging.job import ImageJob
from gpucube.output.fits_cube import read_plane
from gpucube.output.records import ChannelRecord, StopCode

ON_GRID: dict[str, Any] = {"shape": (64, 64), "geometry": GEOMETRY}
"""A mask with the pixels of the cube."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a Dask scheduler with two workers; it gives up a task that has killed one worker."""
    with (
        # Dask would give up a worker that is killed twice within this time
        dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.deploy.lost-worker-timeout": "1 h"}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1"
        ) as made,
    ):
        yield made.scheduler_address


@pytest.fixture(params=["threads", "dask"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Both kinds of workers, two of each."""
    made = (
        ThreadWorkers(2, CpuKind())
        if request.param == "threads"
        else DaskWorkers(connect(request.getfixturevalue("cluster"), ClusterLimits()), CpuKind())
    )
    yield made
    made.close()


class DeadlyMask(MaskImage):
    """The plane of channel 5 kills the process that reads it, as the kernel does when memory runs out."""

    def plane(self, channel: int, stokes: str = "I") -> np.ndarray:
        if channel == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((64, 64), bool)


class DeviceLosingMask(MaskImage):
    """At the plane of channel 5 the GPU of the process stops working, so no other channel can be imaged there."""

    def plane(self, channel: int, stokes: str = "I") -> np.ndarray:
        if channel == 5:
            raise DeviceLost("the GPU stopped working")
        return np.ones((64, 64), bool)


def job_on(ms: Path, folder: Path, workers: Workers, stores: ExitStack, **changes: Any) -> ImageJob:
    """A job on an MS that `workers` have read."""
    return make_job(*read(ms, folder, stores, workers), folder / "cube", **changes)


CHUNKS = [[4, 5, 6, 7], [0, 1, 2, 3], [8, 9, 10, 11]]


def run(job: ImageJob, workers: Workers) -> tuple[list[ChannelRecord], RecordedEvents]:
    events = RecordedEvents()
    records = [r for batch in workers.image(job, CHUNKS, events) for r in batch]
    return sorted(records, key=lambda r: r.channel), events


def test_every_channel_is_reported_when_it_starts_finishes_and_is_safe(
    workers: Workers, tiny_ms: Any, tmp_path: Path
) -> None:
    with ExitStack() as stores:
        records, events = run(job_on(tiny_ms.ms, tmp_path, workers, stores, products=IMAGES), workers)
    assert [r.channel for r in records] == list(range(12))
    assert sorted(events.started_channels) == list(range(12))
    assert sorted(r.channel for r in events.finished_records) == list(range(12))
    assert all(isinstance(r, ChannelRecord) for r in events.finished_records)
    for channel in range(12):
        assert events.of(channel) == ["started", "finished", "safe"]


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_an_unreadable_plane_of_the_mask_fails_its_channels_alone(
    workers: Workers, tiny_ms: Any, tmp_path: Path
) -> None:
    """The mask is cut short after it was checked: planes 9 to 11 are gone."""
    path = tmp_path / "mask.fits"
    fits.writeto(path, np.ones((12, 64, 64), np.float32))
    os.truncate(path, 2880 + 9 * 64 * 64 * 4 + 100)
    with ExitStack() as stores:
        job = job_on(
            tiny_ms.ms,
            tmp_path,
            workers,
            stores,
            mask=MaskImage(
                path=str(path), hdu=0, planes=tuple((c,) for c in range(12)), **ON_GRID | {"shape": (12, 64, 64)}
            ),
        )
        records, _ = run(job, workers)
    good = image(tiny_ms.ms, tmp_path / "good")
    for record in records:
        lost = record.channel >= 9
        assert (record.stop_code == StopCode.FAILED) == lost
        assert bool(record.message) == lost and "\n" not in record.message
        for product in IMAGES:
            found = read_plane(job.cubes[product], 0, record.channel)
            expected = np.full((64, 64), np.nan) if lost else planes(good, product)[record.channel]
            np.testing.assert_array_equal(found, expected)


def test_a_scheduler_that_dies_during_calls_is_reported_by_each_of_them(tmp_path: Path) -> None:
    """Some calls learn that their own connection is gone, others that the client has lost its scheduler."""
    where, quiet = tmp_path / "scheduler.json", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    common = ["--scheduler-file", str(where), "--no-dashboard"]
    commands = (["dask_scheduler", "--port", "0"], ["dask_worker", "--no-nanny", "--nthreads", "1"])
    with ExitStack() as started:
        processes = []
        for module, *options in commands:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *options, *common]
            processes.append(started.enter_context(subprocess.Popen(command, cwd=tmp_path, **quiet)))
            started.callback(processes[-1].kill)
            while not (where.exists() and where.stat().st_size):
                time.sleep(0.05)
        joined = connect(json.loads(where.read_text())["address"], ClusterLimits())
        started.callback(joined.close)
        found: list[str] = []
        begun = threading.Barrier(9)

        def call() -> None:
            begun.wait()
            with pytest.raises(GpucubeError) as lost:
                joined.on_every_worker(functools.partial(time.sleep, 60))
            found.append(str(lost.value))

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        begun.wait()
        time.sleep(0.3)  # the calls are under way
        processes[0].kill()
        for thread in threads:
            thread.join(30)
    assert found == ["the Dask scheduler was lost"] * 8


@pytest.mark.parametrize("mask", [DeadlyMask, DeviceLosingMask])
def test_a_channel_that_kills_its_worker_is_isolated_and_marked_failed(
    cluster: str, tiny_ms: Any, tmp_path: Path, mask
) -> None:
    workers = DaskWorkers(connect(cluster, ClusterLimits()), CpuKind())
    with ExitStack() as stores:
        stores.callback(workers.close)
        job = job_on(
            tiny_ms.ms,
            tmp_path,
            workers,
            stores,
            mask=mask(path="", hdu=0, planes=(), **ON_GRID),
            products=IMAGES,
        )
        records, _ = run(job, workers)
    good = image(tiny_ms.ms, tmp_path / "good")
    assert [r.channel for r in records] == list(range(12))
    assert [r.channel for r in records if r.stop_code == StopCode.FAILED] == [5]
    assert records[5].message.startswith("KilledWorker") and "\n" not in records[5].message
    for product in IMAGES:
        for channel in range(12):
            found = read_plane(job.cubes[product], 0, channel)
            expected = np.full((64, 64), np.nan) if channel == 5 else planes(good, product)[channel]
            np.testing.assert_array_equal(found, expected)


QUICK = ClusterLimits(lost_worker_seconds=0, seconds_between_looks=0.5)

Doomed = Callable[[ClusterLimits], tuple[ImageJob, DaskWorkers]]


@pytest.fixture
def doomed(tiny_ms: Any, tmp_path: Path) -> Iterator[Doomed]:
    """A job whose channel 5 kills the workers of a local cluster, which gives up each of them at once and for good.

    Dask gives up a worker that has not come back in time; here no time is enough. It gives up a task after one death.
    """
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), ExitStack() as stores:

        def make(limits: ClusterLimits) -> tuple[ImageJob, DaskWorkers]:
            workers = DaskWorkers(start_cluster(2, CpuKind(), 0, limits), CpuKind())
            stores.callback(workers.close)
            mask = DeadlyMask(path="", hdu=0, planes=(), **ON_GRID)
            return job_on(tiny_ms.ms, tmp_path, workers, stores, mask=mask, products=("image",)), workers

        yield make


def test_workers_that_a_local_cluster_gave_up_are_replaced(doomed: Doomed) -> None:
    records, _ = run(*doomed(QUICK))
    assert [r.channel for r in records] == list(range(12))
    assert [r.channel for r in records if r.stop_code == StopCode.FAILED] == [5]


def test_a_replacement_that_dies_while_it_starts_is_replaced(doomed: Doomed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both workers are killed for good, and so are the first two that come for them, before they are there."""
    start, to_die = Nanny.instantiate, [1, 2]

    async def instantiate(self: Nanny) -> Any:
        if self.process is None and to_die:
            to_die.pop()
            raise RuntimeError("killed")
        return await start(self)

    monkeypatch.setattr(Nanny, "instantiate", instantiate)
    records, _ = run(*doomed(QUICK))
    assert not to_die
    assert [r.channel for r in records if r.stop_code == StopCode.FAILED] == [5]


def test_a_local_cluster_without_workers_is_reported(doomed: Doomed, monkeypatch: pytest.MonkeyPatch) -> None:
    job, workers = doomed(replace(QUICK, seconds_without_workers=3.0, close_seconds=2))
    # the machine cannot start processes any more
    monkeypatch.setattr("distributed.nanny.AsyncProcess.start", AsyncMock(side_effect=OSError("no memory")))
    with pytest.raises(GpucubeError, match="all workers of the local Dask cluster died and no new ones"):
        run(job, workers)


def test_a_scheduler_without_workers_is_reported_once_and_the_run_goes_on_when_workers_come(
    tiny_ms: Any, tmp_path: Path
) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0"
        ) as cluster,
        ExitStack() as stores,
    ):
        limits = ClusterLimits(seconds_between_looks=0.2)
        workers = DaskWorkers(connect(cluster.scheduler_address, limits), CpuKind())
        stores.callback(workers.close)
        job = job_on(tiny_ms.ms, tmp_path, workers, stores, products=("image",))
        cluster.scale(0)
        cluster.sync(cluster._correct_state)
        back = threading.Timer(2.0, cluster.scale, [1])
        back.start()
        with pytest.warns(UserWarning, match="no workers any more: waiting for new ones") as told:
            records, _ = run(job, workers)
        back.join()
    assert len(told) == 1
    assert len(records) == 12


def test_an_existing_cluster_does_the_work_and_stays(cluster: str, tiny_ms: Any, tmp_path: Path) -> None:
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        names = {str(w["name"]) for w in client.scheduler_info(n_workers=-1)["workers"].values()}
        result = image(tiny_ms.ms, tmp_path / "cube", scheduler=cluster, chunksize=1)
        assert {r.worker for r in result.channels} <= names
        assert client.submit(os.getpid).result() != os.getpid()
    assert result.summary["memory_peak"] > psutil.Process().memory_info().rss


@pytest.mark.filterwarnings("error")
def test_a_local_cluster_is_started_and_ended(tiny_ms: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    result = image(tiny_ms.ms, tmp_path / "dask", workers=2, tuning=Tuning(in_process_seconds=0))
    assert capfd.readouterr() == ("", "")
    assert result.summary["plan"]["workers"] == 2
    assert {r.worker for r in result.channels} <= {"0", "1"}
    left = {p.pid for p in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(p.cmdline())}
    assert left <= before
    assert tree(tmp_path) == sorted(f"dask.{name}.fits" for name in SETTINGS["products"]) + ["dask.summary.json"]
    assert payload(image(tiny_ms.ms, tmp_path / "threads", workers=2)) == payload(result)


@dataclass(frozen=True)
class AloneKind(CpuKind):
    """A kind of which a process drives one only, as it drives one GPU."""

    workers_share_process = False


def test_workers_that_read_make_room_for_those_that_image(tiny_ms: Any, tmp_path: Path) -> None:
    hardware = Hardware(kind=AloneKind(), gpu_count=2)
    result = image(tiny_ms.ms, tmp_path / "two clusters", hardware=hardware)
    assert result.summary["plan"]["workers"] == 2
    assert {r.worker for r in result.channels} <= {"0", "1"}
    assert payload(image(tiny_ms.ms, tmp_path / "threads")) == payload(result)


@pytest.mark.parametrize("scheduler", [False, True], ids=["threads", "dask"])
def test_progress_counts_every_channel(
    scheduler: bool,
    tiny_ms: Any,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address = request.getfixturevalue("cluster") if scheduler else ""
    capsys.readouterr()
    image(tiny_ms.ms, tmp_path / "cube", quiet=False, scheduler=address)
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("gpucube: ") for line in lines)
    assert any("900 of 900 rows" in line for line in lines)
    assert "12 of 12 channels done in" in lines[-1]


def test_a_cluster_restores_what_it_changes_in_this_process(cluster: str) -> None:
    """Signals, Dask's configuration and the levels of its loggers."""

    def state() -> list[Any]:
        signals = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        names = ("distributed", "distributed.client", "distributed.core", "distributed.utils", "tornado.application")
        configuration = copy.deepcopy(dask.config.config)
        del configuration["distributed"]["scheduler"]["http"]["routes"]  # each scheduler adds to this list itself
        return [signals, mask, [logging.getLogger(n).level for n in names], configuration]

    before = state()
    for opens in (lambda: connect(cluster, ClusterLimits()), lambda: start_cluster(1, CpuKind(), 0, ClusterLimits())):
        opened = opens()
        assert state() != before
        opened.close()
        assert state() == before


def test_the_workers_of_a_scheduler_say_what_memory_they_may_take(cluster: str) -> None:
    hardware = hardware_of_workers("cpu", cluster, ClusterLimits())
    assert hardware.workers == 2
    assert 0 < 2 * hardware.worker_memory <= psutil.virtual_memory().total


def test_a_worker_that_does_not_see_a_folder_is_named(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    look = functools.partial(disk.out_of_sight, [str(tmp_path / "there")], [str(tmp_path / "there")])
    assert {problem for _, problem in workers.everywhere(look)} == {""}
    look = functools.partial(disk.out_of_sight, [str(tmp_path / "not there")], [])
    for node, problem in workers.everywhere(look):
        assert node == os.uname().nodename
        assert problem == f"does not see {tmp_path / 'not there'}"


def test_what_was_compiled_before_imaging_is_all_that_imaging_runs(tiny_ms: Any, tmp_path: Path) -> None:
    """In a process of its own: what other tests have compiled must not count."""
    code = """
import sys
from pathlib import Path
from jobs import image
import gpucube.data.transpose, gpucube.devices.psf_fit, gpucube.devices.cpu.loops as loops
from gpucube import run
modules = [gpucube.data.transpose, gpucube.devices.psf_fit, loops]
def compiled():
    return {f"{name}{s}" for m in modules for name, f in vars(m).items() for s in getattr(f, "signatures", ())}
class Look(run.Observer):
    def stage(self, name):
        if name == "imaging":
            self.before = compiled()
look = Look()
image(Path(sys.argv[1]), Path(sys.argv[2]), workers=1, restoringbeam="30arcsec", observer=look, **eval(sys.argv[3]))
print(len(look.before) > 5, compiled() - look.before)
"""
    for changes in ({}, {"minorcycle": "textbook", "weighting": "uniform", "gridder": "wgridder"}):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tiny_ms.ms), str(tmp_path / f"cube{len(changes)}"), repr(changes)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "True set()\n"
