"""Compare the masks and models of auto-multithresh with tclean's, channel by channel.

In: a MeasurementSet in LSRK. Out: a table in Markdown for the channels in which either program masks anything: pixels in
both masks, their Jaccard index (intersection over union), and the model flux of both; and how many channels both leave empty.
Both clean to `--nsigma` with Briggs weights and tclean's default parameters of masks.

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
        command = [options.casa_python, str(RUN_TCLEAN), "--ms", options.ms, "--out", str(out / "tclean")]
        command += ["--imsize", str(options.imsize), "--cell", options.cell, "--nsigma", str(options.nsigma)]
        begun = time.perf_counter()
        subprocess.run([*command, "--usemask", "auto-multithresh"], check=True, capture_output=True)
        theirs_s = time.perf_counter() - begun
        theirs, their_model = planes(out / "tclean.mask") > 0, planes(out / "tclean.model")
        begun = time.perf_counter()
        result = gpucube.image_cube(
            options.ms, out / "gpucube", imsize=options.imsize, cell=options.cell, outframe="LSRK", datacolumn="data",
            gridder="standard", weighting="briggs", robust=0.5, niter=100_000, nsigma=options.nsigma, workers=1,
            usemask="auto-multithresh", products=("image", "mask"), quiet=True,
        )  # fmt: skip
        ours_s = time.perf_counter() - begun
        ours = np.array(result.data("mask")[0] > 0)
    print("| channel | mask | tclean's | Jaccard | model flux | tclean's | iterations | major cycles |")
    print("|---|---|---|---|---|---|---|---|")
    overlaps = []
    for record, a, b, model in zip(result.channels, ours, theirs, their_model, strict=True):
        if not (a.any() or b.any()):
            continue
        overlaps.append(np.count_nonzero(a & b) / np.count_nonzero(a | b))
        flux = f"{record.model_flux:.4g} | {model.sum():.4g} | {record.iterations:,} | {record.major_cycles}"
        print(f"| {record.channel} | {np.count_nonzero(a):,} | {np.count_nonzero(b):,} | {overlaps[-1]:.3f} | {flux} |")
    low = sum(overlap < 0.9 for overlap in overlaps)
    print(f"\n{len(overlaps)} channels with a mask: Jaccard {min(overlaps):.3f} to {max(overlaps):.3f},", end=" ")
    print(f"median {np.median(overlaps):.3f}, {low} below 0.9.", end=" ")
    print(f"Both masks are empty in the other {len(ours) - len(overlaps)} channels.")
    print(f"gpucube, one worker: {ours_s:.1f} s. tclean: {theirs_s:.1f} s.")


if __name__ == "__main__":
    main()
