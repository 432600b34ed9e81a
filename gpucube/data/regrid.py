"""Channels of the data become channels of the cube: Doppler shifts, row by row, and interpolation in frequency.

In: the samples of a run of rows in the channels of one window (`Planes`), the Doppler factor of every row, and the channels
of the cube. Out: the samples in those channels. The frame of the data moves against that of the cube, so the place of a
channel of the cube among the channels of the data is another one for every row. The rules are tclean's (FTMachine in CASA):

* ``linear``: the value between the two neighbouring channels, and their weights likewise. It counts if both count.
* ``cubic``: the polynomial through the four nearest channels; ``linear`` where the outer two do not count.
* ``nearest``: every channel of the data counts for the channel of the cube that its centre lies in.

A channel of the cube that is n to n + 1 times as wide as the data's in the frame of the cube is made of n samples, spread
evenly over it and averaged with their weights, so that it has the weight of n channels. No sample is made beyond the centres of
the first and the last selected channel, nor within a gap between channels. If the centre of a channel of the cube lies before the
data, at the side where the cube begins, only its sample next to the following channel is made (with ``cubic`` the next two,
or none if the data run in the other direction). uvw of a row in units of the cube's wavelengths are
`uvw_scale` times those in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpucube.caches import njit
from gpucube.data.transpose import Planes

Interpolation = Literal["nearest", "linear", "cubic"]

ROUNDING = 2e-15
"""Part of a frequency by which rounding may move it: channels closer than that coincide."""

MOVING = 0.01
"""Part of a channel of the data by which the motion of the frame may change the width of a channel of the cube."""

GAP = 1.5
"""Channels further apart than this many times the usual distance have a gap between them."""


@dataclass(frozen=True, kw_only=True)
class Regridding:
    """What becomes of the channels of one window. A slot is a channel of the cube that the window contributes to."""

    output: np.ndarray  # (nslot,) int64, channels of the cube, ascending
    centre: np.ndarray  # (nslot,) their centres in the frame of the cube, Hz
    width: np.ndarray  # (nslot,) their widths, positive, Hz
    frequency: np.ndarray  # (nin,) centres of channels of the window in the frame of the data, Hz, rising or falling
    selected: np.ndarray  # (nin,) bool, the channels that count
    spacing: float  # usual distance of neighbouring channels of the window, positive, Hz
    rises: bool = True  # whether the frequency rises along the cube
    method: Interpolation = "linear"

    def samples(self) -> np.ndarray:
        """Count the samples that each slot is made of at most, where the frame moves little, shape (nslot,)."""
        samples: np.ndarray = np.maximum(1, np.floor(self.width / self.spacing + MOVING)).astype(np.int64)
        return samples


def regrid(planes: Planes, factors: np.ndarray, how: Regridding) -> Planes:
    """Interpolate samples from the channels of a window to the channels of the cube.

    Parameters
    ----------
    planes : Planes
        (nstokes, nin, nrow).
    factors : numpy.ndarray
        Of each row: frequency in the frame of the cube over frequency in that of the data, shape (nrow,).
    how : Regridding

    Returns
    -------
    Planes
        (nstokes, nslot, nrow).
    """
    nstokes, _, nrow = planes.vis.shape
    shape = nstokes, len(how.centre), nrow
    result = Planes(
        np.zeros(shape, np.complex64),
        np.zeros(shape, np.float32),
        np.zeros(shape[:2], np.int64),
        np.zeros(shape[:2]),
        np.zeros(shape[:2], np.int64),
        planes.strength,
        planes.garbage,
    )
    if not nrow:
        return result
    weight = planes.weight
    if not how.selected.all():
        weight = np.where(how.selected[None, :, None], weight, np.float32(0))
    # rows of one time have one factor, and the same channels contribute to a channel of the cube
    rows = np.argsort(factors, kind="stable")
    factors = factors[rows]
    runs = np.concatenate([[0], np.flatnonzero(np.diff(factors)) + 1, [nrow]])
    if len(how.frequency) == 1 or how.method == "nearest":
        _nearest(
            planes.vis,
            weight,
            factors,
            rows,
            runs,
            how.frequency,
            how.spacing,
            how.centre,
            how.width,
            result,
        )
    else:
        ends = np.flatnonzero(how.selected)[[0, -1]]
        _interpolate(
            planes.vis,
            weight,
            factors,
            rows,
            runs,
            how.frequency,
            how.spacing,
            ends,
            how.centre,
            how.width,
            how.rises,
            how.method == "cubic",
            result,
        )
    return result


@njit()
def _interpolate(
    vis: np.ndarray,
    weight: np.ndarray,
    factors: np.ndarray,
    rows: np.ndarray,
    runs: np.ndarray,
    frequency: np.ndarray,
    spacing: float,
    ends: np.ndarray,
    centre: np.ndarray,
    width: np.ndarray,
    rises: bool,
    cubic: bool,
    result: Planes,
) -> None:
    """Fill `result` by linear or cubic interpolation."""
    nstokes, nslot, nrow = result.vis.shape
    step = spacing if frequency[-1] > frequency[0] else -spacing
    # samples of a channel whose centre lies before the data
    beyond = 1 if not cubic else 2 if rises == (step > 0) else 0
    sums = np.empty((4, nrow))  # real part, imaginary part, weight and number of samples
    coefficients = np.empty(4)
    for slot in range(nslot):
        for run in range(len(runs) - 1):
            begin, end = runs[run], runs[run + 1]
            factor = factors[begin]
            samples = _samples(width[slot], spacing * factor, centre[slot])
            first, last = 0, samples
            low, high = min(frequency[ends]) * factor, max(frequency[ends]) * factor
            if rises and centre[slot] < low:
                first = max(0, samples - beyond)
            if not rises and centre[slot] > high:
                last = min(samples, beyond)
            alone = samples == 1 and not cubic
            for s in range(nstokes):
                if not alone:
                    sums[:, : end - begin] = 0.0
                for sample in range(first, last):
                    # the frequency of the sample in the frame of the data
                    wanted = centre[slot] + width[slot] * ((sample + 0.5) / samples - 0.5)
                    wanted /= factor
                    k = _left_neighbour(frequency, step, wanted)
                    if k < 0:
                        continue
                    part = (wanted - frequency[k]) / (frequency[k + 1] - frequency[k])
                    k2 = k + 1
                    if abs(wanted - frequency[k]) <= ROUNDING * wanted:  # the very channel
                        k2 = k
                    elif abs(wanted - frequency[k2]) <= ROUNDING * wanted:
                        k = k2
                    if k < ends[0] or k2 > ends[1] or abs(frequency[k2] - frequency[k]) > GAP * spacing:
                        continue
                    part = part if k2 > k else 0.0
                    four = -1
                    if cubic and k2 > k:
                        four = _polynomial(frequency, spacing, ends, k, wanted, coefficients)
                    if alone:
                        _put_linear(
                            result, s, slot, vis[s, k], vis[s, k2], weight[s, k], weight[s, k2], part, rows[begin:end]
                        )
                    elif four < 0:
                        _add_linear(vis[s, k], vis[s, k2], weight[s, k], weight[s, k2], part, rows[begin:end], sums)
                    else:
                        _add_cubic(vis[s], weight[s], four, coefficients, k, part, rows[begin:end], sums)
                if not alone:
                    _put(result, s, slot, samples, rows[begin:end], sums)


@njit()
def _samples(width: float, spacing: float, centre: float) -> int:
    """Number of samples of a channel of the cube, where the channels of the data have this distance in its frame."""
    return max(1, int(np.floor(width / (spacing - ROUNDING * centre))))


@njit(inline="always")
def _of_rows(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values of some rows, as they lie in memory where the rows follow one another."""
    first, count = rows[0], len(rows)
    return values[first : first + count] if rows[-1] - first == count - 1 else values[rows]


@njit(inline="always")
def _between(v1: complex, v2: complex, u1: float, u2: float, part: float) -> tuple[float, float, float, np.bool]:
    """Real part, imaginary part and weight of a sample between two channels, and whether both count; weight 0 if they do not.

    Without branches: values that do not count are 0, or at least finite.
    """
    w1, w2 = np.float64(u1), np.float64(u2)
    counts = (w1 > 0.0) & (w2 > 0.0)
    w = (1 - part) * w1 + part * w2 if counts else 0.0
    a, b = np.float64(v1.real), np.float64(v1.imag)
    re, im = a + part * (np.float64(v2.real) - a), b + part * (np.float64(v2.imag) - b)
    return re, im, w, counts


@njit(inline="always")
def _add_linear(
    vis: np.ndarray,
    vis2: np.ndarray,
    weight: np.ndarray,
    weight2: np.ndarray,
    part: float,
    rows: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add samples between two channels, those of all rows of a run, where both channels count."""
    v1, v2, u1, u2 = _of_rows(vis, rows), _of_rows(vis2, rows), _of_rows(weight, rows), _of_rows(weight2, rows)
    for i in range(len(rows)):
        re, im, w, counts = _between(v1[i], v2[i], u1[i], u2[i], part)
        sums[0, i] += w * re
        sums[1, i] += w * im
        sums[2, i] += w
        sums[3, i] += 1.0 if counts else 0.0


@njit()
def _add_cubic(
    vis: np.ndarray,
    weight: np.ndarray,
    first: int,
    coefficients: np.ndarray,
    k: int,
    part: float,
    rows: np.ndarray,
    sums: np.ndarray,
) -> None:
    """Add samples of the polynomials through four channels; linear ones where only the two neighbours `k` and k + 1 count."""
    c0, c1, c2, c3 = coefficients[0], coefficients[1], coefficients[2], coefficients[3]
    v0, v1 = _of_rows(vis[first], rows), _of_rows(vis[first + 1], rows)
    v2, v3 = _of_rows(vis[first + 2], rows), _of_rows(vis[first + 3], rows)
    u0, u1 = _of_rows(weight[first], rows), _of_rows(weight[first + 1], rows)
    u2, u3 = _of_rows(weight[first + 2], rows), _of_rows(weight[first + 3], rows)
    left, right = _of_rows(vis[k], rows), _of_rows(vis[k + 1], rows)
    weight_left, weight_right = _of_rows(weight[k], rows), _of_rows(weight[k + 1], rows)
    for i in range(len(rows)):  # without branches, as above
        re, im, w, counts = _between(left[i], right[i], weight_left[i], weight_right[i], part)
        four = (u0[i] > 0.0) & (u1[i] > 0.0) & (u2[i] > 0.0) & (u3[i] > 0.0)
        cubic_re = c0 * v0[i].real + c1 * v1[i].real + c2 * v2[i].real + c3 * v3[i].real
        cubic_im = c0 * v0[i].imag + c1 * v1[i].imag + c2 * v2[i].imag + c3 * v3[i].imag
        sums[0, i] += w * (cubic_re if four else re)
        sums[1, i] += w * (cubic_im if four else im)
        sums[2, i] += w
        sums[3, i] += 1.0 if counts else 0.0


@njit()
def _polynomial(
    frequency: np.ndarray, spacing: float, ends: np.ndarray, k: int, wanted: float, coefficients: np.ndarray
) -> int:
    """First of the four channels nearest to a frequency, and what each counts in the polynomial; -1 if they are too few."""
    first: int = min(max(k - 1, ends[0]), ends[1] - 3)
    if first < ends[0] or abs(frequency[first + 3] - frequency[first]) >= (2 + GAP) * spacing:
        return -1
    for i in range(4):
        coefficients[i] = 1.0
        for j in range(4):
            if j != i:
                coefficients[i] *= (wanted - frequency[first + j]) / (frequency[first + i] - frequency[first + j])
    return first


@njit(inline="always")
def _put(result: Planes, s: int, slot: int, samples: int, rows: np.ndarray, sums: np.ndarray) -> None:
    """Put the weighted means of a run into `result`."""
    vis_out, weight_out = result.vis[s, slot], result.weight[s, slot]
    counted, lacking, power = 0, 0.0, 0.0
    for i, row in enumerate(rows):
        total = sums[2, i]
        if total > 0.0:
            re, im = sums[0, i] / total, sums[1, i] / total
            vis_out[row] = complex(re, im)
            weight_out[row] = total
            counted += 1
            lacking += max(0.0, samples - sums[3, i])
            power += total * (re * re + im * im)
    result.counts[s, slot] += counted
    result.power[s, slot] += power
    result.lacking[s, slot] += int(lacking)


@njit()
def _put_linear(
    result: Planes,
    s: int,
    slot: int,
    vis: np.ndarray,
    vis2: np.ndarray,
    weight: np.ndarray,
    weight2: np.ndarray,
    part: float,
    rows: np.ndarray,
) -> None:
    """Put samples between two channels, those of all rows of a run, into `result`, where a channel of the cube has one sample."""
    n, first = len(rows), rows[0]
    vis_out, weight_out = result.vis[s, slot], result.weight[s, slot]
    power, counted = np.empty(n), np.empty(n)  # of each row
    if rows[-1] - first == n - 1:
        here = slice(first, first + n)
        _linear(
            vis[here], vis2[here], weight[here], weight2[here], part, vis_out[here], weight_out[here], power, counted
        )
    else:
        found, found_weight = np.empty(n, np.complex64), np.empty(n, np.float32)
        _linear(vis[rows], vis2[rows], weight[rows], weight2[rows], part, found, found_weight, power, counted)
        for i in range(n):
            vis_out[rows[i]] = found[i]
            weight_out[rows[i]] = found_weight[i]
    total, count = _totals(power, counted)
    result.counts[s, slot] += int(count)
    result.power[s, slot] += total


@njit()
def _linear(
    v1: np.ndarray,
    v2: np.ndarray,
    u1: np.ndarray,
    u2: np.ndarray,
    part: float,
    vis: np.ndarray,
    weight: np.ndarray,
    power: np.ndarray,
    counted: np.ndarray,
) -> None:
    """Fill the last four: values, weights, w |V|^2, and 1 where a sample counts."""
    for i in range(len(vis)):
        re, im, w, counts = _between(v1[i], v2[i], u1[i], u2[i], part)
        real, imag = re if counts else 0.0, im if counts else 0.0
        vis[i] = complex(real, imag)
        weight[i] = w
        power[i] = w * (real * real + imag * imag)
        counted[i] = 1.0 if counts else 0.0


@njit(fastmath={"reassoc", "nsz"})  # several at once
def _totals(power: np.ndarray, counted: np.ndarray) -> tuple[float, float]:
    total, n = 0.0, 0.0
    for i in range(len(power)):
        total += power[i]
        n += counted[i]
    return total, n


@njit()
def _left_neighbour(frequency: np.ndarray, step: float, wanted: float) -> int:
    """Channel k with `wanted` between it and the next one, in a rising or falling list; -1 if it lies outside."""
    last = len(frequency) - 1
    sign = 1.0 if step > 0 else -1.0
    slack = ROUNDING * wanted
    if sign * (wanted - frequency[0]) < -slack or sign * (wanted - frequency[last]) > slack:
        return -1
    return _nearby(frequency, step, wanted)


@njit()
def _nearby(frequency: np.ndarray, step: float, wanted: float) -> int:
    """Channel k with `wanted` between it and the next one; the first or the last but one if `wanted` lies outside."""
    last = len(frequency) - 1
    sign = 1.0 if step > 0 else -1.0
    k = min(max(int((wanted - frequency[0]) / step), 0), max(last - 1, 0))
    # a list that is not even
    while k > 0 and sign * (wanted - frequency[k]) < 0:
        k -= 1
    while k < last - 1 and sign * (wanted - frequency[k + 1]) > 0:
        k += 1
    return k


@njit()
def _nearest(
    vis: np.ndarray,
    weight: np.ndarray,
    factors: np.ndarray,
    rows: np.ndarray,
    runs: np.ndarray,
    frequency: np.ndarray,
    spacing: float,
    centre: np.ndarray,
    width: np.ndarray,
    result: Planes,
) -> None:
    """Fill `result`: each channel of the data counts for the channel of the cube that its centre lies in."""
    nstokes, nslot, nrow = result.vis.shape
    nin = len(frequency)
    step = spacing if frequency[-1] >= frequency[0] else -spacing
    sums = np.empty((4, nrow))
    for slot in range(nslot):
        for run in range(len(runs) - 1):
            begin, end = runs[run], runs[run + 1]
            low = (centre[slot] - width[slot] / 2) / factors[begin]
            high = (centre[slot] + width[slot] / 2) / factors[begin]
            near, far = _nearby(frequency, step, low), _nearby(frequency, step, high)
            first, last = min(near, far), min(nin - 1, max(near, far) + 1)
            for s in range(nstokes):
                sums[:, : end - begin] = 0.0
                for k in range(first, last + 1):
                    if low <= frequency[k] < high:
                        _add_linear(vis[s, k], vis[s, k], weight[s, k], weight[s, k], 0.0, rows[begin:end], sums)
                _put(
                    result,
                    s,
                    slot,
                    _samples(width[slot], spacing * factors[begin], centre[slot]),
                    rows[begin:end],
                    sums,
                )
