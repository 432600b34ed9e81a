"""Continuum subtraction: fit a polynomial in frequency to the line-free channels of every row and correlation.

In: a `Block` of rows as read, and the `ContinuumFit` of its window: the channels that are free of lines, and the order of
the polynomial. Out: the same block with the fit subtracted from all channels. The fit is by weighted least squares, to the
real and the imaginary part (Cornwell, Uson & Haddad 1992, A&A 258, 583), over the samples that count: unflagged, finite, of
positive weight. Weights are not changed.

A spectrum is one correlation of one row. Because of flags a spectrum may have too few line-free channels for the polynomial, or
have them on one side only. The polynomial is then extrapolated, and its noise far exceeds that of the data. Such a spectrum gets
a polynomial of lower order. A spectrum without line-free channels is flagged, because its continuum is not known. Both kinds
are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gpucube.caches import njit
from gpucube.data.rows import Block
from gpucube.data.transpose import LARGEST

PROBES = 9
"""Frequencies at which the noise of a fit is judged, spread evenly over the channels that are imaged."""

NOISE = 2.0
"""Times the noise of a channel, or that of the fit where no channel is flagged if that is more, that a fit may have."""

LARGEST_ORDER = 4

_ZERO, _MOST = np.float32(0), np.float32(LARGEST)  # in single precision, which is quicker to compare

SINGULAR = 1e-10
"""Part of a pivot that must be left by the pivots before it: the channels do not tell the terms of the polynomial apart."""


@dataclass(frozen=True, kw_only=True)
class ContinuumFit:
    """The fit to the channels of one window."""

    line_free: np.ndarray  # (nchan,) bool, channels of the window that the polynomial is fitted to in every row
    ranges: np.ndarray  # (nrange, 2) Hz in the frame of the cube: further channels, which may differ from row to row
    frequency: np.ndarray  # (nchan,) centres of the channels in the frame of the data, Hz
    abscissa: np.ndarray  # (nchan,) frequency, scaled so that the line-free channels go from -1 to 1
    order: int
    probes: np.ndarray  # (nprobe,) abscissae at which the noise of the fit is judged
    leverage: float  # variance of the fit over that of a channel, where it is largest, if no channel is flagged
    first: int  # first and last channel that the fit takes in any row
    last: int

    def at(self, factor: float) -> np.ndarray:
        """Line-free channels of a row with this Doppler factor, bool, shape (nchan,)."""
        frequency = self.frequency[:, None] * factor  # (nchan, 1)
        inside = (frequency >= self.ranges[:, 0]) & (frequency <= self.ranges[:, 1])
        taken: np.ndarray = self.line_free | inside.any(axis=1)
        return taken


class Remains(NamedTuple):
    """What became of the spectra of a block."""

    lowered: int  # spectra that got a polynomial of lower order
    lost: int  # spectra with samples that count, but none of them in a line-free channel


def continuum_fit(
    frequency: np.ndarray,
    line_free: np.ndarray,
    order: int,
    *,
    ranges: np.ndarray | None = None,
    factors: tuple[float, float] = (1.0, 1.0),
    imaged: np.ndarray | None = None,
) -> ContinuumFit:
    """Prepare the fit for a window.

    Parameters
    ----------
    frequency : numpy.ndarray
        Centres of the window's channels, Hz, shape (nchan,).
    line_free : numpy.ndarray
        bool, (nchan,).
    order : int
        Of the polynomial, 0 for a constant.
    ranges : numpy.ndarray, optional
        Lowest and highest frequency in the frame of the cube of further line-free channels, Hz, shape (nrange, 2).
    factors : tuple of float
        Least and largest Doppler factor of the rows.
    imaged : numpy.ndarray, optional
        Numbers of the channels that are imaged; by default all.
    """
    ranges = np.empty((0, 2)) if ranges is None else ranges
    least, largest = factors
    # whatever a row between the two extremes may take
    moving = (frequency[:, None] * largest >= ranges[:, 0]) & (frequency[:, None] * least <= ranges[:, 1])
    taken = np.flatnonzero(line_free | moving.any(axis=1))
    ends = frequency[taken if len(taken) else slice(None)]
    # one channel is a scale for nothing but a constant
    abscissa = (2 * frequency - ends.min() - ends.max()) / (np.ptp(ends) or np.ptp(frequency) or 1.0)
    wanted = abscissa if imaged is None else abscissa[imaged]
    fit = ContinuumFit(
        line_free=line_free,
        ranges=ranges,
        frequency=frequency,
        abscissa=abscissa,
        order=order,
        probes=np.linspace(wanted.min(), wanted.max(), PROBES),
        leverage=0.0,
        first=int(taken.min(initial=len(frequency) - 1)),
        last=int(taken.max(initial=0)),
    )
    return replace(fit, leverage=max(_leverage(fit, factor) for factor in factors))


def _leverage(fit: ContinuumFit, factor: float) -> float:
    """Largest variance of the fit of a row without flags, over that of a channel."""
    powers, at_probes = (
        np.vander(x, fit.order + 1, increasing=True) for x in (fit.abscissa[fit.at(factor)], fit.probes)
    )
    inverse = np.linalg.pinv(powers.T @ powers)
    return float(np.einsum("pi,ij,pj->p", at_probes, inverse, at_probes).max())


def subtract_continuum(
    block: Block, fit: ContinuumFit, rows: np.ndarray, hands: Sequence[int], factors: np.ndarray | None = None
) -> Remains:
    """Subtract the continuum from spectra of a block, in place.

    Parameters
    ----------
    block : Block
        May begin at another channel than the window: ``block.first_channel`` says at which.
    fit : ContinuumFit
    rows : numpy.ndarray
        Rows of the block, int64, shape (n,). The others are left alone.
    hands : sequence of int
        Places on the correlation axis. The others are left alone.
    factors : numpy.ndarray or None
        Doppler factor of each of `rows`, shape (n,); None for 1.
    """
    _, nchan, ncorr = block.data.shape
    span = slice(block.first_channel, block.first_channel + nchan)
    most = NOISE**2 * max(1.0, fit.leverage)
    lowered, lost = _subtract(
        np.reshape(block.data, -1, copy=False).view(np.float32),
        np.reshape(block.flag, -1, copy=False).view(np.uint8),
        np.ascontiguousarray(block.weight),
        (0,) * ncorr,
        rows,
        np.array(hands, np.int64),
        np.ones(len(rows)) if factors is None else factors,
        fit.line_free[span],
        fit.ranges,
        fit.frequency[span],
        fit.abscissa[span],
        fit.order,
        fit.probes,
        most,
    )
    return Remains(lowered, lost)


@njit()
def _subtract(
    values: np.ndarray,
    flags: np.ndarray,
    weight: np.ndarray,
    hands_of_a_cell: tuple[int, ...],
    rows: np.ndarray,
    hands: np.ndarray,
    factors: np.ndarray,
    line_free: np.ndarray,
    ranges: np.ndarray,
    frequency: np.ndarray,
    abscissa: np.ndarray,
    order: int,
    probes: np.ndarray,
    most: float,
) -> tuple[int, int]:
    """Change values and flags in place; return the spectra with a lower order, and those without a fit.

    `values` are the real and imaginary parts, `flags` the flags of all rows, channels and correlations. The number of
    correlations is the length of a tuple, so that the compiler knows it and can work on several samples at once.
    """
    ncorr, nchan = len(hands_of_a_cell), len(abscissa)
    lowered, lost = 0, 0
    runs = _runs(line_free)
    sums, re, im = np.empty(2 * LARGEST_ORDER + 1), np.empty(LARGEST_ORDER + 1), np.empty(LARGEST_ORDER + 1)
    fits = np.empty((LARGEST_ORDER + 1, 2 * ncorr), np.float32)  # of a row, in single precision like the data
    single = abscissa.astype(np.float32)
    ones = np.ones(nchan * ncorr, np.float32)
    for place in range(len(rows)):
        row = rows[place]
        if len(ranges):
            seen = frequency * factors[place]
            inside = line_free.copy()
            for r in range(len(ranges)):
                inside |= (seen >= ranges[r, 0]) & (seen <= ranges[r, 1])
            runs = _runs(inside)
        values_here = values[2 * ncorr * nchan * row : 2 * ncorr * nchan * (row + 1)]
        flags_here = flags[ncorr * nchan * row : ncorr * nchan * (row + 1)]
        weights_here = ones if weight.shape[1] == 1 else weight[row].reshape(-1)
        fits[:] = 0.0
        for corr in hands:
            whole = np.float64(weight[row, 0, corr]) if weight.shape[1] == 1 else 1.0
            counted = 0
            for m in range(LARGEST_ORDER + 1):
                re[m], im[m], sums[m], sums[LARGEST_ORDER + m] = 0.0, 0.0, 0.0, 0.0
            for begin, end in runs if 0.0 < whole < LARGEST else runs[:0]:
                here = slice(ncorr * begin + corr, ncorr * end)
                v, x = values_here[2 * (ncorr * begin + corr) : 2 * ncorr * end], abscissa[begin:end]
                counted += _add_moments(v, flags_here[here], weights_here[here], x, hands_of_a_cell, sums, re, im)
                if order > 2:
                    _add_more_moments(v, flags_here[here], weights_here[here], x, hands_of_a_cell, sums, re, im)
            if counted == 0:
                lost += _counts(values_here, flags_here, weights_here, corr, ncorr) if 0.0 < whole < LARGEST else False
                flags_here[corr::ncorr] = 1
                continue
            for m in range(LARGEST_ORDER + 1 if whole != 1.0 else 0):
                re[m], im[m] = re[m] * whole, im[m] * whole
            for m in range(2 * LARGEST_ORDER + 1 if whole != 1.0 else 0):
                sums[m] *= whole
            terms = min(order + 1, counted)
            while terms > 1 and not _fits(sums, terms, re, im, probes, most * counted / sums[0]):
                terms -= 1
            lowered += terms < order + 1
            if terms == 1:
                re[0], im[0] = re[0] / sums[0], im[0] / sums[0]
            for m in range(terms):
                fits[m, 2 * corr], fits[m, 2 * corr + 1] = re[m], im[m]
        _take_away(values_here, single, hands_of_a_cell, order, fits)
    return lowered, lost


@njit()
def _runs(taken: np.ndarray) -> np.ndarray:
    """First and last + 1 of runs of neighbouring channels, (nrun, 2)."""
    edges = np.zeros(len(taken) + 2, np.int8)
    edges[1:-1] = taken
    changes: np.ndarray = np.flatnonzero(np.diff(edges))
    return changes.reshape(-1, 2)


@njit()
def _take_away(
    values: np.ndarray, x: np.ndarray, hands_of_a_cell: tuple[int, ...], order: int, fits: np.ndarray
) -> None:
    """Subtract polynomials from the spectra of a row; `fits` are the coefficients of the real and imaginary part of each."""
    for k in range(len(x)):
        for j in range(2 * len(hands_of_a_cell)):
            values[2 * len(hands_of_a_cell) * k + j] -= fits[0, j] + x[k] * (fits[1, j] + x[k] * fits[2, j])
    for k in range(len(x) if order > 2 else 0):
        for j in range(2 * len(hands_of_a_cell)):
            values[2 * len(hands_of_a_cell) * k + j] -= x[k] * x[k] * x[k] * (fits[3, j] + x[k] * fits[4, j])


@njit()
def _counts(values: np.ndarray, flags: np.ndarray, weights: np.ndarray, corr: int, ncorr: int) -> bool:
    """Whether a sample of a spectrum counts."""
    most = 0.0
    for i in range(corr, len(flags), ncorr):
        most = max(most, _sample(values[2 * i], values[2 * i + 1], flags[i], weights[i])[2])
    return most > 0.0


@njit(inline="always")
def _sample(re: float, im: float, flag: int, weight: float) -> tuple[float, float, float]:
    """Value and weight in double precision; all 0 if the sample does not count. Without branches."""
    counts = (flag == 0) & (weight > _ZERO) & (weight < _MOST) & (abs(re) < _MOST) & (abs(im) < _MOST)
    return np.float64(re) if counts else 0.0, np.float64(im) if counts else 0.0, np.float64(weight) if counts else 0.0


_summing = njit(fastmath={"reassoc", "nsz"})  # sums of several samples at once


@_summing
def _add_moments(
    values: np.ndarray,
    flags: np.ndarray,
    weights: np.ndarray,
    x: np.ndarray,
    hands_of_a_cell: tuple[int, ...],
    sums: np.ndarray,
    re: np.ndarray,
    im: np.ndarray,
) -> int:
    """Add to the moments of a spectrum that a parabola needs, which cost hardly more than those of a straight line.

    ``sums[m]`` is the sum of w x^m; ``re[m]`` and ``im[m]`` are the parts of the sum of w x^m V. Returns how many samples count.
    """
    w0, w1, w2, w3, w4 = 0.0, 0.0, 0.0, 0.0, 0.0
    re0, re1, re2, im0, im1, im2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    counted = 0.0
    for k in range(len(x)):
        i = len(hands_of_a_cell) * k
        real, imag, w = _sample(values[2 * i], values[2 * i + 1], flags[i], weights[i])
        wx = w * x[k]
        wxx = wx * x[k]
        w0 += w
        w1 += wx
        w2 += wxx
        w3 += wxx * x[k]
        w4 += wxx * (x[k] * x[k])
        re0 += w * real
        re1 += wx * real
        re2 += wxx * real
        im0 += w * imag
        im1 += wx * imag
        im2 += wxx * imag
        counted += 1.0 if w > 0.0 else 0.0
    sums[0] += w0
    sums[1] += w1
    sums[2] += w2
    sums[3] += w3
    sums[4] += w4
    re[0] += re0
    re[1] += re1
    re[2] += re2
    im[0] += im0
    im[1] += im1
    im[2] += im2
    return int(counted)


@_summing
def _add_more_moments(
    values: np.ndarray,
    flags: np.ndarray,
    weights: np.ndarray,
    x: np.ndarray,
    hands_of_a_cell: tuple[int, ...],
    sums: np.ndarray,
    re: np.ndarray,
    im: np.ndarray,
) -> None:
    """Add to those that polynomials of third and fourth order need too."""
    w5, w6, w7, w8, re3, re4, im3, im4 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(len(x)):
        i = len(hands_of_a_cell) * k
        real, imag, w = _sample(values[2 * i], values[2 * i + 1], flags[i], weights[i])
        cube = x[k] * x[k] * x[k]
        w3 = w * cube
        w4 = w3 * x[k]
        re3 += w3 * real
        im3 += w3 * imag
        re4 += w4 * real
        im4 += w4 * imag
        w5 += w4 * x[k]
        w6 += w4 * (x[k] * x[k])
        w7 += w4 * cube
        w8 += w4 * (cube * x[k])
    sums[5] += w5
    sums[6] += w6
    sums[7] += w7
    sums[8] += w8
    re[3] += re3
    re[4] += re4
    im[3] += im3
    im[4] += im4


@njit()
def _fits(sums: np.ndarray, terms: int, re: np.ndarray, im: np.ndarray, probes: np.ndarray, most: float) -> bool:
    """Solve for a polynomial with `terms` terms: `re` and `im` become its coefficients.

    Returns False and changes nothing if the sums do not determine all terms, or if the variance of the fit exceeds `most` at
    one of the probes. The matrix of the sums, ``sums[i + j]``, is symmetric: it is decomposed by Cholesky's method.
    """
    lower = np.zeros((terms, terms))
    for i in range(terms):
        for j in range(i + 1):
            total = sums[i + j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i > j:
                lower[i, j] = total / lower[j, j]
            elif total > SINGULAR * sums[2 * i]:
                lower[i, i] = np.sqrt(total)
            else:
                return False
    solved = np.empty(terms)
    for x in probes:
        variance, power = 0.0, 1.0
        for i in range(terms):
            solved[i] = power
            for k in range(i):
                solved[i] -= lower[i, k] * solved[k]
            solved[i] /= lower[i, i]
            variance += solved[i] ** 2
            power *= x
        if not variance <= most:
            return False
    for right in (re, im):
        for i in range(terms):
            for k in range(i):
                right[i] -= lower[i, k] * right[k]
            right[i] /= lower[i, i]
        for i in range(terms - 1, -1, -1):
            for k in range(i + 1, terms):
                right[i] -= lower[k, i] * right[k]
            right[i] /= lower[i, i]
    return True
