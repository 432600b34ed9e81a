"""What users call from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucube import run
from gpucube.result import Result
from gpucube.schema.parameters import make_parameters


def image_cube(vis: str | Sequence[str], imagename: str, **parameters: Any) -> Result:
    """Image MeasurementSets into a deconvolved spectral cube.

    Parameters
    ----------
    vis : str or sequence of str
        MeasurementSet, or several.
    imagename : str
        Products are called ``<imagename>.image.fits`` and so on.
    **parameters
        See docs/parameters.md; names, meanings and defaults are tclean's where tclean has them. `niter` counts per channel.

    Returns
    -------
    Result

    Raises
    ------
    GpucubeError
        Bad parameters, bad input or too few resources, in one line.
    """
    return run.image(make_parameters(vis=vis, imagename=imagename, **parameters))
