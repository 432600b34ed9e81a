"""Predict how much memory a process takes for arrays that are made and freed, step by step. Arithmetic only.

The C library (glibc) maps large arrays one by one, and returns them to the system when they are freed. Smaller ones lie in
its heap, which it keeps for the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAPPED = 32 << 20
"""Bytes. Arrays of this size and more are mapped."""


def largest_sum(steps: Iterable[Sequence[int]], *, again: bool = True, hole: bool = True) -> int:
    """Predict the bytes that a process takes for steps that follow one another, given the sizes of all arrays of each.

    Parameters
    ----------
    steps : iterable of sequences of int
    again : bool
        Whether the steps are repeated, so that the first finds the heap as large as the last has left it.
    hole : bool
        Whether arrays are freed between others that stay. That may leave a hole that the next does not fit, so the largest
        one of the heap counts once more.
    """
    sizes = [([n for n in step if n >= MAPPED], [n for n in step if n < MAPPED]) for step in steps]
    heap = max((sum(small) for _, small in sizes), default=0) if again else 0
    most = 0
    for mapped, small in sizes:
        heap = max(heap, sum(small))
        most = max(most, heap + sum(mapped))
    return most + (max((n for _, small in sizes for n in small), default=0) if hole else 0)
