"""What a run has put on disk so far, and what becomes of it when the run ends.

In: every folder and file as the run makes it. Out: a disk in order. A finished run keeps its products and loses its
scratch folder. A run that fails before any channel is safe removes all that it made. A run that is cut off later
keeps everything, so that ``resume=True`` can go on.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from gpucube.output.disk import remove


class Footprint:
    """The files and folders that this run made, in the order in which it made them."""

    def __init__(self) -> None:
        self._products, self._scratch = ExitStack(), ExitStack()

    def made_folder(self, folder: Path) -> None:
        """Note a folder that did not exist before."""
        self._products.callback(_remove_folder, folder)

    def made_product(self, path: str) -> None:
        """Note a file that belongs to the result."""
        self._products.callback(remove, path)

    def made_scratch(self, folder: str) -> None:
        """Note the scratch folder."""
        self._scratch.callback(shutil.rmtree, folder, ignore_errors=True)

    def keep_products(self) -> None:
        """End a finished run: remove the scratch folder, keep the rest."""
        self._scratch.close()
        self._products.pop_all()

    def keep_all(self) -> None:
        """End a run that can be resumed: keep everything."""
        self._scratch.pop_all()
        self._products.pop_all()

    def undo(self) -> None:
        """End a run of which nothing is worth keeping: remove everything, the last made first."""
        self._scratch.close()
        self._products.close()


def _remove_folder(folder: Path) -> None:
    with suppress(OSError):  # it is gone, or somebody else put a file into it
        folder.rmdir()
