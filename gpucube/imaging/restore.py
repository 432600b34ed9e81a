"""Restored images: the model convolved with the restoring beam, plus the residual.

In: model and residual of a plane, the beam fitted to its PSF, and the beam wanted. Out: the image, in Jy per beam wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpucube.data.store import PlaneKey
from gpucube.devices.base import Device, Restoring
from gpucube.imaging.job import ImageJob
from gpucube.output.fits_cube import read_plane
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry


def how_to_restore(geometry: ImageGeometry, fitted: Beam, target: Beam) -> Restoring:
    """Say how a plane is restored: its model convolved with `target`, plus the residual brought to Jy per `target` beam.

    The residual is smoothed from the fitted beam to the target where the target is larger (as tclean does); where it is
    not, it is added as it is.
    """
    smooth = target.deconvolve(fitted) if target != fitted else None
    scale = target.area(geometry) / fitted.area(geometry) if smooth is not None else 1.0
    return Restoring(beam=target, smooth=smooth, scale=scale)


def restore_chunk(
    job: ImageJob, device: Device[Any], target: Beam, fitted: Mapping[PlaneKey, Beam], channels: Iterable[int]
) -> None:
    """Restore finished channels with a beam known only at the end, from their residual and model on disk.

    A plane that is not in `fitted` has no data: it is blank in its residual, and so in its image.
    """
    for key in (PlaneKey(channel=c, stokes=s) for c in channels for s in range(len(job.stokes))):
        image = read_plane(job.cubes["residual"], key.stokes, key.channel)
        if (beam := fitted.get(key)) is not None:
            model = read_plane(job.cubes["model"], key.stokes, key.channel)
            image = device.restore(model, image, how_to_restore(job.settings.geometry, beam, target))
        if "image" in job.cubes:
            job.write("image", key, image)
        if "image.pbcor" in job.cubes and job.primary_beam is not None:
            job.write("image.pbcor", key, image / job.primary_beam.plane(float(job.frequency[key.channel])))
