"""The summary of a finished run, ``OUT.summary.json``.

In: parameters, measurements and results, with one record for each channel. Out: the same as JSON. The file is written
last, and either completely or not at all: if it exists, the run has finished. It is checked when it is read, because it may
have been edited, cut short, or made by another program.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self, cast

import numpy as np
from pydantic import BaseModel, ValidationError, field_serializer, model_validator

from gpucube import disk
from gpucube.data.continuum import ContinuumFit
from gpucube.data.selection import Source
from gpucube.errors import GpucubeError
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord
from gpucube.sky.spectral import SpectralAxis
from gpucube.sky.spectral_types import VelocityType, velocity_of
from gpucube.text import frequency_text, ranges


class SpectralSummary(BaseModel):
    """The frame of the frequencies of the channels, and the meaning of their velocities."""

    frame: str  # casacore's name, such as ``"LSRK"``
    channel_width_hz: float  # the usual one, positive
    rest_frequency_hz: float | None  # without it there are no velocities
    veltype: VelocityType
    first_velocity_km_s: float | None  # of the first channel
    last_velocity_km_s: float | None
    channel_width_km_s: float | None

    @classmethod
    def of(cls, axis: SpectralAxis) -> SpectralSummary:
        first = last = width = None
        if axis.restfreq:
            first, last = map(float, velocity_of(axis.frequency[[0, -1]], axis.restfreq, axis.veltype))
            edges = axis.frequency + axis.width * np.array([[-0.5], [0.5]])  # (2, nchan)
            width = float(np.median(np.abs(np.diff(velocity_of(edges, axis.restfreq, axis.veltype), axis=0))))
        return cls(
            frame=axis.frame.name,
            channel_width_hz=float(np.median(axis.width)),
            rest_frequency_hz=axis.restfreq,
            veltype=axis.veltype,
            first_velocity_km_s=first,
            last_velocity_km_s=last,
            channel_width_km_s=width,
        )

    def meaning(self) -> str:
        """What a velocity means: ``"LSRK, radio, rest frequency 230.538GHz"``. Empty without a rest frequency."""
        rest = self.rest_frequency_hz
        return f"{self.frame}, {self.veltype}, rest frequency {frequency_text(rest)}" if rest else ""

    def words(self) -> str:
        """The range of velocities and what it means. Empty without a rest frequency."""
        if not self.rest_frequency_hz:
            return ""
        return f"{self.first_velocity_km_s:.2f} to {self.last_velocity_km_s:.2f} km/s ({self.meaning()})"


class ContinuumSummary(BaseModel):
    """The continuum that was subtracted from the rows of one spectral window."""

    measurement_set: str
    spw: int
    order: int  # of the polynomial
    channels: int  # of the window
    line_free: list[str]  # those that the polynomial was fitted to, as in ``spw``; two if velocities move between rows

    @classmethod
    def of(cls, sources: Sequence[Source]) -> list[ContinuumSummary]:
        """One for each window whose continuum is subtracted."""
        found: dict[tuple[str, int], list[Source]] = {}
        for source in sources:
            if source.continuum is not None:
                found.setdefault((source.path, source.spw), []).append(source)
        return [cls._of_window(path, spw, of_window) for (path, spw), of_window in found.items()]

    @classmethod
    def _of_window(cls, path: str, spw: int, sources: Sequence[Source]) -> ContinuumSummary:
        fit = cast(ContinuumFit, sources[0].continuum)
        least, largest = zip(*(source.rows.factor_span for source in sources), strict=True)
        taken = [np.flatnonzero(fit.at(factor)).tolist() for factor in (min(least), max(largest))]
        return cls(
            measurement_set=path,
            spw=spw,
            order=fit.order,
            channels=len(fit.frequency),
            line_free=list(dict.fromkeys(ranges(channels).replace(", ", ";") for channels in taken)),
        )

    def words(self) -> str:
        """``"order 1, fitted to channels 3~13;27~37 of 40"``."""
        moving = " (they follow the velocities from row to row)" if len(self.line_free) > 1 else ""
        return f"order {self.order}, fitted to channels {' to '.join(self.line_free)} of {self.channels}{moving}"


class Summary(BaseModel):
    """The contents of the file."""

    parameters: dict[str, Any]
    fingerprint: dict[str, Any]  # what the bits of the cube depend on
    versions: dict[str, str]  # of gpucube and of the libraries that took part
    plan: dict[str, Any]  # ``chunksize chunks workers device``
    products: dict[str, str]  # product name, or ``"summary"`` -> path
    ms_bytes_selected: int  # bytes of the columns that are needed
    memory_predicted: int
    device_memory_predicted: int
    resumed_channels: int  # channels taken over from a run that was cut off
    ms_bytes_read: int  # 0 if the run took `visibilities` instead
    visibilities: str = ""  # folder in which they are kept; empty if this run neither kept nor used any
    memory_peak: int
    device_memory_peak: int
    spectral_axis: SpectralSummary | None = None  # None in files of older versions
    continuum: list[ContinuumSummary] = []  # what was subtracted
    gridder: str  # the gridder that was used: ``"standard"`` or ``"wgridder"``
    stage_seconds: dict[str, float]  # ``plan read image finish``
    wall_seconds: float
    warnings: list[str]
    channels: list[ChannelRecord]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if [record.channel for record in self.channels] != list(range(len(self.channels))):
            raise ValueError("the channels are not numbered from 0 on")
        return self

    @field_serializer("channels")
    def _plain_channels(self, channels: list[ChannelRecord]) -> list[dict[str, Any]]:
        return [record.as_dict() for record in channels]

    def write(self, imagename: str) -> None:
        disk.write_whole(RunPaths(imagename).summary, json.dumps(self.model_dump(), indent=1))

    @classmethod
    def read(cls, imagename: str) -> Summary | None:
        """Read the summary of an imagename. None if there is none; an error if gpucube did not write it."""
        path = RunPaths(imagename).summary
        with disk.explain(f"cannot read {path}"), suppress(FileNotFoundError), disk.open_to_read(path) as file:
            try:
                return cls.model_validate_json(file.read())
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "the file"
                raise GpucubeError(f"{path} is not what gpucube writes ({where}: {first['msg']})") from None
        return None
