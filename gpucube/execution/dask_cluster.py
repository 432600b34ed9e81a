"""A Dask cluster, local or at an address: calls in, their values or exceptions out as they end.

This module is the only one that knows how Dask starts, watches and ends workers (`gpucube.execution.tasks` is what runs in
them). What it changes in this process (Dask's configuration, levels of loggers, the name of the main module) it restores
when the cluster is closed.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from importlib.machinery import ModuleSpec
from typing import Any

from gpucube.devices.base import DeviceKind
from gpucube.errors import GpucubeError
from gpucube.execution.machine import why_no_processes
from gpucube.execution.signals import ENDING, start_resource_tracker
from gpucube.execution.tuning import ClusterLimits

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function of `gpucube.execution.tasks`, and its arguments."""


class DaskCluster:
    """The scheduler and workers that a run uses; made by `start_cluster` or `connect`.

    Parameters
    ----------
    client : distributed.Client
    threads : int
        Threads of all its workers together.
    limits : ClusterLimits
    held : contextlib.ExitStack
        Undoes all changes when the cluster is closed.
    local : distributed.LocalCluster, optional
        The cluster behind the scheduler, if it was started here.
    workers : int
        Number of workers that the local cluster should have.
    """

    def __init__(
        self, client: Any, threads: int, limits: ClusterLimits, held: ExitStack, local: Any = None, workers: int = 0
    ) -> None:
        self._client, self._threads, self._limits, self._held = client, threads, limits, held
        self._local, self._wanted = local, workers
        self._looked, self._looks_in_vain = 0.0, 0

    def run(self, calls: Sequence[Call], window: int | None = None) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Submit a window of calls (by default two for each thread of a worker) and refill it as they end.

        All calls that wait on a worker fail if it dies, so few should wait.

        Yields
        ------
        arguments : tuple
            Of a call that has ended.
        outcome : object
            The value that it returned, or the exception that it raised.

        Raises
        ------
        GpucubeError
            A call returned one; the scheduler was lost; the local cluster cannot be given workers any more.
        """
        from distributed import as_completed

        queue = iter(calls)
        submitted: dict[Any, tuple[Any, ...]] = {}
        completed = as_completed(loop=self._client.loop)

        def submit_next() -> None:
            for function, arguments in queue:
                with _scheduler_there(self._client):
                    future = self._client.submit(function, *arguments, pure=False, retries=0)
                submitted[future] = arguments
                completed.add(future)
                return

        for _ in range(window or 2 * self._threads):
            submit_next()
        while not completed.is_empty():
            self._wait(completed)
            future = next(completed)
            yield submitted.pop(future), self._outcome(future)
            submit_next()

    def _outcome(self, future: Any) -> Any:
        """The value of a finished call, or its exception."""
        try:
            with _scheduler_there(self._client):
                value = future.result()
        except GpucubeError:
            raise
        except Exception as error:
            return error
        if isinstance(value, GpucubeError):
            raise value
        future.release()  # otherwise the call would be made again if its worker died
        return value

    def _wait(self, completed: Any) -> None:
        """Wait until a call ends, and replace lost workers meanwhile."""
        while True:
            if (now := time.monotonic()) - self._looked > self._limits.seconds_between_looks:
                self._looked = now
                self._look_for_workers()
            if completed.has_ready():
                return
            # what `next(completed)` does, which would not return to look for workers
            with completed.thread_condition:
                completed.thread_condition.wait(0.1)

    def _look_for_workers(self) -> None:
        """Replace the workers that a local cluster gave up because they did not come back in time, or died repeatedly.

        Raises
        ------
        GpucubeError
            The local cluster has had no worker for `ClusterLimits.seconds_without_workers`.
        """
        try:
            there = len(self._client.nthreads())
        except OSError:  # if the scheduler is lost, the calls say so
            return
        self._looks_in_vain = 0 if there else self._looks_in_vain + 1
        if self._local is None:
            if self._looks_in_vain == 2:  # not at once: they may be on their way back
                warnings.warn("the Dask scheduler has no workers any more: waiting for new ones", stacklevel=2)
            return
        if there < self._wanted:
            # Dask keeps a nanny that could not start its worker, and would not try again
            for name, nanny in list(self._local.workers.items()):
                if nanny.status.name in ("failed", "closed"):
                    self._local.workers.pop(name, None)
            self._local.scale(self._wanted)
        if self._looks_in_vain * self._limits.seconds_between_looks > self._limits.seconds_without_workers:
            raise GpucubeError(
                "all workers of the local Dask cluster died and no new ones can be started: run again with fewer `workers`"
            )

    @contextmanager
    def listening(self, topic: str, hear: Callable[[Any], None]) -> Iterator[None]:
        """While the context lasts, `hear` is called with every message that a worker logs under `topic`."""
        with _scheduler_there(self._client):
            self._client.subscribe_topic(topic, lambda event: hear(event[1]))
        yield
        with _scheduler_there(self._client):
            self._client.unsubscribe_topic(topic)

    def on_every_worker(self, function: Callable[..., Any]) -> list[Any]:
        """Call a function on each worker; returns the values. Its parameter ``dask_worker``, if it has one, is the worker.

        Workers that die meanwhile are left out. A `GpucubeError` of any is raised.
        """
        with _scheduler_there(self._client):
            found = list(self._client.run(function, on_error="return").values())
        for value in found:
            if isinstance(value, GpucubeError):
                raise value
        return [value for value in found if not isinstance(value, Exception)]

    def close(self) -> None:
        """Disconnect; stop the cluster if it was started here; restore what was changed in this process."""
        self._held.close()


def connect(address: str, limits: ClusterLimits) -> DaskCluster:
    """Connect to the cluster of an existing scheduler.

    Raises
    ------
    GpucubeError
        There is no scheduler, or it has no workers.
    """
    with ExitStack() as held:
        held.enter_context(_quiet_logs())
        client, threads = _open_client(address, address, limits, held)
        return DaskCluster(client, threads, limits, held.pop_all())


def start_cluster(workers: int, kind: DeviceKind, memory: int, limits: ClusterLimits) -> DaskCluster:
    """Start a local cluster: one worker process for each CPU core or GPU, with a thread for each lane of the device.

    Parameters
    ----------
    workers : int
    kind : DeviceKind
    memory : int
        Bytes that a worker may hold. A worker that takes more is killed, with its channel, before the machine runs out of memory.
    limits : ClusterLimits

    Raises
    ------
    GpucubeError
        The workers cannot be started.
    """
    if reason := why_no_processes():
        raise GpucubeError(f"the local Dask cluster cannot be started ({reason}): `workers=1` needs none")
    with ExitStack() as held:
        held.enter_context(_quiet_logs())
        held.enter_context(_local_configuration(limits))
        held.enter_context(_script_hidden())
        make = functools.partial(
            kind.cluster_factory(),
            n_workers=workers,
            threads_per_worker=kind.lanes,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            memory_limit=memory,
            silence_logs=logging.CRITICAL + 1,  # gpucube reports what goes wrong in its own lines
        )
        for attempt in range(1, limits.start_attempts + 1):
            try:
                local = _made_in_time(make, limits)
                held.callback(_close_in_time, local, limits)
                break
            except (RuntimeError, OSError) as error:  # a worker died while it started
                if attempt == limits.start_attempts:
                    raise GpucubeError(
                        f"the local Dask cluster cannot be started: {error}: `workers=1` needs none"
                    ) from None
        client, threads = _open_client(local, local.scheduler_address, limits, held)
        return DaskCluster(client, threads, limits, held.pop_all(), local, workers)


def _open_client(scheduler: Any, address: str, limits: ClusterLimits, held: ExitStack) -> tuple[Any, int]:
    """Connect to a scheduler, given by address or as a cluster; return the client and the number of its workers' threads.

    `held` closes the client.

    Raises
    ------
    GpucubeError
        There is no scheduler, or it has no workers.
    """
    from distributed import Client

    # A client that cannot connect is closed here, which its constructor does not allow for. Left to the garbage collector
    # it would close itself at any moment; if that is while another client starts in the same thread, both wait for one
    # lock for ever.
    client = Client.__new__(Client)
    held.callback(_close_in_time, client, limits)
    try:
        Client.__init__(client, scheduler, timeout=limits.connect_seconds, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise GpucubeError(f"no Dask scheduler answers at {address}: {str(error).splitlines()[0]}") from None
    try:
        with _scheduler_there(client):
            client.wait_for_workers(1, timeout=limits.connect_seconds)
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except TimeoutError:
        raise GpucubeError(
            f"the Dask scheduler at {address} has no workers: start some with 'dask worker {address}'"
        ) from None
    except (OSError, RuntimeError, ValueError):
        raise GpucubeError("the Dask scheduler was lost") from None
    return client, sum(worker["nthreads"] for worker in workers)


@contextmanager
def _scheduler_there(client: Any) -> Iterator[None]:
    """Report any error that is due to a lost scheduler as one line that says so.

    Raises
    ------
    GpucubeError
        The scheduler was lost.
    """
    try:
        yield
    except GpucubeError:
        raise
    except Exception as error:
        from distributed.comm.core import CommClosedError

        # a call may learn that its connection is gone before the client changes its status
        lost = isinstance(error, CommClosedError) or getattr(error, "reason", "") == "scheduler-connection-lost"
        if lost or client.status != "running":
            raise GpucubeError("the Dask scheduler was lost") from None
        raise


def _close_in_time(opened: Any, limits: ClusterLimits) -> None:
    """Close a client or a cluster. If it cannot be closed, it ends with this process: workers are its daemons."""
    # if a worker could not be started, the state of the cluster cannot be trusted
    with suppress(TimeoutError, AssertionError):
        opened.close(timeout=limits.close_seconds)


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Silence Dask's logs: gpucube reports in one line what ended a run, and details of broken connections do not help."""
    import distributed  # noqa: F401  importing it sets these levels

    names = ("distributed", "distributed.client", "distributed.core", "distributed.utils", "tornado.application")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _local_configuration(limits: ClusterLimits) -> Any:
    """Context manager of Dask's settings for a local cluster and for every worker that it starts."""
    import dask

    return dask.config.set(
        {
            "distributed.worker.daemon": True,
            # there is nothing to spill here, and a worker that pauses would never continue
            "distributed.worker.memory.target": False,
            "distributed.worker.memory.spill": False,
            "distributed.worker.memory.pause": False,
            "distributed.worker.memory.terminate": 1.0,
            "distributed.deploy.lost-worker-timeout": f"{limits.lost_worker_seconds} s",
            # events are handled once; Dask's log of the last thousand would keep all their records in memory
            "distributed.admin.low-level-log-length": 10,
        }
    )


def _made_in_time(make: Callable[[], Any], limits: ClusterLimits) -> Any:
    """Call `make` in a thread of its own, which starts workers. Signals are handled meanwhile, and a start that hangs is
    given up.

    A terminal sends its signals to every process. Workers inherit the signal mask of the thread that starts them, which has
    it from this thread, so neither they nor their replacements receive what the main process is to act on. Dask needs
    SIGTERM to end them.
    """
    made: Future[Any] = Future()
    before = set(multiprocessing.active_children())

    def work() -> None:
        start_resource_tracker()  # which unblocks SIGINT in its thread
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING} - {signal.SIGTERM})
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=work, name="starting workers", daemon=True).start()
    try:
        return made.result(limits.start_seconds)
    except BaseException as ending:
        if made.done() and made.exception() is ending:
            raise
        try:  # interrupted, or too slow: let the start come to its end, so that it can be undone
            with suppress(Exception):
                _close_in_time(made.result(limits.abandon_seconds), limits)
        finally:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
        if isinstance(ending, TimeoutError):
            raise GpucubeError(
                f"the local Dask cluster did not start within {limits.start_seconds:.0f} s: `workers=1` needs none"
            ) from None
        raise


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep new processes from running the user's script again, which would need a `__main__` guard.

    A process that is spawned imports the main module of its parent, unless that is a ``__main__`` of a package.
    """
    script = sys.modules["__main__"]
    before = script.__spec__
    script.__spec__ = ModuleSpec("gpucube.__main__", None)
    try:
        yield
    finally:
        script.__spec__ = before
