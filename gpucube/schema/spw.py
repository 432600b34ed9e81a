"""The spectral-window selection in tclean's syntax.

In: text such as ``"0"``, ``"0,2"``, ``"0~3"``, ``"*"``, ``"0:5~20"`` or ``"0:5~20;30~40,1"``. Out: a tuple of
`SpwRange`, each a run of spectral windows with the channel ranges wanted of every window in it. Pure text: whether such
windows and channels exist is for the reader of the MeasurementSet to say.

Syntax: items separated by commas; an item is a window, a range ``first~last`` or ``*``, then perhaps a colon and
channel ranges separated by semicolons. All numbers count from 0 and ranges include both ends, as in CASA's MSSelection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"(\d+)(?:~(\d+))?")
_EXAMPLE = "'0', '0,2', '0~3', '*:5~20' or '0:5~20;30~40,1'"


@dataclass(frozen=True)
class SpwRange:
    """A run of spectral windows and what is wanted of each.

    Attributes
    ----------
    first : int
        First spectral window, from 0.
    last : int or None
        Last one, included; None for all there are.
    channels : tuple of (int, int)
        First and last channel of each range wanted, both included, in the order given; empty for all channels.
    """

    first: int
    last: int | None
    channels: tuple[tuple[int, int], ...] = ()

    def contains(self, spw: int) -> bool:
        """True if the spectral window `spw` is in this run."""
        return self.first <= spw and (self.last is None or spw <= self.last)


def parse_spw(text: str) -> tuple[SpwRange, ...]:
    """Parse a spectral-window selection.

    Parameters
    ----------
    text : str
        The selection; empty means everything, the same as ``"*"``.

    Returns
    -------
    tuple of SpwRange
        In the order given; a window may be named by several of them.

    Raises
    ------
    ValueError
        One line that quotes the part that is wrong.
    """
    if not text.strip():
        return (SpwRange(0, None),)
    return tuple(_parse_item(item, text) for item in re.sub(r"\s", "", text).split(","))


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
        raise ValueError(f"{where} is not a selection of spectral windows by number; write e.g. {_EXAMPLE}")
    first = int(match.group(1))
    last = first if match.group(2) is None else int(match.group(2))
    if last < first:
        raise ValueError(f"{part!r} in {text!r} ends before it begins; write {last}~{first}")
    return first, last
