"""What a run has put on disk so far, and what becomes of it when the run ends.

In: every product and the scratch folder, as the run makes them. Out: a disk in order. A finished run keeps its products
and loses its scratch folder. A run that fails before any channel is safe removes all that it made. A run that is cut
off later keeps everything, so that ``resume=True`` can go on.
"""

from __future__ import annotations

from contextlib import ExitStack

from gpucube import disk


class Footprint(ExitStack):
    """The files that this run made, removed at the end of a ``with`` block unless they are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.scratch = self.enter_context(ExitStack())

    def made_product(self, path: str) -> None:
        """Note a file that belongs to the result."""
        self.callback(disk.remove_if_possible, path)

    def made_scratch(self, folder: str) -> None:
        """Note the scratch folder."""
        self.scratch.callback(disk.remove_tree, folder)

    def keep_products(self) -> None:
        """End a finished run: remove the scratch folder, keep the rest."""
        self.scratch.close()
        self.pop_all()

    def keep_all(self) -> None:
        """End a run that can be resumed: keep everything."""
        self.scratch.pop_all()
        self.pop_all()
