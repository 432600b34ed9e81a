"""What a device must do, and the choice of one.

IMAGE (`gpucube.imaging`) is written once against `Device`; a new kind of device means one new module beside this one.
A device works on *planes* (one output channel in one Stokes parameter), many at a time; whatever it returns for a plane
must not depend on which other planes are in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from gpucube.data.store import Samples
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry


@dataclass(frozen=True)
class ImagingSettings:
    """What a device needs to know of the job.

    Attributes
    ----------
    geometry : ImageGeometry
    weighting : str
        ``"natural"``, ``"uniform"`` or ``"briggs"`` with `robust`.
    taper : tuple of float
        Of the uv taper: half widths at half maximum along and across the position angle, in wavelengths, and that angle
        in degrees; empty for none.
    epsilon : float
        Accuracy of gridding.
    w_term : bool
        Whether the residual takes account of w (n - 1).
    minorcycle : str
        ``"activeset"`` or ``"textbook"``.
    majorcycle : str
        ``"auto"``, ``"visibility"`` or ``"image"``.
    samples : int
        Most samples that any plane of the job has.
    uv_max, w_max : float
        Longest projected baseline and largest |w| of the job, in wavelengths.
    """

    geometry: ImageGeometry
    weighting: str = "natural"
    robust: float = 0.5
    taper: tuple[float, ...] = ()
    epsilon: float = 1e-4
    w_term: bool = False
    minorcycle: Literal["activeset", "textbook"] = "activeset"
    majorcycle: Literal["auto", "visibility", "image"] = "auto"
    samples: int = 0
    uv_max: float = math.inf
    w_max: float = 0.0


ACTIVE_SET_CUT = 0.9
"""The active set holds the pixels above this fraction of the cycle threshold."""

SPARSE_COMPONENTS = 100
"""A major cycle in the image that changed fewer pixels than this subtracts them one by one: exact, and cheaper than FFTs."""


@dataclass(frozen=True)
class MinorOrder:
    """How far the minor cycle of one plane shall go: down to |peak| <= threshold, or for `limit` iterations."""

    threshold: float
    limit: int
    gain: float


class Plane(Protocol):
    """A plane resident on its device.

    `sum_weights` and `visibilities` are those of the imaging weights; both are 0 for a plane without data.
    """

    sum_weights: float
    visibilities: int


class Device(Protocol):
    """One kind of hardware, holding as many planes as it is given."""

    name: str
    batch: int
    """Planes that are worked on at once, at most."""
    out_of_memory: type[Exception]
    """What is raised when the device has no memory left."""
    apart: dict[str, float]
    """Seconds of calls since it was last emptied that belong to a stage of their own: ``"upload"`` and ``"weights"`` of
    `begin`, ``"fft"`` of `make_psf` and `major` where they transform the image itself. Emptied by who reads it."""

    def begin(self, samples: Sequence[Samples | None], masks: Sequence[np.ndarray | None]) -> list[Any]:
        """Upload, weigh and grid: planes with imaging weights, and the dirty image as residual."""
        ...

    def make_psf(self, planes: Sequence[Any], wide: bool) -> None:
        """Make each plane's PSF: of the image's size, or of twice that if it is going to be cleaned."""
        ...

    def measure(self, planes: Sequence[Any]) -> list[tuple[float, float]]:
        """Of each residual: the largest |value| inside the mask (-1 if the mask is empty), and 1.4826 MAD."""
        ...

    def minor(self, planes: Sequence[Any], orders: Sequence[MinorOrder]) -> list[int]:
        """One minor cycle on each plane's model; returns the iterations done."""
        ...

    def major(self, planes: Sequence[Any]) -> None:
        """Make each residual anew from the plane's model."""
        ...

    def keep_model(self, planes: Sequence[Any]) -> None:
        """Remember each plane's model as its best."""
        ...

    def roll_back(self, planes: Sequence[Any]) -> None:
        """Return each plane's model to the one remembered, and its residual with it."""
        ...

    def beams(self, planes: Sequence[Any]) -> list[tuple[Beam, float]]:
        """Of each plane: the beam fitted to its PSF, and the largest |PSF| outside the main lobe."""
        ...

    def fetch(self, plane: Any, product: str) -> np.ndarray:
        """Copy ``"dirty"``, ``"psf"``, ``"residual"`` or ``"model"`` to the host, float32 (ny, nx)."""
        ...

    def resident(self, plane: Any, product: str) -> Any:
        """The same where it lies, to be given to `restore`."""
        ...

    def restore(self, model: Any, residual: Any, beam: Beam, smooth: Beam | None, scale: float) -> np.ndarray:
        """Restored image: model * beam + scale * (residual * `smooth`, a Gaussian of unit sum).

        `model` and `residual` may lie on the host or be `resident`.
        """
        ...

    def release(self, planes: Sequence[Any]) -> None:
        """Give back the places of planes that are done with."""
        ...

    def forget(self) -> None:
        """Give back the places of all planes."""
        ...

    def shrink(self) -> bool:
        """Halve `batch`; False if it was the least already."""
        ...


W_PHASE_LIMIT = 0.1
"""Radians. ``gridder="auto"`` neglects w only where no visibility's phase is wrong by more than this anywhere in the
field: an error of at most 0.5 % of a source in the corner."""


def needs_w(phase: float, gridder: str, epsilon: float) -> bool:
    """Whether the w term must be taken into account.

    Parameters
    ----------
    phase : float
        Largest phase 2 pi |w| (1 - n) in the field, radians.
    gridder : str
        ``"standard"`` never does; ``"wgridder"`` does unless the phase is so small that neglecting it is as accurate as
        `epsilon`; ``"auto"`` does from `W_PHASE_LIMIT` on.
    epsilon : float
    """
    if gridder == "auto":
        return phase > W_PHASE_LIMIT
    return gridder == "wgridder" and phase > 0.1 * epsilon
