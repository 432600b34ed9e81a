"""What a worker needs to image channels (`ImageJob`), and what it reports meanwhile (`Events`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gpucube.data.clean_mask import CleanMask
from gpucube.data.start_model import StartModel
from gpucube.data.store import PlaneKey, Samples, VisibilityStore
from gpucube.devices.base import ImagingSettings
from gpucube.imaging.automask import AutoMask
from gpucube.imaging.stopping import CleanParameters
from gpucube.imaging.weighting import HostWeighting, device_weighting
from gpucube.output.fits_cube import CubeFile, sync, write_plane
from gpucube.output.records import ChannelRecord
from gpucube.schema.parameters import Parameters
from gpucube.sky.beam import Beam, RestoringBeam
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.primary_beams import BeamOnSky


def settings_of(
    parameters: Parameters,
    geometry: ImageGeometry,
    *,
    w_term: bool,
    samples: int,
    uv_max: float = math.inf,
    w_max: float = 0.0,
    scales: tuple[float, ...] = (),
    weighting: str = "",
    sources: int = 1,
    alone: bool = False,
) -> ImagingSettings:
    """The settings of a device for a job; `uv_max` and `w_max` are not known before the data have been read."""
    return ImagingSettings(
        geometry=geometry,
        weighting=weighting or device_weighting(parameters),
        robust=parameters.robust,
        taper=tuple(parameters.uvtaper),
        epsilon=parameters.epsilon,
        w_term=w_term,
        scales=scales,
        smallscalebias=parameters.smallscalebias,
        minorcycle=parameters.minorcycle,
        majorcycle=parameters.majorcycle,
        samples=samples,
        uv_max=uv_max,
        w_max=w_max,
        cleaned=parameters.niter > 0,
        masked=bool(parameters.mask),
        smoothed=isinstance(parameters.beam, Beam),
        sources=sources,
        alone=alone,
    )


class Events(Protocol):
    """What happens to channels while a chunk is imaged. Called from worker threads, several at once."""

    def started(self, channel: int) -> None:
        """A worker has begun a channel. This comes again if the channel has to be begun anew."""
        ...

    def finished(self, record: ChannelRecord) -> None:
        """A channel has ended, and its planes are written."""
        ...

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        """The planes of these channels are on disk and may be journalled."""
        ...


class NoEvents:
    """Ignores every event. A base for classes that handle only some."""

    def started(self, channel: int) -> None: ...

    def finished(self, record: ChannelRecord) -> None: ...

    def safe(self, records: Sequence[ChannelRecord]) -> None: ...


NO_EVENTS = NoEvents()


def _always() -> None:
    """Nobody else can write into the cubes."""


@dataclass(frozen=True, kw_only=True)
class ImageJob:
    """All that a worker needs to image channels; picklable.

    Attributes
    ----------
    store : VisibilityStore
    settings : ImagingSettings
    clean : CleanParameters
    frequency : numpy.ndarray
        Frequency of every output channel, Hz, (nchan,).
    stokes : tuple of str
    cubes : dict
        Product name -> `CubeFile`. It holds ``"residual"`` and ``"model"`` in any case if the restoring beam is common.
    mask : CleanMask or None
    weighting : HostWeighting or None
        None if the device makes the imaging weights.
    start_model : StartModel or None
        What cleaning starts from; None for nothing.
    restoring_beam : "channel", "common" or Beam
    automask : AutoMask or None
        The parameters of automatic masks; None if there are none.
    primary_beam : BeamOnSky or None
        None if neither a cube nor a mask needs it.
    pb_mask : float or None
        Response of the primary beam above which components may be found; None for everywhere.
    seconds_between_syncs : float
        How often finished planes are brought to disk.
    may_write : callable
        Called before every plane is written. It raises `GpucubeError` if the cubes are no longer this run's.
        Picklable, like the rest.
    """

    store: VisibilityStore
    settings: ImagingSettings
    clean: CleanParameters
    frequency: np.ndarray
    stokes: tuple[str, ...] = ("I",)
    cubes: dict[str, CubeFile] = field(default_factory=dict)
    mask: CleanMask | None = None
    weighting: HostWeighting | None = None
    start_model: StartModel | None = None
    restoring_beam: RestoringBeam = "channel"
    automask: AutoMask | None = None
    primary_beam: BeamOnSky | None = None
    pb_mask: float | None = None
    seconds_between_syncs: float = 5.0
    may_write: Callable[[], None] = _always

    def mask_plane(self, key: PlaneKey) -> np.ndarray | None:
        """Where the user's mask and the primary beam allow components of a plane, bool (ny, nx); None for everywhere."""
        allowed = None if self.mask is None else self.mask.plane(key.channel, self.stokes[key.stokes])
        within = None if self.pb_mask is None else self.beam_plane(key)
        return allowed if within is None else within if allowed is None else allowed & within

    def beam_plane(self, key: PlaneKey) -> np.ndarray | None:
        """Where the primary beam is above the level of the mask, bool (ny, nx); None for everywhere."""
        if self.primary_beam is None or self.pb_mask is None:
            return None
        within: np.ndarray = self.primary_beam.plane(float(self.frequency[key.channel])) > self.pb_mask
        return within

    def samples(self, key: PlaneKey) -> Samples | None:
        """Return what the device images of a plane: its samples, with imaging weights if the device does not make them."""
        found = self.store.samples(key)
        return found if found is None or self.weighting is None else self.weighting.weigh(found, key)

    def write(self, product: str, key: PlaneKey, values: np.ndarray) -> str:
        """Write a plane, (ny, nx), to its cube; returns its checksum."""
        self.may_write()
        return write_plane(self.cubes[product], key.stokes, key.channel, values)

    def sync(self) -> None:
        """Return when all planes written are on disk."""
        for cube in self.cubes.values():
            sync(cube)
