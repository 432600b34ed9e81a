"""The user's clean mask: where on the sky, and in which channels, components may be found.

In: a FITS image on the cube's own pixel grid, with two to four axes, one plane for all channels or one per channel;
pixels that are finite and not zero may be cleaned. Out: `Mask`, which reads the plane of a channel when it is asked
for, so that a mask as large as the cube costs no memory, and which travels to workers as a path.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

if TYPE_CHECKING:
    from astropy.io import fits

REFERENCE_TOLERANCE = 0.1
"""Largest distance in pixels between the mask's grid and the cube's."""


@dataclass(frozen=True)
class Mask:
    """A checked mask.

    Attributes
    ----------
    path : str
        The FITS file.
    hdu : int
        Number of the extension that holds the image.
    leading : tuple of int
        Lengths of the axes before y and x, slowest first; at most one is longer than 1.
    """

    path: str
    hdu: int
    leading: tuple[int, ...]

    @property
    def nplanes(self) -> int:
        """1, or the number of channels."""
        return math.prod(self.leading)

    def plane(self, channel: int) -> np.ndarray:
        """Read the mask of one output channel.

        Returns
        -------
        numpy.ndarray
            (ny, nx), bool, True where components may be found.
        """
        from astropy.io import fits

        index = tuple(channel if length > 1 else 0 for length in self.leading)
        with fits.open(self.path) as hdus:
            values = hdus[self.hdu].section[index] if index else hdus[self.hdu].data
        return np.isfinite(values) & (values != 0)


def load_mask(path: str | os.PathLike[str], geometry: ImageGeometry, axis: SpectralAxis) -> Mask:
    """Open a mask and check it against the cube.

    Parameters
    ----------
    path : str
        FITS image; the first image in the file counts.
    geometry, axis
        The cube's axes.

    Raises
    ------
    GpucubeError
        No such file, not FITS, no image in it, another shape, or another place on the sky.
    """
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong is told below
            with fits.open(path) as hdus:
                images = [index for index, hdu in enumerate(hdus) if hdu.is_image and hdu.header["NAXIS"] > 0]
                if not images:
                    raise GpucubeError(f"mask {path} holds no image")
                header = hdus[images[0]].header
                shape = hdus[images[0]].shape
                if not _reaches_its_end(hdus[images[0]]):
                    raise GpucubeError(f"mask {path} is cut short: its header announces {_shape_text(shape)} pixels")
    except OSError as error:
        raise GpucubeError(f"cannot read mask {path} as FITS: {error.strerror or error}") from error
    _check_shape(path, shape, header, geometry, axis)
    _check_place(path, header, geometry)
    return Mask(str(path), images[0], tuple(shape[:-2]))


def _reaches_its_end(image: fits.PrimaryHDU) -> bool:
    """False if the file ends before the last pixel."""
    try:
        image.section[(-1,) * len(image.shape)]
    except (TypeError, ValueError, OSError, EOFError):
        return False
    return True


def _check_shape(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    header: fits.Header,
    geometry: ImageGeometry,
    axis: SpectralAxis,
) -> None:
    """One plane or one per channel of exactly the image's size; a longer STOKES axis is refused."""
    long_axes = [length for length in shape[:-2] if length > 1]
    stokes_long = any(
        str(header.get(f"CTYPE{number}", "")).startswith("STOKES") and header[f"NAXIS{number}"] > 1
        for number in range(3, len(shape) + 1)
    )
    fits_cube = 2 <= len(shape) <= 4 and shape[-2:] == geometry.shape and long_axes in ([], [axis.nchan])
    if not fits_cube or stokes_long:
        raise GpucubeError(
            f"mask {path} has shape {_shape_text(shape)} (slowest axis first) and the cube is"
            f" {_shape_text((axis.nchan, *geometry.shape))}; the mask must be one plane of"
            f" {_shape_text(geometry.shape)} or one such plane per channel"
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _check_place(path: str | os.PathLike[str], header: fits.Header, geometry: ImageGeometry) -> None:
    """Compare the phase centre and the middles of two image edges, if the header says where the mask lies."""
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on dates and old keywords in other people's headers
        wcs = WCS(header)
        if not wcs.has_celestial:
            return
        wcs = wcs.celestial
    if wcs.wcs.lngtyp != "RA" or wcs.wcs.radesys.startswith("FK4"):
        raise GpucubeError(
            f"mask {path} has sky axes {wcs.wcs.lngtyp} {wcs.wcs.lattyp} {wcs.wcs.radesys};"
            f" the cube's are RA DEC {geometry.centre.frame}"
        )
    x = np.array([geometry.nx // 2, 0, geometry.nx // 2])
    y = np.array([geometry.ny // 2, geometry.ny // 2, 0])
    ra, dec = geometry.sky_position(x, y)
    there_x, there_y = wcs.wcs_world2pix(np.degrees(ra), np.degrees(dec), 0)
    off = np.hypot(there_x - x, there_y - y)[np.isfinite(ra)]
    # NaN: the mask's projection does not show the cube's position at all
    distance = np.max(np.nan_to_num(off, nan=np.inf))
    if distance > REFERENCE_TOLERANCE:
        raise GpucubeError(
            f"mask {path} lies elsewhere on the sky: its pixels are up to {distance:.3g} pixels off the cube's grid;"
            " regrid it to the cube's phase centre and cell"
        )
