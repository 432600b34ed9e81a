"""The experiments in bench/experiments, on tiny workloads: what they compare, and the arithmetic behind their pages."""

from __future__ import annotations

from pathlib import Path

import convergence
import numpy as np
import pytest
import scaling

from gpucube.bench.outcome import STAGES
from gpucube.bench.scene import make_store, scene_of
from gpucube.bench.stages import image_once
from gpucube.bench.workloads import Workload
from gpucube.devices.cpu.kind import CpuKind
from gpucube.output.fits_cube import read_plane

TINY = {"array": "vla-d", "channels": 6, "integrations": 4, "imsize": 64, "cell": 20, "bright": 0.3}


@pytest.mark.parametrize("majorcycle", ["image", "visibility"])
def test_lock_step_makes_the_same_cube_as_every_channels_own_schedule(majorcycle: str, tmp_path: Path) -> None:
    """The two differ in what they spend, not in what they find: each channel sees the same minor and major cycles."""
    workload = Workload(**TINY, sources=5)
    scene = scene_of(workload, make_store(workload, str(tmp_path / "store")), majorcycle=majorcycle)
    own, together = scene.with_cubes(str(tmp_path / "own")), scene.with_cubes(str(tmp_path / "together"))
    records = image_once(own, CpuKind(), 1, scene.chunks(2)).records
    locked, majors = convergence.lock_step(together, CpuKind().make(scene.job.settings), range(6))
    assert sum(r.iterations for r in locked) == sum(r.iterations for r in records)
    most = max(r.major_cycles for r in records)
    assert majors == 6 * most > sum(r.major_cycles for r in records)
    for name, cube in own.cubes.items():
        for channel in range(6):
            np.testing.assert_array_equal(
                read_plane(together.cubes[name], 0, channel), read_plane(cube, 0, channel), f"{name} {channel}"
            )


def test_convergence_measures_every_way_on_every_cube() -> None:
    cube = convergence.CUBE.changed(channels=5, integrations=6, imsize=64, cell=20.0, sources=3)
    text, result = convergence.measure_convergence(CpuKind(), 1, 1, cube, (0.2, 1.0))
    assert [e["bright_channels"] for e in result["convergence"]] == [1, 5]
    for entry in result["convergence"]:
        assert len(entry["ways"]) == 7
        own, together = entry["ways"]["own schedule, auto"], entry["ways"]["lock step of 5, auto"]
        assert len(own["channel_seconds"]) == 5 and min(own["channel_seconds"]) > 0
        assert own["iterations"] == together["iterations"] and own["major_cycles"] <= together["major_cycles"]
        assert len(entry["ways"]["one task per channel"]["task_seconds"]) == 5
        for way in entry["ways"]:
            assert convergence.whole_seconds(entry, way) > 0 and way in text


def test_exponents_are_those_of_power_laws() -> None:
    points = [
        {"value": x, "wall_seconds": [3.0 * x**1.5], "stages": {"grid": x**1.0, "write": 1e-6}} for x in (1, 2, 4, 8)
    ]
    exponents = scaling.fitted(points)
    assert exponents == {"wall": pytest.approx(1.5), "grid": pytest.approx(1.0)}, "a stage below 1 % is left out"


def test_the_expectation_shares_work_among_workers_but_not_what_is_serial() -> None:
    stages = {name: {"median": 1.0} for name in STAGES}
    rows = scaling.expectation({"stages": stages, "workers": 2, "workload": {"channels": 100}})
    one, *_, most = rows
    # ten image stages of 1 s on 2 workers are 20 s of work for 100 channels, so 2000 s for 10,000
    assert one["image"] == pytest.approx(2000.0) and most["image"] == pytest.approx(2000.0 / most["workers"])
    assert one["read"] == most["read"] == pytest.approx(100.0)
    assert one["total"] == pytest.approx(2300.0)


def test_scaling_varies_one_thing_at_a_time() -> None:
    small = scaling.BASE.changed(channels=3, integrations=4, imsize=64, cell=20.0, sources=2)
    axes = {"channels": (2, 4), "imsize": (32, 64)}
    text, result = scaling.measure_scaling(CpuKind(), 2, 1, small, axes, small.changed(name="reference"))
    assert [p["value"] for p in result["scaling"]["channels"]] == [2, 4]
    assert [p["value"] for p in result["scaling"]["workers"]] == [1, 2]
    assert result["efficiency"]["1"] == 1.0 and "wall" in result["exponents"]["imsize"]
    assert "## Cost against imsize" in text and f"Expected at {scaling.EXPECTED_CHANNELS} channels" in text
