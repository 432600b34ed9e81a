"""Compare what tclean and gpucube make of masks on other pixel grids: the Jaccard index of the masks that they write.

python bench/peers/compare_masks.py make FOLDER          # a MeasurementSet, and masks drawn on other grids
CASA_PYTHON bench/peers/compare_masks.py tclean FOLDER   # FOLDER/NAME.npy each
python bench/peers/compare_masks.py compare FOLDER
"""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

PIXELS, CELL, NCHAN = 128, 10.0, 4
CALL: dict[str, Any] = {"imsize": PIXELS, "cell": f"{CELL}arcsec", "niter": 1, "gridder": "standard"}
GRIDS: dict[str, dict[str, float | str]] = {
    "same": {},
    "half the cell": {"imsize": 256, "cell": 5.0},
    "twice the cell": {"imsize": 80, "cell": 20.0},
    "a third of a pixel off": {"shift": 1 / 3},
    "larger, cell of 7 arcsec": {"imsize": 300, "cell": 7.0, "shift": 0.2},
    "ICRS, TAN": {"imsize": 150, "cell": 8.0, "frame": "icrs", "shift": 3.3, "projection": "TAN"},
    "galactic": {"imsize": 200, "cell": 9.0, "frame": "galactic"},
    "B1950": {"imsize": 150, "cell": 9.0, "frame": "fk4"},
}
"""The grids of masks: pixels, cell in arcsec, shift of the centre in pixels, frame and projection."""


def make(folder: Path) -> None:
    """Simulate a MeasurementSet. Draw discs of 3 to 12 pixels of the cube on every grid."""
    from astropy.coordinates import SkyCoord
    from astropy.io import fits
    from astropy.wcs import WCS

    import gpucube

    ms = folder / "a.ms"
    settings: dict[str, Any] = {"array": "vla-d", "antennas": 14, "ntime": 12, "nchan": NCHAN, "noise": 0.05}
    gpucube.simulate_ms(gpucube.SimulationParameters(out=ms, imsize=PIXELS, cell=CELL, overwrite=True, **settings))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dirty = gpucube.image_cube(
            ms, folder / "dirty", **(CALL | {"niter": 0}), outframe="LSRK", overwrite=True, quiet=True
        )
    header = fits.getheader(dirty.products["image"])
    middle = SkyCoord(header["CRVAL1"], header["CRVAL2"], unit="deg", frame="fk5")
    names = {"fk5": ("RA", "DEC"), "icrs": ("RA", "DEC"), "fk4": ("RA", "DEC"), "galactic": ("GLON", "GLAT")}
    for name, grid in GRIDS.items():
        size, cell, frame = (
            int(grid.get("imsize", PIXELS)),
            float(grid.get("cell", CELL)),
            str(grid.get("frame", "fk5")),
        )
        here = middle.transform_to(frame)
        wcs = WCS(naxis=4)
        longitude, latitude = (f"{axis:-<5}{grid.get('projection', 'SIN')}" for axis in names[frame])
        wcs.wcs.ctype = [longitude, latitude, "STOKES", "FREQ"]
        wcs.wcs.crval = [here.spherical.lon.deg, here.spherical.lat.deg, 1.0, header["CRVAL3"]]
        wcs.wcs.cdelt = [-cell / 3600, cell / 3600, 1.0, header["CDELT3"]]
        middle_pixel = size // 2 + 1 + float(grid.get("shift", 0))
        wcs.wcs.crpix = [middle_pixel, middle_pixel, 1, 1]
        wcs.wcs.specsys, wcs.wcs.restfrq = "LSRK", header["RESTFRQ"]
        if frame != "galactic":
            wcs.wcs.radesys = frame.upper()
            wcs.wcs.equinox = {"fk4": 1950.0}.get(frame, 2000.0)
        y, x = np.mgrid[:size, :size]
        mask = np.zeros((NCHAN, 1, size, size), np.float32)
        for channel in range(NCHAN):
            for disc, radius in enumerate((3, 6, 12)):
                angle = 2.1 * disc + channel
                at = (
                    middle_pixel - 1 + 25 * CELL / cell * np.cos(angle),
                    middle_pixel - 1 + 25 * CELL / cell * np.sin(angle),
                )
                mask[channel, 0][np.hypot(x - at[0], y - at[1]) < radius * CELL / cell] = 1
        fits.writeto(folder / f"{name}.fits", mask, wcs.to_header(), overwrite=True)


def run_tclean(folder: Path) -> None:
    """Let tclean read every mask, and keep the one that it writes."""
    from run_tclean import configure_casa

    configure_casa(folder / "casa.log")
    from casatasks import importfits, tclean
    from casatools import image

    for name in GRIDS:
        mask, out = folder / f"{name}.im", folder / "theirs"
        importfits(str(mask.with_suffix(".fits")), str(mask), overwrite=True)
        for product in folder.glob("theirs.*"):
            shutil.rmtree(product) if product.is_dir() else product.unlink()
        given = {"mask": str(mask), "specmode": "cube", "datacolumn": "data", "pblimit": -0.2, "outframe": "LSRK"}
        tclean(vis=str(folder / "a.ms"), imagename=str(out), **(CALL | given))
        written = image()
        written.open(f"{out}.mask")
        np.save(folder / f"{name}.npy", written.getchunk()[:, :, 0, :].transpose(2, 1, 0) > 0)
        written.close()


def compare(folder: Path) -> None:
    """Print the number of pixels in both masks and their Jaccard index."""
    import gpucube

    print("| grid of the mask | tclean, pixels | gpucube, pixels | Jaccard index | gpucube in tclean |")
    print("|---|---:|---:|---:|---:|")
    for name in GRIDS:
        theirs = np.load(folder / f"{name}.npy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = gpucube.image_cube(
                folder / "a.ms", folder / "ours", **CALL, mask=folder / f"{name}.fits", outframe="LSRK",
                products=("mask",), overwrite=True, quiet=True,
            )  # fmt: skip
        ours = result.data("mask")[0] > 0
        both, either = (ours & theirs).sum(), (ours | theirs).sum()
        print(f"| {name} | {theirs.sum()} | {ours.sum()} | {both / either:.3f} | {both / ours.sum():.4f} |")


if __name__ == "__main__":
    here = Path(sys.argv[2]).resolve()
    here.mkdir(parents=True, exist_ok=True)
    {"make": make, "tclean": run_tclean, "compare": compare}[sys.argv[1]](here)
