"""How the cost grows with channels, rows, image size and workers, and what to expect of larger jobs.

In: a base workload, varied along one axis at a time. Out: the seconds of every stage at every point, exponents of power laws
fitted to them, and the time to expect for many channels and many workers, computed from the stages of a reference workload.

    python bench/experiments/scaling.py [--device auto] [--workers 2] [--repeat 3] [--json FILE]
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from experiment import command, run_experiment

from gpucube.bench import report
from gpucube.bench.outcome import IMAGE_STAGES
from gpucube.bench.stages import Request, run_workload
from gpucube.bench.workloads import WORKLOADS, Workload
from gpucube.devices.base import DeviceKind
from gpucube.text import markdown_table

BASE = Workload(
    name="scaling",
    description="VLA D, HI line",
    array="vla-d",
    channels=24,
    integrations=144,
    imsize=256,
    cell=10.0,
    bright=0.25,
)
"""The workload that is varied."""

AXES: dict[str, Sequence[int]] = {
    "channels": (12, 24, 48, 96),
    "integrations": (36, 72, 144, 288),
    "imsize": (128, 256, 512, 1024),
}
"""Field of the workload -> its values. The cost grows as the value to the power of an exponent."""

SMALL_SHARE = 0.01
"""A stage below this share of the wall time is left out."""

EXPECTED_CHANNELS = 10_000
EXPECTED_WORKERS = (1, 2, 8, 32, 128)
SERIAL_STAGES = ("read", "transpose", "sync")
"""Stages that do not get faster with more workers: one reader and one disk."""


def measure_scaling(
    kind: DeviceKind,
    workers: int,
    repeat: int,
    base: Workload = BASE,
    axes: Mapping[str, Sequence[int]] = AXES,
    reference: Workload = WORKLOADS["vla-hi"],
) -> tuple[str, dict[str, Any]]:
    """Run the experiment; returns the page and the JSON document.

    Along channels, rows and image size there is one worker, so the seconds are those of one core with nothing beside it.
    """
    alone = Request(kind=kind, workers=1, repeat=repeat, stages=IMAGE_STAGES, seconds=math.inf, floors=False)
    points = {
        axis: [_point(base.changed(**{axis: value}), alone, value) for value in values] for axis, values in axes.items()
    }
    counts = sorted({2**k for k in range(workers.bit_length())} | {workers})
    longer = base.changed(channels=4 * base.channels)
    points["workers"] = [_point(longer, replace(alone, workers=n), n) for n in counts]
    reference = reference.changed(channels=min(reference.channels, 2 * base.channels))
    outcome = run_workload(reference, Request(kind=kind, workers=workers, repeat=repeat, seconds=math.inf))
    measured = report.as_json(outcome, (*IMAGE_STAGES, "read", "transpose"))
    result = report.document(
        [command()],
        [measured],
        scaling=points,
        exponents={axis: fitted(points[axis]) for axis in axes},
        efficiency=_efficiency(points["workers"]),
        expectation=expectation(measured),
    )
    return _page(result), result


def _point(workload: Workload, request: Request, value: int) -> dict[str, Any]:
    outcome = run_workload(workload, request)
    seconds = {name: stage.median for name, stage in outcome.stages.items()}
    return {
        "value": value,
        "wall_seconds": outcome.walls,
        "others": outcome.others,
        "work_seconds": sum(s for name, s in seconds.items() if name != "idle") * outcome.workers,
        "stages": seconds,
        "major_cycles": sum(r.major_cycles for r in outcome.records),
        "iterations": sum(r.iterations for r in outcome.records),
    }


def fitted(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exponents b of seconds = a value^b, by least squares in the logarithms: of the wall time, and of each large stage."""
    values = np.log([p["value"] for p in points])
    walls = [statistics.median(p["wall_seconds"]) for p in points]
    seconds = {"wall": walls} | {name: [p["stages"][name] for p in points] for name in points[0]["stages"]}
    return {
        name: float(np.polyfit(values, np.log(of_points), 1)[0])
        for name, of_points in seconds.items()
        if all(s > SMALL_SHARE * wall for s, wall in zip(of_points, walls, strict=True))
    }


def _efficiency(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Speed-up over one worker, divided by the number of workers."""
    alone = statistics.median(points[0]["wall_seconds"])
    return {str(p["value"]): alone / statistics.median(p["wall_seconds"]) / p["value"] for p in points}


def expectation(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds of a cube like the measured one with `EXPECTED_CHANNELS` channels, on several numbers of workers."""
    stages, workers = measured["stages"], measured["workers"]
    factor = EXPECTED_CHANNELS / measured["workload"]["channels"]
    shared = [name for name in IMAGE_STAGES if name not in (*SERIAL_STAGES, "idle")]
    work = factor * workers * sum(stages[name]["median"] for name in shared)
    serial = {name: factor * stages[name]["median"] for name in SERIAL_STAGES}
    return [
        {"workers": count, "image": work / count, **serial, "total": work / count + sum(serial.values())}
        for count in EXPECTED_WORKERS
    ]


def _page(result: dict[str, Any]) -> str:
    lines = [f"# `{result['command']}`", "", report.head(result) + ".", ""]
    for axis, points in result["scaling"].items():
        lines += [f"## Cost against {axis}", "", _table(axis, points, result["exponents"].get(axis)), ""]
    busy = max(share for points in result["scaling"].values() for p in points for share in p["others"])
    efficiency = ", ".join(f"{n}: {e:.0%}" for n, e in result["efficiency"].items())
    columns = ("image", *SERIAL_STAGES, "total")
    rows = [["workers", *(f"{name.replace('image', 'IMAGE')} s" for name in columns)]]
    rows += [[str(e["workers"]), *(f"{e[name]:.0f}" for name in columns)] for e in result["expectation"]]
    lines += [f"Other programs used up to {busy:.0%} of the machine meanwhile.", ""]
    lines += [f"Efficiency (speed-up over workers): {efficiency}.", ""]
    lines += [f"## Expected at {EXPECTED_CHANNELS} channels", "", markdown_table(rows), ""]
    return "\n".join([*lines, report.page(result["results"][0])])


def _table(axis: str, points: Sequence[dict[str, Any]], exponents: dict[str, float] | None) -> str:
    """The seconds of every large stage at every point, and their exponents."""
    walls = [statistics.median(p["wall_seconds"]) for p in points]
    names = [
        n for n in points[0]["stages"] if any(p["stages"][n] > SMALL_SHARE * max(p["wall_seconds"]) for p in points)
    ]
    rows = [[axis, "wall s", "major cycles", *names]]
    for p, wall in zip(points, walls, strict=True):
        cells = [f"{p['stages'][n]:.3f}" for n in names]
        rows.append([str(p["value"]), f"{wall:.3f}", str(p["major_cycles"]), *cells])
    if exponents:
        shown = {name: f"{b:.2f}" for name, b in exponents.items()}
        rows.append(["exponent", shown["wall"], "", *(shown.get(n, "") for n in names)])
    return markdown_table(rows)


if __name__ == "__main__":
    sys.exit(run_experiment(measure_scaling, __doc__))
