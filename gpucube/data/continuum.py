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
from gpucube.data.transpose import hand

PROBES = 9
"""Frequencies at which the noise of a fit is judged, spread evenly over the channels that are imaged."""

NOISE = 2.0
"""Times the noise of a channel, or that of the fit where no channel is flagged if that is more, that a fit may have."""

LARGEST_ORDER = 4

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
    nchan = block.data.shape[1]
    span = slice(block.first_channel, block.first_channel + nchan)
    most = NOISE**2 * max(1.0, fit.leverage)
    lowered, lost = _subtract(
        block.data,
        block.flag,
        block.weight,
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
    data: np.ndarray,
    flag: np.ndarray,
    weight: np.ndarray,
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
    """Change `data` and `flag` in place; return the spectra with a lower order, and those without a fit."""
    nchan = data.shape[1]
    lowered, lost = 0, 0
    taken: np.ndarray = np.flatnonzero(line_free)
    sums, re, im = np.empty(2 * LARGEST_ORDER + 1), np.empty(LARGEST_ORDER + 1), np.empty(LARGEST_ORDER + 1)
    single = abscissa.astype(np.float32)
    for place in range(len(rows)):
        row = rows[place]
        if len(ranges):
            seen = frequency * factors[place]
            inside = line_free.copy()
            for r in range(len(ranges)):
                inside |= (seen >= ranges[r, 0]) & (seen <= ranges[r, 1])
            taken = np.flatnonzero(inside)
        for corr in hands:
            counted = _moments(data, flag, weight, row, corr, taken, abscissa, order, sums, re, im)
            if counted == 0:
                for k in range(nchan):
                    if hand(data, flag, weight, row, k, corr)[1] > 0.0:
                        lost += 1
                        break
                flag[row, :, corr] = True
                continue
            terms = min(order + 1, counted)
            while terms > 1 and not _fits(sums, terms, re, im, probes, most * counted / sums[0]):
                terms -= 1
            lowered += terms < order + 1
            if terms == 1:
                re[0], im[0] = re[0] / sums[0], im[0] / sums[0]
            re[terms:], im[terms:] = 0.0, 0.0
            _take_away(data, row, corr, single, terms, re, im)
    return lowered, lost


@njit(inline="always")
def _take_away(
    data: np.ndarray, row: int, corr: int, x: np.ndarray, terms: int, re: np.ndarray, im: np.ndarray
) -> None:
    """Subtract a polynomial with `terms` terms from a spectrum, in single precision like the data."""
    re0, re1, re2 = np.float32(re[0]), np.float32(re[1]), np.float32(re[2])
    re3, re4 = np.float32(re[3]), np.float32(re[4])
    im0, im1, im2 = np.float32(im[0]), np.float32(im[1]), np.float32(im[2])
    im3, im4 = np.float32(im[3]), np.float32(im[4])
    for k in range(len(x)):
        v = data[row, k, corr]
        re_here, im_here = re0 + x[k] * (re1 + x[k] * re2), im0 + x[k] * (im1 + x[k] * im2)
        data[row, k, corr] = complex(v.real - re_here, v.imag - im_here)
    for k in range(len(x) if terms > 3 else 0):
        v, cube = data[row, k, corr], x[k] * x[k] * x[k]
        data[row, k, corr] = complex(v.real - cube * (re3 + x[k] * re4), v.imag - cube * (im3 + x[k] * im4))


@njit(inline="always")
def _moments(
    data: np.ndarray,
    flag: np.ndarray,
    weight: np.ndarray,
    row: int,
    corr: int,
    taken: np.ndarray,
    abscissa: np.ndarray,
    order: int,
    sums: np.ndarray,
    re: np.ndarray,
    im: np.ndarray,
) -> int:
    """Fill the moments of the weights of a spectrum, and of its weighted values; return how many samples count.

    ``sums[m]`` is the sum of w x^m, m = 0 to 2 `order`; ``re[m]`` and ``im[m]`` are the parts of the sum of w x^m V, m = 0 to
    `order`; at least those of a parabola, which stay in registers and cost hardly more than those of a straight line.
    """
    w0, w1, w2, w3, w4 = 0.0, 0.0, 0.0, 0.0, 0.0
    re0, re1, re2, im0, im1, im2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    counted = 0
    for k in taken:
        value, w = hand(data, flag, weight, row, k, corr)
        if w > 0.0:
            x = abscissa[k]
            w0 += w
            re0 += w * value.real
            im0 += w * value.imag
            w *= x
            w1 += w
            re1 += w * value.real
            im1 += w * value.imag
            w *= x
            w2 += w
            re2 += w * value.real
            im2 += w * value.imag
            w *= x
            w3 += w
            w4 += w * x
            counted += 1
    sums[0], sums[1], sums[2], sums[3], sums[4] = w0, w1, w2, w3, w4
    re[0], re[1], re[2], im[0], im[1], im[2] = re0, re1, re2, im0, im1, im2
    if order > 2:  # a second reading, because that many sums do not fit into registers
        w5, w6, w7, w8, re3, re4, im3, im4 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in taken:
            value, w = hand(data, flag, weight, row, k, corr)
            if w > 0.0:
                x = abscissa[k]
                cube = x * x * x
                w *= cube
                re3 += w * value.real
                im3 += w * value.imag
                w *= x
                re4 += w * value.real
                im4 += w * value.imag
                w *= x
                w5 += w
                w6 += w * x
                w *= x * x
                w7 += w
                w8 += w * x
        sums[5], sums[6], sums[7], sums[8], re[3], re[4], im[3], im[4] = w5, w6, w7, w8, re3, re4, im3, im4
    return counted


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
