"""Run WSClean on a spectral-line MeasurementSet, every channel cleaned on its own, and print one JSON line.

In: a MeasurementSet. Out: WSClean's FITS files OUT-0000-image.fits ..., its log OUT.log, and one line of JSON with the
command and the numbers of inversions and minor iterations read from the log. Fixed here: Stokes I, Briggs weights per
channel, gain 0.1, one output channel per MS channel, no joined channels. The model is not written back into the MS, because the
other programs do not write it either. Only the standard library is used, so a program that measures memory can import it.

    python bench/peers/run_wsclean.py --ms small.ms --out out/wsclean --imsize 256 --cell 10arcsec --nchan 117 --wgridder
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

UNITS = {"arcsec": "asec", "arcmin": "amin", "deg": "deg", "mas": "masec", "uas": "uasec"}
"""WSClean's names of the angular units that `cell` may come in."""


def wsclean_command(
    ms: str,
    out: str,
    imsize: int,
    cell: str,
    nchan: int,
    *,
    robust: float = 0.5,
    nsigma: float = 3.0,
    niter: int = 1_000_000,
    wgridder: bool = False,
) -> list[str]:
    """Command line of WSClean 3 for a cube of independently cleaned channels.

    `nchan` is the number of channels of the MS. `nsigma` counts each channel's own noise, and `niter` iterations per channel.
    `wgridder` chooses the w-gridder in place of WSClean's default w-stacking gridder.
    """
    match = re.fullmatch(r"([\d.]+)([a-z]+)", cell)
    if match is None or match[2] not in UNITS:
        raise SystemExit(f"run_wsclean.py: --cell {cell} is not a number with one of the units {', '.join(UNITS)}")
    command = ["wsclean", "-j", str(os.cpu_count()), "-name", out, "-size", str(imsize), str(imsize)]
    command += ["-scale", match[1] + UNITS[match[2]], "-pol", "I", "-weight", "briggs", str(robust)]
    command += ["-channels-out", str(nchan), "-data-column", "DATA", "-temp-dir", str(Path(out).resolve().parent)]
    command += [
        "-no-update-model-required",
        "-niter",
        str(niter),
        "-mgain",
        "0.8",
        "-gain",
        "0.1",
        "-auto-threshold",
        str(nsigma),
    ]
    return command + (["-use-wgridder"] if wgridder else []) + [ms]


def summarise_log(text: str) -> dict[str, Any]:
    """Inversions (PSF, dirty and residual images) and minor iterations, summed over channels, from WSClean's log."""
    iterations = re.findall(r"Performed \d+ iterations in total, (\d+) in this major iteration", text)
    return {
        "major_cycles": len(re.findall(r"== Constructing (?:image|PSF) ==", text)),
        "iterations": sum(int(n) for n in iterations),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", required=True, help="with unit, e.g. 10arcsec")
    parser.add_argument("--nchan", type=int, required=True)
    parser.add_argument("--robust", type=float, default=0.5)
    parser.add_argument("--nsigma", type=float, default=3.0)
    parser.add_argument("--niter", type=int, default=1_000_000, help="per channel")
    parser.add_argument("--wgridder", action="store_true")
    options = vars(parser.parse_args())
    command = wsclean_command(**options)
    Path(options["out"]).resolve().parent.mkdir(parents=True, exist_ok=True)
    log = Path(f"{options['out']}.log")
    with log.open("w") as stream:
        subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=True)
    print(json.dumps({"peer": "wsclean", "command": command, **summarise_log(log.read_text(errors="replace"))}))


if __name__ == "__main__":
    main()
