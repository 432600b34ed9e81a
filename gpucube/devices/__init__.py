"""What computes: gridding, imaging weights, PSFs, minor and major cycles, restoring, on CPU cores or on GPUs.

`base` is the interface that imaging and execution are written against, and `choice` finds the hardware of a run. `cpu` and
`cuda` are the two kinds of hardware. They share `psf_fit`, `cycle_rules` and `scales`.
"""
