"""The sky: image geometry, directions, beams, and the spectral axis with its frames. Pure arithmetic, no files."""
