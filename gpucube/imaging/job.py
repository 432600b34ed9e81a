"""All that a worker needs to image channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.data.mask import Mask
from gpucube.data.store import VisibilityStore
from gpucube.devices.base import ImagingSettings
from gpucube.imaging.stopping import CleanParameters
from gpucube.output.fits_cube import CubeFile, write_plane
from gpucube.output.journal import Lease
from gpucube.schema.parameters import Parameters
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry


def settings_of(
    parameters: Parameters, geometry: ImageGeometry, w_term: bool, samples: int, uv_max: float, w_max: float
) -> ImagingSettings:
    """What a device is told of the job; `uv_max` is infinite and `w_max` 0 where they are not known yet."""
    return ImagingSettings(
        geometry,
        parameters.weighting,
        parameters.robust,
        tuple(parameters.uvtaper),
        parameters.epsilon,
        w_term,
        parameters.minorcycle,
        parameters.majorcycle,
        samples,
        uv_max,
        w_max,
    )


@dataclass(frozen=True)
class ImageJob:
    """All that a worker needs; picklable.

    Attributes
    ----------
    store : VisibilityStore
    settings : ImagingSettings
    clean : CleanParameters
    frequency : numpy.ndarray
        Hz, of every output channel.
    stokes : tuple of str
    cubes : dict
        Product name -> `CubeFile`; holds ``"residual"`` and ``"model"`` in any case if the beam is common.
    mask : Mask or None
    restoring_beam : "channel", "common" or Beam
    lease : Lease or None
        Asked before every plane is written; None where nobody else can write.
    """

    store: VisibilityStore
    settings: ImagingSettings
    clean: CleanParameters
    frequency: np.ndarray
    stokes: tuple[str, ...]
    cubes: dict[str, CubeFile]
    mask: Mask | None
    restoring_beam: str | Beam
    lease: Lease | None = None

    def write(self, product: str, stokes: int, channel: int, values: np.ndarray) -> str:
        """Write a plane to its cube; returns its checksum."""
        if self.lease is not None:
            self.lease.check()
        return write_plane(self.cubes[product], stokes, channel, values)


Notify = Callable[[str, Any], None]
