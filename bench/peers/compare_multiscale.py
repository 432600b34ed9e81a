"""Clean extended emission with gpucube and with tclean, several scales each, and compare residuals and fluxes.

In: a MeasurementSet, and optionally the true flux of every channel (a .npy file). Out: a Markdown table, one row per
channel, with the seconds of both programs. tclean runs with the CASA python made by setup_peers.sh.

    python bench/peers/compare_multiscale.py --casa-python CASA_PYTHON --ms ext.ms --imsize 256 --cell 8 --scales 0 4 12 36 \
        [--truth ext.flux.npy]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from casacore.images import image
from measure import Measurement, measure


def run(options: argparse.Namespace, folder: Path) -> tuple[Measurement, Measurement]:
    """Clean with both programs: ``folder/gpucube.*.fits`` and the CASA images ``folder/tclean.*``."""
    scales = [f"{scale:g}" for scale in options.scales]
    common = ["--imsize", str(options.imsize), "--cell", f"{options.cell:g}arcsec", "--nsigma", str(options.nsigma)]
    common += ["--weighting", "briggs", "--robust", "0.5", "--niter", "1000000"]
    ours = [sys.executable, "-m", "gpucube", "image", options.ms, "--imagename", str(folder / "gpucube"), *common]
    ours += [
        "--deconvolver",
        "multiscale",
        "--scales",
        ",".join(scales),
        "--gridder",
        "standard",
        "--workers",
        "1",
        "--quiet",
    ]
    theirs = [options.casa_python, str(Path(__file__).with_name("run_tclean.py")), "--ms", options.ms]
    theirs += ["--out", str(folder / "tclean"), *common, "--scales", *scales]
    measured = [measure(command, folder / f"{command[0].rpartition('/')[2]}.log", folder) for command in (ours, theirs)]
    return measured[0], measured[1]


def table(folder: Path, truth: np.ndarray | None) -> list[str]:
    """One row per channel: residual rms and peak (Jy/beam) and model flux (Jy), gpucube's beside tclean's."""
    ours = {kind: fits.getdata(folder / f"gpucube.{kind}.fits")[0] for kind in ("residual", "model")}
    theirs = {kind: image(str(folder / f"tclean.{kind}")).getdata()[:, 0] for kind in ("residual", "model")}
    records = json.loads((folder / "gpucube.summary.json").read_text())["channels"]
    lines = [
        "| channel | rms | tclean's | peak | tclean's | model flux | tclean's | true | ratio | iterations | major cycles |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c, record in enumerate(records):
        cells = [f"{c}"]
        for statistic in (np.std, lambda plane: np.abs(plane).max()):
            cells += [f"{statistic(cube['residual'][c]):.3g}" for cube in (ours, theirs)]
        flux = [float(cube["model"][c].sum(dtype=float)) for cube in (ours, theirs)]
        cells += [f"{value:.4g}" for value in flux]
        cells += ["" if truth is None else f"{truth[c]:.4g}", f"{flux[0] / flux[1]:.4f}" if flux[1] else ""]
        cells += [f"{record['iterations']:,}", f"{record['major_cycles']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--casa-python", required=True)
    parser.add_argument("--ms", required=True)
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", type=float, required=True, help="arcsec")
    parser.add_argument("--scales", type=float, nargs="+", required=True, help="pixels")
    parser.add_argument("--nsigma", type=float, default=3.0)
    parser.add_argument("--truth", help=".npy file with the true flux of every channel, Jy")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ours, theirs = run(options, Path(name))
        print("\n".join(table(Path(name), None if options.truth is None else np.load(options.truth))))
    for program, m in (("gpucube, one worker", ours), ("tclean", theirs)):
        print(f"\n{program}: {m.wall_seconds:.1f} s wall, {m.cpu_seconds:.1f} s CPU, {m.peak_tree_mib:.0f} MiB", end="")
    print(
        f"\nratio: {theirs.wall_seconds / ours.wall_seconds:.1f} wall, {theirs.cpu_seconds / ours.cpu_seconds:.1f} CPU"
    )


if __name__ == "__main__":
    main()
