"""The CUDA sources are found in a checkout and from a wheel, and every package is in the wheel."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from gpucube.devices.cuda.kernel_sources import kernel_files, kernel_source

REPOSITORY = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_a_checkout_has_them_beside_the_package():
    assert {path.stem for path in kernel_files()} >= {"weights", "statistics", "hogbom", "components", "restore"}
    assert "hogbom_textbook" in kernel_source("hogbom")


def test_a_wheel_has_them_inside(tmp_path):
    """The layout that `package-dir` makes of an installation."""
    (tmp_path / "gpucube/devices").mkdir(parents=True)
    (tmp_path / "gpucube/kernels").mkdir()
    (tmp_path / "kernels").mkdir()  # somebody else's, beside the package
    (tmp_path / "gpucube/kernels/one.cu").write_text("// one")
    module = tmp_path / "gpucube/devices/kernel_sources.py"
    module.write_text((REPOSITORY / "gpucube/devices/kernel_sources.py").read_text())
    code = f"import runpy; print(runpy.run_path({str(module)!r})['kernel_source']('one'))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "// one\n"
    assert SETUPTOOLS["package-dir"] == {"gpucube.kernels": "kernels"}
    assert SETUPTOOLS["package-data"] == {"gpucube.kernels": ["*.cu"]}


def test_no_package_is_left_out_of_the_wheel():
    folders = {p.parent for p in (REPOSITORY / "gpucube").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == packages | {"gpucube.kernels"}
