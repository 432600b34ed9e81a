"""Where the CUDA sources are: in the wheel inside the package (`gpucube/kernels`), in a checkout beside it (`kernels`)."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]
FOLDER = next(folder for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels") if folder.is_dir())


def kernel_source(name: str) -> str:
    """Text of ``kernels/<name>.cu``."""
    return (FOLDER / f"{name}.cu").read_text()


def kernel_files() -> list[Path]:
    """All CUDA sources, sorted."""
    return sorted(FOLDER.glob("*.cu"))
