"""Continuum subtraction: numpy's weighted polynomial fit of each row as the oracle, and what must hold for any data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucube.data.continuum import continuum_fit, subtract_continuum
from gpucube.data.rows import Block

NROW, NCHAN, NCORR = 5, 30, 2
FREQUENCY = 1.42e9 + 15625.0 * np.arange(NCHAN)
LINE = np.exp(-0.5 * ((np.arange(NCHAN) - 15) / 2) ** 2)
LINE_FREE = np.abs(np.arange(NCHAN) - 15) > 8


def block(continuum: np.ndarray, flagged: float = 0.0, spectrum: bool = True) -> Block:
    """A line of 2 Jy on a continuum (NROW, NCHAN, NCORR); flagged samples hold garbage."""
    rng = np.random.default_rng(4)
    data = (continuum + 2 * LINE[None, :, None]).astype(np.complex64)
    flag = rng.random(data.shape) < flagged
    data[flag] = 1e4
    weight = rng.uniform(0.5, 2, (NROW, NCHAN if spectrum else 1, NCORR)).astype(np.float32)
    return Block(np.zeros((NROW, 3)), data, flag, weight, 0)


def polynomial(order: int) -> np.ndarray:
    rng = np.random.default_rng(order)
    x = np.linspace(-1, 1, NCHAN)[None, :, None]
    values: Any = 0j
    for power in range(order + 1):
        values = values + (rng.normal(size=(NROW, 1, NCORR)) + 1j * rng.normal(size=(NROW, 1, NCORR))) * x**power
    return np.broadcast_to(3 * values, (NROW, NCHAN, NCORR))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("flagged", [0.0, 0.3])
def test_a_continuum_of_the_fitted_order_leaves_the_line_alone(order: int, flagged: float) -> None:
    given = block(polynomial(order), flagged)
    found, lost = subtract_continuum(given, continuum_fit(FREQUENCY, LINE_FREE, order))
    expected = np.broadcast_to(2 * LINE[None, :, None], found.data.shape)
    assert lost == 0
    # the wings of the line in the line-free channels are 6e-4 Jy; they may tip the fit
    np.testing.assert_allclose(found.data[~given.flag], expected[~given.flag], atol=4e-3)
    np.testing.assert_array_equal(found.flag, given.flag)


def test_the_fit_is_numpys_weighted_least_squares() -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(NROW, NCHAN, NCORR)) + 1j * rng.normal(size=(NROW, NCHAN, NCORR))
    given = block(polynomial(2) + noise, flagged=0.2)
    found, _ = subtract_continuum(given, continuum_fit(FREQUENCY, LINE_FREE, 1))
    x = (FREQUENCY - FREQUENCY.mean()) / (FREQUENCY[-1] - FREQUENCY.mean())
    for row in range(NROW):
        for corr in range(NCORR):
            use = LINE_FREE & ~given.flag[row, :, corr]
            values, weight = given.data[row, :, corr].astype(complex), np.sqrt(given.weight[row, :, corr])
            parts = [np.polyfit(x[use], part[use], 1, w=weight[use]) for part in (values.real, values.imag)]
            fit = np.polyval(parts[0], x) + 1j * np.polyval(parts[1], x)
            good = ~given.flag[row, :, corr]
            np.testing.assert_allclose(found.data[row, good, corr], (values - fit)[good], atol=1e-5)


def test_one_weight_for_all_channels_is_taken_for_each() -> None:
    given = block(polynomial(1), spectrum=False)
    found, _ = subtract_continuum(given, continuum_fit(FREQUENCY, LINE_FREE, 1))
    np.testing.assert_allclose(found.data, np.broadcast_to(2 * LINE[None, :, None], found.data.shape), atol=4e-3)


def test_a_row_with_too_few_line_free_channels_is_flagged_and_counted() -> None:
    given = block(polynomial(1))
    given.flag[2, LINE_FREE, 1] = True
    given.flag[2, 0, 1] = False  # one channel cannot give a slope
    found, lost = subtract_continuum(given, continuum_fit(FREQUENCY, LINE_FREE, 1))
    assert lost == 1 and found.flag[2, :, 1].all() and not found.flag[2, :, 0].any()
    one, lost = subtract_continuum(given, continuum_fit(FREQUENCY, LINE_FREE, 0))
    assert lost == 0 and not one.flag[2, LINE_FREE, 1].all()


def test_a_part_of_the_window_is_fitted_with_its_own_frequencies() -> None:
    given = block(polynomial(1))
    part = given._replace(data=given.data[:, 5:], flag=given.flag[:, 5:], weight=given.weight[:, 5:], first_channel=5)
    found, _ = subtract_continuum(part, continuum_fit(FREQUENCY, LINE_FREE, 1))
    np.testing.assert_allclose(found.data, np.broadcast_to(2 * LINE[None, 5:, None], found.data.shape), atol=4e-3)


def test_the_block_that_was_read_is_not_changed() -> None:
    given = block(polynomial(0))
    before = given.data.copy()
    subtract_continuum(given, continuum_fit(FREQUENCY, LINE_FREE, 0))
    np.testing.assert_array_equal(given.data, before)
