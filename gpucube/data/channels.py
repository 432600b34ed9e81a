"""The map from input channels to output channels: pure arithmetic, no files.

In: the selected channels of every spectral window (frequency, width) and tclean's `start`, `width`, `nchan`, counted in
channels. Out: the centre and width of every output channel, and for each window a `ChannelMap` that says which of its
channels are averaged into which output channel. A slot is an output channel that a window contributes to.

Rules
-----
* Channels of different windows follow one another in the order in which the windows were selected.
* Windows that overlap in frequency share output channels. A channel joins an existing one if their centres are less than
  half a channel apart. Channels that join none are added, and the group is sorted by frequency in the sense (rising or
  falling) of its first window.
* `start`, `width`, `nchan` count along that list. A negative `width` runs backwards, and `|width|` > 1 averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpucube.errors import GpucubeError


@dataclass(frozen=True, kw_only=True)
class WindowChannels:
    """One spectral window of one MeasurementSet, and the channels selected from it."""

    label: str  # how messages name the window
    frequency: np.ndarray  # (nchan,) centres of all its channels, Hz
    width: np.ndarray  # (nchan,) Hz, signed as in the MeasurementSet
    selected: np.ndarray  # (nselected,) indices of the selected channels in the order wanted


@dataclass(frozen=True, kw_only=True)
class ChannelMap:
    """The slots of one window: slot k averages ``members[offsets[k]:offsets[k + 1]]`` into the channel ``output[k]``."""

    output: np.ndarray  # (nslot,) int64, output channels, ascending
    offsets: np.ndarray  # (nslot + 1,) int64
    members: np.ndarray  # (nmember,) int64, input channels
    member_frequency: np.ndarray  # (nmember,) Hz
    frequency: np.ndarray  # (nslot,) mean of the members of each slot, Hz; scales uvw

    @property
    def span(self) -> tuple[int, int]:
        """First and last input channel that is needed."""
        return int(self.members.min()), int(self.members.max())


@dataclass(frozen=True, kw_only=True)
class OutputChannels:
    """The channels of the cube, and the map of each window."""

    frequency: np.ndarray  # (nchan,) Hz
    width: np.ndarray  # (nchan,) Hz, positive
    maps: tuple[ChannelMap, ...]


def output_channels(
    windows: Sequence[WindowChannels], start: int | None = None, width: int = 1, nchan: int = -1
) -> OutputChannels:
    """Choose the output channels.

    Parameters
    ----------
    windows : sequence of WindowChannels
    start : int or None
        First channel. None is the first of the selection, or the last when `width` is negative.
    width : int
        Channels averaged into one, not 0; negative to run backwards.
    nchan : int
        Number of output channels; -1 for as many as the selection fills.

    Raises
    ------
    GpucubeError
        Nothing selected; `start` or `nchan` beyond the selection; overlapping windows of different resolution.
    """
    frequency, channel_width, owner, channel, native = _native_channels(windows)
    total = len(frequency)
    first = start if start is not None else (0 if width > 0 else total - 1)
    if not 0 <= first < total:
        raise GpucubeError(f"`start={first}` is out of range: the selection has channels 0 to {total - 1}")
    step = abs(width)
    available = (total - first) // step if width > 0 else (first + 1) // step
    if available == 0:
        raise GpucubeError(f"`width={width}` is too wide: only {total} channels are selected (`start={first}`)")
    if nchan > available:
        raise GpucubeError(
            f"`nchan={nchan}` is out of range: from `start={first}` in steps of `width={width}` "
            f"there are {available} output channels"
        )
    count = available if nchan < 0 else nchan
    # native channels of each output channel, (count, step)
    if width > 0:
        groups = first + np.arange(count)[:, None] * step + np.arange(step)
    else:
        groups = first - np.arange(count)[:, None] * step - np.arange(step)
    output_of_native = np.full(total, -1)
    output_of_native[groups.ravel()] = np.repeat(np.arange(count), step)
    output = output_of_native[native]
    maps = tuple(_channel_map(windows[w], channel[owner == w], output[owner == w]) for w in range(len(windows)))
    return OutputChannels(
        frequency=frequency[groups].mean(1),  # (count, step) -> (count,)
        width=channel_width[groups].sum(1),
        maps=maps,
    )


def _native_channels(
    windows: Sequence[WindowChannels],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """List the distinct channels of all windows: the native channels, before averaging.

    Returns
    -------
    frequency, width : numpy.ndarray
        Of every native channel, Hz, shape (nnative,).
    owner, channel, native : numpy.ndarray
        For every selected input channel its window, its index there and its native channel, int, shape (nselected,).
    """
    frequencies, widths, owners, channels, natives = [], [], [], [], []
    base = 0
    for group in _overlapping_groups(windows):
        freq, wide = np.empty(0), np.empty(0)
        place = {}
        for w in group:
            f, d = windows[w].frequency[windows[w].selected], np.abs(windows[w].width[windows[w].selected])
            place[w] = _join(freq, wide, f, d, windows[w].label)
            added = place[w] >= len(freq)
            freq, wide = np.append(freq, f[added]), np.append(wide, d[added])
        if len(group) > 1:
            order = np.argsort(freq if _rising(windows[group[0]]) else -freq, kind="stable")
            rank = np.empty(len(order), int)
            rank[order] = np.arange(len(order))
            freq, wide = freq[order], wide[order]
            place = {w: rank[p] for w, p in place.items()}
        for w in group:
            owners.append(np.full(len(place[w]), w))
            channels.append(windows[w].selected)
            natives.append(place[w] + base)
        frequencies.append(freq)
        widths.append(wide)
        base += len(freq)
    if base == 0:
        raise GpucubeError("no channel is selected: check `spw`")
    return (
        np.concatenate(frequencies),
        np.concatenate(widths),
        np.concatenate(owners),
        np.concatenate(channels),
        np.concatenate(natives),
    )


def _join(freq: np.ndarray, wide: np.ndarray, f: np.ndarray, d: np.ndarray, label: str) -> np.ndarray:
    """Match the channels of another window with native channels.

    Parameters
    ----------
    freq, wide : numpy.ndarray
        Frequencies and widths of the native channels.
    f, d : numpy.ndarray
        Those of the other window's channels.
    label : str
        How messages name the other window.

    Returns
    -------
    numpy.ndarray
        The native channel that each channel joins; an index beyond the last for each new one.
    """
    index = np.full(len(f), -1)
    if len(freq):
        order = np.argsort(freq)
        right = np.clip(np.searchsorted(freq[order], f), 1, max(len(freq) - 1, 1))
        candidates = np.stack([order[right - 1], order[np.minimum(right, len(freq) - 1)]])
        nearest = candidates[np.argmin(np.abs(freq[candidates] - f), axis=0), np.arange(len(f))]
        overlap = np.abs(freq[nearest] - f) < 0.5 * np.maximum(wide[nearest], d)
        unequal = overlap & (np.abs(wide[nearest] - d) > 0.01 * d)
        if unequal.any():
            raise GpucubeError(
                f"{label} overlaps another spectral window with channels of another width "
                f"({d[unequal][0]:.6g} and {wide[nearest[unequal][0]]:.6g} Hz): image them separately with `spw`"
            )
        index[overlap] = nearest[overlap]
        # two channels of one window stay two: if both join the same native channel, the later one becomes a new channel
        seen, firsts = np.unique(index, return_index=True)
        duplicate = (index >= 0) & ~np.isin(np.arange(len(f)), firsts[seen >= 0])
        index[duplicate] = -1
    new = index < 0
    index[new] = len(freq) + np.arange(new.sum())
    return index


def _overlapping_groups(windows: Sequence[WindowChannels]) -> list[list[int]]:
    """Group the windows whose frequency ranges overlap, each group in the order of selection."""
    spans = []
    for window in windows:
        f, d = window.frequency[window.selected], np.abs(window.width[window.selected])
        spans.append(((f - 0.5 * d).min(), (f + 0.5 * d).max()) if len(f) else (np.inf, -np.inf))
    groups: list[tuple[list[int], float, float]] = []
    for w, (low, high) in enumerate(spans):
        members = [w]
        rest = []
        # windows that merely touch are neighbours and do not overlap
        for group, glow, ghigh in groups:
            slack = 1e-6 * (high - low)
            if low + slack < ghigh and glow + slack < high:
                members, low, high = group + members, min(low, glow), max(high, ghigh)
            else:
                rest.append((group, glow, ghigh))
        groups = [*rest, (sorted(members), low, high)]
    return [g for g, _, _ in sorted(groups, key=lambda item: item[0][0])]


def _rising(window: WindowChannels) -> bool:
    """Return True if the frequency rises along the selected channels."""
    f = window.frequency[window.selected]
    return bool(f[-1] > f[0]) if len(f) > 1 else bool(window.width[window.selected[0]] >= 0)


def _channel_map(window: WindowChannels, channel: np.ndarray, output: np.ndarray) -> ChannelMap:
    """Map the input channels `channel` of a window to the output channels `output`; -1 means unused."""
    used = output >= 0
    order = np.argsort(output[used], kind="stable")
    out, members = output[used][order], channel[used][order]
    slots, begins = np.unique(out, return_index=True)
    offsets = np.append(begins, len(out)).astype(np.int64)
    frequency = window.frequency[members]
    sums = np.add.reduceat(frequency, begins) if len(begins) else np.empty(0)
    return ChannelMap(
        output=slots.astype(np.int64),
        offsets=offsets,
        members=members.astype(np.int64),
        member_frequency=frequency,
        frequency=sums / np.diff(offsets),
    )
