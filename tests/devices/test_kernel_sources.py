"""The CUDA sources are found in a checkout and from a wheel, and every package is in the wheel."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from gpucube.devices.cuda.kernel_sources import FOLDER, PRELUDE, kernel_source

REPOSITORY = Path(__file__).resolve().parents[2]
SETUPTOOLS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_a_checkout_has_them_beside_the_package():
    assert {path.stem for path in FOLDER.glob("*.cu")} >= {"weights", "statistics", "hogbom", "components", "restore"}
    assert "hogbom_textbook" in kernel_source("hogbom")


def test_the_prelude_precedes_every_source():
    for path in sorted(FOLDER.glob("*.cu")):
        source = kernel_source(path.stem)
        assert source.startswith(f'#line 1 "{PRELUDE}"\n'), "messages of the compiler name its lines"
        assert source.endswith(f'#line 1 "{path.name}"\n{path.read_text()}\n')


def test_a_wheel_has_them_inside(tmp_path):
    """The layout that `package-dir` makes of an installation."""
    (tmp_path / "gpucube/devices/cuda").mkdir(parents=True)
    (tmp_path / "gpucube/kernels").mkdir()
    (tmp_path / "kernels").mkdir()  # somebody else's, beside the package
    (tmp_path / "gpucube/kernels/one.cu").write_text("// one")
    (tmp_path / f"gpucube/kernels/{PRELUDE}").write_text("// before")
    module = tmp_path / "gpucube/devices/cuda/kernel_sources.py"
    module.write_text((REPOSITORY / "gpucube/devices/cuda/kernel_sources.py").read_text())
    code = f"import runpy; print(runpy.run_path({str(module)!r})['kernel_source']('one'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert found[1] == "// before" and found[3] == "// one"
    assert SETUPTOOLS["package-dir"] == {"gpucube.kernels": "kernels"}
    assert set(SETUPTOOLS["package-data"]["gpucube.kernels"]) == {"*.cu", "*.cuh"}


def test_no_package_is_left_out_of_the_wheel():
    folders = {p.parent for p in (REPOSITORY / "gpucube").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == packages | {"gpucube.kernels"}
