"""Selection: which rows, channels and correlations of the MeasurementSets go into which planes of the cube.

In: checked parameters (`vis`, `field`, `spw`, `datacolumn`, `contsubspw`, `stokes`, `start`, `width`, `nchan`, `phasecenter`).
Out: a `Selection`: one `Source` for each MeasurementSet, DATA_DESC_ID and field, and the axes of the cube. Only subtables
and index columns are read.

The steps are: the fields and the column of each MeasurementSet, its windows and their rows, then the output channels of all
windows together, and the warnings. A source has one pointing, one phase centre and one channel map. A selection of several
fields therefore makes several sources, and the code that uses a selection need not know of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gpucube import disk
from gpucube.constants import ARCSEC
from gpucube.data.channels import WindowChannels
from gpucube.data.column_keywords import unit_factors
from gpucube.data.comparison import compare, outside_of_fields, separation
from gpucube.data.continuum import ContinuumFit
from gpucube.data.continuum_channels import continuum_fits
from gpucube.data.fields import Track, read_track
from gpucube.data.frame_motion import frame_motion
from gpucube.data.measurementset import Field, MeasurementSet, describe, reading
from gpucube.data.msselect.lists import WrongSelection, listed, select_fields
from gpucube.data.msselect.rows import ROW_PARAMETERS
from gpucube.data.msselect.windows import select_channels
from gpucube.data.observation import Band, Observation, check_rest_frequency, choose_rest_frequency, merged, observe
from gpucube.data.placing import CubeChannels, Placed, place_channels
from gpucube.data.pointing import beam_on_sky
from gpucube.data.rows import (
    LARGEST_BLOCK,
    TRANSPOSERS,
    BlockReader,
    RowSelection,
    bytes_of_tiles,
    cell_shape,
    reads_slices,
    rows_per_block,
    select_rows,
    weight_column,
)
from gpucube.data.stokes import Combination, Rule, combinations, correlation_names
from gpucube.errors import GpucubeError
from gpucube.heap import largest_sum
from gpucube.schema.parameters import Parameters
from gpucube.sky.directions import CELESTIAL_FRAMES, EQUINOX, Direction, uvw_rotation
from gpucube.sky.frames import FRAMES, SpectralFrame
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.primary_beams import BeamOnSky
from gpucube.sky.spectral import SpectralAxis
from gpucube.text import angle_text, counted, with_prefix

SAME_DIRECTION = 1.0 * ARCSEC
"""Fields that are no farther apart are one field. The uvw of each are still turned to one phase centre."""

COLUMN_OF = {"data": "DATA", "corrected": "CORRECTED_DATA", "model": "MODEL_DATA"}
"""Columns that `datacolumn` names."""

LOWEST_FREQUENCY = 1e6
"""Hz. Lower frequencies are in another unit: the ionosphere reflects them."""

WIDTH_OFF = 0.1
"""Part of their distance by which channels can be wider or narrower without a warning."""

LARGEST_MOVEMENT = 0.1
"""Pixels by which a field can move during the data without a warning."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """One spectral window of one MeasurementSet, with the rows and channels selected from it."""

    ms: MeasurementSet
    field: Field
    field_id: int
    track: Track  # where the field is
    column: str  # data column
    spw: int  # number of the spectral window
    correlations: tuple[int, ...]  # casacore's codes of the correlation axis
    combinations: tuple[Combination, ...]  # one for each Stokes parameter
    channels: WindowChannels
    rows: RowSelection
    frame: SpectralFrame  # of its frequencies

    @property
    def centre(self) -> Direction:
        """Where the field is in the middle of its data, in a frame for right ascension and declination."""
        time = self.rows.kept_time
        direction = self.track.at(float(0.5 * (time.min() + time.max())))
        return direction if direction.frame in EQUINOX else direction.to("FK5")


@dataclass(frozen=True, kw_only=True)
class Source(Placed):
    """Where the rows of one partition of the store come from, and what becomes of them."""

    path: str  # the MeasurementSet
    spw: int  # number of the spectral window
    column: str  # data column
    weight: str  # WEIGHT or WEIGHT_SPECTRUM
    input_shape: tuple[int, int]  # (channels, correlations) of a data cell
    combinations: tuple[Combination, ...]  # one for each Stokes parameter
    rotation: np.ndarray | None  # (3, 3), takes uvw to the phase centre of the cube; None if uvw refers to it already
    rotation_time: np.ndarray | None = None  # (ntime,) if the field moves: `rotation` is (ntime, 3, 3) then
    slices: bool = False  # whether the input channels are read alone; otherwise whole cells are read and cut
    pointing: int = 0  # the pointing that the rows belong to
    continuum: ContinuumFit | None = None  # what is subtracted from every row
    tile_bytes: int = 0  # of tiles that casacore keeps while they are read

    @property
    def nrow(self) -> int:
        """Number of rows that will be read."""
        return len(self.rows)

    @property
    def block_rows(self) -> int:
        """Number of rows of a block that is quick to read."""
        return rows_per_block(int(8 * self._width * self.input_shape[1]), LARGEST_BLOCK)

    @property
    def _width(self) -> int:
        """Number of input channels of which a block takes memory."""
        if self.channel_range is None or not self.slices:
            return self.input_shape[0]
        return self.channel_range[1] - self.channel_range[0] + 1

    @property
    def hands(self) -> tuple[int, ...]:
        """Places on the correlation axis that the Stokes parameters are made from."""
        needed = {hand for c in self.combinations if c.rule != Rule.NONE for hand in c.hands if hand >= 0}
        return tuple(sorted(needed))

    @property
    def members(self) -> np.ndarray:
        """Number of input channels that each of the channels `output` is made of."""
        members: np.ndarray = (
            np.diff(self.channel_map.offsets) if self.regridding is None else self.regridding.samples()
        )
        return members

    def reading_bytes(self, threads: int) -> int:
        """Bytes that reading takes while `threads` threads transpose and write the blocks before."""
        first, last = self.channel_range or (0, self.input_shape[0] - 1)
        rows, ncorr = min(self.block_rows, self.nrow), self.input_shape[1]
        kept, read = (rows * int(n) * ncorr for n in (last - first + 1, self._width))  # samples of a block
        samples = rows * len(self.combinations)  # of a slot
        spectrum = 4 if self.weight == "WEIGHT_SPECTRUM" else 0
        before = [
            24 * rows,
            8 * kept,
            kept,
            spectrum * kept,
            8 * samples * len(self.output),
            4 * samples * len(self.output),
        ]
        if self.regridding is not None:  # samples in the channels of the data, and the weights that count
            before += [size * samples * len(self.channel_map.output) for size in (8, 4, 4)]
        before *= min(threads, TRANSPOSERS)
        cut = 0 if kept == read else 1
        steps = [
            [*before, 8 * read, cut * 8 * kept],
            [*before, 8 * kept, read, cut * kept],
            [*before, 8 * kept, kept, spectrum * read, cut * spectrum * kept],
        ]
        # if cells are cut, nothing of a block stays that keeps freed memory from the system
        return int(self.tile_bytes + (largest_sum(steps) if not cut else max(map(sum, steps))))

    @property
    def channel_range(self) -> tuple[int, int] | None:
        """First and last input channel to read; None if all are read."""
        span = self.channel_map.span
        if self.continuum is not None:
            span = min(span[0], self.continuum.first), max(span[1], self.continuum.last)
        return None if span == (0, self.input_shape[0] - 1) else span

    def rotation_at(self, time: np.ndarray) -> np.ndarray | None:
        """Return `rotation` for rows with these times, (nrow, 3, 3) if the field moves."""
        if self.rotation is None or self.rotation_time is None:
            return self.rotation
        return self.rotation[np.searchsorted(self.rotation_time, time)]

    def part(self, first: int, count: int) -> Source:
        """Return the same source with `count` of its rows, from the `first`-th."""
        return replace(self, rows=self.rows.part(first, count))

    def open(self) -> BlockReader:
        """Open the MeasurementSet to read the rows block by block."""
        return BlockReader(
            self.path, self.rows, self.column, self.weight, self.input_shape, self.channel_range, self.slices
        )

    def bytes_selected(self) -> int:
        """Bytes of the selected cells of UVW, data, FLAG and weight, each counted once."""
        first, last = self.channel_range or (0, self.input_shape[0] - 1)
        nchan, ncorr = last - first + 1, self.input_shape[1]
        weights = 4 * ncorr * (nchan if self.weight == "WEIGHT_SPECTRUM" else 1)
        return self.nrow * (24 + nchan * ncorr * 9 + weights)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What will be read, and the cube that it makes."""

    sources: tuple[Source, ...]
    geometry: ImageGeometry
    axis: SpectralAxis
    stokes: tuple[str, ...]  # the Stokes planes of the cube: ("pseudoI",), single letters or hands
    object_name: str  # name of the field
    observation: Observation  # for the headers
    primary_beam: BeamOnSky | None = None  # None if no product needs one
    warnings: tuple[str, ...] = ()

    @property
    def npointing(self) -> int:
        """Number of pointings."""
        return 1 + max((source.pointing for source in self.sources), default=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of planes along each of their indices: (npointing, nstokes, nchan)."""
        return self.npointing, len(self.stokes), self.axis.nchan


def select(parameters: Parameters) -> Selection:
    """Turn the parameters into sources and the axes of the cube.

    Raises
    ------
    GpucubeError
        No such MeasurementSet, field, window, column or channel; nothing left after selection; frames that differ.
    """
    disk.check_current_folder()
    vis = [os.path.abspath(path) for path in parameters.vis]
    asked = {name: _for_each(vis, name, getattr(parameters, name)) for name in ("field", "spw", *ROW_PARAMETERS)}
    windows: list[Window] = []
    warnings: list[str] = []
    for number, path in enumerate(vis):
        mine, said = _find_windows(path, {name: of_ms[number] for name, of_ms in asked.items()}, parameters)
        windows += mine
        warnings += said
    if not windows:
        given = [name for name in asked if getattr(parameters, name)] or ["field", "spw"]
        selections = " and ".join(f"`{name}={getattr(parameters, name)!r}`" for name in given)
        raise GpucubeError("; ".join([f"no rows are left after selection: check {selections}", *warnings]))
    # windows of autocorrelations alone, such as ALMA's radiometers', have no say in the axis
    windows = [window for window in windows if window.rows.cross.any()] or windows
    windows, lacking = _with_stokes(windows, parameters.stokes_names)
    warnings += lacking
    first = windows[0]
    observations = _observations(windows)
    places = {path: observation.place for path, observation in observations.items()}
    rest = _likely_rest_frequency(parameters.restfreq, windows)
    channels = place_channels(parameters, windows, places, rest)
    used = [(w, placed) for w, placed in zip(windows, channels.placed, strict=True) if len(placed.output)]
    centre = _image_centre(parameters, first)
    follow = _follows(parameters, windows)
    cell_x, cell_y = parameters.cell_radians
    geometry = ImageGeometry(
        nx=parameters.imsize[0], ny=parameters.imsize[1], cell_x=cell_x, cell_y=cell_y, centre=centre
    )
    line_free = dict(zip(vis, _for_each(vis, "contsubspw", parameters.contsubspw), strict=True))
    fits, continuum_doubts = continuum_fits(parameters, line_free, used, rest)
    sources = tuple(
        _make_source(window, placed, fit, centre, follow) for (window, placed), fit in zip(used, fits, strict=True)
    )
    contributing = [window for window, _ in used]
    centre_given = parameters.phasecenter not in ("", "TRACKFIELD")
    differences = compare(contributing, sources, geometry, centre_given=centre_given, follow=follow)
    if centre_given:
        warnings += outside_of_fields(contributing, geometry)
    restfreq, doubts = _rest_frequency(parameters.restfreq, used, channels)
    axis = SpectralAxis(
        frequency=channels.frequency,
        width=channels.width,
        frame=channels.frame,
        restfreq=restfreq,
        veltype=parameters.veltype,
    )
    imaged = dict.fromkeys(window.ms.path for window in contributing)
    observation, unsaid = merged([observations[path] for path in imaged], channels.frame)
    motion = frame_motion(contributing, {path: places[path] for path in imaged}, axis)
    primary_beam: BeamOnSky | None = None
    unsure: tuple[str, ...] = ()
    if parameters.needs_primary_beam:
        middle = float(np.median(axis.frequency))
        primary_beam, unsure = beam_on_sky(parameters, contributing, observations, geometry, middle)
    for path in vis:
        if path in places and path not in imaged:
            warnings.append(
                f"{path} is not imaged: its channels lie outside the axis of the cube, which `start` and `nchan` decide, "
                "or the first MeasurementSet where they are not given"
            )
        elif path not in imaged:
            warnings.append(f"{path} is not imaged: it has no rows of the selected field and channels")
    return Selection(
        sources=sources,
        geometry=geometry,
        axis=axis,
        stokes=parameters.stokes_names,
        object_name=first.field.name,
        observation=observation,
        primary_beam=primary_beam,
        warnings=(
            *warnings,
            *channels.warnings,
            *continuum_doubts,
            *differences,
            *(() if follow else _movement(sources, first.field.name, min(cell_x, cell_y))),
            *doubts,
            *unsaid,
            *motion,
            *unsure,
        ),
    )


def _image_centre(parameters: Parameters, first: Window) -> Direction:
    """The user's direction or field, or else the first of the imaged fields."""
    number, fields = parameters.phasecenter, first.ms.fields
    if not isinstance(number, int):
        return parameters.centre or first.centre
    if number >= len(fields):
        raise GpucubeError(
            f"`phasecenter={number}`: {first.ms.path} has {counted(len(fields), 'field')}, counted from 0"
        )
    return replace(first, track=read_track(first.ms.path, number)).centre


def _follows(parameters: Parameters, windows: Sequence[Window]) -> bool:
    """Whether the centre of the image moves with the fields, which must all move then."""
    if not parameters.follows_field:
        return False
    if still := [window for window in windows if not window.track.moves]:
        raise GpucubeError(f"{still[0].track.label} does not move: leave out `phasecenter={parameters.phasecenter!r}`")
    return True


def _likely_rest_frequency(given: float | None, windows: Sequence[Window]) -> float | None:
    """The rest frequency that velocities on the axis refer to: the user's, or that of the first window."""
    if given is not None:
        return given
    first = windows[0]
    return next(iter(first.ms.rest_frequencies_of(first.field, first.spw)), None)


def _rest_frequency(
    given: float | None, used: Sequence[tuple[Window, Placed]], channels: CubeChannels
) -> tuple[float | None, tuple[str, ...]]:
    """The rest frequency of the cube, given by the user or chosen from the MeasurementSets, and what is doubtful in it."""
    if given is not None:
        return given, check_rest_frequency(given, float(channels.frequency.min()), float(channels.frequency.max()))
    bands = [
        Band(
            label=window.channels.label,
            low=float(placed.frequency.min()),
            high=float(placed.frequency.max()),
            rest_frequencies=window.ms.rest_frequencies_of(window.field, window.spw),
        )
        for window, placed in used
    ]
    return choose_rest_frequency(bands)


def _observations(windows: Sequence[Window]) -> dict[str, Observation]:
    """What is known of the rows that are imaged, by MeasurementSet."""
    observations = {}
    for path in dict.fromkeys(window.ms.path for window in windows):
        of_ms = [window for window in windows if window.ms.path == path]
        rows = [w.rows.number[w.rows.keep] if w.rows.keep.any() else w.rows.number for w in of_ms]
        with reading(path) as main:
            observations[path] = observe(of_ms[0].ms, main, np.concatenate(rows), of_ms[0].centre)
    return observations


def _for_each(vis: Sequence[str], name: str, selection: str | tuple[str, ...]) -> Sequence[str]:
    """The selection for each MeasurementSet."""
    if isinstance(selection, str):
        return [selection] * len(vis)
    if len(selection) != len(vis):
        raise GpucubeError(
            f"`{name}={list(selection)}` has {len(selection)} entries for {counted(len(vis), 'MeasurementSet')}: give one "
            "text for all, such as '0,1', or one for each"
        )
    return selection


def _find_windows(path: str, asked: Mapping[str, str], parameters: Parameters) -> tuple[list[Window], list[str]]:
    """Find the windows of one MeasurementSet that have rows, once for each of its fields; also return warnings."""
    ms = describe(path)
    column = choose_column(ms, parameters.datacolumn)
    try:
        chosen = select_channels(asked["spw"], ms.spectral_windows)
        descriptions = [number for number in ms.usable_descriptions if ms.data_descriptions[number].spw in chosen]
        unit_doubts = _unit_doubts(path, column)
        rows_of, doubts = select_rows(ms, choose_fields(ms, asked["field"]), descriptions, asked)
    except WrongSelection as error:
        raise GpucubeError(f"{path}: {error}") from None
    windows: dict[int, list[Window]] = {}  # by FIELD_ID
    for (field_id, number), rows in rows_of.items():
        description = ms.data_descriptions[number]
        of_field = windows.setdefault(field_id, [])
        window = Window(
            ms=ms,
            field=ms.fields[field_id],
            field_id=field_id,
            track=of_field[0].track if of_field else read_track(path, field_id),
            column=column,
            spw=description.spw,
            correlations=description.correlations,
            combinations=combinations(description.correlations, parameters.stokes_names),
            channels=_window_channels(ms, description.spw, chosen[description.spw]),
            rows=rows,
            frame=_window_frame(ms, description.spw),
        )
        window.track.check_offset()
        of_field.append(window)
    _refuse_fields_apart(path, asked["field"], {field_id: of_field[0] for field_id, of_field in windows.items()})
    found = [window for of_field in windows.values() for window in of_field]
    wide = dict.fromkeys(doubt for window in found for doubt in _width_doubts(window.channels))
    return found, [*unit_doubts, *doubts, *wide]


def _refuse_fields_apart(path: str, selected: str, fields: Mapping[int, Window]) -> None:
    """Refuse several fields of one MeasurementSet unless all have one direction, or one name if they move."""
    fixed = [window.centre for window in fields.values() if not window.track.moves]
    apart = max((separation(fixed[0], centre) for centre in fixed), default=0.0)
    moving = {window.field.name for window in fields.values() if window.track.moves}
    if apart <= SAME_DIRECTION and len(moving) + bool(fixed) <= 1:
        return
    names = listed([f"{number}: {window.field.name}" for number, window in fields.items()])
    why = f"lie up to {angle_text(apart)} apart" if apart > SAME_DIRECTION else "do not move together"
    raise GpucubeError(
        f"{path}: {len(fields)} fields fit `field={selected!r}` ({names}) and {why}: select one by its number"
    )


def _with_stokes(windows: Sequence[Window], stokes_names: Sequence[str]) -> tuple[list[Window], list[str]]:
    """Leave out windows that no wanted Stokes parameter can be made from; also say which parameters lack which windows."""
    warnings = []
    for number, name in enumerate(stokes_names):
        able = {w.channels.label for w in windows if w.combinations[number].rule != Rule.NONE}
        for window in {w.channels.label: w for w in windows if w.channels.label not in able}.values():
            has = f"{window.channels.label}: it has correlations {', '.join(correlation_names(window.correlations))}"
            if not able:
                raise GpucubeError(f"stokes {name} cannot be made from {has}")
            warnings.append(f"stokes {name} is made without {has}")
    return [w for w in windows if any(c.rule != Rule.NONE for c in w.combinations)], warnings


def _make_source(window: Window, placed: Placed, fit: ContinuumFit | None, centre: Direction, follow: bool) -> Source:
    """Turn a window into a source. Its first data cell must have the shape that the subtables say."""
    shape = cell_shape(window.ms.path, window.column, window.rows)
    expected = len(window.channels.frequency), len(window.correlations)
    if shape != expected:
        raise GpucubeError(
            f"{window.channels.label}: {window.column} has (channels, correlations) = {shape}, the subtables say {expected}"
        )
    moving = window.track.moves
    times = np.unique(window.rows.kept_time) if moving else window.rows.kept_time[:1]
    if not moving:
        rotation = uvw_rotation(window.track.at(times[0]), centre)
    elif follow and CELESTIAL_FRAMES[window.track.frame] == centre.frame:
        rotation = None  # uvw refer to where the field is
    else:
        rotation = window.track.rotations(times, centre, follow=follow)
    source = Source(
        path=window.ms.path,
        spw=window.spw,
        column=window.column,
        weight=weight_column(window.ms, window.rows),
        rows=placed.rows,
        input_shape=shape,
        combinations=window.combinations,
        channel_map=placed.channel_map,
        regridding=placed.regridding,
        rotation=rotation,
        rotation_time=times if moving else None,
        continuum=fit,
    )
    if reads_slices(source.path, source.column, source.channel_range, shape[0]):
        return replace(source, slices=True)
    return replace(source, tile_bytes=bytes_of_tiles(source.path, (source.column, "FLAG", source.weight)))


def _movement(sources: Sequence[Source], name: str, cell: float) -> tuple[str, ...]:
    """A warning if a field moves over the data by more than a small part of a pixel, `cell` in radians."""
    # the third column of a rotation is the direction (l, m, n) of the field in the cube
    places = [s.rotation[:, :, 2] for s in sources if s.rotation is not None and s.rotation_time is not None]
    moved = float(np.linalg.norm(np.ptp(np.concatenate(places), axis=0))) if places else 0.0
    if moved <= LARGEST_MOVEMENT * cell:
        return ()
    return (
        f"field {name} moves by {moved / ARCSEC:.3g} arcsec ({moved / cell:.2g} pixels) while it is observed, but the cube does"
        " not follow it: an object that moves with the field is smeared by that amount; `phasecenter='TRACKFIELD'` follows it",
    )


def _window_channels(ms: MeasurementSet, spw: int, channels: np.ndarray | None) -> WindowChannels:
    """A window with the channels selected from it, all of them for None."""
    spectral, label = ms.spectral_windows[spw], f"{ms.path} spectral window {spw}"
    if not (np.isfinite(spectral.frequency) & (spectral.frequency > 0)).all() or not np.isfinite(spectral.width).all():
        raise GpucubeError(f"{label}: a channel's frequency or width is not a number above 0")
    if spectral.frequency.max() < LOWEST_FREQUENCY:
        raise GpucubeError(
            f"{label}: the frequencies go up to {spectral.frequency.max():g} Hz: expected Hz, or a unit of CHAN_FREQ"
        )
    if len(spectral.width) != len(spectral.frequency):
        raise GpucubeError(
            f"{label}: CHAN_FREQ has {counted(len(spectral.frequency), 'channel')} and CHAN_WIDTH {len(spectral.width)}"
        )
    if channels is None:
        channels = np.arange(len(spectral.frequency))
    width = spectral.width
    if not width.all():  # as some converters leave it
        if len(width) == 1:
            raise GpucubeError(f"{label}: CHAN_WIDTH of its only channel is 0: expected Hz")
        width = np.gradient(spectral.frequency)
    return WindowChannels(label=label, frequency=spectral.frequency, width=width, selected=channels)


def _width_doubts(channels: WindowChannels) -> list[str]:
    """Warn of channels that are much wider or narrower than they are apart."""
    width = float(np.median(np.abs(channels.width)))
    if abs(width - channels.step) <= WIDTH_OFF * channels.step:
        return []
    wide, apart = with_prefix(width, "Hz"), with_prefix(channels.step, "Hz")
    return [
        f"{channels.label}: the channels are {wide} wide by CHAN_WIDTH, but {apart} apart by CHAN_FREQ: give `width` in Hz if "
        "the cube has another frame"
    ]


def _window_frame(ms: MeasurementSet, spw: int) -> SpectralFrame:
    """Frame of a window's frequencies; refused if the table names none that is known."""
    window = ms.spectral_windows[spw]
    if window.frame is None:
        known = ", ".join(f"{frame.code} {frame.name}" for frame in FRAMES.values())
        raise GpucubeError(
            f"{ms.path} spectral window {spw} has no known frequency frame ({window.frame_written}):"
            f" set MEAS_FREQ_REF in SPECTRAL_WINDOW to the frame of the data ({known})"
        )
    return window.frame


def choose_fields(ms: MeasurementSet, field: str) -> list[int]:
    """Return the FIELD_IDs that an expression selects; "" and "*" select all. No such field raises GpucubeError."""
    names = [f.name.strip() for f in ms.fields]
    if field in ("", "*"):
        return list(range(len(names)))
    if not field.isdigit() and field in names:  # a name as it is, whatever it looks like
        return [number for number, name in enumerate(names) if name == field]
    with reading(f"{ms.path}::FIELD") as t:
        codes = t.getcol("CODE") if "CODE" in t.colnames() else ()
    return select_fields(field, names, codes)


def choose_column(ms: MeasurementSet, datacolumn: str) -> str:
    """Return the data column that `datacolumn` means; ``"auto"`` is CORRECTED_DATA if it is there, else DATA.

    Raises
    ------
    GpucubeError
        The MeasurementSet does not have it.
    """
    if datacolumn == "auto":
        column = next((c for c in ("CORRECTED_DATA", "DATA") if c in ms.columns), "DATA")
    else:
        column = COLUMN_OF[datacolumn]
    if column not in ms.columns:
        if "FLOAT_DATA" in ms.columns:
            raise GpucubeError(
                f"{ms.path} has no column {column}, but FLOAT_DATA: it is of a single dish, and gpucube images visibilities"
            )
        there = [name for name, c in COLUMN_OF.items() if c in ms.columns]
        raise GpucubeError(
            f"{ms.path} has no column {column}: `datacolumn` can be {' or '.join(there) or 'nothing here'}"
        )
    return column


def _unit_doubts(path: str, column: str) -> list[str]:
    """Warn of a data column that is not in Jy; a multiple of Jy is refused, because weights go with it."""
    with reading(path) as t:
        try:
            factor = unit_factors(t, column, "Jy")
        except GpucubeError as error:
            return [f"{error}: the values are imaged as if they were in Jy"]
    if (factor != 1).any():
        raise GpucubeError(f"{path}: column {column} is in a multiple of Jy: expected Jy; scale it, and its weights")
    return []
