"""Format numbers, lists, tables and suggestions for messages, reports and pages."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence


def counted(number: int, what: str, several: str = "") -> str:
    """``"1 channel"``, ``"2 channels"``; `several` where the plural is not made with an s."""
    return f"{number} {what if number == 1 else several or what + 's'}"


def ranges(channels: Iterable[int]) -> str:
    """Channels as ranges in ascending order: ``"4, 7~8"``."""
    runs: list[list[int]] = []
    for number in sorted(channels):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}~{run[-1]}" for run in runs)


def with_prefix(value: float, unit: str) -> str:
    """Three digits and a unit with its metric prefix: ``"340 MB"``."""
    for prefix in ("", "k", "M", "G"):
        if abs(value) < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} T{unit}"


def size_text(nbytes: float) -> str:
    """Bytes for people: ``"340 MB"``."""
    return with_prefix(nbytes, "B")


def _in_units(value: float, units: Sequence[tuple[float, str]], space: str = " ", digits: int = 3) -> str:
    """Write a value in the largest unit in which it is at least 1, otherwise in the last one."""
    size, unit = next((item for item in units if value >= 0.9995 * item[0]), units[-1])
    return f"{value / size:.{digits}g}{space}{unit}"


def frequency_text(hertz: float) -> str:
    """A frequency as users write it, with its digits: ``"1420.405752MHz"``."""
    if 1e9 <= hertz < 1e10:
        return _in_units(hertz, [(1e6, "MHz")], "", 10)
    return _in_units(hertz, [(1e9, "GHz"), (1e6, "MHz"), (1e3, "kHz"), (1.0, "Hz")], "", 10)


def angle_text(radians: float) -> str:
    """Three digits and a unit: ``"21.3 arcmin"``."""
    units = [(3600.0, "deg"), (60.0, "arcmin"), (1.0, "arcsec"), (1e-3, "mas"), (1e-6, "uas")]
    arcsec = math.degrees(radians) * 3600
    return f"{arcsec:.3g} arcsec" if 0.1 <= arcsec < 1 else _in_units(arcsec, units)


def flux_text(janskys: float) -> str:
    """Three digits and a unit: ``"3.21 mJy"``."""
    return _in_units(janskys, [(1.0, "Jy"), (1e-3, "mJy"), (1e-6, "uJy"), (1e-9, "nJy")])


def one_line(error: Exception) -> str:
    """Describe any exception in one line: ``"ValueError: what was wrong"``."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def in_words(values: Sequence[object]) -> str:
    """Join alternatives as quoted text: ``"'natural', 'uniform' or 'briggs'"``."""
    listed = [repr(value) for value in values]
    return " or ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)


def did_you_mean(name: object, right: Iterable[str], other_names: Mapping[str, str] | None = None) -> str:
    """Suggest the most similar known name: ``": did you mean 'imsize'?"``, or empty text if none is similar.

    `other_names` maps other names, in lower case, to the right names.
    """
    folded = {known.lower(): known for known in right}
    written = str(name).strip().lower()
    nearest = difflib.get_close_matches(written, folded, n=1, cutoff=0.6)
    found = (other_names or {}).get(written) or (folded[nearest[0]] if nearest else None)
    return f": did you mean {found!r}?" if found else ""


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Make an aligned Markdown table. The first row is the head. All columns except the first are aligned to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("| " + " | ".join(cells) + " |")
    lines.insert(1, "|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")
    return "\n".join(lines)
