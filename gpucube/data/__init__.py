"""From MeasurementSets to channels: reading, selection, transposition, and the store.

* `measurementset` describes a MeasurementSet by its subtables, `rows` reads its main table.
* `selection` turns parameters into sources and the axes of the cube, with `channels` (start, width, nchan, overlapping
  windows) and `stokes` (which correlations make which Stokes parameter).
* `ingest` is step 1 of a run: it reads blocks of rows and puts them, by way of `transpose`, into the `store`.
* `store` hands out the samples of any plane. It lies in a folder that `scratch` makes, keeps and removes.
* `mask` reads the user's clean mask.
"""
