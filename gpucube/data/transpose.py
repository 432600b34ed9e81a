"""Turn rows of all channels into channels of all rows: the compiled core of INGEST.

In: a `Block` of rows as read, the mapping of its rows and channels, and how Stokes parameters are formed. Out: `Planes`,
the samples of every output channel. One pass over the block decides which samples count, forms the Stokes parameter,
shifts the phase and averages channels. It takes one channel of `_LANES` rows at a time, and does each step for all of them
in a loop of its own without branches, which the compiler turns into vector instructions.

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

_LARGEST = np.float32(LARGEST)  # the next number above: a number of single precision is below both or below none

_LANES = 64
"""Rows that are worked on together: all channels of so many rows stay in an L2 cache, and the store gets runs of so many rows."""

_ADDED = 16
"""Rows whose powers are added before they are added to those of other rows."""

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


@njit(error_model="numpy")
def _transpose(block: Block, rows: KeptRows, slots: _Slots, combinations: _Hands, planes: Planes) -> None:
    """Fill `planes`."""
    # taking a field within the loops would count references there, which takes longer than the arithmetic
    _, data, flag, weight, _, _ = block
    number, usable, delay = rows
    offsets, members, frequency = slots
    rule, hands, factors = combinations
    vis_out, weight_out, counts, power, lacking, strength, garbage = planes
    nstokes, nslot, nrow = vis_out.shape
    all_usable, shifted = True, False
    for k in range(nrow):
        all_usable &= usable[k]
        shifted |= delay[k] != 0.0
    vis_a, vis_b = np.zeros(_LANES, np.complex64), np.zeros(_LANES, np.complex64)
    weight_a, weight_b = np.zeros(_LANES, np.float32), np.zeros(_LANES, np.float32)
    one = np.zeros((3, _LANES))  # real and imaginary part and weight of one input channel
    mean = np.zeros((5, _LANES))  # the same of a slot, the number of its channels that do not count, and its power
    for first in range(0, nrow, _LANES):
        n = min(_LANES, nrow - first)
        for slot in range(nslot):
            for s in range(nstokes):
                a, b = hands[s]
                other = b if b >= 0 else a  # hands may be stored in any order
                factor_a, factor_b = factors[s]
                for i in range(4):
                    for k in range(_LANES):
                        mean[i, k] = 0.0
                for j in range(offsets[slot], offsets[slot + 1] if rule[s] != Rule.NONE else offsets[slot]):
                    at = members[j], a, other
                    _gather(data, flag, weight, number[first : first + n], at, vis_a, weight_a, vis_b, weight_b)
                    for k in range(0 if all_usable else n):
                        if not usable[first + k]:
                            weight_a[k] = weight_b[k] = 0.0
                    any_large = _large(vis_a, weight_a) + _large(vis_b, weight_b) > 0
                    if any_large:
                        _drop_large(vis_a, weight_a)
                        _drop_large(vis_b, weight_b)
                    if rule[s] == Rule.BOTH:
                        _both(factor_a, factor_b, vis_a, weight_a, vis_b, weight_b, one)
                    else:
                        _either(vis_a, weight_a, vis_b, weight_b, b >= 0, one)
                    for k in range(n if shifted else 0):
                        vis = _shifted(complex(one[0, k], one[1, k]), delay[first + k], frequency[j])
                        one[0, k], one[1, k] = vis.real, vis.imag
                    _add(one, mean)
                    for k in range(n if any_large else 0):
                        if (
                            usable[first + k]
                            and not one[2, k] > 0.0
                            and (
                                _too_large(data, flag, weight, number[first + k], members[j], a)
                                or _too_large(data, flag, weight, number[first + k], members[j], other)
                            )
                        ):
                            garbage[first + k] = True
                _divide(mean)
                for k in range(n):
                    vis_out[s, slot, first + k] = complex(mean[0, k], mean[1, k])
                for k in range(n):
                    weight_out[s, slot, first + k] = mean[2, k]
                for k in range(n):
                    strength[first + k] = max(strength[first + k], mean[4, k])
                counted, missing = 0, 0.0
                for k in range(_LANES):
                    counted += 1 if mean[2, k] > 0.0 else 0
                for k in range(_LANES):
                    missing += mean[3, k]
                counts[s, slot] += counted
                lacking[s, slot] += int(missing)
                for part in range(0, _LANES, _ADDED):
                    weighted_power = 0.0
                    for k in range(part, part + _ADDED):
                        weighted_power += max(mean[4, k], 0.0)
                    power[s, slot] += weighted_power


@_inlined
def _gather(
    data: np.ndarray,
    flag: np.ndarray,
    weight: np.ndarray,
    number: np.ndarray,
    at: tuple[int, int, int],
    vis_a: np.ndarray,
    weight_a: np.ndarray,
    vis_b: np.ndarray,
    weight_b: np.ndarray,
) -> None:
    """Copy a channel and two of its correlations of some rows; weights of flagged samples, and of no row, become 0."""
    channel, a, b = np.uint64(at[0]), np.uint64(at[1]), np.uint64(at[2])  # whether they are negative is not tested then
    weight_channel = channel if weight.shape[1] > 1 else np.uint64(0)
    for k in range(len(number)):
        row = np.uint64(number[k])
        vis_a[k], vis_b[k] = data[row, channel, a], data[row, channel, b]
        weight_a[k] = np.float32(0.0) if flag[row, channel, a] else weight[row, weight_channel, a]
        weight_b[k] = np.float32(0.0) if flag[row, channel, b] else weight[row, weight_channel, b]
    for k in range(len(number), _LANES):
        weight_a[k] = weight_b[k] = 0.0


@_inlined
def _large(vis: np.ndarray, w: np.ndarray) -> int:
    """Count values and weights that are too large or not a number."""
    large = np.int32(0)
    for k in range(_LANES):
        below = (w[k] < _LARGEST) & (abs(vis[k].real) < _LARGEST) & (abs(vis[k].imag) < _LARGEST)
        large += np.int32(0) if below else np.int32(1)
    return int(large)


@_inlined
def _drop_large(vis: np.ndarray, w: np.ndarray) -> None:
    """Set their weights to 0."""
    for k in range(_LANES):
        if not (w[k] < _LARGEST and abs(vis[k].real) < _LARGEST and abs(vis[k].imag) < _LARGEST):
            w[k] = 0.0


@_inlined
def _both(
    factor_a: complex,
    factor_b: complex,
    vis_a: np.ndarray,
    weight_a: np.ndarray,
    vis_b: np.ndarray,
    weight_b: np.ndarray,
    out: np.ndarray,
) -> None:
    """Value and weight of a Stokes parameter that needs both hands, see `Combination`; weight 0 if it does not count."""
    for k in range(_LANES):
        vis = factor_a * np.complex128(vis_a[k]) + factor_b * np.complex128(vis_b[k])
        w_a, w_b = np.float64(weight_a[k]), np.float64(weight_b[k])
        w = 4.0 * w_a * w_b / (w_a + w_b)
        out[0, k], out[1, k] = vis.real, vis.imag
        out[2, k] = w if (w_a > 0.0) & (w_b > 0.0) else 0.0


@_inlined
def _either(
    vis_a: np.ndarray, weight_a: np.ndarray, vis_b: np.ndarray, weight_b: np.ndarray, has_b: bool, out: np.ndarray
) -> None:
    """The same of one that needs one hand, whether it has one or two."""
    for k in range(_LANES):
        a, b = np.complex128(vis_a[k]), np.complex128(vis_b[k])
        w_a, w_b = np.float64(weight_a[k]), np.float64(weight_b[k])
        w = w_a + w_b
        re, im = (a.real * w_a + b.real * w_b) / w, (a.imag * w_a + b.imag * w_b) / w
        good_a, good_b = w_a > 0.0, (w_b > 0.0) & has_b
        out[0, k] = re if good_a & good_b else b.real if good_b else a.real
        out[1, k] = im if good_a & good_b else b.imag if good_b else a.imag
        out[2, k] = w if good_a & good_b else w_b if good_b else w_a


@_inlined
def _add(one: np.ndarray, total: np.ndarray) -> None:
    """Add one input channel to the sums of a slot."""
    for k in range(_LANES):
        w = one[2, k]
        counts = w > 0.0
        total[0, k] += one[0, k] * w if counts else 0.0
        total[1, k] += one[1, k] * w if counts else 0.0
        total[2, k] += w if counts else 0.0
        total[3, k] += 0.0 if counts else 1.0


@_inlined
def _divide(mean: np.ndarray) -> None:
    """Turn the sums of a slot into its mean and w |V|^2, which is -1 where no channel counts."""
    for k in range(_LANES):
        w = mean[2, k]
        counts = w > 0.0
        re, im = mean[0, k] / w, mean[1, k] / w
        p = w * (re * re + im * im)
        mean[0, k] = re if counts else 0.0
        mean[1, k] = im if counts else 0.0
        mean[3, k] = mean[3, k] if counts else 0.0
        mean[4, k] = p if counts else -1.0


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
def _shifted(vis: complex, delay: float, frequency: float) -> complex:
    """Value at another phase centre."""
    if delay == 0.0:
        return vis
    turns = delay * frequency
    phase = 2.0 * np.pi * (turns - np.floor(turns))
    return vis * complex(np.cos(phase), np.sin(phase))
