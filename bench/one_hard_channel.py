"""What one hard channel costs its 99 easy neighbours: nothing but its own work.

Simulates two MeasurementSets of 100 channels that differ in one channel (line emission there, noise elsewhere), and
images: the easy cube; the cube with the hard channel, once in chunks of one and once as a single chunk; and the hard
channel alone. Prints CPU seconds per stage, and the cost of the hard channel inside the cube against its cost alone.

    python bench/one_hard_channel.py [--out FOLDER] [--json FILE] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import gpucube
from gpucube.bench.machine import machine
from gpucube.schema.validation import validated
from gpucube.simulate import SimulationParameters, simulate_ms

CHANNELS, HARD = 100, 50
IMAGE = {"imsize": 512, "cell": "4arcsec", "weighting": "briggs", "robust": 0.5}
CLEAN = {"niter": 1_000_000, "nsigma": 5.5, "workers": 1, "quiet": True, "overwrite": True}


def simulate(folder: Path, hard: bool) -> str:
    """A VLA C observation; 60 point sources of 1 Jy in the hard channel, 5.5 sigma being far above the noise elsewhere."""
    rng = np.random.default_rng(7)
    reach = 0.3 * 512 * np.deg2rad(4 / 3600)
    line = np.zeros(CHANNELS)
    line[HARD] = 1.0
    sources = [(*rng.uniform(-reach, reach, 2), line) for _ in range(60)] if hard else []
    values = {
        "out": folder / f"{'hard' if hard else 'easy'}.ms",
        "array": "vla-c",
        "nchan": CHANNELS,
        "ntime": 285,
        "imsize": 512,
        "cell": 4.0,
        "flag_channels": "",
        "overwrite": True,
    }
    return str(simulate_ms(validated(SimulationParameters, values), sources).ms)


def image(ms: str, folder: Path, repeat: int, **options: object) -> dict[str, float]:
    """Image `repeat` times; medians of the wall seconds of the whole call and of the IMAGE step, and the iterations."""
    walls, images = [], []
    for _ in range(repeat):
        begun = time.perf_counter()
        result = gpucube.image_cube(ms, imagename=str(folder / "cube"), **(IMAGE | CLEAN | options))
        walls.append(time.perf_counter() - begun)
        images.append(result.summary["stage_seconds"]["image"])
    return {
        "wall_seconds": statistics.median(walls),
        "image_seconds": statistics.median(images),
        "iterations": sum(r.iterations for r in result.channels),
        "major_cycles": sum(r.major_cycles for r in result.channels),
        "channels_cleaned": sum(r.iterations > 0 for r in result.channels),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        easy, hard = simulate(folder, False), simulate(folder, True)
        image(easy, folder, 1, nchan=2)  # compiles
        runs = {
            "100 easy channels": image(easy, folder, arguments.repeat, chunksize=1),
            "99 easy, 1 hard, chunks of 1": image(hard, folder, arguments.repeat, chunksize=1),
            "99 easy, 1 hard, one chunk": image(hard, folder, arguments.repeat, chunksize=-1),
            "the hard channel alone": image(hard, folder, arguments.repeat, start=HARD, nchan=1),
            "an easy channel alone": image(hard, folder, arguments.repeat, start=HARD + 1, nchan=1),
        }
    base = runs["100 easy channels"]["image_seconds"]
    alone = runs["the hard channel alone"]["image_seconds"] - runs["an easy channel alone"]["image_seconds"]
    print(f"{'':32s} {'call s':>8s} {'IMAGE s':>8s} {'iterations':>10s} {'majors':>7s} {'cleaned':>8s}")
    for name, run in runs.items():
        print(
            f"{name:32s} {run['wall_seconds']:8.2f} {run['image_seconds']:8.2f} {run['iterations']:10d} "
            f"{run['major_cycles']:7d} {run['channels_cleaned']:8d}"
        )
    for name in ("99 easy, 1 hard, chunks of 1", "99 easy, 1 hard, one chunk"):
        added = runs[name]["image_seconds"] - base
        print(f"{name}: adds {added:.2f} s to the easy cube; the hard channel's own work is {alone:.2f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"hardware": machine(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
