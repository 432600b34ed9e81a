"""Where the files of a run lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from gpucube.schema.parameters import Parameters


def scratch_folder(parameters: Parameters) -> str:
    """Absolute path of the folder of the visibility store: a worker of an existing cluster may run in another folder."""
    return os.path.abspath(parameters.scratch or f"{parameters.imagename}.scratch")


def existing_parent(path: str) -> Path:
    """The nearest folder above `path` that exists."""
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    return folder


PRODUCT_UNITS = {
    "image": "Jy/beam",
    "residual": "Jy/beam",
    "model": "Jy/pixel",
    "psf": "",
    "dirty": "Jy/beam",
    "mask": "",
}
"""Brightness unit of every product."""


def existing_products(imagename: str | os.PathLike[str]) -> list[Path]:
    """Files of an earlier run with this imagename."""
    names = [f"{product}.fits" for product in PRODUCT_UNITS] + ["summary.json"]
    return [path for path in (Path(f"{imagename}.{name}") for name in names) if os.path.lexists(path)]


def product_path(imagename: str | os.PathLike[str], product: str) -> str:
    """Where a product of an imagename lies."""
    return f"{imagename}.{product}.fits"


def summary_path(imagename: str) -> str:
    """Where the summary of an imagename lies."""
    return f"{imagename}.summary.json"


def report_path(imagename: str) -> str:
    """Where `gpucube report` puts its page."""
    return f"{imagename}.report.html"


def journal_path(imagename: str) -> str:
    """Where the journal of an imagename lies."""
    return f"{imagename}.journal"
