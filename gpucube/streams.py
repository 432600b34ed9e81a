"""Writing to standard streams that may be closed, full or left by their reader.

In: text. Out: the text on the stream, or an error that gives the reason. Text that could not be written stays in the
buffer, and Python tries to write it again when the process ends. If that fails too, the exit status is 120, whatever the
program returned. These functions therefore empty the buffer.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO

from gpucube.errors import GpucubeError

UNUSABLE = (OSError, ValueError, AttributeError)
"""What a stream raises that cannot be written to: the last one if it is an object of a program, without all methods of files."""


def is_terminal(stream: TextIO) -> bool:
    """Whether a display that stays in place can be shown on a stream."""
    with suppress(*UNUSABLE):
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    return False


def show(text: str, end: str = "\n") -> None:
    """Write to standard output. It is no error if the reader has left.

    Raises
    ------
    GpucubeError
        The disk behind standard output is full, or fails.
    """
    try:
        _write(text, sys.stdout, end)
    except UNUSABLE as error:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            raise GpucubeError(f"cannot write to standard output: {error.strerror}") from None


def tell(text: str, stream: TextIO | None = None) -> None:
    """Write a line, by default to standard error, if that is possible. An unread message is no reason to end a run."""
    with suppress(*UNUSABLE):
        _write(text, stream or sys.stderr, "\n")


def _write(text: str, stream: TextIO, end: str) -> None:
    try:
        print(text, end=end, file=stream, flush=True)
    except UNUSABLE:
        _empty(stream)
        raise


def _empty(stream: TextIO) -> None:
    """Send what is left in the buffer of a stream to the null device."""
    with suppress(*UNUSABLE):  # a stream without a file has nothing left
        number = stream.fileno()
        kept = os.dup(number)
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
            stream.flush()
        finally:
            os.dup2(kept, number)
            os.close(kept)
