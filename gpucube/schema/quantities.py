"""Quantities as astronomers write them, turned into plain floats in a base unit.

In: text such as ``"0.2arcsec"``, ``"3mJy"``, ``"230.538GHz"``, ``"5klambda"`` or ``"8GB"``, an astropy `Quantity`, or a
bare number in the base unit. Out: a float (angle: arcsec; flux density: Jy; frequency: Hz; length: wavelengths; memory:
bytes). A wrong value raises `ValueError` with one line that quotes it and shows a right one. The caller adds the
parameter's name.

A small table of units takes the place of astropy, whose import would cost the command line half a second at every start.
A `Quantity` is recognised by its method ``to_value``.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpucube.constants import ARCSEC_PER_RADIAN

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_QUANTITY = re.compile(rf"\s*({_NUMBER})\s*([^\s\d][^\s]*)?\s*")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A physical kind of quantity.

    Attributes
    ----------
    name : str
        What the quantity is, for messages.
    example : str
        A right value, for messages.
    base : str
        Base unit, as astropy spells it.
    units : mapping
        Spelling of each accepted unit -> its size in base units.
    other_base : str
        Another unit in astropy's spelling that means the same as the base unit; empty if there is none.
    fold_case : bool
        True where upper and lower case mean the same, which is never so for units with milli and mega.
    """

    name: str
    example: str
    base: str
    units: Mapping[str, float]
    other_base: str = ""
    fold_case: bool = False

    @property
    def expected(self) -> str:
        """What a message says of a right value."""
        return f"expected {self.name} such as {self.example!r}"


ANGLE = Kind(
    name="an angle",
    example="0.2arcsec",
    base="arcsec",
    units={
        **dict.fromkeys(("arcsec", "asec", '"', "''"), 1.0),
        **dict.fromkeys(("mas", "milliarcsec", "marcsec"), 1e-3),
        **dict.fromkeys(("uas", "µas", "μas", "microarcsec", "uarcsec"), 1e-6),
        **dict.fromkeys(("arcmin", "amin", "'"), 60.0),
        **dict.fromkeys(("deg", "°"), 3600.0),
        "rad": ARCSEC_PER_RADIAN,
    },
)
FLUX_DENSITY = Kind(
    name="a flux density",
    example="3mJy",
    base="Jy",
    other_base="Jy / beam",
    units={"Jy": 1.0, "mJy": 1e-3, "uJy": 1e-6, "µJy": 1e-6, "μJy": 1e-6, "nJy": 1e-9, "kJy": 1e3}
    | {"Jy/beam": 1.0, "mJy/beam": 1e-3, "uJy/beam": 1e-6},
)
FREQUENCY = Kind(
    name="a frequency",
    example="230.538GHz",
    base="Hz",
    units={"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9, "THz": 1e12},
)
WAVELENGTHS = Kind(
    name="a length in wavelengths",
    example="5klambda",
    base="",
    units={"lambda": 1.0, "klambda": 1e3, "Mlambda": 1e6},
)
MEMORY = Kind(
    name="a memory size",
    example="8GB",
    base="byte",
    units={"B": 1.0}
    | {prefix + suffix: 1e3**power for power, prefix in enumerate("kMGT", 1) for suffix in ("", "B")}
    | {prefix + "iB": 1024.0**power for power, prefix in enumerate("KMGT", 1)},
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
        Refuse text without a unit. A number that is not text is in the base unit all the same.

    Returns
    -------
    float
        Finite, in base units.

    Raises
    ------
    ValueError
        One line that quotes `value`, without the parameter's name.

    Examples
    --------
    >>> parse_quantity("2arcmin", ANGLE)
    120.0
    """
    if hasattr(value, "to_value"):
        number = _from_astropy(value, kind)
    elif isinstance(value, str):
        number = _from_text(value, kind, unit_required)
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


def _from_text(text: str, kind: Kind, unit_required: bool) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not {kind.name}; {kind.expected}")
    number, unit = match.groups()
    if unit is None:
        if unit_required:
            raise ValueError(f"{text!r} has no unit; write e.g. '{number}{kind.base}'")
        return float(number)
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

    Parameters
    ----------
    value : str, float or astropy Quantity
        As tclean's ``uvtaper``: a length in wavelengths is the half width at half maximum in the aperture, an angle the
        full width at half maximum on the sky. A bare number is in wavelengths.

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
        raise ValueError(f"{value!r} is not a positive width; expected e.g. '5klambda' or '2arcsec'")
    return width


def _unit_of(text: str) -> str | None:
    match = _QUANTITY.fullmatch(text)
    return match.group(2) if match else None
