"""The clean mask of a run, from everything that a user may give as `mask`.

In: FITS and CASA images, files and texts of regions, and thresholds on images (`gpucube.schema.types.parse_mask`). Out:
a `CleanMask`, which travels to workers and gives one plane at a time: components may be found wherever any part allows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpucube import disk
from gpucube.data.mask_image import MaskImage, load_mask
from gpucube.data.regions import RegionMask, load_regions
from gpucube.schema.types import LIKE_REGIONS, is_region_text, mask_file
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

LARGEST_REGION_FILE = 50_000_000
"""Bytes. A larger file is not taken for a file of regions."""


@dataclass(frozen=True, kw_only=True)
class CleanMask:
    """All parts of a mask."""

    parts: tuple[MaskImage | RegionMask, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know, one line each."""
        return tuple(line for part in self.parts for line in part.warnings)

    def plane(self, channel: int, stokes: str = "I") -> np.ndarray:
        """Pixels of a plane where components may be found, bool (ny, nx)."""
        allowed = self.parts[0].plane(channel, stokes)
        for part in self.parts[1:]:
            allowed |= part.plane(channel, stokes)
        return allowed


def load_clean_mask(
    items: Sequence[str],
    geometry: ImageGeometry,
    axis: SpectralAxis,
    stokes: tuple[str, ...] = ("I",),
    *,
    earlier: bool = False,
) -> CleanMask:
    """Open every part of a mask and check it against the cube; `earlier` as in `load_mask`.

    Raises
    ------
    GpucubeError
        As `load_mask` and `load_regions`.
    """
    return CleanMask(parts=tuple(_part(item, geometry, axis, stokes, earlier) for item in items))


def _part(
    item: str, geometry: ImageGeometry, axis: SpectralAxis, stokes: tuple[str, ...], earlier: bool
) -> MaskImage | RegionMask:
    if is_region_text(item):
        return load_regions(item, f"`mask={item!r}`", geometry, axis)
    path, cut = mask_file(item)
    path = os.path.abspath(path)  # a worker of an existing cluster may run in another folder
    text = None if cut or os.path.isdir(path) else _region_file(path)
    if text is not None:
        return load_regions(text, f"mask {path}", geometry, axis)
    return load_mask(path, geometry, axis, cut, stokes, earlier=earlier)


def _region_file(path: str) -> str | None:
    """Return the text of a file that contains regions; None for any other file, whose errors the reader of images reports."""
    try:
        with disk.open_to_read(path) as file:
            begin = file.read(4096)
            if b"\0" in begin or begin.startswith(b"SIMPLE ") or not begin.strip():
                return None
            text = (begin + file.read(LARGEST_REGION_FILE)).decode()
    except (OSError, UnicodeDecodeError):
        return None
    return text if LIKE_REGIONS.search(text) else None
