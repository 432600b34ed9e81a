"""Numbers and lists in words."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, what: str) -> str:
    """``"1 channel"``, ``"2 channels"``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def ranges(channels: Iterable[int]) -> str:
    """Channels in words, ``"4, 7~8"``."""
    numbers = sorted(channels)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}~{run[-1]}" for run in runs)


def size_text(nbytes: float) -> str:
    """Bytes for people: ``"340 MB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def one_line(error: Exception) -> str:
    """``"ValueError: what was wrong"``, whatever the exception holds."""
    return " ".join(f"{type(error).__name__}: {error}".split())
