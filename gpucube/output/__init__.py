"""What a run writes: cubes, journal and summary.

* `paths` names all files of a run.
* `fits_header` describes the cubes, `fits_cube` creates them and puts every plane in its place.
* `records` describe what happened to each channel.
* `journal` keeps the records of channels that are safe on disk until the run has finished. It holds the run's lock.
* `fingerprint` collects everything that determines the bits of a cube. `resume` refuses if it has changed.
* `summary` is the last file of a run, written when everything else is safe.
"""
