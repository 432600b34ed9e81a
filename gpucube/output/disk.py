"""Files that are there with all their content or not at all.

In: a path and text. Out: the file, renamed into its place when its bytes are on disk.
"""

from __future__ import annotations

import os
from contextlib import suppress

from gpucube.errors import GpucubeError


def write_whole(path: str, text: str) -> None:
    """Write a file so that it is there with all its content or not at all.

    Raises
    ------
    GpucubeError
        The file system refuses.
    """
    try:
        remove(path + ".new")
        with open(path + ".new", "x", encoding="utf-8") as file:  # follows no link
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".new", path)
    except OSError as error:
        remove(path + ".new")
        raise GpucubeError(f"cannot write {path}: {error.strerror}") from None


def remove(path: str) -> None:
    """Remove a file if it is there and can be removed."""
    with suppress(OSError):  # not there, or on a disk that takes no changes
        os.unlink(path)
