"""The user's clean mask: where on the sky, and in which channels, components may be found.

In: a FITS image on the pixel grid of the cube, with two to four axes, one plane for all channels or one per channel.
Components may be found where a pixel is finite and not 0. Out: a `Mask`, which travels to workers as a path and reads one
plane at a time, so that a mask as large as the cube takes no memory.
"""

from __future__ import annotations

import io
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


@dataclass(frozen=True, kw_only=True)
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

    def plane(self, channel: int) -> np.ndarray:
        """Read the mask of one output channel.

        Returns
        -------
        numpy.ndarray
            True where components may be found, bool, shape (ny, nx).
        """
        from astropy.io import fits

        index = tuple(channel if length > 1 else 0 for length in self.leading)
        with fits.open(self.path) as hdus:
            values: np.ndarray = hdus[self.hdu].section[index] if index else hdus[self.hdu].data
        allowed: np.ndarray = np.isfinite(values) & (values != 0)
        return allowed


def load_mask(path: str | os.PathLike[str], geometry: ImageGeometry, axis: SpectralAxis) -> Mask:
    """Open a mask and check it against the cube.

    Parameters
    ----------
    path : path
        FITS file; the first image in it counts.
    geometry : ImageGeometry
    axis : SpectralAxis
        The axes of the cube.

    Raises
    ------
    GpucubeError
        No such file, not FITS, no image in it, another shape than the cube's, or another place on the sky.
    """
    from astropy.io import fits

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever is wrong is reported below
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
    return Mask(path=str(path), hdu=images[0], leading=tuple(shape[:-2]))


def _reaches_its_end(image: fits.PrimaryHDU) -> bool:
    """Return False if the file ends before the last pixel."""
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
    """Refuse anything but one plane, or one plane per channel, of the size of the image."""
    long_axes = [length for length in shape[:-2] if length > 1]
    stokes_long = any(
        str(header.get(f"CTYPE{number}", "")).startswith("STOKES") and header[f"NAXIS{number}"] > 1
        for number in range(3, len(shape) + 1)
    )
    fits_cube = 2 <= len(shape) <= 4 and shape[-2:] == geometry.shape and long_axes in ([], [axis.nchan])
    if not fits_cube or stokes_long:
        raise GpucubeError(
            f"mask {path} has shape {_shape_text(shape)} (slowest axis first) and the cube is"
            f" {_shape_text((axis.nchan, *geometry.shape))}: the mask must be one plane of"
            f" {_shape_text(geometry.shape)} or one such plane per channel"
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    """A shape for a message, ``"5x24x32"``."""
    return "x".join(map(str, shape))


def _check_place(path: str | os.PathLike[str], header: fits.Header, geometry: ImageGeometry) -> None:
    """Compare the phase centre and the middles of two image edges, if the header has sky coordinates."""
    from astropy.wcs import WCS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on dates and old keywords
        wcs = WCS(header)
        if not wcs.has_celestial:
            return
        wcs = wcs.celestial
    if wcs.wcs.lngtyp != "RA" or wcs.wcs.radesys.startswith("FK4"):
        raise GpucubeError(
            f"mask {path} has sky axes {wcs.wcs.lngtyp} {wcs.wcs.lattyp} {wcs.wcs.radesys};"
            f" the cube's are RA DEC {geometry.centre.frame}: regrid it"
        )
    x = np.array([geometry.nx // 2, 0, geometry.nx // 2])
    y = np.array([geometry.ny // 2, geometry.ny // 2, 0])
    ra, dec = geometry.sky_position(x, y)
    there_x, there_y = wcs.wcs_world2pix(np.degrees(ra), np.degrees(dec), 0)
    off = np.hypot(there_x - x, there_y - y)[np.isfinite(ra)]
    # NaN: the projection of the mask does not reach this position of the cube
    distance = np.max(np.nan_to_num(off, nan=np.inf))
    if distance > REFERENCE_TOLERANCE:
        raise GpucubeError(
            f"mask {path} lies elsewhere on the sky: its pixels are up to {distance:.3g} pixels off the cube's grid;"
            " regrid it to the cube's phase centre and cell"
        )


def mask_file_content(mask: np.ndarray) -> bytes:
    """Write an array as the FITS file of a mask that `load_mask` takes, by index and without coordinates.

    Parameters
    ----------
    mask : numpy.ndarray
        (ny, nx) for all channels or (nchan, ny, nx). Components may be found where it is finite and not 0.
    """
    from astropy.io import fits

    content = io.BytesIO()
    fits.PrimaryHDU((np.isfinite(mask) & (mask != 0)).astype(np.uint8)).writeto(content)
    return content.getvalue()
