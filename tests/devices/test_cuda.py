"""The main job on the CUDA device, from a MeasurementSet to cubes: the CPU device's answer, whatever the batch.

Where there is no GPU the kernels are run on the host: all of gpucube is the same but CuPy itself (docs/cuda.md).
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from conftest import ON_GPU, ON_HOST
from hosts.host_backend import host_backend
from jobs import geometry, image, payload, planes, samples

import gpucube
from gpucube.devices import choice as devices
from gpucube.devices.base import ImagingSettings, MinorOrder
from gpucube.devices.choice import choose_device
from gpucube.devices.cpu.device import CpuDevice
from gpucube.devices.cuda.convolver import Convolver
from gpucube.devices.cuda.device import CudaDevice
from gpucube.devices.cuda.memory import device_memory, make_gridders
from gpucube.errors import GpucubeError
from gpucube.output.records import StopCode


@pytest.fixture(params=[ON_HOST, ON_GPU])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``device="cuda"`` works: on a GPU, or with kernels run on the host. Call it to change the host's backend."""

    def on_host(**changes: Any) -> None:
        monkeypatch.setitem(
            devices.MAKERS, "cuda", lambda settings, lanes: CudaDevice(settings, host_backend(**changes))
        )
        monkeypatch.setattr("gpucube.run.gpus_here", lambda: ("", 1, changes.get("budget", 1 << 34)))

    if request.param == "cuda-on-host":
        on_host()
        return on_host
    return lambda **changes: pytest.skip("a GPU has the memory that it has")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gridder": "wgridder", "nsigma": 5},
        {"majorcycle": "visibility", "minorcycle": "textbook", "niter": 60},
        {"stokes": "IV", "restoringbeam": ["100arcsec", "90arcsec", "20deg"], "nsigma": 5},
    ],
    ids=["defaults", "w", "visibilities, textbook", "two Stokes, given beam"],
)
def test_the_cubes_are_the_cpu_devices(gpu, tiny_ms, tmp_path, changes) -> None:
    settings = {"nchan": 5, "start": 2, "epsilon": 1e-6} | changes
    cpu = image(tiny_ms.ms, tmp_path / "cpu", device="cpu", **settings)
    cuda = image(tiny_ms.ms, tmp_path / "cuda", device="cuda", **settings)
    for a, b in zip(cpu.channels, cuda.channels, strict=True):
        assert (b.stop_code, b.major_cycles, b.iterations) == (a.stop_code, a.major_cycles, a.iterations)
        assert (b.visibilities, b.device) == (a.visibilities, "cuda")
        assert b.sum_weights == pytest.approx(a.sum_weights, rel=1e-6)
    for name in ("image", "residual", "model", "psf", "dirty"):
        peak = float(np.nanmax(np.abs(planes(cpu, name))))
        assert planes(cuda, name) == pytest.approx(planes(cpu, name), abs=1e-4 * peak, nan_ok=True), name
    assert np.isnan(planes(cuda, "image")[0]).all(), "channel 2 is flagged"
    assert np.array_equal(planes(cuda, "mask"), planes(cpu, "mask"))


def test_the_cubes_do_not_depend_on_the_batch(gpu, tiny_ms, tmp_path) -> None:
    made = {
        size: payload(image(tiny_ms.ms, tmp_path / f"of{size}", device="cuda", start=1, nchan=6, chunksize=size))
        for size in (1, 4, -1)
    }
    assert made[1] == made[4] == made[-1]


def test_runs_repeat_bit_for_bit(gpu, tiny_ms, tmp_path, request) -> None:
    """Ten times on a GPU, whose threads come in any order; on the host, where they do not, twice."""
    runs = 10 if "cuda-on-host" not in request.node.callspec.id else 2
    made = [
        payload(image(tiny_ms.ms, tmp_path / f"run{k}", device="cuda", start=3, nchan=3, gridder="wgridder"))
        for k in range(runs)
    ]
    assert all(m == made[0] for m in made[1:])


def test_a_mask_is_kept_to(gpu, tiny_ms, tmp_path) -> None:
    from astropy.io import fits

    allowed = np.zeros((64, 64), np.int16)
    allowed[20:28, 36:44] = 1
    fits.PrimaryHDU(allowed).writeto(tmp_path / "mask.fits")
    result = image(tiny_ms.ms, tmp_path / "cube", device="cuda", start=4, nchan=1, mask=str(tmp_path / "mask.fits"))
    model = planes(result, "model")[0]
    assert model[allowed > 0].sum() > 0.8
    assert not model[allowed == 0].any()


def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(gpu, tiny_ms, tmp_path, monkeypatch) -> None:
    """The first batch of more than two planes meets a device that has less memory than it said."""
    expected = payload(image(tiny_ms.ms, tmp_path / "plain", device="cuda", start=2, nchan=6, chunksize=-1))
    refused: list[int] = []
    reserve = CudaDevice._reserve

    def short_of_memory(self: CudaDevice, count: int) -> None:
        if count > 2:
            refused.append(count)
            raise self.out_of_memory("out of memory")
        reserve(self, count)

    monkeypatch.setattr(CudaDevice, "_reserve", short_of_memory)
    result = image(tiny_ms.ms, tmp_path / "short", device="cuda", start=2, nchan=6, chunksize=-1, workers=1)
    assert refused
    assert not result.failed_channels
    assert payload(result) == expected


def test_an_image_too_large_for_the_gpu_is_refused_with_the_numbers(gpu, tiny_ms, tmp_path) -> None:
    gpu(budget=1_000_000)
    with pytest.raises(GpucubeError, match=r"64 x 64 pixels needs 0\.\d+ GB of device memory, 0\.00 GB may be used"):
        image(tiny_ms.ms, tmp_path / "cube", device="cuda")
    assert not list(tmp_path.iterdir())


def test_chunks_are_as_large_as_the_memory_of_the_device(gpu, tiny_ms, tmp_path) -> None:
    """Three threads share the device; a third of the memory holds so many channels of 64 x 64."""
    gpu(budget=200 << 20)
    result = image(tiny_ms.ms, tmp_path / "cube", device="cuda", chunksize=12, niter=0)
    assert [r.stop_code for r in result.channels].count(StopCode.NO_DATA) == 1
    summary = result.summary
    assert 0 < summary["device_memory_predicted"] < 200 << 20
    assert summary["plan"]["device"] == "cuda"


@pytest.mark.parametrize("shared_bytes", [227 << 10, 3 << 10], ids=["in shared memory", "spilled"])
@pytest.mark.parametrize("form", ["textbook", "activeset"])
def test_many_blocks_and_sets_that_spill_find_what_the_cpu_finds(form, shared_bytes) -> None:
    """On an image too large for one block, and with less shared memory than the active set takes."""
    g = geometry(130, 128)
    settings = ImagingSettings(g, epsilon=1e-6, minorcycle=form, samples=700)
    each = [samples(g, seed=1), samples(g, seed=2)]
    orders, found = [MinorOrder(0.0, 70, 0.1), MinorOrder(0.1, 10_000, 0.2)], []
    for device in (CpuDevice(settings), CudaDevice(settings, host_backend(shared_bytes=shared_bytes))):
        held = device.begin(each, [None, None])
        device.make_psf(held, True)
        done = device.minor(held, orders)
        found.append((done, [device.fetch(p, "model") for p in held]))
    (done, expected), (done_too, models) = found
    assert done == done_too
    assert done[0] == 70 and done[1] > 5
    for a, b in zip(expected, models, strict=True):
        assert np.array_equal(a != 0, b != 0)
        assert b == pytest.approx(a, abs=1e-5)  # PSFs of accuracy 1e-6


def test_a_gpu_that_fails_for_good_ends_the_run_in_one_line(tiny_ms, tmp_path, monkeypatch) -> None:
    """As an illegal access does: every call after it fails. Channels must not be marked as failed for that."""
    broken: list[str] = []

    def synchronise() -> None:
        if broken:
            raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    class Breaking(CudaDevice):
        def major(self, planes):
            broken.append("now")
            super().major(planes)

    monkeypatch.setitem(
        devices.MAKERS,
        "cuda",
        lambda settings, lanes: Breaking(settings, replace(host_backend(), synchronise=synchronise)),
    )
    monkeypatch.setattr("gpucube.run.gpus_here", lambda: ("", 1, 1 << 34))
    with pytest.raises(GpucubeError, match="the GPU stopped working: cudaErrorIllegalAddress"):
        image(tiny_ms.ms, tmp_path / "cube", device="cuda", start=4, nchan=2)


@pytest.mark.parametrize("w_term", [False, True])
@pytest.mark.parametrize(("n", "size"), [(300, 128), (60_000, 32)], ids=["large images", "many samples"])
def test_the_memory_that_planes_take_is_known_beforehand(n, size, w_term) -> None:
    """On the host, where every array is counted: what numpy holds at most, over a whole life of three planes."""
    g = geometry(size, size, 60.0)
    settings = ImagingSettings(g, "briggs", epsilon=1e-4, w_term=w_term, majorcycle="auto", samples=n, w_max=3000.0)
    backend = host_backend()
    each = [samples(g, n=n, seed=seed, w=3000.0) for seed in (1, 2, 3)]
    predicted = device_memory(settings, make_gridders(settings, backend), Convolver(backend, size, size), 3)
    device = CudaDevice(settings, backend)
    tracemalloc.start()
    try:
        held = device.begin(each, [None] * 3)
        device.make_psf(held, True)
        device.minor(held, [MinorOrder(0.0, 20, 0.1)] * 3)
        device.major(held)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # what fits by the model must fit; and the model must not leave half the memory unused
    assert 0.5 * predicted < peak < 1.1 * predicted


def test_a_device_that_cannot_be_used_is_told_in_one_line() -> None:
    reason = "CuPy is not installed (pip install 'gpucube[cuda12]' or 'gpucube[cuda13]')"
    with pytest.raises(GpucubeError, match=r"device='cuda' cannot be used: CuPy is not installed \(pip.*device='cpu'"):
        choose_device("cuda", lambda: reason)
    assert choose_device("auto", lambda: reason) == ("cpu", f"imaging on CPU cores: {reason}")
    assert choose_device("auto", lambda: "") == ("cuda", "")
    assert choose_device("cpu", lambda: pytest.fail("nobody asked for a GPU")) == ("cpu", "")


@pytest.mark.skipif(devices.gpus_here()[0] == "", reason="there is a GPU")
def test_without_a_gpu_auto_means_the_cpu_and_cuda_is_refused(tiny_ms, tmp_path, capfd) -> None:
    result = image(tiny_ms.ms, tmp_path / "auto", device="auto", niter=0, quiet=False)
    assert {r.device for r in result.channels if r.device} == {"cpu"}
    assert capfd.readouterr().err.count("imaging on CPU cores: ") == 1
    with pytest.raises(GpucubeError, match="device='cuda' cannot be used: ") as refusal:
        gpucube.image_cube(tiny_ms.ms, imagename=tmp_path / "cuda", imsize=64, cell="20arcsec", device="cuda")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("cuda*"))
