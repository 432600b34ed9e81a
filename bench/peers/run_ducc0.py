"""Make the dirty cube of a MeasurementSet with ducc0 and python-casacore alone: what an expert would write in an hour.

In: a MeasurementSet with one spectral window and one field. Out: OUT.dirty.fits, Stokes I, float32 [stokes, channel, y,
x], blank where a channel holds no data, and one line of JSON. The MS is read once, by blocks of rows, into memory as
[channel, row]. Each channel is weighted with its own Briggs weights (Briggs 1995, eq. 3.19, density on the cells of the
image, as in tclean) and gridded with all cores (ducc0.wgridder: Arras et al. 2021). There is no w term, as in tclean's
standard gridder, no PSF, and no deconvolution, which ducc0 does not have. Nothing of gpucube is used.

    python bench/peers/run_ducc0.py --ms small.ms --out out/ducc0 --imsize 256 --cell 10arcsec
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import ducc0
import numpy as np
from astropy import units
from astropy.constants import c as SPEED_OF_LIGHT
from astropy.io import fits
from casacore.tables import table

LIGHT_SPEED = SPEED_OF_LIGHT.value
EPSILON = 1e-4
ROWS_A_BLOCK = 4096


def read_stokes_i(ms: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uvw (nrow, 3) in metres, and Stokes I of every row and channel: Jy and weight, (nchan, nrow), both 0 where flagged.

    Both parallel hands stand first and last on the correlation axis. A sample counts if neither is flagged; its weight
    is that of the mean of two values, 4 / (1/w_1 + 1/w_2).
    """
    with table(ms, ack=False) as main:
        rows, nchan = main.nrows(), main.getcell("DATA", 0).shape[0]
        column = "WEIGHT_SPECTRUM" if "WEIGHT_SPECTRUM" in main.colnames() else "WEIGHT"
        uvw = main.getcol("UVW")
        left_out = main.getcol("FLAG_ROW") | (main.getcol("ANTENNA1") == main.getcol("ANTENNA2"))
        vis, weight = np.zeros((nchan, rows), np.complex64), np.zeros((nchan, rows), np.float32)
        for start in range(0, rows, ROWS_A_BLOCK):
            count = min(ROWS_A_BLOCK, rows - start)
            part = slice(start, start + count)
            data, flag, w = (main.getcol(name, start, count)[..., [0, -1]] for name in ("DATA", "FLAG", column))
            w = w[:, None] if w.ndim == 2 else w
            good = ~flag.any(axis=2) & (w > 0).all(axis=2) & ~left_out[part, None]
            with np.errstate(divide="ignore"):
                weight[:, part] = np.where(good, 4 / (1 / w).sum(axis=2), 0).T
            vis[:, part] = np.where(good, data.mean(axis=2), 0).T
    return uvw, vis, weight


def briggs(
    uvw: np.ndarray, frequency: float, weight: np.ndarray, imsize: int, cell: float, robust: float
) -> np.ndarray:
    """Briggs weights of one channel, w / (1 + G f^2) with f^2 = (5 10^-robust)^2 / (sum G^2 / sum G): float32 (nrow,).

    G is the density of the natural weights (nrow,) on cells of 1 / (imsize * cell) wavelengths, in both halves of the plane. The
    cell is in radians, the frequency in Hz, uvw (nrow, 3) in metres. Samples beyond the plane have the weight 0.
    """
    half = imsize // 2
    scale = frequency / LIGHT_SPEED * imsize * cell
    column, row = (np.floor(uvw[:, axis] * scale + 0.5).astype(np.int64) for axis in (0, 1))
    mirror_column, mirror_row = (np.floor(-uvw[:, axis] * scale + 0.5).astype(np.int64) for axis in (0, 1))
    inside = (abs(column) < half) & (abs(row) < half)
    there = np.where(inside, (row + half) * imsize + column + half, 0)
    mirrored = np.where(inside, (mirror_row + half) * imsize + mirror_column + half, 0)
    weight = np.where(inside, weight, 0)
    density = np.bincount(there, weight, imsize**2) + np.bincount(mirrored, weight, imsize**2)
    f_squared = (5 * 10.0**-robust) ** 2 / ((density**2).sum() / density.sum())
    return (weight / (1 + density[there] * f_squared)).astype(np.float32)


def dirty_image(
    uvw: np.ndarray, frequency: float, vis: np.ndarray, weight: np.ndarray, imsize: int, cell: float, threads: int
) -> np.ndarray:
    """Dirty image [y, x] of one channel in Jy/beam; x grows to the west, the phase centre is pixel imsize/2."""
    image = ducc0.wgridder.vis2dirty(
        uvw=uvw,
        freq=np.array([frequency]),
        vis=vis[:, None],
        wgt=weight[:, None],
        npix_x=imsize,
        npix_y=imsize,
        pixsize_x=cell,
        pixsize_y=cell,
        epsilon=EPSILON,
        do_wgridding=False,
        divide_by_n=False,
        flip_v=True,
        nthreads=threads,
    )
    return image.T / weight.sum(dtype=float)


def header(ms: str, imsize: int, cell: float) -> tuple[fits.Header, np.ndarray]:
    """Header of the cube, and the channel frequencies in Hz."""
    with table(f"{ms}::SPECTRAL_WINDOW", ack=False) as windows, table(f"{ms}::FIELD", ack=False) as fields:
        frequency, width = windows.getcell("CHAN_FREQ", 0), windows.getcell("CHAN_WIDTH", 0)
        ra, dec = np.degrees(fields.getcell("PHASE_DIR", 0)[0])
    axes = (
        ("RA---SIN", "deg", ra % 360, imsize / 2 + 1, -np.degrees(cell)),
        ("DEC--SIN", "deg", dec, imsize / 2 + 1, np.degrees(cell)),
        ("FREQ", "Hz", frequency[0], 1.0, frequency[1] - frequency[0] if len(frequency) > 1 else width[0]),
        ("STOKES", "", 1.0, 1.0, 1.0),
    )
    cards = fits.Header({"BUNIT": "Jy/beam", "RADESYS": "FK5", "EQUINOX": 2000.0})
    for number, axis in enumerate(axes, 1):
        for key, value in zip(("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CDELT"), axis, strict=True):
            cards[f"{key}{number}"] = value
    return cards, frequency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", required=True)
    parser.add_argument("--out", required=True, help="image name; its folder is made")
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", required=True, help="with unit, e.g. 10arcsec")
    parser.add_argument("--robust", type=float, default=0.5)
    options = parser.parse_args()

    cell = units.Quantity(options.cell).to_value("rad")
    threads = len(os.sched_getaffinity(0))
    cards, frequency = header(options.ms, options.imsize, cell)
    uvw, vis, weight = read_stokes_i(options.ms)
    cube = np.full((1, len(frequency), options.imsize, options.imsize), np.nan, np.float32)
    for c, f in enumerate(frequency):
        if weight[c].any():
            imaging = briggs(uvw, f, weight[c], options.imsize, cell, options.robust)
            cube[0, c] = dirty_image(uvw, f, vis[c], imaging, options.imsize, cell, threads)
    Path(options.out).resolve().parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(cube, cards).writeto(f"{options.out}.dirty.fits", overwrite=True)
    print(json.dumps({"peer": "ducc0", "version": ducc0.__version__, "threads": threads}))


if __name__ == "__main__":
    main()
