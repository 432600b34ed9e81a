"""A clean mask that is an image: where on the sky, and in which channels, components may be found.

In: a FITS or CASA image on the pixel grid of the cube, with two to four axes: one plane for all channels, or one per channel of
the mask. Components may be found where a pixel is finite and not 0. Planes are placed by frequency, and by index only if
the mask's header has no spectral axis. Out: a `MaskImage`. It is sent to workers as a path and reads one plane at a time, so
that a mask as large as the cube takes no memory.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass

import numpy as np

from gpucube.data.user_image import (
    Use,
    check_place,
    check_shape,
    coordinates,
    described,
    planes_of_channels,
    read_planes,
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
    leading : tuple of int
        Lengths of the axes before y and x, slowest first; at most one is longer than 1.
    planes : tuple of tuple of int
        For each channel of the cube the planes that apply to it, as indices along the long axis. Components may be found
        where any of them allows it; nowhere if there is none.
    cut : tuple of str and float, or None
        A comparison (``">"``, ``">="``, ``"<"`` or ``"<="``) and a number: components may be found where the pixel meets it.
        None for where the pixel is not 0.
    warnings : tuple of str
        What the user should know, one line each.
    """

    path: str
    hdu: int | None
    leading: tuple[int, ...]
    planes: tuple[tuple[int, ...], ...]
    image: tuple[int, int]  # (ny, nx)
    cut: tuple[str, float] | None = None
    warnings: tuple[str, ...] = ()

    def plane(self, channel: int, stokes: str = "I") -> np.ndarray:
        """Read the mask of one output channel, which is the same for every Stokes parameter.

        Returns
        -------
        numpy.ndarray
            True where components may be found, bool, shape (ny, nx).
        """
        indices = [tuple(number if length > 1 else 0 for length in self.leading) for number in self.planes[channel]]
        allowed: np.ndarray = np.zeros(self.image, bool)
        for values in read_planes(f"mask {self.path}", self.path, self.hdu, indices):
            compare, level = self.cut or ("!=", 0.0)
            allowed |= np.isfinite(values) & _COMPARISONS[compare](values, level)
        return allowed


_USE = Use(
    uncovered="are not cleaned",
    misaligned="may be cleaned where any of the planes that overlap allows",
    one_plane_has_a_frequency=False,
)

_COMPARISONS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal, "!=": np.not_equal}


def load_mask(
    path: str | os.PathLike[str],
    geometry: ImageGeometry,
    axis: SpectralAxis,
    cut: tuple[str, float] | None = None,
) -> MaskImage:
    """Open a mask, check it against the cube and find each channel's planes.

    Parameters
    ----------
    path : path
        FITS file, of which the first image counts, or the folder of a CASA image.
    geometry : ImageGeometry
    axis : SpectralAxis
        The axes of the cube.
    cut : tuple of str and float, or None
        As in `MaskImage`.

    Raises
    ------
    GpucubeError
        The file does not exist, is not FITS or contains no image; or the image has another shape, another place on the sky or
        another spectral frame than the cube, coordinates that cannot be read, or no channel in common with the cube.
    """
    label = f"mask {path}"
    header, shape, listed, hdu = described(label, os.fspath(path))
    check_shape(label, shape, header, geometry, axis)
    wcs = coordinates(label, header, axis.restfreq)
    check_place(label, header, wcs, geometry)
    planes, remarks = planes_of_channels(label, shape, header, wcs, geometry, axis, listed, _USE)
    return MaskImage(
        path=str(path),
        hdu=hdu,
        leading=tuple(shape[:-2]),
        planes=planes,
        image=geometry.shape,
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
