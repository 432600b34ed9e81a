"""The meter of the CUDA path counts what the device asks of the array library, and holds it to its limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hosts.host_backend import host_backend
from hosts.kernel_runs import needs_compiler
from jobs import geometry, samples

from gpucube.bench.command import main
from gpucube.bench.ghosts import ghost_backend
from gpucube.bench.meter import ANSWERS, STEPS, meter
from gpucube.bench.workloads import find_workload
from gpucube.data.store import Samples
from gpucube.devices.base import ImagingSettings, MinorCycle, Restoring
from gpucube.devices.cuda.backend import Backend
from gpucube.devices.cuda.device import CudaDevice


def life(device: CudaDevice, each: list[Samples]) -> None:
    """Two planes from their samples to their images, with one cycle of many components."""
    planes = device.begin(each, [None] * len(each))
    for plane in planes:
        plane.sum_weights = plane.sum_weights or 1.0
    device.measure(planes)
    device.make_psf(planes, [True] * len(planes))
    restoring = [Restoring(beam=beam) for beam, _ in device.beams(planes)]
    device.keep_model(planes)
    device.minor(planes, [MinorCycle(threshold=0.05, max_iterations=300, gain=0.1)] * len(planes))
    device.major(planes)
    device.measure(planes)
    list(device.finish(planes, ("residual", "model"), restoring))


def two_planes() -> tuple[ImagingSettings, list[Samples]]:
    g = geometry(64, 64)
    one = replace(samples(g, n=1500), order=np.arange(1500, dtype=np.int32), rows="shared")
    settings = ImagingSettings(geometry=g, weighting="briggs", majorcycle="image", samples=1500)
    return settings, [one, replace(one, vis=2 * one.vis)]


def life_of_ghosts() -> list[str]:
    settings, each = two_planes()
    backend, counter = ghost_backend(Backend, ANSWERS | {"make_items": {8: 5}})
    life(CudaDevice(settings, replace(backend, processors=2)), each)
    return counter.names


def life_on_the_host() -> list[str]:
    """The names of what a device asks of numpy and the kernels' host build."""
    names: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            names.append(name)
            return function(*arguments, **options)

        return call

    plain = host_backend(1 << 34)
    xp: Any = SimpleNamespace(**{name: counted(name, getattr(np, name)) for name in ("empty", "zeros", "asarray")})

    def kernel(stem: str, name: str, options: tuple[str, ...]) -> Any:
        return counted(f"{stem}.{name}", plain.kernel(stem, name, options))

    seam = ("rfft2", "irfft2", "fft2", "ifft2", "sort", "clear", "upload", "download", "synchronise")
    counting = {name: counted(name, getattr(plain, name)) for name in seam}
    settings, each = two_planes()
    life(CudaDevice(settings, replace(plain, xp=xp, kernel=kernel, **counting)), each)
    return names


def test_the_command_writes_counts_of_every_step_and_the_time_of_python(tmp_path, capsys) -> None:
    assert main(["meter", "--workload", "snapshot", "--json", str(tmp_path / "meter.json")]) == 0
    found = json.loads((tmp_path / "meter.json").read_text())
    shown = capsys.readouterr().out
    for step in STEPS:
        assert f"| {step} |" in shown
        assert set(found[step]) == {"operations", "looks", "copies", "bytes"}
        assert found[step]["operations"] > 0
    assert 0 < found["python_seconds"] < 60


def test_a_mistake_is_one_line_and_status_2(capsys) -> None:
    assert main(["meter", "--workload", "vla-hj"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


LIMITS = {"begin": (25, 1, 5), "measure": (8, 1, 1), "psf": (20, 2, 4), "cycle": (20, 2, 2), "finish": (15, 1, 2)}
"""Operations, looks and copies of a chunk that the workspace holds whole."""


@pytest.mark.parametrize("channels", [1, 13, 117])
def test_steps_take_few_operations_whatever_the_number_of_planes(channels) -> None:
    """An operation costs Python and CuPy some 10 microseconds, a look as long as the device is behind."""
    found = meter(find_workload("vla-hi").changed(channels=channels))
    for step, limits in LIMITS.items():
        counted = found[step]
        for name, limit in zip(("operations", "looks", "copies"), limits, strict=True):
            assert counted[name] <= limit, (step, name)
    assert found["cycles"] > 1


def test_several_scales_take_some_operations_more() -> None:
    """The first cycle of planes makes what later ones have of their scales; the rest is for convolutions."""
    for channels in (13, 117):
        cycle = meter(find_workload("vla-hi").changed(channels=channels), scales=(0, 4, 12, 36))["cycle"]
        assert cycle["operations"] <= 48
        assert cycle["looks"] == 2


@needs_compiler
def test_arrays_without_values_are_asked_for_what_real_ones_are() -> None:
    """The same life of two planes on the kernels' host build, through a backend that counts, asks for as much."""
    assert life_on_the_host() == [name for name in life_of_ghosts() if name != "assign"]  # which numpy does not tell


@pytest.mark.parametrize("name", ["vla-hi", "alma-line"])
def test_counts_repeat(name) -> None:
    first, second = (meter(find_workload(name)) for _ in range(2))
    assert {step: first[step] for step in STEPS} == {step: second[step] for step in STEPS}
