"""Quantities and directions as astronomers write them, turned into plain floats in base units.

In: text with a unit, such as ``"0.2arcsec"``, ``"3mJy"``, ``"230.538GHz"``, ``"5klambda"`` or ``"8GB"``, an astropy
`Quantity`, or a number in the base unit. Out: a float (angle: arcsec; flux density: Jy; frequency: Hz; length:
wavelengths; memory: bytes). A direction is text in tclean's syntax (``"J2000 12h30m00s +30d00m00s"``) or an astropy
`SkyCoord`, and comes out as (right ascension, declination, frame) in radians, which JSON can hold. The frames are FK5
(J2000) and ICRS; a `SkyCoord` in any other frame is converted to ICRS. A wrong value raises `ValueError` with one line
that quotes it and shows a right one. The caller adds the parameter's name.

A small table of units takes the place of astropy, whose import would cost the command line half a second at every start.
A `Quantity` is recognised by its method ``to_value``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gpucube.constants import ARCSEC_PER_RADIAN
from gpucube.text import in_words

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d][^\s]*)?\s*")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A physical kind of quantity. Its name and example are for messages."""

    name: str
    example: str
    base: str  # base unit, as astropy spells it
    units: Mapping[str, float]  # spelling of each accepted unit -> its size in base units
    usual: tuple[str, ...]  # units that a message proposes for a number without one
    other_base: str = ""  # another unit in astropy's spelling that means the same as the base unit
    fold_case: bool = False  # upper and lower case mean the same, which is never so for units with milli and mega

    @property
    def expected(self) -> str:
        """How a message describes a right value."""
        return f"expected {self.name} such as {self.example!r}"


ANGLE = Kind(
    name="an angle",
    example="0.2arcsec",
    base="arcsec",
    usual=("arcsec",),
    units={
        **dict.fromkeys(("arcsec", "asec", '"', "''"), 1.0),
        **dict.fromkeys(("mas", "milliarcsec", "marcsec"), 1e-3),
        **dict.fromkeys(("uas", "µas", "μas", "microarcsec", "uarcsec"), 1e-6),
        **dict.fromkeys(("arcmin", "amin", "'"), 60.0),
        **dict.fromkeys(("deg", "°"), 3600.0),
        "rad": ARCSEC_PER_RADIAN,
    },
)
POSITION_ANGLE = replace(ANGLE, name="a position angle", example="30deg", usual=("deg",))
FLUX_DENSITY = Kind(
    name="a flux density",
    example="3mJy",
    base="Jy",
    usual=("mJy", "Jy"),
    other_base="Jy / beam",
    units={"Jy": 1.0, "mJy": 1e-3, "uJy": 1e-6, "µJy": 1e-6, "μJy": 1e-6, "nJy": 1e-9, "kJy": 1e3}
    | {"Jy/beam": 1.0, "mJy/beam": 1e-3, "uJy/beam": 1e-6},
)
_HERTZ = {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "THz": 1e12}
FREQUENCY = Kind(name="a frequency", example="230.538GHz", base="Hz", units=_HERTZ, usual=("MHz", "GHz"))
VELOCITY = Kind(
    name="a velocity",
    example="5km/s",
    base="m/s",
    units={"m/s": 1.0, "km/s": 1e3, "cm/s": 1e-2},
    usual=("m/s", "km/s"),
)
_LAMBDA = {"lambda": 1.0, "klambda": 1e3, "Mlambda": 1e6}
WAVELENGTHS = Kind(
    name="a length in wavelengths", example="5klambda", base="", units=_LAMBDA, usual=("klambda", "lambda")
)
LENGTH = Kind(
    name="a length",
    example="12m",
    base="m",
    units={"m": 1.0, "cm": 1e-2, "mm": 1e-3, "km": 1e3},
    usual=("m",),
)
MEMORY = Kind(
    name="a memory size",
    example="8GB",
    base="byte",
    usual=("GB",),
    units={"B": 1.0}
    | {prefix + suffix: 1e3**power for power, prefix in enumerate("kMGT", 1) for suffix in ("", "B")}
    | {prefix + "iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)},
    fold_case=True,
)


def parse_quantity(value: Any, kind: Kind) -> float:
    """Turn one quantity into a finite float in the kind's base unit.

    Text needs a unit, except 0. A number that is not text is in the base unit.

    >>> parse_quantity("2arcmin", ANGLE)
    120.0
    """
    if hasattr(value, "to_value"):
        number = _from_astropy(value, kind)
    elif isinstance(value, str):
        number = _from_text(value, kind)
    else:
        plain = plain_number(value)
        if isinstance(plain, bool) or not isinstance(plain, int | float):
            raise ValueError(f"{value!r} is not {kind.name}; {kind.expected}")
        number = float(plain)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite; {kind.expected}")
    return number


def plain_number(value: Any) -> Any:
    """Turn a numpy scalar into Python's own number; return anything else unchanged."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _from_text(text: str, kind: Kind) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {kind.name}; {kind.expected}")
    number, unit = match.groups()
    if unit is None:
        if float(number) == 0:
            return 0.0
        raise ValueError(f"{text!r} has no unit; write e.g. {in_words([number + name for name in kind.usual])}")
    sizes = {name.lower(): size for name, size in kind.units.items()} if kind.fold_case else kind.units
    size = sizes.get(unit.lower() if kind.fold_case else unit)
    if size is None:
        raise ValueError(f"{text!r} has the unknown unit {unit!r}; {kind.expected}")
    return float(number) * size


def _from_astropy(value: Any, kind: Kind) -> float:
    for unit in (kind.base, kind.other_base) if kind.other_base else (kind.base,):
        with contextlib.suppress(ValueError, TypeError):  # astropy's UnitConversionError is both
            return float(value.to_value(unit))
    raise ValueError(f"'{value}' is not {kind.name}; {kind.expected}")


def parse_taper_width(value: Any) -> float:
    """Turn one width of a uv taper into a half width at half maximum in wavelengths.

    As in tclean, a length in wavelengths, or a number that is not text, is the half width at half maximum in the aperture, and an
    angle the full width at half maximum on the sky: a Gaussian of full width theta has the half width 2 ln 2 / (pi theta).
    """
    is_angle = hasattr(value, "to_value") or (isinstance(value, str) and _unit_of(value) in ANGLE.units)
    if not is_angle:
        width = parse_quantity(value, WAVELENGTHS)
    else:
        angle = parse_quantity(value, ANGLE) / ARCSEC_PER_RADIAN
        width = 2.0 * math.log(2.0) / (math.pi * angle) if angle > 0 else 0.0
    if not width > 0:
        raise ValueError(f"{value!r} is not a positive width; expected e.g. '5klambda' or '2arcsec'")
    return width


def _unit_of(text: str) -> str | None:
    match = _QUANTITY.fullmatch(text)
    return match.group(2) if match else None


# Directions

_FRAMES: dict[str, Literal["FK5", "ICRS"]] = {"J2000": "FK5", "FK5": "FK5", "ICRS": "ICRS"}
_SEXAGESIMAL = re.compile(r"([+-]?)(\d+)(?:[hd:.])(\d+)(?:[m:.])(\d+(?:\.\d*)?)s?")
_DIRECTION = "expected a direction such as 'J2000 12h30m00s +30d00m00s' or 'ICRS 187.5deg 30deg'"

BaseDirection = tuple[float, float, Literal["FK5", "ICRS"]]


def parse_direction(value: Any) -> BaseDirection:
    """Turn a direction into its base form.

    Text holds the frame (``J2000`` or ``ICRS``), the right ascension (``12h30m00s``, ``12:30:00`` or an angle with its
    unit) and the declination (``+30d00m00s``, ``+30.00.00``, ``+30:00:00`` or an angle with its unit). The right
    ascension of text and of a `SkyCoord` comes out in [0, 2 pi).
    """
    if isinstance(value, str):
        return _direction_from_text(value)
    if hasattr(value, "transform_to"):
        return _direction_from_astropy(value)
    if isinstance(value, list | tuple) and len(value) == 3 and value[2] in ("FK5", "ICRS"):
        return value[0], value[1], value[2]
    raise ValueError(_DIRECTION)


def _direction_from_astropy(value: Any) -> BaseDirection:
    from astropy.coordinates import SkyCoord

    try:
        coordinate = SkyCoord(value)
        if not coordinate.isscalar:
            raise ValueError(f"{coordinate.size} directions are given; expected one")
        is_j2000 = coordinate.frame.name == "fk5" and coordinate.equinox.jyear == 2000.0
        coordinate = coordinate if is_j2000 else coordinate.icrs
        ra, dec = float(coordinate.ra.rad), float(coordinate.dec.rad)
    except (TypeError, AttributeError) as error:
        raise ValueError(_DIRECTION) from error
    return ra % (2.0 * math.pi), dec, "FK5" if is_j2000 else "ICRS"


def _direction_from_text(text: str) -> BaseDirection:
    words = text.split()
    if len(words) == 2:
        raise ValueError(f"{text!r} names no frame; {_DIRECTION}")
    if len(words) != 3 or words[0].upper() not in _FRAMES:
        raise ValueError(f"{text!r} is not a direction; {_DIRECTION}")
    ra = _degrees(words[1], text, degrees_per_unit=15.0)
    dec = _degrees(words[2], text, degrees_per_unit=1.0)
    if not -360.0 <= ra <= 360.0 or not -90.0 <= dec <= 90.0:
        raise ValueError(f"{text!r} lies outside the sphere; {_DIRECTION}")
    return math.radians(ra) % (2.0 * math.pi), math.radians(dec), _FRAMES[words[0].upper()]


def _degrees(word: str, text: str, degrees_per_unit: float) -> float:
    """Degrees of an angle with its unit, or of a sexagesimal one.

    `degrees_per_unit` is what the first number of ``12:30:00`` counts; a ``d`` or dots always mean degrees.
    """
    match = _SEXAGESIMAL.fullmatch(word)
    if match is None:
        try:
            return parse_quantity(word, ANGLE) / 3600.0
        except ValueError as error:
            raise ValueError(f"{text!r} is not a direction; {_DIRECTION}") from error
    sign, whole, minutes, seconds = match.groups()
    if float(minutes) >= 60 or float(seconds) >= 60:
        raise ValueError(f"{text!r} has 60 or more minutes or seconds; {_DIRECTION}")
    if "d" in word or (":" not in word and "h" not in word):
        degrees_per_unit = 1.0
    elif "h" in word and degrees_per_unit == 1.0:
        raise ValueError(f"{text!r} has a declination in hours; {_DIRECTION}")
    magnitude = float(whole) + float(minutes) / 60.0 + float(seconds) / 3600.0
    return (-magnitude if sign == "-" else magnitude) * degrees_per_unit
