"""Planes of samples made up for tests of devices, and their images as exact sums over every pixel.

`samples` scatters visibilities over the uv plane of an image; `dft_image` and `dft_predict` are the measurement
equation without w as two matrix products in float64 (exp(u l + v m) separates), fast enough for whole images;
`imaging_weights` writes out the weighting formulae with explicit uv grids.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gpucube.data.store import Samples
from gpucube.sky.geometry import ImageGeometry

LIGHT_SPEED = 299_792_458.0
ARCSEC = np.pi / 180 / 3600


def geometry(nx: int = 64, ny: int = 64, cell_x: float = 20.0, cell_y: float | None = None) -> ImageGeometry:
    """Cells in arcsec."""
    return ImageGeometry(nx, ny, cell_x * ARCSEC, (cell_y or cell_x) * ARCSEC, 1.0, 0.5)


def samples(
    g: ImageGeometry, n: int = 700, seed: int = 1, frequency: float = 1.4e9, fill: float = 0.35, w: float = 0.0
) -> Samples:
    """Random uv points, denser near the middle, within `fill` of 1 / cell; |w| up to `w` wavelengths; unequal weights,
    one sample in ten without weight and with a value that would be seen."""
    rng = np.random.default_rng(seed)
    uv = np.clip(rng.normal(0, 0.4, (n, 2)), -1, 1) * fill / np.array([g.cell_x, g.cell_y])
    uvw = np.column_stack([uv, rng.uniform(-w, w, n)]) * LIGHT_SPEED / frequency
    vis = (rng.standard_normal((n, 2)) @ [1, 1j]).astype(np.complex64)
    weight = rng.uniform(0.2, 5.0, n).astype(np.float32)
    weight[::10], vis[::10] = 0, 1e4
    return Samples(uvw, frequency, vis, weight)


def with_sky(s: Samples, vis: np.ndarray) -> Samples:
    """The same samples of another sky; those without weight keep their nonsense."""
    return replace(s, vis=np.where(s.weight > 0, vis, s.vis).astype(np.complex64))


def _phases(s: Samples, g: ImageGeometry, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """exp(2 pi i u l), (n, nx), and exp(2 pi i v m), (n, ny), for an image of `shape` about the same centre."""
    ny, nx = shape
    l = -(np.arange(nx) - nx // 2) * g.cell_x
    m = (np.arange(ny) - ny // 2) * g.cell_y
    scale = 2j * np.pi * s.frequency / LIGHT_SPEED
    return np.exp(scale * np.outer(s.uvw[:, 0], l)), np.exp(scale * np.outer(s.uvw[:, 1], m))


def dft_image(s: Samples, g: ImageGeometry, weight: np.ndarray, vis: np.ndarray, shape=None) -> np.ndarray:
    """Dirty image sum_k w_k Re[V_k exp(-2 pi i (u l + v m))] / sum_k w_k at every pixel, w neglected."""
    of_x, of_y = _phases(s, g, shape or g.shape)
    weighted = np.where(weight > 0, weight * vis, 0)
    return ((of_y.conj().T * weighted) @ of_x.conj()).real / weight.sum(dtype=float)


def dft_predict(s: Samples, g: ImageGeometry, model: np.ndarray) -> np.ndarray:
    """Visibilities of a model image in Jy per pixel, w neglected."""
    of_x, of_y = _phases(s, g, model.shape)
    return ((of_y @ model.astype(float)) * of_x).sum(1)


def imaging_weights(s: Samples, g: ImageGeometry, weighting: str, robust: float = 0.0) -> np.ndarray:
    """Natural, uniform and Briggs weights, float64, as tclean's per-channel form (cell 1 / field, index floor(u + 0.5),
    both (u, v) and (-u, -v) gridded; samples beyond the image's uv plane count for nothing)."""
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
