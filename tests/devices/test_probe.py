"""The look for GPUs: a child process does it, and whatever CuPy does there, this process only learns what to say of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = """
import os, sys
import numpy as np
with open({log!r}, "a") as log:
    print(os.getpid(), file=log)
class cuda:
    class Device:
        compute_capability = "90"
    class runtime:
        getDeviceCount = staticmethod(lambda: {count})
        memGetInfo = staticmethod(lambda: (10**9, 10**9))
class ones:
    def __init__(self, *shape): pass
    def sum(self): return 6.0
class RawKernel:
    def __init__(self, *source): pass
    def __call__(self, *launch): pass
import types
cufft = types.ModuleType("cupy.cuda.cufft")
cufft.getVersion = lambda: 11000
cuda.cufft = cufft
sys.modules["cupy.cuda"] = cuda
"""
"""What the look needs of CuPy; the file `log` gets the process that imports it."""


def looked(folder: Path, source: str, **environment: str) -> str:
    """What a process that finds this source as CuPy learns of GPUs; its own number stands first."""
    (folder / "cupy").mkdir()
    (folder / "cupy" / "__init__.py").write_text(source)
    code = "import os; from gpucube.devices.choice import find_hardware\nprint(os.getpid(), find_hardware('auto'))"
    paths = [str(folder), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HOME": "/proc/none", "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_a_child_looks_for_gpus(tmp_path: Path) -> None:
    told = looked(tmp_path, FAKE.format(log=str(tmp_path / "log"), count=2))
    assert "gpu_count=2, gpu_memory=900000000" in told
    (looker,) = (tmp_path / "log").read_text().split()
    assert looker != told.split()[0]


def test_gpus_that_are_named_but_not_shown_are_reported(tmp_path: Path) -> None:
    """CUDA shows a process one MIG slice, however many are named."""
    told = looked(tmp_path, FAKE.format(log=os.devnull, count=1), CUDA_VISIBLE_DEVICES="MIG-a,MIG-b")
    assert "CUDA_VISIBLE_DEVICES names MIG-a, MIG-b, but CUDA shows only 1 of them" in told


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('built for another NumPy')", "CuPy cannot be imported (built for another NumPy"),
        ("import nothing_of_this_name", "CuPy cannot be imported (No module named 'nothing_of_this_name'"),
        ("raise AttributeError('no such thing')", "CuPy cannot be imported (no such thing"),
        ("raise OSError(13, 'Permission denied')", "CuPy cannot be imported ([Errno 13] Permission denied"),
        ("import os; os.abort()", "the program that looks for GPUs failed (status -6"),
        ("raise SystemExit(3)", "the program that looks for GPUs failed (status 3"),
    ],
)
def test_a_broken_cupy_means_cpu_cores_and_a_note(source: str, reason: str, tmp_path: Path) -> None:
    told = looked(tmp_path, source)
    assert "CpuKind()" in told
    assert f"imaging on CPU cores: {reason}" in told
