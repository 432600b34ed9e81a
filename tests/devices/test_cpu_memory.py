"""The memory that a plane takes on a CPU core: what ducc0 says of its grids, and what the system says of the process."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from jobs import geometry

from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.memory import grid_size, plane_bytes
from gpucube.heap import MAPPED, largest_sum

GRID = """
import sys
import ducc0, numpy as np
n, samples, epsilon, w, cell = eval(sys.argv[1])
uvw = np.random.default_rng(0).uniform(-1, 1, (samples, 3)) * 0.09 / cell
uvw[0, 2], uvw[1, 2] = 0.09 / cell, 0.0
vis = np.ones((samples, 1), np.complex64 if epsilon >= 1e-5 else np.complex128)
ducc0.wgridder.vis2dirty(uvw=uvw, freq=np.array([299792458.0]), vis=vis, npix_x=n, npix_y=n, pixsize_x=cell, pixsize_y=cell,
                         epsilon=epsilon, do_wgridding=w, divide_by_n=False, verbosity=1)
"""
"""ducc0 writes the size of its grid to the standard output of the process."""


@pytest.mark.parametrize("samples", [300, 40_000])
@pytest.mark.parametrize("w", [False, True])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4, 2e-5, 1e-5, 3e-6, 1e-6, 1e-9])
def test_the_uv_grid_is_that_of_ducc0(samples: int, w: bool, epsilon: float) -> None:
    n, cell = 512, 1e-4
    given = repr((n, samples, epsilon, w, cell))
    said = subprocess.run([sys.executable, "-c", GRID, given], capture_output=True, text=True, check=True).stdout
    nu, nv = map(int, re.findall(r"grid=\((\d+)x(\d+)", said)[0])
    image = replace(geometry(n, n), cell_x=cell, cell_y=cell)
    settings = ImagingSettings(geometry=image, epsilon=epsilon, samples=samples, w_max=0.09 / cell)
    if math.isclose(math.log10(epsilon) % 1, 0.0, abs_tol=1e-9):
        assert grid_size(settings, 1, w) == (nu, nv)
    else:  # interpolated: never smaller, and larger by one kernel at most
        assert nu <= grid_size(settings, 1, w)[0] <= 1.6 * nu


def test_what_a_job_does_not_do_takes_no_memory() -> None:
    settings = ImagingSettings(geometry=geometry(1024, 1024), samples=10_000)
    assert plane_bytes(replace(settings, cleaned=False)) < 0.5 * plane_bytes(settings)
    assert plane_bytes(replace(settings, alone=True)) < plane_bytes(settings)
    assert plane_bytes(replace(settings, masked=True)) == plane_bytes(settings) + 1024 * 1024
    assert plane_bytes(replace(settings, epsilon=1e-7)) > 1.5 * plane_bytes(settings)


def test_large_arrays_come_and_go_and_small_ones_stay() -> None:
    mb = 10**6
    assert largest_sum([[MAPPED, mb], [2 * mb, MAPPED + mb]], hole=False) == MAPPED + 3 * mb
    # the heap is still small when the large arrays come, unless the steps come again
    assert largest_sum([[MAPPED + mb, mb], [9 * mb]], again=False, hole=False) == MAPPED + 2 * mb
    assert largest_sum([[MAPPED + mb, mb], [9 * mb]], hole=False) == MAPPED + 10 * mb
    assert largest_sum([[5 * mb, 4 * mb]]) == 14 * mb
