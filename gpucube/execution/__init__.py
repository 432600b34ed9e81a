"""The workers of a run, where they run, and with how much memory.

* `plan` works out chunks, workers, memory and disk of a job before it begins; `machine` has the facts about this machine, and
  `tuning` the limits and times.
* `workers` is the protocol of workers and the choice among them: `threads` of this process, or `dask_workers`, which hand out
  chunks and retry those that fail. `dask_cluster` starts, watches and ends Dask's processes; `tasks` run in them.
* `progress` is the display of a run.
"""
