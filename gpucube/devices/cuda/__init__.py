"""GPUs: CuPy arrays, cuFFT and the kernels in `kernels/`, many planes at a time (docs/cuda.md)."""
