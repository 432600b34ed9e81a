"""Directions on the sky as users write them.

In: text in tclean's syntax (``"J2000 12h30m00s +30d00m00s"``), an astropy `SkyCoord`, or the base form. Out: the base
form, (right ascension, declination, frame) in radians, which JSON can hold. The frames are FK5 (J2000) and ICRS; a
`SkyCoord` in any other frame is converted to ICRS.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from gpucube.schema.quantities import ANGLE, parse_quantity

_FRAMES: dict[str, Literal["FK5", "ICRS"]] = {"J2000": "FK5", "FK5": "FK5", "ICRS": "ICRS"}
_SEXAGESIMAL = re.compile(r"([+-]?)(\d+)(?:[hd:.])(\d+)(?:[m:.])(\d+(?:\.\d*)?)s?")
_EXPECTED = "expected a direction such as 'J2000 12h30m00s +30d00m00s' or 'ICRS 187.5deg 30deg'"

BaseDirection = tuple[float, float, Literal["FK5", "ICRS"]]


def parse_direction(value: Any) -> BaseDirection:
    """Turn a direction into its base form.

    Parameters
    ----------
    value : str, SkyCoord, list or tuple
        Text holds the frame (``J2000`` or ``ICRS``), the right ascension (``12h30m00s``, ``12:30:00`` or an angle with
        its unit) and the declination (``+30d00m00s``, ``+30.00.00``, ``+30:00:00`` or an angle with its unit).

    Returns
    -------
    ra, dec : float
        Radians. The right ascension of text and of a `SkyCoord` is in [0, 2 pi).
    frame : str
        ``"FK5"`` (J2000) or ``"ICRS"``.

    Raises
    ------
    ValueError
        One line that quotes `value`.
    """
    if isinstance(value, str):
        return _from_text(value)
    if hasattr(value, "transform_to"):
        return _from_astropy(value)
    if isinstance(value, list | tuple) and len(value) == 3 and value[2] in ("FK5", "ICRS"):
        return value[0], value[1], value[2]
    raise ValueError(_EXPECTED)


def _from_astropy(value: Any) -> BaseDirection:
    from astropy.coordinates import SkyCoord

    try:
        coordinate = SkyCoord(value)
        if not coordinate.isscalar:
            raise ValueError(f"{coordinate.size} directions are given; expected one")
        is_j2000 = coordinate.frame.name == "fk5" and coordinate.equinox.jyear == 2000.0
        coordinate = coordinate if is_j2000 else coordinate.icrs
        ra, dec = float(coordinate.ra.rad), float(coordinate.dec.rad)
    except (TypeError, AttributeError) as error:
        raise ValueError(_EXPECTED) from error
    return ra % (2.0 * math.pi), dec, "FK5" if is_j2000 else "ICRS"


def _from_text(text: str) -> BaseDirection:
    words = text.split()
    if len(words) != 3 or words[0].upper() not in _FRAMES:
        raise ValueError(f"{text!r} is not a direction; {_EXPECTED}")
    ra = _degrees(words[1], text, degrees_per_unit=15.0)
    dec = _degrees(words[2], text, degrees_per_unit=1.0)
    if not -360.0 <= ra <= 360.0 or not -90.0 <= dec <= 90.0:
        raise ValueError(f"{text!r} lies outside the sphere; {_EXPECTED}")
    return math.radians(ra) % (2.0 * math.pi), math.radians(dec), _FRAMES[words[0].upper()]


def _degrees(word: str, text: str, degrees_per_unit: float) -> float:
    """Degrees of an angle with its unit, or of a sexagesimal one.

    `degrees_per_unit` is what the first number of ``12:30:00`` counts; a ``d`` or dots always mean degrees.
    """
    match = _SEXAGESIMAL.fullmatch(word)
    if match is None:
        try:
            return parse_quantity(word, ANGLE, unit_required=True) / 3600.0
        except ValueError as error:
            raise ValueError(f"{text!r} is not a direction; {_EXPECTED}") from error
    sign, whole, minutes, seconds = match.groups()
    if float(minutes) >= 60 or float(seconds) >= 60:
        raise ValueError(f"{text!r} has 60 or more minutes or seconds; {_EXPECTED}")
    if "d" in word or (":" not in word and "h" not in word):
        degrees_per_unit = 1.0
    elif "h" in word and degrees_per_unit == 1.0:
        raise ValueError(f"{text!r} has a declination in hours; {_EXPECTED}")
    magnitude = float(whole) + float(minutes) / 60.0 + float(seconds) / 3600.0
    return (-magnitude if sign == "-" else magnitude) * degrees_per_unit
