"""Image one MeasurementSet and say how each channel converged.

    python examples/image_one_ms.py target.ms out/target

No MeasurementSet at hand? `gpucube simulate sim.ms --array vla-d --nchan 60` writes one.
"""

import sys

import gpucube


def main(ms: str, imagename: str) -> None:
    result = gpucube.image_cube(
        ms,
        imagename=imagename,
        imsize=256,
        cell="10arcsec",
        weighting="briggs",
        robust=0.5,
        niter=10_000,  # per channel
        nsigma=3,  # each channel stops at three times its own noise
        resume=True,  # a run that was cut off goes on; a finished run is returned as it is
    )
    print("channel  cycles  iterations  peak mJy/beam  noise mJy/beam  stopped by")
    for channel in result.channels:
        if channel.noise is None or channel.peak_residual is None:  # no data
            print(f"{channel.channel:7d}{channel.stop_reason:>58}")
            continue
        print(
            f"{channel.channel:7d}{channel.major_cycles:8d}{channel.iterations:12d}"
            f"{1e3 * channel.peak_residual:15.2f}{1e3 * channel.noise:16.2f}  {channel.stop_reason}"
        )
    print("restored cube:", result.products["image"])


# worker processes import this file again: without the guard they would start the job again
if __name__ == "__main__":
    main(*sys.argv[1:3])
