"""Compare primary beams of gpucube with tclean's, telescope by telescope and band by band.

python bench/peers/compare_beams.py make FOLDER       # a small MeasurementSet for each case
CASA_PYTHON bench/peers/beams_tclean.py FOLDER
python bench/peers/compare_beams.py compare FOLDER
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables

import gpucube
from gpucube.simulate import SimulationParameters, simulate_ms

PIXELS = 128
NCHAN = 3
BANDWIDTH = 0.04
"""Of the frequency: the first and the last channel differ visibly."""

CASES: dict[str, tuple[str, float, float]] = {  # telescope, dish diameter (m), frequency (GHz)
    **{f"alma12-{ghz}": ("ALMA", 12.0, ghz) for ghz in (43.0, 100.0, 230.5, 345.0, 660.0)},
    **{f"alma7-{ghz}": ("ALMA", 7.0, ghz) for ghz in (100.0, 230.5)},
    "aca7-230.5": ("ACA", 7.0, 230.5),
    **{f"evla-{ghz}": ("EVLA", 25.0, ghz) for ghz in (0.35, 1.42, 3.0, 6.0, 9.0, 15.0, 22.2, 33.0, 43.0, 48.0)},
    "evla-10.06": ("EVLA", 25.0, 10.06),
    **{f"vla-{ghz}": ("VLA", 25.0, ghz) for ghz in (0.327, 1.42, 4.9, 8.4, 15.0, 22.2, 43.0)},
    **{f"atca-{ghz}": ("ATCA", 22.0, ghz) for ghz in (1.42, 2.1, 5.5, 9.0, 20.0, 45.0, 95.0)},
    "sma-230.5": ("SMA", 6.0, 230.5),
    **{f"meerkat-{ghz}": ("MeerKAT", 13.5, ghz) for ghz in (0.8, 1.42)},
    **{f"gmrt-{ghz}": ("GMRT", 45.0, ghz) for ghz in (0.4, 0.65, 1.3)},
    "askap-1.42": ("ASKAP", 12.0, 1.42),
    "wsrt-1.42": ("WSRT", 25.0, 1.42),
    "noema-100.0": ("NOEMA", 15.0, 100.0),
    "nowhere-1.42": ("NOWHERE", 30.0, 1.42),
    "away-1.42": ("EVLA", 25.0, 1.42),
}

BY_DIAMETER = ("MeerKAT", "GMRT", "ASKAP", "NOEMA", "NOWHERE")
"""Telescopes whose beam tclean takes from the diameter of the dishes; gpucube does so with `dish_diameter`."""

DIFFERS = {
    "evla-10.06": "tclean has the numbers of 11.052 GHz here",
    "meerkat": "tclean does not know this telescope",
    "gmrt": "tclean: a dish of 45 m",
    "askap": "tclean does not know this telescope",
    "wsrt": "tclean: cos^8",
}
"""Cases in which the beams differ on purpose, and why."""

LIMIT, WITHIN = 0.2, 2e-3


def make(folder: Path) -> None:
    """Simulate the MeasurementSets, and write them down with the parameters of both imagers."""
    cases = []
    for name, (telescope, dish, ghz) in CASES.items():
        ms = folder / f"{name}.ms"
        simulate_ms(
            SimulationParameters(
                out=ms,
                array="vla-d",
                antennas=6,
                ntime=2,
                nchan=NCHAN,
                rest_freq=f"{ghz}GHz",
                chan_width=ghz * 1e9 * BANDWIDTH / NCHAN,
                peak=0.1,
                flag_channels=[],
                overwrite=True,
            )
        )
        with tables.table(f"{ms}/OBSERVATION", readonly=False, ack=False) as t:
            t.putcol("TELESCOPE_NAME", [telescope] * t.nrows())
        with tables.table(f"{ms}/ANTENNA", readonly=False, ack=False) as t:
            t.putcol("DISH_DIAMETER", np.full(t.nrows(), dish))
        parameters = {"phasecenter": "J2000 187.7deg 30.1deg"} if name.startswith("away") else {}
        fwhm = np.degrees(1.2 * 0.299792458 / ghz / dish) * 3600
        cases.append(
            {"name": name, "ms": str(ms), "cell": f"{2.4 * fwhm / PIXELS:.6g}arcsec", "parameters": parameters}
        )
    (folder / "beams.json").write_text(json.dumps(cases, indent=1))


def compare(folder: Path) -> bool:
    """Make every beam, print how far it is from tclean's, and return whether those that should agree do."""
    print(f"| case | telescope | width, arcmin | largest difference above {LIMIT} | with `dish_diameter` | |")
    print("|---|---|---:|---:|---:|---|")
    good = True
    for case in json.loads((folder / "beams.json").read_text()):
        name, (telescope, dish, _) = case["name"], CASES[case["name"]]
        reference = np.load(folder / f"{name}.pb.npy")
        own = None if telescope in ("NOEMA", "NOWHERE") else _difference(case, folder, reference)
        by_dish = _difference(case, folder, reference, dish_diameter=dish) if telescope in BY_DIAMETER else None
        why = DIFFERS.get(name) or DIFFERS.get(name.split("-")[0], "")
        within = (by_dish if telescope in BY_DIAMETER else own) or (0.0, 0.0)
        good &= within[0] < WITHIN or bool(why)
        texts = [f"{found[0]:.1e}" if found else "" for found in (own, by_dish)]
        print(f"| {name} | {telescope} {dish:g} m | {(own or within)[1]:.4g} | {texts[0]} | {texts[1]} | {why} |")
    return good


def _difference(case: dict[str, Any], folder: Path, reference: np.ndarray, **parameters: Any) -> tuple[float, float]:
    """Largest difference of a beam from tclean's where that is above the limit, and its width in the middle channel, arcmin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = gpucube.image_cube(
            case["ms"],
            folder / "ours",
            imsize=PIXELS,
            cell=case["cell"],
            products="pb",
            pblimit=1e-3,
            overwrite=True,
            quiet=True,
            workers=1,
            **case["parameters"],
            **parameters,
        )
    beam = np.nan_to_num(result.data("pb")[0])
    cell = float(case["cell"].removesuffix("arcsec")) / 60
    width = 2 * cell * np.sqrt(np.count_nonzero(beam[1] > 0.5) / np.pi)
    return float(np.abs(beam - reference)[reference > LIMIT].max()), width


if __name__ == "__main__":
    here = Path(sys.argv[2])
    here.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "make":
        make(here)
    else:
        sys.exit(0 if compare(here) else 1)
