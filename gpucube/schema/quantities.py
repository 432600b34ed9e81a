"""Quantities as astronomers write them, turned into plain floats in a base unit.

In: text such as ``"0.2arcsec"``, ``"3mJy"``, ``"230.538GHz"``, ``"5klambda"``, ``"8GB"``, an astropy `Quantity`, or a
bare number, which is taken in the base unit of its kind. Out: a float (angle: arcsec; flux density: Jy; frequency: Hz;
length: wavelengths; memory: bytes), or a direction in radians. Wrong text raises `ValueError` with one line that quotes
the text and shows a right one; the caller adds the parameter's name.

A small table of units serves instead of astropy, which would cost the command line half a second at every start; a
`Quantity` is recognised by its method ``to_value``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpucube.constants import ARCSEC_PER_RADIAN

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d][^\s]*)?\s*")


@dataclass(frozen=True)
class Kind:
    """One physical kind of quantity.

    Attributes
    ----------
    name : str
        What the quantity is, for error messages.
    base : str
        Base unit, as astropy spells it.
    units : mapping
        Spelling of each unit accepted -> its size in base units.
    example : str
        A right one, for error messages.
    fold_case : bool
        True where upper and lower case mean the same (never for units with milli and mega).
    """

    name: str
    base: str
    units: Mapping[str, float]
    example: str
    fold_case: bool = False


ANGLE = Kind(
    "an angle",
    "arcsec",
    {
        **dict.fromkeys(("arcsec", "asec", '"', "''"), 1.0),
        **dict.fromkeys(("mas", "milliarcsec", "marcsec"), 1e-3),
        **dict.fromkeys(("uas", "µas", "μas", "microarcsec", "uarcsec"), 1e-6),
        **dict.fromkeys(("arcmin", "amin", "'"), 60.0),
        **dict.fromkeys(("deg", "°"), 3600.0),
        "rad": ARCSEC_PER_RADIAN,
    },
    "0.2arcsec",
)
FLUX_DENSITY = Kind(
    "a flux density",
    "Jy",
    {"Jy": 1.0, "mJy": 1e-3, "uJy": 1e-6, "µJy": 1e-6, "μJy": 1e-6, "nJy": 1e-9, "kJy": 1e3}
    | {"Jy/beam": 1.0, "mJy/beam": 1e-3, "uJy/beam": 1e-6},
    "3mJy",
)
FREQUENCY = Kind("a frequency", "Hz", {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "THz": 1e12}, "230.538GHz")
WAVELENGTHS = Kind("a length in wavelengths", "", {"lambda": 1.0, "klambda": 1e3, "Mlambda": 1e6}, "5klambda")
MEMORY = Kind(
    "a memory size",
    "byte",
    {"B": 1.0}
    | {prefix + suffix: 1e3**power for power, prefix in enumerate("kMGT", 1) for suffix in ("", "B")}
    | {prefix + "iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)},
    "8GB",
    fold_case=True,
)


def parse_quantity(value: Any, kind: Kind, *, unit_required: bool = False) -> float:
    """Turn one quantity into a float in the kind's base unit.

    Parameters
    ----------
    value : str, int, float, numpy scalar or astropy Quantity
        A bare number is in the base unit.
    kind : Kind
        `ANGLE`, `FLUX_DENSITY`, `FREQUENCY`, `WAVELENGTHS` or `MEMORY`.
    unit_required : bool
        Refuse text without a unit (a number that is no text is still in the base unit).

    Returns
    -------
    float
        Finite, in base units.

    Raises
    ------
    ValueError
        One line that quotes `value`, without the parameter's name.
    """
    if hasattr(value, "to_value"):
        return _finite(_from_astropy(value, kind), value, kind)
    if isinstance(value, str):
        return _finite(_from_text(value, kind, unit_required), value, kind)
    number = plain_number(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{value!r} is not {kind.name}; write e.g. {kind.example!r}")
    return _finite(float(number), value, kind)


def plain_number(value: Any) -> Any:
    """Turn a numpy scalar into Python's own number; anything else passes unchanged."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _from_text(text: str, kind: Kind, unit_required: bool) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {kind.name}; write e.g. {kind.example!r}")
    number, unit = match.groups()
    if unit is None:
        if unit_required:
            raise ValueError(f"{text!r} has no unit; write e.g. '{number}{kind.base}'")
        return float(number)
    if unit in kind.units:
        return float(number) * kind.units[unit]
    if kind.fold_case:
        folded = {name.lower(): size for name, size in kind.units.items()}
        if unit.lower() in folded:
            return float(number) * folded[unit.lower()]
    raise ValueError(f"{text!r} has the unknown unit {unit!r}; {kind.name} is written e.g. {kind.example!r}")


def _from_astropy(value: Any, kind: Kind) -> float:
    try:
        return float(value.to_value(kind.base))
    except (ValueError, TypeError) as error:  # astropy's UnitConversionError is both
        raise ValueError(f"'{value}' is not {kind.name}; write e.g. {kind.example!r}") from error


def _finite(number: float, value: Any, kind: Kind) -> float:
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite; write e.g. {kind.example!r}")
    return number


def parse_taper_width(value: Any) -> float:
    """Turn one width of a uv taper into a half width at half maximum in wavelengths.

    Parameters
    ----------
    value : str, float or astropy Quantity
        A length in wavelengths is the half width at half maximum in the aperture, an angle the full width at half
        maximum on the sky; a bare number is in wavelengths. As tclean's ``uvtaper``.

    Returns
    -------
    float
        Wavelengths, positive. A sky Gaussian of full width theta has the aperture half width 2 ln 2 / (pi theta).
    """
    is_angle = hasattr(value, "to_value") or (isinstance(value, str) and _unit_of(value) in ANGLE.units)
    if not is_angle:
        width = parse_quantity(value, WAVELENGTHS)
    else:
        angle = parse_quantity(value, ANGLE) / ARCSEC_PER_RADIAN
        width = 2.0 * math.log(2.0) / (math.pi * angle) if angle > 0 else 0.0
    if not width > 0:
        raise ValueError(f"{value!r} is not a positive width; write e.g. '5klambda' or '2arcsec'")
    return width


def _unit_of(text: str) -> str | None:
    match = _QUANTITY.fullmatch(text)
    return match.group(2) if match else None


_FRAMES = {"J2000": "FK5", "FK5": "FK5", "ICRS": "ICRS"}
_SEXAGESIMAL = re.compile(r"([+-]?)(\d+)(?:[hd:.])(\d+)(?:[m:.])(\d+(?:\.\d*)?)s?")
_DIRECTION_EXAMPLE = "'J2000 12h30m00s +30d00m00s' or 'ICRS 187.5deg 30deg'"


def parse_direction(text: str) -> tuple[float, float, str]:
    """Turn a direction on the sky, as tclean's ``phasecenter``, into radians.

    Parameters
    ----------
    text : str
        Frame (``J2000`` or ``ICRS``), right ascension (``12h30m00s``, ``12:30:00`` or an angle with its unit) and
        declination (``+30d00m00s``, ``+30.00.00``, ``+30:00:00`` or an angle with its unit).

    Returns
    -------
    ra, dec : float
        Radians; right ascension in [0, 2 pi).
    radesys : str
        ``"FK5"`` (J2000) or ``"ICRS"``.

    Raises
    ------
    ValueError
        One line that quotes `text`.
    """
    words = text.split()
    if len(words) != 3 or words[0].upper() not in _FRAMES:
        raise ValueError(f"{text!r} is not a direction; write e.g. {_DIRECTION_EXAMPLE}")
    ra = _angle_or_sexagesimal(words[1], text, degrees_per_unit=15.0)
    dec = _angle_or_sexagesimal(words[2], text, degrees_per_unit=1.0)
    if not -360.0 <= ra <= 360.0 or not -90.0 <= dec <= 90.0:
        raise ValueError(f"{text!r} lies outside the sphere; write e.g. {_DIRECTION_EXAMPLE}")
    return math.radians(ra) % (2.0 * math.pi), math.radians(dec), _FRAMES[words[0].upper()]


def _angle_or_sexagesimal(word: str, text: str, degrees_per_unit: float) -> float:
    """Degrees. `degrees_per_unit` is what the first number of ``12:30:00`` counts; ``d`` and dots mean degrees."""
    match = _SEXAGESIMAL.fullmatch(word)
    if match is None:
        try:
            return parse_quantity(word, ANGLE, unit_required=True) / 3600.0
        except ValueError as error:
            raise ValueError(f"{text!r} is not a direction; write e.g. {_DIRECTION_EXAMPLE}") from error
    sign, whole, minutes, seconds = match.groups()
    if float(minutes) >= 60 or float(seconds) >= 60:
        raise ValueError(f"{text!r} has 60 or more minutes or seconds; write e.g. {_DIRECTION_EXAMPLE}")
    if "d" in word or (":" not in word and "h" not in word):
        degrees_per_unit = 1.0
    elif "h" in word and degrees_per_unit == 1.0:
        raise ValueError(f"{text!r} has a declination in hours; write e.g. {_DIRECTION_EXAMPLE}")
    magnitude = float(whole) + float(minutes) / 60.0 + float(seconds) / 3600.0
    return (-magnitude if sign == "-" else magnitude) * degrees_per_unit
