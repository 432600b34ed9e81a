"""Map the channels of every window onto the spectral axis of the cube.

In: `outframe`, `specmode`, `start`, `width` and so on, and the windows with their rows. Out: the axis, and for every window
its `Placed`: either a `ChannelMap`, where channels of the cube are channels of the data as they are, or a
`Regridding`, where the frame changes, the axis is given in frequency or velocity, or the windows have no common grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucube.data.channels import NEAR, ChannelMap, GridsDiffer, WindowChannels, native_number, output_channels
from gpucube.data.regrid import Interpolation, Regridding
from gpucube.data.rows import RowSelection
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import Parameters
from gpucube.sky.cube_axis import AxisRequest, cube_axis
from gpucube.sky.doppler import are_dates
from gpucube.sky.frames import FRAMES, SpectralFrame

if TYPE_CHECKING:
    from gpucube.data.selection import Window


FRAME_CHOSEN = (
    "the cube is in LSRK, because `start` is a velocity and the data are in {}: `outframe` chooses another frame"
)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """The rows of one window, and what becomes of their channels."""

    rows: RowSelection  # with the Doppler factors, if the frame changes
    channel_map: ChannelMap  # into channels of the cube; if there is a `regridding`, of single channels that it takes
    regridding: Regridding | None = None

    @property
    def output(self) -> np.ndarray:
        """Channels of the cube that the window contributes to, int64, ascending."""
        return self.channel_map.output if self.regridding is None else self.regridding.output

    @property
    def frequency(self) -> np.ndarray:
        """Frequency of each of these channels, Hz: uvw are scaled by it."""
        return self.channel_map.frequency if self.regridding is None else self.regridding.centre


@dataclass(frozen=True, kw_only=True)
class CubeChannels:
    """The channels of the cube, and what becomes of every window."""

    frequency: np.ndarray  # (nchan,) Hz
    width: np.ndarray  # (nchan,) positive, Hz
    frame: SpectralFrame
    placed: tuple[Placed, ...]  # of every window; one that contributes nothing has an empty `output`
    warnings: tuple[str, ...]


def place_channels(
    parameters: Parameters,
    windows: Sequence[Window],
    places: Mapping[str, tuple[float, float, float] | None],
    rest: float | None,
) -> CubeChannels:
    """Make the axis of the cube, and place every window on it.

    Parameters
    ----------
    parameters : Parameters
    windows : sequence of Window
    places : mapping
        Path of each MeasurementSet -> ITRF position of its observatory, metres; None if it is unknown.
    rest : float or None
        Rest frequency, Hz.
    """
    frame = _frame(parameters, windows)
    origin = _first_channel(windows)
    whole = not isinstance(parameters.start, tuple) and not isinstance(parameters.width, tuple)
    if whole and all(window.frame == frame for window in windows):
        selected = [w.channels for w in windows]
        try:
            channels = output_channels(
                selected,
                _native_start(parameters.start, windows, origin),  # type: ignore[arg-type]  # whole
                parameters.width,  # type: ignore[arg-type]
                parameters.nchan,
            )
        except GridsDiffer as error:
            if not parameters.outframe:
                raise GpucubeError(f"{error}: give `outframe` to interpolate them onto one axis") from None
        else:
            placed = tuple(Placed(rows=w.rows, channel_map=m) for w, m in zip(windows, channels.maps, strict=True))
            return CubeChannels(
                frequency=channels.frequency,
                width=channels.width,
                frame=frame,
                placed=placed,
                warnings=channels.warnings,
            )
    return _regridded(parameters, windows, places, rest, frame, origin)


def _frame(parameters: Parameters, windows: Sequence[Window]) -> SpectralFrame:
    """Frame of the cube."""
    if parameters.specmode == "cubesource":
        return FRAMES["REST"]
    if parameters.outframe and parameters.specmode == "cube":
        return FRAMES[parameters.outframe]
    first = windows[0]
    for window in windows:
        if window.frame != first.frame:
            raise GpucubeError(
                f"{first.channels.label} and {window.channels.label} are in different frames of frequency "
                f"({first.frame.name} and {window.frame.name}): bring them to one with `outframe='LSRK'`"
            )
    return FRAMES["LSRK"] if _lacks_frame(parameters, first) else first.frame


def _lacks_frame(parameters: Parameters, window: Window) -> bool:
    """Whether `start` is a velocity without a frame: nobody means velocities against the observatory or the Earth."""
    kind, _ = _by_kind(parameters.start)
    moves = window.frame.name in ("TOPO", "GEO")
    return parameters.specmode == "cube" and not parameters.outframe and kind == "velocity" and moves


def _first_channel(windows: Sequence[Window]) -> int | None:
    """Number of the first selected channel in its window, from which `start` counts; None for several windows."""
    numbers = {window.spw for window in windows if window.ms.path == windows[0].ms.path}
    return int(windows[0].channels.selected.min()) if len(numbers) == 1 else None


def _native_start(start: int | None, windows: Sequence[Window], origin: int | None) -> int | None:
    """Number of the channel `start` among those of the common grid of all windows."""
    if start is None:
        return None
    if origin is None:
        mine = [w.channels for w in windows if w.ms.path == windows[0].ms.path]
        numbered, _ = _along_axis(mine, [np.arange(len(c.frequency)) for c in mine], [1.0] * len(mine))
        number = native_number([w.channels for w in windows], _numbered(start, numbered))
    else:
        number = start - origin
    if number < 0:
        begins = "" if origin is None else f", which begin at {origin}"
        raise GpucubeError(f"`start={start}` is not among the channels that `spw` selects{begins}")
    return number


def _numbered(start: int, frequency: np.ndarray) -> float:
    """Frequency of the channel `start` of several windows."""
    if not 0 <= start < len(frequency):
        raise GpucubeError(f"`start={start}` is out of range: the windows have channels 0 to {len(frequency) - 1}")
    return float(frequency[start])


def _along_axis(
    channels: Sequence[WindowChannels], which: Sequence[np.ndarray], factors: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and widths of some channels of several windows along the axis, Hz; of those that overlap only the first."""
    windows = list(zip(channels, which, factors, strict=True))
    frequency = np.concatenate([factor * c.frequency[w] for c, w, factor in windows])
    width = np.concatenate([factor * np.abs(c.width[w]) for c, w, factor in windows])
    step = np.concatenate([np.full(len(w), factor * c.step) for c, w, factor in windows])
    order = np.argsort(frequency, kind="stable")
    if all(c.falls for c in channels):
        order = order[::-1]
    kept = [int(order[0])]
    for k in order[1:].tolist():
        if len(channels) == 1 or abs(frequency[k] - frequency[kept[-1]]) > (1 - NEAR) * step[kept[-1]]:
            kept.append(k)
    return frequency[kept], width[kept]


def _regridded(
    parameters: Parameters,
    windows: Sequence[Window],
    places: Mapping[str, tuple[float, float, float] | None],
    rest: float | None,
    frame: SpectralFrame,
    origin: int | None,
) -> CubeChannels:
    """Place the windows by interpolation."""
    rows = [_with_factors(window, frame, places[window.ms.path], parameters.specmode) for window in windows]
    edges = _edges(parameters, windows, rows, rest, origin)
    frequency, width = edges.mean(axis=1), np.abs(edges[:, 1] - edges[:, 0])
    rises = bool(edges[0, 1] > edges[0, 0])
    placed = tuple(
        _place(window, of_window, frequency, width, rises, parameters.interpolation)
        for window, of_window in zip(windows, rows, strict=True)
    )
    if not any(len(p.output) for p in placed):
        low, high = _span(windows, rows)
        raise GpucubeError(
            f"the cube has no channel with data: it goes from {frequency.min() / 1e9:.6f} to {frequency.max() / 1e9:.6f} GHz"
            f" and the data from {low / 1e9:.6f} to {high / 1e9:.6f} GHz in {frame.name}: check `start`, `width` and `restfreq`"
        )
    return CubeChannels(
        frequency=frequency,
        width=width,
        frame=frame,
        placed=placed,
        warnings=(
            *_doubts(windows, rows, placed, frequency, width, parameters.interpolation),
            *([FRAME_CHOSEN.format(windows[0].frame.name)] if _lacks_frame(parameters, windows[0]) else []),
        ),
    )


def _doubts(
    windows: Sequence[Window],
    rows: Sequence[RowSelection],
    placed: Sequence[Placed],
    frequency: np.ndarray,
    width: np.ndarray,
    interpolation: str,
) -> tuple[str, ...]:
    """Warn of an axis that lies mostly beyond the data, or is finer than they are."""
    found = []
    nchan, reached = len(frequency), len(np.unique(np.concatenate([p.output for p in placed])))
    if reached < nchan / 2:
        low, high = _span(windows, rows)
        found.append(
            f"only {reached} of {nchan} channels of the cube have data, which go from {low / 1e9:.6f} to {high / 1e9:.6f} GHz: "
            "the other channels are blank; check `start`, `width`, `nchan` and `restfreq`"
        )
    coarsest = max(window.channels.step for window, p in zip(windows, placed, strict=True) if len(p.output))
    if width.min() < coarsest / 2:
        result = "many channels of the cube contain no centre of a channel of the data, and are blank"
        if interpolation != "nearest":
            result = "neighbouring channels of the cube are interpolated from the same data"
        found.append(
            f"the channels of the cube are {width.min():.6g} Hz wide and those of the data {coarsest:.6g} Hz: {result}; "
            "check `width`"
        )
    return tuple(found)


def _with_factors(
    window: Window, frame: SpectralFrame, place: tuple[float, float, float] | None, specmode: str
) -> RowSelection:
    """The rows of a window with their Doppler factors."""
    rows = window.rows
    if window.frame == frame or not len(rows):
        return rows
    known = are_dates(rows.time)
    instead = "`specmode='cubedata'` keeps the frame of the data"
    if specmode == "cube" and "REST" in (window.frame.name, frame.name):
        raise GpucubeError(
            f"{window.channels.label} is in {window.frame.name}, which cannot be converted to {frame.name}, because the "
            f"velocity of the source is not known: {instead}, and `specmode='cubesource'` follows an object with an ephemeris"
        )
    if not known[rows.keep].all():
        raise GpucubeError(
            f"{window.ms.path}: TIME of some rows is no date, so that frequencies cannot be converted: {instead}"
        )
    if place is None and "TOPO" in (window.frame.name, frame.name):
        raise GpucubeError(f"{window.ms.path}: ANTENNA gives no place on the Earth for TOPO frequencies: {instead}")
    used = known & rows.keep if rows.keep.any() else known
    if not used.any():
        return rows
    instants, index = np.unique(np.where(used, rows.time, rows.time[used][:1]), return_inverse=True)
    position = None if place is None else np.array(place)
    factors = window.track.frequency_factor(window.frame.name, frame.name, instants, position)
    return replace(rows, factor=factors[index])


def _factor(rows: RowSelection, which: str = "earliest") -> float:
    """Doppler factor at the earliest time, or the least or largest, of the rows that are kept, or of all if none is."""
    if which != "earliest":
        return rows.factor_span[which == "largest"]
    if rows.factor is None or not len(rows):
        return 1.0
    kept = rows.factor[rows.keep] if rows.keep.any() else rows.factor
    return float(kept[rows.kept_time.argmin()])


def _begin(rows: RowSelection) -> float:
    """Earliest time of some rows."""
    return float(rows.kept_time.min()) if len(rows) else np.inf


def _edges(
    parameters: Parameters,
    windows: Sequence[Window],
    rows: Sequence[RowSelection],
    rest: float | None,
    origin: int | None,
) -> np.ndarray:
    """Edges of the channels of the cube, Hz, (nchan, 2).

    As in tclean, the windows of the first MeasurementSet at its first time decide the axis where the user leaves it open.
    """
    mine = [(w, r) for w, r in zip(windows, rows, strict=True) if w.ms.path == windows[0].ms.path]
    factors = [_factor(min((o for v, o in mine if v.frame == w.frame), key=_begin)) for w, _ in mine]
    channels, selected = [w.channels for w, _ in mine], [w.channels.selected for w, _ in mine]
    (kind, start), (kind_of_width, wide) = (_by_kind(value) for value in (parameters.start, parameters.width))
    frequency, width = _along_axis(channels, selected, factors)
    if kind == "channel" and start is not None and origin is None:
        whole, _ = _along_axis(channels, [np.arange(len(c.frequency)) for c in channels], factors)
        wanted = _numbered(int(start), whole)
        start, origin = int(np.abs(frequency - wanted).argmin()), 0
        if abs(frequency[start] - wanted) > width[start] / 2:
            raise GpucubeError(f"`start={parameters.start}` is not among the channels that `spw` selects")
    kind = kind if kind != "channel" else kind_of_width
    if kind != "channel" and kind_of_width == "channel":
        wide = None  # as wide as the data's
    request = AxisRequest(
        kind=kind,
        start=start,
        width=wide,
        nchan=parameters.nchan,
        restfreq=rest,
        optical=parameters.veltype == "optical",
    )
    return cube_axis(request, frequency, width, origin or 0)


def _by_kind(value: Any) -> tuple[Any, float | None]:
    """Kind and number of `start` or `width`."""
    return value if isinstance(value, tuple) else ("channel", value)


def _span(windows: Sequence[Window], rows: Sequence[RowSelection]) -> tuple[float, float]:
    """Lowest and highest frequency of the data in the frame of the cube, Hz."""
    ends = []
    for window, of_window in zip(windows, rows, strict=True):
        selected = window.channels.frequency[window.channels.selected]
        ends += [selected.min() * _factor(of_window, "least"), selected.max() * _factor(of_window, "largest")]
    return min(ends), max(ends)


def _place(
    window: Window,
    rows: RowSelection,
    frequency: np.ndarray,
    width: np.ndarray,
    rises: bool,
    interpolation: Interpolation,
) -> Placed:
    """Which channels of the cube a window reaches at any time, and which of its own channels they need."""
    given, selected = window.channels.frequency, window.channels.selected
    step = window.channels.step
    low, high = given[selected].min() - step / 2, given[selected].max() + step / 2
    least, largest = _factor(rows, "least"), _factor(rows, "largest")
    reached = (frequency + width / 2 > low * least) & (frequency - width / 2 < high * largest)
    output = np.flatnonzero(reached)
    if len(output):
        bottom = (frequency[output] - width[output] / 2).min() / largest
        top = (frequency[output] + width[output] / 2).max() / least
        near = np.flatnonzero((given > bottom - 2.5 * step) & (given < top + 2.5 * step))
        near = near[(near >= selected.min()) & (near <= selected.max())]
        needed = np.arange(near.min(), near.max() + 1)
        apart = np.diff(given[needed])
        if not (np.all(apart > 0) or np.all(apart < 0)):  # stored out of order
            needed = needed[np.argsort(given[needed], kind="stable")]
    else:
        needed = np.empty(0, np.int64)
    channel_map = ChannelMap(
        output=np.arange(len(needed)),
        offsets=np.arange(len(needed) + 1),
        members=needed,
        member_frequency=given[needed],
        frequency=given[needed],
    )
    regridding = Regridding(
        output=output,
        centre=frequency[output],
        width=width[output],
        frequency=given[needed],
        selected=np.isin(needed, selected),
        spacing=step,
        rises=rises,
        method=interpolation,
    )
    return Placed(rows=rows, channel_map=channel_map, regridding=regridding)
