"""An image that a user gives (mask or start model): its header, its coordinates, and the planes of each channel.

In: a FITS or CASA image with two to four axes, and the axes of the cube. Out: its header, shape and coordinates, and the planes
of each channel. Planes are placed by frequency, and by index only if the header has no spectral axis. Where its pixels lie on
the sky is the matter of `gpucube.data.sky_grid`. Messages begin with a label, such as ``"mask a.fits"``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpucube import disk
from gpucube.constants import LIGHT_SPEED
from gpucube.data.casa_image import describe_image, read_casa_planes
from gpucube.data.stokes import FITS_CODES
from gpucube.errors import GpucubeError
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis
from gpucube.sky.spectral_types import NEEDS_REST_FREQUENCY, SPECTRAL_TYPES, frequency_of
from gpucube.text import counted, ranges, with_prefix

if TYPE_CHECKING:
    from astropy.io import fits
    from astropy.wcs import WCS

CHANNEL_TOLERANCE = 0.1
"""A plane counts for a channel that it overlaps by more than this fraction of the narrower of the two."""

_PLAIN_AXES = frozenset({"", "LINEAR", "PIXEL", "CHANNEL", "CHAN", "INDEX"})
"""CTYPE of an axis that has no coordinate: its planes are placed by index."""

WHOLE = (slice(None), slice(None))
"""Every row and column of a plane."""

_STOKES = {code: name for name, code in FITS_CODES.items() if name != "pseudoI"}

_OTHER_NAMES = {"LGROUP": "LOCALGRP", "REST": "SOURCE", "HELIO": "HELIOCEN", "BARY": "BARYCENT", "TOPO": "TOPOCENT"}
"""SPECSYS as some writers spell it -> as FITS does."""

_LARGEST_SHIFT = {frozenset({"BARYCENT", "HELIOCEN"}): 20.0, frozenset({"TOPOCENT", "GEOCENTR"}): 470.0}
"""m/s by which two frames can differ: the Sun's motion about the barycentre, and the rotation of the Earth. Frames
that are not here differ by kilometres per second."""


def described(label: str, path: str) -> tuple[fits.Header, tuple[int, ...], np.ndarray | None, int | None]:
    """Header and shape of an image, the edges of its channels if they are listed, and its extension in a FITS file."""
    from astropy.io import fits

    if os.path.isdir(path):
        return (*describe_image(label, path), None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever is wrong is reported below
            with disk.open_to_read(path), fits.open(path) as hdus:
                images = [index for index, hdu in enumerate(hdus) if hdu.is_image and hdu.header["NAXIS"] > 0]
                if not images:
                    raise GpucubeError(f"{label} contains no image: give a FITS image")
                image = hdus[images[0]]
                if not _reaches_its_end(image):
                    raise GpucubeError(f"{label} is cut short: its header announces {shape_text(image.shape)} pixels")
                return image.header.copy(), image.shape, _listed_channels(hdus), images[0]
    except OSError as error:
        raise GpucubeError(f"cannot read {label} as FITS: {error.strerror or error}") from error


def read_planes(
    label: str, path: str, hdu: int | None, indices: list[tuple[int, ...]], window: tuple[slice, slice] = WHOLE
) -> Iterator[np.ndarray]:
    """Read planes (ny, nx), or a window of them, one after the other: of a CASA image if `hdu` is None.

    Indices go along the other axes.
    """
    from astropy.io import fits

    if hdu is None:
        yield from read_casa_planes(label, path, indices, window)
        return
    with fits.open(path) as hdus:
        image = hdus[hdu]
        for index in indices:
            yield image.section[(*index, *window)]


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


def wrong_shape(label: str, shape: tuple[int, ...], geometry: ImageGeometry, axis: SpectralAxis) -> GpucubeError:
    """Return the error of an image that is neither one plane nor one plane for each channel."""
    return GpucubeError(
        f"{label} has shape {shape_text(shape)} (slowest axis first) and the cube is"
        f" {shape_text((axis.nchan, *geometry.shape))}: expected one plane of"
        f" {shape_text(geometry.shape)}, or one such plane for each channel"
    )


def long_axis(shape: tuple[int, ...]) -> int | None:
    """FITS number of the only axis of planes that is longer than 1; 0 if there is none, None if there are several."""
    numbers = [len(shape) - index for index, length in enumerate(shape[:-2]) if length > 1]
    return None if len(numbers) > 1 else (numbers or [0])[0]


def kind_of(header: fits.Header, number: int) -> str:
    """CTYPE of an axis in upper case, without blanks around it."""
    return str(header.get(f"CTYPE{number}", "")).strip().upper()


def stokes_of(header: fits.Header, shape: tuple[int, ...]) -> tuple[tuple[str, ...], int | None]:
    """Names along the axis of Stokes parameters, and its index in the shape; no names and None without such an axis."""
    for index, length in enumerate(shape[:-2]):
        number = len(shape) - index
        if kind_of(header, number) == "STOKES":
            first, step, reference = (header.get(f"{key}{number}", 1.0) for key in ("CRVAL", "CDELT", "CRPIX"))
            codes = [round(first + (plane + 1 - reference) * step) for plane in range(length)]
            return tuple(_STOKES.get(code, f"code {code}") for code in codes), index
    return (), None


def planes_of_stokes(names: tuple[str, ...], stokes: tuple[str, ...]) -> dict[str, int]:
    """Stokes parameters of the cube -> their numbers among those of an image, of those that it has."""
    return {s: names.index(s.removeprefix("pseudo")) for s in stokes if s.removeprefix("pseudo") in names}


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for a message, ``"5x24x32"``."""
    return "x".join(map(str, shape))


def coordinates(label: str, header: fits.Header, restfreq: float | None) -> WCS:
    """The coordinates of the header. `restfreq`, the cube's, stands in where the image names none."""
    from astropy.wcs import WCS

    header = header.copy()
    for number in range(1, header["NAXIS"] + 1):
        if f"CTYPE{number}" in header:
            header[f"CTYPE{number}"] = kind_of(header, number)
        if str(header.get(f"CUNIT{number}", "")).strip().upper() in ("M/S", "KM/S"):
            header[f"CUNIT{number}"] = str(header[f"CUNIT{number}"]).strip().lower()
    if not _rest_frequency(header) and restfreq:
        header["RESTFRQ"] = restfreq
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on dates and old keywords
            return WCS(header)
    except (ValueError, AssertionError, MemoryError) as error:
        raise unreadable(label, error) from error


def _rest_frequency(header: fits.Header) -> float:
    """Rest frequency in Hz that the header names, 0 if none."""
    for name in ("RESTFRQ", "RESTFREQ"):
        if header.get(name):
            return float(header[name])
    return LIGHT_SPEED / float(header["RESTWAV"]) if header.get("RESTWAV") else 0.0


def unreadable(label: str, error: Exception) -> GpucubeError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip(" .")
    return GpucubeError(f"{label} has coordinates that cannot be read ({reason}): correct its header")


Planes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Use:
    """What an image is used for, for the warnings about its planes."""

    uncovered: str  # what happens to channels without a plane
    misaligned: str  # and to those whose planes are not aligned with them
    one_plane_has_a_frequency: bool  # whether a single plane with a spectral axis belongs to its own frequency only


def planes_of_channels(
    label: str,
    shape: tuple[int, ...],
    header: fits.Header,
    wcs: WCS,
    geometry: ImageGeometry,
    axis: SpectralAxis,
    listed: np.ndarray | None,
    use: Use,
) -> tuple[Planes, tuple[str, ...]]:
    """Find the planes of every channel of the cube, and what to say about them.

    A channel has the planes that overlap it by more than `CHANNEL_TOLERANCE`. Without a spectral axis planes are numbered as
    the channels, and a single plane belongs to all of them.
    """
    number = long_axis(shape) or (wcs.wcs.spec + 1 if use.one_plane_has_a_frequency else 0)
    if not number:
        return ((0,),) * axis.nchan, ()
    nplane = shape[len(shape) - number]
    if wcs.wcs.spec != number - 1:
        if kind_of(header, number) not in _PLAIN_AXES:
            raise GpucubeError(
                f"{label} has an axis of {nplane} planes along {kind_of(header, number)}, which is no spectral"
                f" coordinate of FITS: name it FREQ, VRAD, VOPT or WAVE, or remove CTYPE{number} to place planes by index"
            )
        if nplane != axis.nchan:
            raise wrong_shape(label, shape, geometry, axis)
        return tuple((channel,) for channel in range(axis.nchan)), ()
    remarks = _check_frame(label, wcs, axis)
    if listed is not None and len(listed) == nplane:
        edges = listed
    else:
        found, more = _edges(label, header, wcs, nplane, axis)
        if _is_straight_line_of(found, axis):
            return tuple((channel,) for channel in range(axis.nchan)), remarks
        edges, remarks = found, remarks + more
    planes, more = _overlaps(label, edges, axis, use)
    return planes, remarks + more


def is_frame_of(axis: SpectralAxis, name: str) -> bool:
    """Return True if a spectral frame is the cube's, or differs from it by at most `CHANNEL_TOLERANCE` of a channel."""
    given, cube = (_OTHER_NAMES.get(frame, frame) for frame in (name.upper(), axis.frame.specsys))
    shift = _LARGEST_SHIFT.get(frozenset({given, cube}), np.inf) / LIGHT_SPEED
    return given == cube or shift * float(np.max(axis.frequency / axis.width)) <= CHANNEL_TOLERANCE


def _check_frame(label: str, wcs: WCS, axis: SpectralAxis) -> tuple[str, ...]:
    """Refuse frequencies in another frame, unless `is_frame_of` accepts it."""
    written = wcs.wcs.specsys.strip().upper()
    if not written:
        cube = _OTHER_NAMES.get(axis.frame.specsys, axis.frame.specsys)
        return (f"{label} names no spectral frame (SPECSYS): its channels are taken to be in the cube's, {cube}",)
    if not is_frame_of(axis, written):
        raise GpucubeError(
            f"{label} has frequencies in the frame {written}, but the cube is in {axis.frame.specsys}: regrid it to"
            f" {axis.frame.specsys}"
        )
    return ()


def _edges(
    label: str, header: fits.Header, wcs: WCS, nplane: int, axis: SpectralAxis
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Lower and upper edge of every plane in Hz, shape (nplane, 2), and what to say about them."""
    spectral = wcs.wcs.spec
    kind = wcs.wcs.ctype[spectral][:4]
    remarks: tuple[str, ...] = ()
    if kind not in SPECTRAL_TYPES:
        raise GpucubeError(f"{label} has a spectral axis {kind}, which gpucube cannot read: regrid it to FREQ")
    restfreq = _rest_frequency(header)
    if kind in NEEDS_REST_FREQUENCY and not restfreq:
        if not axis.restfreq:
            raise GpucubeError(
                f"{label} has a velocity axis ({kind}) and no rest frequency: add RESTFRQ to its header, or give"
                " `restfreq`"
            )
        restfreq = axis.restfreq
        remarks = (f"{label} has a velocity axis and no RESTFRQ: the cube's is used, {_hertz(restfreq)}",)
    try:
        world = wcs.sub([spectral + 1]).wcs_pix2world(np.arange(nplane + 1) - 0.5, 0)[0]
    except ValueError as error:
        raise unreadable(label, error) from error
    frequency = frequency_of(kind, world, restfreq)
    step = np.diff(frequency)
    if not (np.all(np.isfinite(frequency)) and (np.all(step > 0) or np.all(step < 0))):
        raise GpucubeError(
            f"{label} has a spectral axis {kind} that does not rise or fall throughout: correct its header"
        )
    return np.sort(np.stack([frequency[:-1], frequency[1:]], axis=1), axis=1), remarks


def _is_straight_line_of(edges: np.ndarray, axis: SpectralAxis) -> bool:
    """Whether these are the frequencies that a cube with uneven channels names in its header: a straight line."""
    if axis.is_regular() or len(edges) != axis.nchan:
        return False
    line = axis.frequency[0] + axis.increment() * np.arange(axis.nchan)
    return bool(np.all(np.abs(edges.mean(axis=1) - line) <= CHANNEL_TOLERANCE * abs(axis.increment())))


def _overlaps(label: str, edges: np.ndarray, axis: SpectralAxis, use: Use) -> tuple[Planes, tuple[str, ...]]:
    """For every channel the planes that overlap it by more than `CHANNEL_TOLERANCE`, and what to say about them.

    Parameters
    ----------
    label : str
    edges : numpy.ndarray
        Lower and upper edge of every plane, Hz, shape (nplane, 2), in any order.
    axis : SpectralAxis
    use : Use
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
            f"{label} covers {_hertz(low[0])} to {_hertz(high[-1])} and the cube {_hertz(bottom.min())} to"
            f" {_hertz(top.max())}: they have no channel in common"
        )
    remarks = []
    if len(covered) < axis.nchan:
        remarks.append(
            f"{label} covers {len(covered)} of the cube's {axis.nchan} channels ({_listed(covered)}): the others "
            f"{use.uncovered}"
        )
    if across:
        remarks.append(
            f"{label} has planes of {with_prefix(float(np.median(high - low)), 'Hz')} that are not aligned with the"
            f" cube's channels of {with_prefix(float(np.median(axis.width)), 'Hz')}: {counted(len(across), 'channel')}"
            f" ({_listed(across)}) {use.misaligned}"
        )
    return tuple(planes), tuple(remarks)


def _listed(channels: list[int]) -> str:
    """Channels for a message: as ranges, or the first and the last if there are many ranges."""
    text = ranges(channels)
    return text if len(text) < 60 else f"between {channels[0]} and {channels[-1]}"


def _hertz(frequency: float) -> str:
    """A frequency for a message, with enough digits to tell channels apart."""
    return f"{frequency / 1e9:.6f} GHz"
