"""The sky: directions, image geometry, frequency frames and beams. Pure arithmetic, no files.

* `directions` and `geometry`: frames of the sky, the axes of uvw, and where each pixel lies.
* `frames`, `doppler`, `spectral_types`: frames of frequencies, the shifts between them, and velocities.
* `spectral` is the spectral axis of a cube, and `cube_axis` makes it from `start`, `width` and `nchan`.
* `beam`: Gaussian beams. `primary_beams` and `evla_beams`: how the antennas see the sky.
"""
