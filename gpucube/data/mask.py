"""The user's clean mask: where on the sky, and in which channels, components may be found.

In: a FITS or CASA image on the pixel grid of the cube, with two to four axes: one plane for all channels, or one per channel of
the mask. Components may be found where a pixel is finite and not 0. Planes are placed by frequency, and by index only where
the mask's header has no spectral axis. Out: a `Mask`, which travels to workers as a path and reads one plane at a time, so
that a mask as large as the cube takes no memory.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.casa_image import describe_image, read_planes
from gpucube.errors import GpucubeError
from gpucube.sky.directions import EQUINOX, Direction, frame_rotation, unit_vectors
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis
from gpucube.sky.spectral_types import NEEDS_REST_FREQUENCY, SPECTRAL_TYPES, frequency_of
from gpucube.text import counted, ranges, with_prefix

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

REFERENCE_TOLERANCE = 0.1
"""Largest distance in pixels between the mask's grid and the cube's."""

CHANNEL_TOLERANCE = 0.1
"""A plane counts for a channel that it overlaps by more than this fraction of the narrower of the two."""

_PLAIN_AXES = frozenset({"", "LINEAR", "PIXEL", "CHANNEL", "CHAN", "INDEX"})
"""CTYPE of an axis that has no coordinate: its planes are placed by index."""

_OTHER_NAMES = {"LGROUP": "LOCALGRP", "REST": "SOURCE", "HELIO": "HELIOCEN", "BARY": "BARYCENT", "TOPO": "TOPOCENT"}
"""SPECSYS as some writers spell it -> as FITS does."""

_LARGEST_SHIFT = {frozenset({"BARYCENT", "HELIOCEN"}): 20.0, frozenset({"TOPOCENT", "GEOCENTR"}): 470.0}
"""m/s by which two frames can differ: the Sun's motion about the barycentre, and the rotation of the Earth. Frames
that are not here differ by kilometres per second."""


@dataclass(frozen=True, kw_only=True)
class Mask:
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
        For each channel of the cube the planes that count for it, as indices along the long axis. Components may be found
        where any of them allows; nowhere if there is none.
    cut : tuple of str and float, or None
        Components may be found where the pixel is above (``">"``), not below (``">="``) and so on a number. None for where
        it is not 0.
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
        for values in self._read(indices):
            compare, level = self.cut or ("!=", 0.0)
            allowed |= np.isfinite(values) & _COMPARISONS[compare](values, level)
        return allowed

    def _read(self, indices: list[tuple[int, ...]]) -> Iterator[np.ndarray]:
        """Read planes (ny, nx), one after the other."""
        from astropy.io import fits

        if self.hdu is None:
            yield from read_planes(self.path, indices)
            return
        with fits.open(self.path) as hdus:
            image = hdus[self.hdu]
            for index in indices:
                yield image.section[index] if index else image.data


_COMPARISONS = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal, "!=": np.not_equal}


def load_mask(
    path: str | os.PathLike[str],
    geometry: ImageGeometry,
    axis: SpectralAxis,
    cut: tuple[str, float] | None = None,
) -> Mask:
    """Open a mask, check it against the cube and find each channel's planes.

    Parameters
    ----------
    path : path
        FITS file, of which the first image counts, or the folder of a CASA image.
    geometry : ImageGeometry
    axis : SpectralAxis
        The axes of the cube.
    cut : tuple of str and float, or None
        As in `Mask`.

    Raises
    ------
    GpucubeError
        No such file, not FITS, no image in it, another shape than the cube's, another place on the sky, another spectral
        frame, coordinates that cannot be read, or no channel in common.
    """
    header, shape, listed, hdu = _described(path)
    _check_shape(path, shape, header, geometry, axis)
    wcs = _coordinates(path, header, axis)
    _check_place(path, header, wcs, geometry)
    planes, remarks = _planes(path, shape, header, wcs, geometry, axis, listed)
    return Mask(
        path=str(path),
        hdu=hdu,
        leading=tuple(shape[:-2]),
        planes=planes,
        image=geometry.shape,
        cut=cut,
        warnings=remarks,
    )


def _described(
    path: str | os.PathLike[str],
) -> tuple[fits.Header, tuple[int, ...], np.ndarray | None, int | None]:
    """Header and shape of an image, the edges of its channels if they are listed, and its extension in a FITS file."""
    from astropy.io import fits

    if os.path.isdir(path):
        return (*describe_image(os.fspath(path)), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever is wrong is reported below
            with fits.open(path) as hdus:
                images = [index for index, hdu in enumerate(hdus) if hdu.is_image and hdu.header["NAXIS"] > 0]
                if not images:
                    raise GpucubeError(f"mask {path} contains no image: give a FITS image")
                image = hdus[images[0]]
                if not _reaches_its_end(image):
                    raise GpucubeError(
                        f"mask {path} is cut short: its header announces {_shape_text(image.shape)} pixels"
                    )
                return image.header.copy(), image.shape, _listed_channels(hdus), images[0]
    except OSError as error:
        raise GpucubeError(f"cannot read mask {path} as FITS: {error.strerror or error}") from error


def _reaches_its_end(image: fits.PrimaryHDU) -> bool:
    """Return False if the file ends before the last pixel."""
    try:
        image.section[(-1,) * len(image.shape)]
    except (TypeError, ValueError, OSError, EOFError):
        return False
    return True


def _listed_channels(hdus: fits.HDUList) -> np.ndarray | None:
    """Edges in Hz, shape (nplane, 2), from gpucube's own table of channels that no straight line describes."""
    if "CHANNELS" not in hdus or not {"FREQ", "WIDTH"} <= set(hdus["CHANNELS"].columns.names):
        return None
    centre, width = (np.array(hdus["CHANNELS"].data[name], np.float64) for name in ("FREQ", "WIDTH"))
    return np.stack([centre - width / 2, centre + width / 2], axis=1)


def _check_shape(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    header: fits.Header,
    geometry: ImageGeometry,
    axis: SpectralAxis,
) -> None:
    """Refuse anything but one plane, or one axis of planes, of the size of the image."""
    fits_cube = 2 <= len(shape) <= 4 and shape[-2:] == geometry.shape and _long_axis(shape) is not None
    number = _long_axis(shape) or 0
    if not fits_cube or (number and _kind(header, number) == "STOKES"):
        raise _wrong_shape(path, shape, geometry, axis)


def _wrong_shape(
    path: str | os.PathLike[str], shape: tuple[int, ...], geometry: ImageGeometry, axis: SpectralAxis
) -> GpucubeError:
    return GpucubeError(
        f"mask {path} has shape {_shape_text(shape)} (slowest axis first) and the cube is"
        f" {_shape_text((axis.nchan, *geometry.shape))}: the mask must be one plane of"
        f" {_shape_text(geometry.shape)} or one such plane per channel"
    )


def _long_axis(shape: tuple[int, ...]) -> int | None:
    """FITS number of the only axis of planes that is longer than 1; 0 if there is none, None if there are several."""
    numbers = [len(shape) - index for index, length in enumerate(shape[:-2]) if length > 1]
    return None if len(numbers) > 1 else (numbers or [0])[0]


def _kind(header: fits.Header, number: int) -> str:
    """CTYPE of an axis in upper case, without blanks around it."""
    return str(header.get(f"CTYPE{number}", "")).strip().upper()


def _shape_text(shape: tuple[int, ...]) -> str:
    """A shape for a message, ``"5x24x32"``."""
    return "x".join(map(str, shape))


def _coordinates(path: str | os.PathLike[str], header: fits.Header, axis: SpectralAxis) -> WCS:
    """The coordinates of the header. The cube's rest frequency stands in where the mask names none."""
    from astropy.wcs import WCS

    header = header.copy()
    for number in range(1, header["NAXIS"] + 1):
        if f"CTYPE{number}" in header:
            header[f"CTYPE{number}"] = _kind(header, number)
        if str(header.get(f"CUNIT{number}", "")).strip().upper() in ("M/S", "KM/S"):
            header[f"CUNIT{number}"] = str(header[f"CUNIT{number}"]).strip().lower()
    if not _rest_frequency(header) and axis.restfreq:
        header["RESTFRQ"] = axis.restfreq
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on dates and old keywords
            return WCS(header)
    except (ValueError, AssertionError, MemoryError) as error:
        raise _unreadable(path, error) from error


def _rest_frequency(header: fits.Header) -> float:
    """Rest frequency in Hz that the header names, 0 if none."""
    for name in ("RESTFRQ", "RESTFREQ"):
        if header.get(name):
            return float(header[name])
    return LIGHT_SPEED / float(header["RESTWAV"]) if header.get("RESTWAV") else 0.0


def _unreadable(path: str | os.PathLike[str], error: Exception) -> GpucubeError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip(" .")
    return GpucubeError(f"mask {path} has coordinates that cannot be read ({reason}): correct its header")


def _check_place(path: str | os.PathLike[str], header: fits.Header, wcs: WCS, geometry: ImageGeometry) -> None:
    """Compare the phase centre and the middles of two image edges, if the header has sky coordinates."""
    if not wcs.has_celestial:
        return
    try:
        wcs = wcs.celestial
    except ValueError as error:
        raise _unreadable(path, error) from error
    names_frame = any(name in header for name in ("RADESYS", "RADECSYS", "EQUINOX", "EPOCH"))
    written = wcs.wcs.radesys.strip().upper()
    frame = {"J2000": "FK5", "": geometry.centre.frame}.get(written, written) if names_frame else geometry.centre.frame
    own_equinox = EQUINOX.get(frame) or wcs.wcs.equinox
    equinox = (
        "" if wcs.wcs.equinox == own_equinox or math.isnan(wcs.wcs.equinox) else f" of equinox {wcs.wcs.equinox:g}"
    )
    if wcs.wcs.lngtyp != "RA" or frame not in ("FK5", "ICRS", geometry.centre.frame) or equinox:
        raise GpucubeError(
            f"mask {path} has sky axes {wcs.wcs.lngtyp} {wcs.wcs.lattyp} {frame}{equinox};"
            f" the cube's are RA DEC {geometry.centre.frame}: regrid it"
        )
    x = np.array([geometry.nx // 2, 0, geometry.nx // 2])
    y = np.array([geometry.ny // 2, geometry.ny // 2, 0])
    ra, dec = geometry.sky_position(x, y)
    there_ra, there_dec = np.radians(wcs.wcs_pix2world(x, y, 0))
    here = unit_vectors(ra, dec) @ frame_rotation(geometry.centre, Direction(ra=0.0, dec=0.0, frame=frame)).T
    there = unit_vectors(there_ra, there_dec)
    off = np.linalg.norm(here - there, axis=1)[np.isfinite(ra)] / min(geometry.cell_x, geometry.cell_y)
    # NaN: the projection of the mask does not reach this pixel of the cube
    distance = np.max(np.nan_to_num(off, nan=np.inf))
    if distance > REFERENCE_TOLERANCE:
        frames = f" ({frame} against {geometry.centre.frame})" if frame != geometry.centre.frame else ""
        raise GpucubeError(
            f"mask {path} lies elsewhere on the sky: its pixels are up to {distance:.3g} pixels off the cube's grid"
            f"{frames}; regrid it to the cube's phase centre and cell"
        )


Planes = tuple[tuple[int, ...], ...]


def _planes(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    header: fits.Header,
    wcs: WCS,
    geometry: ImageGeometry,
    axis: SpectralAxis,
    listed: np.ndarray | None,
) -> tuple[Planes, tuple[str, ...]]:
    """Find the planes of every channel of the cube, and what to say about them."""
    number = _long_axis(shape)
    if not number:
        return ((0,),) * axis.nchan, ()
    nplane = shape[len(shape) - number]
    if wcs.wcs.spec != number - 1:
        if _kind(header, number) not in _PLAIN_AXES:
            raise GpucubeError(
                f"mask {path} has an axis of {nplane} planes along {_kind(header, number)}, which is no spectral"
                f" coordinate of FITS: call it FREQ, VRAD, VOPT or WAVE, or remove CTYPE{number} to place planes by index"
            )
        if nplane != axis.nchan:
            raise _wrong_shape(path, shape, geometry, axis)
        return tuple((channel,) for channel in range(axis.nchan)), ()
    remarks = _check_frame(path, wcs, axis)
    if listed is not None and len(listed) == nplane:
        edges = listed
    else:
        found, more = _edges(path, header, wcs, nplane, axis)
        if _is_straight_line_of(found, axis):
            return tuple((channel,) for channel in range(axis.nchan)), remarks
        edges, remarks = found, remarks + more
    planes, more = _overlaps(path, edges, axis)
    return planes, remarks + more


def is_frame_of(axis: SpectralAxis, name: str) -> bool:
    """Whether a spectral frame is the cube's, or differs from it by less than can matter."""
    given, cube = (_OTHER_NAMES.get(frame, frame) for frame in (name.upper(), axis.frame.specsys))
    shift = _LARGEST_SHIFT.get(frozenset({given, cube}), np.inf) / LIGHT_SPEED
    return given == cube or shift * float(np.max(axis.frequency / axis.width)) <= CHANNEL_TOLERANCE


def _check_frame(path: str | os.PathLike[str], wcs: WCS, axis: SpectralAxis) -> tuple[str, ...]:
    """Refuse frequencies of another frame, unless the two differ by less than can matter."""
    written = wcs.wcs.specsys.strip().upper()
    if not written:
        cube = _OTHER_NAMES.get(axis.frame.specsys, axis.frame.specsys)
        return (f"mask {path} names no spectral frame (SPECSYS): its channels are taken to be in the cube's, {cube}",)
    if not is_frame_of(axis, written):
        raise GpucubeError(
            f"mask {path} has frequencies in the frame {written}, but the cube is in {axis.frame.specsys}: regrid the mask"
            f" to {axis.frame.specsys}"
        )
    return ()


def _edges(
    path: str | os.PathLike[str], header: fits.Header, wcs: WCS, nplane: int, axis: SpectralAxis
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Lower and upper edge of every plane in Hz, shape (nplane, 2), and what to say about them."""
    spectral = wcs.wcs.spec
    kind = wcs.wcs.ctype[spectral][:4]
    remarks: tuple[str, ...] = ()
    if kind not in SPECTRAL_TYPES:
        raise GpucubeError(f"mask {path} has a spectral axis {kind}, which gpucube cannot read: regrid it to FREQ")
    restfreq = _rest_frequency(header)
    if kind in NEEDS_REST_FREQUENCY and not restfreq:
        if not axis.restfreq:
            raise GpucubeError(
                f"mask {path} has a velocity axis ({kind}) and no rest frequency: add RESTFRQ to its header, or give"
                " `restfreq`"
            )
        restfreq = axis.restfreq
        remarks = (f"mask {path} has a velocity axis and no RESTFRQ: the cube's is taken, {_hertz(restfreq)}",)
    try:
        world = wcs.sub([spectral + 1]).wcs_pix2world(np.arange(nplane + 1) - 0.5, 0)[0]
    except ValueError as error:
        raise _unreadable(path, error) from error
    frequency = frequency_of(kind, world, restfreq)
    step = np.diff(frequency)
    if not (np.all(np.isfinite(frequency)) and (np.all(step > 0) or np.all(step < 0))):
        raise GpucubeError(
            f"mask {path} has a spectral axis {kind} that does not rise or fall throughout: correct its header"
        )
    return np.sort(np.stack([frequency[:-1], frequency[1:]], axis=1), axis=1), remarks


def _is_straight_line_of(edges: np.ndarray, axis: SpectralAxis) -> bool:
    """Whether these are the frequencies that a cube with uneven channels names in its header: a straight line."""
    if axis.is_regular() or len(edges) != axis.nchan:
        return False
    line = axis.frequency[0] + axis.increment() * np.arange(axis.nchan)
    return bool(np.all(np.abs(edges.mean(axis=1) - line) <= CHANNEL_TOLERANCE * abs(axis.increment())))


def _overlaps(path: str | os.PathLike[str], edges: np.ndarray, axis: SpectralAxis) -> tuple[Planes, tuple[str, ...]]:
    """For every channel the planes that overlap it by more than `CHANNEL_TOLERANCE`, and what to say about them.

    Parameters
    ----------
    path : path
    edges : numpy.ndarray
        Lower and upper edge of every plane, Hz, shape (nplane, 2), in any order.
    axis : SpectralAxis
    """
    order = np.argsort(edges.mean(axis=1), kind="stable")
    low, high = edges[order].T  # (nplane,), rising
    bottom, top = axis.frequency - axis.width / 2, axis.frequency + axis.width / 2  # (nchan,)
    planes: list[tuple[int, ...]] = []
    across = []
    for channel in range(axis.nchan):
        near = slice(np.searchsorted(high, bottom[channel], "right"), np.searchsorted(low, top[channel], "left"))
        below, above = low[near] - bottom[channel], high[near] - top[channel]
        least = CHANNEL_TOLERANCE * np.minimum(high[near] - low[near], axis.width[channel])
        overlap = np.minimum(high[near], top[channel]) - np.maximum(low[near], bottom[channel])
        counts = overlap > least
        inside = (below >= -least) & (above <= least)
        around = (below <= least) & (above >= -least)
        if np.any(counts & ~inside & ~around):
            across.append(channel)
        planes.append(tuple(sorted(int(number) for number in order[near][counts])))
    covered = [channel for channel, numbers in enumerate(planes) if numbers]
    if not covered:
        raise GpucubeError(
            f"mask {path} covers {_hertz(low[0])} to {_hertz(high[-1])} and the cube {_hertz(bottom.min())} to"
            f" {_hertz(top.max())}: they have no channel in common"
        )
    remarks = []
    if len(covered) < axis.nchan:
        remarks.append(
            f"mask {path} covers {len(covered)} of the cube's {axis.nchan} channels ({_listed(covered)}): the others are"
            " not cleaned"
        )
    if across:
        remarks.append(
            f"mask {path} has planes of {with_prefix(float(np.median(high - low)), 'Hz')} that are not aligned with the"
            f" cube's channels of {with_prefix(float(np.median(axis.width)), 'Hz')}: {counted(len(across), 'channel')}"
            f" ({_listed(across)}) may be cleaned where any of the planes that overlap allows"
        )
    return tuple(planes), tuple(remarks)


def _listed(channels: list[int]) -> str:
    """Channels for a message: as ranges, or the first and the last if there are many ranges."""
    text = ranges(channels)
    return text if len(text) < 60 else f"between {channels[0]} and {channels[-1]}"


def _hertz(frequency: float) -> str:
    """A frequency for a message, with enough digits to tell channels apart."""
    return f"{frequency / 1e9:.6f} GHz"


def mask_file_content(mask: np.ndarray) -> bytes:
    """Write an array as the FITS file of a mask that `load_mask` takes, by index and without coordinates.

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
