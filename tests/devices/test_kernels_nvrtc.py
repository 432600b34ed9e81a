"""Every CUDA source compiled to machine code for every generation of GPUs: no spills, and registers below a ceiling.

Registers decide how many threads a multiprocessor holds (65536 of them for at most 2048 threads); spilling turns them
into memory traffic. Both come from ptxas, by `nvrtc.compile_for`.
"""

from __future__ import annotations

import pytest
from hosts.cudahost import kernel_names
from hosts.nvrtc import NvrtcError, compile_for, missing_nvrtc

from gpucube.devices.cuda.kernel_sources import FOLDER, kernel_source

pytestmark = pytest.mark.skipif(missing_nvrtc() is not None, reason=str(missing_nvrtc()))

ARCHITECTURES = [80, 90, 100, 120]
"""A100; H100 and H200; B200; RTX PRO 6000 and RTX 50."""

AS_CUPY = ("-ftz=true",)
"""What CuPy adds to the options that it is given."""

CEILING = 64
"""Registers of a kernel not named below: 1024 threads on a multiprocessor, half of what it can hold."""

CEILINGS = {
    "sum_density": 40,
    "measure": 40,
    "renew_residuals": 40,
    "add_gaussians": 40,
    **{"uv_cells": 96, "grid_samples": 80, "grid_ones": 80, "degrid_samples": 80, "grid_residual": 80},
}
"""Kernels that wait for memory need more threads than that; some compute in float64 and need more registers."""

VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "grid": [("-DSUPPORT=4",), ("-DSUPPORT=7",), ("-DREAL=double", "-DSUPPORT=14")],
    "convolve": [(), ("-DREAL=double",)],
    "uv_tiles": [(), ("-DREAL=double", "-DKEY=unsigned long long")],
}
"""Definitions that a source is compiled with; none for other sources."""

SOURCES = sorted(path.stem for path in FOLDER.glob("*.cu"))
CASES = [(stem, options) for stem in SOURCES for options in VARIANTS.get(stem, [()])]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=[" ".join([n, *o]) for n, o in CASES])
def test_no_spills_and_few_registers(name, options, architecture):
    source = kernel_source(name)
    resources = compile_for(source, architecture, options=(*options, *AS_CUPY))
    assert set(resources) >= set(kernel_names(source))
    for kernel, used in resources.items():
        assert used.spills == 0, f"{kernel}: {used}"
        assert used.stack == 0, f"{kernel}: {used}"
        assert used.registers <= CEILINGS.get(kernel, CEILING), f"{kernel}: {used}"
        assert used.shared <= 48 * 1024, f"{kernel}: {used}"


@pytest.mark.parametrize("name", SOURCES)
def test_sources_follow_the_rules(name):
    """No construct that the host cannot run or that may hang a GPU."""
    source = kernel_source(name)
    for forbidden in ("#include", "asm(", "asm volatile", "tex2D", "cooperative_groups", "volatile", "__nanosleep"):
        assert forbidden not in source
    for line in source.splitlines():
        if line.lstrip().startswith("extern __shared__"):
            assert line.rstrip().endswith("\\"), "dynamic shared memory only through the macro SHARED_DYN"


def test_the_gate_sees_spills_and_errors():
    hungry = """extern "C" __global__ void __launch_bounds__(1024, 2) hungry(float* x) {
        float a[64];
        #pragma unroll
        for (int j = 0; j < 64; j++) a[j] = x[threadIdx.x + 1024 * j];
        __syncthreads();
        #pragma unroll
        for (int j = 0; j < 64; j++) x[threadIdx.x + 1024 * j] = a[63 - j];
    }"""
    assert compile_for(hungry, 90)["hungry"].spills > 0
    with pytest.raises(NvrtcError, match="undefined_name"):
        compile_for('extern "C" __global__ void k(int* x) { *x = undefined_name; }', 90)
