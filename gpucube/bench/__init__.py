"""`python -m gpucube.bench`: what throughput a machine gives, and what limits it.

In: a workload, as data (`workloads`), or a user's MeasurementSet. Out: a table and JSON with, for every stage of the main
job, seconds, rates and the floor measured in the same run. `stages` runs a workload through the same INGEST and IMAGE as
the main job and reads the seconds of its records; `floors` measures what the machine could do at best; `report` puts both
side by side; `command` is the command line.
"""
