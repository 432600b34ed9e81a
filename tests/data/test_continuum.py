"""Continuum subtraction: numpy's weighted polynomial fit of each row as the oracle, and what must hold for any data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucube.data.continuum import ContinuumFit, Remains, continuum_fit, subtract_continuum
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


def subtracted(
    given: Block, fit: ContinuumFit, hands: tuple[int, ...] = (0, 1), factors: np.ndarray | None = None
) -> tuple[Block, Remains]:
    """The block without its continuum, beside the one that was given."""
    copy = given._replace(data=given.data.copy(), flag=given.flag.copy())
    remains = subtract_continuum(copy, fit, np.arange(len(given.data)), hands, factors)
    return copy, remains


def numpys(given: Block, line_free: np.ndarray, order: int) -> np.ndarray:
    """The data minus numpy's fit, (NROW, NCHAN, NCORR)."""
    x = (FREQUENCY - FREQUENCY.mean()) / (FREQUENCY[-1] - FREQUENCY.mean())
    result = given.data.astype(complex)
    for row, corr in np.ndindex(NROW, NCORR):
        use = line_free & ~given.flag[row, :, corr]
        weight = np.broadcast_to(np.sqrt(given.weight[row, :, corr].astype(float)), NCHAN)
        for part, unit in ((result[row, :, corr].real.copy(), 1), (result[row, :, corr].imag.copy(), 1j)):
            result[row, :, corr] -= unit * np.polyval(np.polyfit(x[use], part[use], order, w=weight[use]), x)
    return result


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("flagged", [0.0, 0.1])
def test_a_continuum_of_the_fitted_order_leaves_the_line_alone(order: int, flagged: float) -> None:
    given = block(polynomial(order), flagged)
    found, remains = subtracted(given, continuum_fit(FREQUENCY, LINE_FREE, order))
    expected = np.broadcast_to(2 * LINE[None, :, None], found.data.shape)
    assert remains == (0, 0)
    # the wings of the line in the line-free channels are 6e-4 Jy; they may tip the fit
    np.testing.assert_allclose(found.data[~given.flag], expected[~given.flag], atol=8e-3 if order == 4 else 4e-3)
    np.testing.assert_array_equal(found.flag, given.flag)


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("spectrum", [True, False], ids=["WEIGHT_SPECTRUM", "WEIGHT"])
def test_the_fit_is_numpys_weighted_least_squares(order: int, spectrum: bool) -> None:
    rng = np.random.default_rng(9)
    noise = rng.normal(size=(NROW, NCHAN, NCORR)) + 1j * rng.normal(size=(NROW, NCHAN, NCORR))
    given = block(polynomial(2) + noise, flagged=0.2, spectrum=spectrum)
    found, _ = subtracted(given, continuum_fit(FREQUENCY, LINE_FREE, order))
    good = ~given.flag
    np.testing.assert_allclose(found.data[good], numpys(given, LINE_FREE, order)[good], atol=1e-5)
    np.testing.assert_array_equal(found.weight, given.weight)


@pytest.mark.parametrize("places", [(0,), (0, 3), (1, 2)])
def test_cells_of_one_and_of_four_correlations_are_fitted_like_those_of_two(places: tuple[int, ...]) -> None:
    given = block(
        polynomial(1) + LINE[:, None] * np.random.default_rng(5).normal(size=(NROW, NCHAN, NCORR)), flagged=0.2
    )
    fit = continuum_fit(FREQUENCY, LINE_FREE, 1)
    expected, _ = subtracted(given, fit)
    ncorr = 1 if len(places) == 1 else 4
    cells = given._replace(
        data=np.full((NROW, NCHAN, ncorr), 1e4, np.complex64),
        flag=np.zeros((NROW, NCHAN, ncorr), bool),
        weight=np.ones((NROW, NCHAN, ncorr), np.float32),
    )
    for hand, place in enumerate(places):
        for values, of_two in zip(cells[1:4], given[1:4], strict=True):
            values[..., place] = of_two[..., hand]
    found, _ = subtracted(cells, fit, places)
    others = [place for place in range(ncorr) if place not in places]
    np.testing.assert_allclose(found.data[..., places], expected.data[..., : len(places)], atol=1e-5)
    np.testing.assert_array_equal(found.data[..., others], cells.data[..., others])


def test_samples_that_do_not_count_decide_nothing() -> None:
    """Flags, weights of 0, below 0 or infinite, and values that are no numbers, in line-free channels."""
    given = block(polynomial(1))
    given.weight[0, 0, 0], given.weight[1, 1, 1], given.weight[2, 2, 0], given.weight[2, 3, 0] = 0, -1, np.inf, np.nan
    given.data[0, 0, 0] = given.data[1, 1, 1] = given.data[2, 2, 0] = given.data[2, 3, 0] = 1e5
    given.data[3, 4, 0], given.data[3, 5, 1] = np.nan, np.inf
    given.flag[4, 27, :], given.data[4, 27, :] = True, -1e5
    found, remains = subtracted(given, continuum_fit(FREQUENCY, LINE_FREE, 1))
    assert remains == (0, 0)
    odd = ~np.isfinite(given.data) | (np.abs(given.data) > 1e4)
    np.testing.assert_allclose(found.data[~odd], np.broadcast_to(2 * LINE[:, None], odd.shape)[~odd], atol=4e-3)


def test_a_spectrum_with_too_few_line_free_channels_gets_a_lower_order() -> None:
    given = block(np.full((NROW, NCHAN, NCORR), 3 + 1j))
    given.flag[2, LINE_FREE, 1] = True
    given.flag[2, 0, 1] = False  # one channel cannot give a slope
    found, remains = subtracted(given, continuum_fit(FREQUENCY, LINE_FREE, 1))
    assert remains == Remains(lowered=1, lost=0) and not found.flag[2, ~LINE_FREE].any()
    np.testing.assert_allclose(found.data[~given.flag], (2 * LINE)[np.nonzero(~given.flag)[1]], atol=4e-3)


def test_a_spectrum_with_line_free_channels_on_one_side_only_is_not_extrapolated() -> None:
    """Order 1 from channels 0 to 6 has 4.9 times the noise of a channel at channel 29, order 0 has 0.4."""
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(NROW, NCHAN, NCORR)) + 1j * rng.normal(size=(NROW, NCHAN, NCORR))
    given = block(np.full((NROW, NCHAN, NCORR), 3 + 1j) + noise, spectrum=False)
    given.flag[1, 20:, 0] = True
    found, remains = subtracted(given, continuum_fit(FREQUENCY, LINE_FREE, 1))
    assert remains == Remains(lowered=1, lost=0)
    use = slice(0, 7)
    np.testing.assert_allclose(found.data[1, :, 0], given.data[1, :, 0] - given.data[1, use, 0].mean(), atol=1e-5)


def test_a_spectrum_without_a_line_free_channel_is_flagged_and_counted() -> None:
    given = block(polynomial(0))
    given.flag[2, LINE_FREE, 1] = True
    given.flag[3, :, 0] = True  # nothing of it counts, so it is no loss
    found, remains = subtracted(given, continuum_fit(FREQUENCY, LINE_FREE, 0))
    assert remains == Remains(lowered=0, lost=1)
    assert found.flag[2, :, 1].all() and not found.flag[2, :, 0].any()


def test_one_line_free_channel_is_enough_for_a_constant() -> None:
    given = block(polynomial(0))
    found, _ = subtracted(given, continuum_fit(FREQUENCY, np.arange(NCHAN) == 3, 0))
    np.testing.assert_allclose(found.data, given.data - given.data[:, [3]], atol=1e-6)


def test_other_rows_and_correlations_are_left_alone() -> None:
    given = block(polynomial(0))
    copy = given._replace(data=given.data.copy(), flag=given.flag.copy())
    subtract_continuum(copy, continuum_fit(FREQUENCY, LINE_FREE, 0), np.array([1, 4]), (1,))
    changed = np.zeros(given.data.shape, bool)
    changed[[1, 4], :, 1] = True
    np.testing.assert_array_equal(copy.data[~changed], given.data[~changed])
    assert (copy.data[changed] != given.data[changed]).all()


def test_a_part_of_the_window_is_fitted_with_its_own_frequencies() -> None:
    given = block(polynomial(1))
    part = given._replace(data=given.data[:, 5:], flag=given.flag[:, 5:], weight=given.weight[:, 5:], first_channel=5)
    found, _ = subtracted(part, continuum_fit(FREQUENCY, LINE_FREE, 1))
    np.testing.assert_allclose(found.data, np.broadcast_to(2 * LINE[None, 5:, None], found.data.shape), atol=4e-3)


def test_ranges_in_the_frame_of_the_cube_move_with_each_row() -> None:
    """Every row sees the ranges shifted by one channel more, and is fitted as numpy fits it there."""
    rng = np.random.default_rng(3)
    given = block(polynomial(1) + rng.normal(size=(NROW, NCHAN, NCORR)), spectrum=False)
    factors = 1 + 15625.0 * np.arange(NROW) / FREQUENCY[0]
    ranges = FREQUENCY[np.array([[3, 7], [22, 26]])] + 15625.0 * np.array([-0.4, 0.4])
    fit = continuum_fit(FREQUENCY, np.zeros(NCHAN, bool), 1, ranges=ranges, factors=(1.0, factors[-1]))
    found, _ = subtracted(given, fit, factors=factors)
    for row in range(NROW):
        line_free = np.isin(np.arange(NCHAN), [*range(3 - row, 8 - row), *range(22 - row, 27 - row)])
        np.testing.assert_array_equal(fit.at(factors[row]), line_free)
        expected = numpys(given, line_free, 1)[row]
        np.testing.assert_allclose(found.data[row], expected, atol=1e-5)
    assert (fit.first, fit.last) == (0, 26)  # the outermost channels of any row


def test_the_noise_of_a_fit_is_that_of_its_channels() -> None:
    """A constant from n channels has a variance of 1/n; a slope beyond its channels has more than a channel."""
    assert continuum_fit(FREQUENCY, LINE_FREE, 0).leverage == pytest.approx(1 / LINE_FREE.sum())
    few = np.arange(NCHAN) < 5
    x = np.arange(5) - 2.0
    assert continuum_fit(FREQUENCY, few, 1).leverage == pytest.approx(1 / 5 + 27**2 / (x**2).sum())
