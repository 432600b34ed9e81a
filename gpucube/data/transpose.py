"""Rows of all channels become channels of all rows."""

from __future__ import annotations

import numba
import numpy as np

_ROWS, _SLOTS = 16, 64
"""Rows and slots transposed at a time: 16 rows of 64 channels and two hands are 16 KiB, half of an L1 cache."""


@numba.njit(nogil=True, cache=True, inline="always")
def _usable(flagged: bool, weight: float, re: float, im: float) -> bool:
    # x - x is 0 only for finite x
    return not flagged and weight > 0.0 and weight - weight == 0.0 and re - re == 0.0 and im - im == 0.0


@numba.njit(nogil=True, cache=True)
def transpose_block(
    data: np.ndarray,
    flag: np.ndarray,
    weight: np.ndarray,
    rows: np.ndarray,
    good: np.ndarray,
    delay: np.ndarray,
    frequency: np.ndarray,
    origin: int,
    offsets: np.ndarray,
    members: np.ndarray,
    rule: np.ndarray,
    hands: np.ndarray,
    factors: np.ndarray,
    vis_out: np.ndarray,
    weight_out: np.ndarray,
    counts: np.ndarray,
    power: np.ndarray,
) -> None:
    """Form Stokes, shift phase, average channels and write one block channel-major.

    Parameters
    ----------
    data, flag : (nrow, nchan, ncorr); weight : (nrow, nchan or 1, ncorr)
    rows : rows of the block that go out; `good` (finite uvw) and `delay` (seconds, to the new phase centre) for each
    origin : input channel of data[:, 0]
    offsets, members : as `ChannelMap`
    rule, hands, factors : as `stokes.Combination`, one row per Stokes parameter
    vis_out, weight_out : (nstokes, nslot, len(rows)), written
    counts, power : (nstokes, nslot), added to: samples that count, and sum of w |V|^2
    """
    spectral_weight = weight.shape[1] > 1
    nslot = len(offsets) - 1
    for first_slot in range(0, nslot, _SLOTS):
        last_slot = min(first_slot + _SLOTS, nslot)
        for first_row in range(0, len(rows), _ROWS):
            last_row = min(first_row + _ROWS, len(rows))
            for s in range(len(rule)):
                a, b = hands[s, 0], hands[s, 1]
                fa, fb = factors[s, 0], factors[s, 1]
                far, fai, fbr, fbi = fa.real, fa.imag, fb.real, fb.imag
                for slot in range(first_slot, last_slot):
                    begin, end = offsets[slot], offsets[slot + 1]
                    counted, powered = 0, 0.0
                    for k in range(first_row, last_row):
                        r = rows[k]
                        total_re, total_im, total_w = 0.0, 0.0, 0.0
                        for j in range(begin, end):
                            c = members[j] - origin
                            cw = c if spectral_weight else 0
                            ar, ai = np.float64(data[r, c, a].real), np.float64(data[r, c, a].imag)
                            wa = np.float64(weight[r, cw, a])
                            ok_a = good[k] and _usable(flag[r, c, a], wa, ar, ai)
                            re, im, w = 0.0, 0.0, 0.0
                            if b < 0:
                                if ok_a:
                                    re, im, w = ar, ai, wa
                            else:
                                br, bi = np.float64(data[r, c, b].real), np.float64(data[r, c, b].imag)
                                wb = np.float64(weight[r, cw, b])
                                ok_b = good[k] and _usable(flag[r, c, b], wb, br, bi)
                                if rule[s] == 1:
                                    if ok_a and ok_b:
                                        re = far * ar - fai * ai + fbr * br - fbi * bi
                                        im = far * ai + fai * ar + fbr * bi + fbi * br
                                        w = 4.0 * wa * wb / (wa + wb)
                                elif ok_a and ok_b:
                                    w = wa + wb
                                    re, im = (ar * wa + br * wb) / w, (ai * wa + bi * wb) / w
                                elif ok_a:
                                    re, im, w = ar, ai, wa
                                elif ok_b:
                                    re, im, w = br, bi, wb
                            if w > 0.0:
                                if delay[k] != 0.0:
                                    turns = delay[k] * frequency[members[j]]
                                    phase = 2.0 * np.pi * (turns - np.floor(turns))
                                    cos, sin = np.cos(phase), np.sin(phase)
                                    re, im = re * cos - im * sin, re * sin + im * cos
                                total_re += re * w
                                total_im += im * w
                                total_w += w
                        if total_w > 0.0:
                            total_re /= total_w
                            total_im /= total_w
                            counted += 1
                            powered += total_w * (total_re * total_re + total_im * total_im)
                        vis_out[s, slot, k] = complex(total_re, total_im)
                        weight_out[s, slot, k] = total_w
                    counts[s, slot] += counted
                    power[s, slot] += powered
