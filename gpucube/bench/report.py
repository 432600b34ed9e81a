"""Show outcomes as tables that a person can read, and as JSON.

In: an `Outcome`. Out: the fields that docs/performance.md documents, Markdown tables whose last line names the
bottleneck, and the comparison of a result with an older one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpucube.bench.machine import DISTURBED, machine
from gpucube.bench.outcome import Outcome, Stage, spread
from gpucube.errors import GpucubeError
from gpucube.text import markdown_table, with_prefix
from gpucube.version import versions

FORMAT = 1
"""Number of the JSON's layout."""

ADVICE = {
    "gridding": "gridding and degridding with ducc0; more cores or a faster device help",
    "FFT": "FFTs of twice the image; more cores, a faster device or a smaller image help",
    "memory": "moving visibilities and planes through memory; more memory bandwidth helps, more cores do not",
    "loops": "compiled loops over pixels; more cores or a faster device help",
    "disk": "writing the cubes; a faster disk or fewer products help",
    "casacore": "reading the MeasurementSet with one casacore process; more reading processes help",
    "": "workers without work; smaller chunks or fewer workers help",
}
"""What limits the speed and what helps, by kind of floor."""

WORTH_A_NAME = 0.01
"""Share of the wall time above which a stage is named among those that limit the speed."""


def as_json(outcome: Outcome, stages: Sequence[str]) -> dict[str, Any]:
    """Turn an outcome into plain types, with the named stages only."""
    same = ("notes", "device", "workers", "chunksize", "others", "accounted", "memory_peak")
    return {name: getattr(outcome, name) for name in same} | {
        "workload": outcome.definition,
        "wall_seconds": outcome.walls,
        "wall_spread": spread(outcome.walls),
        "iterations": sum(r.iterations for r in outcome.records),
        "major_cycles": sum(r.major_cycles for r in outcome.records),
        "channels_cleaned": sum(r.major_cycles > 0 for r in outcome.records),
        "stages": {name: _stage(stage, outcome.wall) for name, stage in outcome.stages.items() if name in stages},
        "binds": binding(outcome),
    }


def _stage(stage: Stage, wall: float) -> dict[str, Any]:
    floor, median = stage.floor, stage.median
    return {
        "seconds": list(stage.seconds),
        "median": median,
        "spread": spread(stage.seconds),
        "share": median / wall,
        "bytes": floor.nbytes,
        "work": floor.work,
        "unit": floor.unit,
        "rate": floor.work / median if median > 0 else None,
        "limit_seconds": floor.seconds,
        "times_limit": median / floor.seconds if floor.seconds else None,
        "floor": floor.name,
        "kind": floor.kind,
    }


def binding(outcome: Outcome) -> str:
    """Say in one line which kind of work has the largest share of the time."""
    kinds: dict[str, dict[str, Stage]] = {}
    for name, stage in outcome.stages.items():
        kinds.setdefault(stage.floor.kind, {})[name] = stage
    seconds = {kind: sum(stage.median for stage in stages.values()) for kind, stages in kinds.items()}
    kind = max(seconds, key=lambda k: seconds[k])
    large = {n: s for n, s in kinds[kind].items() if s.median > WORTH_A_NAME * outcome.wall}
    names = sorted(large, key=lambda n: -large[n].median)
    limits = [stage.floor.seconds for stage in large.values() if stage.floor.seconds]
    times = ""
    if limits and len(limits) == len(large):
        times = f", {sum(stage.median for stage in large.values()) / sum(limits):.1f} times the floor"
    return f"binds: {ADVICE[kind]} ({', '.join(names)}: {seconds[kind] / outcome.wall:.0%} of the time{times})"


def document(command: Sequence[str], results: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Make the whole JSON document."""
    made_by = {"command": " ".join(command), "machine": machine(), "versions": versions()}
    return {"format": FORMAT, **made_by, "results": list(results), **more}


def head(result: dict[str, Any]) -> str:
    """Name hardware and versions in one line."""
    hardware = result["machine"]
    parts = [hardware["date"], hardware["cpu"], f"{hardware['cores']} cores", f"{hardware['memory_gib']} GiB"]
    parts += hardware["accelerators"]
    parts += [f"{name} {number}" for name, number in result["versions"].items()]
    return ", ".join(parts)


def page(result: dict[str, Any]) -> str:
    """Show one workload as a table."""
    w, walls = result["workload"], result["wall_seconds"]
    rows = [["stage", "seconds", "spread", "share", "bytes", "rate", "floor s", "x floor", "floor"]]
    for name, stage in result["stages"].items():
        limit, times = stage["limit_seconds"], stage["times_limit"]
        unit = "cycles/s" if stage["unit"] == "cycle" else f"{stage['unit']}/s"
        cells = [name, f"{stage['median']:.3f}", f"{stage['spread']:.0%}", f"{stage['share']:.1%}"]
        cells.append(with_prefix(stage["bytes"], "B") if stage["bytes"] else "")
        cells.append(with_prefix(stage["rate"], unit) if stage["rate"] and stage["unit"] else "")
        rows.append([*cells, f"{limit:.3f}" if limit else "", f"{times:.1f}" if times else "", stage["floor"]])
    busy = max(result["others"], default=0.0)
    warning = ": too much for figures to be compared with those of another run" if busy > DISTURBED else ""
    lines = [
        f"## {w['name']}: {w.get('imaged', w['channels'])} channels x {w['rows']} rows, {w['imsize']} x {w['imsize']} "
        f"pixels of {w['cell']:.3g} arcsec",
        "",
        f"{w['description'] or 'A workload of your own'}. Device {result['device']}, {result['workers']} workers, "
        f"chunks of {result['chunksize']}; {result['channels_cleaned']} channels cleaned, "
        f"{result['iterations']} iterations, {result['major_cycles']} major cycles; "
        f"peak memory {result['memory_peak'] / 2**20:.0f} MiB.",
        *(f"Note: {note}." for note in result["notes"]),
        "",
        markdown_table(rows),
        "",
        *([f"Other programs used up to {busy:.0%} of the machine meanwhile{warning}."] if result["others"] else []),
        f"wall {statistics.median(walls):.2f} s (median of {len(walls)}, spread {result['wall_spread']:.0%}); the stages "
        f"add up to {result['accounted']:.1%} of it; {result['binds']}",
    ]
    return "\n".join(lines) + "\n"


def read_result(path: Path) -> dict[str, Any]:
    """Read an older result."""
    try:
        old = json.loads(path.read_text())
    except OSError as error:
        raise GpucubeError(f"cannot read the older result {path}: {error.strerror}") from None
    except ValueError:
        old = None
    if not isinstance(old, dict) or old.get("format") != FORMAT or not isinstance(old.get("results"), list):
        raise GpucubeError(f"{path} is not a result of this version of gpucube.bench: give a file written with --json")
    return old


def comparison(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Compare a result with an older one of the same workload, workers and chunk size, stage by stage."""
    same = ("workload", "workers", "chunksize")
    lines = [f"## Compared with: {head(old)}", ""]
    for result in new["results"]:
        name = result["workload"]["name"]
        before = [older for older in old["results"] if all(older[key] == result[key] for key in same)]
        if before:
            lines += [f"### {name}", "", _compared(result, before[-1]), ""]
            lines += ["slower, faster: every repeat is beyond every older one.", ""]
        else:
            lines += [f"{name}: the older result has no run of the same workload, workers and chunk size.", ""]
    return "\n".join(lines)


def _compared(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Compare the wall time, and every stage that both results have, in a table."""
    pairs = {"wall": (new["wall_seconds"], old["wall_seconds"])}
    shared = [stage for stage in new["stages"] if stage in old["stages"]]
    pairs |= {stage: (new["stages"][stage]["seconds"], old["stages"][stage]["seconds"]) for stage in shared}
    rows = [["stage", "seconds", "before", "ratio", ""]]
    for name, (now, then) in pairs.items():
        a, b = statistics.median(now), statistics.median(then)
        verdict = ""
        if a or b:
            verdict = "slower" if min(now) > max(then) else "faster" if max(now) < min(then) else ""
        rows.append([name, f"{a:.3f}", f"{b:.3f}", f"{a / b:.2f}" if b > 0 else "", verdict])
    return markdown_table(rows)
