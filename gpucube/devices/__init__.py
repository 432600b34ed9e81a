"""What a device must do, and the choice of one.

IMAGE (`gpucube.imaging`) is written once against `Device`; a new kind of device means one new module beside this one.
A device works on *planes* (one output channel in one Stokes parameter), many at a time; whatever it returns for a plane
must not depend on which other planes are in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.geometry import Beam, ImageGeometry
from gpucube.store import Samples


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
    """

    geometry: ImageGeometry
    weighting: str = "natural"
    robust: float = 0.5
    taper: tuple[float, ...] = ()
    epsilon: float = 1e-4
    w_term: bool = False
    minorcycle: Literal["activeset", "textbook"] = "activeset"
    majorcycle: Literal["auto", "visibility", "image"] = "auto"


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
    """Planes that are best worked on at once."""
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

    def fetch(self, plane: Any, product: str) -> np.ndarray:
        """Copy ``"dirty"``, ``"psf"``, ``"residual"`` or ``"model"`` to the host, float32 (ny, nx)."""
        ...

    def restore(
        self, model: np.ndarray, residual: np.ndarray, beam: Beam, smooth: Beam | None, scale: float
    ) -> np.ndarray:
        """Restored image of host arrays: model * beam + scale * (residual * `smooth`, a Gaussian of unit sum)."""
        ...


def make_device(name: str, settings: ImagingSettings) -> Device:
    """Make a device by name.

    Parameters
    ----------
    name : str
        ``"cpu"``.
    settings : ImagingSettings

    Raises
    ------
    GpucubeError
        No such device here.
    """
    if name == "cpu":
        from gpucube.devices.cpu import CpuDevice

        return CpuDevice(settings)
    raise GpucubeError(f"device {name!r} is not available: use device='cpu'")
