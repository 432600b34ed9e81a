"""Simulate a spectral-line observation: a MeasurementSet that every imager accepts, with its truth beside it.

In: `SimulationParameters` (array, channels, track, noise, flags, region of the sources). Out: an MS on disk and an
`.npz` file with the sky that is in it. The steps are `arrays` (antenna positions and UVW tracks), `sky` (sources and
their exact visibilities, a direct Fourier sum in float64), `tables` (the MS and its subtables) and `observe`, which
puts them together.

Convention: UVW = pos(ANTENNA1) - pos(ANTENNA2) and V = sum_s S_s exp(+2 pi i (u l + v m + w (n-1)) nu/c), without
1/n and without a primary beam, so that a dirty image shows S_s in Jy/beam at the source's pixel.
"""

from gpucube.simulate.observe import SimulationResult, simulate_ms
from gpucube.simulate.parameters import SimulationParameters

__all__ = ["SimulationParameters", "SimulationResult", "simulate_ms"]
