"""What makes CLEAN diverge: too low a cyclefactor, high sidelobes, phase errors. No plane may end worse than it began."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from casacore.tables import table
from jobs import altered, image, planes

from gpucube.cli import summary
from gpucube.devices.base import ImagingSettings
from gpucube.devices.choice import Hardware
from gpucube.devices.cpu.device import CpuDevice, CpuPlane
from gpucube.devices.cpu.kind import CpuKind

HARSH = {"niter": 3000, "nsigma": 1.0, "gain": 0.9, "cyclefactor": 0.05, "minpsffraction": 0.0}
"""Deep minor cycles with long steps on an approximate residual."""


def phase_errors(degrees: float) -> Any:
    """Multiply the data by random antenna phases, constant in time."""

    def change(main: table) -> None:
        phase = np.deg2rad(degrees) * np.random.default_rng(3).standard_normal(64)
        error = np.exp(1j * (phase[main.getcol("ANTENNA1")] - phase[main.getcol("ANTENNA2")]))
        main.putcol("DATA", (main.getcol("DATA") * error[:, None, None]).astype(np.complex64))

    return change


@pytest.fixture(scope="module")
def snapshot(make_ms: Any) -> Path:
    """Four antennas, one minute: sidelobes as high as the source, Jansky against millijansky of noise."""
    return Path(make_ms(antennas=4, ntime=2, noise=0.005).ms)


@pytest.mark.parametrize(
    "settings", [{}, HARSH, HARSH | {"majorcycle": "visibility"}, HARSH | {"minorcycle": "textbook"}]
)
@pytest.mark.parametrize("degrees", [0.0, 60.0])
@pytest.mark.parametrize("few", [False, True], ids=["ten antennas", "four antennas"])
def test_no_plane_ends_worse_than_it_began(
    few: bool, degrees: float, settings: dict, snapshot: Path, tiny_ms: Any, tmp_path: Path
) -> None:
    ms = altered(snapshot if few else tiny_ms.ms, tmp_path, phase_errors(degrees))
    result = image(ms, tmp_path / "cube", **settings)
    dirty = np.abs(planes(result, "dirty")).max((1, 2))
    for record in result.channels:
        if record.peak_residual is not None:
            residual = np.abs(planes(result, "residual")[record.channel]).max()
            assert residual <= dirty[record.channel] * (1 + 1e-6), record
            assert residual == pytest.approx(record.peak_residual, rel=1e-6)
    assert np.isfinite(fits.getdata(result.products["image"])[0, [0, 5, 11]]).all()


class WatchedDevice(CpuDevice):
    """The CPU device; it remembers every plane with the peaks of all its residuals."""

    def __init__(self, settings: ImagingSettings, planes: list[tuple[CpuPlane, list[float]]]) -> None:
        super().__init__(settings)
        self.planes = planes

    def measure(self, planes: Sequence[CpuPlane]) -> list[tuple[float, float]]:
        measured = super().measure(planes)
        for plane, (peak, _) in zip(planes, measured, strict=True):
            peaks = next((peaks for seen, peaks in self.planes if seen is plane), None)
            if peaks is None:
                self.planes.append((plane, peaks := []))
            peaks.append(peak)
        return measured


@dataclass(frozen=True)
class WatchedKind(CpuKind):
    planes: list[tuple[CpuPlane, list[float]]] = field(default_factory=list)

    def make(self, settings: ImagingSettings, lanes: int = 1) -> WatchedDevice:
        return WatchedDevice(settings, self.planes)


@pytest.mark.parametrize("niter", [300, 3000])
def test_every_plane_ends_with_the_smallest_peak_it_ever_had(niter: int, snapshot: Path, tmp_path: Path) -> None:
    """This holds also for a plane that grows too slowly to be tried again, until its iterations are used up."""
    kind = WatchedKind()
    ms = altered(snapshot, tmp_path, phase_errors(60.0))
    settings = HARSH | {"niter": niter, "nsigma": 0.0}
    result = image(ms, tmp_path / "cube", workers=1, hardware=Hardware(kind=kind), **settings)
    seen = [peaks for _, peaks in kind.planes[1:]]  # the first plane only warms up the compiled loops
    peaks = [r.peak_residual for r in result.channels if r.peak_residual is not None]
    assert any(peaks[-1] > 1.5 * min(peaks) for peaks in seen), "this test needs planes that end in growth"
    assert sorted(peaks) == pytest.approx(sorted(map(min, seen)), rel=2e-6)


def test_channels_that_were_tried_again_are_named(snapshot: Path, tmp_path: Path) -> None:
    result = image(altered(snapshot, tmp_path, phase_errors(60.0)), tmp_path / "cube", **HARSH)
    retried = [record.channel for record in result.channels if record.retried]
    assert retried, "this test needs channels that diverge"
    text = summary(result.channels, result.products, 1.0)
    assert f"cleaned again: {retried[0]}" in text
