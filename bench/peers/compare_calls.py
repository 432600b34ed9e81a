"""Compare the spectral axes of tclean calls from reduction scripts with those that gpucube makes of them.

python bench/peers/compare_calls.py make CALLS FOLDER       # CALLS: JSON list of {"kind": words, "parameters": {...}}
CASA_PYTHON bench/peers/frames_tclean.py image FOLDER
python bench/peers/compare_calls.py compare CALLS FOLDER

For each call, MeasurementSets of its kind are simulated: its telescope, place on the sky, rest frequency and number of
MeasurementSets, with the spectral windows, fields, scans and antennas that it names. They are scaled down, and all fields lie
in one direction. tclean and gpucube (by the parser of `gpucube.tclean`) take the call's selections and spectral parameters as
they are written. tclean makes a tiny dirty cube, gpucube the axis alone.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from casacore import tables

from gpucube.data.selection import select
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import make_parameters
from gpucube.schema.quantities import FREQUENCY, VELOCITY, parse_direction, parse_quantity
from gpucube.schema.tclean import as_tclean_takes, from_tclean
from gpucube.simulate import SimulationParameters, simulate_ms

SELECTIONS = ("field", "spw", "timerange", "uvrange", "antenna", "scan", "observation", "intent", "datacolumn")
SPECTRAL = ("specmode", "nchan", "start", "width", "outframe", "veltype", "restfreq", "interpolation", "phasecenter")
LIGHT_SPEED = 299792458.0

LINES = {  # rest frequency where the call gives none, and redshift
    "ALMA pipeline 12m mosaic": (86.2e9, 0.0),
    "ALMA-IMF line mosaic": (217.1e9, 0.0),
    "M33 HI, VLA mosaic": (1420.40575177e6, 0.0),
    "ALMA merger CO(2-1)": (230.538e9, 0.0227),
    "VLA Q-band maser": (43.42385e9, 0.0),
    "ALMA Brick": (87.9e9, 0.0),
    "ALMA Cygnus-X": (217.1e9, 0.0),
}
LSRK_DATA = ("exoALMA disk", "CASA guide TW Hya")  # cvel or mstransform have made them LSRK before
FIRST_DAY = 58563.2  # MJD


def make(calls: list[dict[str, Any]], folder: Path) -> None:
    """Simulate the data of every call and list the cases for tclean."""
    cases = []
    for number, call in enumerate(calls):
        parameters = call["parameters"]
        vis = parameters["vis"] if isinstance(parameters["vis"], list) else [parameters["vis"]]
        paths = [folder / f"call{number:02d}_{k}.ms" for k in range(len(vis))]
        for k, path in enumerate(paths):
            simulate(call, path, k)
        asked = {name: parameters[name] for name in (*SELECTIONS, *SPECTRAL) if name in parameters}
        asked |= {"imsize": [32], "cell": ["1arcsec"]}
        cases.append({"name": f"call{number:02d}", "vis": list(map(str, paths)), "parameters": asked})
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))


def simulate(call: dict[str, Any], path: Path, number: int) -> None:
    """A MeasurementSet of the kind of a call, the `number`-th of the call."""
    parameters, kind = call["parameters"], call["kind"]
    vla = "VLA" in kind or "M33" in kind
    rest, redshift = LINES.get(kind, (0.0, 0.0))
    rest = rest or parse_quantity(first_of(parameters["restfreq"]), FREQUENCY)
    centre, width, nchan = channels_of(parameters, rest / (1 + redshift), 7812.5 if vla else 122070.3125)
    ra, dec = (
        np.degrees(parse_direction(p)[:2]) if (p := parameters.get("phasecenter")) else (187.5, 30.0 if vla else -35.0)
    )
    antenna = first_of(parameters.get("antenna", ""))
    simulate_ms(
        SimulationParameters(
            out=path,
            array="vla-d" if vla else "alma",
            antennas=43 if antenna else 8,
            ntime=6,
            track_hours=0.5,
            ra=ra,
            dec=dec,
            nchan=nchan,
            chan_width=width,
            rest_freq=rest,
            frame="LSRK" if kind in LSRK_DATA else "TOPO",
            noise=0.1,
            imsize=32,
            cell=1.0,
            bright_frac=0.0,
            seed=number + 1,
            overwrite=True,
        )
    )
    with tables.table(str(path), readonly=False, ack=False) as t:
        time = t.getcol("TIME")
        instant = np.unique(time, return_inverse=True)[1]
        for column in ("TIME", "TIME_CENTROID"):
            t.putcol(column, t.getcol(column) - time.min() + 86400 * (FIRST_DAY + 17 * number))
        windows = numbers_in(first_of(parameters.get("spw", "")))
        fields = numbers_in(parameters.get("field", "")) if re.match(r"\d", str(parameters.get("field", ""))) else [0]
        scans = numbers_in(first_of(parameters.get("scan", ""))) or [1]
        t.putcol("DATA_DESC_ID", np.array(windows or [0])[instant % max(1, len(windows))].astype(np.int32))
        t.putcol("FIELD_ID", np.array(fields)[instant % len(fields)].astype(np.int32))
        t.putcol("SCAN_NUMBER", np.array(scans)[instant % len(scans)].astype(np.int32))
    frequency = centre + (np.arange(nchan) - nchan // 2) * width
    count = max(windows, default=0) + 1
    repeat(path, "SPECTRAL_WINDOW", count)
    repeat(path, "DATA_DESCRIPTION", count)
    repeat(path, "FIELD", max(fields) + 1)
    with tables.table(f"{path}/SPECTRAL_WINDOW", readonly=False, ack=False) as t:
        for spw in range(count):
            # windows that are selected together were tuned to the same line on other days; the others lie elsewhere
            offset = 0.3 * width * windows.index(spw) if spw in windows else 2e9 * (spw + 1)
            t.putcell("CHAN_FREQ", spw, frequency + (offset if windows else 0.0))
            t.putcell("REF_FREQUENCY", spw, frequency[0] + offset)
    with tables.table(f"{path}/DATA_DESCRIPTION", readonly=False, ack=False) as t:
        t.putcol("SPECTRAL_WINDOW_ID", np.arange(count, dtype=np.int32))
    with tables.table(f"{path}/FIELD", readonly=False, ack=False) as t:
        name = str(parameters.get("field", "") or "target")
        t.putcol("NAME", ["target" if re.match(r"\d", name) else name.replace("*", f"_{k}") for k in range(t.nrows())])
    with tables.table(f"{path}/SOURCE", readonly=False, ack=False) as t:
        t.putcell("SPECTRAL_WINDOW_ID", 0, -1)
    if antenna:
        repeat(path, "ANTENNA", 44)


def channels_of(parameters: dict[str, Any], line: float, usual: float) -> tuple[float, float, int]:
    """Middle and width of the channels of the data, Hz, and their number, so that they hold the cube of a call."""
    rest = first_of(parameters.get("restfreq")) or line
    rest = parse_quantity(rest, FREQUENCY) if isinstance(rest, str) else rest
    per_unit = {"km/s": (VELOCITY, -rest / LIGHT_SPEED), "Hz": (FREQUENCY, 1.0)}
    nchan, start, width = parameters.get("nchan", -1), parameters.get("start", ""), parameters.get("width", "")

    def hertz(text: Any) -> float | None:
        for unit, (kind, factor) in per_unit.items():
            if str(text).endswith(unit):
                return factor * parse_quantity(text, kind)
        return None

    wide = hertz(width)
    fine = abs(wide) / 1.5 if wide else usual  # data are usually finer than the cube
    if (first := hertz(start)) is None:
        return line, fine, 400 if wide else max(64, min(nchan, 300) + 8)
    first += rest if str(start).endswith("km/s") else 0.0
    whole = (wide or fine) * nchan
    shift = rest * 60e3 / LIGHT_SPEED  # the Earth moves by up to this
    return first + whole / 2, fine, int((abs(whole) + 2 * shift) / fine) + 8


def first_of(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def numbers_in(text: str) -> list[int]:
    """Numbers of a selection such as ``"0,4,8"`` or ``"1~23"``."""
    found: list[int] = []
    for part in filter(None, str(text).split(",")):
        low, _, high = part.partition(":")[0].partition("~")
        if low == "*":
            continue
        found += range(int(low), int(high or low) + 1)
    return found


def repeat(path: Path, subtable: str, rows: int) -> None:
    """Give a subtable so many rows, copies of its first one."""
    with tables.table(f"{path}/{subtable}", readonly=False, ack=False) as t:
        first = t.selectrows([0])
        while t.nrows() < rows:
            first.copyrows(t)


def compare(calls: list[dict[str, Any]], folder: Path) -> bool:
    """Print how far the axis of every call is from tclean's; return whether all are within 1e-3 channel."""
    print(
        "| call | MeasurementSets, telescope | start, width, nchan, outframe | channels | frequency, channels | frame | |"
    )
    print("|---|---|---|---|---|---|---|")
    good = True
    for call, case in zip(calls, json.loads((folder / "cases.json").read_text()), strict=True):
        reference, parameters = np.load(folder / f"{case['name']}.npz"), call["parameters"]
        asked = {k: v for k, v in case["parameters"].items() if k not in ("imsize", "cell")}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                defaults = {"specmode": "cube", "outframe": "LSRK", "niter": 0}
                given, _ = from_tclean(as_tclean_takes(asked, defaults)[0])
                axis = select(make_parameters(**given, vis=case["vis"], imagename="unused")).axis
            except GpucubeError as error:
                print(f"| {call['kind']} | | | | | | REFUSED: {error} |")
                good = False
                continue
        expected = reference["frequency"] if "error" not in reference else np.empty(0)
        off, says = np.inf, str(reference["error"]) if "error" in reference else ""
        if len(expected) == axis.nchan:
            step = np.abs(np.diff(expected)).min() if len(expected) > 1 else axis.width[0]
            off = np.abs(axis.frequency - expected).max() / step
        elif not says:
            says = f"tclean has {len(expected)} channels"
        within = off < 1e-3 and str(reference["frame"]) == axis.frame.name
        good &= within
        written = ", ".join(str(parameters[n]) for n in ("start", "width", "nchan", "outframe") if n in parameters)
        kind = f"{len(case['vis'])} {'VLA' if 'VLA' in call['kind'] or 'M33' in call['kind'] else 'ALMA'}"
        print(
            f"| {call['kind']} | {kind} | {written or '-'} | {axis.nchan} | {off:.1e} | {axis.frame.name} | "
            f"{'' if within else 'DIFFERS '}{says} |"
        )
    return good


if __name__ == "__main__":
    listed, here = json.loads(Path(sys.argv[2]).read_text()), Path(sys.argv[3])
    here.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "make":
        make(listed, here)
    else:
        sys.exit(0 if compare(listed, here) else 1)
