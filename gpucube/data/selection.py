"""Selection: which rows, channels and correlations of the MeasurementSets go into which planes of the cube.

In: checked parameters (field, spw, datacolumn, stokes, start, width, nchan, phasecenter). Out: a `Selection`: one `Source`
for each (MeasurementSet, DATA_DESC_ID, field), and the axes of the cube. Only subtables and index columns are read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gpucube.constants import ARCSEC_PER_RADIAN
from gpucube.data import measurementset, stokes
from gpucube.data.channels import ChannelMap, WindowChannels, output_channels
from gpucube.data.measurementset import BlockReader, Field, MeasurementSetInfo, RowSelection, SpectralWindow
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import Parameters
from gpucube.schema.spw import parse_spw
from gpucube.sky.directions import Direction, uvw_rotation
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis


@dataclass(frozen=True, kw_only=True)
class Window:
    """One spectral window of one MeasurementSet, with the rows and channels selected from it.

    Attributes
    ----------
    ms : MeasurementSetInfo
    field : Field
    column : str
        Data column.
    spw : int
        Number of the spectral window.
    correlations : tuple of int
        casacore's codes of the correlation axis.
    channels : numpy.ndarray
        Selected channels in the order wanted, int, shape (nselected,).
    rows : RowSelection
    """

    ms: MeasurementSetInfo
    field: Field
    column: str
    spw: int
    correlations: tuple[int, ...]
    channels: np.ndarray
    rows: RowSelection

    @property
    def spectral(self) -> SpectralWindow:
        """Frequencies and frame of all its channels."""
        return self.ms.spectral_windows[self.spw]

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"{self.ms.path} spectral window {self.spw}"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the rows of one partition of the store come from, and what becomes of them.

    Attributes
    ----------
    path : str
        The MeasurementSet.
    column, weight : str
        Data column, and WEIGHT or WEIGHT_SPECTRUM.
    rows : RowSelection
    input_shape : tuple of int
        (channels, correlations) of a data cell.
    combinations : tuple of Combination
        How each Stokes parameter is formed.
    channel_map : ChannelMap
        Which input channels are averaged into which output channel.
    frequency : numpy.ndarray
        Hz, of every input channel.
    rotation : numpy.ndarray or None
        Takes uvw to the phase centre of the cube, shape (3, 3); None if they refer to it already.
    pointing : int
        Pointing that the rows belong to.
    """

    path: str
    column: str
    weight: str
    rows: RowSelection
    input_shape: tuple[int, int]
    combinations: tuple[stokes.Combination, ...]
    channel_map: ChannelMap
    frequency: np.ndarray
    rotation: np.ndarray | None
    pointing: int = 0

    @property
    def nrow(self) -> int:
        """Rows to be read."""
        return len(self.rows.rows)

    @cached_property
    def keep(self) -> np.ndarray:
        """True for the rows that go into the store, bool, shape (nrow,)."""
        return self.rows.counts & self.rows.cross

    @property
    def block_rows(self) -> int:
        """Rows of a block that is quick to read."""
        return measurementset.rows_per_block(*self.input_shape)

    @property
    def channel_range(self) -> tuple[int, int] | None:
        """First and last input channel to read, None if all are."""
        first, last = int(self.channel_map.members.min()), int(self.channel_map.members.max())
        return None if (first, last) == (0, self.input_shape[0] - 1) else (first, last)

    def part(self, first: int, count: int) -> Source:
        """The same source with `count` of its rows, from the `first`-th."""
        span, rows = slice(first, first + count), self.rows
        return replace(self, rows=RowSelection(rows.rows[span], rows.counts[span], rows.cross[span]))

    def open(self) -> BlockReader:
        """Open the MeasurementSet to read the rows block by block."""
        return BlockReader(self.path, self.rows.rows, self.column, self.weight, self.channel_range)

    def bytes_selected(self) -> int:
        """Bytes of the selected cells of UVW, data, FLAG and weight, each counted once."""
        nchan, ncorr = self.input_shape
        if (span := self.channel_range) is not None:
            nchan = span[1] - span[0] + 1
        weights = 4 * ncorr * (nchan if self.weight == "WEIGHT_SPECTRUM" else 1)
        return self.nrow * (24 + nchan * ncorr * 9 + weights)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What will be read, and the cube that it makes.

    Attributes
    ----------
    sources : tuple of Source
    geometry : ImageGeometry
        The sky side of the cube.
    axis : SpectralAxis
        The frequency side of the cube.
    stokes : tuple of str
        The Stokes planes of the cube: ``("pseudoI",)`` or single letters.
    object_name : str
        Name of the field.
    first_ms : MeasurementSetInfo
        The headers take telescope, observer and date from it.
    """

    sources: tuple[Source, ...]
    geometry: ImageGeometry
    axis: SpectralAxis
    stokes: tuple[str, ...]
    object_name: str
    first_ms: MeasurementSetInfo

    @property
    def npointing(self) -> int:
        """Number of pointings."""
        return 1 + max((source.pointing for source in self.sources), default=0)


def select(parameters: Parameters) -> Selection:
    """Turn the parameters into sources and the axes of the cube.

    Raises
    ------
    GpucubeError
        No such MeasurementSet, field, window, column or channel; nothing left after selection; frames that differ.
    """
    windows = [w for path in parameters.vis for w in _find_windows(os.path.abspath(path), parameters)]
    if not windows:
        raise GpucubeError(f"no rows are left after selection (field={parameters.field!r}, spw): check field and spw")
    first = windows[0]
    frames = {w.spectral.frame for w in windows}
    if len(frames) > 1:
        listed = ", ".join(sorted(frame.name for frame in frames))
        raise GpucubeError(f"the selected spectral windows are in different frames ({listed})")
    channels = output_channels(
        [WindowChannels(w.label, w.spectral.frequency, w.spectral.width, w.channels) for w in windows],
        parameters.start,
        parameters.width,
        parameters.nchan,
    )
    centre = _wanted_centre(parameters) or first.field.centre
    names = ("pseudoI",) if parameters.stokes == "pseudoI" else tuple(parameters.stokes)
    return Selection(
        sources=tuple(
            _source(window, channel_map, names, centre)
            for window, channel_map in zip(windows, channels.maps, strict=True)
            if len(channel_map.output)
        ),
        geometry=ImageGeometry(
            nx=parameters.imsize[0],
            ny=parameters.imsize[1],
            cell_x=parameters.cell[0] / ARCSEC_PER_RADIAN,
            cell_y=parameters.cell[1] / ARCSEC_PER_RADIAN,
            centre=centre,
        ),
        axis=SpectralAxis(
            frequency=channels.frequency,
            width=channels.width,
            frame=first.spectral.frame,
            restfreq=parameters.restfreq or first.ms.rest_frequency(first.field, first.spw),
        ),
        stokes=names,
        object_name=first.field.name,
        first_ms=first.ms,
    )


def _wanted_centre(parameters: Parameters) -> Direction | None:
    if not parameters.phasecenter:
        return None
    ra, dec, frame = parameters.phasecenter
    return Direction(ra=ra, dec=dec, frame=frame)


def _find_windows(path: str, parameters: Parameters) -> list[Window]:
    """The windows of one MeasurementSet that have rows, in the order in which `spw` names them."""
    ms = measurementset.describe(path)
    field_id = choose_field(ms, parameters.field)
    column = choose_column(ms, parameters.datacolumn)
    rows = measurementset.select_rows(path, field_id)
    return [
        Window(
            ms=ms,
            field=ms.fields[field_id],
            column=column,
            spw=spw,
            correlations=correlations,
            channels=_checked_channels(ms, spw, channels),
            rows=rows[description],
        )
        for spw, channels in choose_windows(parameters.spw, len(ms.spectral_windows)).items()
        for description, (of_spw, correlations) in enumerate(ms.data_descriptions)
        if of_spw == spw and description in rows
    ]


def choose_windows(spw: str, count: int) -> dict[int, np.ndarray | None]:
    """Spectral windows of a MeasurementSet that a selection names, in the order named.

    Parameters
    ----------
    spw : str
        tclean's syntax, see `gpucube.schema.spw`.
    count : int
        Windows of the MeasurementSet.

    Returns
    -------
    dict
        Window -> channels in the order named, None for all.

    Raises
    ------
    GpucubeError
        A window beyond the last.
    """
    chosen: dict[int, np.ndarray | None] = {}
    for item in parse_spw(spw):
        last = count - 1 if item.last is None else item.last
        if last >= count:
            raise GpucubeError(f"spw={spw!r}: there is no spectral window {last}, they are numbered 0 to {count - 1}")
        for window in range(item.first, last + 1):
            earlier = chosen.get(window, np.empty(0, int))
            if earlier is None or not item.channels:
                chosen[window] = None
            else:
                channels = np.concatenate([earlier, *(np.arange(a, b + 1) for a, b in item.channels)])
                chosen[window] = channels[np.sort(np.unique(channels, return_index=True)[1])]
    return chosen


def _checked_channels(ms: MeasurementSetInfo, spw: int, channels: np.ndarray | None) -> np.ndarray:
    """Selected channels of a window, all of them for None; refused if the window does not have them."""
    nchan = len(ms.spectral_windows[spw].frequency)
    if channels is None:
        return np.arange(nchan)
    if len(channels) and channels.max() >= nchan:
        raise GpucubeError(
            f"{ms.path} spectral window {spw} has channels 0 to {nchan - 1}; spw asks for channel {channels.max()}"
        )
    return channels


def choose_field(ms: MeasurementSetInfo, field: str) -> int:
    """FIELD_ID of a field given by number or by name; the empty string takes the only field that has rows.

    Raises
    ------
    GpucubeError
        No such field, or several fit.
    """
    names = [f.name for f in ms.fields]
    if field.strip().isdigit():
        if int(field) >= len(names):
            raise GpucubeError(f"{ms.path} has no field {field}: fields are numbered 0 to {len(names) - 1}")
        return int(field)
    if not field:
        fits = list(range(len(names))) if len(names) == 1 else sorted(measurementset.fields_with_rows(ms.path))
        if not fits:
            raise GpucubeError(f"{ms.path} has no rows")
    else:
        fits = [i for i, name in enumerate(names) if name == field]
        if not fits:
            raise GpucubeError(f"{ms.path} has no field {field!r}: it has {_listed(names)}")
    if len(fits) > 1:
        raise GpucubeError(
            f"{ms.path}: {len(fits)} fields fit field={field!r} "
            f"({_listed([f'{i}: {names[i]}' for i in fits])}): select one by its number"
        )
    return fits[0]


def choose_column(ms: MeasurementSetInfo, datacolumn: str) -> str:
    """The data column: ``"auto"`` takes CORRECTED_DATA if it is there, else DATA.

    Raises
    ------
    GpucubeError
        The MeasurementSet does not have it.
    """
    if datacolumn == "auto":
        column = next((c for c in ("CORRECTED_DATA", "DATA") if c in ms.columns), "DATA")
    else:
        column = measurementset.COLUMN_OF[datacolumn]
    if column not in ms.columns:
        there = [name for name, c in measurementset.COLUMN_OF.items() if c in ms.columns]
        raise GpucubeError(
            f"{ms.path} has no column {column}: datacolumn can be {' or '.join(there) or 'nothing here'}"
        )
    return column


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _source(window: Window, channel_map: ChannelMap, stokes_names: tuple[str, ...], centre: Direction) -> Source:
    """The source that a window becomes; its first data cell must have the shape that the subtables promise."""
    ms, field, frequency = window.ms, window.field, window.spectral.frequency
    shape = measurementset.cell_shape(ms.path, window.column, int(window.rows.rows[0]))
    if shape != (len(frequency), len(window.correlations)):
        raise GpucubeError(
            f"{window.label}: {window.column} has (channels, correlations) = {shape}, the subtables say "
            f"{(len(frequency), len(window.correlations))}"
        )
    return Source(
        path=ms.path,
        column=window.column,
        weight=measurementset.weight_column(ms.path, ms.columns, window.rows.rows),
        rows=window.rows,
        input_shape=shape,
        combinations=stokes.combinations(window.correlations, stokes_names, window.label),
        channel_map=channel_map,
        frequency=frequency,
        rotation=uvw_rotation(field.centre, centre),
    )
