"""Run pytest with CuPy's memory pool off: one block for all arrays would hide from a sanitizer what lies past the end of one."""

import sys
from contextlib import suppress

import pytest

with suppress(ImportError):  # kernels that run on the host have no pool
    import cupy

    cupy.cuda.set_allocator(None)
sys.exit(pytest.main(["-p", "no:cacheprovider", *sys.argv[1:]]))
