"""Oracles: the measurement equation written out as a plain sum in float64, independent of the package's own gridding.

V = sum_s S_s exp(+2 pi i (u l + v m + w (n-1)) nu/c) and, for the dirty image,
I(l, m) = sum_k w_k Re[V_k exp(-2 pi i (u l + v m + w (n-1)) nu/c)] / sum_k w_k, with l to the east and m to the north
while the pixel index x grows to the west. Slow: meant for a handful of pixels and a few thousand rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gpucube.sky.geometry import ImageGeometry

LIGHT_SPEED = 299_792_458.0


def direction_cosines(geometry: ImageGeometry, x: float, y: float) -> tuple[float, float]:
    """l (east) and m (north) of a pixel counted from 0."""
    return -(x - geometry.nx // 2) * geometry.cell_x, (y - geometry.ny // 2) * geometry.cell_y


def turns(uvw: np.ndarray, freq: float, l: float, m: float, w_term: bool = True) -> np.ndarray:
    """Phase (u l + v m + w (n-1)) nu/c of every row in turns."""
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
    """Dirty image of one channel at chosen pixels.

    Parameters
    ----------
    uvw : numpy.ndarray
        Metres, shape (nrow, 3).
    freq : float
        Hz.
    vis, weight : numpy.ndarray
        Jy and imaging weight, shape (nrow,); a weight of 0 drops the sample whatever it holds.
    geometry : ImageGeometry
        Where the pixels lie.
    pixels : iterable of (x, y)
        Counted from 0.
    w_term : bool
        Whether to take w into account.

    Returns
    -------
    numpy.ndarray
        Jy/beam, float64, one value per pixel.
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
    """Visibilities of point components in one channel.

    Parameters
    ----------
    uvw : numpy.ndarray
        Metres, shape (nrow, 3).
    freq : float
        Hz.
    components : sequence of (l, m, flux)
        Direction cosines to the east and to the north, Jy.
    w_term : bool
        Whether to take w into account.

    Returns
    -------
    numpy.ndarray
        Jy, complex128, shape (nrow,).
    """
    vis = np.zeros(len(uvw), complex)
    for l, m, flux in components:
        vis += flux * np.exp(2j * np.pi * turns(uvw.astype(float), freq, l, m, w_term))
    return vis
