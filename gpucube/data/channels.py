"""The map from input channels to output channels: pure arithmetic, no files.

In: the selected channels of every spectral window (frequency, width) and tclean's `start`, `width`, `nchan`, counted in
channels. Out: the centre and width of every output channel, and for each window a `ChannelMap` that says which of its
channels are averaged into which output channel. A slot is an output channel that a window contributes to.

Rules
-----
* All windows share one grid of native channels, those before averaging. It reaches from the lowest to the highest selected
  frequency. Native channels that no window selects stay blank.
* The grid is that of the window with most channels, continued in its own step. Every other selected channel has to lie
  within `NEAR` of a channel of the grid.
* The axis rises in frequency, or falls if every window falls. The order of the windows does not matter.
* `start`, `width`, `nchan` count along the grid. A negative `width` runs backwards, and `|width|` > 1 averages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.text import with_prefix

SAME = 0.01
"""Channels that differ by no more than this part of a channel are one, without a warning."""

NEAR = 0.1
"""Channels that differ by no more than this part of a channel are imaged as one, with a warning. Others would have to be
interpolated."""

MOST_BLANK = 10_000
"""Blank channels that a cube may have if it has fewer channels with data."""


class GridsDiffer(GpucubeError):
    """The windows have no grid of channels in common."""


@dataclass(frozen=True, kw_only=True)
class WindowChannels:
    """One spectral window of one MeasurementSet, and the channels selected from it."""

    label: str  # how messages name the window
    frequency: np.ndarray  # (nchan,) centres of all its channels, Hz
    width: np.ndarray  # (nchan,) Hz, signed as in the MeasurementSet
    selected: np.ndarray  # (nselected,) indices of the selected channels, ascending

    @property
    def step(self) -> float:
        """Usual distance between neighbouring channels, positive, Hz."""
        apart = np.median(np.diff(np.sort(self.frequency))) if len(self.frequency) > 1 else 0.0
        return float(apart or abs(self.width[0]) or 1.0)

    @property
    def falls(self) -> bool:
        """Whether the frequency falls along the window."""
        return bool(self.frequency[-1] < self.frequency[0] if len(self.frequency) > 1 else self.width[0] < 0)


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
    warnings: tuple[str, ...]


class _Grid(NamedTuple):
    """Native channels whose frequency a window gives. Others lie evenly between their neighbours."""

    place: np.ndarray  # (nknown,) int64, ascending in frequency from 0, the lowest channel of the reference window
    frequency: np.ndarray  # (nknown,) Hz
    width: np.ndarray  # (nknown,) Hz, positive


def output_channels(
    windows: Sequence[WindowChannels], start: int | None = None, width: int = 1, nchan: int = -1
) -> OutputChannels:
    """Choose the output channels.

    Parameters
    ----------
    windows : sequence of WindowChannels
    start : int or None
        First native channel. None is the first of the grid, or the last when `width` is negative.
    width : int
        Channels averaged into one, not 0; negative to run backwards.
    nchan : int
        Number of output channels; -1 for as many as the grid fills.

    Raises
    ------
    GpucubeError
        Windows that share no grid; `start` or `nchan` beyond the grid; no output channel has data, or far too few have.
    """
    grid, places, warnings = _common_grid(windows)
    low, high = min(int(p.min()) for p in places), max(int(p.max()) for p in places)
    falls = all(window.falls for window in windows)
    total, step = high - low + 1, abs(width)
    first = start if start is not None else (0 if width > 0 else total - 1)
    if not 0 <= first < total:
        raise GpucubeError(f"`start={first}` is out of range: the selection has channels 0 to {total - 1}")
    available = (total - first) // step if width > 0 else (first + 1) // step
    if available == 0:
        raise GpucubeError(f"`width={width}` is too wide: only {total} channels are selected (`start={first}`)")
    if nchan > available:
        raise GpucubeError(
            f"`nchan={nchan}` is out of range: from `start={first}` in steps of `width={width}` "
            f"there are {available} output channels"
        )
    count = available if nchan < 0 else nchan
    forward = 1 if width > 0 else -1
    maps = tuple(
        _channel_map(window, forward * ((high - place if falls else place - low) - first) // step, count)
        for window, place in zip(windows, places, strict=True)
    )
    filled = len(np.unique(np.concatenate([m.output for m in maps])))
    blank = count - filled
    if not filled:
        raise GpucubeError(f"no data in the {count} channels from `start={first}`: {_widest_gap(windows, places)}")
    if blank > max(filled, MOST_BLANK):
        raise GpucubeError(
            f"{blank} of {count} channels would be blank, because {_widest_gap(windows, places)}: "
            "image both sides in separate runs with `spw`, or choose channels with `start` and `nchan`"
        )
    if blank > filled:
        warnings = (*warnings, f"{blank} of {count} channels are blank, because {_widest_gap(windows, places)}")
    # native channels of each output channel, (count, step), and their places
    native = first + forward * (np.arange(count)[:, None] * step + np.arange(step))
    place = high - native if falls else low + native
    return OutputChannels(
        frequency=np.interp(place, grid.place, grid.frequency).mean(1),  # (count, step) -> (count,)
        width=np.interp(place, grid.place, grid.width).sum(1),
        maps=maps,
        warnings=warnings,
    )


def native_number(windows: Sequence[WindowChannels], frequency: float) -> int:
    """Number of the channel nearest to a frequency along the grid of all windows, as `start` of `output_channels` counts."""
    grid, places, _ = _common_grid(windows)
    place = round(float(np.interp(frequency, grid.frequency, grid.place)))
    falls = all(window.falls for window in windows)
    return max(int(p.max()) for p in places) - place if falls else place - min(int(p.min()) for p in places)


def _common_grid(windows: Sequence[WindowChannels]) -> tuple[_Grid, list[np.ndarray], tuple[str, ...]]:
    """Return the grid, the places of each window's selected channels, (nselected,) int64, and what to warn of."""
    for window in windows:
        if not len(window.selected):
            raise GpucubeError(f"no channel is selected in {window.label}: check `spw`")
    # most channels first, and then an order that does not depend on the order of storage
    order = sorted(
        range(len(windows)),
        key=lambda w: (-len(windows[w].frequency), windows[w].frequency.min(), windows[w].frequency.max()),
    )
    reference = windows[order[0]]
    grid = own = _grid_of(reference)
    ends = own.frequency[[0, -1]]
    step = float(ends[1] - ends[0]) / max(1, int(own.place[-1])) or reference.step
    places = [own.place] * len(windows)
    apart, label = 0.0, ""
    for w in order:
        window = windows[w]
        if abs(window.step - reference.step) > SAME * reference.step:
            raise GridsDiffer(
                f"{reference.label} and {window.label} have channels of different width ({reference.step:.6g} and "
                f"{window.step:.6g} Hz), which share no axis"
            )
        frequency, width = window.frequency[window.selected], np.abs(window.width[window.selected])
        beyond = np.minimum(frequency - ends[0], 0) + np.maximum(frequency - ends[1], 0)
        exact = np.interp(frequency, own.frequency, own.place) + beyond / step
        places[w] = place = np.rint(exact).astype(np.int64)
        if (offset := float(np.abs(exact - place).max())) > NEAR:
            raise GridsDiffer(
                f"the channels of {reference.label} and {window.label} are {_in_channels(offset, step)} apart, and "
                "share no axis"
            )
        if len(np.unique(place)) < len(place):
            raise GpucubeError(
                f"two channels of {window.label} have the same frequency: leave one of them out with `spw`"
            )
        known, index = np.unique(np.concatenate([grid.place, place]), return_index=True)
        grid = _Grid(
            known,
            np.concatenate([grid.frequency, frequency])[index],
            np.concatenate([grid.width, width])[index],
        )
        shift = float(np.abs(np.interp(place, grid.place, grid.frequency) - frequency).max()) / step
        if shift > apart:
            apart, label = shift, window.label
    if apart <= SAME:
        return grid, places, ()
    warning = (
        f"the channels of {label} are up to {_in_channels(apart, step)} away from those of other spectral windows, and are "
        "imaged with them as they are"
    )
    return grid, places, (warning,)


def _grid_of(window: WindowChannels) -> _Grid:
    """Channels of one window as a grid. Gaps of whole steps are places without a channel."""
    order = np.argsort(window.frequency, kind="stable")
    jumps = np.diff(window.frequency[order]) / window.step
    whole = np.rint(jumps)
    if np.any(whole < 1) or np.any(np.abs(jumps - whole) > NEAR):
        whole = np.ones(len(jumps))
    place = np.concatenate([[0], np.cumsum(whole)]).astype(np.int64)
    return _Grid(place, window.frequency[order], np.abs(window.width[order]))


def _in_channels(offset: float, step: float) -> str:
    return f"{offset:.2g} channel ({with_prefix(offset * step, 'Hz')})"


def _widest_gap(windows: Sequence[WindowChannels], places: Sequence[np.ndarray]) -> str:
    """Say between which windows the widest gap lies."""
    owner = np.repeat(np.arange(len(windows)), [len(place) for place in places])
    order = np.argsort(np.concatenate(places), kind="stable")
    frequency = np.concatenate([window.frequency[window.selected] for window in windows])[order]
    widest = int(np.argmax(np.diff(frequency)))
    apart = with_prefix(frequency[widest + 1] - frequency[widest], "Hz")
    below, above = (windows[owner[order[k]]].label for k in (widest, widest + 1))
    return (
        f"selected channels of {below} are {apart} apart"
        if below == above
        else f"{below} and {above} are {apart} apart"
    )


def _channel_map(window: WindowChannels, output: np.ndarray, count: int) -> ChannelMap:
    """Map the selected channels of a window to output channels, of which only 0 to `count` - 1 exist."""
    used = (output >= 0) & (output < count)
    order = np.argsort(output[used], kind="stable")
    out, members = output[used][order], window.selected[used][order]
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
