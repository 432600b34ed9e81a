"""How the cost grows with channels, rows, image size and workers, and what to expect of larger jobs.

In: one base workload, varied along one axis at a time. Out: seconds by stage for every point, exponents of power laws fitted
to them, and the expectation for many channels and many workers, computed from the measured stages of `vla-hi`.

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
from gpucube.bench.stages import IMAGE_STAGES, Request, run_workload
from gpucube.bench.workloads import WORKLOADS, Workload
from gpucube.devices.base import DeviceKind

BASE = Workload(
    "scaling",
    "VLA D, HI line",
    array="vla-d",
    channels=24,
    integrations=144,
    imsize=256,
    cell=10.0,
    bright=0.25,
    gridder="standard",
)
"""The workload that is varied."""

AXES: dict[str, tuple[int, ...]] = {
    "channels": (12, 24, 48, 96),
    "integrations": (36, 72, 144, 288),
    "imsize": (128, 256, 512, 1024),
}
"""Field of the workload -> its values; cost grows as value to the exponent."""

REFERENCE = "vla-hi"
EXPECTED_CHANNELS = 10_000
EXPECTED_WORKERS = (1, 2, 8, 32, 128)


def measure_scaling(
    device: DeviceKind,
    workers: int,
    repeat: int,
    base: Workload = BASE,
    axes: Mapping[str, Sequence[int]] = AXES,
    reference: Workload = WORKLOADS[REFERENCE],
) -> tuple[str, dict[str, Any]]:
    """Run the experiment; returns the page and the JSON document.

    Along channels, rows and image size one worker is used, so that seconds are those of one core with nothing beside it.
    """
    alone = Request(device, 1, "auto", repeat, IMAGE_STAGES, math.inf, floors=False)
    points: dict[str, list[dict[str, Any]]] = {}
    for axis, values in axes.items():
        points[axis] = [_point(replace(base, **{axis: value}), alone, value) for value in values]
    counts = sorted({2**k for k in range(workers.bit_length())} | {workers})
    counts = [count for count in counts if count <= workers]
    longer = replace(base, channels=4 * base.channels)
    points["workers"] = [_point(longer, replace(alone, workers=count), count) for count in counts]
    stages = report.as_json(
        run_workload(
            replace(reference, channels=min(reference.channels, 2 * base.channels)),
            Request(device, workers, "auto", repeat, seconds=math.inf),
        ),
        (*IMAGE_STAGES, "read", "transpose"),
    )
    efficiency = _efficiency(points["workers"])
    result = report.document(
        [command()],
        [stages],
        scaling=points,
        exponents={axis: fitted(axis, points[axis]) for axis in axes},
        efficiency=efficiency,
        expectation=expectation(stages),
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


def fitted(axis: str, points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Exponents of seconds = a value^b by least squares in the logarithms: of the whole, and of each stage above 1 %."""
    values = np.log([p["value"] for p in points])

    def slope(seconds: Sequence[float]) -> float:
        return float(np.polyfit(values, np.log(seconds), 1)[0])

    whole = [statistics.median(p["wall_seconds"]) for p in points]
    exponents = {"wall": slope(whole)}
    for name in points[0]["stages"]:
        seconds = [p["stages"][name] for p in points]
        if all(s > 0.01 * w for s, w in zip(seconds, whole, strict=True)):
            exponents[name] = slope(seconds)
    return exponents


def _efficiency(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Speed-up over one worker, divided by the number of workers."""
    alone = statistics.median(points[0]["wall_seconds"])
    return {
        str(p["value"]): alone / statistics.median(p["wall_seconds"]) / p["value"]
        for p in points
        if points[0]["value"] == 1
    }


def expectation(reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds of a cube like the reference with `EXPECTED_CHANNELS` channels, on several numbers of workers."""
    stages, workers = reference["stages"], reference["workers"]
    factor = EXPECTED_CHANNELS / reference["workload"]["channels"]
    work = factor * workers * sum(s["median"] for name, s in stages.items() if name in IMAGE_STAGES[:-2])
    serial = {name: factor * stages[name]["median"] for name in ("read", "transpose", "sync")}
    rows = []
    for count in EXPECTED_WORKERS:
        image = work / count
        rows.append({"workers": count, "image": image, **serial, "total": image + sum(serial.values())})
    return rows


def _page(result: dict[str, Any]) -> str:
    lines = [f"# `{result['command']}`", "", report.head(result) + ".", ""]
    for axis, points in result["scaling"].items():
        names = [n for n in points[0]["stages"] if any(p["stages"][n] > 0.01 * max(p["wall_seconds"]) for p in points)]
        rows = [[axis, "wall s", "major cycles", *names]]
        for p in points:
            wall = statistics.median(p["wall_seconds"])
            cells = [f"{p['stages'][n]:.3f}" for n in names]
            rows.append([str(p["value"]), f"{wall:.3f}", str(p["major_cycles"]), *cells])
        if axis in result["exponents"]:
            exponents = result["exponents"][axis]
            rows.append(
                ["exponent", f"{exponents['wall']:.2f}", ""]
                + [f"{exponents[n]:.2f}" if n in exponents else "" for n in names]
            )
        lines += [f"## Cost against {axis}", "", report.table(rows), ""]
    busy = max(share for points in result["scaling"].values() for p in points for share in p["others"])
    lines += [f"Other programs used up to {busy:.0%} of the machine meanwhile.", ""]
    efficiency = ", ".join(f"{n}: {e:.0%}" for n, e in result["efficiency"].items())
    lines += [
        f"Efficiency (speed-up over workers): {efficiency}.",
        "",
        f"## Expected at {EXPECTED_CHANNELS} channels",
        "",
    ]
    rows = [["workers", "IMAGE s", "read s", "transpose s", "sync s", "total s"]]
    for e in result["expectation"]:
        rows.append([str(e["workers"]), *(f"{e[n]:.0f}" for n in ("image", "read", "transpose", "sync", "total"))])
    lines += [report.table(rows), "", report.page(result["results"][0])]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_experiment(measure_scaling, __doc__))
