"""The life of a plane: from its visibilities, through major and minor cycles, to its place in the cubes.

* `job` is the input of a worker, and the events that it reports.
* `chunk` is step 2 of a run: it takes a chunk of channels through a device. `plane` is one plane at work, with the products
  and the record that are left of it.
* `stopping` decides when a plane is clean and how deep its next minor cycle goes. It is pure arithmetic.
* `restore` makes restored images.
"""
