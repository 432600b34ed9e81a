"""Are the line-free channels that a plan proposes free of lines?

    python bench/experiments/line_free.py [--seeds 5]

Simulates sets of known lines, 64 channels and 1700 spectra with a noise of 0.1 Jy each, and prints a Markdown table: of each kind
how often channels were proposed, and the most of the peak of its line that a proposed channel has.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables

from gpucube.data.line_search import propose
from gpucube.data.selection import select
from gpucube.schema.parameters import make_parameters
from gpucube.simulate import SimulationParameters, simulate_ms

NCHAN, CELL = 64, np.deg2rad(20 / 3600)
CHANNEL = np.arange(NCHAN)
CENTRE, ASIDE, CONTINUUM = (0.0, 0.0), (-8 * CELL, 6 * CELL), (10 * CELL, 5 * CELL, 5.0)


def gaussian(peak: float, centre: float = 32, width: float = 3) -> np.ndarray:
    """Spectrum of a line, Jy; `width` is its standard deviation in channels."""
    return peak * np.exp(-0.5 * ((CHANNEL - centre) / width) ** 2)


Kind = tuple[np.ndarray, tuple[float, float], dict[str, Any]]
KINDS: dict[str, Kind] = {
    "1 Jy at the centre": (gaussian(1), CENTRE, {}),
    "1 Jy elsewhere": (gaussian(1), ASIDE, {}),
    "20 mJy at the centre": (gaussian(0.02), CENTRE, {}),
    "10 mJy at the centre": (gaussian(0.01), CENTRE, {}),
    "50 mJy elsewhere": (gaussian(0.05), ASIDE, {}),
    "100 mJy elsewhere": (gaussian(0.1), ASIDE, {}),
    "20 mJy elsewhere, twice as wide": (gaussian(0.02, width=6), ASIDE, {}),
    "20 Jy in one channel": (20.0 * (CHANNEL == 20), ASIDE, {}),
    "absorption": (gaussian(-0.5), CENTRE, {}),
    "two lines": (gaussian(1, 14, 2) + gaussian(0.3, 46), CENTRE, {}),
    "at one end": (gaussian(1, 60), CENTRE, {}),
    "100 Jy": (gaussian(100, width=2), CENTRE, {}),
    "flat over half": (1.0 * (np.abs(CHANNEL - 32) < 16), CENTRE, {}),
    "flat over two thirds": (1.0 * (np.abs(CHANNEL - 32) < 22), CENTRE, {}),
    "broad": (gaussian(1, width=12), CENTRE, {}),
    "broader": (gaussian(1, width=20), CENTRE, {}),
    "ripple": (np.sin(CHANNEL / 3), CENTRE, {}),
    "noise rising to both ends": (gaussian(1), CENTRE, {"change": "ends"}),
    "noise rising to one end": (gaussian(1), CENTRE, {"change": "slope"}),
    "Hanning": (gaussian(1), CENTRE, {"change": "hanning", "flag_cells": 0}),
    "one correlation": (gaussian(1), CENTRE, {"npol": 1}),
    "four correlations": (gaussian(1), CENTRE, {"npol": 4}),
    "no line": (gaussian(0), CENTRE, {}),
    "no line, one correlation": (gaussian(0), CENTRE, {"npol": 1}),
    "no line, noise rising to both ends": (gaussian(0), CENTRE, {"change": "ends"}),
    "no line, Hanning": (gaussian(0), CENTRE, {"change": "hanning", "flag_cells": 0}),
    "no line, phase turning by 3 rad": (
        gaussian(0),
        CENTRE,
        {"source": (20 * CELL, 15 * CELL, 50.0), "chan_width": 1e6},
    ),
    "no continuum": (gaussian(1), CENTRE, {"source": None}),
    "nothing": (gaussian(0), CENTRE, {"source": None}),
}


def alter(ms: Path, change: str) -> None:
    """Add noise, or smooth the spectra as a correlator does."""
    rng = np.random.default_rng(1)
    with tables.table(str(ms), readonly=False, ack=False) as t:
        data, flag = t.getcol("DATA"), t.getcol("FLAG")
        if change == "hanning":
            data = 0.5 * data + 0.25 * (np.roll(data, 1, 1) + np.roll(data, -1, 1))
            flag[:, [0, 4, 6, -1]] = True  # beside the flagged channel, and the ends
            t.putcol("FLAG", flag)
        else:
            place = np.linspace(-1, 1, NCHAN)
            sigma = 0.8 * np.maximum(np.abs(place) - 0.7, 0) if change == "ends" else 0.05 * (place + 1)
            data = data + sigma[:, None] * (rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape))
        t.putcol("DATA", data.astype(np.complex64))


def one(ms: Path, kind: Kind, seed: int) -> float | None:
    """The most of the line's peak in a proposed channel; None if none is proposed."""
    line, place, given = kind
    changes = {key: value for key, value in given.items() if key not in ("change", "source")}
    source = given.get("source", CONTINUUM)
    common: dict[str, Any] = {"antennas": 10, "ntime": 20, "nchan": NCHAN, "noise": 0.1, "imsize": 64, "cell": 20.0}
    common |= {"flag_channels": [5], "seed": seed, "overwrite": True}
    simulate_ms(SimulationParameters(out=ms, **(common | changes)), [(*place, line), *([source] if source else [])])
    if "change" in given:
        alter(ms, given["change"])
    found = propose(select(make_parameters(vis=ms, imagename="unused", imsize=64, cell="20arcsec"))).contsubspw
    if not found:
        return None
    runs = [list(map(int, part.split("~"))) for part in found[0].split(":")[1].split(";")]
    channels = np.concatenate([np.arange(run[0], run[-1] + 1) for run in runs])
    return float(np.abs(line[channels]).max() / max(np.abs(line).max(), 1e-30))


def main() -> None:
    """Simulate, propose and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    print("| 5 Jy of continuum and | proposed | most of the line's peak |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            found = [one(Path(folder) / "set.ms", kind, seed) for seed in range(1, seeds + 1)]
            proposed = [value for value in found if value is not None]
            most = f"{100 * max(proposed):.1f} %" if proposed else ""
            print(f"| {name} | {len(proposed)} of {seeds} | {most} |", flush=True)


if __name__ == "__main__":
    main()
