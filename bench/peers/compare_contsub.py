"""Compare cubes whose continuum gpucube subtracts while it reads with those of CASA's uvcontsub and tclean.

python bench/peers/compare_contsub.py make FOLDER       # MeasurementSets and the list of cases
CASA_PYTHON bench/peers/contsub_tclean.py FOLDER
python bench/peers/compare_contsub.py compare FOLDER

A line of 1 Jy lies on 10 Jy of continuum, 6.5 arcsec from the centre of an image of 19 arcsec. Its phase turns over the band,
so order 0 leaves some of it: the same in both.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables
from compare_frames import judge

import gpucube
from gpucube.simulate import SimulationParameters, simulate_ms

REST, NCHAN, WIDTH = 230.538e9, 120, 3.90625e6
"""A band of 470 MHz, over which the phase of the continuum source turns by up to 0.16 rad."""

CONTINUUM, OFFSET = 10.0, (5.5, -3.5)  # Jy, arcsec to the east and to the north
FIRST_DAY = 58563.2  # MJD, 2019-03-21
SIDES = "0:5~44;75~114"
SETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "spectrum": {"weight_spectrum": True, "seed": 2},
    "falling": {"chan_width": -WIDTH, "seed": 3},
    "later": {"weight_spectrum": True, "seed": 4},
}
LATER_DAYS = {"later": 16}


def make(folder: Path) -> None:
    """Simulate the MeasurementSets in TOPO: 14 antennas of ALMA, 10 times, noise of 20 mJy, random flags."""
    line = np.exp(-0.5 * ((np.arange(NCHAN) - NCHAN // 2) / 3) ** 2)
    l, m = (np.radians(offset / 3600) for offset in OFFSET)
    sources = [(0.0, 0.0, line), (l, m, CONTINUUM)]
    common = {"array": "alma", "antennas": 14, "ntime": 10, "track_hours": 1.0, "nchan": NCHAN, "chan_width": WIDTH}
    common |= {"rest_freq": REST, "frame": "TOPO", "noise": 0.02, "imsize": 128, "cell": 0.15, "overwrite": True}
    common |= {"flag_channels": [50], "flag_rows": 0.02, "flag_cells": 0.05, "garbage": 100.0}
    for name, of in SETS.items():
        ms = folder / f"{name}.ms"
        simulate_ms(SimulationParameters(out=ms, **(common | of)), sources)
        with tables.table(str(ms), readonly=False, ack=False) as t:
            for column in ("TIME", "TIME_CENTROID"):
                values = t.getcol(column)
                t.putcol(column, values - values.min() + 86400 * (FIRST_DAY + LATER_DAYS.get(name, 0)))
    (folder / "cases.json").write_text(json.dumps(cases(folder), indent=1))


def cases(folder: Path) -> list[dict[str, Any]]:
    """Every case: name, MeasurementSets, channels and order of the fit, and the parameters that both imagers take."""
    found: list[dict[str, Any]] = []

    def add(name: str, sets: str, text: str, order: int, **parameters: Any) -> None:
        vis = [str(folder / f"{one}.ms") for one in sets.split()]
        parameters = {"specmode": "cubedata"} | parameters
        found.append({"name": name, "vis": vis, "contsub": [text, order], "parameters": parameters})

    lsrk = {"specmode": "cube", "outframe": "LSRK", "restfreq": "230.538GHz", "start": "-200km/s", "width": "8km/s"}
    lsrk |= {"nchan": 50}
    add("none", "plain", "", 0)
    for order in (0, 1, 2):
        add(f"order{order}", "plain", SIDES, order)
        add(f"order{order}_spectrum", "spectrum", SIDES, order)
    add("one_side", "plain", "0:5~44", 0)
    add("all_channels", "plain", "0", 1)
    add("falling_band", "falling", SIDES, 1)
    add("selected", "plain", SIDES, 1, spw="0:55~66")
    add("averaged", "plain", SIDES, 1, start=50, nchan=5, width=4)
    add("lsrk", "plain", SIDES, 1, **lsrk)
    add("lsrk_two_sets", "spectrum later", SIDES, 1, **lsrk)
    return found


def compare(folder: Path) -> bool:
    """Image every case and print how far gpucube is from CASA; return whether all are within the limit."""
    print("| case | channels | sum of weights | dirty cube, of the continuum | peak left, Jy (CASA's) | within 1e-3 |")
    print("|---|---|---|---|---|---|")
    good = True
    for case in json.loads((folder / "cases.json").read_text()):
        text, order = case["contsub"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = gpucube.image_cube(
                case["vis"],
                folder / "ours" / case["name"],
                imsize=128,
                cell="0.15arcsec",
                datacolumn="data",
                products="dirty",
                overwrite=True,
                quiet=True,
                workers=1,
                gridder="standard",
                contsubspw=text,
                contsuborder=order if text else 0,
                **case["parameters"],
            )
        reference = np.load(folder / f"{case['name']}.npz")
        found = judge(result, reference)
        left = np.nan_to_num(result.data("dirty")[0])
        apart = float(np.abs(left - reference["dirty"]).max()) / CONTINUUM
        within = apart < 1e-3 or not text
        good &= within
        print(
            f"| {case['name']} | {found['nchan']} | {found['weight']:.1e} | {apart:.1e} | {np.abs(left).max():.4f} "
            f"({np.abs(reference['dirty']).max():.4f}) | {'yes' if within else 'NO'} |",
            flush=True,
        )
    return good


if __name__ == "__main__":
    here = Path(sys.argv[2])
    here.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "make":
        make(here)
    else:
        sys.exit(0 if compare(here) else 1)
