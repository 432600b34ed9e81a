"""Spectral windows and their channels in CASA's selection syntax.

An expression is a list of items with commas between them: windows, and after a colon channels. Windows are numbers
``0``, ranges ``0~3`` or ``0~8^2``, several of these with semicolons, bounds ``<2``, ``>2``, ``1<>5``, names, patterns,
``*``, or frequencies: ``1.4GHz`` is the first window whose middle is near enough, ``1.3~1.5GHz`` are the windows whose
middle lies in the range, ``<1.4GHz`` compares reference frequencies. Channels are numbers, ranges ``5~20`` or
``5~20^3``, ``^4``, or frequencies ``1.41~1.42GHz``, with semicolons between them. Line-free channels may also be
velocities ``-50~10km/s``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gpucube.data.measurementset import SpectralWindow
from gpucube.data.msselect.lists import WrongSelection, name_matcher, numbered, split_items, wrong

_HERTZ = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_VALUE = r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([kKmMgGtT]?[hH][zZ])?"
_RANGE = re.compile(rf"{_VALUE}(?:\s*~\s*{_VALUE})?(?:\s*\^\s*{_VALUE})?")
_STEP = re.compile(r"\^\s*(\d+)")
_BOUND = re.compile(rf"([<>])\s*{_VALUE}")
_BETWEEN = re.compile(rf"{_VALUE}\s*<>\s*{_VALUE}")
_NAME = re.compile(r"[A-Za-z_{}+\-'#][A-Za-z0-9_{}+\-'#]*")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_SLASH = "\u2215"
"""Stands for the slash of km/s, because a slash begins a regular expression."""

_VELOCITY = re.compile(rf"({_NUMBER})\s*(k?m{_SLASH}s)?\s*~\s*({_NUMBER})\s*(k?m{_SLASH}s)")


class _Asked(NamedTuple):
    """A parameter and its value, for messages."""

    parameter: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What velocities and messages need to know of a window that is imaged."""

    least: float  # Doppler factor of its rows from the frame of the data to that of the cube
    largest: float


@dataclass(frozen=True, kw_only=True)
class LineFree:
    """What is free of lines in one window."""

    channels: np.ndarray  # (n,) int64, ascending
    ranges: np.ndarray  # (nrange, 2) Hz, lowest and highest frequency in the frame of the cube, of ranges in velocity


def select_channels(text: str, windows: Sequence[SpectralWindow]) -> dict[int, np.ndarray | None]:
    """Window -> its selected channels, ascending, None for all of them; windows in the order in which they are named.

    >>> windows = [SpectralWindow(frequency=np.arange(8.0), width=np.ones(8), frame=None)] * 3
    >>> select_channels("2,0:1~5^2", windows)
    {2: None, 0: array([1, 3, 5])}
    """
    asked = _Asked("spw", text.strip())
    if not asked.text:
        return dict.fromkeys(range(len(windows)))
    chosen: dict[int, np.ndarray | None] = {}
    for item in _items(asked):
        named, colon, channels = _split_at_colon(item)
        for window in _windows(asked, named, windows):
            found = _channels(asked, channels, window, windows[window]) if colon and channels.strip() != "*" else None
            earlier = chosen.get(window, np.empty(0, int))
            chosen[window] = None if found is None or earlier is None else np.union1d(earlier, found)
    return chosen


def select_line_free(
    text: str,
    windows: Sequence[SpectralWindow],
    imaged: Mapping[int, Seen],
    to_hertz: Callable[[float], float] | None,
) -> dict[int, LineFree]:
    """Line-free channels of the windows that are imaged, from `contsubspw`; windows that it does not name are left out.

    Parameters
    ----------
    text : str
    windows : sequence of SpectralWindow
        All windows of the MeasurementSet.
    imaged : mapping
        Number of each window that is imaged -> `Seen`. The channels of the others do not matter.
    to_hertz : callable or None
        Frequency of a velocity in m/s, in the frame of the cube; None if no rest frequency is known.

    Raises
    ------
    WrongSelection
        An item is not understood, or lies beyond all windows that it names.
    """
    asked = _Asked("contsubspw", re.sub(r"m/s\b", f"m{_SLASH}s", text.strip()))
    try:
        return _line_free(asked, windows, imaged, to_hertz)
    except WrongSelection as error:
        raise WrongSelection(str(error).replace(_SLASH, "/")) from None


def _line_free(
    asked: _Asked,
    windows: Sequence[SpectralWindow],
    imaged: Mapping[int, Seen],
    to_hertz: Callable[[float], float] | None,
) -> dict[int, LineFree]:
    chosen = {number: LineFree(channels=np.empty(0, int), ranges=np.empty((0, 2))) for number in imaged}
    named_ones: set[int] = set()
    for item in _items(asked):
        named, colon, channels = _split_at_colon(item)
        numbers = [number for number in _windows(asked, named, windows) if number in imaged]
        named_ones.update(numbers)
        if not colon or channels.strip() == "*":
            for number in numbers:
                chosen[number] = replace(chosen[number], channels=np.arange(len(windows[number].frequency)))
            continue
        for part in split_items(channels, ";"):
            velocity = _velocity_range(asked, part, to_hertz)
            hit = False
            for number in numbers:
                frequency, of = windows[number].frequency, chosen[number]
                if velocity is None:
                    found = _channels(asked, part, number, windows[number], miss=False)
                    chosen[number] = replace(of, channels=np.union1d(of.channels, found))
                else:
                    low, high = velocity
                    found = np.flatnonzero(
                        (frequency * imaged[number].largest >= low) & (frequency * imaged[number].least <= high)
                    )
                    chosen[number] = replace(of, ranges=np.vstack([of.ranges, velocity]))
                hit |= bool(len(found))
            if numbers and not hit:
                edges = [edge for n in numbers for edge in np.sort(windows[n].frequency[[0, -1]]) / 1e9]
                where = "no line-free channel lies there: the spectral windows go"
                raise wrong(*asked, part, f"{where} from {min(edges):.6f} to {max(edges):.6f} GHz")
    return {number: chosen[number] for number in named_ones}


def _velocity_range(asked: _Asked, item: str, to_hertz: Callable[[float], float] | None) -> tuple[float, float] | None:
    """Lowest and highest frequency of a range of velocities; None if the item is something else."""
    match = _VELOCITY.fullmatch(item.strip())
    if match is None:
        if _SLASH in item:
            raise wrong(*asked, item, "expected a range of velocities such as '-50~10km/s'")
        return None
    if to_hertz is None:
        raise wrong(*asked, item, "it is in velocity, and no rest frequency is known: give `restfreq`")
    low, high = (float(match[k]) * (1e3 if (match[k + 1] or match[4])[0] == "k" else 1.0) for k in (1, 3))
    if high < low:
        ends = f"{match[3]}{match[4]}~{match[1]}{match[2] or match[4]}"
        raise wrong(*asked, item, f"the range ends before it begins: write {ends}")
    return to_hertz(high), to_hertz(low)


def _items(asked: _Asked) -> list[str]:
    text = asked.text
    return split_items(text[1:-1] if text[0] == "(" and text[-1] == ")" else text)


def _split_at_colon(item: str) -> tuple[str, str, str]:
    parts = split_items(item, ":")
    return parts[0], ":" * (len(parts) > 1), ":".join(parts[1:])


def _windows(asked: _Asked, item: str, windows: Sequence[SpectralWindow]) -> list[int]:
    """Windows that the part before the colon names."""
    found: list[int] = []
    if _SLASH in item:
        raise wrong(*asked, item, "expected spectral windows and a colon before velocities, as in '*:-50~10km/s'")
    if item == "*":
        found = list(range(len(windows)))
    elif match := _BOUND.fullmatch(item):
        value, hertz = _value(match[2], match[3])
        compared = [window.reference if hertz else n for n, window in enumerate(windows)]
        found = [n for n, known in enumerate(compared) if (known < value if match[1] == "<" else known > value)]
    elif match := _BETWEEN.fullmatch(item):
        (low, hertz), (high, _) = _value(match[1], match[2]), _value(match[3], match[4])
        found = [n for n, w in enumerate(windows) if low < (w.reference if hertz else n) < high]
    elif item[:1] not in ('"', "/") and not _NAME.fullmatch(item) and "*" not in item and "?" not in item:
        for part in split_items(item, ";"):
            found += _windows_by_value(asked, part, windows)
    else:
        matches = name_matcher(*asked, item)
        found = [n for n, window in enumerate(windows) if matches(window.name)]
    if not found:
        there = numbered("window", [window.name for window in windows])
        raise wrong(*asked, item, f"no spectral window matches; {there}")
    return list(dict.fromkeys(found))


def _windows_by_value(asked: _Asked, item: str, windows: Sequence[SpectralWindow]) -> list[int]:
    """Windows of a number, a range of numbers, a frequency or a range of frequencies."""
    first, last, step, hertz = _range(asked, item)
    if hertz:
        if first == last:
            near = [n for n, w in enumerate(windows) if abs(w.middle - first) < np.max(w.width)]
            return near[:1]
        middles = first + (step or np.inf) * np.arange(1 + int((last - first) / step)) if step else None
        return [
            n
            for n, w in enumerate(windows)
            if (
                first <= w.middle <= last
                if middles is None
                else bool(np.any(np.abs(middles - w.middle) < np.max(w.width)))
            )
        ]
    numbers = range(int(first), int(last) + 1, max(1, int(step)))
    if len(numbers) and numbers[-1] >= len(windows):
        by_name = [n for n, window in enumerate(windows) if window.name == item]
        if by_name:
            return by_name[:1]
        there = numbered("window", [""] * len(windows))
        raise wrong(*asked, item, f"there is no spectral window {numbers[-1]}; {there}")
    return list(numbers)


def _channels(asked: _Asked, channels: str, number: int, window: SpectralWindow, miss: bool = True) -> np.ndarray:
    """Channels that the part after the colon names, ascending. `miss` says whether a frequency elsewhere is a mistake."""
    nchan = len(window.frequency)
    found = np.empty(0, int)
    for part in split_items(channels, ";"):
        if match := _STEP.fullmatch(part):
            found = np.union1d(found, np.arange(0, nchan, max(1, int(match[1]))))
            continue
        if (match := _BOUND.fullmatch(part)) and match[3] is None:
            raise wrong(*asked, part, "expected channels such as '5', '5~20', '5~20^3', '^4' or '1.41~1.42GHz'")
        first, last, step, hertz = _range(asked, part)
        if hertz:
            inside = np.flatnonzero((window.frequency >= first) & (window.frequency <= last))
            if first == last:  # one frequency: the channel that it lies in
                inside = np.flatnonzero(np.abs(window.frequency - first) <= np.abs(window.width) / 2)[:1]
            if not len(inside) and miss:
                edges = np.sort(window.frequency[[0, -1]]) / 1e9
                reason = f"no channel of spectral window {number} lies there: it goes from {edges[0]:.6f} to {edges[1]:.6f} GHz"
                raise wrong(*asked, part, reason)
            found = np.union1d(found, inside[:: max(1, int(step / np.abs(window.width).max()))])
        elif last >= nchan:
            reason = f"spectral window {number} has channels 0 to {nchan - 1}; `{asked.parameter}` asks for channel {int(last)}"
            raise wrong(*asked, part, reason)
        else:
            found = np.union1d(found, np.arange(int(first), int(last) + 1, max(1, int(step))))
    return found


def _range(asked: _Asked, item: str) -> tuple[float, float, float, bool]:
    """(first, last, step, whether in Hz) of a value or a range; the step is 0 if none is given."""
    match = _RANGE.fullmatch(item.strip())
    if match is None:
        raise wrong(*asked, item, "expected spectral windows such as '0', '0,2', '0~3', '*:5~20' or '0:5~20;30~40,1'")
    unit = match[4] or match[2]
    first, hertz = _value(match[1], match[2] or (unit if match[3] else None))
    last, _ = _value(match[3], unit) if match[3] else (first, hertz)
    step, step_hertz = _value(match[5], match[6]) if match[5] else (0.0, hertz)
    if last < first:
        raise wrong(*asked, item, f"the range ends before it begins: write {match[3]}~{match[1]}")
    if step_hertz != hertz:
        raise wrong(*asked, item, "the range and its step are in different units")
    if not hertz and first < 0:
        raise wrong(*asked, item, "spectral windows and channels are numbered from 0")
    if not hertz and any(value != int(value) for value in (first, last, step)):
        raise wrong(*asked, item, "expected whole numbers, or frequencies with a unit")
    return first, last, step, hertz


def _value(number: str, unit: str | None) -> tuple[float, bool]:
    """Return a value, in Hz if it has a unit, and whether it has one."""
    if not unit:
        return float(number), False
    # casacore computes with single precision: so the ends of a range fall on the same side of a channel as there
    return float(np.float32(number) * np.float32(_HERTZ[unit.lower()[:-2]])), True
