"""What computes: gridding, imaging weights, PSFs, minor and major cycles, restoring, on CPU cores or on GPUs.

`base` is the seam that imaging and execution are written against, `choice` finds the hardware of a run. `cpu` and `cuda` are
the two kinds of hardware. `psf_fit` and `cycle_rules` hold what they share.
"""
