"""The main job on the CUDA device, from a MeasurementSet to cubes: it agrees with the CPU device, whatever the batch.

Without a GPU the kernels run on the host: everything is the same except CuPy itself (docs/gpu.md).
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ON_GPU, ON_HOST
from hosts.host_backend import HostCuda, host_backend
from hosts.kernel_runs import NO_GPU, needs_compiler
from jobs import SETTINGS, geometry, image, payload, planes, samples
from oracles import gaussian

import gpucube
from gpucube import run
from gpucube.devices.base import ImagingSettings, MinorCycle, Restoring
from gpucube.devices.choice import Hardware, find_hardware
from gpucube.devices.cuda.backend import Backend
from gpucube.devices.cuda.device import CudaDevice
from gpucube.devices.cuda.kind import CudaKind
from gpucube.devices.cuda.memory import DeviceMemory
from gpucube.devices.psf_fit import fit_beam
from gpucube.errors import GpucubeError
from gpucube.output.records import StopCode
from gpucube.schema.parameters import make_parameters
from gpucube.sky.beam import Beam


@pytest.fixture(params=[ON_HOST, ON_GPU])
def cuda(request: pytest.FixtureRequest) -> Hardware:
    """One GPU, or one whose kernels run on the host."""
    return request.param.hardware() if isinstance(request.param, HostCuda) else find_hardware("cuda")


def short_of(budget: int, cuda: Hardware) -> Hardware:
    """The GPU on the host with so many bytes of memory."""
    if not isinstance(cuda.kind, HostCuda):
        pytest.skip("the memory of a GPU cannot be chosen")
    return replace(cuda.kind, budget=budget).hardware()


def image_on(hardware: Hardware, vis: Path, imagename: Path, **changes: Any) -> gpucube.Result:
    """As `image`, on the GPU."""
    given = SETTINGS | {"device": "cuda"} | changes
    return run.image(make_parameters(vis=vis, imagename=imagename, **given), hardware=hardware)


@dataclass(frozen=True)
class Altered(CudaKind):
    """A kind with an altered backend."""

    kind: CudaKind
    alter: Callable[[Backend], Backend]

    def backend(self, lanes: int) -> Backend:
        return self.alter(self.kind.backend(lanes))

    def working(self) -> AbstractContextManager[None]:
        return self.kind.working()


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gridder": "wgridder", "nsigma": 5},
        {"majorcycle": "visibility", "minorcycle": "textbook", "niter": 60},
        {"stokes": "IV", "restoringbeam": ["100arcsec", "90arcsec", "20deg"], "nsigma": 5},
        {
            "weighting": "superuniform",
            "npixels": 2,
            "pbcor": True,
            "usemask": "auto-multithresh",
            "niter": 60,
            "nchan": 3,
        },
        {"deconvolver": "multiscale", "scales": [0, 2, 5], "mask": "circle[[40pix,24pix],12pix]", "nchan": 3},
    ],
    ids=[
        "defaults",
        "w",
        "visibilities, textbook",
        "two Stokes, given beam",
        "weights, masks and primary beam of the host",
        "multiscale",
    ],
)
def test_the_cubes_agree_with_the_cpu_devices(cuda, tiny_ms, tmp_path, changes) -> None:
    settings = {"nchan": 5, "start": 2, "epsilon": 1e-6} | changes
    cpu = image(tiny_ms.ms, tmp_path / "cpu", device="cpu", **settings)
    found = image_on(cuda, tiny_ms.ms, tmp_path / "cuda", **settings)
    for a, b in zip(cpu.channels, found.channels, strict=True):
        assert (b.stop_code, b.major_cycles, b.iterations) == (a.stop_code, a.major_cycles, a.iterations)
        assert (b.visibilities, b.device) == (a.visibilities, "cuda")
        assert b.sum_weights == pytest.approx(a.sum_weights, rel=1e-6)
    for name in ("image", "residual", "model", "psf", "dirty"):
        peak = float(np.nanmax(np.abs(planes(cpu, name))))
        assert planes(found, name) == pytest.approx(planes(cpu, name), abs=1e-4 * peak, nan_ok=True), name
    assert np.isnan(planes(found, "image")[0]).all(), "channel 2 is flagged"
    assert np.array_equal(planes(found, "mask"), planes(cpu, "mask"))


def test_the_cubes_do_not_depend_on_the_batch(cuda, tiny_ms, tmp_path) -> None:
    made = {
        size: payload(image_on(cuda, tiny_ms.ms, tmp_path / f"of{size}", start=1, nchan=6, chunksize=size))
        for size in (1, 4, -1)
    }
    assert made[1] == made[4] == made[-1]


def test_runs_repeat_bit_for_bit(cuda, tiny_ms, tmp_path, request) -> None:
    """Ten times on a GPU, whose threads run in any order; twice on the host, where the order is fixed."""
    runs = 10 if "cuda-on-host" not in request.node.callspec.id else 2
    made = [
        payload(image_on(cuda, tiny_ms.ms, tmp_path / f"run{k}", start=3, nchan=3, gridder="wgridder"))
        for k in range(runs)
    ]
    assert all(m == made[0] for m in made[1:])


def test_no_component_lies_outside_the_mask(cuda, tiny_ms, tmp_path) -> None:
    from astropy.io import fits

    allowed = np.zeros((64, 64), np.int16)
    allowed[20:28, 36:44] = 1
    fits.PrimaryHDU(allowed).writeto(tmp_path / "mask.fits")
    result = image_on(cuda, tiny_ms.ms, tmp_path / "cube", start=4, nchan=1, mask=str(tmp_path / "mask.fits"))
    model = planes(result, "model")[0]
    assert model[allowed > 0].sum() > 0.8
    assert not model[allowed == 0].any()


def test_when_memory_runs_out_the_batch_is_halved_and_nothing_is_lost(cuda, tiny_ms, tmp_path) -> None:
    """A batch of more than two planes meets a device that has less memory than it said."""
    expected = payload(image_on(cuda, tiny_ms.ms, tmp_path / "plain", start=2, nchan=6, chunksize=-1))
    refused: list[int] = []

    def short_of_memory(backend: Backend) -> Backend:
        def upload(arrays: Sequence[np.ndarray], dtype: Any) -> Any:
            if dtype is np.complex64 and len(arrays) > 2:
                refused.append(len(arrays))
                raise backend.out_of_memory("out of memory")
            return backend.upload(arrays, dtype)

        return replace(backend, upload=upload)

    short = replace(cuda, kind=Altered(cuda.kind, short_of_memory))
    result = image_on(short, tiny_ms.ms, tmp_path / "short", start=2, nchan=6, chunksize=-1, workers=1)
    assert refused
    assert not result.failed_channels
    assert payload(result) == expected


def test_an_image_too_large_for_the_gpu_is_refused_with_the_numbers(cuda, tiny_ms, tmp_path) -> None:
    small = short_of(1_000_000, cuda)
    with pytest.raises(GpucubeError, match=r"64 x 64 pixels needs 0\.\d+ GB of device memory, 0\.00 GB may be used"):
        image_on(small, tiny_ms.ms, tmp_path / "cube")
    assert not list(tmp_path.iterdir())


def test_chunks_are_as_large_as_the_memory_of_the_device(cuda, tiny_ms, tmp_path) -> None:
    """Three threads share the device; a third of the memory holds so many channels of 64 x 64."""
    small = short_of(200 << 20, cuda)
    result = image_on(small, tiny_ms.ms, tmp_path / "cube", chunksize=12, niter=0)
    assert [r.stop_code for r in result.channels].count(StopCode.NO_DATA) == 1
    summary = result.summary
    assert 0 < summary["device_memory_predicted"] < 200 << 20
    assert summary["plan"]["device"] == "cuda"


@needs_compiler
def test_a_gpu_that_fails_for_good_ends_the_run_in_one_line(tiny_ms, tmp_path) -> None:
    """After an illegal access every call fails. Channels must not be marked as failed for that."""
    broken: list[str] = []

    def breaking(backend: Backend) -> Backend:
        def irfft2(given: Any, out: Any, batch: int) -> None:
            broken.append("now")
            backend.irfft2(given, out, batch)

        def failing(*given: Any) -> Any:
            if broken:
                raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
            return backend.download(*given) if given else None

        return replace(backend, irfft2=irfft2, synchronise=failing, download=failing)

    hardware = Hardware(kind=Altered(HostCuda(), breaking), gpu_count=1, gpu_memory=1 << 34)
    with pytest.raises(GpucubeError, match="the GPU stopped working: cudaErrorIllegalAddress"):
        image_on(hardware, tiny_ms.ms, tmp_path / "cube", start=4, nchan=2)


@pytest.mark.parametrize("w_term", [False, True])
@pytest.mark.parametrize(
    ("n", "size", "scales"),
    [(300, 128, ()), (60_000, 32, ()), (300, 64, (0, 3, 8))],
    ids=["large images", "many samples", "several scales"],
)
def test_the_memory_that_planes_take_is_predicted(n, size, scales, w_term) -> None:
    """On the host every array is counted: the peak of numpy's memory over the whole life of planes that share their rows."""
    g = geometry(size, size, 60.0)
    settings = ImagingSettings(
        geometry=g, weighting="briggs", epsilon=1e-4, w_term=w_term, scales=scales, samples=n, w_max=3000.0
    )
    backend = host_backend()
    one = replace(samples(g, n=n, w=3000.0), order=np.arange(n, dtype=np.int32), rows="shared")
    each = [one, replace(one, frequency=1.001 * one.frequency), replace(one, frequency=1.002 * one.frequency)]
    predicted = DeviceMemory(settings, backend.fft_memory, backend.memory).of(3)
    device = CudaDevice(settings, backend)
    fit_beam(
        gaussian(g, Beam(bmaj=0.001, bmin=0.001, bpa=0.0), size // 2, size // 2), g.cell_x, g.cell_y
    )  # is compiled
    tracemalloc.start()
    try:
        held = device.begin(each, [None] * 3)
        device.make_psf(held, True)
        device.beams(held)
        device.measure(held)
        device.minor(held, [MinorCycle(threshold=0.0, max_iterations=20, gain=0.1)] * 3)
        device.major(held)
        list(device.finish(held, ("residual", "model"), [Restoring(beam=beam) for beam, _ in device.beams(held)]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak == pytest.approx(predicted, rel=0.1)


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu_auto_means_the_cpu_and_cuda_is_refused(tiny_ms, tmp_path, capfd) -> None:
    result = image(tiny_ms.ms, tmp_path / "auto", device="auto", niter=0, quiet=False)
    assert {r.device for r in result.channels if r.device} == {"cpu"}
    assert capfd.readouterr().err.count("imaging on CPU cores: ") == 1
    with pytest.raises(GpucubeError, match="`device='cuda'` cannot be used: ") as refusal:
        gpucube.image_cube(tiny_ms.ms, imagename=tmp_path / "cuda", imsize=64, cell="20arcsec", device="cuda")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("cuda*"))
