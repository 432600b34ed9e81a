"""Limits and times that change how a run is carried out, but not its result. Tests set them; users need not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ClusterLimits:
    """How long a run waits for a Dask cluster.

    Attributes
    ----------
    connect_seconds : float
        How long an existing scheduler may take to answer, and its first worker to come.
    start_seconds : float
        How long a local cluster may take to start.
    abandon_seconds : float
        How long an abandoned start may take to end.
    start_attempts : int
        How often a local cluster is started if a worker dies during the start.
    lost_worker_seconds : float
        A worker of a local cluster that has not come back by itself after this time is replaced.
    seconds_between_looks : float
        How often the workers are counted.
    seconds_without_workers : float
        How long a run continues while its local cluster has no worker and none can be started.
    close_seconds : float
        How long a cluster may take to end its workers.
    """

    connect_seconds: float = 20.0
    start_seconds: float = 180.0
    abandon_seconds: float = 10.0
    start_attempts: int = 3
    lost_worker_seconds: float = 60.0
    seconds_between_looks: float = 5.0
    seconds_without_workers: float = 300.0
    close_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a run is carried out.

    Attributes
    ----------
    in_process_seconds : float
        Jobs expected to take less than this run in threads of this process, because a cluster takes seconds to start.
    in_process_bytes : float
        With one GPU, this process also reads MeasurementSets smaller than this: several readers would take as long.
    seconds_between_syncs : float
        How often a worker brings finished planes to disk. A killed run loses at most the channels of this time.
    cluster : ClusterLimits
    """

    in_process_seconds: float = 120.0
    in_process_bytes: float = 10e9
    seconds_between_syncs: float = 5.0
    cluster: ClusterLimits = ClusterLimits()


DEFAULT_TUNING = Tuning()
