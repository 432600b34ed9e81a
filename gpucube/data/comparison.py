"""Check that several MeasurementSets belong into one image: compare fields, columns and weights before reading.

In: the windows of all MeasurementSets. Out: warnings about differences and about fields far from the centre of the image,
or `GpucubeError`. Telescopes, dates and numbers of channels or antennas may differ. `gpucube.data.placing` compares the
frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.fields import read_track
from gpucube.data.measurementset import reading
from gpucube.errors import GpucubeError
from gpucube.sky.directions import Direction, uvw_rotation
from gpucube.sky.geometry import ImageGeometry
from gpucube.text import angle_text

if TYPE_CHECKING:
    from gpucube.data.selection import Source, Window

APART = 0.1
"""Fields whose centres are further apart than this part of the image's shorter side are reported."""

WEIGHT_RATIO = 10.0
"""Median weights that differ by more are reported."""

SAMPLED_ROWS = 32

PRIMARY_BEAM = 1.2
"""Width of a dish's primary beam at half power, in units of wavelength over diameter."""

UNKNOWN_BEAM = math.radians(1.0)
"""Distance of the image from a field that is not warned of where the diameter of the antennas is unknown."""


def compare(
    windows: Sequence[Window],
    sources: Sequence[Source],
    geometry: ImageGeometry,
    *,
    centre_given: bool,
    follow: bool = False,
) -> tuple[str, ...]:
    """Compare what several MeasurementSets contribute to an image; return warnings.

    Parameters
    ----------
    windows, sources : sequence
        Each window and the source made of it.
    geometry : ImageGeometry
    centre_given : bool
        Whether the user chose the centre of the image. Then fields far from it are warned of, not refused.
    follow : bool
        Whether the image moves with the fields, so that all are in its centre.

    Raises
    ------
    GpucubeError
        A field lies outside the image that another field is the centre of.
    """
    if len({window.ms.path for window in windows}) < 2:
        return ()
    side = min(geometry.nx * geometry.cell_x, geometry.ny * geometry.cell_y)
    return (
        *(() if follow else _compare_fields(windows, side, centre_given)),
        *_compare_columns(windows),
        *_compare_weights(sources),
    )


def outside_of_fields(windows: Sequence[Window], geometry: ImageGeometry) -> tuple[str, ...]:
    """Warn if the user chose a centre of the image so far from a field that the antennas hardly see it.

    Raises
    ------
    GpucubeError
        It is 90 degrees or more from the nearest field.
    """
    side = min(geometry.nx * geometry.cell_x, geometry.ny * geometry.cell_y)
    window = min(windows, key=lambda w: separation(w.centre, geometry.centre))
    apart = separation(window.centre, geometry.centre)
    where = f"`phasecenter` is {angle_text(apart)} from field {_field_text(window)}"
    if apart >= math.pi / 2:
        raise GpucubeError(f"{where}: expected a direction less than 90 degrees from it")
    if any(separation(window.centre, other.centre) > APART * side for other in windows):
        return ()  # `compare` warns of fields that are imaged together from far away
    dish = window.ms.dish_diameter
    beam = PRIMARY_BEAM * LIGHT_SPEED / (dish * float(window.channels.frequency.mean())) if dish else UNKNOWN_BEAM
    if apart <= max(beam, side / 2):
        return ()
    seen = f"see {angle_text(beam)} (the primary beam of {dish:g} m at half power)" if dish else "may not see it"
    return (f"{where}, which lies outside the image, and the antennas {seen}",)


def separation(one: Direction, other: Direction) -> float:
    """Return the angle between two directions, radians."""
    rotation = uvw_rotation(one, other)
    return 0.0 if rotation is None else math.acos(min(1.0, float(rotation[2, 2])))


def _compare_fields(windows: Sequence[Window], side: float, centre_given: bool) -> list[str]:
    first, warnings = windows[0], []
    for window in {w.ms.path: w for w in reversed(windows) if w.ms.path != first.ms.path}.values():
        apart = separation(first.centre, window.centre)
        if apart <= APART * side:
            continue
        differ = f"the field is {_field_text(first)}, but {_field_text(window)}, {angle_text(apart)} away"
        if apart > side / 2 and not centre_given:
            there = [
                f"field {number} of {window.ms.path} ({field.name!r}) is where the first one is; "
                for number, field in enumerate(window.ms.fields)
                if (there := _centre(window, number)) and separation(first.centre, there) <= APART * side
            ]
            raise GpucubeError(
                f"{differ}: {there[0] if there else ''}give `field` a name, or a list with one entry for each "
                "MeasurementSet; `phasecenter` images both together"
            )
        warnings.append(f"{differ}: they are imaged together without primary beams")
    return warnings


def _centre(window: Window, field_id: int) -> Direction | None:
    """Where another field of the MeasurementSet is when the window's rows begin; None where it cannot be read."""
    with suppress(GpucubeError):
        return read_track(window.ms.path, field_id).at(float(window.rows.kept_time[0]))
    return None


def _field_text(window: Window) -> str:
    ra, dec = math.degrees(window.centre.ra) % 360, math.degrees(window.centre.dec)
    return f"{window.field.name!r} at {ra:.4f}deg {dec:+.4f}deg in {window.ms.path}"


def _compare_columns(windows: Sequence[Window]) -> list[str]:
    paths = {window.column: window.ms.path for window in windows}
    if len(paths) == 1:
        return []
    used = " and ".join(f"{column} of {path}" for column, path in paths.items())
    return [f"{used} are imaged together: give `datacolumn`, unless all of it is calibrated"]


def _compare_weights(sources: Sequence[Source]) -> list[str]:
    weights: dict[str, list[float]] = {}
    for source in sources:
        weights.setdefault(source.path, []).extend(_some_weights(source))
    medians = {path: float(np.median(values)) for path, values in weights.items() if values}
    if not medians:
        return []
    low, high = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    if medians[high] <= WEIGHT_RATIO * medians[low]:
        return []
    return [
        f"the weights of {high} (median {medians[high]:.3g}) and of {low} (median {medians[low]:.3g}) differ by a factor of "
        f"{medians[high] / medians[low]:.3g}: if the data are not that much better, bring all weights to one scale, "
        "e.g. with CASA's statwt"
    ]


def _some_weights(source: Source) -> list[float]:
    """Medians of the positive weights of a few rows."""
    rows = source.rows.number[source.rows.keep]
    found = []
    with reading(source.path) as t:
        for row in rows[:: max(1, len(rows) // SAMPLED_ROWS)].tolist():
            if t.iscelldefined(source.weight, row):
                cell = t.getcell(source.weight, row)
                found += [float(np.median(cell[good]))] if (good := np.isfinite(cell) & (cell > 0)).any() else []
    return found
