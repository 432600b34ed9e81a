"""Which channels the continuum is fitted to: from `contsubspw` and `contsuborder` to the fit of every window.

In: the two parameters, the windows that are imaged, and the channels that each of them contributes to the cube. Out: a
`ContinuumFit` for each window, and warnings. Channel numbers and frequencies are those of the data, as in `spw`. Velocities
are those of the cube: they refer to its frame and rest frequency, so they may mean different channels in different rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpucube.data.continuum import ContinuumFit, continuum_fit
from gpucube.data.msselect.lists import WrongSelection
from gpucube.data.msselect.windows import LineFree, Seen, select_line_free
from gpucube.data.placing import Placed
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import Parameters
from gpucube.sky.spectral_types import frequency_of
from gpucube.text import counted

if TYPE_CHECKING:
    from gpucube.data.selection import Window

Used = Sequence[tuple["Window", Placed]]
"""The windows that are imaged."""


def continuum_fits(
    parameters: Parameters, texts: dict[str, str], used: Used, rest: float | None
) -> tuple[list[ContinuumFit | None], tuple[str, ...]]:
    """Prepare the fit of each window, None where nothing is subtracted; also return warnings.

    Parameters
    ----------
    parameters : Parameters
    texts : dict
        `contsubspw` of each MeasurementSet, by path.
    used : sequence of (Window, Placed)
    rest : float or None
        Rest frequency, Hz.

    Raises
    ------
    GpucubeError
        A text is not understood, misses a window, or leaves too few channels for the polynomial.
    """
    if not any(texts.values()):
        return [None] * len(used), ()
    found = {path: _line_free(parameters, path, text, used, rest) for path, text in texts.items()}
    fits: list[ContinuumFit | None] = []
    warnings: dict[str, None] = {}
    for window, placed in used:
        text, line_free = texts[window.ms.path], found[window.ms.path].get(window.spw)
        if line_free is None:
            raise GpucubeError(
                f"`contsubspw={text!r}` names no channels of {window.channels.label}, which is imaged: add them, or leave the "
                "window out with `spw`"
            )
        fit = _fit(text, line_free, window, placed, parameters.contsuborder)
        fits.append(fit)
        warnings |= dict.fromkeys(_doubts(text, fit, window, placed))
    return fits, tuple(warnings)


def _line_free(parameters: Parameters, path: str, text: str, used: Used, rest: float | None) -> dict[int, LineFree]:
    """Line-free channels of the windows of one MeasurementSet."""
    imaged: dict[int, Seen] = {}
    mine = [(window, placed) for window, placed in used if window.ms.path == path]
    for window, placed in mine:
        least, largest = placed.rows.factor_span
        before = imaged.get(window.spw, Seen(least=least, largest=largest))
        imaged[window.spw] = Seen(least=min(before.least, least), largest=max(before.largest, largest))
    if not mine or not text:
        return {}

    def to_hertz(velocity: float) -> float:
        kind = "VOPT" if parameters.veltype == "optical" else "VRAD"
        return float(frequency_of(kind, np.array(velocity), rest or 0.0))

    try:
        return select_line_free(text, mine[0][0].ms.spectral_windows, imaged, to_hertz if rest else None)
    except WrongSelection as error:
        raise GpucubeError(f"{path}: {error}") from None


def _fit(text: str, line_free: LineFree, window: Window, placed: Placed, order: int) -> ContinuumFit:
    frequency = window.channels.frequency
    fixed = np.zeros(len(frequency), bool)
    fixed[line_free.channels] = True
    factors = placed.rows.factor_span
    imaged = placed.channel_map.members
    fit = continuum_fit(frequency, fixed, order, ranges=line_free.ranges, factors=factors, imaged=imaged)
    fewest = min(int(fit.at(factor).sum()) for factor in factors)
    if fewest <= order:
        raise GpucubeError(
            f"`contsubspw={text!r}` leaves {counted(fewest, 'line-free channel')} in {window.channels.label}, and "
            f"`contsuborder={order}` needs {order + 1} or more"
        )
    return fit


def _doubts(text: str, fit: ContinuumFit, window: Window, placed: Placed) -> list[str]:
    found = []
    label = window.channels.label
    if fit.at(placed.rows.factor_span[0])[placed.channel_map.members].all():
        found.append(
            f"`contsubspw={text!r}` names every imaged channel of {label} as line-free, so that part of each line is "
            "subtracted: name only channels without lines"
        )
    if fit.leverage > 1:
        channels = int(fit.at(placed.rows.factor_span[0]).sum())
        found.append(
            f"the continuum of {label} is extrapolated from {counted(channels, 'line-free channel')} with order {fit.order}: "
            f"this raises the noise up to {np.sqrt(1 + fit.leverage):.2g} times; name channels on both sides of the line, or "
            "lower `contsuborder`"
        )
    return found
