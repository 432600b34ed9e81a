"""Compare imaging weights with tclean's: sums of weights, PSFs and the beams that one fit finds in both PSFs.

python bench/peers/compare_weights.py make FOLDER       # MeasurementSets and the list of cases
CASA_PYTHON bench/peers/weights_tclean.py FOLDER
python bench/peers/compare_weights.py compare FOLDER
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import gpucube
from gpucube.constants import ARCSEC
from gpucube.devices.psf_fit import fit_beam
from gpucube.simulate import SimulationParameters, simulate_ms

SETS: dict[str, dict[str, Any]] = {
    "vla": {"array": "vla-d", "antennas": 20, "chan_width": 5e6, "cell": "10arcsec", "taper": "60arcsec"},
    "alma": {"array": "alma", "antennas": 24, "chan_width": 20e6, "cell": "0.15arcsec", "taper": "1arcsec"},
    "onehand": {
        "array": "vla-d",
        "antennas": 14,
        "chan_width": 1e6,
        "cell": "12arcsec",
        "taper": "60arcsec",
        "npol": 1,
    },
}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "natural": {"weighting": "natural"},
    "uniform": {"weighting": "uniform"},
    "briggs": {"weighting": "briggs", "robust": 0.5},
    "radial": {"weighting": "radial"},
    "briggsbwtaper": {"weighting": "briggsbwtaper", "robust": 0.5},
    "briggsbwtaper-2": {"weighting": "briggsbwtaper", "robust": -2.0},
    "briggsabs": {"weighting": "briggsabs", "robust": 0.5, "noise": "0.3Jy"},
    "briggsabs-small": {"weighting": "briggsabs", "robust": -1.0, "noise": "1mJy"},
    "uniform-all": {"weighting": "uniform", "perchanweightdensity": False},
    "briggs-all": {"weighting": "briggs", "robust": 0.5, "perchanweightdensity": False},
    "briggs-all-taper": {"weighting": "briggs", "robust": 0.0, "perchanweightdensity": False, "uvtaper": True},
    "briggsabs-all": {"weighting": "briggsabs", "robust": 0.5, "noise": "0.3Jy", "perchanweightdensity": False},
    "uniform-box-2": {"weighting": "uniform", "npixels": 2},
    "briggs-box-6": {"weighting": "briggs", "robust": 0.5, "npixels": 6},
    "briggsabs-box-3": {"weighting": "briggsabs", "robust": 0.5, "noise": "0.3Jy", "npixels": 3},
    "uniform-all-64": {"weighting": "uniform", "npixels": 64, "perchanweightdensity": False},
    "briggs-all-300": {"weighting": "briggs", "robust": 0.5, "npixels": 300, "perchanweightdensity": False},
    "superuniform": {"weighting": "superuniform"},
    "superuniform-2": {"weighting": "superuniform", "npixels": 2},
    "superuniform-6": {"weighting": "superuniform", "npixels": 6},
}


def make(folder: Path) -> None:
    """Simulate the MeasurementSets, and write the cases down."""
    cases = []
    for name, given in SETS.items():
        ms, parameters = (
            folder / f"{name}.ms",
            {key: value for key, value in given.items() if key not in ("cell", "taper")},
        )
        simulate_ms(
            SimulationParameters(
                out=ms, ntime=30, nchan=8, peak=0.1, imsize=256, flag_channels=[2], overwrite=True, seed=3, **parameters
            )
        )
        cases += [
            {
                "name": f"{name}-{label}",
                "ms": str(ms),
                "imsize": 256,
                "cell": given["cell"],
                "parameters": weighting | ({"uvtaper": [given["taper"]]} if "uvtaper" in weighting else {}),
            }
            for label, weighting in WEIGHTINGS.items()
        ]
    (folder / "weights.json").write_text(json.dumps(cases, indent=1))


def compare(folder: Path) -> bool:
    """Make every PSF, print how far sums, PSFs and beams are from tclean's, and return whether all are near."""
    print("| case | sum of weights | PSF | beam | within the limits |")
    print("|---|---:|---:|---:|---|")
    good = True
    for case in json.loads((folder / "weights.json").read_text()):
        reference = np.load(folder / f"{case['name']}.npz")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = gpucube.image_cube(
                case["ms"],
                folder / "ours",
                imsize=case["imsize"],
                cell=case["cell"],
                products="psf",
                outframe="LSRK",
                gridder="standard",
                overwrite=True,
                quiet=True,
                workers=1,
                **case["parameters"],
            )
        sums = np.array([record.sum_weights for record in result.channels])
        data = sums > 0
        of_sum = np.abs(sums[data] / reference["sumwt"][data] - 1).max()
        of_psf = np.abs(result.data("psf")[0] - reference["psf"])[data].max()
        cell = float(case["cell"].removesuffix("arcsec")) * ARCSEC
        pairs = zip(result.data("psf")[0][data], reference["psf"][data], strict=True)
        beams = [[fit_beam(psf, cell, cell) for psf in pair] for pair in pairs]
        of_beam = max(
            abs(getattr(one, axis) / getattr(other, axis) - 1) for one, other in beams for axis in ("bmaj", "bmin")
        )
        within = of_sum < 1e-3 and of_psf < 2e-3 and of_beam < 1e-3
        good &= bool(within)
        print(f"| {case['name']} | {of_sum:.1e} | {of_psf:.1e} | {of_beam:.1e} | {'yes' if within else 'NO'} |")
    return good


if __name__ == "__main__":
    here = Path(sys.argv[2])
    here.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "make":
        make(here)
    else:
        sys.exit(0 if compare(here) else 1)
