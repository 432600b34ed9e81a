"""The spectral axis of a cube."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpucube.sky.frames import SpectralFrame


@dataclass(frozen=True, kw_only=True)
class SpectralAxis:
    """The channels of a cube.

    Attributes
    ----------
    frequency : numpy.ndarray
        Centre of every output channel, Hz, float64, shape (nchan,).
    width : numpy.ndarray
        Width of every output channel, Hz, positive, shape (nchan,).
    frame : SpectralFrame
        Frame of the frequencies.
    restfreq : float or None
        Rest frequency, Hz.
    """

    frequency: np.ndarray
    width: np.ndarray
    frame: SpectralFrame
    restfreq: float | None

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
