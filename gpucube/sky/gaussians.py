"""Gaussians in pixels and wavelengths, as every device needs them: uv tapers, restoring beams, smoothing kernels.

In: beams and tapers in radians, wavelengths and degrees. Out: coefficients of quadratic forms, sampled Gaussians, and the
spectrum of a smoothing Gaussian (its Fourier transform is known: Bracewell 2000, "The Fourier transform", ch. 13).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucube.sky.beam import Beam

END = 16.0
"""A sampled Gaussian ends where its exponent does: exp(-16) = 1e-7, the first digit that float32 no longer holds beside the
peak."""


def taper_form(taper: tuple[float, ...]) -> np.ndarray:
    """Quadratic form (t0, t1, t2) of a taper exp(-(t0 u^2 + t1 u v + t2 v^2)), u and v in wavelengths."""
    if not taper:
        return np.zeros(3)
    along, across, angle = taper
    sin, cos = np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))
    p, q = np.log(2.0) / along**2, np.log(2.0) / across**2
    return np.array([p * sin**2 + q * cos**2, 2.0 * (p - q) * sin * cos, p * cos**2 + q * sin**2])


def gaussian_form(beam: Beam, cell_x: float, cell_y: float) -> tuple[float, float, float]:
    """(a, b, c) of exp(-(a x^2 + 2 b x y + c y^2)) in pixels, x growing to the west, y to the north."""
    sin, cos = np.sin(beam.bpa), np.cos(beam.bpa)
    p, q = 4 * np.log(2.0) / beam.bmaj**2, 4 * np.log(2.0) / beam.bmin**2
    return (
        (p * sin**2 + q * cos**2) * cell_x**2,
        (q - p) * sin * cos * cell_x * cell_y,
        (p * cos**2 + q * sin**2) * cell_y**2,
    )


def gaussian_reach(form: tuple[float, float, float], shape: tuple[int, int]) -> tuple[int, int]:
    """Pixels from the centre to the last row and column of a sampled Gaussian, no more than the image has."""
    a, b, c = form
    determinant = a * c - b * b
    ny, nx = shape
    return min(int(np.ceil(np.sqrt(END * a / determinant))), ny), min(int(np.ceil(np.sqrt(END * c / determinant))), nx)


def sampled_gaussian(form: tuple[float, float, float], half_y: int, half_x: int) -> np.ndarray:
    """Pixels of a Gaussian of peak 1, float32, shape (2 half_y + 1, 2 half_x + 1)."""
    a, b, c = form
    y, x = np.arange(-half_y, half_y + 1)[:, None], np.arange(-half_x, half_x + 1)
    return np.exp(-(a * x * x + 2.0 * b * x * y + c * y * y)).astype(np.float32)


def gaussian_spectrum(shape: tuple[int, int], beam: Beam, cell_x: float, cell_y: float, xp: Any = np) -> Any:
    """Spectrum of a Gaussian of unit sum on twice the image, divided by the FFT's size; an axis may have no length.

    Parameters
    ----------
    shape : tuple of int
        (ny, nx) of the image.
    beam : Beam
    cell_x, cell_y : float
        Radians.
    xp : module
        Array namespace, numpy or cupy.

    Returns
    -------
    float32, shape (2 ny, nx + 1)
    """
    ny, nx = shape
    ky, kx = xp.fft.fftfreq(2 * ny)[:, None] / cell_y, xp.fft.rfftfreq(2 * nx) / cell_x
    sin, cos = float(np.sin(beam.bpa)), float(np.cos(beam.bpa))
    along, across = beam.bmaj * (ky * cos - kx * sin), beam.bmin * (ky * sin + kx * cos)
    exponent = np.pi**2 / (4 * np.log(2.0)) * (along**2 + across**2)
    return (xp.exp(-exponent) / (4 * ny * nx)).astype(np.float32)
