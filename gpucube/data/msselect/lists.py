"""Numbers and names in CASA's selection syntax: fields, scans, observations and intents.

An expression is a list of items with commas between them. An item is a number ``3``, a range ``1~4``, a bound ``<3``, ``>3``
or ``>2&<7``; a name; a pattern with ``*`` and ``?``, or in double quotes also with ``[abc]`` and ``{this,that}``; or a
regular expression between slashes. An item that selects nothing is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import numpy as np

from gpucube.errors import GpucubeError

_NUMBER = re.compile(r"\d+")
_RANGE = re.compile(r"(\d+)\s*~\s*(\d+)")
_BOUNDS = re.compile(r"(>=?|<=?)\s*(\d+)(?:\s*&\s*(<=?)\s*(\d+))?")

Interval = tuple[float, float]
"""First and last number that an item selects, both included."""


class WrongSelection(GpucubeError):
    """An expression that is not understood or selects nothing. The caller adds the name of the MeasurementSet."""


def wrong(parameter: str, text: str, item: str, reason: str) -> WrongSelection:
    """Make the error for one item of an expression."""
    where = "" if item.strip() == text.strip() else f" in {item.strip()!r}"
    return WrongSelection(f"`{parameter}={text!r}`{where}: {reason}")


def split_items(text: str, separator: str = ",", quotes: str = '"/', brackets: str = "({[") -> list[str]:
    """Split a list at the separators that are outside quotes, regular expressions and brackets; blanks are cut off."""
    items, start, inside, depth = [], 0, "", 0
    closing = {"(": ")", "{": "}", "[": "]"}
    for place, character in enumerate(text):
        if inside:
            inside = "" if character == inside else inside
        elif character in quotes:
            inside = character
        elif character in brackets:
            depth += 1
        elif character in [closing[bracket] for bracket in brackets]:
            depth = max(0, depth - 1)
        elif character == separator and depth == 0:
            items.append(text[start:place].strip())
            start = place + 1
    return [*items, text[start:].strip()]


def checked_items(parameter: str, text: str) -> list[str]:
    """Split an expression at its commas and refuse an empty item."""
    items = split_items(text)
    if not all(items):
        raise wrong(parameter, text, text, "there is nothing before or after a comma")
    return items


def interval(item: str) -> Interval | None:
    """Numbers that a number, range or bound selects; None if the item is something else.

    >>> interval("2~4"), interval(">2&<7"), interval("M82")
    ((2, 4), (3, 6), None)
    """
    if _NUMBER.fullmatch(item):
        return int(item), int(item)
    if match := _RANGE.fullmatch(item):
        return int(match[1]), int(match[2])
    if (match := _BOUNDS.fullmatch(item)) is None:
        return None
    sign, number = match[1], int(match[2])
    if match[3] and (sign[0] == "<" or len(sign) != len(match[3])):
        return None  # casacore knows >2&<7 and >=2&<=7 only
    if sign[0] == "<":
        return 0, number - (sign == "<")
    last = int(match[4]) - (match[3] == "<") if match[3] else math.inf
    return number + (sign == ">"), last


def select_numbers(parameter: str, text: str, numbers: np.ndarray) -> np.ndarray:
    """Which of the numbers of rows (SCAN_NUMBER, OBSERVATION_ID; any shape) an expression selects: bool, of their shape."""
    chosen = np.zeros(np.shape(numbers), bool)
    for item in checked_items(parameter, text):
        found = interval(item)
        if found is None:
            raise wrong(parameter, text, item, "expected numbers such as '3', '1~4', '<3', '>=3' or '>2&<7'")
        if found[1] < found[0]:
            raise wrong(parameter, text, item, "the range ends before it begins")
        chosen |= (numbers >= found[0]) & (numbers <= found[1])
    return chosen


def without_rows(parameter: str, items: Sequence[str], selected: Sequence[np.ndarray]) -> list[str]:
    """Warn of items of an expression that select no row, where CASA ignores them, too."""
    empty = [item for item, rows in zip(items, selected, strict=True) if not rows.any()]
    return [f"`{parameter}={','.join(items)!r}`: {listed(empty)} selects no row"] if empty else []


def pattern_to_regex(pattern: str) -> str:
    """Regular expression of a pattern of a shell: ``*``, ``?``, ``[abc]``, ``[!abc]`` and ``{this,that}``."""
    out, depth, place = "", 0, 0
    while place < len(pattern):
        character = pattern[place]
        if character == "[" and (end := pattern.find("]", place + 2)) > 0:
            inside = pattern[place + 1 : end].replace("\\", "\\\\")
            out += f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
            place = end
        elif character == "{" and "}" in pattern[place:]:
            depth, out = depth + 1, out + "(?:"
        elif character == "," and depth:
            out += "|"
        elif character == "}" and depth:
            depth, out = depth - 1, out + ")"
        elif character in "*?":
            out += ".*" if character == "*" else "."
        else:
            out += re.escape(character)
        place += 1
    return out


def name_matcher(parameter: str, text: str, item: str, special: str = "*?") -> Callable[[str], bool]:
    """Make a function that tests names against an item: a plain name, a pattern, or a regular expression."""
    if len(item) > 1 and item[0] == item[-1] == "/":
        expression = item[1:-1]
    elif len(item) > 1 and item[0] == item[-1] == '"':
        expression = pattern_to_regex(item[1:-1])
    elif any(character in item for character in special):
        expression = pattern_to_regex(item)
    else:
        return item.__eq__
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise wrong(parameter, text, item, f"it is not a valid pattern ({error})") from None
    return lambda name: compiled.fullmatch(name) is not None


def select_fields(text: str, names: Sequence[str], codes: Sequence[str] = ()) -> list[int]:
    """FIELD_IDs that an expression selects, ascending. A name counts before a code, and a number before a name.

    >>> select_fields("1,3C*", ["M82", "M81", "3C286"])
    [1, 2]
    """
    stripped = [name.strip() for name in names]
    chosen: set[int] = set()
    for item in checked_items("field", text):
        numbers = interval(item) if "=" not in item else None
        if numbers is None or (_NUMBER.fullmatch(item) and numbers[0] >= len(names)):
            matches = name_matcher("field", text, item)
            found = _matching(stripped, matches) or _matching([code.strip() for code in codes], matches)
        elif numbers[1] < numbers[0]:
            raise wrong("field", text, item, "the range ends before it begins")
        else:
            if numbers[1] >= len(names) and numbers[1] != math.inf and item[0] not in "<>":
                raise wrong("field", text, item, f"there is no such field; {numbered('field', stripped)}")
            found = [n for n in range(len(names)) if numbers[0] <= n <= numbers[1]]
        if not found:
            raise wrong("field", text, item, f"no field matches; {numbered('field', stripped)}")
        chosen.update(found)
    return sorted(chosen)


def select_intents(text: str, modes: Sequence[str], flagged: Sequence[bool] = ()) -> list[int]:
    """STATE_IDs that an expression selects, ascending.

    Each part of OBS_MODE between commas counts as a name. Names joined by ``&`` must all be present.
    """
    parts = [[part.strip() for part in mode.split(",")] for mode in modes]
    chosen: set[int] = set()
    for item in checked_items("intent", text):
        numbers = interval(item) if "=" not in item else None
        if numbers is not None:
            found = {state for state in range(len(modes)) if numbers[0] <= state <= numbers[1]}
        else:
            found = set(range(len(modes)))
            for name in split_items(item, "&"):
                matches = name_matcher("intent", text, name)
                found &= {state for state, of_state in enumerate(parts) if any(matches(part) for part in of_state)}
            found -= {state for state in found if len(flagged) and flagged[state]}
        if not found:
            there = sorted({part for of_state in parts for part in of_state})
            raise wrong(
                "intent",
                text,
                item,
                f"no intent matches; the intents are {listed(there)}" if any(there) else "STATE names no intents",
            )
        chosen |= found
    return sorted(chosen)


def _matching(names: Sequence[str], matches: Callable[[str], bool]) -> list[int]:
    return [n for n, name in enumerate(names) if matches(name)]


def numbered(kind: str, names: Sequence[str]) -> str:
    """Say how things are numbered from 0 and, where they have names, what these are.

    >>> numbered("field", ["M81"]), numbered("field", ["M81", "M82"])
    ('the only field is 0 (M81)', 'fields are numbered 0 to 1: M81, M82')
    """
    if len(names) == 1:
        return f"the only {kind} is 0" + (f" ({names[0]})" if names[0] else "")
    return f"{kind}s are numbered 0 to {len(names) - 1}" + (f": {listed(names)}" if any(names) else "")


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first names, for a message."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
