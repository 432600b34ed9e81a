"""Kernels on a GPU under NVIDIA's compute-sanitizer, where both are available: accesses out of bounds, races, barriers.

It sees what the host build cannot: races between the threads of a block as a GPU runs them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hosts.kernel_runs import needs_gpu

SANITIZER = shutil.which("compute-sanitizer")

pytestmark = [
    *needs_gpu,
    pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not installed: it comes with the CUDA toolkit"),
]

WITHOUT_POOL = """
import sys, cupy, pytest
cupy.cuda.set_allocator(None)  # one block for all arrays would hide writes past the end of an array
sys.exit(pytest.main(["-m", "gpu", "-q", "-x", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("tool", "tests"),
    [
        (
            "memcheck",
            [
                "tests/devices/test_kernels_grid.py",
                "tests/devices/test_kernels_hogbom.py",
                "tests/devices/test_kernels_beam.py",
            ],
        ),
        ("racecheck", ["tests/devices/test_kernels_grid.py", "-k", "edges or batch_without"]),
        ("racecheck", ["tests/devices/test_kernels_hogbom.py", "-k", "shared or textbook"]),
        ("synccheck", ["tests/devices/test_kernels_hogbom.py", "tests/devices/test_kernels_statistics.py"]),
    ],
    ids=["memory", "races in gridding", "races in minor cycles", "barriers"],
)
def test_kernels_are_clean_under_compute_sanitizer(tool: str, tests: list[str]) -> None:
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", WITHOUT_POOL, *tests]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert " passed" in result.stdout
