"""The record of each channel: how far it was cleaned, why it stopped, and how long that took.

In: the counts of the stopping rule and the device for each plane (a channel in one Stokes parameter). Out: one
`ChannelRecord` per output channel. The same records are `result.channels`, the lines of the journal and the `channels`
of `summary.json`. A quantity that follows from the planes of a channel is a property. It is written to the files for other
programs, but not read back.

Stop codes 1 to 9 are tclean's (CASA documentation, "Synthesis imaging: stopping criteria"); 10 and 11 are gpucube's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, TypeAdapter

T = TypeVar("T")


class StopCode(IntEnum):
    """Why the cycles of a plane ended; `reason` is the explanation."""

    reason: str

    def __new__(cls, value: int, reason: str = "") -> StopCode:
        member = int.__new__(cls, value)
        member._value_, member.reason = value, reason
        return member

    ITERATION_LIMIT = 1, "iteration limit"
    THRESHOLD = 2, "threshold"
    FORCED_STOP = 3, "forced stop"
    NO_CHANGE = 4, "no change in peak residual between two major cycles"
    PEAK_GREW = 5, "peak residual grew more than 3x since the last major cycle"
    PEAK_ABOVE_MINIMUM = 6, "peak residual more than 3x above its minimum"
    ZERO_MASK = 7, "zero mask"
    NSIGMA = 8, "n-sigma threshold"
    MAJOR_LIMIT = 9, "major-cycle limit"
    NO_DATA = 10, "no data"
    FAILED = 11, "failed"


@dataclass(slots=True, kw_only=True)
class PlaneRecord:
    """What happened to one plane: a channel in one Stokes parameter.

    Attributes
    ----------
    iterations : int
        Minor-cycle iterations.
    peak_residual, noise, limit : float or None
        Jy/beam: largest absolute residual inside the mask, 1.4826 MAD of the residual, and the limit to which the plane
        was cleaned, all of the last exact residual. None without data.
    model_flux : float
        Sum of the model, Jy.
    beam : dict or None
        Beam fitted to the PSF: ``bmaj_arcsec``, ``bmin_arcsec``, ``bpa_deg``.
    sum_weights : float
        Sum of the imaging weights, 1/Jy^2; tclean's ``.sumwt``.
    visibilities : int
        Samples imaged.
    visibilities_off_grid : int
        Valid samples that are not imaged, because their baselines are too long for the cell.
    flagged_fraction : float
        Share of the selected samples that are flagged or invalid.
    lacking_fraction : float
        Share of the channels averaged into the samples imaged that are flagged or missing.
    seconds : dict
        Seconds per stage: ``upload weights grid psf fft measure minor major restore write`` (docs/performance.md).
    retried : bool
        True if the plane diverged once, was rolled back and tried again.
    message : str
        What went wrong, for a plane that failed.
    stop_reason : str
        The stop code in words.
    """

    stop_code: StopCode = StopCode.NO_DATA
    iterations: int = 0
    major_cycles: int = 0
    peak_residual: float | None = None
    noise: float | None = None
    limit: float | None = None
    model_flux: float = 0.0
    beam: dict[str, float] | None = None
    sum_weights: float = 0.0
    visibilities: int = 0
    visibilities_off_grid: int = 0
    flagged_fraction: float = 1.0
    lacking_fraction: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    retried: bool = False
    message: str = ""

    @property
    def stop_reason(self) -> str:
        return self.stop_code.reason


class _OfPlanes(Generic[T]):
    """An attribute of a channel that follows from its planes."""

    def __init__(self, value: Callable[[Sequence[PlaneRecord]], T]) -> None:
        self._value = value

    def __get__(self, channel: ChannelRecord, owner: type | None = None) -> T:
        return self._value(tuple(channel.planes.values()))


def _leading(planes: Sequence[PlaneRecord]) -> PlaneRecord:
    """Find the plane with the most iterations."""
    return max(planes, key=lambda plane: (plane.major_cycles, plane.iterations))


@dataclass(slots=True, kw_only=True)
class ChannelRecord:
    """What happened to one output channel, counted from 0.

    It has every attribute of a `PlaneRecord`. With several planes, iterations, major cycles, visibilities,
    visibilities off the grid and seconds are sums. Model flux, beam and sum of weights are those of the first plane.
    The channel was retried if any plane was. All other attributes are those of the plane with the most iterations.

    Attributes
    ----------
    planes : dict of str to PlaneRecord
        By Stokes parameter.
    checksums : dict
        CRC-32 of each plane's bytes in the cube, by product, one per Stokes parameter.
    chunk, worker, device : int, str, str
        Where the channel was imaged.
    """

    channel: int
    frequency_hz: float
    planes: Annotated[dict[str, PlaneRecord], Field(min_length=1)]
    checksums: dict[str, list[str]] = field(default_factory=dict)
    chunk: int = 0
    worker: str = ""
    device: str = ""

    stop_code = _OfPlanes(lambda planes: _leading(planes).stop_code)
    stop_reason = _OfPlanes(lambda planes: _leading(planes).stop_reason)
    iterations = _OfPlanes(lambda planes: sum(plane.iterations for plane in planes))
    major_cycles = _OfPlanes(lambda planes: sum(plane.major_cycles for plane in planes))
    peak_residual = _OfPlanes(lambda planes: _leading(planes).peak_residual)
    noise = _OfPlanes(lambda planes: _leading(planes).noise)
    limit = _OfPlanes(lambda planes: _leading(planes).limit)
    model_flux = _OfPlanes(lambda planes: planes[0].model_flux)
    beam = _OfPlanes(lambda planes: planes[0].beam)
    sum_weights = _OfPlanes(lambda planes: planes[0].sum_weights)
    visibilities = _OfPlanes(lambda planes: sum(plane.visibilities for plane in planes))
    visibilities_off_grid = _OfPlanes(lambda planes: sum(plane.visibilities_off_grid for plane in planes))
    flagged_fraction = _OfPlanes(lambda planes: _leading(planes).flagged_fraction)
    lacking_fraction = _OfPlanes(lambda planes: _leading(planes).lacking_fraction)
    retried = _OfPlanes(lambda planes: any(plane.retried for plane in planes))
    message = _OfPlanes(lambda planes: _leading(planes).message)

    @property
    def seconds(self) -> dict[str, float]:
        total: dict[str, float] = {}
        for plane in self.planes.values():
            for stage, seconds in plane.seconds.items():
                total[stage] = total.get(stage, 0) + seconds
        return total

    def as_dict(self) -> dict[str, Any]:
        """Return the record in the form of `summary.json`: plain types, including the properties that follow from the planes."""
        return _plain(self) | {"planes": {stokes: _plain(plane) for stokes, plane in self.planes.items()}}

    def to_json(self) -> str:
        return json.dumps(self.as_dict())

    @classmethod
    def from_json(cls, line: str | bytes) -> ChannelRecord:
        """Read a line that `to_json` wrote. ValueError if it is something else."""
        return _channel_record.validate_json(line)


_channel_record = TypeAdapter(ChannelRecord)


def _plain(record: PlaneRecord | ChannelRecord) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in _KEYS if hasattr(record, name)}
    return found | {"stop_code": int(record.stop_code)}


_KEYS = (
    *("channel", "frequency_hz", "stop_code", "stop_reason", "iterations", "major_cycles", "peak_residual", "noise"),
    *("limit", "model_flux", "beam", "sum_weights", "visibilities", "visibilities_off_grid", "flagged_fraction"),
    "lacking_fraction",
    *("seconds", "chunk", "worker", "device", "retried", "message", "checksums", "planes"),
)
"""Keys of a channel in `summary.json`; its planes have those that `PlaneRecord` knows."""
