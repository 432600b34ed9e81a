"""Elliptical Gaussians as quadratic forms: the arithmetic that beams and uv tapers share.

A Gaussian exp(-(p s^2 + q t^2)), with s along its position angle and t across it, is turned into the axes of an image or
of the uv plane. Position angles run from north (v) through east (u).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def rotated_form(along: float, across: float, angle: float) -> tuple[float, float, float]:
    """Turn the diagonal form (along, across) by a position angle.

    Parameters
    ----------
    along, across : float
        Coefficients of the squares along the position angle and across it.
    angle : float
        Position angle, radians, from north through east.

    Returns
    -------
    tuple of float
        (ee, en, nn): the elements of the symmetric matrix in (east, north).
    """
    sin, cos = math.sin(angle), math.cos(angle)
    return along * sin**2 + across * cos**2, (along - across) * sin * cos, along * cos**2 + across * sin**2


def taper_form(taper: tuple[float, ...]) -> np.ndarray:
    """Quadratic form of a uv taper.

    Parameters
    ----------
    taper : tuple of float
        Half widths at half maximum along and across the position angle, in wavelengths, and the position angle in
        degrees; empty for no taper.

    Returns
    -------
    numpy.ndarray
        (t0, t1, t2) of the taper exp(-(t0 u^2 + t1 u v + t2 v^2)), with u and v in wavelengths.
    """
    if not taper:
        return np.zeros(3)
    along, across, angle = taper
    uu, uv, vv = rotated_form(math.log(2) / along**2, math.log(2) / across**2, math.radians(angle))
    return np.array([uu, 2.0 * uv, vv])


def sampled_gaussian(form: Sequence[float], half_y: int, half_x: int) -> np.ndarray:
    """Sample exp(-(a x^2 + 2 b x y + c y^2)) on the pixels around its peak.

    Parameters
    ----------
    form : sequence of float
        (a, b, c), in pixels.
    half_y, half_x : int
        Rows and columns on either side of the peak.

    Returns
    -------
    numpy.ndarray
        float32, shape (2 half_y + 1, 2 half_x + 1), peak 1.
    """
    a, b, c = form
    y, x = np.arange(-half_y, half_y + 1)[:, None], np.arange(-half_x, half_x + 1)
    pixels: np.ndarray = np.exp(-(a * x * x + 2.0 * b * x * y + c * y * y)).astype(np.float32)
    return pixels
