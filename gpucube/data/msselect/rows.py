"""Which rows of the main table `scan`, `observation`, `intent`, `antenna`, `uvrange` and `timerange` select.

In: the expressions, and the main table. Out: the rows that all of them select. Columns are read only for expressions
that are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.data.column_keywords import unit_factors
from gpucube.data.measurementset import MeasurementSet, reading
from gpucube.data.msselect.baselines import Antennas, select_baselines, select_uv
from gpucube.data.msselect.lists import select_intents, select_numbers, split_items, without_rows
from gpucube.data.msselect.times import select_times
from gpucube.errors import GpucubeError

if TYPE_CHECKING:
    from casacore import tables

ROW_PARAMETERS = ("timerange", "uvrange", "antenna", "scan", "observation", "intent")
"""Parameters of which rows are selected by, beside `field` and `spw`."""


def select_by_rows(
    ms: MeasurementSet, t: tables.table, asked: Mapping[str, str], otherwise: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Rows that expressions select.

    Parameters
    ----------
    ms : MeasurementSet
    t : table
        Its main table.
    asked : mapping
        Parameter of `ROW_PARAMETERS` -> expression; an empty one selects everything.
    otherwise : numpy.ndarray
        Rows that `field` and `spw` select, bool, (nrow,).

    Returns
    -------
    rows : numpy.ndarray
        bool, (nrow,): rows that everything selects.
    warnings : list of str
        Scans, observations and times that no row has.

    Raises
    ------
    GpucubeError
        A column is missing.
    """
    chosen, doubts = otherwise, []
    for parameter, column in (("scan", "SCAN_NUMBER"), ("observation", "OBSERVATION_ID"), ("intent", "STATE_ID")):
        if asked.get(parameter) and column not in ms.columns:
            raise GpucubeError(f"{ms.path} has no column {column}, by which `{parameter}` selects")
    for parameter, column in (("scan", "SCAN_NUMBER"), ("observation", "OBSERVATION_ID")):
        if asked.get(parameter):
            numbers = t.getcol(column)
            chosen = chosen & select_numbers(parameter, asked[parameter], numbers)
            items = split_items(asked[parameter])
            doubts += without_rows(parameter, items, [select_numbers(parameter, item, numbers) for item in items])
    if asked.get("intent"):
        with reading(f"{ms.path}::STATE") as states:
            modes, flags = states.getcol("OBS_MODE"), states.getcol("FLAG_ROW")
        chosen = chosen & np.isin(t.getcol("STATE_ID"), select_intents(asked["intent"], modes, flags))
    if asked.get("antenna"):
        with reading(f"{ms.path}::ANTENNA") as antennas:
            facts = Antennas(
                names=antennas.getcol("NAME"), stations=antennas.getcol("STATION"), positions=ms.antenna_positions
            )
        pairs = select_baselines(asked["antenna"], facts)
        first, second = t.getcol("ANTENNA1"), t.getcol("ANTENNA2")
        listed = (np.minimum(first, second) >= 0) & (np.maximum(first, second) < len(pairs))
        chosen = chosen & listed & pairs[np.where(listed, first, 0), np.where(listed, second, 0)]
    if asked.get("uvrange"):
        chosen = chosen & _in_uv_range(ms, t, asked["uvrange"])
    if asked.get("timerange"):
        time = t.getcol("TIME") * unit_factors(t, "TIME", "s")[0]
        rows = np.flatnonzero(chosen)
        if not len(rows):
            return chosen, doubts
        exposure = 0.0
        if "EXPOSURE" in ms.columns:
            exposure = float(t.getcell("EXPOSURE", int(rows[0])) * unit_factors(t, "EXPOSURE", "s")[0])
        ranges = select_times(asked["timerange"], float(time[rows[0]]), exposure)
        selected = [(time >= low) & (time <= high) for low, high in ranges]
        doubts += without_rows("timerange", split_items(asked["timerange"], quotes="", brackets="["), selected)
        chosen = chosen & np.logical_or.reduce(selected)
    return chosen, doubts


def _in_uv_range(ms: MeasurementSet, t: tables.table, text: str) -> np.ndarray:
    """Rows whose length in the uv plane lies in one of the ranges: bool, (nrow,)."""
    distance = np.hypot(*t.getcol("UVW")[:, :2].T)  # metres
    windows = [ms.spectral_windows[description.spw] for description in ms.data_descriptions]
    reference = np.array([window.reference if window.reference > 0 else window.middle for window in windows])
    description = t.getcol("DATA_DESC_ID")
    listed = (description >= 0) & (description < len(reference))
    with np.errstate(divide="ignore"):
        wavelength = np.where(listed, (LIGHT_SPEED / reference)[np.where(listed, description, 0)], np.nan)
    selected = np.zeros(len(distance), bool)
    for found in select_uv(text):
        scale = wavelength if found.wavelengths else np.ones(len(distance))
        selected |= (distance >= found.low * scale) & (distance <= found.high * scale)
    return selected
