"""`SpectralAxis`: the channels of a cube, their frame and their rest frequency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpucube.sky.frames import SpectralFrame
from gpucube.sky.spectral_types import VelocityType


@dataclass(frozen=True, kw_only=True)
class SpectralAxis:
    """The channels of a cube, in Hz."""

    frequency: np.ndarray  # centre of every output channel, float64, (nchan,)
    width: np.ndarray  # of every output channel, positive, (nchan,)
    frame: SpectralFrame  # of the frequencies
    restfreq: float | None
    veltype: VelocityType = "radio"  # of the velocities that are reported

    @property
    def nchan(self) -> int:
        """Number of output channels."""
        return len(self.frequency)

    def increment(self) -> float:
        """Return the best constant channel step in Hz (the channel's own width when there is only one)."""
        if self.nchan == 1:
            return float(self.width[0])
        return float((self.frequency[-1] - self.frequency[0]) / (self.nchan - 1))

    def is_regular(self) -> bool:
        """Return True if a linear axis places every channel within 1 % of a channel width."""
        linear = self.frequency[0] + self.increment() * np.arange(self.nchan)
        return bool(np.all(np.abs(linear - self.frequency) <= 0.01 * self.width))
