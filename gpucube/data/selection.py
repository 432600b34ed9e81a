"""What of the MeasurementSets a run reads."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gpucube.data import measurementset, stokes
from gpucube.data.channels import ChannelMap, OutputChannels, WindowChannels, output_channels
from gpucube.data.measurementset import Field, MeasurementSetInfo, RowSelection
from gpucube.errors import GpucubeError
from gpucube.schema.parameters import Parameters
from gpucube.schema.quantities import ARCSEC_PER_RADIAN
from gpucube.schema.spw import parse_spw
from gpucube.sky.directions import uvw_rotation
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis


@dataclass(frozen=True)
class Source:
    """One partition to be: where its rows come from and what becomes of them.

    `rotation` takes uvw to the cube's phase centre (None: they are there already).
    """

    path: str
    column: str
    weight: str
    rows: RowSelection
    input_shape: tuple[int, int]
    combinations: tuple[stokes.Combination, ...]
    channels: ChannelMap
    frequency: np.ndarray
    rotation: np.ndarray | None

    @cached_property
    def keep(self) -> np.ndarray:
        """Rows that go into the store."""
        return self.rows.counts & self.rows.cross

    def part(self, first: int, count: int) -> Source:
        """The same with a run of its rows only."""
        span, rows = slice(first, first + count), self.rows
        return replace(self, rows=type(rows)(rows.rows[span], rows.counts[span], rows.cross[span]))

    def channel_range(self) -> tuple[int, int] | None:
        """First and last input channel to read, None if all are."""
        first, last = int(self.channels.members.min()), int(self.channels.members.max())
        return None if (first, last) == (0, self.input_shape[0] - 1) else (first, last)

    def bytes_selected(self) -> int:
        """Bytes of the selected cells of UVW, data, FLAG and weight, each counted once."""
        nchan, ncorr = self.input_shape
        if (span := self.channel_range()) is not None:
            nchan = span[1] - span[0] + 1
        weights = 4 * ncorr * (nchan if self.weight == "WEIGHT_SPECTRUM" else 1)
        return len(self.rows.rows) * (24 + nchan * ncorr * 9 + weights)


@dataclass(frozen=True)
class Selection:
    """What will be read: the sources, the output channels, and the facts the header needs."""

    sources: tuple[Source, ...]
    channels: OutputChannels
    stokes: tuple[str, ...]
    field: Field
    frame: str
    restfreq: float | None
    info: MeasurementSetInfo


def select(
    vis: Iterable[str],
    *,
    field: str,
    spw: Callable[[int], dict[int, np.ndarray | None]],
    datacolumn: str,
    stokes_names: tuple[str, ...],
    start: int | None,
    width: int,
    nchan: int,
    phasecenter: tuple[float, float, str] | None,
    outframe: str = "",
    restfreq: float | None = None,
) -> Selection:
    """Turn the user's selection into sources and output channels. Reads subtables and index columns only.

    Parameters
    ----------
    spw : callable
        From the number of spectral windows of an MS to {window: channel indices, or None for all}, in the order wanted.
    phasecenter : (ra, dec, radesys) or None
        Radians; None is the first field's.

    Raises
    ------
    GpucubeError
        No such MS, field, window, column or channel; nothing left after selection; frames that differ.
    """
    found = []
    for path in vis:
        info = measurementset.describe(path)
        field_id = find_field(info, field, path)
        column = find_column(info, datacolumn)
        rows = measurementset.select_rows(path, field_id)
        wanted = spw(len(info.spectral_windows))
        for window, selected in wanted.items():
            for description, (of_window, corr_types) in enumerate(info.data_descriptions):
                if of_window == window and description in rows:
                    found.append((info, info.fields[field_id], column, window, corr_types, selected, rows[description]))
    if not found:
        raise GpucubeError(f"no rows are left after selection (field={field!r}, spw): check field and spw")
    info, first_field = found[0][:2]
    frames = {f[0].spectral_windows[f[3]].frame for f in found}
    if len(frames) > 1:
        raise GpucubeError(f"the selected spectral windows are in different frames ({', '.join(sorted(frames))})")
    frame = frames.pop()
    if outframe and outframe != frame:
        raise GpucubeError(
            f"outframe={outframe!r} is not available for data in {frame}: leave it empty to keep {frame}"
        )
    channels = output_channels([_window_channels(*f) for f in found], start, width, nchan)
    target = phasecenter or (first_field.ra, first_field.dec, first_field.radesys)
    sources = tuple(
        _source(i, f, column, window, corr, rows, stokes_names, channels.maps[k], target)
        for k, (i, f, column, window, corr, _, rows) in enumerate(found)
        if len(channels.maps[k].output)
    )
    rest = restfreq or _rest_frequency(info, first_field, found[0][3])
    named = Field(first_field.name, *target, first_field.source_id)
    return Selection(sources, channels, stokes_names, named, frame, rest, info)


def find_field(info: MeasurementSetInfo, field: str, path: str) -> int:
    """FIELD_ID chosen by number or by name; the empty string takes the only field that has rows.

    Raises
    ------
    GpucubeError
        No such field, or several fit.
    """
    names = [f.name for f in info.fields]
    if field.strip().isdigit():
        if int(field) >= len(names):
            raise GpucubeError(f"{path} has no field {field}: fields are numbered 0 to {len(names) - 1}")
        return int(field)
    if not field:
        fits = list(range(len(names))) if len(names) == 1 else sorted(measurementset.fields_with_rows(path))
        if not fits:
            raise GpucubeError(f"{path} has no rows")
    else:
        fits = [i for i, name in enumerate(names) if name == field]
        if not fits:
            raise GpucubeError(f"{path} has no field {field!r}: it has {_listed(names)}")
    if len(fits) > 1:
        raise GpucubeError(
            f"{path}: {len(fits)} fields fit field={field!r} "
            f"({_listed([f'{i}: {names[i]}' for i in fits])}): select one by its number"
        )
    return fits[0]


def find_column(info: MeasurementSetInfo, datacolumn: str) -> str:
    """The data column: ``"auto"`` takes CORRECTED_DATA if it is there, else DATA.

    Raises
    ------
    GpucubeError
        The MS does not have it.
    """
    if datacolumn == "auto":
        column = next((c for c in ("CORRECTED_DATA", "DATA") if c in info.columns), "DATA")
    else:
        column = measurementset.COLUMN_OF[datacolumn]
    if column not in info.columns:
        there = [name for name, c in measurementset.COLUMN_OF.items() if c in info.columns]
        raise GpucubeError(
            f"{info.path} has no column {column}: datacolumn can be {' or '.join(there) or 'nothing here'}"
        )
    return column


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def _window_channels(info, _field, _column, window, _corr, selected, _rows) -> WindowChannels:  # type: ignore[no-untyped-def]
    spectral = info.spectral_windows[window]
    nchan = len(spectral.frequency)
    chosen = np.arange(nchan) if selected is None else np.asarray(selected)
    label = f"{info.path} spectral window {window}"
    if len(chosen) and chosen.max() >= nchan:
        raise GpucubeError(f"{label} has channels 0 to {nchan - 1}; spw asks for channel {chosen.max()}")
    return WindowChannels(label, spectral.frequency, spectral.width, chosen)


def _source(info, field, column, window, corr_types, rows, stokes_names, channel_map, target):  # type: ignore[no-untyped-def]
    where = f"{info.path} spectral window {window}"
    shape = measurementset.cell_shape(info.path, column, int(rows.rows[0]))
    frequency = info.spectral_windows[window].frequency
    if shape != (len(frequency), len(corr_types)):
        raise GpucubeError(
            f"{where}: {column} has (channels, correlations) = {shape}, the subtables say "
            f"{(len(frequency), len(corr_types))}"
        )
    return Source(
        info.path,
        column,
        measurementset.weight_column(info.path, info.columns, rows.rows),
        rows,
        shape,
        stokes.combinations(corr_types, stokes_names, where),
        channel_map,
        frequency,
        uvw_rotation((field.ra, field.dec, field.radesys), target),
    )


def _rest_frequency(info: MeasurementSetInfo, field: Field, window: int) -> float | None:
    for key in ((field.source_id, window), (field.source_id, -1)):
        if info.rest_frequencies.get(key, 0.0) > 0:
            return info.rest_frequencies[key]
    return None


def stokes_names(parameters: Parameters) -> tuple[str, ...]:
    """The Stokes planes of the cube: ``("pseudoI",)`` or single letters."""
    return ("pseudoI",) if parameters.stokes == "pseudoI" else tuple(parameters.stokes)


def make_selection(parameters: Parameters) -> Selection:
    """What of the MeasurementSets the parameters ask for.

    Raises
    ------
    GpucubeError
        As `gpucube.ingest.select`.
    """
    return select(
        [os.path.abspath(path) for path in parameters.vis],
        field=parameters.field,
        spw=lambda count: chosen_windows(parameters.spw, count),
        datacolumn=parameters.datacolumn,
        stokes_names=stokes_names(parameters),
        start=parameters.start,
        width=parameters.width,
        nchan=parameters.nchan,
        phasecenter=parameters.phasecenter or None,
        outframe=parameters.outframe,
        restfreq=parameters.restfreq,
    )


def chosen_windows(spw: str, count: int) -> dict[int, np.ndarray | None]:
    """Windows of an MS that a selection names: {window: channels, None for all}, in the order named.

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


def image_geometry(parameters: Parameters, selection: Selection) -> ImageGeometry:
    """The sky side of the cube."""
    return ImageGeometry(
        parameters.imsize[0],
        parameters.imsize[1],
        parameters.cell[0] / ARCSEC_PER_RADIAN,
        parameters.cell[1] / ARCSEC_PER_RADIAN,
        selection.field.ra,
        selection.field.dec,
        selection.field.radesys,
    )


_FITS_FRAMES = {"TOPO": "TOPOCENT", "BARY": "BARYCENT", "GEO": "GEOCENTR", "GALACTO": "GALACTOC", "CMB": "CMBDIPOL"}


def spectral_axis(selection: Selection) -> SpectralAxis:
    """The frequency side of the cube."""
    frame = _FITS_FRAMES.get(selection.frame, selection.frame)
    return SpectralAxis(selection.channels.frequency, selection.channels.width, frame, selection.restfreq)
