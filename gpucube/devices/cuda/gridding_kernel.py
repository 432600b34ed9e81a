"""The gridding kernel: its shape, its polynomials for device code, its transform, and the planes of the w term.

In: the accuracy epsilon, the upsampling of the uv grid, the field and the range of w. Out: a `GriddingKernel` (support,
shape parameter, Horner coefficients of every tap), correction factors of image pixels, and `WPlanes`.

Kernel: exponential of semicircle, phi(x) = exp(beta (sqrt(1 - x^2) - 1)) on [-1, 1] (Barnett, Magland & af Klinteberg
2019, SIAM J. Sci. Comput. 41, C479, eq. 1.8), with its transform by Gauss-Legendre quadrature (there, section 3.2).
The w term uses improved w-stacking: w is gridded with the same kernel onto planes whose images are summed with their
phases (Ye et al. 2021, MNRAS 510, 4110; Arras et al. 2021, A&A 646, A58, eqs. 9 to 14).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpucube.errors import AccuracyError, GpucubeError
from gpucube.fft_size import good_fft_size

MAX_SUPPORT = 16
"""Widest kernel, in cells: a row of 16 threads handles it."""

FFT_SECONDS, TAP_SECONDS = 4e-13, 4e-12
"""One FFT per pixel and octave; one sample per thread that it occupies. Estimated from an H200's bandwidth, not measured."""

UPSAMPLING = (1.25, 2.0)
"""Smallest and largest ratio of the uv grid's FFT to the image."""

EXTRA_DEGREE = 3
"""Polynomials have degree support + 3: their error then stays well below the kernel's own (tested)."""

_ROUNDING = {True: 2.0**-25, False: 2.0**-54}
"""Relative error of a grid and its FFT in single (True) and double precision; 3.4e-8 was measured in single precision."""

_W_DEGREE = 24
"""Degree of the polynomial for the taper along w."""

_ALIASES = np.array([m for m in range(-4, 5) if m != 0])
_QUADRATURE_POINTS = 160


@dataclass(frozen=True, kw_only=True)
class GriddingKernel:
    """phi(2 t / support) for |t| <= support / 2 cells.

    A sample at position p cells reaches the cells from f = ceil(p - support / 2) on. The kernel at cell f + j is the
    polynomial of column j in z = 2 (f + support / 2 - p) - 1, which runs from -1 to 1.
    """

    support: int  # cells (taps) per dimension
    beta: float  # shape parameter
    upsampling: float  # ratio of the FFT's size to the image's that the kernel is made for
    error: (
        float  # relative error of one visibility at the worst pixel of one dimension, rms over its position in a cell
    )
    coefficients: np.ndarray  # (support + 4, support) float64, highest power first

    def transform(self, frequency: np.ndarray) -> np.ndarray:
        """Compute the integral of phi(2 t / support) cos(2 pi frequency t) dt, frequency in cycles per cell."""
        return _transform(np.asarray(frequency, float), self.support, self.beta)

    def correction(self, pixels: int, padded: int) -> np.ndarray:
        """Compute the factors 1 / transform of the pixels of one axis, float64 (pixels,); `padded` is the FFT's size.

        They apply before degridding or after gridding.
        """
        # pixel i lies (i - pixels // 2) / padded cycles per cell from the centre
        return 1.0 / self.transform((np.arange(pixels) - pixels // 2) / padded)


def _exponential_of_semicircle(x: np.ndarray, beta: float) -> np.ndarray:
    values: np.ndarray = np.exp(beta * (np.sqrt(1.0 - x * x) - 1.0))
    return values


_gauss_legendre = lru_cache(np.polynomial.legendre.leggauss)


def _transform(frequency: np.ndarray, support: int, beta: float) -> np.ndarray:
    # on [0, 1], since the integrand is even
    nodes, weights = _gauss_legendre(_QUADRATURE_POINTS)
    nodes, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    # x = sin(pi s / 2) takes the square root's singularity away from the end of the interval
    x = np.sin(0.5 * np.pi * nodes)
    measure = weights * 0.5 * np.pi * np.cos(0.5 * np.pi * nodes) * _exponential_of_semicircle(x, beta)
    integral: np.ndarray = np.cos(np.pi * support * np.multiply.outer(frequency, x)) @ measure
    return support * integral


def aliasing_error(support: int, beta: float, upsampling: float) -> float:
    """Compute the relative error of gridding one visibility at the worst pixel of one dimension, rms over positions in a cell.

    A pixel at nu cycles per cell also receives the transform at nu + m for every integer m, with phases that depend on
    the position: sqrt(sum_m phi^(nu + m)^2) / phi^(nu) (Barnett et al. 2019, eq. 3.10, its sum taken in quadrature).
    """
    # the error changes fastest towards the edge of the image
    image = 0.5 / upsampling * (1.0 - np.linspace(0.0, 1.0, 40) ** 2)
    aliases = _transform(np.add.outer(image, _ALIASES), support, beta)
    return float((np.sqrt((aliases**2).sum(1)) / _transform(image, support, beta)).max())


@lru_cache(maxsize=64)
def make_kernel(epsilon: float, upsampling: float = 2.0, dimensions: int = 2, single: bool = False) -> GriddingKernel:
    """Make the narrowest kernel that is accurate enough, with its best shape parameter.

    Rounding counts too: the correction at the image's corners multiplies the rounding of the FFT by the ratio of the
    transform at the centre to that at the edge, once per dimension. With little upsampling that is 1e5 for wide kernels,
    which is too much for single precision.

    `epsilon` is the image's accuracy relative to sum |w V| / sum w. The kernel is also right for any larger upsampling.
    Errors of the `dimensions`, 2 or with w 3, add in quadrature. Raises AccuracyError if no kernel of at most `MAX_SUPPORT`
    cells reaches epsilon with grids and FFTs in this precision.
    """
    if not UPSAMPLING[0] <= upsampling <= UPSAMPLING[1]:
        raise GpucubeError(f"an upsampling of {upsampling} is not between {UPSAMPLING[0]} and {UPSAMPLING[1]}")
    # the error falls as exp(-pi support sqrt(1 - 1 / upsampling)) (Barnett et al. 2019, theorem 7): begin just below
    least = int(-np.log(epsilon) / (np.pi * np.sqrt(1.0 - 1.0 / upsampling))) - 1
    reached = np.inf
    for support in range(min(max(3, least), MAX_SUPPORT), MAX_SUPPORT + 1):
        # the best beta lies about pi (1 - 1 / (2 upsampling)) per cell (Barnett et al. 2019, section 4.2)
        betas = np.pi * support * (1.0 - 0.5 / upsampling) * np.linspace(0.85, 1.05, 21)
        errors = [aliasing_error(support, beta, upsampling) for beta in betas]
        error, beta = errors[np.argmin(errors)], float(betas[np.argmin(errors)])
        centre, edge = _transform(np.array([0.0, 0.5 / upsampling]), support, beta)
        rounding = _ROUNDING[single] * (centre / edge) ** dimensions
        reached = min(reached, float(np.hypot(error * np.sqrt(dimensions), rounding)))
        if reached <= epsilon:
            coefficients = _polynomials(support, beta)
            return GriddingKernel(
                support=support, beta=beta, upsampling=upsampling, error=error, coefficients=coefficients
            )
    raise AccuracyError(
        f"`epsilon={epsilon:g}` cannot be reached in {'single' if single else 'double'} precision with upsampling "
        f"{upsampling:g}: the best is {reached:.1e}"
    )


def choose_kernel(
    epsilon: float, nx: int, ny: int, samples: int, dimensions: int = 2, single: bool = False
) -> GriddingKernel:
    """Choose the kernel whose upsampling makes one image cheapest: little for large FFTs, much for many samples.

    `samples` counts the visibilities of one plane. Raises AccuracyError if no upsampling reaches epsilon.
    """

    def seconds(kernel: GriddingKernel) -> float:
        fft_y, fft_x = (good_fft_size(int(np.ceil(kernel.upsampling * n))) for n in (ny, nx))
        pixels, threads = fft_y * fft_x, 64 if kernel.support <= 8 else 256
        return float(pixels * np.log2(pixels) * FFT_SECONDS + samples * threads * TAP_SECONDS)

    kernels = [make_kernel(epsilon, UPSAMPLING[1], dimensions, single)]  # if any reaches epsilon, this one does
    for upsampling in (1.25, 1.5, 1.75):
        try:
            kernels.append(make_kernel(epsilon, upsampling, dimensions, single))
        except AccuracyError:
            continue
    return min(kernels, key=seconds)


def _polynomials(support: int, beta: float) -> np.ndarray:
    """Interpolate every tap by a polynomial through Chebyshev nodes; highest power first."""
    degree = support + EXTRA_DEGREE
    z = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    # tap j lies between j - support / 2 and one cell further from the centre
    t = np.add.outer(0.5 * (z + 1.0), np.arange(support) - 0.5 * support)
    values = _exponential_of_semicircle(2.0 * t / support, beta)
    series = np.polynomial.chebyshev.chebfit(z, values, degree)
    return np.array([np.polynomial.chebyshev.cheb2poly(column) for column in series.T]).T[::-1].copy()


@dataclass(frozen=True, kw_only=True)
class WPlanes:
    """Planes of w for improved w-stacking.

    The visibilities are turned by exp(-2 pi i w centre), which moves n - 1 to n - 1 - centre, between -h and +h. That halves
    the number of planes (as in the implementation of Arras et al. 2021). Plane p lies at ``first + p * spacing``.
    """

    count: int
    first: float  # wavelengths
    spacing: float  # wavelengths
    centre: float  # middle of the range of n - 1

    def w(self, plane: int) -> float:
        """Compute w of a plane in wavelengths."""
        return self.first + plane * self.spacing

    def correction(self, kernel: GriddingKernel, n_minus_one: np.ndarray) -> np.ndarray:
        """Compute 1 / transform(spacing (n - 1 - centre)) of every pixel (Arras et al. 2021, eq. 14).

        A polynomial in the square of the argument replaces millions of quadratures, which would take a minute: the transform
        is even and smooth. Chebyshev nodes make it accurate to rounding (tested).
        """
        reach = self.spacing * max(abs(float(n_minus_one.min()) - self.centre), abs(self.centre))
        series = np.polynomial.Chebyshev.interpolate(
            lambda square: 1.0 / kernel.transform(np.sqrt(square)), _W_DEGREE, domain=[0.0, reach**2]
        )
        return series((self.spacing * (n_minus_one - self.centre)) ** 2)


def make_w_planes(kernel: GriddingKernel, w_min: float, w_max: float, n_minus_one_min: float) -> WPlanes:
    """Make planes that hold every w (wavelengths, turned to w >= 0 by conjugation) with the kernel's own accuracy.

    The image's transform along w extends over h = |n - 1|max / 2 on either side, so that planes 1 / (2 upsampling h)
    apart sample it as finely as the uv grid samples the image (Ye et al. 2021, eq. 20; Arras et al. 2021, eq. 13).
    `n_minus_one_min` is n - 1 of the image's corners, negative.
    """
    spacing = 1.0 / (kernel.upsampling * abs(n_minus_one_min))
    between = int(np.ceil((w_max - w_min) / spacing))
    # ceil(position - support / 2) must not be negative, and its last tap must not lie beyond the last plane
    before = kernel.support // 2
    return WPlanes(
        count=between + kernel.support + 1,
        first=w_min - before * spacing,
        spacing=spacing,
        centre=0.5 * n_minus_one_min,
    )
