"""CASA images: their coordinates as a FITS header, and their planes.

In: the folder of an image that CASA wrote. Out: the same as `gpucube.data.user_image` reads from a FITS file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucube import environment
from gpucube.data.stokes import FITS_CODES
from gpucube.errors import GpucubeError
from gpucube.sky.directions import CELESTIAL_FRAMES, EQUINOX
from gpucube.sky.frames import FRAMES

if TYPE_CHECKING:
    from astropy.io import fits

_AXES = {"GALACTIC": ("GLON", "GLAT"), "SUPERGALACTIC": ("SLON", "SLAT"), "ECLIPTIC": ("ELON", "ELAT")}
"""Frames without right ascension and declination -> FITS names of their axes."""


def _open(label: str, path: str) -> Any:
    from casacore.images import image

    environment.provide_home()
    try:
        return image(path)
    except RuntimeError as error:
        raise GpucubeError(f"cannot read {label} as a CASA image: {str(error).splitlines()[0]}") from None


def describe_image(label: str, path: str) -> tuple[fits.Header, tuple[int, ...], np.ndarray | None]:
    """Read an image's coordinates.

    Returns
    -------
    astropy.io.fits.Header
    tuple of int
        Its shape, slowest axis first.
    numpy.ndarray or None
        Edges of its channels in Hz, (nchan, 2), if they are listed one by one.
    """
    from astropy.io import fits

    opened = _open(label, path)
    shape = tuple(int(length) for length in opened.shape())
    coordinates = opened.coordinates().dict()
    header, listed = fits.Header({"NAXIS": len(shape)}), None
    for number, length in enumerate(shape[::-1], 1):
        header[f"NAXIS{number}"] = length
    for name, of_axes in coordinates.items():
        kind = name.rstrip("0123456789")
        axes = of_axes.get("_image_axes") if isinstance(of_axes, dict) else None
        if axes is None:
            continue
        numbers = [len(shape) - int(axis) for axis in axes]
        if kind == "direction":
            _put_direction(header, of_axes, sorted(numbers))
        elif kind == "spectral":
            listed = _put_spectral(header, of_axes, numbers[0], shape[len(shape) - numbers[0]])
        elif kind == "stokes":
            codes = [FITS_CODES.get(str(name), 0) for name in of_axes["stokes"]]
            header[f"CTYPE{numbers[0]}"], header[f"CRVAL{numbers[0]}"] = "STOKES", codes[0]
            header[f"CDELT{numbers[0]}"] = codes[1] - codes[0] if len(codes) > 1 else 1
    return header, shape, listed


def _put_direction(header: fits.Header, direction: dict[str, Any], numbers: list[int]) -> None:
    frame = CELESTIAL_FRAMES.get(direction["system"], direction["system"])
    names = _AXES.get(frame, ("RA--", "DEC-"))
    degrees = [{"rad": np.degrees(1.0), "deg": 1.0, "'": 1 / 60}.get(unit, np.nan) for unit in direction["units"]]
    for k, number in enumerate(numbers):
        header[f"CTYPE{number}"] = f"{names[k]}-{direction['projection']}"
        header[f"CUNIT{number}"] = "deg"
        header[f"CRVAL{number}"] = float(direction["crval"][k] * degrees[k])
        header[f"CDELT{number}"] = float(direction["cdelt"][k] * degrees[k])
        header[f"CRPIX{number}"] = float(direction["crpix"][k]) + 1.0
        for j, other in enumerate(numbers):
            header[f"PC{number}_{other}"] = float(direction["pc"][k][j])
    header["LONPOLE"], header["LATPOLE"] = float(direction["longpole"]), float(direction["latpole"])
    for k, parameter in enumerate(direction.get("projection_parameters", ()), 1):
        if parameter:  # an oblique SIN projection, for instance
            header[f"PV{numbers[1]}_{k}"] = float(parameter)
    if frame not in _AXES:
        header["RADESYS"] = frame
        if equinox := EQUINOX.get(frame):
            header["EQUINOX"] = equinox


def _put_spectral(header: fits.Header, spectral: dict[str, Any], number: int, length: int) -> np.ndarray | None:
    system = spectral["system"]
    header[f"CTYPE{number}"], header[f"CUNIT{number}"] = "FREQ", spectral["unit"]
    header["SPECSYS"] = FRAMES[system].specsys if system in FRAMES else system
    if spectral.get("restfreq"):
        header["RESTFRQ"] = float(spectral["restfreq"])
    if "tabular" in spectral:
        table = spectral["tabular"]
        centre = np.interp(np.arange(length), table["pixelvalues"], table["worldvalues"])
        half = np.diff(centre, prepend=2 * centre[0] - centre[1] if length > 1 else centre[0] - table["cdelt"]) / 2
        header[f"CRVAL{number}"], header[f"CDELT{number}"], header[f"CRPIX{number}"] = centre[0], 2 * half[0], 1.0
        return np.stack([centre - np.abs(half), centre + np.abs(half)], axis=1)
    wcs = spectral["wcs"]
    header[f"CRVAL{number}"], header[f"CDELT{number}"] = float(wcs["crval"]), float(wcs["cdelt"] * wcs["pc"])
    header[f"CRPIX{number}"] = float(wcs["crpix"]) + 1.0
    return None


def read_casa_planes(
    label: str, path: str, indices: list[tuple[int, ...]], window: tuple[slice, slice]
) -> Iterator[np.ndarray]:
    """Read a window of planes (ny, nx) at positions along the other axes, slowest first. Pixels that are masked are NaN."""
    opened = _open(label, path)
    rows, columns = (range(*part.indices(length)) for part, length in zip(window, opened.shape()[-2:], strict=True))
    for index in indices:
        corners = ([*index, rows[0], columns[0]], [*index, rows[-1], columns[-1]])
        values = np.array(opened.getdata(*corners), np.float32).reshape(len(rows), len(columns))
        values[np.array(opened.getmask(*corners), bool).reshape(values.shape)] = np.nan
        yield values
