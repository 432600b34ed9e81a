"""Writing to standard streams that may be closed, full or left by their reader.

In: text and a stream. Out: the text in the stream, or an `OSError` or `ValueError`. Text that could not be written
stays in the buffer, and Python tries again when the process ends. If that fails too, the exit status is 120, whatever
the program returned. So the buffer is emptied.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TextIO


def write(text: str, stream: TextIO, end: str = "\n") -> None:
    """Write text at once.

    Raises
    ------
    OSError, ValueError
        The stream is full, closed or left by its reader. The text is lost.
    """
    try:
        print(text, end=end, file=stream, flush=True)
    except (OSError, ValueError):
        _empty(stream)
        raise


def tell(text: str, stream: TextIO) -> None:
    """Write a line at once, if possible. A message that nobody can read is no reason to end a run."""
    with suppress(OSError, ValueError):
        write(text, stream)


def _empty(stream: TextIO) -> None:
    """Send what is left in the buffer of a stream to the null device."""
    with suppress(OSError, ValueError):  # a stream without a file holds nothing
        number = stream.fileno()
        kept, null = os.dup(number), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, number)
            stream.flush()
        finally:
            os.dup2(kept, number)
            os.close(kept)
            os.close(null)
