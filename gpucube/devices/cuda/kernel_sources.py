"""The CUDA sources: in an installed package in ``gpucube/kernels``, in a checkout in ``kernels`` beside the package."""

from __future__ import annotations

from pathlib import Path

PRELUDE = "prelude.cuh"
"""Put in front of every source."""

HEADERS = {"hogbom": ("active_set.cuh",), "multiscale": ("active_set.cuh",)}
"""Put in front of some sources, behind the prelude."""

_PACKAGE = Path(__file__).resolve().parents[2]
FOLDER = next(folder for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels") if folder.is_dir())


def kernel_source(name: str) -> str:
    """Read what is compiled for ``kernels/<name>.cu``: headers and the file, with their own lines in messages."""
    files = (PRELUDE, *HEADERS.get(name, ()), f"{name}.cu")
    return "".join(f'#line 1 "{file}"\n{(FOLDER / file).read_text()}\n' for file in files)
