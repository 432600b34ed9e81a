"""Compile CUDA sources to machine code with the NVRTC wheel alone: no driver, no toolkit, no GPU.

In: kernel source and an architecture. Out: what each kernel uses there (registers, stack, spills, static shared memory), read
from the report of ptxas. NVRTC runs ptxas when it is asked for a real architecture (``-arch=sm_90``), with
``--ptxas-options=-v``.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class NvrtcError(RuntimeError):
    """The source does not compile; the text is NVRTC's log."""


@dataclass(frozen=True)
class Resources:
    """What one kernel uses: registers of a thread, bytes of its stack and spills, bytes of static shared memory of a block."""

    registers: int
    stack: int
    spills: int
    shared: int


@functools.cache
def nvrtc() -> ctypes.CDLL | None:
    """NVRTC's library from a wheel (``nvidia-cuda-nvrtc-cu12``, or ``nvidia-cuda-nvrtc`` of CUDA 13), or None."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations if package else None) or ():
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*[0-9]")):
            return ctypes.CDLL(str(path))
    return None


def missing_nvrtc() -> str | None:
    """What to say in a skipped test, or None if sources can be compiled."""
    return None if nvrtc() else "NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu12"


def compile_for(source: str, architecture: int, options: Sequence[str] = ()) -> dict[str, Resources]:
    """Compile for ``sm_<architecture>``. Return the resources of every kernel by its (mangled) name."""
    library, program = nvrtc(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        arguments = [f"-arch=sm_{architecture}", "--std=c++17", "--ptxas-options=-v", *options]
        status = library.nvrtcCompileProgram(
            program, len(arguments), (ctypes.c_char_p * len(arguments))(*[a.encode() for a in arguments])
        )
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, log)
        if status:
            raise NvrtcError(log.value.decode())
        return _resources(log.value.decode())
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _resources(log: str) -> dict[str, Resources]:
    found = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'(\S+)'", part)[1]
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups()
        )
        shared = re.search(r"(\d+) bytes smem", part)
        found[name] = Resources(
            int(re.search(r"Used (\d+) registers", part)[1]), stack, stores + loads, int(shared[1]) if shared else 0
        )
    return found
