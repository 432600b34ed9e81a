"""Who does the work: threads of this process, or Dask workers.

In: spans of rows to ingest, chunks of channels to image. Out: their reports, as they come. Small jobs run in threads
(gridding, FFTs and compiled loops hold no interpreter lock), where starting a cluster would dominate; larger ones on a
local cluster of single-threaded processes, or on an existing scheduler. Chunks are handed out one or two to a worker and
refilled as they finish, so that a worker that dies takes few with it; what it took is split until the one channel that
kills is alone, and that one is given up.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from typing import Any

from gpucube.data.ingest import BlockReport, IngestJob, ingest_rows
from gpucube.devices.base import Device, DeviceKind, ImagingSettings
from gpucube.devices.choice import Devices, SeenGpus, gpus_here
from gpucube.devices.cpu.kind import CpuKind
from gpucube.errors import DeviceLost, GpucubeError
from gpucube.execution.workers import resident_peak
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.imaging.loop import fail_channel, image_chunk
from gpucube.imaging.restore import restore_chunk
from gpucube.output.records import ChannelRecord
from gpucube.sky.beam import Beam

CONNECT_SECONDS = 20
"""How long an existing scheduler may take to answer, and its first worker to come."""

ATTEMPTS = 3
"""How often a cluster is started when a worker dies meanwhile."""

LOST_WORKER_SECONDS = 60
"""A worker of a local cluster that has not come back by itself after this time is replaced."""

SECONDS_BETWEEN_LOOKS = 5.0
"""How often the workers are counted."""

SECONDS_WITHOUT_WORKERS = 300.0
"""How long a run goes on though its local cluster has no worker, and none can be started."""

SECONDS_TO_CLOSE = 60
"""How long a cluster may take to end its workers."""

TOPIC = "gpucube"
"""Dask topic on which workers tell which channel they have begun or finished."""


class DaskWorkers:
    """Workers of a Dask cluster, made here or found at an address.

    Parameters
    ----------
    workers : int
        Of the local cluster.
    kind : DeviceKind
    address : str
        Of an existing scheduler; empty to start a local cluster.
    memory : int
        Bytes that a worker of the local cluster may hold: one that takes more is ended, and its channel with it, before
        the machine runs out.

    Raises
    ------
    GpucubeError
        No scheduler there, or it has no workers.
    """

    def __init__(self, workers: int, kind: DeviceKind, address: str = "", memory: int = 0):
        self._kind, self._wanted = kind, workers
        self._looked, self._looks_in_vain = 0.0, 0
        self._peaks: dict[str, int] = {}
        self._device_peak = 0
        self._cluster = self._client = None
        try:
            self._start(workers, address, memory)
        except BaseException:
            self.close()
            raise

    def _start(self, workers: int, address: str, memory: int) -> None:
        import dask
        import distributed  # noqa: F401  importing sets the levels that are set here

        # what ends a run is told in one line; how a connection broke is of no use beside it
        for name in (
            "distributed",
            "distributed.client",
            "distributed.core",
            "distributed.utils",
            "tornado.application",
        ):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if not address:
            # nothing here can be spilled, and a worker that pauses would never go on
            dask.config.set(
                {
                    "distributed.worker.daemon": True,
                    "distributed.worker.memory.target": False,
                    "distributed.worker.memory.spill": False,
                    "distributed.worker.memory.pause": False,
                    "distributed.worker.memory.terminate": 1.0,
                    "distributed.deploy.lost-worker-timeout": f"{LOST_WORKER_SECONDS} s",
                    # what was told is not told twice: the last thousand events would hold every record they brought
                    "distributed.admin.low-level-log-length": 10,
                }
            )
            for attempt in range(ATTEMPTS):
                try:
                    with _deaf_to_ctrl_c():
                        self._cluster = _local_cluster(workers, self._kind, memory)
                    break
                except RuntimeError as error:  # a worker died while it started
                    if attempt == ATTEMPTS - 1:
                        raise GpucubeError(f"the local Dask cluster cannot be started: {error}") from None
        try:
            self._client = _client(address or self._cluster)
        except (OSError, ValueError, TimeoutError) as error:
            raise GpucubeError(f"no Dask scheduler answers at {address}: {str(error).splitlines()[0]}") from None
        try:
            with self._connected():
                self._client.wait_for_workers(1, timeout=CONNECT_SECONDS)
                workers_there = self._client.scheduler_info(n_workers=-1)["workers"].values()
                self._threads = sum(worker["nthreads"] for worker in workers_there)
        except TimeoutError:
            raise GpucubeError(
                f"the Dask scheduler at {address} has no workers: start some with 'dask worker {address}'"
            ) from None
        except (OSError, RuntimeError, ValueError):
            raise GpucubeError("the Dask scheduler was lost") from None

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterator[BlockReport]:
        """Each worker opens the MeasurementSet itself and writes its rows into the shared store."""
        # a task that outlives the run on somebody's scheduler must not write into a store made since, or sorted since
        links = {
            folder: os.path.join(folder, f"reading-{secrets.token_hex(8)}")
            for folder in {j.partition.folder for j in jobs}
        }
        for link in links.values():
            os.symlink(os.curdir, link)
        # each task takes its own rows' description along: what is scattered is lost with the workers that held it
        calls = [(_ingest_task, (job.through(links[job.partition.folder]),)) for job in jobs]
        try:
            for future, _ in self._run(calls):
                try:
                    reports, peak = self._outcome(future)
                except GpucubeError:
                    raise
                except Exception as error:
                    raise GpucubeError(f"a worker failed while reading: {_words(error)}") from None
                self._note(peak)
                yield from reports
        finally:
            for link in links.values():
                with suppress(FileNotFoundError):
                    os.unlink(link)

    def image(
        self, job: ImageJob, chunks: Sequence[Sequence[int]], events: Events = NO_EVENTS
    ) -> Iterator[list[ChannelRecord]]:
        """Chunks in order, a few at a time; what fails is split until the channel to blame is alone."""

        def told(event: tuple[float, Any]) -> None:
            name, what = event[1]
            # what cannot be noted now is noted with its chunk, where the error reaches the user
            with suppress(GpucubeError):
                if name == "started":
                    events.started(what)
                elif name == "finished":
                    events.finished(_record(what))
                else:
                    events.safe([_record(r) for r in what])

        with self._connected():
            self._client.subscribe_topic(TOPIC, told)
        pending, suspects = [(i, list(c)) for i, c in enumerate(chunks)], []
        while pending:
            again = []
            for index, channels, outcome in self._chunks(job, pending):
                if not isinstance(outcome, Exception):
                    yield outcome
                elif not job.store.exists():
                    raise GpucubeError(f"the visibility store in {job.store.folder} was damaged while in use")
                elif len(channels) > 1:
                    half = len(channels) // 2
                    again += [(index, channels[:half]), (index, channels[half:])]
                else:
                    suspects.append((index, channels))
            pending = again
        # what waited on a worker that died is blamed with the one that killed it: a last try with nothing beside it
        for _, channels, outcome in self._chunks(job, suspects, window=1):
            if isinstance(outcome, Exception):
                outcome = [fail_channel(job, channels[0], _words(outcome))]
                events.finished(outcome[0])
            yield outcome
        with self._connected():
            self._client.unsubscribe_topic(TOPIC)

    def _chunks(
        self, job: ImageJob, chunks: Sequence[tuple[int, list[int]]], window: int | None = None
    ) -> Iterator[tuple[int, list[int], list[ChannelRecord] | Exception]]:
        """Index and channels of every chunk as it ends, with its records or what went wrong."""
        # the job travels with each task: what is scattered is lost with the last worker that held it
        calls = [(_image_task, (job, index, channels, self._kind)) for index, channels in chunks]
        for future, (_, index, channels, _) in self._run(calls, window):
            try:
                records, peak = self._outcome(future)
            except GpucubeError:
                raise
            except Exception as error:
                yield index, channels, error
            else:
                # else it would be made again if its worker died
                future.release()
                self._note(peak)
                yield index, channels, records

    def restore(self, job: ImageJob, target: Beam, fitted: dict, chunks: Sequence[Sequence[int]]) -> None:
        """As `image`, without splitting."""
        calls = [(_restore_task, (job, target, fitted, list(c), self._kind)) for c in chunks]
        for future, _ in self._run(calls):
            try:
                self._outcome(future)
            except GpucubeError:
                raise
            except Exception as error:
                raise GpucubeError(f"a worker failed while restoring: {_words(error)}") from None

    def _outcome(self, future: Any) -> Any:
        """Result of a finished task, or what went wrong with it; what goes wrong without a scheduler is not its fault."""
        with self._connected():
            result = future.result()
        if isinstance(result, GpucubeError):
            raise result
        return result

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            lost = self._client.status != "running" or getattr(error, "reason", "") == "scheduler-connection-lost"
            if lost and not isinstance(error, GpucubeError):
                raise GpucubeError("the Dask scheduler was lost") from None
            raise

    def _run(self, calls: Sequence[tuple[Callable, tuple]], window: int | None = None) -> Iterator[tuple[Any, tuple]]:
        """Submit a window of tasks (by default two for each thread of a worker) and refill it.

        Yields finished futures with their arguments.
        """
        from distributed import as_completed

        queue = iter(calls)
        arguments: dict[Any, tuple] = {}
        completed = as_completed(loop=self._client.loop)

        def submit() -> None:
            for function, given in queue:
                with self._connected():
                    future = self._client.submit(function, *given, pure=False, retries=0)
                arguments[future] = given
                completed.add(future)
                return

        for _ in range(window or 2 * self._threads):
            submit()
        while not completed.is_empty():
            self._wait(completed)
            future = next(completed)
            yield future, arguments.pop(future)
            submit()

    def _wait(self, completed: Any) -> None:
        """Until a task ends."""
        while True:
            if (now := time.monotonic()) - self._looked > SECONDS_BETWEEN_LOOKS:
                self._looked = now
                self._look_for_workers()
            if completed.has_ready():
                return
            with completed.thread_condition:
                completed.thread_condition.wait(0.1)

    def _look_for_workers(self) -> None:
        """Replace what a local cluster gave up, because it did not come back in time or died again and again.

        Raises
        ------
        GpucubeError
            The local cluster has had no worker for `SECONDS_WITHOUT_WORKERS`.
        """
        try:
            there = len(self._client.nthreads())
        except OSError:  # if the scheduler is lost, the tasks will tell
            return
        self._looks_in_vain = 0 if there else self._looks_in_vain + 1
        if self._cluster is None:
            if self._looks_in_vain == 2:  # not at once: they may be on their way back
                warnings.warn("the Dask scheduler has no workers any more: waiting for new ones", stacklevel=2)
            return
        if there < self._wanted:
            # Dask keeps a nanny that could not start its worker, and would not try again
            for name, nanny in list(self._cluster.workers.items()):
                if nanny.status.name in ("failed", "closed"):
                    self._cluster.workers.pop(name, None)
            self._cluster.scale(self._wanted)
        if self._looks_in_vain * SECONDS_BETWEEN_LOOKS > SECONDS_WITHOUT_WORKERS:
            raise GpucubeError("all workers of the local Dask cluster died, and no new ones can be started")

    def _note(self, peak: _Memory) -> None:
        self._peaks[peak.process] = max(peak.host, self._peaks.get(peak.process, 0))
        self._device_peak = max(peak.device, self._device_peak)

    def memory_peak(self) -> int:
        """Of this process and all workers, each at its own worst moment."""
        return resident_peak() + sum(self._peaks.values())

    def device_memory_peak(self) -> int:
        """Of the worker that held most."""
        return self._device_peak

    def everywhere(self, function: Callable[[], Any]) -> list[Any]:
        """What a function says on each worker."""
        with self._connected():
            return list(self._client.run(function).values())

    def close(self) -> None:
        """Disconnect; stop the cluster if it was started here."""
        with ExitStack() as ending:  # the cluster is stopped even if the client fails
            for held in (self._cluster, self._client):
                if held is not None:
                    ending.callback(_close_in_time, held)


def _client(scheduler: Any) -> Any:
    """Client of a scheduler's address, or of a cluster.

    One that cannot connect is closed here. Left to the garbage collector it would close itself at any moment, and if that
    is while another client starts in the same thread, both wait for one lock for ever.
    """
    from distributed import Client

    client = Client.__new__(Client)  # the constructor does not hand over what has failed
    try:
        client.__init__(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except BaseException:
        _close_in_time(client)
        raise
    return client


def _close_in_time(held: Any) -> None:
    """Close a client or a cluster. What cannot be closed ends with this process: workers are its daemons."""
    # a cluster in which a worker could not be started does not believe its own state
    with suppress(TimeoutError, AssertionError):
        held.close(timeout=SECONDS_TO_CLOSE)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """While a cluster starts: Ctrl-C takes effect when it has started and can be closed, and its workers never hear of it.

    A terminal sends the signal to every process. Workers inherit the mask of the thread that starts them, which has it from
    this one, and so do those that are started later in the place of dead ones.
    """
    # the first process to be started would start this, too, which unblocks the signal in its thread
    resource_tracker.ensure_running()
    came: list[int] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                handlers[number] = signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _local_cluster(workers: int, kind: DeviceKind, memory: int) -> Any:
    """One process for each core or GPU, with a thread for each lane."""
    return kind.cluster_factory()(
        n_workers=workers,
        threads_per_worker=kind.lanes,
        dashboard_address="127.0.0.1:0",
        host="127.0.0.1",
        memory_limit=memory,
        # what goes wrong in a cluster of our own is told in our own lines
        silence_logs=logging.CRITICAL + 1,
    )


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _ToTopic:
    """`Events` sent from a worker to the main process as messages of Dask, which hold plain types only."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def started(self, channel: int) -> None:
        self._worker.log_event(TOPIC, ("started", channel))

    def finished(self, record: ChannelRecord) -> None:
        self._worker.log_event(TOPIC, ("finished", record.as_dict()))

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        self._worker.log_event(TOPIC, ("safe", [r.as_dict() for r in records]))


def _record(plain: dict[str, Any]) -> ChannelRecord:
    return ChannelRecord(**_interned(plain))


def _interned(value: Any) -> Any:
    """Dask makes every word of a message anew, which thousands of records would hold thousands of times."""
    if isinstance(value, dict):
        return {sys.intern(k): _interned(v) for k, v in value.items()}
    return sys.intern(value) if isinstance(value, str) else value


@dataclass(frozen=True)
class _Memory:
    """Most bytes that a process has held so far, on the host and on its device."""

    process: str
    host: int
    device: int


def _process(kind: DeviceKind) -> _Memory:
    return _Memory(f"{os.uname().nodename}:{os.getpid()}", resident_peak(), kind.memory_peak())


def _told(task: Callable) -> Callable:
    """What the user is to read comes back as a value: raised, the worker would log it with a traceback."""

    @functools.wraps(task)
    def wrapped(*arguments: Any) -> Any:
        try:
            return task(*arguments)
        except DeviceLost:
            # its nanny starts a new process, which can use the device again; the task is then anybody's
            os._exit(1)
        except GpucubeError as error:
            return error

    return wrapped


@_told
def _ingest_task(job: IngestJob) -> tuple[list[BlockReport], _Memory]:
    return list(ingest_rows(job)), _process(CpuKind())


@_told
def _image_task(
    job: ImageJob, index: int, channels: Sequence[int], kind: DeviceKind
) -> tuple[list[ChannelRecord], _Memory]:
    from distributed import get_worker

    worker = get_worker()
    with _lent(worker, kind, job.settings) as device:
        records = image_chunk(job, device, channels, chunk=index, worker=str(worker.name), events=_ToTopic(worker))
    return records, _process(kind)


@_told
def _restore_task(job: ImageJob, target: Beam, fitted: dict, channels: Sequence[int], kind: DeviceKind) -> None:
    from distributed import get_worker

    with _lent(get_worker(), kind, job.settings) as device:
        restore_chunk(job, device, target, fitted, channels)


_lock = threading.Lock()


def _lent(worker: Any, kind: DeviceKind, settings: ImagingSettings) -> AbstractContextManager[Device[Any]]:
    """The device of the calling thread, which the worker keeps from task to task."""
    with _lock:
        made_for, devices = getattr(worker, "gpucube_devices", (None, None))
        if devices is None or made_for != kind:
            kind.working().__enter__()  # for as long as this process lives
            devices = Devices(kind, worker.state.nthreads)
            worker.gpucube_devices = kind, devices
    return devices.lend(settings)


class GpuWorkers:
    """Processes on all cores that read, then a worker for each GPU: reading is bound by cores, not by GPUs."""

    def __init__(self, readers: int, gpus: int, kind: DeviceKind, memory: int):
        kind.cluster_factory()  # what is missing is noticed before anything is read
        self._gpus, self._kind, self._memory = gpus, kind, memory
        self._at_work = DaskWorkers(readers, CpuKind(), memory=memory)
        self._read = False
        self._peak = 0

    def ingest(self, jobs: Sequence[IngestJob]) -> Iterable[BlockReport]:
        """By the processes that read."""
        return self._at_work.ingest(jobs)

    def _on_gpus(self) -> DaskWorkers:
        if not self._read:
            self._peak, self._read = self._at_work.memory_peak(), True
            self._at_work.close()
            self._at_work = DaskWorkers(self._gpus, self._kind, memory=self._memory)
        return self._at_work

    def image(
        self, job: ImageJob, chunks: Sequence[Sequence[int]], events: Events = NO_EVENTS
    ) -> Iterator[list[ChannelRecord]]:
        """By the workers of the GPUs."""
        return self._on_gpus().image(job, chunks, events)

    def restore(self, job: ImageJob, target: Beam, fitted: dict, chunks: Sequence[Sequence[int]]) -> None:
        """By the workers of the GPUs."""
        self._on_gpus().restore(job, target, fitted, chunks)

    def memory_peak(self) -> int:
        """Of the readers or of the workers that came after them."""
        return max(self._peak, self._at_work.memory_peak())

    def device_memory_peak(self) -> int:
        """Of the worker that held most."""
        return self._at_work.device_memory_peak()

    def close(self) -> None:
        """As `DaskWorkers`."""
        self._at_work.close()


def gpus_of_workers(address: str) -> list[SeenGpus]:
    """The GPU of every worker of an existing scheduler: each uses the first that it sees.

    Raises
    ------
    GpucubeError
        No scheduler there, or it has no workers.
    """
    workers = DaskWorkers(0, CpuKind(), address)
    try:
        return [replace(seen, count=min(seen.count, 1)) for seen in workers.everywhere(gpus_here)]
    finally:
        workers.close()
