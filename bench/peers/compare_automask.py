"""Compare the masks and models of auto-multithresh with tclean's, channel by channel.

In: a MeasurementSet in LSRK. Out: a table in Markdown for the channels in which either program masks anything: pixels in
both masks, their Jaccard index (intersection over union), and the model flux of both; and how many channels both leave empty.
Both clean to `--nsigma` with Briggs weights and tclean's default parameters of masks.

tclean runs twice: on the cube, and on each channel alone. In a cube, its channels share the cycle threshold and the number of
cycles, so a channel's mask depends on the others: it goes on growing until the last channel is clean. gpucube gives each channel
cycles of its own, as tclean does when it has only that channel.

    python bench/peers/compare_automask.py --casa-python CASA_PYTHON --ms small.ms --imsize 256 --cell 10arcsec
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from casacore import images

import gpucube

RUN_TCLEAN = Path(__file__).with_name("run_tclean.py")


def planes(path: Path) -> np.ndarray:
    """The pixels of a CASA image, (nchan, ny, nx)."""
    pixels: np.ndarray = images.image(str(path)).getdata()[:, 0]
    return pixels


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks that are not both empty; 0 for those that are."""
    return float(np.count_nonzero(a & b) / max(1, np.count_nonzero(a | b)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--casa-python", required=True)
    parser.add_argument("--ms", required=True)
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", required=True)
    parser.add_argument("--nsigma", type=float, default=3.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="automask-") as folder:
        out = Path(folder)
        how = [options.casa_python, str(RUN_TCLEAN), "--ms", options.ms, "--imsize", str(options.imsize)]
        how += ["--cell", options.cell, "--nsigma", str(options.nsigma), "--usemask", "auto-multithresh", "--out"]
        begun = time.perf_counter()
        subprocess.run([*how, str(out / "cube")], check=True, capture_output=True)
        theirs_s = time.perf_counter() - begun
        theirs, their_model = planes(out / "cube.mask") > 0, planes(out / "cube.model")
        subprocess.run([*how, str(out / "alone"), "--processes", "1"], check=True, capture_output=True)
        each = [planes(out / f"alone.channel{c:04d}.mask")[0] > 0 for c in range(len(theirs))]
        begun = time.perf_counter()
        result = gpucube.image_cube(
            options.ms, out / "gpucube", imsize=options.imsize, cell=options.cell, outframe="LSRK", datacolumn="data",
            gridder="standard", weighting="briggs", robust=0.5, niter=100_000, nsigma=options.nsigma, workers=1,
            usemask="auto-multithresh", products=("image", "mask"), quiet=True,
        )  # fmt: skip
        ours_s = time.perf_counter() - begun
        ours = np.array(result.data("mask")[0] > 0)
    print(
        "| channel | mask | tclean's cube | Jaccard | channel alone | Jaccard | cube : alone | model flux | tclean's cube |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    overlaps = []
    for record, a, b, c, model in zip(result.channels, ours, theirs, each, their_model, strict=True):
        if not (a.any() or b.any() or c.any()):
            continue
        overlaps.append((jaccard(a, b), jaccard(a, c), jaccard(b, c)))
        cube, alone, themselves = (f"{overlap:.3f}" for overlap in overlaps[-1])
        pixels = f"{np.count_nonzero(a):,} | {np.count_nonzero(b):,} | {cube} | {np.count_nonzero(c):,} | {alone}"
        print(f"| {record.channel} | {pixels} | {themselves} | {record.model_flux:.4g} | {model.sum():.4g} |")
    print(f"\n{len(overlaps)} channels with a mask; all masks are empty in the other {len(ours) - len(overlaps)}.")
    for words, found in zip(
        ("tclean's cube", "tclean's channels alone", "tclean's cube and its channels"),
        np.transpose(overlaps),
        strict=True,
    ):
        spread = f"{found.min():.3f} to {found.max():.3f}, median {np.median(found):.3f}"
        print(f"* {words}: Jaccard {spread}, {np.count_nonzero(found < 0.9)} below 0.9")
    print(f"\ngpucube, one worker: {ours_s:.1f} s. tclean on the cube: {theirs_s:.1f} s.")


if __name__ == "__main__":
    main()
