"""gpucube: a per-channel spectral-line imager for radio interferometers.

MeasurementSets in, a deconvolved FITS cube out; every channel runs its own major/minor loop until it alone has converged.
`image_cube` is the whole job. The steps are in `ingest`, `imaging` and `planes`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucube.version import __version__

if TYPE_CHECKING:
    from gpucube.api import image_cube
    from gpucube.errors import GpucubeError
    from gpucube.result import Result

__all__ = ["GpucubeError", "Result", "__version__", "image_cube"]


def __getattr__(name: str) -> Any:
    # the libraries behind `image_cube` take a second to import: not before they are wanted
    if name in ("image_cube", "Result"):
        from gpucube import api

        return getattr(api, name)
    if name == "GpucubeError":
        from gpucube.errors import GpucubeError

        return GpucubeError
    raise AttributeError(f"module 'gpucube' has no attribute {name!r}")
