"""Costs on a GPU, for choices between ways that agree: estimates from the bandwidth of an H200, not measured.

Only ratios matter.
"""

from __future__ import annotations

from gpucube.devices.cycle_rules import MajorCycleCost

FFT_SECONDS = 4e-13
"""One FFT, per pixel and octave."""

TAP_SECONDS = 4e-12
"""Gridding one sample, per thread that it occupies."""

MAJOR_CYCLE = MajorCycleCost(image_fft=2 * FFT_SECONDS, grid_fft=2 * FFT_SECONDS, sample=4e-10)
