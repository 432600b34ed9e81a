"""Rules of the minor and major cycle that all devices share.

In: `ImagingSettings`, and what a device's steps cost. Out: how deep an active set goes, which way a major cycle goes, and
whether it takes account of w.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpucube.devices.base import ImagingSettings
from gpucube.errors import GpucubeError

ACTIVE_SET_CUT = 0.9
"""The active set holds the pixels above this fraction of the cycle threshold."""

SPARSE_COMPONENTS = 100
"""A major cycle in the image that changed fewer pixels than this subtracts them one by one: exact, and cheaper than FFTs."""


@dataclass(frozen=True, kw_only=True)
class MajorCycleCost:
    """Seconds that a device's major cycle takes. They decide between two ways that agree, so only ratios matter."""

    image_fft: float  # the FFT pair on twice the image, per pixel of that and octave
    grid_fft: float  # the FFTs of one degridding and one gridding, per pixel of the uv grid and octave
    sample: float  # to degrid and grid one sample


def major_in_image(settings: ImagingSettings, samples: int, cost: MajorCycleCost) -> bool:
    """Whether major cycles of planes with `samples` samples convolve the model with the PSF, or go through the visibilities.

    The convolution is exact where w is neglected. It takes an FFT pair of twice the image; a uv grid has about twice the
    image's pixels.
    """
    if settings.w_term or settings.majorcycle == "visibility":
        return False
    if settings.majorcycle == "image":
        return True
    pixels = settings.geometry.nx * settings.geometry.ny
    in_image = 4 * pixels * math.log2(4 * pixels) * cost.image_fft
    through_visibilities = samples * cost.sample + 2 * pixels * math.log2(2 * pixels) * cost.grid_fft
    return in_image < through_visibilities


W_PHASE_LIMIT = 0.1
"""Radians. ``gridder="auto"`` neglects w only where no visibility's phase is wrong by more than this anywhere in the
field: an error of at most 0.5 % of a source in the corner."""


MOST_W_PLANES = 20_000
"""More planes of w than any array needs: a baseline must be wrong."""


def needs_w(phase: float, gridder: str, epsilon: float) -> bool:
    """Whether w must be taken into account where the largest phase 2 pi |w| (1 - n) in the field is `phase`, radians.

    ``"standard"`` never does; ``"wgridder"`` does unless the phase is so small that neglecting it is as accurate as
    `epsilon`; ``"auto"`` does from `W_PHASE_LIMIT` on.
    """
    if not (phase > W_PHASE_LIMIT if gridder == "auto" else gridder == "wgridder" and phase > 0.1 * epsilon):
        return False
    if (planes := 2 * phase / math.pi) > MOST_W_PLANES:
        raise GpucubeError(
            f"the longest baselines need {planes:.3g} w planes: leave them out with `uvrange`, choose a smaller field, or "
            "neglect w with `gridder='standard'`"
        )
    return True
