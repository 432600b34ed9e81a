"""The plan: chunks, memory and disk, and the jobs that are refused or warned about before anything is written."""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from jobs import altered

from gpucube.data.selection import select
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.kind import CpuKind
from gpucube.errors import GpucubeError
from gpucube.execution.machine import why_no_processes
from gpucube.execution.memory import LATER_BYTES, PROCESS_BYTES
from gpucube.execution.plan import check_disk, chunk_size, make_chunks, make_plan
from gpucube.execution.tuning import Tuning
from gpucube.schema.parameters import make_parameters


@pytest.mark.parametrize(
    ("chunksize", "nchan", "workers", "fits", "size"),
    [
        (1, 100, 4, 100, 1),
        (7, 100, 4, 100, 7),
        (500, 100, 4, 100, 100),
        (-1, 100, 4, 100, 25),
        (-1, 101, 4, 101, 26),
        (-1, 3, 8, 3, 1),
        ("auto", 128, 4, 128, 4),  # eight chunks for each worker
        ("auto", 128, 4, 3, 3),  # the device holds no more
        ("auto", 5, 4, 5, 1),
        ("auto", 1, 1, 1, 1),
    ],
)
def test_chunk_sizes(chunksize, nchan, workers, fits, size):
    assert chunk_size(chunksize, nchan, workers, fits) == size


@pytest.mark.parametrize("size", [1, 3, 4, 12, 50])
def test_chunks_are_runs_of_neighbours_that_hold_every_channel_once(size):
    chunks = make_chunks(size, np.random.default_rng(1).random(12))
    assert sorted(c for chunk in chunks for c in chunk) == list(range(12))
    for chunk in chunks:
        assert chunk == list(range(chunk[0], chunk[0] + len(chunk)))
        assert chunk[0] % size == 0
        assert len(chunk) <= size


def test_the_chunks_with_most_power_come_first_and_equal_ones_in_order():
    power = np.zeros(12)
    power[7], power[2] = 5.0, 3.0
    assert [c[0] for c in make_chunks(2, power)] == [6, 2, 0, 4, 8, 10]


CORES = Hardware(kind=CpuKind())


def plan_of(ms, tmp_path, **changes):
    parameters = parameters_of(ms, tmp_path, **changes)
    return make_plan(parameters, select(parameters), CORES, held=0)


def parameters_of(ms, tmp_path, **changes):
    settings = {"imsize": 64, "cell": "20arcsec", "niter": 100, "nsigma": 3.0, "workers": 2} | changes
    return make_parameters(vis=str(ms), imagename=str(tmp_path / "out" / "cube"), **settings)


def test_the_plan_of_a_small_job(tiny_ms, tmp_path):
    plan = plan_of(tiny_ms.ms, tmp_path, chunksize=5, products=["image", "model", "psf"])
    assert (plan.nchan, plan.nstokes, plan.chunksize, plan.chunks, plan.workers) == (12, 1, 5, 3, 2)
    assert plan.in_process, "a job of seconds needs no cluster"
    assert plan.product_bytes == 3 * 12 * 64 * 64 * 4
    # UVW, two correlations of DATA and FLAG in 12 channels, WEIGHT: of all 900 rows
    assert plan.ms_bytes == 900 * (24 + 12 * 2 * (8 + 1) + 2 * 4)
    assert plan.products == tuple(str(tmp_path / "out" / f"cube.{p}.fits") for p in ("image", "model", "psf"))
    assert plan.scratch == str(tmp_path / "out" / "cube.scratch")
    assert plan.warnings == ()
    assert PROCESS_BYTES < plan.memory_predicted < plan.memory_budget
    assert not (tmp_path / "out").exists(), "planning writes nothing"
    text = str(plan)
    for word in ("12", "3 of up to 5", "2 workers", plan.scratch, *plan.products):
        assert word in text


def test_the_plan_follows_the_selection_and_the_stokes_parameters(tiny_ms, tmp_path):
    plan = plan_of(tiny_ms.ms, tmp_path, spw="0:2~9", width=2, stokes="IV")
    assert (plan.nchan, plan.nstokes) == (4, 2)
    assert plan.product_bytes == 3 * 4 * 2 * 64 * 64 * 4
    assert plan.ms_bytes == 900 * (24 + 8 * 2 * (8 + 1) + 2 * 4)


def test_no_more_workers_than_channels(tiny_ms, tmp_path):
    assert plan_of(tiny_ms.ms, tmp_path, spw="0:3", workers=6).workers == 1


def test_workers_are_lowered_until_they_fit_the_memory(tiny_ms, tmp_path):
    free = plan_of(tiny_ms.ms, tmp_path, imsize=1024, workers=4)
    assert free.workers == 4
    one_less = plan_of(tiny_ms.ms, tmp_path, imsize=1024, workers=4, memory=f"{free.memory_predicted - 1}B")
    assert one_less.workers == 3
    assert one_less.memory_predicted <= one_less.memory_budget == free.memory_predicted - 1
    least = plan_of(tiny_ms.ms, tmp_path, imsize=1024, workers=1)
    assert plan_of(tiny_ms.ms, tmp_path, imsize=1024, workers=4, memory=f"{least.memory_predicted}B").workers == 1


def test_what_a_program_holds_already_counts(tiny_ms, tmp_path):
    """A notebook may hold gigabytes before it makes a cube."""
    parameters = parameters_of(tiny_ms.ms, tmp_path, workers=1)
    selection = select(parameters)
    small, large = (make_plan(parameters, selection, CORES, held=held).memory_predicted for held in (0, 2 * 10**9))
    assert large - small == 2 * 10**9 + LATER_BYTES - PROCESS_BYTES


def test_a_plane_larger_than_the_memory_is_refused_in_one_line(tiny_ms, tmp_path):
    with pytest.raises(GpucubeError) as caught:
        plan_of(tiny_ms.ms, tmp_path, imsize=4096, memory="1GB")
    message = str(caught.value)
    assert "4096 x 4096" in message
    assert "only 1 GB is allowed" in message
    assert "\n" not in message


@pytest.mark.parametrize("large", ["product_bytes", "scratch_bytes"])
def test_a_job_larger_than_the_disk_is_refused(tiny_ms, tmp_path, large):
    plan = replace(plan_of(tiny_ms.ms, tmp_path), **{large: 10**18})
    with pytest.raises(
        GpucubeError, match=r"need 1e\+06 TB of disk but .* has only .* free: choose another `imagename`"
    ):
        check_disk(plan)


def test_unevenly_spaced_channels_give_a_warning(tiny_ms, tmp_path):
    def stretch(windows):
        windows.putcell("CHAN_FREQ", 0, windows.getcell("CHAN_FREQ", 0) + 40.0 * np.arange(12) ** 2)

    uneven = altered(tiny_ms.ms, tmp_path, stretch, "SPECTRAL_WINDOW")
    (warning,) = plan_of(uneven, tmp_path).warnings
    assert "not evenly spaced" in warning
    assert plan_of(uneven, tmp_path, spw="0:4").warnings == ()
    assert plan_of(tiny_ms.ms, tmp_path).warnings == ()


def test_the_plan_names_who_limits_workers_and_memory(tiny_ms, tmp_path):
    assert "2 workers (workers=), memory: memory=" in str(plan_of(tiny_ms.ms, tmp_path, memory="2GB"))
    assert "memory: 80 % of the " in str(plan_of(tiny_ms.ms, tmp_path))


def test_with_a_scheduler_the_memory_of_its_workers_counts(tiny_ms, tmp_path):
    parameters = parameters_of(tiny_ms.ms, tmp_path, workers=None, scheduler="tcp://somewhere:8786")
    selection = select(parameters)
    large = replace(CORES, workers=3, worker_memory=10**15)
    plan = make_plan(parameters, selection, large)
    assert plan.workers == 3
    assert plan.memory_budget == pytest.approx(0.8 * 3e15)
    assert "3 workers (the workers of the scheduler), memory: 80 % of the workers of the scheduler" in str(plan)
    with pytest.raises(GpucubeError, match=r"only 80 MB is allowed \(the workers of the scheduler\)"):
        make_plan(parameters, selection, replace(CORES, workers=300, worker_memory=10**8))


def test_where_no_processes_can_be_started_threads_do_the_work(tiny_ms, tmp_path, monkeypatch):
    parameters = parameters_of(tiny_ms.ms, tmp_path, imsize=64)
    selection = select(parameters)
    assert not make_plan(parameters, selection, CORES, Tuning(in_process_seconds=0)).in_process
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    plan = make_plan(parameters, selection, CORES, Tuning(in_process_seconds=0))
    assert plan.in_process
    assert any("no processes can be started" in text and "No such file" in text for text in plan.warnings)


def test_a_daemonic_process_starts_no_workers():
    """multiprocessing forbids it, and a cluster would wait for its workers in vain. Those of a Pool are daemonic."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "not allowed to have children" in pool.apply(why_no_processes)
