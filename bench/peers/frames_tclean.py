"""Cubes of tclean in several frames, axes and interpolations, as a reference for `bench/peers/compare_frames.py`.

    CASA_PYTHON bench/peers/frames_tclean.py line MS...          # write a line into MeasurementSets, in the frame each names
    CASA_PYTHON bench/peers/frames_tclean.py image FOLDER        # image every case of CASES, FOLDER/NAME.npz each

The MeasurementSets come from `compare_frames.py make`. The line is a Gaussian of 1 Jy at `LINE_KM_S` in LSRK, from a point
source at `OFFSET` of the phase centre. CASA's measures give the frequency of every channel at every time, so that nothing
of gpucube goes into the reference.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from casatasks import tclean
from casatools import image, measures, quanta, table

LIGHT_SPEED = 299792.458  # km/s
AU_A_DAY = 149597870.7 / 86400  # km/s
LINE_KM_S, FWHM_KM_S, OFFSET = 10.0, 1.2, (1.2, -0.9)  # arcsec to the east and to the north
FRAMES = {1: "LSRK", 3: "BARY", 4: "GEO", 5: "TOPO"}


def put_line(ms: str) -> None:
    """Replace DATA by the visibilities of the line."""
    tb, me, qa = table(), measures(), quanta()
    tb.open(f"{ms}/SPECTRAL_WINDOW")
    frequency, code = tb.getcell("CHAN_FREQ", 0), tb.getcell("MEAS_FREQ_REF", 0)
    tb.close()
    tb.open(f"{ms}/SOURCE")
    rest = float(np.ravel(tb.getcell("REST_FREQUENCY", 0))[0])
    tb.close()
    tb.open(f"{ms}/FIELD")
    ra, dec = np.ravel(tb.getcell("PHASE_DIR", 0))
    tb.close()
    tb.open(f"{ms}/OBSERVATION")
    telescope = tb.getcell("TELESCOPE_NAME", 0)
    tb.close()
    tb.open(ms, nomodify=False)
    times, uvw, data = (
        tb.getcol("TIME"),
        tb.getcol("UVW"),
        tb.getcol("DATA"),
    )  # (nrow,), (3, nrow), (ncorr, nchan, nrow)
    l, m = (np.radians(offset / 3600) for offset in OFFSET)
    turns = uvw[0] * l + uvw[1] * m + uvw[2] * (np.sqrt(1 - l * l - m * m) - 1)
    comet = read_comet(ms)
    me.doframe(me.direction("J2000", qa.quantity(ra, "rad"), qa.quantity(dec, "rad")))
    me.doframe(me.observatory(telescope))
    for time in np.unique(times):
        rows = times == time
        me.doframe(me.epoch("UTC", qa.quantity(time, "s")))
        if comet is not None:
            right, up, away = (np.interp(time / 86400, comet["MJD"], comet[name]) for name in ("RA", "DEC", "RadVel"))
            me.doframe(me.direction("ICRS", qa.quantity(right, "deg"), qa.quantity(up, "deg")))
        lsrk = me.measure(me.frequency(FRAMES[code], qa.quantity(frequency[0], "Hz")), "LSRK")["m0"]["value"]
        topo = me.measure(me.frequency(FRAMES[code], qa.quantity(frequency[0], "Hz")), "TOPO")["m0"]["value"]
        if comet is not None:  # to the centre of the Earth, and from there to the comet
            beta = away * AU_A_DAY / LIGHT_SPEED
            geo = me.measure(me.frequency(FRAMES[code], qa.quantity(frequency[0], "Hz")), "GEO")["m0"]["value"]
            lsrk = geo * np.sqrt((1 + beta) / (1 - beta))
        velocity = LIGHT_SPEED * (1 - frequency * (lsrk / frequency[0]) / rest)
        spectrum = np.exp(-4 * np.log(2) * ((velocity - LINE_KM_S) / FWHM_KM_S) ** 2)  # (nchan,)
        # lengths in wavelengths are those that the observatory sees: at its own frequency
        waves = (frequency * (topo / frequency[0]) / (1e3 * LIGHT_SPEED))[:, None] * turns[rows]
        data[:, :, rows] = (spectrum[:, None] * np.exp(2j * np.pi * waves))[None]
    tb.putcol("DATA", data)
    tb.close()


def read_comet(ms: str) -> dict | None:
    """The ephemeris that the field follows; None if there is none."""
    found = list(Path(ms).glob("FIELD/EPHEM0_*.tab"))
    if not found:
        return None
    tb = table()
    tb.open(str(found[0]))
    columns = {name: tb.getcol(name) for name in ("MJD", "RA", "DEC", "RadVel")}
    tb.close()
    return columns


def image_case(case: dict, folder: Path) -> None:
    """One dirty cube of tclean, its frequencies and its sums of weights."""
    out = folder / case["name"]
    for product in folder.glob(f"{case['name']}.*"):
        shutil.rmtree(product) if product.is_dir() else product.unlink()
    parameters = {"imsize": [128], "cell": ["0.15arcsec"], "specmode": "cube", "weighting": "natural", "niter": 0}
    parameters |= {"gridder": "standard", "deconvolver": "hogbom", "restoration": False, "pblimit": -0.2, "stokes": "I"}
    parameters |= {"datacolumn": "data", "savemodel": "none", "perchanweightdensity": True}
    try:
        tclean(vis=case["vis"], imagename=str(out), **(parameters | case["parameters"]))
    except Exception as error:  # what tclean refuses is an answer too
        np.savez(folder / f"{case['name']}.npz", error=str(error)[:300])
        return
    cube, weights = image(), image()
    cube.open(f"{out}.residual")
    values = cube.getchunk()[:, :, 0, :]  # (nx, ny, nchan)
    csys = cube.coordsys()
    axis = csys.findaxisbyname("spectral")
    pixel = csys.referencepixel()["numeric"]
    frequency = []
    for channel in range(values.shape[2]):
        pixel[axis] = channel
        frequency.append(csys.toworld(pixel)["numeric"][axis])
    weights.open(f"{out}.sumwt")
    np.savez(
        folder / f"{case['name']}.npz",
        dirty=values.transpose(2, 1, 0).astype(np.float32),
        frequency=np.array(frequency),
        sumwt=np.ravel(weights.getchunk()),
        frame=csys.referencecode("spectral")[0],
        rest=csys.restfrequency()["value"],
    )
    cube.close()
    weights.close()
    for product in folder.glob(f"{case['name']}.*"):
        if product.suffix != ".npz":
            shutil.rmtree(product)


if __name__ == "__main__":
    if sys.argv[1] == "line":
        for path in sys.argv[2:]:
            put_line(path)
    else:
        here = Path(sys.argv[2])
        for case in json.loads((here / "cases.json").read_text()):
            image_case(case, here)
