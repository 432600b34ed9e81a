"""What is reported of each channel, and why it stopped.

In: what the per-channel controller and the device counted. Out: `ChannelRecord`, one per output channel; the same
records are `result.channels`, the lines of the progress display and the `channels` of `summary.json`. Stop codes 1 to
9 are tclean's (CASA documentation, "tclean: stopping criteria"); 10 and 11 are gpucube's own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any


class StopCode(IntEnum):
    """Why a channel's major/minor loop ended."""

    ITERATION_LIMIT = 1
    THRESHOLD = 2
    FORCED_STOP = 3
    NO_CHANGE = 4
    PEAK_GREW = 5
    PEAK_ABOVE_MINIMUM = 6
    ZERO_MASK = 7
    NSIGMA = 8
    MAJOR_LIMIT = 9
    NO_DATA = 10
    FAILED = 11

    @property
    def reason(self) -> str:
        """Plain words for tables and the summary."""
        return _REASONS[self]


_REASONS = {
    StopCode.ITERATION_LIMIT: "iteration limit",
    StopCode.THRESHOLD: "threshold",
    StopCode.FORCED_STOP: "forced stop",
    StopCode.NO_CHANGE: "no change in peak residual between two major cycles",
    StopCode.PEAK_GREW: "peak residual grew more than 3x since the last major cycle",
    StopCode.PEAK_ABOVE_MINIMUM: "peak residual more than 3x above its minimum",
    StopCode.ZERO_MASK: "zero mask",
    StopCode.NSIGMA: "n-sigma threshold",
    StopCode.MAJOR_LIMIT: "major-cycle limit",
    StopCode.NO_DATA: "no data",
    StopCode.FAILED: "failed",
}


@dataclass(slots=True)
class ChannelRecord:
    """The life of one output channel.

    Attributes
    ----------
    channel : int
        Output channel, from 0.
    frequency_hz : float
        Its centre.
    stop_code, stop_reason : int, str
        See `StopCode`. With several Stokes planes: of the plane that iterated longest.
    iterations, major_cycles : int
        Minor-cycle iterations and major cycles, summed over Stokes planes.
    peak_residual, noise, limit : float or None
        Jy/beam: largest absolute residual inside the mask, 1.4826 MAD of the residual, and the limit the channel was
        cleaned to, all of the last exact residual. With several Stokes planes: of the plane named by the stop code.
    model_flux : float
        Jy, sum of the model (first Stokes plane).
    beam : dict or None
        ``bmaj_arcsec``, ``bmin_arcsec``, ``bpa_deg`` of the beam fitted to the PSF.
    sum_weights : float
        Sum of the imaging weights, 1/Jy^2; tclean's ``.sumwt``.
    visibilities : int
        Samples imaged.
    flagged_fraction : float
        Share of the selected samples that did not count.
    seconds : dict
        Seconds per stage: ``upload weights grid psf fft measure minor major restore write`` (docs/performance.md).
    chunk, worker, device : int, str, str
        Where it was made.
    retried : bool
        True if it diverged once and was rolled back and tried again.
    message : str
        What went wrong, for a failed channel.
    checksums : dict
        CRC-32 of each plane's bytes in the cube, by product, one per Stokes parameter.
    planes : dict
        With several Stokes planes: one such record (without ``planes``) per Stokes parameter.
    """

    channel: int
    frequency_hz: float
    stop_code: int = int(StopCode.NO_DATA)
    stop_reason: str = StopCode.NO_DATA.reason
    iterations: int = 0
    major_cycles: int = 0
    peak_residual: float | None = None
    noise: float | None = None
    limit: float | None = None
    model_flux: float = 0.0
    beam: dict[str, float] | None = None
    sum_weights: float = 0.0
    visibilities: int = 0
    flagged_fraction: float = 1.0
    seconds: dict[str, float] = field(default_factory=dict)
    chunk: int = 0
    worker: str = ""
    device: str = ""
    retried: bool = False
    message: str = ""
    checksums: dict[str, list[str]] = field(default_factory=dict)
    planes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The record as plain types for JSON."""
        return asdict(self)
