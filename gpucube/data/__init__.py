"""From MeasurementSets to channels: selection, reading, and the visibility store.

What is imaged:

* `measurementset` reads the subtables; `fields`, `observation` and `pointing` say where the phase centre is, who observed
  when, and where the antennas point.
* `msselect` understands CASA's selection syntax. `selection` turns parameters into a `Selection`: the rows and channels to
  read, and the axes of the cube.
* `channels` and `placing` map channels of the data onto channels of the cube. `stokes` maps correlations onto Stokes
  parameters, `continuum_channels` finds the channels that the continuum is fitted to.
* `comparison` and `frame_motion` warn of data that do not fit together.

From rows to channels, step 1 of a run:

* `ingest` sends blocks of rows through `rows` (read), `continuum` (subtract), `transpose` (Stokes, channel-major) and
  `regrid` (interpolate) into the `store`, which returns the samples of any plane. The store lies in a folder of `scratch`.
* `recipe` tells whether a store that was kept has what a later run wants; `copying` takes some of its channels.

Images that the user gives:

* `clean_mask` combines the parts of `mask`: `mask_image` and `regions`. `start_model` reads `startmodel`. `user_image` and
  `casa_image` read these images and place their planes, and `sky_grid` finds their pixels on the sky.

`line_search` proposes line-free channels for `gpucube plan`.
"""
