"""The model that cleaning starts from: components that an earlier run, tclean or a calculation has found.

In: a FITS or CASA image in Jy/pixel, one plane for all channels or planes along a spectral axis, with or without Stokes
parameters, on any pixel grid. Out: a `StartModel`, which is sent to workers as a path and reads one plane at a time.

On the grid of the cube, pixels are taken as they are. From another grid they are interpolated linearly, and multiplied
by the ratio of the pixels' solid angles, so that flux is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from gpucube.data.sky_grid import has_other_grid, header_text, positions
from gpucube.data.user_image import (
    Use,
    coordinates,
    described,
    planes_of_channels,
    planes_of_stokes,
    read_planes,
    stokes_of,
)
from gpucube.errors import GpucubeError
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

_USE = Use(
    uncovered="start from an empty model",
    misaligned="start from the middle one of the planes that overlap",
    one_plane_has_a_frequency=True,
)


@dataclass(frozen=True, kw_only=True)
class StartModel:
    """A checked model.

    Attributes
    ----------
    path : str
        The FITS file, or the folder of a CASA image.
    hdu : int or None
        Number of the extension that holds the image; None for a CASA image.
    indices : tuple of tuple
        For each channel of the cube its place along the axes before y and x; None for a channel that the model does not
        cover.
    stokes : dict
        Stokes parameter -> its number along the axis `stokes_axis` (an index of `indices`).
    geometry : ImageGeometry
        The pixels of the cube.
    other_grid : str or None
        The header of the model, as text, if its pixels are not those of the cube.
    """

    path: str
    hdu: int | None
    indices: tuple[tuple[int, ...] | None, ...]
    stokes: dict[str, int]
    stokes_axis: int | None
    geometry: ImageGeometry
    other_grid: str | None
    warnings: tuple[str, ...] = ()

    def plane(self, channel: int, stokes: str) -> np.ndarray | None:
        """Read the model of one plane in Jy/pixel, float32 (ny, nx); None if it has none."""
        index = self.indices[channel]
        if index is None or stokes not in self.stokes:
            return None
        if self.stokes_axis is not None:
            place = list(index)
            place[self.stokes_axis] = self.stokes[stokes]
            index = tuple(place)
        (plane,) = read_planes(f"startmodel {self.path}", self.path, self.hdu, [index])
        values = np.nan_to_num(np.asarray(plane, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
        if self.other_grid is not None:
            values = self._regridded(values, self.other_grid)
        return values if values.any() else None

    def _regridded(self, values: np.ndarray, header: str) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        y, x, area = _mapping(f"startmodel {self.path}", header, self.geometry)
        moved: np.ndarray = map_coordinates(values, [y, x], order=1, mode="constant", cval=0.0, output=np.float32)
        return area * moved


@lru_cache(maxsize=1)
def _mapping(label: str, text: str, geometry: ImageGeometry) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Pixels (y, x) of the model at the pixels of the cube, each (ny, nx), and the ratio of their solid angles."""
    from astropy.io import fits

    places: np.ndarray = np.empty((2, *geometry.shape))
    for rows, y, x in positions(label, text, geometry):
        places[0, rows], places[1, rows] = np.nan_to_num(y, nan=-10.0), np.nan_to_num(x, nan=-10.0)  # beyond the image
    scale = coordinates(label, fits.Header.fromstring(text), None).celestial.pixel_scale_matrix
    area = geometry.cell_x * geometry.cell_y / np.radians(1.0) ** 2 / abs(np.linalg.det(scale))
    return places[0], places[1], np.float32(area)


def load_start_model(
    path: str | os.PathLike[str], geometry: ImageGeometry, axis: SpectralAxis, stokes: tuple[str, ...]
) -> StartModel:
    """Open a model, check it against the cube and find each channel's plane.

    A channel takes the middle one of the planes that overlap it.

    Raises
    ------
    GpucubeError
        The file does not exist or contains no image; or the image has another unit than Jy/pixel, another spectral frame, no
        sky coordinates although its grid is another one, or no channel or Stokes parameter in common with the cube.
    """
    path = os.path.abspath(path)
    label = f"startmodel {path}"
    header, shape, listed, hdu = described(label, path)
    if len(shape) < 2:
        raise GpucubeError(f"{label} has {len(shape)} axes: expected an image")
    unit = str(header.get("BUNIT", "")).strip().lower().replace(" ", "")
    if unit not in ("", "jy/pixel", "jy.pixel-1", "jypixel-1", "jy/pix"):
        raise GpucubeError(f"{label} is in {header['BUNIT']}: expected a model in Jy/pixel")
    names, stokes_axis = stokes_of(header, shape)
    # without an axis of Stokes parameters the model is that of the first one
    known = planes_of_stokes(names, stokes) if names else {stokes[0]: 0}
    if not known:
        raise GpucubeError(f"{label} has Stokes {', '.join(names)} and the cube {', '.join(stokes)}")
    wcs = coordinates(label, header, axis.restfreq)
    leading = tuple(1 if number == stokes_axis else length for number, length in enumerate(shape[:-2]))
    planes, remarks = planes_of_channels(label, (*leading, *shape[-2:]), header, wcs, geometry, axis, listed, _USE)
    long_axis = next((number for number, length in enumerate(leading) if length > 1), None)
    indices: list[tuple[int, ...] | None] = []
    for numbers in planes:
        if not numbers:
            indices.append(None)
            continue
        middle = numbers[len(numbers) // 2]
        indices.append(tuple(middle if number == long_axis else 0 for number in range(len(leading))))
    return StartModel(
        path=path,
        hdu=hdu,
        indices=tuple(indices),
        stokes=known,
        stokes_axis=stokes_axis,
        geometry=geometry,
        other_grid=header_text(header) if has_other_grid(label, header, wcs, shape, geometry) else None,
        warnings=remarks,
    )
