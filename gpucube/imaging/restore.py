"""Restored images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gpucube.devices.base import Device
from gpucube.imaging.job import ImageJob
from gpucube.output.fits_cube import read_plane
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry


def restored(
    device: Device[Any], geometry: ImageGeometry, model: Any, residual: Any, fitted: Beam, target: Beam
) -> np.ndarray:
    """Model convolved with `target`, plus the residual brought to Jy per `target` beam.

    The residual is smoothed from the fitted beam to the target where the target is larger (as tclean does); where it is
    not, it is added as it is.
    """
    smooth = target.deconvolve(fitted) if target != fitted else None
    scale = target.area(geometry) / fitted.area(geometry) if smooth is not None else 1.0
    return device.restore(model, residual, target, smooth, scale)


def restore_chunk(
    job: ImageJob, device: Device[Any], target: Beam, fitted: dict[tuple[int, int], Beam], channels: Iterable[int]
) -> None:
    """Restore finished channels with a beam known only at the end, from their residual and model on disk."""
    for channel in channels:
        for s in range(len(job.stokes)):
            residual = read_plane(job.cubes["residual"], s, channel)
            if (beam := fitted.get((s, channel))) is not None:
                model = read_plane(job.cubes["model"], s, channel)
                residual = restored(device, job.settings.geometry, model, residual, beam, target)
            job.write("image", s, channel, residual)
