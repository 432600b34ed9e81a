"""Where the antennas point and how they see the sky: the primary beam of the rows that are imaged.

In: the windows of a selection and the image. Out: a `BeamOnSky`. The telescope is that of the rows' OBSERVATION_ID, the
diameter of its dishes that of the antennas in the rows. Antennas point at the field's DELAY_DIR and REFERENCE_DIR. CASA's
phaseshift and fixvis move PHASE_DIR alone, which is the centre of tclean's beams. The subtable POINTING is not read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from gpucube.data.column_keywords import reference_word, unit_factors
from gpucube.data.comparison import separation
from gpucube.data.measurementset import reading
from gpucube.data.observation import Observation
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import Parameters
from gpucube.sky.directions import CELESTIAL_FRAMES, DIRECTION_CODES, Direction
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.primary_beams import BeamOnSky, PrimaryBeam, of_dish, of_telescope
from gpucube.text import angle_text

if TYPE_CHECKING:
    from gpucube.data.selection import Window

SAME_POINTING = 0.02
"""Full widths of the beam by which pointings may differ: it is worth 3 % at half power."""


def beam_on_sky(
    parameters: Parameters,
    windows: Sequence[Window],
    observations: Mapping[str, Observation],
    geometry: ImageGeometry,
    frequency: float,
) -> tuple[BeamOnSky, tuple[str, ...]]:
    """Find the primary beam of the windows that are imaged, and what to warn of.

    Parameters
    ----------
    parameters : Parameters
    windows : sequence of Window
    observations : mapping
        By path of the MeasurementSet.
    geometry : ImageGeometry
    frequency : float
        Middle of the cube, Hz.

    Raises
    ------
    GpucubeError
        There are several beams or pointings, or none that is known.
    """
    telescopes = sorted({name for window in windows for name in observations[window.ms.path].telescopes})
    beam = _choose(telescopes, _diameters(windows), parameters.dish_diameter, frequency)
    warnings: list[str] = []
    pointings = [_pointing(window, beam.width(frequency), warnings) for window in windows]
    apart = max(separation(pointings[0], other) for other in pointings)
    if apart > SAME_POINTING * beam.width(frequency):
        raise GpucubeError(
            f"the antennas point in several directions, up to {angle_text(apart)} apart, but one primary beam is "
            "needed: image each pointing in a separate run"
        )
    limit = abs(parameters.pblimit)
    return BeamOnSky(beam=beam, pointing=pointings[0], geometry=geometry, limit=limit), tuple(dict.fromkeys(warnings))


def _choose(
    telescopes: Sequence[str], diameters: Sequence[float], given: float | None, frequency: float
) -> PrimaryBeam:
    telescope = " and ".join(telescopes) or "without a name"
    if given is not None:
        of_alma = telescope.upper() in ("ALMA", "ACA") and given in (7.0, 12.0)
        return (of_telescope(telescope, given, frequency) if of_alma else None) or of_dish(given)
    advice = "give `dish_diameter` to take the beam of any dish of that size"
    if len(telescopes) > 1 or len(diameters) > 1:
        what = f"telescopes {telescope}" if len(telescopes) > 1 else f"dishes of {_listed(diameters)} m"
        raise GpucubeError(
            f"the data are from {what}, which have different primary beams: select antennas of one kind with `antenna`, or "
            f"{advice}"
        )
    diameter = diameters[0] if diameters else math.nan
    found = of_telescope(telescope, diameter, frequency)
    if found is None:
        dishes = (
            f"whose dishes are {diameter:g} m wide" if diameters else "and the MeasurementSet gives no DISH_DIAMETER"
        )
        raise GpucubeError(f"no primary beam is known for the telescope {telescope}, {dishes}: {advice}")
    return found


def _listed(diameters: Sequence[float]) -> str:
    return " and ".join(f"{diameter:g}" for diameter in diameters)


def _diameters(windows: Sequence[Window]) -> list[float]:
    """Diameters (m) of the antennas in the rows that are kept, without those that are not filled in."""
    found: set[float] = set()
    for path in dict.fromkeys(window.ms.path for window in windows):
        rows = np.concatenate([w.rows.number[w.rows.keep] for w in windows if w.ms.path == path])
        with reading(path) as main:
            cells = main.selectrows(rows)
            antennas = [*cells.getcol("ANTENNA1"), *cells.getcol("ANTENNA2")] if len(rows) else []
        with reading(f"{path}::ANTENNA") as t:
            if "DISH_DIAMETER" in t.colnames() and t.nrows():
                every = t.getcol("DISH_DIAMETER") * unit_factors(t, "DISH_DIAMETER", "m")
                found |= {round(float(every[a]), 2) for a in set(antennas) if 0 <= a < len(every) and every[a] > 0}
    return sorted(found)


def _pointing(window: Window, width: float, warnings: list[str]) -> Direction:
    """Where the antennas point: the phase centre of the field, unless both other directions of the field lie elsewhere."""
    if window.track.moves:
        return window.centre
    delay, reference = _direction(window, "DELAY_DIR"), _direction(window, "REFERENCE_DIR")
    if delay is None or reference is None:
        return window.centre
    near = SAME_POINTING * width
    apart = separation(delay, window.centre)
    if apart <= near or separation(delay, reference) > near:
        return window.centre
    warnings.append(
        f"{window.ms.path}: the phase centre of field {window.field.name} is {angle_text(apart)} away from its DELAY_DIR and "
        "REFERENCE_DIR: the primary beam is centred on DELAY_DIR, where the antennas point (tclean's on the phase centre)"
    )
    return delay


def _direction(window: Window, column: str) -> Direction | None:
    """Another direction of the field; None if it cannot be read, or is in a frame that moves."""
    number = window.field_id
    with reading(f"{window.ms.path}::FIELD") as t, suppress(GpucubeError, RuntimeError):
        frame = CELESTIAL_FRAMES.get(reference_word(t, column, number, DIRECTION_CODES, "J2000"))
        ra, dec = (np.reshape(t.getcell(column, number), (-1, 2))[0] * unit_factors(t, column, "rad")).tolist()
        if frame is not None and math.isfinite(ra) and math.isfinite(dec):
            return Direction(ra=ra, dec=dec, frame=frame)
    return None
