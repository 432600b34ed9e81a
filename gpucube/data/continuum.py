"""Continuum subtraction: a polynomial in frequency is fitted to the line-free channels of every row and correlation.

In: a `Block` of rows as read, the channels that are free of lines, and the order of the polynomial. Out: the same block with
the fit subtracted from all channels. The fit is by weighted least squares, to the real and the imaginary part
(Cornwell, Uson & Haddad 1992, A&A 258, 583), over the samples that count: unflagged, finite, of positive weight. A row and
correlation with too few of them for the polynomial is flagged, because its continuum is not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpucube.caches import njit
from gpucube.data.rows import Block

LARGEST_ORDER = 4


@dataclass(frozen=True, kw_only=True)
class ContinuumFit:
    """What is fitted to the channels of one window."""

    line_free: np.ndarray  # (nchan,) bool, channels that the polynomial is fitted to
    abscissa: np.ndarray  # (nchan,) frequency, scaled so that the window goes from -1 to 1
    order: int


def continuum_fit(frequency: np.ndarray, line_free: np.ndarray, order: int) -> ContinuumFit:
    """Prepare the fit for a window.

    Parameters
    ----------
    frequency : numpy.ndarray
        Centres of the window's channels, Hz, shape (nchan,).
    line_free : numpy.ndarray
        bool, (nchan,).
    order : int
        Of the polynomial, 0 for a constant.
    """
    low, high = frequency.min(), frequency.max()
    return ContinuumFit(
        line_free=line_free, abscissa=(2 * frequency - low - high) / max(high - low, 1e-300), order=order
    )


def subtract_continuum(block: Block, fit: ContinuumFit) -> tuple[Block, int]:
    """Subtract the continuum from every row; return the new block and the rows and correlations that have no fit.

    A block may start at another channel than the window's first: ``block.first_channel`` says at which.
    """
    nchan = block.data.shape[1]
    span = slice(block.first_channel, block.first_channel + nchan)
    data, flag = block.data.astype(np.complex64), block.flag.copy()
    lost = _subtract(data, flag, block.weight, fit.line_free[span], fit.abscissa[span], fit.order)
    return block._replace(data=data, flag=flag), lost


@njit()
def _subtract(
    data: np.ndarray, flag: np.ndarray, weight: np.ndarray, line_free: np.ndarray, abscissa: np.ndarray, order: int
) -> int:
    """Change `data` and `flag` in place."""
    nrow, nchan, ncorr = data.shape
    terms, lost = order + 1, 0
    for row in range(nrow):
        for corr in range(ncorr):
            normal = np.zeros((terms, terms))
            right = np.zeros(terms, np.complex128)
            counted = 0
            for k in range(nchan):
                w = np.float64(weight[row, k if weight.shape[1] > 1 else 0, corr])
                value = np.complex128(data[row, k, corr])
                if (
                    not line_free[k]
                    or flag[row, k, corr]
                    or not (w > 0.0 and np.isfinite(w) and np.isfinite(abs(value)))
                ):
                    continue
                counted += 1
                power = w
                for i in range(terms):
                    right[i] += power * value
                    other = power
                    for j in range(i + 1):
                        normal[i, j] += other * abscissa[k] ** j
                    power *= abscissa[k]
            if counted < terms or not _solve(normal, right):
                flag[row, :, corr] = True
                lost += 1
                continue
            for k in range(nchan):
                fitted = 0j
                for i in range(order, -1, -1):
                    fitted = fitted * abscissa[k] + right[i]
                data[row, k, corr] -= fitted
    return lost


@njit()
def _solve(normal: np.ndarray, right: np.ndarray) -> bool:
    """Solve a symmetric system by Cholesky decomposition of its lower triangle, in place; False if it has no solution."""
    terms = len(right)
    for i in range(terms):
        before = normal[i, i]
        for j in range(i + 1):
            total = normal[i, j]
            for k in range(j):
                total -= normal[i, k] * normal[j, k]
            if i == j:
                if total <= 1e-10 * before:  # the channels do not tell the terms apart
                    return False
                normal[i, i] = np.sqrt(total)
            else:
                normal[i, j] = total / normal[j, j]
    for i in range(terms):
        for k in range(i):
            right[i] -= normal[i, k] * right[k]
        right[i] /= normal[i, i]
    for i in range(terms - 1, -1, -1):
        for k in range(i + 1, terms):
            right[i] -= normal[k, i] * right[k]
        right[i] /= normal[i, i]
    return True
