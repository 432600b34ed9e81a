"""What one hard channel costs its 99 easy neighbours: nothing but its own work.

In: nothing. Out: the seconds of five runs. Two simulated MeasurementSets of 100 channels differ in one channel, which holds
either line emission or noise. The script images the easy cube; the cube with the hard channel, once in chunks of one channel
and once as a single chunk; the hard channel alone; and an easy channel alone. What the hard channel adds to the cube should
be what it costs alone.

    python bench/experiments/one_hard_channel.py [--repeat 3] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from experiment import command, run_experiment

import gpucube
from gpucube.bench import report
from gpucube.devices.base import DeviceKind
from gpucube.schema.validation import validated
from gpucube.simulate import SimulationParameters, simulate_ms
from gpucube.text import markdown_table

CHANNELS, HARD = 100, 50
SOURCES = 60
IMSIZE, CELL = 512, 4.0
"""Pixels, and arcsec."""

CLEAN = {"niter": 1_000_000, "nsigma": 5.5, "gridder": "standard"}
"""5.5 sigma lies far above the noise, so the easy channels need no cleaning."""


def simulate(folder: Path, hard: bool) -> str:
    """Simulate a VLA C observation of noise, with point sources of 1 Jy in the hard channel if there is one."""
    rng = np.random.default_rng(7)
    reach = 0.3 * IMSIZE * np.deg2rad(CELL / 3600)
    line = np.zeros(CHANNELS)
    line[HARD] = 1.0
    sources = [(*rng.uniform(-reach, reach, 2), line) for _ in range(SOURCES)] if hard else []
    values = {
        "out": folder / f"{'hard' if hard else 'easy'}.ms",
        "array": "vla-c",
        "nchan": CHANNELS,
        "ntime": 285,
        "imsize": IMSIZE,
        "cell": CELL,
        "flag_channels": "",
    }
    return str(simulate_ms(validated(SimulationParameters, values), sources).ms)


def image(ms: str, folder: Path, repeat: int, **options: object) -> dict[str, float]:
    """Image `repeat` times; medians of the seconds of the whole call and of IMAGE, and counts of one run."""
    walls, images = [], []
    for _ in range(repeat):
        begin = time.perf_counter()
        result = gpucube.image_cube(
            ms,
            imagename=str(folder / "cube"),
            imsize=IMSIZE,
            cell=f"{CELL}arcsec",
            weighting="briggs",
            robust=0.5,
            quiet=True,
            overwrite=True,
            **CLEAN,
            **options,
        )
        walls.append(time.perf_counter() - begin)
        images.append(result.summary["stage_seconds"]["image"])
    return {
        "wall_seconds": statistics.median(walls),
        "image_seconds": statistics.median(images),
        "iterations": sum(r.iterations for r in result.channels),
        "major_cycles": sum(r.major_cycles for r in result.channels),
        "channels_cleaned": sum(r.iterations > 0 for r in result.channels),
    }


def measure_one_hard_channel(device: DeviceKind, workers: int, repeat: int) -> tuple[str, dict[str, Any]]:
    """Run the experiment with one worker; returns the page and the JSON document."""
    with tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name:
        folder = Path(name)
        easy, hard = simulate(folder, hard=False), simulate(folder, hard=True)
        options: dict[str, Any] = {"device": device.name, "workers": 1}
        image(easy, folder, 1, nchan=2, **options)  # compiles
        runs = {
            "100 easy channels": image(easy, folder, repeat, chunksize=1, **options),
            "99 easy, 1 hard, chunks of 1": image(hard, folder, repeat, chunksize=1, **options),
            "99 easy, 1 hard, one chunk": image(hard, folder, repeat, chunksize=-1, **options),
            "the hard channel alone": image(hard, folder, repeat, start=HARD, nchan=1, **options),
            "an easy channel alone": image(hard, folder, repeat, start=HARD + 1, nchan=1, **options),
        }
    result = report.document([command()], [], runs=runs)
    return page(result), result


def page(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    runs = result["runs"]
    rows = [["", "call s", "IMAGE s", "iterations", "major cycles", "channels cleaned"]]
    for name, run in runs.items():
        counts = [str(run[key]) for key in ("iterations", "major_cycles", "channels_cleaned")]
        rows.append([name, f"{run['wall_seconds']:.2f}", f"{run['image_seconds']:.2f}", *counts])
    alone = runs["the hard channel alone"]["image_seconds"] - runs["an easy channel alone"]["image_seconds"]
    lines = [f"# `{result['command']}`", "", report.head(result) + ".", "", markdown_table(rows), ""]
    lines.append(f"The hard channel alone takes {alone:.2f} s of IMAGE more than an easy one.")
    for name in ("99 easy, 1 hard, chunks of 1", "99 easy, 1 hard, one chunk"):
        added = runs[name]["image_seconds"] - runs["100 easy channels"]["image_seconds"]
        lines.append(f"In the cube ({name}) it adds {added:.2f} s.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(run_experiment(measure_one_hard_channel, __doc__))
