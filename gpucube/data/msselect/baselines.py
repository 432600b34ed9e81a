"""Antennas, baselines and uv distances in CASA's selection syntax.

An `antenna` expression is a list of terms with semicolons between them. Rows that any term selects are selected, except
those of a term that begins with ``!``. A term is a list of antennas, which stands for all baselines to one of them; two
lists ``A&B`` for the baselines between them, ``A&`` for those within A; with ``&&`` in place of ``&`` autocorrelations
count too, and ``A&&&`` are the autocorrelations; or baseline lengths ``<100m``, ``>=1km``, ``100m~1km``. An antenna is a
name, a number, a range of numbers, a pattern, or one of these with its station, ``DV01@A001`` or ``@A*``. What looks like a
number is a name first, because the VLA names its antennas by numbers.

A `uvrange` is a list of distances in the uv plane, ``<100m``, ``>5klambda``, ``100~500m`` or ``100m:10%``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpucube.data.msselect.lists import listed, name_matcher, split_items, wrong

_NUMBERS = re.compile(r"(\d+)(?:\s*~\s*(\d+))?")
_METRES = {"m": 1.0, "km": 1e3, "cm": 1e-2, "mm": 1e-3, "Mm": 1e6}
_LENGTH = re.compile(r"(<=?|>=?)\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)")
_LENGTHS = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)\s*~\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Z]*)")
_DISTANCE = re.compile(
    r"(?:([<>])\s*)?(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*)"
    r"(?:\s*~\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*([a-zA-Z]*))?(?:\s*:\s*(\d+\.?\d*)\s*%)?"
)
_UV_UNITS = {"": (1.0, False), "m": (1.0, False), "km": (1e3, False)} | {
    prefix + "lambda": (factor, True) for prefix, factor in (("", 1.0), ("k", 1e3), ("m", 1e6))
}


@dataclass(frozen=True, kw_only=True)
class Antennas:
    """The columns of ANTENNA from which baselines are selected."""

    names: Sequence[str]
    stations: Sequence[str]
    positions: np.ndarray  # (nantenna, 3), metres


@dataclass(frozen=True, kw_only=True)
class UvRange:
    """Distances in the uv plane, both ends included."""

    low: float
    high: float
    wavelengths: bool  # at the reference frequency of the window; otherwise metres


def select_baselines(text: str, antennas: Antennas) -> np.ndarray:
    """Which pairs (ANTENNA1, ANTENNA2) an expression selects: bool, (nantenna, nantenna).

    >>> antennas = Antennas(names=["A", "B", "C"], stations=["", "", ""], positions=np.zeros((3, 3)))
    >>> select_baselines("A&C", antennas).nonzero()[0].tolist()
    [0, 2]
    """
    terms = split_items(text, ";")
    # if the first term excludes baselines, it excludes them from all
    chosen: np.ndarray = np.full((len(antennas.names),) * 2, terms[0].startswith("!"))
    for term in terms:
        pairs = _pairs(text, term.removeprefix("!").strip(), antennas)
        chosen = chosen & ~pairs if term.startswith("!") else chosen | pairs
    return chosen


def _pairs(text: str, term: str, antennas: Antennas) -> np.ndarray:
    """Pairs that one term selects, without its ``!``."""
    if (term[:1] == "/" and "&" in term) or term[:2] == "^/":
        return _by_baseline_name(text, term, antennas)
    if (lengths := _by_length(text, term, antennas)) is not None:
        return lengths
    match = re.fullmatch(r"([^&]*)(&{0,3})([^&]*)", term)
    if match is None or not match[1].strip() or (match[2] == "&&&" and match[3].strip()):
        raise wrong("antenna", text, term, "expected antennas such as 'DV01', '0~3', 'DV*', 'DV01&DV02' or '!DV05'")
    first = _antenna_set(text, match[1], antennas)
    second = _antenna_set(text, match[3], antennas) if match[3].strip() else first
    pairs: np.ndarray
    if match[2] == "&&&":
        return np.diag(first)
    if not match[2]:
        pairs = first[:, None] | first[None, :]
    else:
        pairs = (first[:, None] & second[None, :]) | (second[:, None] & first[None, :])
    if match[2] != "&&":
        np.fill_diagonal(pairs, False)
    return pairs


def _antenna_set(text: str, items: str, antennas: Antennas) -> np.ndarray:
    """Antennas of a list: bool, (nantenna,)."""
    chosen: np.ndarray = np.zeros(len(antennas.names), bool)
    for item in split_items(items):
        name, at, station = item.partition("@")
        found = np.ones(len(chosen), bool)
        if at:
            for part, of_station in ((name, False), (station, True)):
                if part.strip():
                    found &= _any_of(text, part.strip(), antennas, of_station)
            if not found.any():
                raise wrong("antenna", text, item, "no antenna is at this station")
        else:
            found = _one(text, item, antennas, of_station=False)
        chosen |= found
    return chosen


def _any_of(text: str, part: str, antennas: Antennas, of_station: bool) -> np.ndarray:
    """Antennas of one name or of a list in parentheses: bool, (nantenna,)."""
    inside = part[1:-1] if part[0] == "(" and part[-1] == ")" else part
    found = np.zeros(len(antennas.names), bool)
    for item in split_items(inside):
        found |= _one(text, item, antennas, of_station)
    return found


def _one(text: str, item: str, antennas: Antennas, of_station: bool) -> np.ndarray:
    """Select the antennas that one item names: bool, (nantenna,)."""
    names, stations = list(antennas.names), list(antennas.stations)
    found: np.ndarray = np.zeros(len(names), bool)
    if not of_station and (match := _NUMBERS.fullmatch(item)):
        numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
        for number in numbers:
            matching = _matching(str(number), names) or _matching(str(number), stations) or [number]
            if matching[0] >= len(names):
                reason = f"there is no antenna {number}: antennas are numbered 0 to {len(names) - 1}"
                raise wrong("antenna", text, item, reason)
            found[matching[0]] = True
        if not len(numbers):
            raise wrong("antenna", text, item, "the range ends before it begins")
        return found
    plain = item[1:] if item[:1] == "\\" else item
    negated = plain[:1] == "^" and len(plain) > 1
    matches = name_matcher("antenna", text, plain[negated:], special="*?[")
    by_station = np.array([matches(station) for station in stations], bool)
    by_name = np.array([matches(name) for name in names], bool)
    is_plain = plain[:1] not in ('"', "/") and not any(character in plain for character in "*?[^")
    if of_station:
        found = by_station
    elif is_plain:
        found = by_name if by_name.any() else by_station
    else:
        found = by_name | by_station
    found = found != negated
    if not found.any():
        there = listed(sorted(set(stations)) if of_station else names)
        raise wrong("antenna", text, item, f"no {'station' if of_station else 'antenna'} matches; there are {there}")
    return found


def _matching(name: str, names: Sequence[str]) -> list[int]:
    return [n for n, known in enumerate(names) if known == name]


def _by_baseline_name(text: str, term: str, antennas: Antennas) -> np.ndarray:
    """Pairs whose name "A&B" fits one of the regular expressions in a list."""
    pairs: np.ndarray = np.zeros((len(antennas.names),) * 2, bool)
    for item in split_items(term):
        matches = name_matcher("antenna", text, item.removeprefix("^"))
        fits = [[matches(f"{a}&{b}") for b in antennas.names] for a in antennas.names]
        pairs |= np.array(fits, bool) != item.startswith("^")
    return pairs


def _by_length(text: str, term: str, antennas: Antennas) -> np.ndarray | None:
    """Pairs by the length of the baseline; None if the term does not give lengths."""
    ranges = []
    for item in split_items(term):
        if match := _LENGTH.fullmatch(item):
            value = _metres(text, item, match[2], match[3])
            inside = -1e-9 if match[1] == "<" else 1e-9 if match[1] == ">" else 0.0  # as in casacore
            ranges.append((value + inside, math.inf) if match[1][0] == ">" else (-math.inf, value + inside))
        elif (match := _LENGTHS.fullmatch(item)) and (match[4] or "." in match[1] + match[3]):
            low = _metres(text, item, match[1], match[2] or match[4])
            ranges.append((low, _metres(text, item, match[3], match[4])))
        else:
            return None
    offsets = antennas.positions[:, None] - antennas.positions[None, :]  # (nantenna, nantenna, 3)
    lengths = np.sqrt((offsets**2).sum(-1))
    pairs: np.ndarray = np.logical_or.reduce([(lengths >= low) & (lengths <= high) for low, high in ranges])
    return pairs


def _metres(text: str, item: str, number: str, unit: str) -> float:
    if unit and unit not in _METRES:
        raise wrong("antenna", text, item, f"{unit!r} is not a unit of length: expected m or km")
    return float(number) * _METRES[unit or "m"]


def select_uv(text: str) -> list[UvRange]:
    """Distances in the uv plane that an expression selects.

    >>> select_uv("<5klambda")
    [UvRange(low=0.0, high=5000.0, wavelengths=True)]
    """
    return [_uv_range(text, item) for item in split_items(text)]


def _uv_range(text: str, item: str) -> UvRange:
    expected = "expected distances such as '<100m', '>5klambda', '100~500m' or '100m:10%'"
    match = _DISTANCE.fullmatch(item)
    if match is None or (match[1] and match[4]):
        raise wrong("uvrange", text, item, expected)
    unit = (match[5] if match[4] else match[3]).lower()
    if unit not in _UV_UNITS or match[3].lower() not in ("", unit):
        raise wrong("uvrange", text, item, expected + ", in m, km, lambda, klambda or Mlambda")
    factor, wavelengths = _UV_UNITS[unit]
    first = factor * float(match[2])
    low, high = {"<": (0.0, first), ">": (first + 1e-10 * factor, math.inf)}.get(match[1] or "", (first, first))
    high = factor * float(match[4]) if match[4] else high
    if match[6]:
        low, high = low * (1 - 0.01 * float(match[6])), high * (1 + 0.01 * float(match[6]))
    elif not match[1] and not match[4]:
        raise wrong(
            "uvrange", text, item, "a single distance selects nothing: write a range, or a tolerance such as ':10%'"
        )
    if high < low:
        raise wrong("uvrange", text, item, "the range ends before it begins")
    return UvRange(low=low, high=high, wavelengths=wavelengths)
