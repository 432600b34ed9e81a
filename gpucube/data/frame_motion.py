"""Find out whether the frame of the frequencies moves during the imaged data, so that lines are smeared over channels.

In: the windows of all MeasurementSets, the places of their observatories, and the axis of the cube. Out: a warning with the
change of velocity, in km/s and in channels, and the times between which it happens. TOPO moves with the observatory and GEO
with the Earth. Other frames do not change with time, but an object that has an ephemeris moves in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.sky.doppler import are_dates
from gpucube.sky.spectral import SpectralAxis

if TYPE_CHECKING:
    from gpucube.data.selection import Window

MOST_SMEARED = 0.1
"""Part of a channel over which a line may be smeared without a warning."""

SAME_TIME = 10.0
"""Seconds, in which the velocity of an observatory changes by less than 0.4 m/s."""


def frame_motion(
    windows: Sequence[Window], places: Mapping[str, tuple[float, float, float] | None], axis: SpectralAxis
) -> tuple[str, ...]:
    """Warn if the frame of the axis moves by more than `MOST_SMEARED` within the rows of the windows.

    Parameters
    ----------
    windows : sequence of Window
    places : mapping
        Path of each MeasurementSet -> its observatory, ITRF, metres; None if it is unknown.
    axis : SpectralAxis
    """
    of_object = all(window.track.knows_recession and places[window.ms.path] for window in windows)
    frame, target = axis.frame.name, "REST" if of_object else "BARY"
    if frame == "REST" or not (of_object or frame in ("TOPO", "GEO")):
        return ()
    times, factors = [np.empty(0)], [np.empty(0)]
    for field in {window.track.label: window for window in windows}.values():
        place = places[field.ms.path]
        source = "GEO" if frame == "TOPO" and place is None else frame
        position = None if place is None else np.array(place)
        if len(stamps := _time_stamps([window for window in windows if window.track.label == field.track.label])):
            times.append(stamps)
            factors.append(field.track.frequency_factor(source, target, stamps, position))
    time, factor = np.concatenate(times), np.concatenate(factors)
    change = float(np.ptp(factor)) if len(time) else 0.0
    wide = axis.width > 0
    channels = change * float((axis.frequency[wide] / axis.width[wide]).max(initial=0.0))
    if channels <= MOST_SMEARED:
        return ()
    first, last = sorted(time[[factor.argmin(), factor.argmax()]])
    who = "observatory" if frame == "TOPO" else "Earth"
    moves = f"{windows[0].field.name}" if of_object else f"the {who} towards the field"
    instead = (
        "follow the object with `specmode='cubesource'`"
        if of_object
        else "make the cube in LSRK with `outframe='LSRK'`"
    )
    return (
        f"the frequencies are {frame}, and the velocity of {moves} changes by "
        f"{change * LIGHT_SPEED / 1000:.3g} km/s ({channels:.2g} channels) between {_date(first)} and {_date(last)}: lines "
        f"are smeared by that amount; {instead}",
    )


def _time_stamps(windows: Sequence[Window]) -> np.ndarray:
    """Return the times of all rows that are imaged, MJD seconds; of those within `SAME_TIME` only one."""
    found = np.empty(0)
    for window in windows:
        time = window.rows.time[window.rows.keep]
        time = time[are_dates(time)]
        changes = np.flatnonzero(np.diff(time // SAME_TIME, prepend=np.nan))  # sorting all rows would take longer
        found = np.append(found, time[changes])
    _, index = np.unique(found // SAME_TIME, return_index=True)
    stamps: np.ndarray = found[index]
    return stamps


def _date(time: float) -> str:
    """Return a time in MJD seconds as text, to the minute."""
    return str(np.datetime64("1858-11-17T00:00") + np.timedelta64(int(time // 60), "m"))
