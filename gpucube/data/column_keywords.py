"""What the keywords of a column say about its numbers: their units, and the frames or scales that they refer to.

The keywords are those of casacore's TableMeasures (AIPS++ note 209): `QuantumUnits` or `UNIT` for units, and `MEASINFO`
for frames. A frame is the same for all rows (`Ref`), or a separate column (`VarRefCol`) names it by words or
numbers. The meaning of the numbers is given by `TabRefTypes` and `TabRefCodes`, or by casacore if these are missing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gpucube.constants import DAY
from gpucube.errors import GpucubeError

if TYPE_CHECKING:
    from casacore import tables

TIME_SCALES = {
    **dict.fromkeys(("UTC", "UT", "UT1", "UT2"), "utc"),  # within a second of one another
    **dict.fromkeys(("TAI", "IAT"), "tai"),
    **dict.fromkeys(("TT", "TDT", "ET"), "tt"),
    **{name: name.lower() for name in ("TDB", "TCB", "TCG")},
}
"""astropy's names of casacore's scales of time. Sidereal times give no date."""


def unit_factors(t: tables.table, column: str, unit: str) -> np.ndarray:
    """Return the factor that converts the numbers of a column to `unit`, or one factor for each element of a cell.

    A column that names no unit is in `unit`. One that names another kind of unit raises GpucubeError.
    """
    keywords = t.getcolkeywords(column)
    if "VariableUnits" in keywords:
        raise GpucubeError(
            f"{t.name()}: column {column} has units that change from row to row, which gpucube cannot read"
        )
    written = [str(name).strip() or unit for name in np.ravel(keywords.get("QuantumUnits", keywords.get("UNIT", unit)))]
    if set(written) <= {unit}:
        return np.ones(1)
    from astropy import units  # imported only here because it takes a third of a second

    try:
        return np.array([units.Unit(name).to(units.Unit(unit)) for name in written])
    except (ValueError, TypeError):  # UnitConversionError is a TypeError
        raise GpucubeError(
            f"{t.name()}: column {column} is in {' and '.join(sorted(set(written)))}; expected {unit} or a multiple of it"
        ) from None


def reference_word(t: tables.table, column: str, row: int, codes: Mapping[int, str], default: str) -> str:
    """Return the frame of a column in one row, in upper case.

    `codes` are casacore's numbers, and `default` counts where no keyword names a frame. A number without a meaning
    comes out as ``"CODE 77"``.
    """
    measure = t.getcolkeywords(column).get("MEASINFO", {})
    if offset := [name for name in measure if name.startswith("RefOff")]:
        raise GpucubeError(
            f"{t.name()}: column {column} counts from an offset ({offset[0]}), which gpucube cannot read"
        )
    if "VarRefCol" not in measure:
        return str(measure.get("Ref", default)).strip().upper() or default
    frames = str(measure["VarRefCol"])
    if frames not in t.colnames():
        raise GpucubeError(f"{t.name()}: the frames of {column} are in a column {frames}, which is not there")
    if "TabRefTypes" in measure:
        types, numbers = np.ravel(measure["TabRefTypes"]), np.ravel(measure.get("TabRefCodes", [])).tolist()
        if len(types) != len(numbers):
            raise GpucubeError(
                f"{t.name()}: column {column} has {len(types)} TabRefTypes and {len(numbers)} TabRefCodes: expected as many"
            )
        codes = dict(zip(numbers, types, strict=True))
    words = {
        str(value if isinstance(value, str) else codes.get(int(value), f"code {value}")).strip().upper()
        for value in np.ravel(t.getcell(frames, row)).tolist()
    }
    return " AND ".join(sorted(words))


def utc_seconds(t: tables.table, column: str, values: np.ndarray) -> np.ndarray:
    """Convert times, in the unit and scale of a column, to seconds UTC since MJD 0; shape (n,)."""
    seconds: np.ndarray = values * unit_factors(t, column, "s")
    scale = reference_word(t, column, 0, {}, "UTC")
    if scale not in TIME_SCALES:
        raise GpucubeError(f"{t.name()}: column {column} is in the scale {scale}; expected {', '.join(TIME_SCALES)}")
    if TIME_SCALES[scale] == "utc":
        return seconds
    from astropy.time import Time  # imported only here because it takes half a second

    distinct, place = np.unique(seconds, return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of years that are none, in rows that are not filled
        # two parts, because one double resolves a date to a microsecond only
        utc = Time(distinct // DAY, distinct % DAY / DAY, format="mjd", scale=TIME_SCALES[scale]).utc
    converted: np.ndarray = ((utc.jd1 - 2400000.5) * DAY + utc.jd2 * DAY)[place]
    return converted
