"""A clean mask that is an image: where on the sky, and in which channels, components may be found.

In: a FITS or CASA image with two to four axes: one plane for all channels, or one per channel of the mask, for all Stokes
parameters or one for each. Components may be found where a pixel is finite and not 0. A mask on another pixel grid is looked up
at the centre of every pixel of the cube: its nearest pixel counts, and nothing is allowed outside it. Planes are placed by
frequency, and by index only if the mask's header has no spectral axis. Out: a `MaskImage`. It is sent to workers as a path and
reads one plane at a time, so that a mask as large as the cube takes no memory.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field

import numpy as np

from gpucube.data.sky_grid import has_other_grid, header_text, nearest_pixels
from gpucube.data.user_image import (
    WHOLE,
    Use,
    coordinates,
    described,
    long_axis,
    planes_of_channels,
    planes_of_stokes,
    read_planes,
    stokes_of,
    wrong_shape,
)
from gpucube.errors import GpucubeError
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis


@dataclass(frozen=True, kw_only=True)
class MaskImage:
    """A checked mask.

    Attributes
    ----------
    path : str
        The FITS file, or the folder of a CASA image.
    hdu : int or None
        Number of the extension that holds the image; None for a CASA image.
    shape : tuple of int
        Lengths of the axes, slowest first. Before y and x at most one is longer than 1, apart from that of Stokes parameters.
    stokes : dict
        Stokes parameter -> its number along the axis `stokes_axis` (an index of `shape`). Empty if one plane serves them all.
    planes : tuple of tuple of int
        For each channel of the cube the planes that apply to it, as indices along the long axis. Components may be found
        where any of them allows it; nowhere if there is none.
    geometry : ImageGeometry
        The pixels of the cube.
    other_grid : str or None
        The header of the mask, as text, if its pixels are not those of the cube.
    cut : tuple of str and float, or None
        A comparison (``">"``, ``">="``, ``"<"`` or ``"<="``) and a number: components may be found where the pixel meets it.
        None for where the pixel is not 0.
    warnings : tuple of str
        What the user should know, one line each.
    """

    path: str
    hdu: int | None
    shape: tuple[int, ...]
    planes: tuple[tuple[int, ...], ...]
    geometry: ImageGeometry
    other_grid: str | None = None
    stokes: dict[str, int] = field(default_factory=dict)
    stokes_axis: int | None = None
    cut: tuple[str, float] | None = None
    warnings: tuple[str, ...] = ()

    def plane(self, channel: int, stokes: str = "I") -> np.ndarray:
        """Read the mask of one output channel and Stokes parameter.

        Returns
        -------
        numpy.ndarray
            True where components may be found, bool, shape (ny, nx).
        """
        label = f"mask {self.path}"
        plane = self.stokes.get(stokes, 0)
        indices = [
            tuple(
                plane if axis == self.stokes_axis else number if length > 1 else 0
                for axis, length in enumerate(self.shape[:-2])
            )
            for number in self.planes[channel]
        ]
        header = self.other_grid
        nearest = None if header is None else nearest_pixels(label, header, self.shape[-2:], self.geometry)
        window = nearest.window if nearest else WHOLE
        compare, level = self.cut or ("!=", 0.0)
        allowed: np.ndarray | None = None
        for values in read_planes(label, self.path, self.hdu, indices, window):
            here = np.isfinite(values) & _COMPARISONS[compare](values, level)
            allowed = here if allowed is None else allowed | here
        if allowed is None:
            return np.zeros(self.geometry.shape, bool)
        return nearest.of(allowed) if nearest else allowed


_USE = Use(
    uncovered="are not cleaned",
    misaligned="may be cleaned where any of the planes that overlap allows",
    one_plane_has_a_frequency=False,
)

_USE_OF_EARLIER = Use(
    uncovered="begin without a mask",
    misaligned="begin with the masks of all planes that overlap",
    one_plane_has_a_frequency=True,
)

_COMPARISONS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal, "!=": np.not_equal}


def load_mask(
    path: str | os.PathLike[str],
    geometry: ImageGeometry,
    axis: SpectralAxis,
    cut: tuple[str, float] | None = None,
    stokes: tuple[str, ...] = ("I",),
    *,
    earlier: bool = False,
) -> MaskImage:
    """Open a mask, check it against the cube and find each channel's planes.

    Parameters
    ----------
    path : path
        FITS file, of which the first image counts, or the folder of a CASA image.
    geometry : ImageGeometry
    axis : SpectralAxis
    stokes : tuple of str
        The axes of the cube.
    cut : tuple of str and float, or None
        As in `MaskImage`.
    earlier : bool
        Whether automatic masks begin with this one, that of an earlier run: a single plane belongs to its own frequency only.

    Raises
    ------
    GpucubeError
        The file does not exist, is not FITS or contains no image; or the image has another number of planes, another spectral
        frame than the cube, no sky coordinates although its size is another one, coordinates that cannot be read, or no
        pixel, channel or Stokes parameter in common with the cube.
    """
    path = str(path)
    label = f"mask {path}"
    header, shape, listed, hdu = described(label, path)
    names, stokes_axis = stokes_of(header, shape)
    known = planes_of_stokes(names, stokes) if len(names) > 1 else {}
    cube = tuple(1 if known and number == stokes_axis else length for number, length in enumerate(shape))
    if not 2 <= len(shape) <= 4 or long_axis(cube) is None:
        raise wrong_shape(label, shape, geometry, axis)
    if len(names) > 1 and len(known) < len(stokes):
        raise GpucubeError(
            f"{label} has Stokes {', '.join(names)} and the cube {', '.join(stokes)}: expected one plane for all of them,"
            " or one for each"
        )
    wcs = coordinates(label, header, axis.restfreq)
    if shape[-2:] != geometry.shape and not wcs.has_celestial:
        raise wrong_shape(label, shape, geometry, axis)
    other_grid = header_text(header) if has_other_grid(label, header, wcs, shape, geometry) else None
    use = _USE_OF_EARLIER if earlier else _USE
    planes, remarks = planes_of_channels(label, cube, header, wcs, geometry, axis, listed, use)
    if other_grid is not None:
        inside = int(np.count_nonzero(nearest_pixels(label, other_grid, shape[-2:], geometry).index >= 0))
        if inside < geometry.nx * geometry.ny:
            remarks = (
                *remarks,
                f"{label} covers {inside} of the image's {geometry.nx * geometry.ny} pixels: the others are outside the mask",
            )
    return MaskImage(
        path=path,
        hdu=hdu,
        shape=shape,
        planes=planes,
        geometry=geometry,
        other_grid=other_grid,
        stokes=known,
        stokes_axis=stokes_axis,
        cut=cut,
        warnings=remarks,
    )


def mask_file_content(mask: np.ndarray) -> bytes:
    """Return the bytes of a FITS file that `load_mask` reads: an array as a mask, placed by index, without coordinates.

    Parameters
    ----------
    mask : numpy.ndarray
        (ny, nx) for all channels or (nchan, ny, nx). Components may be found where it is finite and not 0.

    Raises
    ------
    GpucubeError
        The array holds something else than real numbers.
    """
    from astropy.io import fits

    if mask.dtype.kind not in "biuf":
        raise GpucubeError(f"`mask` is an array of type {mask.dtype}: expected an array of numbers or of bool")
    content = io.BytesIO()
    fits.PrimaryHDU((np.isfinite(mask) & (mask != 0)).astype(np.uint8)).writeto(content)
    return content.getvalue()
