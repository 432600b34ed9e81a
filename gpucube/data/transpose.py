"""Turn rows of all channels into channels of all rows: the compiled core of INGEST.

In: a `Block` of rows as read, the mapping of its rows and channels, and how Stokes parameters are formed. Out: `Planes`,
the samples of every output channel. One pass over the block decides which samples count, forms the Stokes parameter,
shifts the phase and averages channels; it runs tile by tile, so that both orders of the data stay in the cache.

A sample counts if its FLAG is not set, its weight is above 0 and below `LARGEST`, and its value is below `LARGEST`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gpucube.caches import njit
from gpucube.data.stokes import Combination, Rule

if TYPE_CHECKING:
    from gpucube.data.channels import ChannelMap
    from gpucube.data.rows import Block

LARGEST = 1e20
"""Jy, and 1/Jy^2. A value or weight that is not smaller is garbage: the Sun has 1e10 Jy at most, and one such sample would
decide about a whole plane."""

_ROWS, _SLOTS = 16, 64
"""Rows and slots of a tile: 16 rows of 64 channels and two hands are 16 KiB, half of an L1 cache."""

_inlined = njit(inline="always")


class KeptRows(NamedTuple):
    """The rows of a block that go into the store."""

    number: np.ndarray  # (nkept,) int64, rows of the block
    usable: np.ndarray  # (nkept,) bool, False where no sample counts, because uvw is garbage
    delay: np.ndarray  # (nkept,) seconds by which the new phase centre is nearer; 0 where the phase stays


class Planes(NamedTuple):
    """The samples of a run of rows, by Stokes parameter and slot."""

    vis: np.ndarray  # (nstokes, nslot, nrow) complex64, Jy
    weight: np.ndarray  # (nstokes, nslot, nrow) float32, 1/Jy^2; 0 where the sample does not count
    counts: np.ndarray  # (nstokes, nslot) int64, samples that count
    power: np.ndarray  # (nstokes, nslot) float64, sum of w |V|^2 over them
    lacking: np.ndarray  # (nstokes, nslot) int64, input channels of these samples that do not count
    strength: np.ndarray  # (nrow,) float64, largest w |V|^2 of the samples of a row that count; -1 if none does
    garbage: np.ndarray  # (nrow,) bool, rows with an unflagged value or weight that is too large

    @property
    def seen(self) -> np.ndarray:
        """Rows with a sample that counts, bool, (nrow,)."""
        seen: np.ndarray = self.strength >= 0
        return seen


class _Slots(NamedTuple):
    """A `ChannelMap` whose channel numbers count from the first channel of the block."""

    offsets: np.ndarray
    members: np.ndarray
    frequency: np.ndarray


class _Hands(NamedTuple):
    """`Combination`s as arrays."""

    rule: np.ndarray  # (nstokes,)
    hands: np.ndarray  # (nstokes, 2)
    factors: np.ndarray  # (nstokes, 2) complex128


def transpose(block: Block, rows: KeptRows, channels: ChannelMap, combinations: Sequence[Combination]) -> Planes:
    """Form Stokes parameters, shift phases and average channels of a block, and put it into channel order.

    Parameters
    ----------
    block : Block
    rows : KeptRows
    channels : ChannelMap
        Which channels of the block each slot averages.
    combinations : sequence of Combination
        One for each Stokes parameter.
    """
    shape = (len(combinations), len(channels.output), len(rows.number))
    planes = Planes(
        np.empty(shape, np.complex64),
        np.empty(shape, np.float32),
        np.zeros(shape[:2], np.int64),
        np.zeros(shape[:2]),
        np.zeros(shape[:2], np.int64),
        np.full(shape[2], -1.0),
        np.zeros(shape[2], bool),
    )
    slots = _Slots(channels.offsets, channels.members - block.first_channel, channels.member_frequency)
    hands = _Hands(
        np.array([int(c.rule) for c in combinations]),
        np.array([c.hands for c in combinations]),
        np.array([c.factors for c in combinations], np.complex128),
    )
    _transpose(block, rows, slots, hands, planes)
    return planes


@njit()
def _transpose(block: Block, rows: KeptRows, slots: _Slots, combinations: _Hands, planes: Planes) -> None:
    """Fill `planes`."""
    # taking a field within the loops would count references there, which takes longer than the arithmetic
    _, data, flag, weight, _, _ = block
    number, usable, delay = rows
    offsets, members, frequency = slots
    rule, hands, factors = combinations
    vis_out, weight_out, counts, power, lacking, strength, garbage = planes
    nstokes, nslot, nrow = vis_out.shape
    for first_slot, first_row in [(i, k) for i in range(0, nslot, _SLOTS) for k in range(0, nrow, _ROWS)]:
        for s in range(nstokes):
            a, b = hands[s]
            factor_a, factor_b = factors[s]
            can_be_made = rule[s] != Rule.NONE
            for slot in range(first_slot, min(first_slot + _SLOTS, nslot)):
                begin, end = offsets[slot], offsets[slot + 1]
                counted, missing, weighted_power = 0, 0, 0.0
                for k in range(first_row, min(first_row + _ROWS, nrow)):
                    re, im, total, without = 0.0, 0.0, 0.0, 0
                    for j in range(begin, end if usable[k] and can_be_made else begin):
                        vis, w = hand(data, flag, weight, number[k], members[j], a)
                        if b >= 0:
                            vis_b, w_b = hand(data, flag, weight, number[k], members[j], b)
                            vis, w = _combined(rule[s], factor_a, factor_b, vis, w, vis_b, w_b)
                        if w > 0.0:
                            vis = _shifted(vis, delay[k], frequency[j])
                            re += vis.real * w
                            im += vis.imag * w
                            total += w
                        else:
                            without += 1
                            if _too_large(data, flag, weight, number[k], members[j], a) or (
                                b >= 0 and _too_large(data, flag, weight, number[k], members[j], b)
                            ):
                                garbage[k] = True
                    if total > 0.0:
                        re /= total
                        im /= total
                        counted += 1
                        missing += without
                        p = total * (re * re + im * im)
                        weighted_power += p
                        strength[k] = max(strength[k], p)
                    vis_out[s, slot, k] = complex(re, im)
                    weight_out[s, slot, k] = total
                counts[s, slot] += counted
                power[s, slot] += weighted_power
                lacking[s, slot] += missing


@_inlined
def hand(
    data: np.ndarray, flag: np.ndarray, weight: np.ndarray, row: int, channel: int, place: int
) -> tuple[complex, float]:
    """Value and weight of one correlation; weight 0 if it does not count."""
    vis = np.complex128(data[row, channel, place])
    w = np.float64(weight[row, channel if weight.shape[1] > 1 else 0, place])
    counts = not flag[row, channel, place] and 0.0 < w < LARGEST and abs(vis.real) < LARGEST and abs(vis.imag) < LARGEST
    return vis, w if counts else 0.0


@_inlined
def _too_large(data: np.ndarray, flag: np.ndarray, weight: np.ndarray, row: int, channel: int, hand: int) -> bool:
    """Whether an unflagged value or weight is a number, but one that no array measures."""
    if flag[row, channel, hand]:
        return False
    w = weight[row, channel if weight.shape[1] > 1 else 0, hand]
    vis = data[row, channel, hand]
    finite = np.isfinite(w) and np.isfinite(vis.real) and np.isfinite(vis.imag)
    return finite and w > 0.0 and not (w < LARGEST and abs(vis.real) < LARGEST and abs(vis.imag) < LARGEST)


@_inlined
def _combined(
    rule: int, factor_a: complex, factor_b: complex, vis_a: complex, w_a: float, vis_b: complex, w_b: float
) -> tuple[complex, float]:
    """Value and weight of a Stokes parameter from its two hands, see `Combination`; weight 0 if it does not count."""
    if rule == Rule.BOTH:
        if w_a > 0.0 and w_b > 0.0:
            return factor_a * vis_a + factor_b * vis_b, 4.0 * w_a * w_b / (w_a + w_b)
        return vis_a, 0.0
    if w_a > 0.0 and w_b > 0.0:
        w = w_a + w_b
        return complex((vis_a.real * w_a + vis_b.real * w_b) / w, (vis_a.imag * w_a + vis_b.imag * w_b) / w), w
    if w_a > 0.0:
        return vis_a, w_a
    return vis_b, w_b


@_inlined
def _shifted(vis: complex, delay: float, frequency: float) -> complex:
    """Value at another phase centre."""
    if delay == 0.0:
        return vis
    turns = delay * frequency
    phase = 2.0 * np.pi * (turns - np.floor(turns))
    return vis * complex(np.cos(phase), np.sin(phase))
