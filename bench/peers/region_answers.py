"""Ask CASA which pixels regions select, for the tests of gpucube's masks (tests/data/region_answers.json).

In: nothing. Out: on standard output the image's coordinates, and for every region in `REGIONS` the pixels that CASA puts
into a mask: for each group of planes with the same pixels those planes, as [channel, stokes], and the pixels as bits
(`numpy.packbits` of [y, x], base64), or the reason why CASA refuses it.

    CASA_PYTHON bench/peers/region_answers.py > tests/data/region_answers.json
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (40, 32, 2, 6)
"""x, y, Stokes (I, Q), channels."""

REFERENCE = {"ra": "12h30m00s", "dec": "+30d00m00s", "cell": "10arcsec", "start": "1.4205GHz", "width": "-20kHz"}
RESTFREQ = "1.420405752GHz"

REGIONS = [
    "circle[[20pix,16pix],5pix]",
    "circle[[20.5pix,16.3pix],5.2pix]",
    "circle[[0pix,0pix],13pix]",
    "circle[[12h30m00s,+30d00m00s],50arcsec]",
    "circle[[12:30:02.0,+30.00.30],41arcsec]",
    "circle[[187.51deg,30.005deg],0.7arcmin], coord=J2000",
    "circle[[187.51deg,30.005deg],0.7arcmin], coord=ICRS",
    "circle[[180.28deg,84.49deg],55arcsec], coord=GALACTIC",
    "circle[[12h27m31.0s,+30d16m35s],55arcsec], coord=B1950",
    "annulus[[20pix,16pix],[3pix,7pix]]",
    "annulus[[12h30m00s,+30d00m00s],[30arcsec,80arcsec]]",
    "ellipse[[20pix,16pix],[10pix,4pix],0deg]",
    "ellipse[[20pix,16pix],[10pix,4pix],30deg]",
    "ellipse[[20pix,16pix],[4pix,10pix],30deg]",
    "ellipse[[12h30m00s,+30d00m00s],[100arcsec,40arcsec],30deg]",
    "box[[10pix,10pix],[20pix,15pix]]",
    "box[[10.3pix,10.3pix],[20.3pix,15.3pix]]",
    "box[[10.7pix,10.7pix],[20.7pix,15.7pix]]",
    "box[[10.5pix,10.5pix],[20.5pix,15.5pix]]",
    "box[[20pix,15pix],[10pix,10pix]]",
    "box[[12h30m05s,+29d59m00s],[12h29m57s,+30d01m10s]]",
    "box[[-5pix,-5pix],[4pix,4pix]]",
    "centerbox[[20pix,16pix],[10pix,6pix]]",
    "centerbox[[20pix,16pix],[9pix,7pix]]",
    "centerbox[[12h30m00s,+30d00m00s],[100arcsec,60arcsec]]",
    "rotbox[[20pix,16pix],[20pix,6pix],0deg]",
    "rotbox[[20pix,16pix],[20pix,6pix],30deg]",
    "rotbox[[12h30m00s,+30d00m00s],[200arcsec,60arcsec],30deg]",
    "poly[[10pix,10pix],[30pix,10pix],[20pix,25pix]]",
    "poly[[10.2pix,10.2pix],[30.1pix,12.4pix],[22.7pix,25.9pix],[12.5pix,20.1pix]]",
    "poly[[12h30m05s,+29d59m00s],[12h29m55s,+29d59m00s],[12h30m00s,+30d01m30s]]",
    "circle[[20pix,16pix],5pix], range=[1chan,3chan]",
    "circle[[20pix,16pix],5pix], range=[3chan,3chan]",
    "circle[[20pix,16pix],5pix], range=[1.42043GHz,1.42047GHz]",
    "circle[[20pix,16pix],5pix], range=[1.42047GHz,1.42043GHz]",
    "circle[[20pix,16pix],5pix], range=[1.420449GHz,1.420471GHz]",
    "circle[[20pix,16pix],5pix], range=[1420.4306MHz,1420.4694MHz]",
    "circle[[20pix,16pix],5pix], range=[1420.4295MHz,1420.4705MHz]",
    "circle[[20pix,16pix],5pix], range=[-15km/s,-5km/s]",
    "circle[[20pix,16pix],5pix], range=[-15km/s,-5km/s], frame=LSRK, veltype=RADIO, restfreq=1.420405752GHz",
    "circle[[20pix,16pix],5pix], range=[-15km/s,-5km/s], frame=LSRK, veltype=RADIO, restfreq=1.42042GHz",
    "circle[[20pix,16pix],5pix], range=[-15km/s,-5km/s], veltype=OPTICAL",
    "circle[[20pix,16pix],5pix], corr=[Q]",
    "circle[[20pix,16pix],5pix], corr=[I,Q], range=[0chan,1chan]",
    "box[[5pix,5pix],[25pix,25pix]]\n-circle[[15pix,15pix],4pix]",
    "circle[[10pix,10pix],4pix]\ncircle[[25pix,20pix],5pix]\nann circle[[30pix,5pix],3pix]",
    "global coord=B1950\ncircle[[12h27m31.0s,+30d16m35s],55arcsec]\nbox[[0pix,0pix],[3pix,3pix]]",
]


def fresh_image() -> Any:
    """A CASA image of zeros with the coordinates that the tests know."""
    import casatools

    coordinates = casatools.coordsys().newcoordsys(direction=True, spectral=True, stokes=["I", "Q"])
    cell = f"-{REFERENCE['cell']}", REFERENCE["cell"]
    coordinates.setreferencecode("J2000", "direction", True)
    coordinates.setreferencecode("LSRK", "spectral", True)
    coordinates.setprojection("SIN")
    coordinates.setreferencevalue(f"{REFERENCE['ra']} {REFERENCE['dec']}", "direction")
    coordinates.setincrement(" ".join(cell), "direction")
    coordinates.setreferencepixel([SHAPE[0] / 2, SHAPE[1] / 2], "direction")
    coordinates.setrestfrequency(RESTFREQ)
    coordinates.setreferencevalue(REFERENCE["start"], "spectral")
    coordinates.setincrement(REFERENCE["width"], "spectral")
    coordinates.setreferencepixel([0.0], "spectral")
    image = casatools.image()
    image.fromshape(shape=list(SHAPE), csys=coordinates.torecord())
    return image


def answer(text: str) -> Any:
    """What CASA makes of one region text: a list of [planes, bits], or the reason of its refusal."""
    import casatools

    image = fresh_image()
    try:
        with tempfile.NamedTemporaryFile("w", suffix=".crtf") as file:
            file.write("#CRTFv0\n" + text + "\n")
            file.flush()
            region = casatools.regionmanager().fromtextfile(
                file.name, shape=list(SHAPE), csys=image.coordsys().torecord()
            )
        image.set(pixels="1.0", region=region)
        pixels = image.getchunk() > 0  # (x, y, stokes, channel)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        image.done()
    groups: dict[str, list[list[int]]] = {}
    for channel in range(SHAPE[3]):
        for stokes in range(SHAPE[2]):
            bits = base64.b64encode(np.packbits(pixels[:, :, stokes, channel].T).tobytes()).decode()
            groups.setdefault(bits, []).append([channel, stokes])
    return [[planes, bits] for bits, planes in groups.items() if set(bits) != {"A", "="}]


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    from run_tclean import configure_casa

    folder = Path(tempfile.mkdtemp(prefix="region-answers-"))
    os.chdir(folder)
    configure_casa(folder / "casa.log")
    answers = {text: answer(text) for text in REGIONS}
    head = json.dumps({"shape": SHAPE, **REFERENCE, "restfreq": RESTFREQ})
    lines = ",\n".join(f"{json.dumps(text)}: {json.dumps(found)}" for text, found in answers.items())
    print(f'{head[:-1]}, "answers": {{\n{lines}\n}}}}')


if __name__ == "__main__":
    main()
