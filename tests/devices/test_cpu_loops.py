"""The CPU's compiled loops: ties, signs, masks, and medians of values that are hard to sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gpucube.devices.cpu import loops as cpu_loops
from gpucube.devices.cpu.device import convolve

EVERYWHERE = np.zeros((0, 0), bool)


def noise(plane: np.ndarray) -> float:
    return cpu_loops.noise(plane, *np.empty((2, plane.size), np.float32))


def noise_by_sorting(plane: np.ndarray) -> float:
    """1.4826 MAD in float32 steps; medians of even numbers are the lower middle value."""
    rank = (plane.size - 1) // 2
    with np.errstate(over="ignore"):
        deviation = np.abs(plane - np.sort(plane, axis=None)[rank])
    return 1.4826 * float(np.sort(deviation, axis=None)[rank])


finite = st.floats(allow_nan=False, allow_infinity=False, width=32)
planes = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=finite)


@settings(max_examples=150, deadline=None)
@given(planes)
def test_noise_is_the_median_absolute_deviation_of_any_finite_plane(plane):
    # selection only compares values, so it finds exactly the value that sorting finds
    assert noise(plane) == noise_by_sorting(plane)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (7, 9), (64, 48), (101, 103), (256, 512)])
@pytest.mark.parametrize(
    "kind", ["gaussian", "constant", "two values", "denormal", "huge range", "sorted", "one outlier"]
)
def test_noise_of_planes_that_are_hard_to_sort(shape, kind):
    rng = np.random.default_rng(4)
    n = shape[0] * shape[1]
    values = {
        "gaussian": rng.standard_normal(n),
        "constant": np.full(n, -2.5),
        "two values": rng.integers(0, 2, n),
        "denormal": rng.integers(-1000, 1000, n) * 1e-45,
        "huge range": 10.0 ** rng.uniform(-38, 38, n) * rng.choice([-1, 1], n),
        "sorted": np.arange(n),
        "one outlier": np.where(np.arange(n) == 0, 1e30, 0.5),
    }[kind]
    plane = values.astype(np.float32).reshape(shape)
    assert noise(plane) == noise_by_sorting(plane)
    if kind == "gaussian" and n > 10_000:
        # the scatter of a MAD of n Gaussian numbers is 1.17 / sqrt(n): four times that
        assert noise(plane) == pytest.approx(1.0, abs=4.7 / np.sqrt(n))
    if kind in ("constant", "one outlier") and n > 2:
        assert noise(plane) == 0.0


def test_measuring_the_noise_does_not_change_the_plane():
    plane = np.random.default_rng(1).standard_normal((50, 50)).astype(np.float32)
    before = plane.copy()
    noise(plane)
    assert np.array_equal(plane, before)


@settings(max_examples=150, deadline=None)
@given(planes, st.integers(0, 2**32))
def test_the_peak_is_the_first_of_the_largest_magnitudes(plane, seed):
    value, where = cpu_loops.peak(plane, EVERYWHERE)
    assert where == np.abs(plane).argmax()
    assert value == np.abs(plane).max()
    mask = np.random.default_rng(seed).random(plane.shape) < 0.3
    value, where = cpu_loops.peak(plane, mask)
    if mask.any():
        assert where == np.where(mask, np.abs(plane), -1).argmax()
        assert value == np.abs(plane[mask]).max()
    else:
        assert (value, where) == (-1.0, -1)


@pytest.mark.parametrize("mask", [EVERYWHERE, np.ones((6, 7), bool)], ids=["no mask", "mask of all"])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_ties_go_to_the_lowest_index_whatever_the_signs(mask, signs):
    plane = np.zeros((6, 7), np.float32)
    assert cpu_loops.peak(plane, mask) == (0.0, 0)
    plane[2, 5], plane[4, 1] = 3 * signs[0], 3 * signs[1]
    assert cpu_loops.peak(plane, mask) == (3.0, 2 * 7 + 5)
    plane[2, 6] = 3
    assert cpu_loops.peak(plane, mask) == (3.0, 2 * 7 + 5)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mask", [EVERYWHERE, np.ones((6, 7), bool)], ids=["no mask", "mask of all"])
def test_a_value_that_is_not_finite_is_the_peak(bad, mask):
    """So the stopping rule sees it."""
    plane = np.full((6, 7), 1e30, np.float32)
    plane[3, 3] = bad
    value, where = cpu_loops.peak(plane, mask)
    assert not np.isfinite(value)
    assert where == 3 * 7 + 3


def test_components_are_subtracted_with_the_psf_at_their_offset():
    rng = np.random.default_rng(2)
    ny, nx = 12, 16
    psf = rng.standard_normal((2 * ny, 2 * nx)).astype(np.float32)
    residual = rng.standard_normal((ny, nx)).astype(np.float32)
    change = np.zeros((ny, nx), np.float32)
    change[0, 0], change[11, 15], change[5, 3] = 1.0, -2.0, 0.5
    expected = residual.astype(float)
    for y, x in zip(*np.nonzero(change), strict=True):
        for j in range(ny):
            for i in range(nx):
                expected[j, i] -= float(change[y, x]) * psf[ny + j - y, nx + i - x]
    cpu_loops.subtract_components(residual, psf, change, np.flatnonzero(change))
    assert residual == pytest.approx(expected, abs=1e-5)  # three float32 roundings of numbers up to 10


def test_a_psf_spectrum_convolves_like_the_psf():
    """The image-space major cycle's convolution against a plain double sum."""
    rng = np.random.default_rng(3)
    ny, nx = 8, 10
    # like a PSF: cosines of any frequency, even about the centre; the first row and column have no partner
    y, x = np.arange(-ny, ny)[:, None], np.arange(-nx, nx)
    psf = sum(np.cos(2 * np.pi * (u * x + v * y)) for u, v in rng.uniform(-0.4, 0.4, (30, 2))).astype(np.float32)
    image = rng.standard_normal((ny, nx)).astype(np.float32)
    expected = np.zeros((ny, nx))
    for j in range(ny):
        for i in range(nx):
            expected += image[j, i] * psf[ny - j : 2 * ny - j, nx - i : 2 * nx - i].astype(float)
    transform = np.fft.rfft2(psf).astype(np.complex64)
    spectrum = np.empty(transform.shape, np.float32)
    cpu_loops.psf_spectrum(transform, spectrum)
    got = convolve(image, spectrum)
    assert got == pytest.approx(expected, abs=float(1e-6 * np.abs(psf).max() * np.abs(image).sum()))
