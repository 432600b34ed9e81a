"""Make calls of the file system fail, at the door through which all of them go (`gpucube.disk`), without changing it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Hook = Callable[[str, tuple[Any, ...]], None]
"""Sees the name of a system call and its arguments, and may raise what the system might."""

_hooks: list[Hook] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "gpucube.disk":
        for hook in _hooks:
            hook(*arguments)


sys.addaudithook(_audit)  # Python knows no way to take it away again


@contextmanager
def seen_by(hook: Hook) -> Iterator[None]:
    """Show a hook every call of the file system while the context lasts."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def in_text(arguments: tuple[Any, ...]) -> str:
    """The arguments of a call as text, and bytes to be written as they are."""
    return " ".join(
        repr(bytes(a)) if isinstance(a, bytes | memoryview) and len(a) < 100_000 else str(a) for a in arguments
    )


def refusing(call: str, number: int, about: str = "") -> Any:
    """Context manager: a system call answers with an errno whenever its arguments, as text, hold `about`."""

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == call and about in in_text(arguments):
            raise OSError(number, os.strerror(number), str(arguments[0]) if arguments else None)

    return seen_by(hook)
