"""The workers of a run, where they run, and with how much memory.

* `plan` works out chunks, workers, memory and disk of a job before it begins. `machine` finds the limits of this machine,
  `memory` adds up what a run takes, and `tuning` has the limits and times that tests change.
* `workers` is the protocol of workers and the choice among them: `threads` of this process, or `dask_workers`, which hand out
  chunks and repeat those that fail. `dask_cluster` starts, watches and ends Dask's processes; `tasks` run in them.
* `progress` is the display of a run. `signals` turns the signals of batch systems into interrupts.
"""
