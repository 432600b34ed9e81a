"""Independent answers for tests: visibilities, images, weights and beams, written out in float64 from their definitions.

The measurement equation is V = sum_s S_s exp(+2 pi i (u l + v m + w (n-1)) nu/c), and the dirty image is
I(l, m) = sum_k w_k Re[V_k exp(-2 pi i (u l + v m + w (n-1)) nu/c)] / sum_k w_k. Here l points east and m north, while the
pixel index x grows to the west.

* `direct_predict` and `direct_dirty` are these sums as they stand. They are slow, and meant for a few components or
  pixels and a few thousand rows.
* `dft_predict` and `dft_image` neglect w. Then exp(u l + v m) separates into two matrix products, which are fast enough
  for every pixel of an image.
* `imaging_weights` writes out the weighting formulae on an explicit uv grid, `gaussian` the profile of a beam, and
  `stokes_i` reads a MeasurementSet once more.

Nothing here uses the package's own gridding, weighting or beam arithmetic. It shares with the package only the records
that describe samples, images and beams, and the speed of light.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.store import Samples
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry


def direction_cosines(geometry: ImageGeometry, x: float, y: float) -> tuple[float, float]:
    """l (east) and m (north) of a pixel counted from 0."""
    return -(x - geometry.nx // 2) * geometry.cell_x, (y - geometry.ny // 2) * geometry.cell_y


def point_components(model: np.ndarray, geometry: ImageGeometry) -> list[tuple[float, float, float]]:
    """(l, m, flux) of every pixel of a model image that is not 0."""
    return [(*direction_cosines(geometry, x, y), float(model[y, x])) for y, x in np.argwhere(model)]


def turns(uvw: np.ndarray, freq: float, l: float, m: float, w_term: bool = True) -> np.ndarray:
    """Phase (u l + v m + w (n-1)) nu/c of every row, in turns."""
    n_minus_one = np.sqrt(1.0 - l**2 - m**2) - 1.0
    path = uvw[:, 0] * l + uvw[:, 1] * m
    if w_term:
        path = path + uvw[:, 2] * n_minus_one
    return path * freq / LIGHT_SPEED


def direct_dirty(
    uvw: np.ndarray,
    freq: float,
    vis: np.ndarray,
    weight: np.ndarray,
    geometry: ImageGeometry,
    pixels: Iterable[tuple[int, int]],
    w_term: bool = True,
) -> np.ndarray:
    """Dirty image of one channel at chosen pixels (x, y), counted from 0: Jy/beam, (npixel,).

    `uvw` is in metres, (nrow, 3), `freq` in Hz, `vis` in Jy, (nrow,). An imaging weight of 0 drops the sample, whatever value it
    holds.
    """
    good = weight > 0
    uvw, vis, weight = uvw[good].astype(float), vis[good].astype(complex), weight[good].astype(float)
    values = []
    for x, y in pixels:
        phase = turns(uvw, freq, *direction_cosines(geometry, x, y), w_term)
        values.append(np.sum(weight * (vis * np.exp(-2j * np.pi * phase)).real) / np.sum(weight))
    return np.array(values)


def direct_predict(
    uvw: np.ndarray, freq: float, components: Sequence[tuple[float, float, float]], w_term: bool = True
) -> np.ndarray:
    """Visibilities of point components (l, m, Jy) in one channel: Jy, complex128 (nrow,).

    `uvw` is in metres, (nrow, 3), and `freq` in Hz.
    """
    vis = np.zeros(len(uvw), complex)
    for l, m, flux in components:
        vis += flux * np.exp(2j * np.pi * turns(uvw.astype(float), freq, l, m, w_term))
    return vis


def _phases(s: Samples, g: ImageGeometry, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """exp(2 pi i u l), (nrow, nx), and exp(2 pi i v m), (nrow, ny), for an image of `shape` about the same centre."""
    ny, nx = shape
    l = -(np.arange(nx) - nx // 2) * g.cell_x
    m = (np.arange(ny) - ny // 2) * g.cell_y
    scale = 2j * np.pi * s.frequency / LIGHT_SPEED
    return np.exp(scale * np.outer(s.uvw[:, 0], l)), np.exp(scale * np.outer(s.uvw[:, 1], m))


def dft_image(
    s: Samples, g: ImageGeometry, weight: np.ndarray, vis: np.ndarray, shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Dirty image sum_k w_k Re[V_k exp(-2 pi i (u l + v m))] / sum_k w_k at every pixel, (ny, nx); w is neglected.

    `shape` asks for an image of another size about the same centre.
    """
    of_x, of_y = _phases(s, g, shape or g.shape)
    weighted = np.where(weight > 0, weight * vis, 0)
    return ((of_y.conj().T * weighted) @ of_x.conj()).real / weight.sum(dtype=float)


def dft_predict(s: Samples, g: ImageGeometry, model: np.ndarray) -> np.ndarray:
    """Visibilities of a model image in Jy per pixel, (nrow,); w is neglected."""
    of_x, of_y = _phases(s, g, model.shape)
    return ((of_y @ model.astype(float)) * of_x).sum(1)


def imaging_weights(s: Samples, g: ImageGeometry, weighting: str, robust: float = 0.0) -> np.ndarray:
    """Natural, uniform or Briggs weights, float64 (nrow,), as tclean applies them to a single channel.

    Briggs (1995), equation 3.19, is w / (1 + G f^2) with f^2 = (5 10^-robust)^2 / (sum G^2 / sum G). G is the sum of the
    weights in the sample's uv cell; cells are 1 / field wide, their index is floor(u + 0.5), and every sample is gridded
    at (u, v) and at (-u, -v). Samples beyond the image's uv plane count for nothing.
    """
    cells = s.uvw[:, :2] * s.frequency / LIGHT_SPEED * np.array([g.nx * g.cell_x, g.ny * g.cell_y])
    ok = (s.weight > 0) & (np.abs(cells[:, 0]) < g.nx / 2) & (np.abs(cells[:, 1]) < g.ny / 2)
    i = np.floor(cells + 0.5).astype(int)
    half = int(np.abs(i).max()) + 1
    grid = np.zeros((2 * half + 1,) * 2)
    for sign in (1, -1):
        np.add.at(grid, (sign * i[ok, 0] + half, sign * i[ok, 1] + half), s.weight[ok].astype(float))
    density = grid[i[:, 0] + half, i[:, 1] + half]
    weight = s.weight.astype(float)
    if weighting == "uniform":
        weight = weight / np.where(ok, density, 1)
    elif weighting == "briggs":
        f2 = (5.0 * 10.0**-robust) ** 2 / ((grid**2).sum() / grid.sum())
        weight = weight / (1.0 + density * f2)
    return np.where(ok, weight, 0.0)


def gaussian(g: ImageGeometry, beam: Beam, x: float | None = None, y: float | None = None) -> np.ndarray:
    """Elliptical Gaussian of peak 1 about pixel (x, y), by default the phase centre; float64, (ny, nx).

    The major axis lies at `beam.bpa` from north through east, which is to the left.
    """
    x, y = g.nx // 2 if x is None else x, g.ny // 2 if y is None else y
    north = ((np.arange(g.ny) - y) * g.cell_y)[:, None]
    east = -(np.arange(g.nx) - x) * g.cell_x
    along = east * np.sin(beam.bpa) + north * np.cos(beam.bpa)
    across = east * np.cos(beam.bpa) - north * np.sin(beam.bpa)
    return np.exp(-4 * np.log(2) * ((along / beam.bmaj) ** 2 + (across / beam.bmin) ** 2))


def convolved(model: np.ndarray, g: ImageGeometry, beam: Beam) -> np.ndarray:
    """A model image (Jy/pixel) seen with a Gaussian beam of peak 1: a plain sum over its components, (ny, nx)."""
    total = np.zeros(g.shape)
    for y, x in np.argwhere(model):
        total += float(model[y, x]) * gaussian(g, beam, x, y)
    return total


def stokes_i(ms: Path, channel: int) -> tuple[np.ndarray, np.ndarray]:
    """Stokes I of one channel, complex128 (nrow,), and its weight (nrow,), from two parallel hands of which both must count.

    Every row of the main table is there, with 0 and 0 where the sample does not count.
    """
    # tests of kernels and devices run where casacore is not installed
    from casacore import tables

    with tables.table(str(ms), ack=False) as main:
        spectral = "WEIGHT_SPECTRUM" in main.colnames() and main.iscelldefined("WEIGHT_SPECTRUM", 0)
        data, flag = (main.getcol(name)[:, channel] for name in ("DATA", "FLAG"))
        weight = main.getcol("WEIGHT_SPECTRUM")[:, channel] if spectral else main.getcol("WEIGHT")
        row = ~main.getcol("FLAG_ROW") & (main.getcol("ANTENNA1") != main.getcol("ANTENNA2"))
        row &= np.isfinite(main.getcol("UVW")).all(1)
    data, weight = data.astype(complex), weight.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        hand = ~flag & np.isfinite(data) & np.isfinite(weight) & (weight > 0)
        both = hand.all(1) & row
        return np.where(both, data.mean(1), 0), np.where(both, 4.0 / (1.0 / weight).sum(1), 0.0)
