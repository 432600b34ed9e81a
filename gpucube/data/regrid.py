"""Channels of the data become channels of the cube: Doppler shifts, row by row, and interpolation in frequency.

In: the samples of a run of rows in the channels of one window (`Planes`), the Doppler factor of every row, and the channels
of the cube. Out: the samples in those channels. The frame of the data moves against that of the cube, so the place of a
channel of the cube among the channels of the data is another one for every row. The rules are tclean's (FTMachine in CASA):

* ``linear``: the value between the two neighbouring channels, and their weights likewise. It counts if both count.
* ``cubic``: the polynomial through the four nearest channels; ``linear`` where the outer two do not count.
* ``nearest``: every channel of the data counts for the channel of the cube that its centre lies in.

A channel of the cube that is n to n + 1 times as wide as the data's is made of n samples, spread evenly over it and averaged
with their weights, so that it has the weight of n channels. No sample is made beyond the centres of the first and
the last selected channel, nor within a gap between channels. uvw of a row in units of the cube's wavelengths are
`uvw_scale` times those in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpucube.caches import njit
from gpucube.data.transpose import Planes

Interpolation = Literal["nearest", "linear", "cubic"]

WHOLE = 0.01
"""A channel of the cube that lacks less than this part of a channel of the data has room for one sample more."""

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
    method: Interpolation = "linear"

    def samples(self, factor: float = 1.0) -> np.ndarray:
        """Count the samples that each slot is made of, shape (nslot,), where `factor` is the usual Doppler factor."""
        count: np.ndarray = np.maximum(1, np.floor(self.width / (self.spacing * factor) + WHOLE).astype(np.int64))
        return count


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
    samples = how.samples(factors.mean() if nrow else 1.0)
    weight = np.where(how.selected[None, :, None], planes.weight, np.float32(0))
    if len(how.frequency) == 1 or how.method == "nearest":
        _nearest(planes.vis, weight, factors, how.frequency, how.spacing, how.centre, how.width, samples, result)
    else:
        ends = np.flatnonzero(how.selected)[[0, -1]]
        _interpolate(
            planes.vis,
            weight,
            factors,
            how.frequency,
            how.spacing,
            ends,
            how.centre,
            how.width,
            samples,
            how.method == "cubic",
            result,
        )
    return result


@njit()
def _interpolate(
    vis: np.ndarray,
    weight: np.ndarray,
    factors: np.ndarray,
    frequency: np.ndarray,
    spacing: float,
    ends: np.ndarray,
    centre: np.ndarray,
    width: np.ndarray,
    samples: np.ndarray,
    cubic: bool,
    result: Planes,
) -> None:
    """Fill `result` by linear or cubic interpolation."""
    nstokes, nslot, nrow = result.vis.shape
    nin = len(frequency)
    step = spacing if frequency[-1] > frequency[0] else -spacing
    for slot in range(nslot):
        for row in range(nrow):
            for s in range(nstokes):
                re, im, total, used = 0.0, 0.0, 0.0, 0
                for sample in range(samples[slot]):
                    # the frequency of the sample in the frame of the data
                    wanted = centre[slot] + width[slot] * ((sample + 0.5) / samples[slot] - 0.5)
                    wanted /= factors[row]
                    k = _left_neighbour(frequency, step, wanted)
                    if k < 0:
                        continue
                    part = (wanted - frequency[k]) / (frequency[k + 1] - frequency[k])
                    k2 = k + 1
                    if factors[row] == 1.0 and part < 1e-9:  # the very channel; a moving frame has it by accident only
                        k2 = k
                    elif factors[row] == 1.0 and part > 1 - 1e-9:
                        k = k2
                    if k < ends[0] or k2 > ends[1] or abs(frequency[k2] - frequency[k]) > GAP * spacing:
                        continue
                    part = part if k2 > k else 0.0
                    w1, w2 = np.float64(weight[s, k, row]), np.float64(weight[s, k2, row])
                    if w1 <= 0.0 or w2 <= 0.0:
                        continue
                    w = (1 - part) * w1 + part * w2
                    a, b = np.complex128(vis[s, k, row]), np.complex128(vis[s, k2, row])
                    value = a + part * (b - a)
                    if cubic and nin > 3 and k2 > k:
                        first = min(max(k - 1, ends[0]), ends[1] - 3)
                        if first >= ends[0] and abs(frequency[first + 3] - frequency[first]) < (2 + GAP) * spacing:
                            value = _polynomial(vis, weight, frequency, s, first, row, wanted, value)
                    re += w * value.real
                    im += w * value.imag
                    total += w
                    used += 1
                if total > 0.0:
                    _put(result, s, slot, row, re / total, im / total, total, samples[slot] - used)


@njit(inline="always")
def _put(result: Planes, s: int, slot: int, row: int, re: float, im: float, weight: float, lacking: int) -> None:
    """Put a sample that counts into `result`."""
    result.vis[s, slot, row] = complex(re, im)
    result.weight[s, slot, row] = weight
    result.counts[s, slot] += 1
    result.power[s, slot] += weight * (re * re + im * im)
    result.lacking[s, slot] += max(0, lacking)


@njit()
def _left_neighbour(frequency: np.ndarray, step: float, wanted: float) -> int:
    """Channel k with `wanted` between it and the next one, in a rising or falling list; -1 if it lies outside."""
    last = len(frequency) - 1
    sign = 1.0 if step > 0 else -1.0
    slack = 1e-9 * abs(step)
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
def _polynomial(
    vis: np.ndarray,
    weight: np.ndarray,
    frequency: np.ndarray,
    s: int,
    first: int,
    row: int,
    wanted: float,
    otherwise: complex,
) -> complex:
    """Value of the polynomial through four channels; `otherwise` if one of them does not count."""
    total = 0j
    for i in range(first, first + 4):
        if weight[s, i, row] <= 0.0:
            return otherwise
        factor = 1.0
        for j in range(first, first + 4):
            if j != i:
                factor *= (wanted - frequency[j]) / (frequency[i] - frequency[j])
        total += factor * vis[s, i, row]
    return total


@njit()
def _nearest(
    vis: np.ndarray,
    weight: np.ndarray,
    factors: np.ndarray,
    frequency: np.ndarray,
    spacing: float,
    centre: np.ndarray,
    width: np.ndarray,
    samples: np.ndarray,
    result: Planes,
) -> None:
    """Fill `result`: each channel of the data counts for the channel of the cube that its centre lies in."""
    nstokes, nslot, nrow = result.vis.shape
    nin = len(frequency)
    step = spacing if frequency[-1] >= frequency[0] else -spacing
    for slot in range(nslot):
        for row in range(nrow):
            low = (centre[slot] - width[slot] / 2) / factors[row]
            high = (centre[slot] + width[slot] / 2) / factors[row]
            near, far = _nearby(frequency, step, low), _nearby(frequency, step, high)
            first, last = min(near, far), min(nin - 1, max(near, far) + 1)
            for s in range(nstokes):
                re, im, total, used = 0.0, 0.0, 0.0, 0
                for k in range(first, last + 1):
                    w = np.float64(weight[s, k, row])
                    if low <= frequency[k] < high and w > 0.0:
                        re += w * vis[s, k, row].real
                        im += w * vis[s, k, row].imag
                        total += w
                        used += 1
                if total > 0.0:
                    _put(result, s, slot, row, re / total, im / total, total, samples[slot] - used)
