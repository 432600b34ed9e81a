"""The parameters of a simulated observation.

In: keyword arguments from Python, or the options of ``gpucube simulate``, which are made from this schema. Out: a
checked, frozen `SimulationParameters`. Parameters that are left out take their defaults, some of which depend on the
telescope.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from gpucube.schema.quantities import ANGLE, FLUX_DENSITY, FREQUENCY, Kind, parse_quantity
from gpucube.schema.validation import Written
from gpucube.simulate.arrays import ARRAYS, ArrayKind

ArrayName = Literal["vla-a", "vla-b", "vla-c", "vla-d", "alma", "meerkat"]


def _channel_list(value: Any) -> Any:
    """Read 5, "2,5" or "" as a list."""
    if isinstance(value, str):
        return [part for part in value.replace(" ", "").split(",") if part]
    return [value] if isinstance(value, int) else value


def _quantity(kind: Kind) -> BeforeValidator:
    return BeforeValidator(lambda value: parse_quantity(value, kind))


def _number(value: Any) -> Any:
    """Turn the text of a bare number into the number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _of_array(name: str) -> Any:
    """Make a default that depends on the array."""
    return lambda given: getattr(ARRAYS[given["array"]], name)


Angle = Annotated[float, Written("QuantityLike", "ANGLE", "an angle (arcsec)"), _quantity(ANGLE)]
FluxDensity = Annotated[float, Written("QuantityLike", "FLUX", "a flux density (Jy)"), _quantity(FLUX_DENSITY)]
Frequency = Annotated[float, Written("QuantityLike", "FREQUENCY", "a frequency (Hz)"), _quantity(FREQUENCY)]
Hertz = Annotated[
    float,
    Written("QuantityLike", "FREQUENCY", "a frequency (Hz); a bare number is in Hz"),
    BeforeValidator(lambda value: parse_quantity(_number(value), FREQUENCY)),
]
Fraction = Annotated[float, Written("float", "X", "a number from 0 to 1"), Field(ge=0.0, le=1.0)]
Channels = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    Written("int | Sequence[int]", "N[,N]", "channels, separated by commas"),
    BeforeValidator(_channel_list),
]
Correlations = Annotated[Literal[1, 2, 4], BeforeValidator(lambda value: int(value))]


class SimulationParameters(BaseModel):
    """Everything that determines the contents of a simulated MeasurementSet: the same parameters give the same one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    out: Path
    """The MeasurementSet to write. Its truth goes beside it as <out minus .ms>.truth.npz."""

    array: ArrayName = "vla-d"
    """Antenna layout: the VLA in one of four configurations (27 antennas), ALMA (43, within 500 m) or MeerKAT (64)."""

    antennas: int = Field(default_factory=_of_array("antennas"), ge=2)
    """Number of antennas, spread evenly over the layout. By default all of them."""

    nchan: int = Field(117, ge=1)
    """Number of channels."""

    ntime: int = Field(144, ge=1)
    """Number of integrations."""

    integration: float = Field(10.0, gt=0)
    """Length of an integration, seconds."""

    track_hours: float = Field(4.0, ge=0)
    """The integrations are spread evenly over this many hours about transit."""

    ra: float = Field(187.5, ge=0, lt=360)
    """Right ascension of the field, degrees, J2000."""

    dec: float = Field(default_factory=_of_array("dec"), ge=-90, le=90)
    """Declination of the field, degrees, J2000. By default 30 for the VLA and -35 for the others."""

    rest_freq: Frequency = Field(default_factory=_of_array("rest_freq"), gt=0)
    """Rest frequency of the line, which is in the middle channel. By default 86.243 GHz for ALMA and the HI line for the
    others."""

    chan_width: Hertz = Field(default_factory=_of_array("chan_width"))
    """Channel width, negative for falling frequency. By default 15.625 kHz for the VLA, 122.07 kHz for ALMA and 26.123 kHz
    for MeerKAT."""

    frame: Literal["LSRK", "TOPO"] = "LSRK"
    """Frame that the channel frequencies are stated in."""

    noise: FluxDensity = Field(0.1, ge=0)
    """Noise of the real and of the imaginary part of one correlation in one channel."""

    peak: FluxDensity = Field(0.1, ge=0)
    """Flux density of the brightest source at the peak of its line."""

    bright_frac: Fraction = 0.17
    """Share of the channels that hold line emission."""

    continuum: int = Field(0, ge=0)
    """Number of flat-spectrum point sources in every channel."""

    imsize: int = Field(256, ge=8)
    """Image size that the sources are laid out for, pixels."""

    cell: Angle = Field(10.0, gt=0)
    """Pixel size that the sources are laid out for."""

    npol: Correlations = 2
    """Correlations: one hand, both parallel hands, or all four."""

    flag_rows: Fraction = 0.03
    """Share of rows flagged at random."""

    flag_cells: Fraction = 0.02
    """Share of (row, channel) samples flagged at random."""

    flag_channels: Channels | None = None
    """Channels flagged throughout. By default channel 2, if there are four or more."""

    flagrow_only: bool = False
    """Flagged rows set FLAG_ROW only and leave FLAG as it was, which the format allows."""

    garbage: float = 1e4
    """Value left in flagged samples, Jy, so that an ignored flag is seen."""

    weight_spectrum: bool = False
    """Write WEIGHT_SPECTRUM too, with noisier band edges."""

    equal_weights: bool = False
    """Give every antenna the same sensitivity."""

    tile_chan: int | None = Field(None, ge=1)
    """Channels per tile of DATA on disk. By default all, at most 64."""

    seed: int = Field(1, ge=0)
    """Seed of the random numbers."""

    overwrite: bool = False
    """Replace an existing MeasurementSet."""

    @model_validator(mode="before")
    @classmethod
    def _none_means_default(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.antennas > self.kind.antennas:
            raise ValueError(f"`antennas={self.antennas}`: {self.array} has {self.kind.antennas}")
        if self.chan_width == 0:
            raise ValueError("`chan_width=0`: expected a width, negative for falling frequency")
        if self.rest_freq - 0.5 * self.nchan * abs(self.chan_width) <= 0:
            raise ValueError(
                f"`chan_width={self.chan_width:g}`: {self.nchan} channels of this width about {self.rest_freq:g} Hz "
                "reach below 0 Hz; make them narrower or fewer"
            )
        last = max(self.flagged_channels, default=0)
        if last >= self.nchan:
            raise ValueError(f"`flag_channels={last}`: channels are counted from 0 to {self.nchan - 1}")
        latitude = self.kind.latitude
        if abs(latitude - self.dec) >= 90:
            raise ValueError(
                f"`dec={self.dec:g}`: never rises at latitude {latitude:.1f}, where {self.kind.telescope} is"
            )
        if math.radians(self.imsize * self.cell / 3600) > 1.2:
            raise ValueError(f"`cell={self.cell:g}`: {self.imsize} pixels of this size are more than a radian of sky")
        return self

    @property
    def flagged_channels(self) -> tuple[int, ...]:
        if self.flag_channels is not None:
            return self.flag_channels
        return (2,) if self.nchan >= 4 else ()

    @property
    def kind(self) -> ArrayKind:
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
