"""What users call from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpucube import run
from gpucube.execution.plan import Plan
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


def plan_cube(vis: str | Sequence[str], imagename: str, **parameters: Any) -> Plan:
    """Work out what `image_cube` would do and need, without doing it.

    Parameters
    ----------
    vis, imagename, **parameters
        The same as those of `image_cube`.

    Returns
    -------
    Plan
        Channels, chunks, workers, memory, disk space and files. ``print(plan)`` shows them as ``gpucube plan`` does.

    Raises
    ------
    GpucubeError
        Bad parameters, bad input or too few resources, in one line.
    """
    plan, _ = run.plan(make_parameters(vis=vis, imagename=imagename, **parameters))
    return plan
