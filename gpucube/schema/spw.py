"""The selection of spectral windows and fields by number, in tclean's syntax.

In: text such as ``"0"``, ``"0,2"``, ``"0~3"``, ``"*"``, ``"0:5~20"`` or ``"0:5~20;30~40,1"``. Out: a tuple of
`SpwRange`, each a run of spectral windows with the channel ranges wanted of every window in it; for fields, ranges of
numbers. Only the text is parsed here; the reader of the MeasurementSet checks what exists.

Syntax: items are separated by commas. An item is a window, a range ``first~last`` or ``*``, which may be followed by a
colon and channel ranges separated by semicolons. All numbers count from 0 and ranges include both ends, as in CASA's
MSSelection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"(\d+)(?:~(\d+))?")
_NUMBERS = re.compile(rf"{_RANGE.pattern}(?:,{_RANGE.pattern})*")
_EXPECTED = "expected spectral windows by number, such as '0', '0,2', '0~3', '*:5~20' or '0:5~20;30~40,1'"


@dataclass(frozen=True)
class SpwRange:
    """A run of spectral windows and the channels wanted of each."""

    first: int
    last: int | None  # included; None for the last that exists
    channels: tuple[tuple[int, int], ...] = ()  # first and last of each range, both included; empty for all


def parse_spw(text: str) -> tuple[SpwRange, ...]:
    """Parse a selection. Empty text means everything, and several of the ranges may name the same window.

    >>> parse_spw("0:5~20,1")
    (SpwRange(first=0, last=0, channels=((5, 20),)), SpwRange(first=1, last=1, channels=()))
    """
    if not text.strip():
        return (SpwRange(0, None),)
    return tuple(_parse_item(item, text) for item in re.sub(r"\s", "", text).split(","))


def parse_numbers(text: str) -> tuple[tuple[int, int], ...]:
    """Parse numbers and ranges into the first and the last of each; empty if the text is something else, such as a name.

    >>> parse_numbers("0, 2~4")
    ((0, 0), (2, 4))
    """
    bare = re.sub(r"\s", "", text)
    return tuple(_parse_range(part, part, text) for part in bare.split(",")) if _NUMBERS.fullmatch(bare) else ()


def _parse_item(item: str, text: str) -> SpwRange:
    windows, colon, channels = item.partition(":")
    first, last = (0, None) if windows == "*" else _parse_range(windows, item, text)
    if not colon or channels == "*":
        return SpwRange(first, last)
    return SpwRange(first, last, tuple(_parse_range(part, item, text) for part in channels.split(";")))


def _parse_range(part: str, item: str, text: str) -> tuple[int, int]:
    match = _RANGE.fullmatch(part)
    if match is None:
        where = f"{item!r} in {text!r}" if item != text else repr(text)
        raise ValueError(f"{where} is not a selection; {_EXPECTED}")
    first = int(match.group(1))
    last = first if match.group(2) is None else int(match.group(2))
    if last < first:
        raise ValueError(f"{part!r} in {text!r} ends before it begins; write {last}~{first}")
    return first, last
