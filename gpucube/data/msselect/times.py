"""Dates and times in CASA's selection syntax.

A `timerange` is a list of items with commas between them: a range ``T0~T1`` or ``T0+dT``, a bound ``>T0`` or ``<T0``,
or a single time, which selects the rows within half an integration of it. A range in brackets ``[T0~T1]`` is wider by
half an integration at either end, ``5.0[T0~T1]`` by 5 seconds. A time is ``YYYY/MM/DD/hh:mm:ss.s``. Fields that are
left out before the hour, and every ``*``, come from the first row that is selected otherwise; T1 takes what it leaves
out from T0. As in CASA, ``9:30`` means 9 minutes and 30 seconds: hours and minutes are written ``9:30:0``. All times
are UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import numpy as np

from gpucube.data.msselect.lists import split_items, wrong

_MJD_ZERO = datetime(1858, 11, 17, tzinfo=UTC)
_EXPECTED = "expected times such as '2019/03/21/04:05:06~04:35:00', '>04:05:06' or '<2019/03/22/'"
_BRACKETS = re.compile(r"(\d+\.?\d*|\.\d+)?\s*\[(.*)\]")

Fields = list[int | float | None]
"""Year, month, day, hour, minute, second; None stands for the value of the first row."""


def select_times(text: str, first: float, integration: float) -> list[tuple[float, float]]:
    """Ranges of TIME that an expression selects, both ends included, in seconds of MJD.

    Parameters
    ----------
    text : str
    first : float
        TIME of the first row that is selected otherwise, seconds of MJD.
    integration : float
        EXPOSURE of that row, seconds.
    """
    return [_range(text, item, first, integration) for item in split_items(text, quotes="", brackets="[")]


def _range(text: str, item: str, first: float, integration: float) -> tuple[float, float]:
    wider, tolerance, inner = 0.0, integration / 2, item
    if match := _BRACKETS.fullmatch(item):
        inner, wider = match[2].strip(), float(match[1]) if match[1] else tolerance
        wider -= 1e-5  # the ends of a wider range do not count, and TIME is no finer than a microsecond
    if inner[:1] in ("<", ">"):
        time = _time(text, item, _fields(text, item, inner[1:]), first)
        return (time, np.inf) if inner[0] == ">" else (-np.inf, time)
    parts = re.split(r"[~+]", inner)
    if len(parts) == 1:
        time = _time(text, item, _fields(text, item, inner), first)
        return time - tolerance, time + tolerance
    if len(parts) != 2:
        raise wrong("timerange", text, item, _EXPECTED)
    begin, end = (_fields(text, item, part) for part in parts)
    low = _time(text, item, begin, first)
    if "+" in inner:
        high = low + _duration(text, item, end)
    else:
        begun = [given if given is not None else known for given, known in zip(begin, _split(first), strict=True)]
        high = _time(text, item, [e if e is not None else b for e, b in zip(end, begun, strict=True)], first)
    if high < low:
        raise wrong("timerange", text, item, "the range ends before it begins")
    return low - wider, high + wider


def _fields(text: str, item: str, written: str) -> Fields:
    """Split a time as it is written into its fields."""
    written = written.strip()
    date, slash, clock = written.rpartition("/")
    if slash and ":" not in clock and clock and date.count("/") == 1:  # 2019/03/21
        date, clock = written, ""
    try:
        days = [None if part == "*" else int(part) for part in date.split("/")] if date else [None] * 3
        numbers = [None if part == "*" else float(part or 0) for part in clock.split(":")] if clock else []
    except ValueError:
        raise wrong("timerange", text, item, _EXPECTED) from None
    if len(days) != 3 or len(numbers) > 3 or (not date and not clock):
        raise wrong("timerange", text, item, _EXPECTED)
    if len(numbers) == 1:
        hours: Fields = [None, None, *numbers]
    elif not numbers:
        hours = [None, None, None]
    else:
        hours = [*[0.0] * (3 - len(numbers)), *numbers]
    return [*days, *hours]


def _split(mjd_seconds: float) -> Fields:
    time = _MJD_ZERO + timedelta(seconds=mjd_seconds)
    return [time.year, time.month, time.day, time.hour, time.minute, time.second + time.microsecond // 1000 / 1000]


def _time(text: str, item: str, fields: Fields, first: float) -> float:
    """Seconds of MJD; fields that are None come from the first row."""
    known = [given if given is not None else there for given, there in zip(fields, _split(first), strict=True)]
    year, month, day, hour, minute, second = (value or 0 for value in known)
    try:
        date = datetime(int(year), int(month), int(day), tzinfo=UTC)
    except ValueError as error:
        raise wrong("timerange", text, item, f"it is not a date ({error})") from None
    if not (0 <= hour <= 24 and 0 <= minute < 60 and 0 <= second < 60):
        raise wrong("timerange", text, item, "expected hours up to 24, minutes and seconds below 60")
    return (date - _MJD_ZERO).total_seconds() + 3600 * hour + 60 * minute + int(second * 1000 + 1e-6) / 1000


def _duration(text: str, item: str, fields: Fields) -> float:
    """Seconds of the dT of T0+dT."""
    if any(fields[:3]):
        raise wrong("timerange", text, item, "expected a duration such as 'T0+0:10:0' after the plus sign")
    hour, minute, second = (value or 0 for value in fields[3:])
    return 3600 * hour + 60 * minute + second
