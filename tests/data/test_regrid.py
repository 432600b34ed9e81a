"""Regridding in frequency: numpy's interpolation of each row as the oracle, and what must hold for any data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpucube.data.regrid import ROUNDING, Interpolation, Regridding, regrid
from gpucube.data.transpose import Planes

NIN, NROW = 24, 7
FREQUENCY = 100.0 + np.arange(NIN)
FACTORS = 1 + np.linspace(-4e-3, 4e-3, NROW)


def planes(seed: int = 1, flagged: float = 0.0) -> Planes:
    rng = np.random.default_rng(seed)
    vis = (rng.normal(size=(2, NIN, NROW)) + 1j * rng.normal(size=(2, NIN, NROW))).astype(np.complex64)
    weight = rng.uniform(1, 2, (2, NIN, NROW)).astype(np.float32)
    weight[rng.random(weight.shape) < flagged] = 0
    vis[weight == 0] = 1e4
    none = np.zeros((2, NIN), np.int64)
    return Planes(vis, weight, none, np.zeros((2, NIN)), none.copy(), np.zeros(NROW), np.zeros(NROW, bool))


def how(
    centre: Any, width: float = 1.0, method: Interpolation = "linear", frequency: Any = FREQUENCY, **changes: Any
) -> Regridding:
    centre = np.asarray(centre, float)
    values: dict[str, Any] = {"output": np.arange(len(centre)), "centre": centre, "frequency": frequency}
    values |= {"selected": np.ones(len(frequency), bool), "spacing": 1.0}
    return Regridding(**(values | {"width": np.full(len(centre), width), "method": method} | changes))


def test_linear_is_numpys_interpolation_at_the_shifted_frequency() -> None:
    given, centre = planes(), np.array([105.3, 110.0, 117.9])
    found = regrid(given, FACTORS, how(centre))
    for row in range(NROW):
        for s in range(2):
            at = centre / FACTORS[row]
            expected = np.interp(at, FREQUENCY, given.vis[s, :, row].real) + 1j * np.interp(
                at, FREQUENCY, given.vis[s, :, row].imag
            )
            # single precision
            np.testing.assert_allclose(found.vis[s, :, row], expected, atol=2e-6)
            np.testing.assert_allclose(
                found.weight[s, :, row], np.interp(at, FREQUENCY, given.weight[s, :, row]), rtol=1e-6
            )
    np.testing.assert_array_equal(found.counts, NROW)
    np.testing.assert_allclose(found.power, (found.weight * np.abs(found.vis) ** 2).sum(-1), rtol=1e-5)


def test_wide_channels_average_samples_that_fill_them() -> None:
    given, ones = planes(), np.ones(NROW)
    found = regrid(given, ones, how([110.2], width=3.4))
    at = 110.2 + 3.4 * np.array([-1, 0, 1]) / 3  # three samples
    for row in range(NROW):
        weight = np.interp(at, FREQUENCY, given.weight[0, :, row])
        value = np.interp(at, FREQUENCY, given.vis[0, :, row].real)
        assert found.vis[0, 0, row].real == pytest.approx((weight * value).sum() / weight.sum(), abs=2e-6)
        assert found.weight[0, 0, row] == pytest.approx(weight.sum(), rel=1e-6)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_channels_on_the_grid_of_the_data_are_copied(method: Interpolation) -> None:
    given = planes(flagged=0.2)
    found = regrid(given, np.ones(NROW), how(FREQUENCY, method=method))
    counts = given.weight > 0
    np.testing.assert_array_equal(found.weight, given.weight)
    np.testing.assert_array_equal(found.vis[counts], given.vis[counts])
    np.testing.assert_array_equal(found.counts, counts.sum(-1))


def test_cubic_follows_a_polynomial_of_third_order_exactly() -> None:
    x = (FREQUENCY - 110) / 10
    spectrum = (0.3 + x - 2 * x**2 + 1.5 * x**3).astype(np.complex64)
    given = planes()._replace(vis=np.tile(spectrum[:, None], (2, 1, NROW)), weight=np.ones((2, NIN, NROW), np.float32))
    centre = np.array([103.5, 110.7, 118.2])
    found = regrid(given, FACTORS, how(centre, method="cubic"))
    shifted = (centre[:, None] / FACTORS - 110) / 10
    np.testing.assert_allclose(found.vis[0].real, 0.3 + shifted - 2 * shifted**2 + 1.5 * shifted**3, atol=1e-6)


@pytest.mark.parametrize("method", ["linear", "cubic", "nearest"])
def test_flagged_samples_never_reach_the_cube(method: Interpolation) -> None:
    given = planes(flagged=0.3)  # flagged samples are 1e4
    found = regrid(given, FACTORS, how(np.arange(101.0, 122.0, 1.3), width=2.6, method=method))
    assert np.abs(found.vis).max() < 20
    assert (found.weight > 0).any() and (found.vis[found.weight == 0] == 0).all()


def test_no_sample_beyond_the_selected_channels() -> None:
    selected = (FREQUENCY >= 105) & (FREQUENCY <= 115)
    found = regrid(planes(), np.ones(NROW), how([104.9, 105.0, 110.5, 115.0, 115.1, 99.0, 200.0], selected=selected))
    np.testing.assert_array_equal(found.counts[0], [0, NROW, NROW, NROW, 0, 0, 0])


def test_a_gap_in_the_selection_stays_a_gap() -> None:
    selected = ~np.isin(FREQUENCY, [110, 111])
    found = regrid(planes(), np.ones(NROW), how([108.5, 109.5, 110.5, 111.5, 112.5], selected=selected))
    np.testing.assert_array_equal(found.counts[0] > 0, [True, False, False, False, True])


@pytest.mark.parametrize("method", ["linear", "cubic", "nearest"])
def test_a_falling_window_gives_the_same_samples(method: Interpolation) -> None:
    given, centre = planes(flagged=0.1), np.array([103.3, 109.9, 114.2])
    rising = regrid(given, FACTORS, how(centre, width=2.2, method=method))
    turned = given._replace(vis=given.vis[:, ::-1].copy(), weight=given.weight[:, ::-1].copy())
    falling = regrid(turned, FACTORS, how(centre, width=2.2, method=method, frequency=FREQUENCY[::-1].copy()))
    np.testing.assert_allclose(falling.weight, rising.weight, rtol=1e-6)
    np.testing.assert_allclose(falling.vis, rising.vis, atol=2e-6)


def test_nearest_takes_each_channel_of_the_data_once() -> None:
    given = planes()
    centre = 101.0 + 2.5 * np.arange(8)
    found = regrid(given, np.ones(NROW), how(centre, width=2.5, method="nearest"))
    edges = np.append(centre - 1.25, centre[-1] + 1.25)
    inside = np.digitize(FREQUENCY, edges) - 1
    for slot in range(8):
        w = given.weight[0, inside == slot]  # (nmember, nrow)
        np.testing.assert_allclose(found.weight[0, slot], w.sum(0), rtol=1e-6)
        np.testing.assert_allclose(found.vis[0, slot], (w * given.vis[0, inside == slot]).sum(0) / w.sum(0), atol=2e-6)


def test_an_uneven_window_is_interpolated_between_its_own_channels() -> None:
    uneven = FREQUENCY + 0.3 * np.sin(FREQUENCY)
    given, centre = planes(), np.array([104.4, 111.1, 119.0])
    found = regrid(given, np.ones(NROW), how(centre, frequency=uneven))
    expected = np.interp(centre, uneven, given.vis[1, :, 3].real)
    np.testing.assert_allclose(found.vis[1, :, 3].real, expected, atol=2e-6)


@pytest.mark.parametrize("falling", [False, True])
@pytest.mark.parametrize("method", ["linear", "cubic", "nearest"])
def test_nothing_is_made_up_within_a_gap_of_the_channels(method: Interpolation, falling: bool) -> None:
    frequency = np.where(np.arange(NIN) < 12, FREQUENCY, FREQUENCY + 5)
    given = planes()
    if falling:
        frequency = frequency[::-1].copy()
    centre = np.arange(101.25, 127.0)
    found = regrid(given, np.ones(NROW), how(centre, method=method, frequency=frequency))
    within = centre > 111.5 if method == "nearest" else centre > 111
    within &= centre < 116.5 if method == "nearest" else centre < 117
    np.testing.assert_array_equal(found.counts[0] == 0, within)
    assert within.any()
    # far from the gap the values are those of a window without it
    whole = regrid(
        given._replace(vis=given.vis[:, :12], weight=given.weight[:, :12]),
        np.ones(NROW),
        how(centre[:8], method=method, frequency=frequency[:12]),
    )
    if not falling:
        np.testing.assert_array_equal(found.vis[:, :8], whole.vis)


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_wide_channels_count_what_they_lack(method: Interpolation) -> None:
    """4 channels of 3: one of the first is flagged in all rows, two of the second in row 0, all of the third."""
    given = planes()
    given.weight[:, 3] = 0
    given.weight[:, 6:8, 0] = 0
    given.weight[:, 9:12] = 0
    found = regrid(given, np.ones(NROW), how([104.0, 107.0, 110.0, 113.0], width=3.0, method=method))
    np.testing.assert_array_equal(found.counts[0], [NROW, NROW, 0, NROW])
    np.testing.assert_array_equal(found.lacking[0], [NROW, 2, 0, 0])


@pytest.mark.parametrize("method", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(("width", "moves"), [(1.7, 1e-3), (1.99, 1e-9)])
def test_a_row_gives_the_same_bits_whatever_its_neighbours(method: Interpolation, width: float, moves: float) -> None:
    """Rows of one time are interpolated together, their order may be any, and some rows of 1.99 channels have a sample more."""
    given, to = planes(flagged=0.2), how([104.2, 110.6, 117.9], width=width, method=method)
    factors = 1 + moves * np.repeat([-2, 1, 3], [3, 2, 2])
    some = np.array([4, 0, 6, 2])
    together = regrid(given, factors, to)
    apart = regrid(
        given._replace(vis=given.vis[:, :, some].copy(), weight=given.weight[:, :, some].copy()), factors[some], to
    )
    np.testing.assert_array_equal(apart.vis, together.vis[:, :, some])
    np.testing.assert_array_equal(apart.weight, together.weight[:, :, some])


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_a_width_of_n_channels_has_n_samples_unless_those_of_a_row_are_wider(n: int, method: Interpolation) -> None:
    """tclean's rule for all widths: as many samples as fit between the edges, row by row. Rounding does not decide."""
    given = planes()._replace(weight=np.ones((2, NIN, NROW), np.float32))
    away = np.array([-1e-4, -1e-8, -(2.0**-52), 0.0, 2.0**-52, 1e-8, 1e-4])
    found = regrid(given, 1 + away, how([110.0], width=n, method=method))
    np.testing.assert_allclose(found.weight[0, 0], np.where(away < 1e-15, n, n - 1), rtol=1e-6)


@pytest.mark.parametrize("falling_data", [False, True])
@pytest.mark.parametrize(("method", "beyond"), [("linear", [1, 1]), ("cubic", [2, 0])])
@pytest.mark.parametrize("rises", [True, False])
def test_a_channel_whose_centre_lies_before_the_data_has_few_samples(
    rises: bool, method: Interpolation, beyond: list[int], falling_data: bool
) -> None:
    """tclean's list of samples begins at the first channel whose centre is within the data; at the far end it has all."""
    given = planes()._replace(weight=np.ones((2, NIN, NROW), np.float32))
    centre = np.array([97.0, 109.0, 121.0])  # of 100 to 123: the first contains 3 samples, the last 8
    centre = centre if rises else 223 - centre
    frequency = FREQUENCY[::-1].copy() if falling_data else FREQUENCY
    found = regrid(given, np.ones(NROW), how(centre, width=12, rises=rises, method=method, frequency=frequency))
    first = beyond[int(rises == falling_data)]
    np.testing.assert_allclose(found.weight[0, :, 0], [first, 12, 8], rtol=1e-6)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_channels_that_coincide_but_for_rounding_need_no_neighbour(method: Interpolation) -> None:
    """The first integration defines the axis: its channels are those of the cube, to the last and with flags beside them."""
    given = planes(flagged=0.3)
    factors = np.array([1 - 1e-4, 1.0, 1 + 1e-4])[np.arange(NROW) % 3]
    for off in (-ROUNDING / 2, 0.0, ROUNDING / 2):
        centre = FREQUENCY * factors[0] * (1 + off)
        found = regrid(given, factors, how(centre, method=method))
        first = factors == factors[0]
        np.testing.assert_array_equal(found.weight[:, :, first], given.weight[:, :, first])
        counts = given.weight[:, :, first] > 0
        np.testing.assert_array_equal(found.vis[:, :, first][counts], given.vis[:, :, first][counts])


def test_a_block_without_rows_gives_none() -> None:
    none = planes()._replace(vis=np.empty((2, NIN, 0), np.complex64), weight=np.empty((2, NIN, 0), np.float32))
    assert regrid(none, np.empty(0), how([110.0])).vis.shape == (2, 1, 0)
