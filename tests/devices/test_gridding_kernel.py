"""The gridding kernel against its definition, numerical integration, and sums over a one-dimensional grid.

The promise: gridding one visibility makes an error of at most epsilon at the worst pixel, rms over its position in a cell.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad

from gpucube.devices.cuda.gridding_kernel import (
    MAX_SUPPORT,
    UPSAMPLING,
    GriddingKernel,
    aliasing_error,
    choose_kernel,
    make_kernel,
    make_w_planes,
)
from gpucube.errors import GpucubeError
from gpucube.sky.geometry import n_minus_one

EPSILONS = [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10]
SHAPES = [(epsilon, upsampling) for epsilon in EPSILONS for upsampling in (1.25, 1.5, 2.0)][:-3] + [
    (1e-10, 1.5),
    (1e-10, 2.0),
]


def phi(kernel: GriddingKernel, t: np.ndarray | float) -> np.ndarray:
    """The definition (Barnett et al. 2019, eq. 1.8): 1 at the centre, exp(-beta) at the edge, 0 beyond it."""
    x = 2.0 * np.asarray(t, float) / kernel.support
    inside = np.sqrt(np.maximum(1.0 - x**2, 0.0))
    return np.where(np.abs(x) <= 1.0, np.exp(kernel.beta * (inside - 1.0)), 0.0)


def taps(kernel: GriddingKernel, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First cell (n,) and kernel values (n, support) of positions in cells, as the device computes them."""
    first = np.ceil(position - 0.5 * kernel.support)
    z = 2.0 * (first + 0.5 * kernel.support - position) - 1.0
    values = np.zeros((len(position), kernel.support))
    for row in kernel.coefficients:
        values = values * z[:, None] + row
    return first.astype(np.int64), values


def one_dimension(kernel, position, pixels: int, padded: int, tap_values) -> np.ndarray:
    """Image of one visibility of 1 at `position` cells, over the pixels of one axis, by gridding and a plain sum."""
    first, _ = taps(kernel, position)
    cells = first[:, None] + np.arange(kernel.support)
    p = np.arange(pixels) - pixels // 2
    phases = np.exp(2j * np.pi * cells[:, :, None] * p / padded)
    return (tap_values[:, :, None] * phases).sum(1) * kernel.correction(pixels, padded)


@pytest.mark.parametrize(("epsilon", "upsampling"), SHAPES)
def test_gridding_one_visibility_keeps_the_promised_accuracy(epsilon, upsampling):
    kernel = make_kernel(epsilon, upsampling)
    pixels = 60
    padded = round(upsampling * pixels)
    position = np.random.default_rng(1).uniform(-padded / 2, padded / 2, 300)
    exact = np.exp(2j * np.pi * np.outer(position, np.arange(pixels) - pixels // 2) / padded)
    image = one_dimension(kernel, position, pixels, padded, taps(kernel, position)[1])
    rms = np.sqrt((np.abs(image - exact) ** 2).mean(0)).max()
    # two dimensions add in quadrature; 300 positions give the rms to a few per cent
    assert rms * np.sqrt(2) < 1.1 * epsilon
    # and the error by which the kernel was chosen is the true one
    assert 0.3 * kernel.error < rms < 1.1 * kernel.error


@pytest.mark.parametrize(("epsilon", "upsampling"), SHAPES)
def test_the_polynomials_are_the_kernel(epsilon, upsampling):
    kernel = make_kernel(epsilon, upsampling)
    position = np.random.default_rng(2).uniform(-50, 50, 2000)
    first, values = taps(kernel, position)
    expected = phi(kernel, first[:, None] + np.arange(kernel.support) - position[:, None])
    # a fifth of epsilon, so that the kernel's own error decides; taps at the centre are 1
    assert values == pytest.approx(expected, abs=0.2 * epsilon)
    assert kernel.coefficients.shape == (kernel.support + 4, kernel.support)


@pytest.mark.parametrize("support", [5, 8])
def test_taps_on_cells_and_half_cells_stay_on_the_kernel(support):
    kernel = next(k for k in (make_kernel(e) for e in EPSILONS) if k.support == support)
    position = np.array([0.0, 0.5, -0.5, 7.0, -3.5, 1e-9, 0.5 - 1e-12])
    first, values = taps(kernel, position)
    offset = first[:, None] + np.arange(support) - position[:, None]
    assert np.abs(offset).max() <= 0.5 * support + 1e-9
    assert values == pytest.approx(phi(kernel, offset), abs=1e-5)


def test_single_precision_polynomials_are_good_to_single_precision():
    kernel = make_kernel(1e-6)
    position = np.random.default_rng(3).uniform(-50, 50, 2000)
    first, values = taps(kernel, position)
    z = (2.0 * (first + 0.5 * kernel.support - position) - 1.0).astype(np.float32)[:, None]
    single = np.zeros((len(position), kernel.support), np.float32)
    for row in kernel.coefficients.astype(np.float32):
        single = single * z + row
    # largest coefficient of some 1, a dozen roundings of 6e-8
    assert single == pytest.approx(values, abs=4e-7)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-6, 1e-10])
def test_the_transform_is_the_integral(epsilon):
    # to 1e-10: the root at the end of the interval costs quad some digits
    kernel = make_kernel(epsilon)
    for frequency in (0.0, 0.1, 0.25, 0.75, 1.3):
        half, _ = quad(
            lambda t, f=frequency: float(phi(kernel, t)) * np.cos(2 * np.pi * f * t),
            0,
            kernel.support / 2,
            epsabs=1e-13,
        )
        assert kernel.transform(np.array([frequency]))[0] == pytest.approx(2 * half, abs=1e-10)


def test_smaller_epsilon_and_less_upsampling_need_wider_kernels():
    widths = np.array([[make_kernel(e, s).support for e in EPSILONS[:-1]] for s in (2.0, 1.5, 1.25)])
    assert (np.diff(widths, axis=1) >= 0).all()
    assert (np.diff(widths, axis=0) >= 0).all()
    assert widths[0, 2] <= 6, "as ducc0 and FINUFFT: about one cell per digit at twice the size"
    assert widths.max() <= MAX_SUPPORT


def test_a_kernel_serves_larger_ffts_than_it_was_made_for():
    kernel = make_kernel(1e-4, 1.5)
    assert aliasing_error(kernel.support, kernel.beta, 1.7) < kernel.error


def test_an_accuracy_that_cannot_be_reached_is_refused():
    with pytest.raises(
        GpucubeError,
        match=r"in double precision with upsampling 1\.25: the best is [34567]\.\de-09",
    ):
        make_kernel(1e-12, 1.25)
    with pytest.raises(GpucubeError, match="upsampling of 3"):
        make_kernel(1e-4, 3.0)
    with pytest.raises(GpucubeError, match="cannot be reached"):
        choose_kernel(1e-15, 64, 64, 1000)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_single_precision_reaches_a_millionth_and_only_with_enough_upsampling(dimensions):
    """Corrections at the image's corners multiply rounding: the accuracy that little upsampling allows is known beforehand."""
    for epsilon in (1e-2, 1e-4, 1e-6):
        kernel = make_kernel(epsilon, 2.0, dimensions, single=True)
        assert kernel.support == make_kernel(epsilon, 2.0, dimensions).support
        chosen = choose_kernel(epsilon, 4096, 4096, 1000, dimensions, single=True)
        amplified = np.divide(*chosen.transform(np.array([0.0, 0.5 / chosen.upsampling]))) ** dimensions
        assert amplified * 2**-25 <= epsilon
    with pytest.raises(GpucubeError, match=r"single precision with upsampling 1\.25"):
        make_kernel(1e-6, 1.25, dimensions, single=True)
    with pytest.raises(GpucubeError, match="single precision with upsampling 2"):
        make_kernel(1e-8, 2.0, dimensions, single=True)


def test_few_samples_get_small_ffts_and_many_get_narrow_kernels():
    few, many = choose_kernel(1e-5, 4096, 4096, 1000), choose_kernel(1e-5, 256, 256, 10**7)
    assert few.upsampling == UPSAMPLING[0]
    assert many.upsampling > few.upsampling
    assert many.support <= few.support
    assert max(few.error, many.error) * np.sqrt(2) <= 1e-5
    assert choose_kernel(1e-10, 4096, 4096, 1000).error < 1e-10, (
        "where little upsampling cannot reach epsilon, more can"
    )


@pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1e-10])
@pytest.mark.parametrize("w_range", [(0.0, 5000.0), (100.0, 100.0), (37.0, 41.0)])
def test_w_planes_hold_the_phase_of_every_w(epsilon, w_range):
    kernel = make_kernel(epsilon, dimensions=3)
    height = n_minus_one(64, 48, 5e-4, 6e-4).ravel()[::17]
    planes = make_w_planes(kernel, *w_range, float(height.min()))
    w = np.append(np.random.default_rng(4).uniform(*w_range, 200), w_range)
    first, values = taps(kernel, (w - planes.first) / planes.spacing)
    assert first.min() >= 0
    assert first.max() + kernel.support <= planes.count
    summed = np.zeros((len(w), len(height)), complex)
    for j in range(kernel.support):
        of_plane = planes.first + (first + j) * planes.spacing
        summed += values[:, j, None] * np.exp(-2j * np.pi * np.outer(of_plane, height - planes.centre))
    summed *= planes.correction(kernel, height)
    exact = np.exp(-2j * np.pi * np.outer(w, height - planes.centre))
    # epsilon is an rms at the worst pixel; its peak over positions is at most about twice that
    assert np.abs(summed - exact).max() < 2 * epsilon
    assert planes.w(3) == planes.first + 3 * planes.spacing


@pytest.mark.parametrize(("epsilon", "upsampling"), [(1e-3, 1.25), (1e-4, 1.5), (1e-10, 2.0), (1e-8, 1.25)])
def test_the_taper_along_w_is_the_kernels_transform(epsilon, upsampling):
    """A polynomial stands for millions of quadratures; it must not be the weakest part even at the highest accuracy."""
    kernel = make_kernel(epsilon, upsampling, 2)
    height = n_minus_one(40, 36, 9e-3, 1e-2)
    planes = make_w_planes(kernel, 0.0, 5000.0, float(height.min()))
    exact = 1.0 / kernel.transform(planes.spacing * (height - planes.centre))
    np.testing.assert_allclose(planes.correction(kernel, height), exact, rtol=1e-11)
