"""Where kernels run without a GPU: a host build of the CUDA sources, and the compiler that GPUs use."""
