"""Read what a run made: its channels as a table, its cube as an array, and a moment map by spectral-cube.

pip install spectral-cube
python examples/read_results.py out/target
"""

import sys

import numpy as np

import gpucube


def main(imagename: str) -> None:
    run = gpucube.open_run(imagename)  # what `image_cube` returned when the run ended
    print(run)

    # one row for each channel, with units; NaN where a channel has no data
    channels = run.table()
    for row in channels[np.isfinite(channels["noise"])]:
        print(f"channel {row['channel']}: {row['bmaj']:.1f} x {row['bmin']:.1f} arcsec, {row['stop_reason']}")

    # axes of the array: Stokes, channel, y (to the north), x (to the west); memory-mapped, so read plane by plane
    image = run.data("image")[0]
    peaks = np.array([plane.max() for plane in image])
    brightest = int(np.nanargmax(peaks))
    print(f"brightest channel {brightest}: {peaks[brightest]:.4f} Jy/beam")

    # spectral-cube refuses channels whose beams differ too much: image with restoringbeam="common" for moment maps
    moment = run.cube("image").moment0()
    moment.write(f"{imagename}.moment0.fits", overwrite=True)
    print(f"moment 0: {imagename}.moment0.fits, in {moment.unit}")


if __name__ == "__main__":
    main(sys.argv[1])
