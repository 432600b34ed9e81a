"""Outcomes as a table that a person can read, and as JSON.

In: `stages.Outcome`. Out: Markdown tables whose last line says what binds, and the fields that docs/performance.md
documents; and the comparison of a result with an older one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpucube.bench.machine import machine
from gpucube.bench.stages import DISTURBED, Outcome
from gpucube.errors import GpucubeError
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
"""What binds, by kind of floor."""

BUSY = ": too much for figures to be compared with those of another run"

UNITS = {"vis": "vis/s", "it": "it/s", "pix": "pix/s", "cycle": "cycles/s", "B": "B/s"}


def as_json(outcome: Outcome, stages: Sequence[str]) -> dict[str, Any]:
    """An outcome as plain types; only the named stages."""
    wall = statistics.median(outcome.walls)
    records = outcome.records
    result: dict[str, Any] = {
        "workload": outcome.definition,
        "notes": outcome.notes,
        "device": outcome.device,
        "workers": outcome.workers,
        "chunksize": outcome.chunksize,
        "wall_seconds": outcome.walls,
        "wall_spread": spread(outcome.walls),
        "others": outcome.others,
        "accounted": outcome.accounted,
        "memory_peak": outcome.memory_peak,
        "iterations": sum(r.iterations for r in records),
        "major_cycles": sum(r.major_cycles for r in records),
        "channels_cleaned": sum(r.major_cycles > 0 for r in records),
        "stages": {},
        "binds": binding(outcome),
    }
    for name, stage in outcome.stages.items():
        if name in stages:
            result["stages"][name] = {
                "seconds": stage.seconds,
                "median": stage.median,
                "spread": spread(stage.seconds),
                "share": stage.median / wall,
                "bytes": stage.nbytes,
                "work": stage.work,
                "unit": stage.unit,
                "rate": stage.work / stage.median if stage.median > 0 else None,
                "limit_seconds": stage.limit,
                "times_limit": stage.median / stage.limit if stage.limit else None,
                "floor": stage.floor,
                "kind": stage.kind,
            }
    return result


def spread(values: Sequence[float]) -> float:
    """Largest less smallest, over the median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle > 0 else 0.0


def binding(outcome: Outcome) -> str:
    """One line: the kind of work with the largest share of the time."""
    wall = statistics.median(outcome.walls)
    kinds: dict[str, list[str]] = {}
    for name, stage in outcome.stages.items():
        kinds.setdefault(stage.kind, []).append(name)
    totals = {kind: sum(outcome.stages[n].median for n in names) for kind, names in kinds.items()}
    kind = max(totals, key=lambda k: totals[k])
    names = sorted(kinds[kind], key=lambda n: -outcome.stages[n].median)
    names = [n for n in names if outcome.stages[n].median > 0.01 * wall]
    limits = [outcome.stages[n].limit for n in names]
    times = ""
    if names and all(limits):
        ratio = sum(outcome.stages[n].median for n in names) / sum(limits)  # type: ignore[arg-type]
        times = f", {ratio:.1f} times the floor"
    return f"binds: {ADVICE[kind]} ({', '.join(names)}: {totals[kind] / wall:.0%} of the time{times})"


def document(command: Sequence[str], results: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """The whole JSON file."""
    return {
        "format": FORMAT,
        "command": " ".join(command),
        "machine": machine(),
        "versions": versions(),
        "results": list(results),
    } | more


def head(result: dict[str, Any]) -> str:
    """Hardware and versions in one line."""
    hardware = result["machine"]
    parts = [hardware["date"], hardware["cpu"], f"{hardware['cores']} cores", f"{hardware['memory_gib']} GiB"]
    parts += hardware["accelerators"]
    parts += [f"{name} {number}" for name, number in result["versions"].items()]
    return ", ".join(parts)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as an aligned Markdown table; the first row is its head, numbers stand to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for k, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
        if k == 0:
            lines.append("|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")
    return "\n".join(lines)


def page(result: dict[str, Any]) -> str:
    """One workload's table."""
    w = result["workload"]
    wall = statistics.median(result["wall_seconds"])
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
    ]
    rows = [["stage", "seconds", "spread", "share", "bytes", "rate", "floor s", "x floor", "floor"]]
    for name, stage in result["stages"].items():
        limit, times = stage["limit_seconds"], stage["times_limit"]
        rows.append(
            [
                name,
                f"{stage['median']:.3f}",
                f"{stage['spread']:.0%}",
                f"{stage['share']:.1%}",
                quantity(stage["bytes"], "B") if stage["bytes"] else "",
                quantity(stage["rate"], UNITS[stage["unit"]]) if stage["rate"] and stage["unit"] else "",
                f"{limit:.3f}" if limit else "",
                f"{times:.1f}" if times else "",
                stage["floor"],
            ]
        )
    lines += [table(rows), ""]
    repeats = len(result["wall_seconds"])
    if result["others"]:
        busy = max(result["others"])
        lines.append(
            f"Other programs used up to {busy:.0%} of the machine meanwhile{BUSY if busy > DISTURBED else ''}."
        )
    lines.append(
        f"wall {wall:.2f} s (median of {repeats}, spread {result['wall_spread']:.0%}); the stages add up to "
        f"{result['accounted']:.1%} of it; {result['binds']}"
    )
    return "\n".join(lines) + "\n"


def quantity(value: float, unit: str) -> str:
    """Three digits with a prefix."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000.0
    return f"{value:.3g} P{unit}"


def read_result(path: Path) -> dict[str, Any]:
    """An older result.

    Raises
    ------
    GpucubeError
        It is none.
    """
    try:
        old = json.loads(path.read_text())
    except OSError as error:
        raise GpucubeError(f"cannot read the older result {path}: {error.strerror}") from None
    except ValueError:
        raise GpucubeError(f"{path} is not JSON: give a file written with --json") from None
    if not isinstance(old, dict) or old.get("format") != FORMAT or not isinstance(old.get("results"), list):
        raise GpucubeError(f"{path} is no result of this version of gpucube.bench: give a file written with --json")
    return old


def comparison(new: dict[str, Any], old: dict[str, Any]) -> str:
    """Stage by stage, the new result against an older one of the same workload, workers and chunk size."""

    def key(result: dict[str, Any]) -> tuple[Any, ...]:
        return json.dumps(result["workload"], sort_keys=True), result["workers"], result["chunksize"]

    before = {key(result): result for result in old["results"]}
    lines = [f"## Compared with: {head(old)}", ""]
    for result in new["results"]:
        name = result["workload"]["name"]
        if key(result) not in before:
            lines += [f"{name}: the older result has no run of the same workload, workers and chunk size.", ""]
            continue
        was = before[key(result)]
        rows = [["stage", "seconds", "before", "ratio", ""]]
        pairs = [("wall", result["wall_seconds"], was["wall_seconds"])]
        pairs += [
            (stage, result["stages"][stage]["seconds"], was["stages"][stage]["seconds"])
            for stage in result["stages"]
            if stage in was["stages"]
        ]
        for stage, now, then in pairs:
            a, b = statistics.median(now), statistics.median(then)
            verdict = (
                "" if a == b == 0 else "slower" if min(now) > max(then) else "faster" if max(now) < min(then) else ""
            )
            rows.append([stage, f"{a:.3f}", f"{b:.3f}", f"{a / b:.2f}" if b > 0 else "", verdict])
        lines += [f"### {name}", "", table(rows), "", "slower, faster: every repeat is beyond every older one.", ""]
    return "\n".join(lines)
