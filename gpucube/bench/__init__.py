"""`python -m gpucube.bench`: the throughput of a machine, and what limits it.

In: a workload, as data (`workloads`), or a user's MeasurementSet. Out: a table and JSON with the seconds and rates of every
stage of the main job, each beside a floor that was measured in the same run (`outcome`, `report`, `command`).

`stages` runs a workload (`scene`) through the INGEST and IMAGE of the main job and reads the seconds of the channel records.
`floors` measures what the machine can do at best.
"""
