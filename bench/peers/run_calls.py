"""Run calls that were written for tclean through `gpucube.tclean`, on simulated data of their kind, scaled down.

In: a JSON file with a list of ``{"kind": ..., "parameters": {...}}``, where parameters are those of tclean. For every call
a MeasurementSet is simulated with the telescope, rest frequency, channel width, phase centre, fields and windows that the call
names; a mask that it names becomes a CASA image, made from the dirty cube. Sizes are scaled down: the image to `PIXELS`, with
pixels that suit the simulated array, scales and regions in pixels by the same factor, and the cube to `CHANNELS` channels.
Out: a table in Markdown of what became of each call: whether it ran, how its channels ended, and every line that was said.

`calls.json` beside this file has calls of pipelines, guides, papers and CASA's own tests.

    python bench/peers/run_calls.py bench/peers/calls.json --out calls.md
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from casacore import images, tables

import gpucube
from gpucube.schema.quantities import ANGLE, FLUX_DENSITY, FREQUENCY, VELOCITY, parse_direction, parse_quantity

PIXELS, CHANNELS, NITER = 64, 8, 2000
LIGHT_SPEED = 299_792_458.0
ALMA_BEGINS = 60e9
"""Hz. Below this frequency the VLA observes."""


def quantity(value: Any, kind: Any) -> float | None:
    try:
        return parse_quantity(value, kind)
    except ValueError:
        return None


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def line_of(call: dict[str, Any]) -> tuple[float, float, float]:
    """Rest frequency of the line, frequency of the middle of the cube, and channel width, Hz."""
    given = [item for item in as_list(call.get("restfreq")) if item]
    start, width = call.get("start"), call.get("width")
    rest = quantity(given[0], FREQUENCY) if given else quantity(call.get("reffreq"), FREQUENCY)
    rest = rest or quantity(start, FREQUENCY) or 86.243e9
    step = quantity(width, FREQUENCY) if isinstance(width, str) else None
    velocity_step = quantity(width, VELOCITY) if isinstance(width, str) and step is None else None
    if velocity_step:
        step = -velocity_step / LIGHT_SPEED * rest
    step = step or (122.07e3 if rest > ALMA_BEGINS else 15.625e3)
    velocity = quantity(start, VELOCITY) if isinstance(start, str) else None
    first = quantity(start, FREQUENCY) if isinstance(start, str) and velocity is None else None
    if velocity is not None:
        first = rest * (1 - velocity / LIGHT_SPEED)
    return rest, (first + step * CHANNELS / 2 if first else rest), step


def simulate(path: Path, call: dict[str, Any], seed: int) -> float:
    """Write a MeasurementSet for a call; returns a cell for it in arcsec."""
    _, middle, step = line_of(call)
    array = "alma" if middle > ALMA_BEGINS else "vla-d"
    direction = {}
    if isinstance(call.get("phasecenter"), str) and call["phasecenter"]:
        ra, dec, _ = parse_direction(call["phasecenter"])
        direction = {"ra": np.degrees(ra) % 360, "dec": np.degrees(dec)}
    wanted = call.get("width")
    together = abs(wanted) if isinstance(wanted, int) else 1
    settings = {
        "out": path, "array": array, "antennas": 16, "ntime": 12, "nchan": (CHANNELS + 6) * together, "seed": seed,
        "rest_freq": middle, "chan_width": f"{abs(step)}Hz", "bright_frac": 0.4, "overwrite": True, **direction,
    }  # fmt: skip
    trial = gpucube.simulate_ms(gpucube.SimulationParameters(**settings, noise=0.1, peak=0.1))
    cell = trial.summary["largest_cell_arcsec"] * 0.6
    depth = quantity(str(call.get("threshold", "0")).replace(" ", ""), FLUX_DENSITY) or 5e-3
    noise = 0.1 * depth / 4 / trial.summary["natural_rms_jy"]  # the threshold is at four times the noise of the image
    peak = 30 * depth
    layout = {"imsize": PIXELS, "cell": cell}
    gpucube.simulate_ms(gpucube.SimulationParameters(**settings, **layout, noise=noise, peak=peak))
    return cell


def add_rows(table: str, count: int) -> None:
    """Put `count` copies of the first row of a subtable before it."""
    with tables.table(table, readonly=False, ack=False) as t:
        t.addrows(count)
        for name in t.colnames():
            if t.iscelldefined(name, 0):
                for row in range(1, count + 1):
                    t.putcell(name, row, t.getcell(name, 0))


def rename(path: Path, field: Any, spw: Any) -> None:
    """Let the data be of the field and the window that a call asks for, by name or by number."""
    number = int(field) if str(field).isdigit() else 0
    if number:
        add_rows(f"{path}/FIELD", number)
    window = int(spw) if str(spw).isdigit() else 0
    if window:
        add_rows(f"{path}/SPECTRAL_WINDOW", window)
        add_rows(f"{path}/DATA_DESCRIPTION", window)
        with tables.table(f"{path}/DATA_DESCRIPTION", readonly=False, ack=False) as t:
            t.putcol("SPECTRAL_WINDOW_ID", np.arange(window + 1, dtype=np.int32))
        with tables.table(f"{path}/SOURCE", readonly=False, ack=False) as t:
            t.putcol("SPECTRAL_WINDOW_ID", np.full(t.nrows(), window, np.int32))
    with tables.table(str(path), readonly=False, ack=False) as t:
        t.putcol("FIELD_ID", np.full(t.nrows(), number, np.int32))
        t.putcol("DATA_DESC_ID", np.full(t.nrows(), window, np.int32))
    if isinstance(field, str) and field and not field[0].isdigit():
        with tables.table(f"{path}/FIELD", readonly=False, ack=False) as t:
            t.putcell("NAME", 0, field.replace("*", " centre"))


def scaled(call: dict[str, Any], cell: float) -> dict[str, Any]:
    """The call for a small image with this cell in arcsec."""
    before = max(as_list(call.get("imsize", 100)))
    factor = PIXELS / before
    old_cell = quantity(str(as_list(call.get("cell", "1arcsec"))[0]).replace(" ", ""), ANGLE) or 1.0
    small = dict(call) | {"imsize": [PIXELS, PIXELS], "cell": [f"{cell}arcsec"]}
    if call.get("scales"):
        small["scales"] = sorted({round(scale * factor * 2) for scale in call["scales"]})
    masks = [
        re.sub(r"([\d.]+)pix", lambda m: f"{float(m[1]) * factor}pix", item) if isinstance(item, str) else item
        for item in as_list(call.get("mask", ""))
    ]
    small["mask"] = masks if isinstance(call.get("mask"), list) else masks[0]
    angles = [item for item in as_list(call.get("uvtaper", [])) if quantity(item, ANGLE) and not item.endswith("deg")]
    if angles:
        taper = [f"{quantity(item, ANGLE) * cell / old_cell / 4}arcsec" for item in angles]
        small["uvtaper"] = taper + [item for item in as_list(call["uvtaper"]) if item.endswith("deg")]
    small["niter"] = min(int(call.get("niter") or 0), NITER)
    if isinstance(call.get("nchan"), int) and call["nchan"] > 0:
        small["nchan"] = min(call["nchan"], CHANNELS)
    return small


def make_mask(name: str, call: dict[str, Any]) -> None:
    """Make the mask that a call names: a CASA image of what is above five times the noise of the dirty cube."""
    dirty = gpucube.tclean(**(call | {"niter": 0, "mask": "", "usemask": "user", "imagename": "dirty", "quiet": True}))
    noise = max(c.noise or 0.0 for c in dirty["result"].channels)
    pixels, header = fits.getdata("dirty.image.fits"), fits.getheader("dirty.image.fits")
    header["CASAMBM"] = False
    fits.PrimaryHDU((np.nan_to_num(pixels) > 5 * noise).astype(np.float32), header).writeto(
        "above.fits", overwrite=True
    )
    images.image("above.fits").saveas(name)
    gc.collect()  # casacore writes the last of an image when it is forgotten


def run(call: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Run one call in the current folder: the outcome, how its channels ended, and the lines that were said."""
    cells = [simulate(Path(path).absolute(), call, seed) for seed, path in enumerate(as_list(call["vis"]))]
    for path in as_list(call["vis"]):
        rename(Path(path), as_list(call.get("field", ""))[0], as_list(call.get("spw", ""))[0])
    small = scaled(call, cells[0]) | {"imagename": "out", "quiet": True}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if isinstance(small.get("mask"), str) and re.fullmatch(r"[\w.]+", small["mask"]):
                make_mask(small["mask"], small)
                caught.clear()
            returned = gpucube.tclean(**small)
        except gpucube.GpucubeError as refusal:
            return "refused", "", [str(refusal)]
    reasons = Counter(channel.stop_reason for channel in returned["result"].channels)
    ended = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common())
    return "ran", ended, sorted({str(warning.message) for warning in caught if warning.category is UserWarning})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calls", help="JSON file of calls")
    parser.add_argument("--out", help="Markdown file to write; by default standard output")
    options = parser.parse_args()
    calls = json.loads(Path(options.calls).read_text())
    out = Path(options.out).absolute() if options.out else None
    rows, ran, home = [], 0, os.getcwd()
    for number, call in enumerate(calls, 1):
        begun = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="calls-") as folder:
            os.chdir(folder)
            outcome, ended, lines = run(call["parameters"])
            os.chdir(home)
        ran += outcome == "ran"
        said = "<br>".join(line.replace("|", "\\|") for line in lines)
        rows.append(f"| {number} | {call['kind']} | {outcome} | {ended} | {said} | {time.perf_counter() - begun:.1f} |")
        print(rows[-1], flush=True)
    head = "| | call | outcome | channels | lines | seconds |\n|---|---|---|---|---|---|\n"
    table = f"{ran} of {len(calls)} calls ran.\n\n{head}" + "\n".join(rows) + "\n"
    if out:
        out.write_text(table)


if __name__ == "__main__":
    main()
