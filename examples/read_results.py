"""Read what a run made: its summary, the cube as a numpy array, and a moment map by spectral-cube.

pip install spectral-cube
python examples/read_results.py out/target
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from astropy.io import fits
from spectral_cube import SpectralCube


def main(imagename: str) -> None:
    # one record for each channel, the same as `result.channels`
    summary = json.loads(Path(f"{imagename}.summary.json").read_text())
    for reason, count in Counter(channel["stop_reason"] for channel in summary["channels"]).most_common():
        print(f"{count:6d} channels: {reason}")
    noise = [channel["noise"] for channel in summary["channels"] if channel["noise"] is not None]
    print(f"median noise {1e3 * np.median(noise):.3f} mJy/beam")

    # axes in numpy's order: Stokes, channel, y (north), x (west); NaN in channels without data
    with fits.open(f"{imagename}.image.fits", memmap=True) as hdus:
        cube, beams = hdus[0].data[0], hdus["BEAMS"].data
        peaks = np.array([np.max(plane) for plane in cube])  # plane by plane: never the whole cube in memory
        channel = int(np.nanargmax(peaks))
        print(f"brightest channel {channel}: {peaks[channel]:.4f} Jy/beam")
        print(f"its beam: {beams['BMAJ'][channel]:.2f} x {beams['BMIN'][channel]:.2f} arcsec")

    # spectral-cube refuses channels whose beams differ too much: image with restoringbeam="common" for moment maps
    sky = SpectralCube.read(f"{imagename}.image.fits")
    moment = sky.moment0()
    moment.write(f"{imagename}.moment0.fits", overwrite=True)
    print(f"moment 0: {imagename}.moment0.fits, in {moment.unit}")


if __name__ == "__main__":
    main(sys.argv[1])
