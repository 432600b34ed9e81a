"""The host that runs CUDA kernels: its built-in functions, and the mistakes in a kernel that it notices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hosts.cudahost import HostKernelError, HostModule, missing_sanitizers, sanitizer_environment, thread_order
from hosts.kernel_runs import HOST_ORDERS, needs_compiler

from gpucube.devices.cuda.kernel_sources import FOLDER, kernel_source

pytestmark = needs_compiler

needs_sanitizers = pytest.mark.skipif(missing_sanitizers() is not None, reason=str(missing_sanitizers()))

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent

SAMPLER = r"""
#ifndef SHARED_DYN
#define SHARED_DYN(T, name) extern __shared__ __align__(16) unsigned char name##_raw[]; T* name = reinterpret_cast<T*>(name##_raw)
#endif
extern "C" __global__ void warps(const int* in, int* out) {
    const int t = threadIdx.x, lane = t % 32;
    const unsigned all = 0xffffffffu;
    int* mine = out + 8 * t;
    mine[0] = __shfl_down_sync(all, in[t], 3);
    mine[1] = __shfl_up_sync(all, in[t], 3);
    mine[2] = __shfl_xor_sync(all, in[t], 5);
    mine[3] = __shfl_sync(all, in[t], 7);
    mine[4] = __popc(__ballot_sync(all, in[t] > 500));
    mine[5] = (int)__reduce_max_sync(all, (unsigned)in[t]);
    mine[6] = (int)__reduce_add_sync(all, (unsigned)in[t]);
    if (lane < 16) mine[7] = __shfl_xor_sync(0xffffu, in[t], 1);
    else mine[7] = __any_sync(0xffff0000u, in[t] > 990);
}
extern "C" __global__ void reverse(const float* in, float* out, int n) {
    SHARED_DYN(float, all);
    for (int i = threadIdx.x; i < n; i += blockDim.x) all[i] = in[n * blockIdx.x + i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) out[n * blockIdx.x + i] = all[n - 1 - i];
}
extern "C" __global__ void where_am_i(int* out) {
    const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
extern "C" __global__ void unwritten(float* out) {
    __shared__ float some[64];
    if (threadIdx.x % 2) some[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = some[threadIdx.x];
}
extern "C" __global__ void divergent() {
    if (threadIdx.x < 40) __syncthreads();
    else __syncwarp();
}
extern "C" __global__ void wrong_mask() { if (threadIdx.x % 2) __shfl_sync(0xffffffffu, 1, 0); }
extern "C" __global__ void outside_mask() { if (threadIdx.x < 8) __shfl_sync(0xffu, 1, 9); }
"""


@pytest.fixture(scope="module")
def sampler() -> HostModule:
    return HostModule(SAMPLER)


@pytest.mark.parametrize("order", HOST_ORDERS)
def test_warp_operations(sampler, order):
    values = np.random.default_rng(1).integers(0, 1000, (3, 32)).astype(np.int32)
    out = np.zeros((3, 32, 8), np.int32)
    with thread_order(order):
        sampler.get_function("warps")((1,), (96,), (values, out))
    lane = np.arange(32)
    expected = [
        values[:, np.where(lane + 3 < 32, lane + 3, lane)],
        values[:, np.where(lane >= 3, lane - 3, lane)],
        values[:, lane ^ 5],
        np.repeat(values[:, 7:8], 32, 1),
        np.repeat((values > 500).sum(1)[:, None], 32, 1),
        np.repeat(values.max(1)[:, None], 32, 1),
        np.repeat(values.sum(1)[:, None], 32, 1),
        np.where(lane < 16, values[:, lane ^ 1], (values[:, 16:] > 990).any(1)[:, None]),
    ]
    assert np.array_equal(out, np.stack(expected, -1))


@pytest.mark.parametrize("order", HOST_ORDERS)
def test_grids_blocks_barriers_and_dynamic_shared_memory(sampler, order):
    values = np.random.default_rng(1).random((5, 1000)).astype(np.float32)
    out, place = np.zeros_like(values), np.zeros(2 * 3 * 4 * 64, np.int32)
    with thread_order(order):
        sampler.get_function("reverse")((5,), (96,), (values, out, np.int32(1000)), shared_mem=4000)
        sampler.get_function("where_am_i")((2, 3, 4), (8, 4, 2), (place,))
    assert np.array_equal(out, values[:, ::-1])
    assert np.array_equal(place.reshape(24, 64), 1000 * np.arange(24)[:, None] + np.arange(64))


def test_shared_memory_begins_as_nan(sampler):
    out = np.zeros(64, np.float32)
    sampler.get_function("unwritten")((1,), (64,), (out,))
    assert np.array_equal(np.isnan(out), np.arange(64) % 2 == 0)


@pytest.mark.parametrize(
    ("kernel", "block", "message"),
    [
        ("divergent", 64, r"lanes of a warp disagree|wait for each other.*thread \(0,0,0\) in __syncthreads"),
        ("wrong_mask", 32, "the mask names a lane that has returned"),
        ("outside_mask", 32, "a shuffle reads a lane outside its mask"),
        ("divergent", 1025, "1 to 1024 threads"),
    ],
)
def test_broken_rules_are_reported(sampler, kernel, block, message):
    with pytest.raises(HostKernelError, match=message):
        sampler.get_function(kernel)((1,), (block,), ())
    out = np.zeros(64, np.float32)
    sampler.get_function("unwritten")((1,), (64,), (out,))  # and the host still works
    assert out[1] == 1.0


def test_arguments_must_match_the_kernels_parameters(sampler):
    values, out = np.zeros((2, 4), np.float32)
    reverse = sampler.get_function("reverse")
    for arguments, message in [
        ((values, out), "takes 3 arguments, not 2"),
        ((values.astype(float), out, np.int32(4)), r"argument 0 is \*f8, the kernel takes \*f4"),
        ((values, out, np.int64(4)), "argument 2 is i8, the kernel takes i4"),
        ((values, out, 4), "argument 2 is a int: give it a size"),
        ((values[::2], out, np.int32(2)), "argument 0 is not contiguous"),
    ]:
        with pytest.raises(HostKernelError, match=message):
            reverse((1,), (32,), arguments, shared_mem=16)
    with pytest.raises(HostKernelError, match="227 KiB"):
        reverse((1,), (32,), (values, out, np.int32(4)), shared_mem=228 * 1024)
    with pytest.raises(HostKernelError, match=r"kernel.cu:1:.*error"):
        HostModule('extern "C" __global__ void k() { nonsense; }')


def with_mistake(source: str, right: str, wrong: str) -> str:
    """A kernel source with one mistake put in."""
    assert source.count(right) == 1, f"{right!r} occurs {source.count(right)} times"
    return source.replace(right, wrong)


def test_messages_of_the_compiler_name_the_line_of_the_file():
    lines = (FOLDER / "beam.cu").read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if "__dmul_rn(y - cy, cell_y)" in line)
    broken = with_mistake(kernel_source("beam"), "__dmul_rn(y - cy, cell_y)", "__dmul_rn(y - cy, nonsense)")
    with pytest.raises(HostKernelError, match=rf"beam\.cu:{number}:.*error: .nonsense"):
        HostModule(broken)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "tests"),
    [
        (
            *("active_set.cuh", "    if (lane == 0) partial[warp] = mine;\n    __syncthreads();"),
            *("    if (lane == 0) partial[warp] = mine;", "hogbom.py::test_the_textbook_loop_agrees_with_the_cpu"),
        ),
        (
            *("restore.cu", "from_x[place] = my_x;\n        __syncthreads();", "from_x[place] = my_x;"),
            "components.py::test_gaussians_are_added_as_on_the_cpu",
        ),
    ],
    ids=["no barrier before the peaks of the warps are read", "no barrier before the list is read"],
)
def test_a_missing_barrier_is_caught(tmp_path, name, right, wrong, tests):
    """The tests that pass on the kernel as it is fail on the kernel with the mistake."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_text(with_mistake((FOLDER / name).read_text(), right, wrong))
    code = (
        "import sys, pathlib, pytest; from gpucube.devices.cuda import kernel_sources as k;"
        f"k.FOLDER = pathlib.Path({str(tmp_path)!r});"
        f"sys.exit(pytest.main(['-q', '-x', '-k', 'shape1 and 20261122', '-p', 'no:cacheprovider',"
        f"{str(HERE / 'test_kernels_') + tests!r}]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, capture_output=True, text=True)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "assert" in result.stdout
    assert "1 failed" in result.stdout


CLEAN_ONE_PLANE = """
import numpy as np
from hosts.cudahost import HostModule
module = HostModule(open({path!r}).read())
residual, model = np.random.default_rng(1).random((2, 1, 9, 15)).astype(np.float32)
psf, one = np.ones((1, 18, 30), np.float32), np.zeros(1, np.int32)
orders = np.array([[0.1, 0.0, 2.0, 0.5]])
mask, shape = (np.zeros((1, 9, 15), bool), one - 1, one), np.array([9, 15], np.int32)
state, few, many, some = np.zeros(4, np.int32), *np.array([0, 9999, 135], np.int32)
module.get_function("hogbom_textbook")((1,), (96,), (residual, psf, model, *mask, *shape, orders, many, few, state))
scratch, listed = np.zeros(1 + 3 * 135, np.int32), (some, one.repeat(135), np.zeros(135, np.float32), one.copy())
module.get_function("hogbom_count")((1, 1), (96,), (residual, *mask, some, orders, some, scratch))
module.get_function("hogbom_gather")((1, 1), (96,), (residual, model, *mask, *shape, orders, some, scratch))
rest = np.int32(-1), many, some, many, some, many, few, scratch, state, *listed
module.get_function("hogbom_active_set")((1,), (96,), (psf, model, one, *shape, orders, *rest), shared_mem=12 * 135)
assert state[0] == 2, state
print("finished")
"""


@needs_sanitizers
@pytest.mark.parametrize(
    ("right", "wrong", "report"),
    [
        ("", "", None),
        ("if (x >= nx) continue;", "", "AddressSanitizer: heap-buffer-overflow"),
        ("fast + 2 * capacity}", "fast + 2 * capacity + 130}", "AddressSanitizer: heap-buffer-overflow"),
        (
            *("[2][32];\n    __shared__ int sums[32]", "[2][32];\n    __shared__ int sums[2]"),
            "index 2 out of bounds|global-buffer-overflow",
        ),
    ],
    ids=["the kernel as it is", "past the end of the image", "past dynamic shared memory", "past static shared memory"],
)
def test_sanitizers_catch_what_is_out_of_bounds(tmp_path, right, wrong, report):
    path = tmp_path / "kernel.cu"
    source = kernel_source("hogbom")
    path.write_text(with_mistake(source, right, wrong) if right else source)
    environment = sanitizer_environment() | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    code = CLEAN_ONE_PLANE.format(path=str(path))
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    if report is None:
        assert (result.returncode, result.stdout) == (0, "finished\n"), result.stderr
    else:
        assert result.returncode != 0
        assert any(r in result.stderr for r in report.split("|")), result.stderr


@pytest.mark.long
@needs_sanitizers
def test_kernels_are_clean_under_the_sanitizers():
    """The kernels' own tests once more, with threads shuffled and every access checked."""
    names = ("weights", "statistics", "beam", "hogbom", "multiscale", "components")
    whole = [f"tests/devices/test_kernels_{name}.py" for name in names]
    # only the tests of gridding that reach furthest out; all of them take minutes
    some = ["tests/devices/test_kernels_grid.py", "-k", "edges or without_weight or without_any_sample"]
    for tests in (whole, some):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        result = subprocess.run(command, cwd=TESTS.parent, env=sanitizer_environment(), capture_output=True, text=True)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        assert " passed" in result.stdout
