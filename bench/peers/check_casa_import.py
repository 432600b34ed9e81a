"""Read a gpucube FITS cube with CASA's importfits and print as JSON what CASA understood.

In: a FITS file. Out: one JSON object on standard output: shape (RA, DEC, STOKES, FREQ in the order of the image),
axis names, unit, beams per channel and Stokes plane, rest frequency, spectral frame, first and last frequency, position
of the reference pixel. To be run with the Python of a CASA installation (packages casatasks, casatools, casadata):

    python bench/peers/check_casa_import.py out/target.image.fits
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from run_tclean import configure_casa


def beam_values(beam: dict) -> list[float]:
    """Major and minor axis in arcsec and position angle in degrees."""
    import casatools

    quanta = casatools.quanta()
    wanted = (("major", "arcsec"), ("minor", "arcsec"), ("positionangle", "deg"))
    return [quanta.convert(beam[key], unit)["value"] for key, unit in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube", type=Path)
    cube = parser.parse_args().cube.absolute()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        configure_casa(folder / "casa.log")
        start = Path.cwd()
        os.chdir(folder)
        import casatasks
        import casatools

        casatasks.importfits(fitsimage=str(cube), imagename="cube.im")
        image = casatools.image()
        image.open("cube.im")
        system = image.coordsys()
        shape = [int(length) for length in image.shape()]
        names = system.names()
        spectral = names.index("Frequency")
        first, last = [0] * len(shape), [0] * len(shape)
        last[spectral] = shape[spectral] - 1
        beams = image.restoringbeam()
        if "beams" in beams:
            beams = {
                f"channel {channel[1:]} stokes {stokes[1:]}": beam_values(beam)
                for channel, of_stokes in beams["beams"].items()
                for stokes, beam in of_stokes.items()
            }
        elif beams:
            beams = {"all": beam_values(beams)}
        statistics = image.statistics(axes=[0, 1])
        found = {
            "shape": shape,
            "axes": names,
            "unit": image.brightnessunit(),
            "beams_arcsec_arcsec_deg": beams,
            "restfreq_hz": system.restfrequency()["value"][0],
            "frame": system.referencecode("spectral"),
            "sky_frame": system.referencecode("direction"),
            "stokes": system.stokes(),
            "frequency_hz": [float(system.toworld(pixel)["numeric"][spectral]) for pixel in (first, last)],
            "reference_pixel": system.referencepixel()["numeric"].tolist(),
            "reference_value": system.referencevalue(format="s")["string"].tolist(),
            "plane_maxima": statistics["max"].ravel().tolist(),
            "warnings": [
                line for line in (folder / "casa.log").read_text().splitlines() if "WARN" in line or "SEVERE" in line
            ],
        }
        image.done()
        os.chdir(start)  # CASA aborts at its exit if the working folder is gone
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
