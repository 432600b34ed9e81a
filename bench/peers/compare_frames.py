"""Compare cubes of gpucube with tclean's in several frames, axes and interpolations.

python bench/peers/compare_frames.py make FOLDER       # MeasurementSets and the list of cases
CASA_PYTHON bench/peers/frames_tclean.py line FOLDER/*.ms
CASA_PYTHON bench/peers/frames_tclean.py image FOLDER
python bench/peers/compare_frames.py compare FOLDER
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
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
] = {  # frame, days after the first date, velocity of the middle channel and, roughly, of the line, hours of the track
    "topo0": {"frame": "TOPO", "days": 0, "middle": 15.0, "hours": 1.0, "line": 4.0},
    "topo16": {"frame": "TOPO", "days": 16, "middle": 15.0, "hours": 1.0},
    "topo180": {"frame": "TOPO", "days": 180, "middle": 15.0, "hours": 1.0},
    "retuned16": {"frame": "TOPO", "days": 16, "middle": 11.3, "hours": 1.0},
    "retuned180": {"frame": "TOPO", "days": 180, "middle": 26.3, "hours": 1.0},
    "track6h": {"frame": "TOPO", "days": 3, "middle": 15.0, "hours": 6.0, "line": 5.4},
    "late0": {"frame": "TOPO", "days": 0, "middle": 15.0, "hours": 1.0, "line": 4.0, "late": True},
    "late6h": {"frame": "TOPO", "days": 3, "middle": 15.0, "hours": 6.0, "line": 5.4, "late": True},
    "falling": {"frame": "TOPO", "days": 5, "middle": 15.0, "hours": 1.0, "width": -WIDTH, "line": 6.2},
    "lsrk": {"frame": "LSRK", "days": 0, "middle": 10.0, "hours": 1.0, "line": 10.0},
    "bary": {"frame": "BARY", "days": 0, "middle": 10.0, "hours": 1.0, "line": 14.1},
    "geo": {"frame": "GEO", "days": 0, "middle": 10.0, "hours": 1.0, "line": 4.0},
    **{
        f"alone{j}": {"frame": "TOPO", "days": 0, "middle": 15.0, "hours": 0.1, "ntime": 1, "shift": 1.7 * j}
        for j in range(6)
    },
    "comet": {"frame": "TOPO", "days": 3, "middle": 17.0, "hours": 6.0, "ephemeris": True},
    "comet30": {"frame": "TOPO", "days": 4, "middle": 28.0, "hours": 1.0, "ephemeris": True},
}
"""The line lies at 10 km/s in LSRK: at 4, 11 and 26 km/s in TOPO on the three dates. That of the comet lies at 10 km/s in its
own frame. It moves by a degree a day and its velocity changes by 12 km/s a day. In `late` sets the first integration, whose
channels define the axis, is flagged. `alone` sets have that integration alone, and frequencies that differ by a few Hz."""

TOGETHER = (
    "topo0",
    "topo0 topo16",
    "topo0 topo180",
    "topo0 retuned16",
    "topo0 retuned180",
    "track6h",
    "falling",
    "lsrk",
    "bary",
    "geo",
)
"""Sets that are imaged together."""

LINE_IN = {"LSRK": 10.0, "BARY": 14.1204, "REST": 10.0}
"""Velocity of the line in frames of cubes, km/s; that of the comet in its own."""

METHODS = ("nearest", "linear", "cubic")

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
                ntime=of.get("ntime", 10),
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
            frequency = middle + (np.arange(NCHAN) - NCHAN // 2) * width + of.get("shift", 0.0)
            t.putcol("CHAN_FREQ", frequency[None])
            t.putcol("REF_FREQUENCY", frequency[:1])
            t.putcol("MEAS_FREQ_REF", np.array([CODES[of["frame"]]]))
        if of.get("late"):
            with tables.table(str(ms), readonly=False, ack=False) as t:
                flag = t.getcol("FLAG")
                flag[t.getcol("TIME") == t.getcol("TIME").min()] = True
                t.putcol("FLAG", flag)
        if of.get("ephemeris"):
            attach_ephemeris(ms)
    (folder / "cases.json").write_text(json.dumps(cases(folder), indent=1))


def attach_ephemeris(ms: Path) -> None:
    """Make the field follow a comet, with the table that CASA attaches."""
    with tables.table(f"{ms}/FIELD", readonly=False, ack=False) as t:
        ra, dec = np.degrees(t.getcell("PHASE_DIR", 0)[0])
        t.addcols(tables.maketabdesc(tables.makescacoldesc("EPHEMERIS_ID", 0)))
        t.putcell("EPHEMERIS_ID", 0, 0)
        for column in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
            t.putcell(column, 0, np.zeros((1, 2)))
        t.putcell("TIME", 0, 86400 * (FIRST_DAY + 3.3))
    days = np.arange(12) * 0.25  # from two days and a half after the first date
    values = {
        "MJD": FIRST_DAY + 2.5 + days,
        "RA": ra + 0.9 * days,
        "DEC": dec + 0.5 * days,
        "Rho": 0.5 + 0.004 * days,
        "RadVel": (2.0 + 12.0 * (days - 0.75) + 3.0 * np.sin(days)) * 86400 / 149597870.7,  # AU/d; 5 km/s in the middle
    }
    units = {"MJD": "d", "RA": "deg", "DEC": "deg", "Rho": "AU", "RadVel": "AU/d"}
    columns = [tables.makescacoldesc(name, 0.0, keywords={"UNIT": units[name]}) for name in values]
    with tables.table(
        f"{ms}/FIELD/EPHEM0_comet_58565.5.tab", tables.maketabdesc(columns), nrow=len(days), ack=False
    ) as t:
        for name, column in values.items():
            t.putcol(name, column)
        ends = {
            name: {"m0": {"value": mjd, "unit": "d"}, "type": "epoch", "refer": "UTC"}
            for name, mjd in (("earliest", values["MJD"][0]), ("latest", values["MJD"][-1]))
        }
        t.putkeywords(
            {
                "MJD0": values["MJD"][0] - 0.25, "dMJD": 0.25, "NAME": "comet", "GeoLong": 0.0, "GeoLat": 0.0, "GeoDist": 0.0,
                "obsloc": "GEOCENTRIC", "posrefsys": "ICRS", "VS_CREATE": "2019/03/01/00:00", "VS_DATE": "2019/03/01/00:00",
                "VS_TYPE": "Table of comet/planetary positions", "VS_VERSION": "0003.0001", **ends,
            }
        )  # fmt: skip
        t.putinfo({"type": "IERS", "subType": "", "readme": ""})


def cases(folder: Path) -> list[dict[str, Any]]:
    """Every case: name, MeasurementSets, and the parameters that both imagers take."""
    found: list[dict[str, Any]] = []

    def add(name: str, sets: str, group: str = "", **parameters: Any) -> None:
        vis = [str(folder / f"{one}.ms") for one in sets.split()]
        found.append({"name": name, "vis": vis, "parameters": parameters, "group": group})

    velocity = {"start": "5km/s", "width": "0.4km/s", "nchan": 24, "restfreq": "230.538GHz", "outframe": "LSRK"}
    for sets in TOGETHER:
        label = sets.replace(" ", "_")
        add(f"v_{label}", sets, **velocity)
        add(f"bary_{label}", sets, **(velocity | {"outframe": "BARY", "start": "8km/s"}))
    for method in METHODS:
        for label, width in (("0.5", 0.5), ("1", 1.0), ("2.7", 2.7), ("10", 10.0)):
            step = f"{width * WIDTH / 1e3:.6f}kHz"
            nchan = {"0.5": 76, "1": 40, "2.7": 16, "10": 5}[label]
            start = f"{(REST * (1 - 12.8 / 299792.458)) / 1e9:.9f}GHz"
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
    comet = velocity | {"specmode": "cubesource", "phasecenter": "TRACKFIELD"}
    del comet["outframe"]
    add("source_velocity", "comet", **comet)
    add("source_two", "comet comet30", **comet)
    add("source_defaults", "comet", specmode="cubesource", phasecenter="TRACKFIELD")
    add("source_frequency", "comet", **(comet | {"start": "230.524GHz", "width": "300kHz", "nchan": 20}))
    add("tracked_lsrk", "comet", **(velocity | {"start": "0km/s", "width": "1km/s", "phasecenter": "TRACKFIELD"}))
    for frame in ("LSRD", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB"):
        add(f"out_{frame}", "topo0", outframe=frame, width=2)
    for name, width in itertools.product((name for name in SETS if name.startswith("alone")), (1, 2, 3)):
        add(f"{name}_{width}", name, width=width)
    for method in METHODS:
        add(f"one_channel_{method}", "topo0", **(velocity | {"start": "9.6km/s", "nchan": 1}), interpolation=method)
    for name, sets, group, parameters in itertools.chain(matrix(), whole_channels()):
        add(name, sets, group, **parameters)
    return found


KINDS = ("radio", "radio-", "optical", "optical-", "GHz", "GHz-", "channels", "channels-")
"""How start and width are written, and the sign of the width."""


def matrix() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Every data, frame, interpolation and width together, with the ways of writing an axis in turn: 180 cases."""
    step = 299792.458 * WIDTH / REST  # km/s
    choices = itertools.product(
        enumerate(TOGETHER), enumerate(("LSRK", "BARY")), enumerate(METHODS), enumerate((1, 2.7, 10))
    )
    for (a, sets), (b, frame), (c, method), (d, width) in choices:
        kind = KINDS[(3 * a + 5 * b + 3 * c + d + (a + c + d) // 4) % len(KINDS)]
        sign = -1 if kind.endswith("-") else 1
        label = round(width) if kind.startswith("channels") else width
        # tclean refuses channels that are narrower than the data's in the frame of the cube
        width = 1.0005 if width == 1 else width
        nchan = {1.0005: 40, 2.7: 17, 10: 7}[width]
        first = LINE_IN[frame] - sign * step * width * (nchan - 1) / 2  # km/s, the line in the middle
        if kind.startswith("GHz"):
            first = LINE_IN[frame] + sign * step * width * (nchan - 1) / 2
            axis = {"start": f"{REST * (1 - first / 299792.458) / 1e9:.9f}GHz"}
            axis |= {"width": f"{sign * width * WIDTH / 1e3:.6f}kHz"}
        elif kind.startswith("channels"):
            set_ = SETS[sets.split()[0]]
            line = NCHAN // 2 + (set_["middle"] - set_["line"]) / step * np.sign(set_.get("width", 1))
            width, nchan = round(width), min(nchan, 12 if width > 3 else nchan)
            axis = {"start": round(line - sign * width * (nchan - 1) / 2), "width": sign * width}
        else:
            axis = {"start": f"{first:.6f}km/s", "width": f"{sign * step * width:.6f}km/s"}
            axis |= {"veltype": kind.strip("-")}
        axis |= {"nchan": nchan, "outframe": frame, "interpolation": method, "restfreq": "230.538GHz"}
        name = f"{sets.replace(' ', '_')}_{frame}_{method}_{label}_{kind}"
        yield name, sets, f"{kind.strip('-')}, {method}, width {label}", axis


def whole_channels() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Widths of n channels of either sign: 120 cases of rows that move apart from the cube, 30 of rows that never do."""
    moving = itertools.product(("late0", "late0 topo16", "late0 topo180", "late6h"), ("LSRK", "BARY"))
    for a, (sets, frame) in enumerate([*moving, ("lsrk", "LSRK"), ("bary", "BARY")]):
        for (b, width), (c, method) in itertools.product(enumerate((1, 2, 3, 4, 10)), enumerate(METHODS)):
            axis = {"width": width, "outframe": frame, "interpolation": method}
            if (a + b + c) % 2:  # tclean then needs both
                axis |= {"width": -width, "start": NCHAN - 1, "nchan": NCHAN // width}
            kind = "rows that move" if sets[0] == "l" and sets != "lsrk" else sets
            yield (
                f"{sets.replace(' ', '_')}_{frame}_{method}_{width}",
                sets,
                f"{kind}, {method}, {width} channels",
                axis,
            )


COINCIDES = (
    "channels of an integration coincide with the cube's: tclean's rounding decides which neighbour's flag counts"
)
WHOLE = "a width of exactly n channels in all integrations: tclean's rounding leaves n - 1 samples"
ALONE = "tclean takes the nearest channels for a cube of one channel, whatever is asked"
FROZEN = "tclean's frame is that of the first time, and it follows the motion since then"
EDGE = "a channel of the data lies within the difference of the two programs of an edge"
CUBIC = "weights between channels are interpolated linearly, tclean's with the cubic"
DIFFERS = (
    dict.fromkeys(
        ("defaults", "defaults_two", "nchan_only", "channel_start", "spw_channels", "spw_channels_start")
        + ("falling_defaults", "falling_channel_start", "source_defaults")
        + ("channel_width", "channel_start_width", "channel_negative", "falling_BARY_linear_1_optical-")
        + tuple(f"out_{frame}" for frame in ("LSRD", "GALACTO", "LGROUP", "CMB"))
        + tuple(f"channels, {method}, width {width}" for method in ("linear", "cubic") for width in (1, 3, 10))
        + tuple(f"alone{j}_{width}" for j in range(6) for width in (1, 2, 3))
        + tuple(f"bary, linear, {width} channels" for width in (2, 3, 4, 10))
        + tuple(f"{name}, cubic, {width} channels" for name in ("lsrk", "bary") for width in (1, 2, 3, 4, 10)),
        COINCIDES,
    )
    | dict.fromkeys(("out_GEO", "out_TOPO"), FROZEN)
    | dict.fromkeys((f"one_channel_{method}" for method in ("linear", "cubic")), ALONE)
    | dict.fromkeys((f"rows that move, cubic, {width} channels" for width in (1, 2, 3, 4, 10)), CUBIC)
    | {f"late0_topo180_{frame}_nearest_{width}": EDGE for frame in ("LSRK", "BARY") for width in (1, 2, 3, 4)}
    | {"bary_BARY_linear_10_GHz": WHOLE}
    | {"tracked_lsrk": "the Doppler factor is that of where the object is; tclean keeps its first direction"}
)
"""Cases in which sums of weights and dirty cubes differ from tclean's for a reason, and the reason (docs/decisions.md, D29)."""

LINE_PIXEL = 64 - 6, 64 - 8
"""Where the line is (y, x)."""


def compare(folder: Path) -> bool:
    """Image every case and print how far gpucube is from tclean; return whether all are within the limits."""
    print(
        "In brackets: tclean. The line is a Gaussian of 1 Jy at 10.000 km/s in LSRK (that of the comet in its own frame).\n"
    )
    print(
        "| case | channels | frequency, channels | sum of weights | dirty cube, of the peak | peak, Jy | line, km/s | |"
    )
    print("|---|---|---|---|---|---|---|---|")
    good = True
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for case in json.loads((folder / "cases.json").read_text()):
        reference = np.load(folder / f"{case['name']}.npz")
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
        found = judge(result, None if "error" in reference else reference)
        reason = DIFFERS.get(case["name"], DIFFERS.get(case["group"], ""))
        weight, dirty = (3e-3, 3e-3) if "cubic" in case["name"] else (1e-3, 2e-3)
        within = "error" in reference or (
            not found["frequency"] >= 1e-3
            and not abs(found["peak"] - found["peak_tclean"]) > (0.05 if reason else 0.01) * found["peak_tclean"] + 1e-6
            and not (found["frame"] in LINE_IN and off_the_line(found) >= 0.02)
            and (bool(reason) or (not found["weight"] >= weight and not found["dirty"] >= dirty))
        )
        good &= within
        reason = "tclean refuses it" if "error" in reference else reason
        says = f"{'' if within else 'NOT WITHIN THE LIMITS '}{reason}"
        if case["group"]:
            groups.setdefault(case["group"], []).append((f"{case['name']} {says}" if not within else says, found))
            continue
        row = (
            f"| {case['name']} | {found['nchan']} | {found['frequency']:.1e} | {found['weight']:.1e} | {found['dirty']:.1e} | "
            f"{found['peak']:.4f} ({found['peak_tclean']:.4f}) | {found['line']:.4f} ({found['line_tclean']:.4f}) | {says} |"
        )
        print(row.replace("nan", "-"))
    print(
        "\nThe largest differences of several cases together; those of the line are from its place and from tclean's.\n"
    )
    print(
        "| axis | cases | frequency, channels | sum of weights | dirty cube, of the peak | peak | line, km/s | and tclean's | |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for group, cases_of in sorted(groups.items()):
        worst = {name: largest([f[name] for _, f in cases_of]) for name in ("frequency", "weight", "dirty")}
        peak = largest([abs(f["peak"] / f["peak_tclean"] - 1) for _, f in cases_of])
        away = [abs(f["line"] - LINE_IN[f["frame"]]) for _, f in cases_of]
        apart = [abs(f["line"] - f["line_tclean"]) for _, f in cases_of]
        reasons = Counter(says for says, _ in cases_of if says)
        says = "; ".join(text if n == len(cases_of) else f"{n}: {text}" for text, n in sorted(reasons.items()))
        row = (
            f"| {group} | {len(cases_of)} | {worst['frequency']:.1e} | {worst['weight']:.1e} | {worst['dirty']:.1e} | "
            f"{100 * peak:.2f} % | {largest(away):.4f} | {largest(apart):.4f} | {says} |"
        )
        print(row.replace("nan", "-"))
    return good


def largest(values: list[float]) -> float:
    """The largest that is a number, or NaN."""
    return max((value for value in values if np.isfinite(value)), default=np.nan)


def off_the_line(found: dict[str, Any]) -> float:
    """Distance of the line from its velocity, or from where tclean has it, km/s: wide channels do not sample it."""
    apart = [abs(found["line"] - LINE_IN[found["frame"]]), abs(found["line"] - found["line_tclean"])]
    return 0.0 if np.isnan(apart[0]) else float(np.nanmin(apart))


def judge(result: gpucube.Result, reference: Any) -> dict[str, Any]:
    """Largest differences of one case: in channels, relative to the largest sum of weights, and to the peak."""
    frequency = np.array([channel.frequency_hz for channel in result.channels])
    weights = np.array([channel.sum_weights for channel in result.channels])
    dirty = np.nan_to_num(result.data("dirty")[0])
    found = dict.fromkeys(("frequency", "weight", "dirty", "peak_tclean", "line_tclean"), np.nan) | {
        "nchan": len(frequency),
        "peak": dirty.max(),
        "line": line_velocity(frequency, dirty),
        "frame": result.summary["spectral_axis"]["frame"],
    }
    if reference is None:
        return found
    if len(frequency) != len(reference["frequency"]):
        return found | {"frequency": np.inf}
    expected = reference["dirty"]
    step = np.abs(np.diff(frequency)).min() if len(frequency) > 1 else 1.0
    sumwt = reference["sumwt"]
    return found | {
        "frequency": np.abs(frequency - reference["frequency"]).max() / step,
        "weight": np.abs(weights - sumwt).max() / sumwt.max(),
        "dirty": np.abs(dirty - expected).max() / max(np.abs(expected).max(), 0.1),  # a tenth of the line at least
        "peak_tclean": expected.max(),
        "line_tclean": line_velocity(reference["frequency"], expected),
    }


def line_velocity(frequency: np.ndarray, cube: np.ndarray) -> float:
    """Mean radio velocity of the line in the pixel of the source, km/s; NaN if the cube does not hold it whole and sampled."""
    spectrum = cube[(slice(None), *LINE_PIXEL)]
    if len(frequency) < 5 or spectrum.max() < 0.5 or max(spectrum[0], spectrum[-1]) > 0.01:
        return float("nan")
    velocity = 299792.458 * (1 - frequency / REST)
    weight = spectrum * np.abs(np.gradient(velocity))
    return float((weight * velocity).sum() / weight.sum())


if __name__ == "__main__":
    here = Path(sys.argv[2])
    here.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "make":
        make(here)
    else:
        sys.exit(0 if compare(here) else 1)
