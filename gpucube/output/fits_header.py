"""FITS headers and tables of the cubes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.sky.beam import Beam, RestoringBeam
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

if TYPE_CHECKING:
    from astropy.io import fits


BLOCK = 2880
"""Bytes of a FITS block."""

PRODUCT_UNITS = {
    "image": "Jy/beam",
    "residual": "Jy/beam",
    "model": "Jy/pixel",
    "psf": "",
    "dirty": "Jy/beam",
    "mask": "",
}
"""Brightness unit of every product."""

STOKES_CODES = {"I": 1, "pseudoI": 1, "Q": 2, "U": 3, "V": 4}
"""FITS value of each Stokes parameter."""

_BEAM_TABLE_PRODUCTS = ("residual", "psf", "dirty")

_BEAM_ROW = np.dtype([("BMAJ", ">f4"), ("BMIN", ">f4"), ("BPA", ">f4"), ("CHAN", ">i4"), ("POL", ">i4")])

_CHANNEL_ROW = np.dtype([("CHAN", ">i4"), ("FREQ", ">f8"), ("WIDTH", ">f8")])


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _printable(text: str) -> str:
    """Text in the characters that FITS allows; others as Python escapes."""
    return text.encode("unicode_escape").decode("ascii")


def _primary_header(
    product: str,
    geometry: ImageGeometry,
    axis: SpectralAxis,
    stokes: Sequence[str],
    history: Sequence[str],
    restoring_beam: RestoringBeam,
) -> fits.Header:
    """Header of a product, without the cards that depend on the observation's text."""
    from astropy.io import fits

    from gpucube.version import __version__

    first_stokes, stokes_step = _stokes_axis(stokes)
    header = fits.Header()
    header["SIMPLE"] = True
    header["BITPIX"] = -32
    header["NAXIS"] = 4
    header["NAXIS1"] = geometry.nx
    header["NAXIS2"] = geometry.ny
    header["NAXIS3"] = axis.nchan
    header["NAXIS4"] = len(stokes)
    header["EXTEND"] = True
    if product in _BEAM_TABLE_PRODUCTS or (product == "image" and restoring_beam == "channel"):
        header["CASAMBM"] = (True, "CASA multiple BEAMS table present")
    elif product == "image":
        beam = restoring_beam if isinstance(restoring_beam, Beam) else Beam(bmaj=0.0, bmin=0.0, bpa=0.0)
        header["BMAJ"] = (math.degrees(beam.bmaj), "[deg] FWHM, major axis")
        header["BMIN"] = (math.degrees(beam.bmin), "[deg] FWHM, minor axis")
        header["BPA"] = (math.degrees(beam.bpa), "[deg] from north through east")
    header["BTYPE"] = "Intensity"
    header["BUNIT"] = PRODUCT_UNITS[product]
    header["RADESYS"] = geometry.centre.frame
    if geometry.centre.frame != "ICRS":
        header["EQUINOX"] = 2000.0
    header["LONPOLE"] = 180.0
    header["LATPOLE"] = math.degrees(geometry.centre.dec)
    header["CTYPE1"] = "RA---SIN"
    header["CRVAL1"] = math.degrees(geometry.centre.ra) % 360
    header["CDELT1"] = -math.degrees(geometry.cell_x)
    header["CRPIX1"] = geometry.nx // 2 + 1.0
    header["CUNIT1"] = "deg"
    header["CTYPE2"] = "DEC--SIN"
    header["CRVAL2"] = math.degrees(geometry.centre.dec)
    header["CDELT2"] = math.degrees(geometry.cell_y)
    header["CRPIX2"] = geometry.ny // 2 + 1.0
    header["CUNIT2"] = "deg"
    header["CTYPE3"] = "FREQ"
    header["CRVAL3"] = float(axis.frequency[0])
    header["CDELT3"] = axis.increment()
    header["CRPIX3"] = 1.0
    header["CUNIT3"] = "Hz"
    header["CTYPE4"] = "STOKES"
    header["CRVAL4"] = float(first_stokes)
    header["CDELT4"] = float(stokes_step)
    header["CRPIX4"] = 1.0
    header["CUNIT4"] = ""
    header["PV2_1"] = 0.0
    header["PV2_2"] = 0.0
    if axis.restfreq:
        header["RESTFRQ"] = (axis.restfreq, "[Hz] rest frequency")
    header["SPECSYS"] = axis.frame.specsys
    if axis.frame.velref is not None:
        header["VELREF"] = (256 + axis.frame.velref, "1 LSR, 2 HEL, 3 OBS, +256 Radio")
    header["ORIGIN"] = f"gpucube {__version__}"
    if not axis.is_regular():
        for line in (
            "**** WARNING **** WARNING **** WARNING **** WARNING **** WARNING ****",
            "THE CHANNELS ARE NOT EVENLY SPACED: the FREQ axis of this header is",
            "only a straight line through the first and the last channel.",
            "The true frequencies and widths are in the table extension CHANNELS.",
        ):
            header.add_comment(line)
    for line in history:
        for part in textwrap.wrap(_printable(line), 72, subsequent_indent="  ", break_on_hyphens=False):
            header.add_history(part)
    return header


def _stokes_axis(stokes: Sequence[str]) -> tuple[int, int]:
    """First value and step of the STOKES axis."""
    codes = [STOKES_CODES[name] for name in stokes]
    steps = set(np.diff(codes).tolist()) or {1}
    if len(steps) > 1 or 0 in steps:
        raise GpucubeError(
            f"stokes={','.join(stokes)} cannot be one FITS axis, whose values must be evenly spaced"
            " (as in I, IV, QU, IQU, IQUV); image them in separate runs"
        )
    return codes[0], steps.pop()


def _add_date(header: fits.Header, dateobs: str) -> None:
    from astropy.time import Time

    header.insert("ORIGIN", ("DATE-OBS", dateobs))
    header.insert("ORIGIN", ("MJD-OBS", float(Time(dateobs, scale="utc").mjd)))
    header.insert("ORIGIN", ("TIMESYS", "UTC"))


def _tables(product: str, axis: SpectralAxis, nstokes: int, restoring_beam: RestoringBeam) -> bytes:
    """The table extensions behind the data; BEAMS, always the first, has its rows still empty."""
    tables = b""
    if product in _BEAM_TABLE_PRODUCTS or (product == "image" and restoring_beam == "channel"):
        rows = np.zeros(nstokes * axis.nchan, dtype=_BEAM_ROW)
        units = ("arcsec", "arcsec", "deg", None, None)
        tables += _table("BEAMS", rows, units, {"NCHAN": axis.nchan, "NPOL": nstokes})
    if not axis.is_regular():
        rows = np.zeros(axis.nchan, dtype=_CHANNEL_ROW)
        rows["CHAN"], rows["FREQ"], rows["WIDTH"] = np.arange(axis.nchan), axis.frequency, axis.width
        tables += _table("CHANNELS", rows, (None, "Hz", "Hz"), {})
    return tables


def _table(name: str, rows: np.ndarray, units: Sequence[str | None], cards: dict[str, int]) -> bytes:
    """A binary table extension as the bytes of its header and rows, both padded to full blocks."""
    from astropy.io import fits

    formats = {"f4": "1E", "f8": "1D", "i4": "1J"}
    columns = [
        fits.Column(name=column, format=formats[rows.dtype[column].str[1:]], unit=unit)
        for column, unit in zip(rows.dtype.names, units, strict=True)
    ]
    header = fits.BinTableHDU.from_columns(columns, nrows=len(rows), name=name, ver=1).header
    header.update(cards)
    return header.tostring().encode("ascii") + rows.tobytes().ljust(_padded(rows.nbytes), b"\0")
