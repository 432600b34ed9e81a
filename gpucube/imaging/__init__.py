"""The life of a plane: from its visibilities, through major and minor cycles, to its place in the cubes.

* `job` is the input of a worker, and the events that it reports.
* `chunk` is step 2 of a run: it images a chunk of channels on a device. `plane` is one plane during that time, and writes its
  products and its record.
* `stopping` decides when a plane has converged and how deep its next minor cycle goes. It is pure arithmetic.
* `weighting` makes the imaging weights that devices do not make, `automask` the automatic masks.
* `restore` makes restored images.
* `forecast` predicts beam and noise before a run, `remarks` finds what to warn of after it, and `warm_up` compiles the loops.
"""
