"""The version of gpucube, and the versions of what a run uses."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata

__version__ = "0.1.0.dev0"


def versions() -> dict[str, str]:
    """Versions of gpucube, Python and the libraries that a run uses."""
    names = ("numpy", "ducc0", "numba", "python-casacore", "astropy", "dask", "distributed")
    found = {"gpucube": __version__, "python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
