"""Run the CUDA kernels of `kernels/*.cu` on the host, so that they are tested where there is no GPU.

In: kernel source, and numpy arrays in place of device arrays. Out: those arrays, changed by the kernels. `HostModule` is
called as `cupy.RawModule` is, so the same test body drives either. g++ compiles the source once; the library is cached in
``build/cudahost`` under a hash of everything that matters. `cudahost.h` explains how threads and barriers are made.

Arguments are checked against the kernel's own parameter list: number, kind and size of each. A GPU does not check them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).resolve().parent
HEADER = FOLDER / "cudahost.h"
CACHE = FOLDER.parents[2] / "build" / "cudahost"
SANITIZE = "CUDAHOST_SANITIZE"
"""Environment variable: sanitizers to compile with, e.g. ``address,undefined``; see `sanitizer_environment`."""

FLAGS = (
    *("-x", "c++", "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-include", str(HEADER)),
    "-fno-strict-aliasing",  # pointers to shared memory change their type
    "-fno-gnu-unique",  # else libraries loaded side by side share one scheduler
    "-fvisibility=hidden",
    "-ffp-contract=off",  # a product and a sum are fused where the source says so and nowhere else
    *("-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"),
)

_order = 0
_one_at_a_time = threading.Lock()
"""Shared memory of a kernel on the host is one array for the whole process."""


class HostKernelError(RuntimeError):
    """The source does not compile, an argument does not fit, or the kernel broke a rule of CUDA while it ran."""


def missing_compiler() -> str | None:
    """What to say in a skipped test, or None if kernels can be run on the host."""
    return None if shutil.which("g++") else "g++ is not installed: CUDA kernels cannot be run on the host"


@contextmanager
def thread_order(order: int) -> Iterator[None]:
    """Launch with threads and blocks in this order: 0 upwards, 1 downwards, larger a seed that shuffles them."""
    global _order
    before, _order = _order, order
    try:
        yield
    finally:
        _order = before


def missing_sanitizers() -> str | None:
    """What to say in a skipped test, or None if kernels can be checked by sanitizers."""
    if missing_compiler():
        return missing_compiler()
    lacking = [name for name, path in _sanitizer_libraries().items() if not os.path.isabs(path)]
    return f"g++ has no {' and '.join(lacking)}: kernels cannot be checked by sanitizers" if lacking else None


def _sanitizer_libraries() -> dict[str, str]:
    """Path of each library to load before Python; the bare name if g++ does not have it."""
    return {
        name: subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    }


def sanitizer_environment() -> dict[str, str]:
    """Environment of a Python process whose kernels are checked by AddressSanitizer and UBSan; ends at the first error."""
    return os.environ | {
        SANITIZE: "address,undefined",
        "LD_PRELOAD": " ".join(_sanitizer_libraries().values()),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


class HostFunction:
    """One kernel; called as ``function(grid, block, arguments, shared_mem=bytes)``."""

    def __init__(self, name: str, library: ctypes.CDLL, number: int):
        self.name = name
        self._launch = getattr(library, f"cudahost_launch_{number}")
        self._launch.restype = ctypes.c_char_p
        signature = getattr(library, f"cudahost_signature_{number}")
        signature.restype = ctypes.c_char_p
        self.parameters: list[str] = signature().decode().split()

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], *, shared_mem: int = 0) -> None:
        if len(args) != len(self.parameters):
            raise HostKernelError(f"{self.name} takes {len(self.parameters)} arguments, not {len(args)}")
        values = [self._value(i, a, p) for i, (a, p) in enumerate(zip(args, self.parameters, strict=True))]
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(v) for v in values])
        dimensions = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])
        with _one_at_a_time:
            error = self._launch(dimensions, ctypes.c_size_t(shared_mem), ctypes.c_uint(_order), pointers)
        if error:
            raise HostKernelError(f"{self.name}: {error.decode()}")

    def _value(self, number: int, argument: Any, parameter: str) -> Any:
        if not isinstance(argument, (np.ndarray, np.generic)):
            kind = type(argument).__name__
            raise HostKernelError(f"{self.name}: argument {number} is a {kind}: give it a size, e.g. numpy.int32(n)")
        given = ("*" if isinstance(argument, np.ndarray) else "") + argument.dtype.str[1:]
        if given != parameter and (given, parameter) != ("*b1", "*u1") and not parameter.startswith("*V"):
            raise HostKernelError(f"{self.name}: argument {number} is {given}, the kernel takes {parameter}")
        if isinstance(argument, np.generic):
            return (ctypes.c_char * argument.nbytes).from_buffer_copy(argument.tobytes())
        if not argument.flags.c_contiguous:
            raise HostKernelError(f"{self.name}: argument {number} is not contiguous")
        return ctypes.c_void_p(argument.ctypes.data)


class HostModule:
    """A compiled kernel source: CUDA C++ by the rules of `docs/cuda.md`, its kernels declared ``extern "C"``.

    Of NVRTC's options only definitions (``-DNAME=VALUE``) mean anything here.
    """

    def __init__(self, code: str, options: Sequence[str] = ()):
        self.names = kernel_names(code)
        path = _compile(code, tuple(o for o in options if o.startswith(("-D", "-U"))), self.names)
        self._library = ctypes.CDLL(str(path))

    def get_function(self, name: str) -> HostFunction:
        """The kernel of that name."""
        return HostFunction(name, self._library, self.names.index(name))


def kernel_names(code: str) -> list[str]:
    """Kernels declared ``extern "C"`` in a source."""
    return re.findall(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(', code)


def _compile(code: str, options: tuple[str, ...], names: list[str]) -> Path:
    visible = 'extern "C" __attribute__((visibility("default"))) const char*'
    source = '#line 1 "kernel.cu"\n' + code
    for i, name in enumerate(names):
        source += (
            f"\n{visible} cudahost_signature_{i}() {{ return cudahost::signature(&{name}); }}"
            f"\n{visible} cudahost_launch_{i}(const unsigned* d, size_t s, unsigned o, void** p)"
            f" {{ return cudahost::launch(&{name}, d, s, o, p); }}"
        )
    flags = [*FLAGS, *options]
    if sanitizers := os.environ.get(SANITIZE):
        flags += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
    key = hashlib.sha256("\0".join([source, HEADER.read_text(), *flags]).encode()).hexdigest()[:24]
    library = CACHE / f"{key}.so"
    if not library.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        stem = f"{key}.{os.getpid()}.{threading.get_ident()}"
        kernel, made = CACHE / f"{stem}.cu", CACHE / f"{stem}.so"
        kernel.write_text(source)
        command = ["g++", *flags, "-o", str(made), str(kernel)]
        plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # the compiler itself need not be checked
        result = subprocess.run(command, capture_output=True, text=True, env=plain)
        kernel.unlink()
        if result.returncode:
            raise HostKernelError(result.stderr)
        os.replace(made, library)
    return library
