"""Scales of multiscale CLEAN: the shapes of extended components, and the bias between scales.

In: sizes of scales in pixels. Out: kernels of unit sum, and the bias of each scale (Cornwell 2008, IEEE J. Sel. Top. Signal
Process. 2, 793). Both are tclean's (casacore's MatrixCleaner).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MASK_LEVEL = 0.9
"""A component may lie where the mask, convolved with its scale, is above this, as in tclean."""

LEAST_RESPONSE = 1e-5
"""A scale is left out if the peak of the PSF convolved twice with it is not above this: the array does not see it."""

GROWTH = 1.5
"""A minor cycle ends if a component is better than the first by this factor: it diverges. The factor is tclean's."""

_SPHEROIDAL = (
    (0.75, (8.203343e-2, -3.644705e-1, 6.278660e-1, -5.335581e-1, 2.312756e-1), (1.0, 8.212018e-1, 2.078043e-1)),
    (1.0, (4.028559e-3, -3.697768e-2, 1.021332e-1, -1.201436e-1, 6.412774e-2), (1.0, 9.599102e-1, 2.918724e-1)),
)
"""Upper end of a part of [0, 1], and the coefficients of numerator and denominator there, in x^2 - end^2 (Schwab 1984,
"Optimal gridding of visibility data in radio interferometry", for m = 6 and alpha = 1)."""


def scale_kernel(size: float) -> np.ndarray:
    """Make the shape of a component: a parabola of radius `size` pixels, tapered by a spheroidal function, of unit sum.

    It is float32 with odd sides and its centre in the middle. Size 0 gives a point.

    >>> scale_kernel(0).tolist(), scale_kernel(3).shape
    ([[1.0]], (5, 5))
    """
    if size == 0:
        return np.ones((1, 1), np.float32)
    half = int(np.ceil(size)) - 1  # a pixel at the radius itself has the value 0
    offset = np.arange(-half, half + 1)
    square = (offset[:, None] ** 2 + offset**2) / size**2
    kernel = np.where(square < 1, (1 - square) * _spheroidal(np.sqrt(square)), 0.0)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _spheroidal(x: np.ndarray) -> np.ndarray:
    """Compute a prolate spheroidal wave function of order 0, which falls from 1 at 0 to almost 0 at 1."""
    value = np.zeros_like(x)
    begin = 0.0
    for end, numerator, denominator in _SPHEROIDAL:
        here = (x >= begin) & (x < end)
        t = x[here] ** 2 - end**2
        value[here] = np.polynomial.polynomial.polyval(t, numerator) / np.polynomial.polynomial.polyval(t, denominator)
        begin = end
    value[x == 0] = 1.0
    return value


def scale_bias(sizes: Sequence[float], smallscalebias: float) -> np.ndarray:
    """Factor of each scale in the comparison of scales, (nscale,).

    >>> scale_bias((0, 5, 10), 0.6).round(3).tolist()
    [1.0, 0.7, 0.4]
    """
    largest = max(sizes)
    return 1.0 - smallscalebias * np.asarray(sizes, float) / largest if largest > 0 else np.ones(len(sizes))


def automatic_scales(beam: float, size: int) -> tuple[float, ...]:
    """Choose scales for a beam (full width at half maximum, pixels) in an image of `size` pixels along its shorter side.

    They are a point, the beam, and three times the scale before, up to a sixth of the image.

    >>> automatic_scales(4.3, 512)
    (0.0, 4.0, 12.0, 36.0)
    """
    scales, scale = [0.0], float(max(1, round(beam)))
    while scale <= size / 6:
        scales.append(scale)
        scale *= 3
    return tuple(scales)
