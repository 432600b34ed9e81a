"""Headers and table extensions of the cubes, as the bytes before and behind the pixels.

In: the axes of a cube and its metadata (`CubeDescription`). Out: for each product the primary header, and the
extensions that follow the data. `BEAMS` is CASA's table of one beam per plane (keyword CASAMBM). The beam of a cube
with a single plane is in its header, where CASA puts it. `CHANNELS` lists frequencies and widths where no linear axis
describes them.

Standards: FITS 4.0; WCS papers I to III; AIPS Memo 114 for STOKES and VELREF as CASA writes them.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.observation import Observation
from gpucube.data.stokes import FITS_CODES
from gpucube.errors import GpucubeError
from gpucube.sky.beam import Beam, RestoringBeam
from gpucube.sky.directions import EQUINOX
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.primary_beams import BeamOnSky
from gpucube.sky.spectral import SpectralAxis
from gpucube.version import __version__

if TYPE_CHECKING:
    from astropy.io import fits

BLOCK = 2880
"""Bytes of a FITS block."""

PRODUCT_UNITS = dict(image="Jy/beam", residual="Jy/beam", model="Jy/pixel", psf="", dirty="Jy/beam", mask="", pb="") | {
    "image.pbcor": "Jy/beam",
    "sumwt": "",
    "startmodel": "Jy/pixel",
}
"""Brightness unit of every product."""

CHANNEL_SLOWEST = ("startmodel",)
"""Products whose axes are RA, DEC, STOKES, FREQ, as those of CASA's images."""

ONE_PIXEL = ("sumwt",)
"""Products with one number for each plane."""

RESTORED = ("image", "image.pbcor")
"""Products in Jy per restoring beam."""

BEAM_ROW = np.dtype([("BMAJ", ">f4"), ("BMIN", ">f4"), ("BPA", ">f4"), ("CHAN", ">i4"), ("POL", ">i4")])
"""A row of the BEAMS table: arcsec, arcsec, degrees, channel, Stokes index."""

CHANNEL_ROW = np.dtype([("CHAN", ">i4"), ("FREQ", ">f8"), ("WIDTH", ">f8")])
"""A row of the CHANNELS table: channel, Hz, Hz."""

_UNEVEN = (
    "**** WARNING **** WARNING **** WARNING **** WARNING **** WARNING ****",
    "THE CHANNELS ARE NOT EVENLY SPACED: the FREQ axis of this header is",
    "only a straight line through the first and the last channel.",
    "The true frequencies and widths are in the table extension CHANNELS.",
)

Card = tuple[str, Any] | tuple[str, Any, str]
"""Keyword, value and perhaps a comment."""


@dataclass(frozen=True, kw_only=True)
class CubeDescription:
    """What the headers of all products of a run have in common.

    Attributes
    ----------
    stokes : tuple of str
        Keys of `FITS_CODES`, evenly spaced.
    restoring_beam : "channel", "common" or Beam
        Beam of the image product: one per channel, in the BEAMS table or, for a single plane, in cards that are reserved;
        one for all that is known only at the end, whose cards are reserved; or the given one.
    observation : Observation
        Telescope, observer and date. What is not known is left out.
    history : tuple of str
        One line per parameter. Long lines are wrapped, and characters that FITS cannot hold are escaped.
    """

    geometry: ImageGeometry
    axis: SpectralAxis
    stokes: tuple[str, ...] = ("I",)
    restoring_beam: RestoringBeam = "channel"
    observation: Observation = field(default_factory=Observation)
    object_name: str = ""
    primary_beam: BeamOnSky | None = None
    history: tuple[str, ...] = ()

    @property
    def nplane(self) -> int:
        """Number of planes."""
        return len(self.stokes) * self.axis.nchan


def padded(size: int) -> int:
    """Round a size in bytes up to whole FITS blocks."""
    return -(-size // BLOCK) * BLOCK


def has_fitted_beams(product: str, restoring_beam: RestoringBeam) -> bool:
    """Whether each plane has its fitted beam. Models and masks have no beam, and an image may have one for all channels."""
    return product in ("residual", "psf", "dirty") or (product in RESTORED and restoring_beam == "channel")


def primary_header(product: str, cube: CubeDescription) -> bytes:
    """The primary header of a product. An error if the Stokes parameters are not evenly spaced."""
    from astropy.io import fits

    if product in ONE_PIXEL:
        cube = replace(cube, geometry=replace(cube.geometry, nx=1, ny=1))

    # Card by card: astropy.wcs.WCS.to_header leaves out cards that have default values and formats others as the
    # installed wcslib does, but the bytes of a header must not depend on that.
    header = fits.Header(
        [
            *_shape_cards(product, cube),
            *_beam_cards(product, cube),
            ("BTYPE", "Intensity"),
            ("BUNIT", PRODUCT_UNITS[product]),
            *_sky_cards(cube.geometry),
            *_spectral_and_stokes_cards(product, cube),
            ("PV2_1", 0.0),
            ("PV2_2", 0.0),
            *_frame_cards(cube.axis),
            *_observation_cards(cube),
            ("ORIGIN", f"gpucube {__version__}"),
        ]
    )
    for line in () if cube.axis.is_regular() else _UNEVEN:
        header.add_comment(line)
    if cube.primary_beam is not None and product in ("pb", "image.pbcor"):
        for line in textwrap.wrap(_beam_in_words(cube.primary_beam), 72):
            header.add_comment(line)
    for line in cube.history:
        for part in textwrap.wrap(_printable(line), 72, subsequent_indent="  ", break_on_hyphens=False):
            header.add_history(part)
    return _encoded(header)


def _beam_in_words(primary_beam: BeamOnSky) -> str:
    at = primary_beam.pointing
    return (
        f"Primary beam of {primary_beam.beam.name}, centred on {math.degrees(at.ra) % 360:.6f} {math.degrees(at.dec):+.6f} deg "
        f"({at.frame}), blank below {primary_beam.limit:g}."
    )


def _shape_cards(product: str, cube: CubeDescription) -> list[Card]:
    planes = (cube.axis.nchan, len(cube.stokes))
    axes = (cube.geometry.nx, cube.geometry.ny, *(planes[::-1] if product in CHANNEL_SLOWEST else planes))
    sizes: list[Card] = [(f"NAXIS{number}", size) for number, size in enumerate(axes, 1)]
    return [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", len(axes)), *sizes, ("EXTEND", True)]


def _beam_cards(product: str, cube: CubeDescription) -> list[Card]:
    fitted = has_fitted_beams(product, cube.restoring_beam)
    if fitted and cube.nplane > 1:
        return [("CASAMBM", True, "CASA multiple BEAMS table present")]
    if not fitted and product not in RESTORED:
        return []
    given = None if fitted or not isinstance(cube.restoring_beam, Beam) else cube.restoring_beam
    beam = given or Beam(bmaj=0.0, bmin=0.0, bpa=0.0)  # filled in at the end
    return [
        ("BMAJ", math.degrees(beam.bmaj), "[deg] FWHM, major axis"),
        ("BMIN", math.degrees(beam.bmin), "[deg] FWHM, minor axis"),
        ("BPA", math.degrees(beam.bpa), "[deg] from north through east"),
    ]


def _sky_cards(g: ImageGeometry) -> list[Card]:
    ra, dec = math.degrees(g.centre.ra) % 360, math.degrees(g.centre.dec)
    equinox: list[Card] = [("EQUINOX", year)] if (year := EQUINOX[g.centre.frame]) else []
    return [
        ("RADESYS", g.centre.frame),
        *equinox,
        ("LONPOLE", 180.0),
        ("LATPOLE", dec),
        *_axis_cards(1, "RA---SIN", ra, -math.degrees(g.cell_x), g.nx // 2 + 1.0, "deg"),
        *_axis_cards(2, "DEC--SIN", dec, math.degrees(g.cell_y), g.ny // 2 + 1.0, "deg"),
    ]


def _spectral_and_stokes_cards(product: str, cube: CubeDescription) -> list[Card]:
    spectral, stokes = (4, 3) if product in CHANNEL_SLOWEST else (3, 4)
    return [
        *_axis_cards(spectral, "FREQ", float(cube.axis.frequency[0]), cube.axis.increment(), 1.0, "Hz"),
        *_axis_cards(stokes, "STOKES", *_stokes_axis(cube.stokes), 1.0, ""),
    ]


def _axis_cards(number: int, ctype: str, value: float, step: float, pixel: float, unit: str) -> list[Card]:
    cards = {"CTYPE": ctype, "CRVAL": value, "CDELT": step, "CRPIX": pixel, "CUNIT": unit}
    return [(f"{name}{number}", content) for name, content in cards.items()]


def _stokes_axis(stokes: Sequence[str]) -> tuple[float, float]:
    """First value and step of the STOKES axis."""
    codes = [FITS_CODES[name] for name in stokes]
    steps = set(np.diff(codes).tolist()) or {1}
    if len(steps) > 1 or 0 in steps:
        raise GpucubeError(
            f"`stokes={','.join(stokes)}` cannot be one FITS axis, whose values must be evenly spaced"
            " (as in I, IV, QU, IQU, IQUV): image them in separate runs"
        )
    return float(codes[0]), float(steps.pop())


def _frame_cards(axis: SpectralAxis) -> list[Card]:
    cards: list[Card] = []
    if axis.restfreq:
        velocity = LIGHT_SPEED * (1.0 - float(axis.frequency[0]) / axis.restfreq)
        cards += [
            ("RESTFRQ", axis.restfreq, "[Hz] rest frequency"),
            ("ALTRVAL", velocity, "[m/s] radio velocity of pixel ALTRPIX"),
            ("ALTRPIX", 1.0),
        ]
    cards.append(("SPECSYS", axis.frame.specsys))
    if axis.frame.velref is not None:
        cards.append(("VELREF", 256 + axis.frame.velref, "1 LSR, 2 HEL, 3 OBS, +256 Radio"))
    return cards


def _observation_cards(cube: CubeDescription) -> list[Card]:
    it = cube.observation
    telescope = ", ".join(it.telescopes)
    texts = {
        "OBJECT": cube.object_name,
        "TELESCOP": telescope,
        "INSTRUME": telescope,  # as CASA writes it
        "OBSERVER": ", ".join(it.observers),
    }
    cards: list[Card] = [(name, _printable(text)[:68]) for name, text in texts.items() if text]
    if it.pointing:
        pointing = it.pointing.to(cube.geometry.centre.frame)
        ra, dec = math.degrees(pointing.ra) % 360, math.degrees(pointing.dec)
        cards += [("OBSRA", ra, "[deg] phase centre of the field"), ("OBSDEC", dec, "[deg]")]
    if it.place:
        cards += [(f"OBSGEO-{axis}", metres, "[m] ITRF") for axis, metres in zip("XYZ", it.place, strict=True)]
    if it.begin is not None and it.end is not None:
        # with the time of the run in it, a header would differ from one run to the next
        cards.append(("DATE", _date(it.end), "end of the observation"))
        cards += [("DATE-OBS", _date(it.begin)), ("MJD-OBS", _mjd(_date(it.begin))), ("TIMESYS", "UTC")]
    return cards


def _date(mjd_seconds: float) -> str:
    """Date and time in FITS's form, to a millisecond."""
    return str(np.datetime64("1858-11-17T00:00:00.000") + np.timedelta64(round(1000 * mjd_seconds), "ms"))


def _mjd(date: str) -> float:
    from astropy.time import Time

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about leap seconds that are not known yet
        return float(Time(date, scale="utc").mjd)


def _printable(text: str) -> str:
    """Text in the characters that FITS allows; others as Python escapes."""
    return text.encode("unicode_escape").decode("ascii")


def _encoded(header: fits.Header) -> bytes:
    return bytes(header.tostring(), "ascii")


def extensions(product: str, cube: CubeDescription) -> bytes:
    """Make the table extensions behind the data. BEAMS is always the first, and its rows are still empty."""
    tables = b""
    nstokes, nchan = len(cube.stokes), cube.axis.nchan
    if has_fitted_beams(product, cube.restoring_beam) and cube.nplane > 1:
        rows = np.zeros(cube.nplane, dtype=BEAM_ROW)
        units = {"BMAJ": "arcsec", "BMIN": "arcsec", "BPA": "deg"}
        tables += _table("BEAMS", rows, units, {"NCHAN": nchan, "NPOL": nstokes})
    if not cube.axis.is_regular():
        rows = np.zeros(nchan, dtype=CHANNEL_ROW)
        rows["CHAN"], rows["FREQ"], rows["WIDTH"] = np.arange(nchan), cube.axis.frequency, cube.axis.width
        tables += _table("CHANNELS", rows, {"FREQ": "Hz", "WIDTH": "Hz"}, {})
    return tables


def _table(name: str, rows: np.ndarray, units: dict[str, str], cards: dict[str, int]) -> bytes:
    """Make a binary table extension: the bytes of its header and rows, both padded to whole blocks."""
    from astropy.io import fits

    formats = {"f4": "1E", "f8": "1D", "i4": "1J"}
    columns = [
        fits.Column(name=column, format=formats[rows.dtype[column].str[1:]], unit=units.get(column))
        for column in rows.dtype.names or ()
    ]
    header = fits.BinTableHDU.from_columns(columns, nrows=len(rows), name=name, ver=1).header
    header.update(cards)
    return _encoded(header) + rows.tobytes().ljust(padded(rows.nbytes), b"\0")
