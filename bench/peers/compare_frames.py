"""Compare cubes of gpucube with tclean's in several frames, axes and interpolations.

python bench/peers/compare_frames.py make FOLDER       # MeasurementSets and the list of cases
CASA_PYTHON bench/peers/frames_tclean.py line FOLDER/*.ms
CASA_PYTHON bench/peers/frames_tclean.py image FOLDER
python bench/peers/compare_frames.py compare FOLDER
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

REST = 230.538e9
WIDTH = 122070.3125
NCHAN = 240
CODES = {"LSRK": 1, "BARY": 3, "GEO": 4, "TOPO": 5}
SETS: dict[
    str, dict[str, Any]
] = {  # frame, days after the first date, velocity of the middle channel, hours of the track
    "topo0": {"frame": "TOPO", "days": 0, "middle": 15.0, "hours": 1.0},
    "topo16": {"frame": "TOPO", "days": 16, "middle": 15.0, "hours": 1.0},
    "topo180": {"frame": "TOPO", "days": 180, "middle": 15.0, "hours": 1.0},
    "retuned180": {"frame": "TOPO", "days": 180, "middle": 26.3, "hours": 1.0},
    "track6h": {"frame": "TOPO", "days": 3, "middle": 15.0, "hours": 6.0},
    "falling": {"frame": "TOPO", "days": 5, "middle": 15.0, "hours": 1.0, "width": -WIDTH},
    "lsrk": {"frame": "LSRK", "days": 0, "middle": 10.0, "hours": 1.0},
    "bary": {"frame": "BARY", "days": 0, "middle": 10.0, "hours": 1.0},
    "geo": {"frame": "GEO", "days": 0, "middle": 10.0, "hours": 1.0},
}
"""The line lies at 10 km/s in LSRK: at 4, 11 and 26 km/s in TOPO on the three dates."""

FIRST_DAY = 58563.0  # MJD, 2019-03-21


def make(folder: Path) -> None:
    """Simulate the MeasurementSets; `frames_tclean.py line` fills them."""
    for name, of in SETS.items():
        ms = folder / f"{name}.ms"
        width = of.get("width", WIDTH)
        simulate_ms(
            SimulationParameters(
                out=ms,
                array="alma",
                antennas=14,
                ntime=10,
                track_hours=of["hours"],
                nchan=NCHAN,
                chan_width=width,
                rest_freq=REST,
                noise=0.0,
                peak=1.0,
                imsize=128,
                cell=1.0,
                flag_channels=[],
                flag_rows=0.02,
                flag_cells=0.01,
                weight_spectrum=name == "topo16",
                seed=1 + len(name),
                overwrite=True,
            )
        )
        with tables.table(str(ms), readonly=False, ack=False) as t:
            for column in ("TIME", "TIME_CENTROID"):
                values = t.getcol(column)
                t.putcol(column, values - values.min() + 86400 * (FIRST_DAY + of["days"]) + 3600 * 5)
        with tables.table(f"{ms}/SPECTRAL_WINDOW", readonly=False, ack=False) as t:
            middle = REST * (1 - of["middle"] / 299792.458)
            frequency = middle + (np.arange(NCHAN) - NCHAN // 2) * width
            t.putcol("CHAN_FREQ", frequency[None])
            t.putcol("REF_FREQUENCY", frequency[:1])
            t.putcol("MEAS_FREQ_REF", np.array([CODES[of["frame"]]]))
    (folder / "cases.json").write_text(json.dumps(cases(folder), indent=1))


def cases(folder: Path) -> list[dict[str, Any]]:
    """Every case: name, MeasurementSets, and the parameters that both imagers take."""
    found: list[dict[str, Any]] = []

    def add(name: str, sets: str, **parameters: Any) -> None:
        vis = [str(folder / f"{one}.ms") for one in sets.split()]
        found.append({"name": name, "vis": vis, "parameters": parameters})

    velocity = {"start": "5km/s", "width": "0.4km/s", "nchan": 24, "restfreq": "230.538GHz", "outframe": "LSRK"}
    for sets in (
        "topo0",
        "topo0 topo16",
        "topo0 topo180",
        "topo0 retuned180",
        "track6h",
        "falling",
        "lsrk",
        "bary",
        "geo",
    ):
        label = sets.replace(" ", "_")
        add(f"v_{label}", sets, **velocity)
        add(f"bary_{label}", sets, **(velocity | {"outframe": "BARY", "start": "8km/s"}))
    for method in ("nearest", "linear", "cubic"):
        for label, width in (("0.5", 0.5), ("1", 1.0), ("2.7", 2.7), ("10", 10.0)):
            step = f"{width * WIDTH / 1e3:.6f}kHz"
            nchan = {"0.5": 60, "1": 40, "2.7": 16, "10": 5}[label]
            start = f"{(REST * (1 - 11.5 / 299792.458)) / 1e9:.9f}GHz"
            add(
                f"w{label}_{method}",
                "topo0",
                start=start,
                width=step,
                nchan=nchan,
                outframe="LSRK",
                interpolation=method,
            )
    add("rising_velocity", "topo0", **(velocity | {"start": "5km/s", "width": "0.4km/s"}))
    add("falling_velocity", "topo0", **(velocity | {"start": "14.2km/s", "width": "-0.4km/s"}))
    add("optical", "topo0", **velocity, veltype="optical")
    add("optical_falling", "topo0", **(velocity | {"start": "14.2km/s", "width": "-0.4km/s"}), veltype="optical")
    add("falling_frequency", "topo0", start="230.5325GHz", width="-200kHz", nchan=20, outframe="LSRK")
    add("defaults", "topo0")
    add("defaults_two", "topo0 topo16")
    add("nchan_only", "topo0", nchan=20)
    add("channel_start", "topo0", start=10, nchan=20)
    add("channel_start_width", "topo0", start=10, width=3, nchan=15)
    add("channel_width", "topo0", width=2)
    add("channel_negative", "topo0", start=60, width=-2, nchan=20)
    add("velocity_width_only", "topo0", width="1km/s", restfreq="230.538GHz")
    add("velocity_start_only", "topo0", start="6km/s", restfreq="230.538GHz", nchan=20)
    add("velocity_no_nchan", "topo0", start="6km/s", width="0.5km/s", restfreq="230.538GHz")
    add("frequency_width_only", "topo0", width="500kHz", nchan=8)
    add("frequency_start_only", "topo0", start="230.528GHz", nchan=20)
    add("spw_channels", "topo0", spw="0:20~50")
    add("spw_channels_start", "topo0", spw="0:20~50", start=25, nchan=10)
    add("falling_defaults", "falling")
    add("falling_channel_start", "falling", start=10, nchan=20)
    add("beyond_data", "topo0", **(velocity | {"start": "-5km/s", "width": "0.5km/s", "nchan": 60}))
    add("cubedata", "topo0", specmode="cubedata")
    add("cubedata_velocity", "topo0", **(velocity | {"specmode": "cubedata"}))
    for frame in ("LSRD", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB"):
        add(f"out_{frame}", "topo0", outframe=frame, width=2)
    return found


def compare(folder: Path) -> bool:
    """Image every case and print how far gpucube is from tclean; return whether all are within the limits."""
    print(
        "| case | channels | frequency, channels | sum of weights | dirty cube, of the peak | peak | within the limits |"
    )
    print("|---|---|---|---|---|---|---|")
    good = True
    for case in json.loads((folder / "cases.json").read_text()):
        reference = np.load(folder / f"{case['name']}.npz")
        if "error" in reference:
            print(f"| {case['name']} | tclean refuses it | | | | | |")
            continue
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
                **({"outframe": "LSRK"} | case["parameters"]),  # tclean's default
            )
        found = judge(result, reference)
        within = found["frequency"] < 1e-3 and (
            case["name"] in DIFFERS or (found["weight"] < 1e-3 and found["dirty"] < 2e-3)
        )
        good &= within
        print(
            f"| {case['name']} | {found['nchan']} | {found['frequency']:.1e} | {found['weight']:.1e} | {found['dirty']:.1e} | "
            f"{found['peak']:.4f} ({found['peak_tclean']:.4f}) | {'yes' if within else 'NO'}{DIFFERS.get(case['name'], '')} |"
        )
    return good


def judge(result: gpucube.Result, reference: Any) -> dict[str, float]:
    """Largest differences of one case: in channels, relative to the largest sum of weights, and to the peak."""
    frequency = np.array([channel.frequency_hz for channel in result.channels])
    weights = np.array([channel.sum_weights for channel in result.channels])
    dirty, expected = np.nan_to_num(result.data("dirty")[0]), reference["dirty"]
    if len(frequency) != len(reference["frequency"]):
        return dict.fromkeys(("frequency", "weight", "dirty", "peak", "peak_tclean"), np.inf) | {
            "nchan": len(frequency)
        }
    step = np.abs(np.diff(frequency)).min() if len(frequency) > 1 else 1.0
    scale = weights.sum() / reference["sumwt"].sum()  # Stokes I of two hands weighs as one here, as two there
    return {
        "nchan": len(frequency),
        "frequency": np.abs(frequency - reference["frequency"]).max() / step,
        "weight": np.abs(weights / scale - reference["sumwt"]).max() / reference["sumwt"].max(),
        "dirty": np.abs(dirty - expected).max() / max(np.abs(expected).max(), 0.1),  # a tenth of the line at least
        "peak": dirty.max(),
        "peak_tclean": expected.max(),
    }


DIFFERS: dict[str, str] = {}
"""Cases in which gpucube differs from tclean for a reason, and the reason."""

if __name__ == "__main__":
    here = Path(sys.argv[2])
    here.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "make":
        make(here)
    else:
        sys.exit(0 if compare(here) else 1)
