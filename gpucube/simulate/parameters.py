"""What can be chosen about a simulated observation.

In: keyword arguments from Python, or the options of ``gpucube simulate``, which are made from this schema. Out: a checked,
frozen `SimulationParameters`. What is left out takes its default, which for some values depends on the telescope.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gpucube.schema.quantities import ANGLE, FLUX_DENSITY, FREQUENCY, Kind, parse_quantity
from gpucube.simulate.arrays import ARRAYS, ArrayKind

ArrayName = Literal["vla-a", "vla-b", "vla-c", "vla-d", "alma", "meerkat"]


def _channel_list(value: Any) -> Any:
    """Read 5, "2,5" or "" as a list of channels."""
    if isinstance(value, str):
        return [part for part in value.replace(" ", "").split(",") if part]
    return [value] if isinstance(value, int) else value


def _quantity(kind: Kind) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, kind))


Angle = Annotated[float, _quantity(ANGLE)]
FluxDensity = Annotated[float, _quantity(FLUX_DENSITY)]
Frequency = Annotated[float, _quantity(FREQUENCY)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Channels = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_channel_list)]
Correlations = Annotated[Literal[1, 2, 4], BeforeValidator(lambda value: int(value))]


class SimulationParameters(BaseModel):
    """Everything that decides what a simulated MeasurementSet holds. The same parameters give the same MeasurementSet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path = Field(description="MeasurementSet to write; its truth goes beside it as <out minus .ms>.truth.npz")
    array: ArrayName = Field(
        "vla-d",
        description="antenna layout: the VLA's four configurations (27 antennas), ALMA (43, within 500 m) or MeerKAT "
        "(64)",
    )
    antennas: int = Field(
        default_factory=lambda given: ARRAYS[given["array"]].antennas,
        ge=2,
        description="use only this many antennas, spread evenly over the layout (default: all)",
    )
    nchan: int = Field(117, ge=1, description="number of channels")
    ntime: int = Field(144, ge=1, description="number of integrations")
    integration: float = Field(10.0, gt=0, description="length of an integration, seconds")
    track_hours: float = Field(
        4.0, ge=0, description="the integrations are spread evenly over this many hours about transit"
    )
    ra: float = Field(187.5, ge=0, lt=360, description="right ascension of the field, degrees, J2000")
    dec: float = Field(
        default_factory=lambda given: ARRAYS[given["array"]].dec,
        ge=-90,
        le=90,
        description="declination, degrees (default: 30 for the VLA, -35 for the others)",
    )
    rest_freq: Frequency = Field(
        default_factory=lambda given: ARRAYS[given["array"]].rest_freq,
        gt=0,
        description="rest frequency of the line, in the middle channel, Hz (default: 86.243e9 for ALMA, "
        "1420.405752e6 for the others)",
    )
    chan_width: Frequency = Field(
        default_factory=lambda given: ARRAYS[given["array"]].chan_width,
        description="channel width, Hz; negative for falling frequency (default: 15625 for the VLA, 122070 for ALMA, "
        "26123 for MeerKAT)",
    )
    frame: Literal["LSRK", "TOPO"] = Field("LSRK", description="frame that the channel frequencies are stated in")
    noise: FluxDensity = Field(
        0.1, ge=0, description="noise of the real and of the imaginary part of one correlation in one channel, Jy"
    )
    peak: FluxDensity = Field(0.1, ge=0, description="flux density of the brightest source at its line's peak, Jy")
    bright_frac: Fraction = Field(0.17, description="share of the channels that hold line emission")
    continuum: int = Field(0, ge=0, description="number of flat-spectrum point sources in every channel")
    imsize: int = Field(256, ge=8, description="image size that the sources are laid out for, pixels")
    cell: Angle = Field(10.0, gt=0, description="pixel size that the sources are laid out for, arcsec")
    npol: Correlations = Field(2, description="correlations: one hand, both parallel hands, or all four")
    flag_rows: Fraction = Field(0.03, description="share of rows flagged at random")
    flag_cells: Fraction = Field(0.02, description="share of (row, channel) samples flagged at random")
    flag_channels: Channels | None = Field(
        None,
        description="channels flagged throughout, separated by commas (default: 2, if there are four or more)",
    )
    flagrow_only: bool = Field(
        False, description="flagged rows set FLAG_ROW only and leave FLAG as it was, which the format allows"
    )
    garbage: float = Field(1e4, description="value left in flagged samples, Jy, so that an ignored flag is seen")
    weight_spectrum: bool = Field(False, description="write WEIGHT_SPECTRUM too, with noisier band edges")
    equal_weights: bool = Field(False, description="give every antenna the same sensitivity")
    tile_chan: int | None = Field(
        None, ge=1, description="channels per tile of DATA on disk (default: all, at most 64)"
    )
    seed: int = Field(1, ge=0, description="seed of the random numbers")
    overwrite: bool = Field(False, description="replace an existing MeasurementSet")

    @model_validator(mode="before")
    @classmethod
    def _none_means_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.antennas > self.kind.antennas:
            raise ValueError(f"antennas={self.antennas}: {self.array} has {self.kind.antennas}")
        if self.chan_width == 0:
            raise ValueError("chan_width=0: expected a width, negative for falling frequency")
        if self.rest_freq - 0.5 * self.nchan * abs(self.chan_width) <= 0:
            raise ValueError(
                f"chan_width={self.chan_width:g}: {self.nchan} channels of this width about {self.rest_freq:g} Hz "
                "reach below 0 Hz; make them narrower or fewer"
            )
        last = max(self.flagged_channels, default=0)
        if last >= self.nchan:
            raise ValueError(f"flag_channels={last}: channels are counted from 0 to {self.nchan - 1}")
        latitude = self.kind.site.latitude
        if abs(latitude - self.dec) >= 90:
            raise ValueError(
                f"dec={self.dec:g}: never rises at latitude {latitude:.1f}, where {self.kind.telescope} is"
            )
        if math.radians(self.imsize * self.cell / 3600) > 1.2:
            raise ValueError(f"cell={self.cell:g}: {self.imsize} pixels of this size are more than a radian of sky")
        return self

    @property
    def flagged_channels(self) -> tuple[int, ...]:
        """The channels flagged throughout."""
        if self.flag_channels is not None:
            return self.flag_channels
        return (2,) if self.nchan >= 4 else ()

    @property
    def kind(self) -> ArrayKind:
        """The array and its telescope."""
        return ARRAYS[self.array]

    @property
    def frequency(self) -> np.ndarray:
        """Centre of every channel, Hz, shape (nchan,)."""
        return self.rest_freq + (np.arange(self.nchan) - self.nchan // 2) * self.chan_width

    @property
    def phase_centre(self) -> tuple[float, float]:
        """Right ascension and declination of the field, radians."""
        return math.radians(self.ra), math.radians(self.dec)

    @property
    def cell_radians(self) -> float:
        """Pixel size, radians."""
        return math.radians(self.cell / 3600.0)
