"""gpucube: a per-channel spectral-line imager for radio interferometers.

MeasurementSets go in, a deconvolved FITS cube comes out. Every channel runs its own major/minor CLEAN loop until it
alone has converged.

* `image_cube` images MeasurementSets into a cube and returns a `Result`.
* `tclean` takes calls written for CASA's tclean.
* `plan_cube` says what `image_cube` would do and need, without doing it.
* `open_run` opens a finished run as a `Result`.
* `write_report` writes an HTML page about a finished or an unfinished run.
* `simulate_ms` writes a simulated MeasurementSet with its truth.
* `gpucube.beams` has `Beam`, `fit_beam` and `common_beam`.

Every mistake of a caller raises `GpucubeError` with one line.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpucube.version import __version__

if TYPE_CHECKING:
    from gpucube.api import image_cube, plan_cube, tclean
    from gpucube.errors import GpucubeError
    from gpucube.execution.plan import Plan
    from gpucube.report.page import write_report
    from gpucube.result import Result, open_run
    from gpucube.simulate import SimulationParameters, simulate_ms

__all__ = [
    "GpucubeError",
    "Plan",
    "Result",
    "SimulationParameters",
    "__version__",
    "image_cube",
    "open_run",
    "plan_cube",
    "simulate_ms",
    "tclean",
    "write_report",
]

_HOMES = {
    "GpucubeError": "gpucube.errors",
    "Plan": "gpucube.execution.plan",
    "Result": "gpucube.result",
    "SimulationParameters": "gpucube.simulate",
    "image_cube": "gpucube.api",
    "open_run": "gpucube.result",
    "plan_cube": "gpucube.api",
    "simulate_ms": "gpucube.simulate",
    "tclean": "gpucube.api",
    "write_report": "gpucube.report.page",
}


def __getattr__(name: str) -> Any:
    # the libraries behind these names take a second to import, which `import gpucube` alone should not cost
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'gpucube' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
