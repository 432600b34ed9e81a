"""The spectral axis of a cube from tclean's `start`, `width` and `nchan`, in channels, frequency or velocity.

In: the request of the user, and the channels of the data in the frame of the cube. Out: the centre and the width of
every channel of the cube. The rules are tclean's (MSTransformRegridder::calcChanFreqs in CASA):

* In channels, `start` is a channel of the window and `width` counts channels of the first one's width.
* In frequency and in velocity, `start` is the centre of the first channel. Without it the axis begins at the edge of the
  data where the frequency is lowest. Without `width` a channel is as wide as the first one of the data.
* A positive `width` in velocity makes the frequency fall, and so does a negative one in frequency.
* Radio velocity v is c (1 - f / f0), so that channels are equally wide in frequency; optical velocity is c (f0 / f - 1).
* Without `nchan` the axis ends where the data end. The last channel lies within the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpucube.constants import LIGHT_SPEED
from gpucube.errors import GpucubeError

EDGE = 0.01
"""Part of a channel by which the last channel may reach beyond the data."""

MOST_CHANNELS = 1_000_000
"""Axes that are longer are refused as a mistake."""


@dataclass(frozen=True, kw_only=True)
class AxisRequest:
    """What the user asks for."""

    kind: Literal["channel", "frequency", "velocity"]
    start: float | None = None  # channel, Hz or m/s
    width: float | None = None  # channels, Hz or m/s, signed
    nchan: int = -1  # -1 for as many as the data fill
    restfreq: float | None = None  # Hz
    optical: bool = False  # optical instead of radio velocity


def cube_axis(request: AxisRequest, frequency: np.ndarray, width: np.ndarray, first: int = 0) -> np.ndarray:
    """Edges of the channels of a cube, Hz, shape (nchan, 2): where each begins and ends along the axis.

    Parameters
    ----------
    request : AxisRequest
    frequency, width : numpy.ndarray
        Centres of the selected channels of the data in the frame of the cube, in their order, and their widths, Hz, shape
        (nchan,).
    first : int
        Number of the first of these channels within its window, from which `start` in channels counts.

    Examples
    --------
    >>> edges = cube_axis(AxisRequest(kind="frequency", start=103.0, width=-2.0, nchan=2), 100.0 + np.arange(8), np.ones(8))
    >>> edges.mean(axis=1)
    array([103., 101.])
    """
    edges = _edges(request, frequency, width, first)
    if not (edges.min() > 0 and edges.max() < np.inf):
        raise GpucubeError(
            "the channels of the cube would reach a frequency of 0: check `start`, `width`, `nchan` and `restfreq`"
        )
    return edges


def _edges(request: AxisRequest, frequency: np.ndarray, width: np.ndarray, first: int) -> np.ndarray:
    """Edges of the channels; frequencies are not checked."""
    wide = float(abs(width[0]))
    low, high = float((frequency - np.abs(width) / 2).min()), float((frequency + np.abs(width) / 2).max())
    if request.kind == "channel":
        step, begin = _from_channel(request, frequency, width, first)
    else:
        rest = request.restfreq or 0.0
        if request.kind == "velocity" and not rest:
            raise GpucubeError("`start` or `width` is a velocity and no rest frequency is known: give `restfreq`")
        if request.kind == "velocity" and request.optical:
            return _optical(request, rest, low, high, wide)
        slope = -rest / LIGHT_SPEED if request.kind == "velocity" else 1.0  # Hz per unit of the request
        step = request.width * slope if request.width else wide if slope > 0 else -wide
        if request.start is None:
            return _from_lowest(abs(step), low, high, request.nchan)[:: 1 if step > 0 else -1, :: 1 if step > 0 else -1]
        begin = (request.start if request.kind == "frequency" else rest + request.start * slope) - step / 2
    reach = high - begin if step > 0 else begin - low
    count = request.nchan if request.nchan > 0 else _count(reach / abs(step))
    return _even(begin, step, count)


def _from_channel(request: AxisRequest, frequency: np.ndarray, width: np.ndarray, first: int) -> tuple[float, float]:
    """Step of the axis in Hz, and the frequency at which it begins, for `start` and `width` in channels."""
    asked = int(request.width or 1)
    number = int(request.start) - first if request.start is not None else (0 if asked > 0 else len(frequency) - 1)
    if not 0 <= number < len(frequency):
        raise GpucubeError(
            f"`start={number + first}` is out of range: the selection has channels {first} to {first + len(frequency) - 1}"
        )
    rises = frequency[-1] >= frequency[0] if len(frequency) > 1 else width[0] >= 0
    along = (1 if rises else -1) * (1 if asked > 0 else -1)
    return along * abs(asked) * float(abs(width[0])), float(frequency[number] - along * abs(width[number]) / 2)


def _from_lowest(step: float, low: float, high: float, nchan: int) -> np.ndarray:
    """Edges of an axis that begins at the lowest frequency of the data."""
    return _even(low, step, nchan if nchan > 0 else _count((high - low) / step))


def _optical(request: AxisRequest, rest: float, low: float, high: float, wide: float) -> np.ndarray:
    """Edges of an axis that is even in optical velocity."""
    slowest, fastest = (LIGHT_SPEED * (rest / frequency - 1) for frequency in (high, low))
    step = request.width or LIGHT_SPEED * rest * (1 / low - 1 / (low + wide))
    if request.start is None:
        count = request.nchan if request.nchan > 0 else _count((fastest - slowest) / abs(step))
        begin = fastest if step < 0 else fastest - _checked(count) * step
    else:
        begin = request.start - step / 2
        reach = fastest - begin if step > 0 else begin - slowest
        count = request.nchan if request.nchan > 0 else _count(reach / abs(step))
    with np.errstate(divide="ignore"):
        edges: np.ndarray = rest / (1 + _even(begin, step, count) / LIGHT_SPEED)
    return edges


def _even(begin: float, step: float, count: int) -> np.ndarray:
    """Edges of channels of equal width, (count, 2)."""
    edges: np.ndarray = begin + step * (np.arange(_checked(count))[:, None] + np.array([0, 1]))
    return edges


def _count(channels: float) -> int:
    """Number of whole channels."""
    return int(np.floor(channels + EDGE))


def _checked(count: int) -> int:
    if count < 1:
        raise GpucubeError("no channel lies within the data: check `start`, `width` and `nchan`")
    if count > MOST_CHANNELS:
        raise GpucubeError(f"the cube would have {count} channels: check `width` and `nchan`")
    return count
