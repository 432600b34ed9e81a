"""Run a workload through INGEST and IMAGE, and find the time of each stage.

In: a workload, or a MeasurementSet. Out: an `Outcome` with the seconds, the work and the floor of every stage. IMAGE runs as
in the main job (`ThreadWorkers`, `image_chunk`, a device), and its stages are the `seconds` of the channel records. If several
workers do a stage side by side, its seconds are divided by their number, so all stages add up to the wall time. INGEST is
measured on a MeasurementSet with the same channels and some of the rows, and scaled to all rows.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gpucube import streams
from gpucube.bench import floors
from gpucube.bench.machine import DISTURBED, watch_others
from gpucube.bench.outcome import IMAGE_STAGES, INGEST_STAGES, RECORD_STAGES, STAGES, Floor, Outcome, Stage
from gpucube.bench.scene import Scene, make_store, remove_cubes, scene_of
from gpucube.bench.workloads import Workload, expected_seconds, fitted_to_machine
from gpucube.data.ingest import Ingest
from gpucube.data.selection import Selection, select
from gpucube.data.store import VisibilityStore
from gpucube.devices.base import DeviceKind
from gpucube.errors import GpucubeError
from gpucube.execution.machine import resident_peak
from gpucube.execution.plan import chunk_size
from gpucube.execution.threads import ThreadWorkers
from gpucube.imaging.job import ImageJob
from gpucube.output.fits_cube import sync
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.schema.parameters import make_parameters
from gpucube.simulate import simulate_ms

SAMPLE_BYTES = 48e6
"""Size of DATA in the MeasurementSet that reading is measured on."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """How to measure. INGEST or IMAGE is left out if `stages` names none of its stages, and so are floors if they are not
    wanted. `repeat` runs are timed, and imaging all channels once may take `seconds`."""

    kind: DeviceKind
    workers: int
    chunksize: int | str = "auto"
    repeat: int = 3
    stages: tuple[str, ...] = STAGES
    seconds: float = 20.0
    floors: bool = True

    def wants(self, stages: Sequence[str]) -> bool:
        """Tell whether any of these stages is wanted."""
        return not set(self.stages).isdisjoint(stages)


def say(text: str) -> None:
    """Print a line about progress on standard error."""
    streams.tell(f"gpucube.bench: {text}")


def run_workload(workload: Workload, request: Request) -> Outcome:
    """Measure a workload."""
    with tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name:
        folder = Path(name)
        workload, workers, notes = fitted_to_machine(workload, request.workers, request.seconds, folder)
        for note in notes:
            say(f"{workload.name}: {note}")
        request = replace(request, workers=workers)
        bandwidth = floors.copy_bandwidth(workers)
        definition = workload.model_dump() | {"rows": workload.rows}
        outcome = Outcome(definition=definition, notes=notes, device=request.kind.name, workers=workers)
        if request.wants(INGEST_STAGES):
            say(f"{workload.name}: reading")
            # as many integrations as fit; two hands take 16 bytes
            fitting = int(SAMPLE_BYTES / (workload.rows / workload.integrations * workload.channels * 16))
            integrations = max(1, min(workload.integrations, fitting))
            made = simulate_ms(workload.simulation(folder / "sample.ms", integrations))
            share = integrations / workload.integrations
            store, walls, stages = measure_ingest(selected(str(made.ms), folder), request, folder, bandwidth)
            shutil.rmtree(store.folder)
            outcome.add(walls, stages, 1 / share)
            if share < 1:
                notes.append(f"read and transpose: measured on {share:.1%} of the rows and scaled to all of them")
        if request.wants(IMAGE_STAGES):
            say(f"{workload.name}: making {workload.channels} channels of {workload.rows} rows")
            store = make_store(workload, str(folder / "store"))
            measure_image(outcome, scene_of(workload, store), request, folder, bandwidth)
        return outcome


def run_ms(ms: str, workload: Workload, request: Request) -> Outcome:
    """Measure a user's MeasurementSet, imaged as the workload is: its image size, weighting and iteration control.

    A pixel is a third of the resolution. If it would take too long to image all channels, evenly spaced ones stand for
    all, and the seconds of INGEST count in proportion.
    """
    with tempfile.TemporaryDirectory(prefix="gpucube-bench-") as name:
        folder = Path(name)
        bandwidth = floors.copy_bandwidth(request.workers)
        say(f"{ms}: reading")
        selection = selected(ms, folder)
        store, walls, stages = measure_ingest(selection, request, folder, bandwidth)
        longest, _ = store.max_uvw_wavelengths()
        like = workload.changed(
            name=Path(ms).name,
            description=f"imaged as {workload.name}",
            cell=float(np.rad2deg(1.0 / (3.0 * longest)) * 3600.0),
            channels=selection.axis.nchan,
        )
        rows = sum(p.nrow for p in store.partitions)
        expected = expected_seconds(like, request.workers) * max(1.0, rows / like.rows)
        channels = range(0, like.channels, max(1, math.ceil(expected / request.seconds)))
        definition = like.model_dump() | {"ms": ms, "rows": rows, "imaged": len(channels)}
        outcome = Outcome(definition=definition, device=request.kind.name, workers=request.workers)
        outcome.add(walls, stages, len(channels) / like.channels)
        if len(channels) < like.channels:
            outcome.notes.append(f"{len(channels)} of {like.channels} channels imaged: {request.seconds:.0f} s a run")
        if request.wants(IMAGE_STAGES):
            geometry = replace(like.geometry, centre=selection.geometry.centre)
            scene = scene_of(like, store, selection.axis, channels, geometry=geometry)
            measure_image(outcome, scene, request, folder, bandwidth)
        return outcome


def selected(ms: str, folder: Path) -> Selection:
    """Select all data of a MeasurementSet."""
    return select(make_parameters(vis=ms, imagename=str(folder / "cube"), imsize=64, cell="1arcsec"))


def measure_ingest(
    selection: Selection, request: Request, folder: Path, bandwidth: float
) -> tuple[VisibilityStore, list[float], dict[str, Stage]]:
    """Time INGEST as a whole, and reading alone. The time beyond reading alone is counted as transposing.

    Return the last store, which is still there, the wall seconds of each repeat and the stages.
    """
    walls, reads = [], []
    for k in range(1 + request.repeat):  # the first one compiles
        begin = time.perf_counter()
        ingest = Ingest(selection, str(folder / f"ingested{k}"))
        store = ingest.finish(ThreadWorkers(request.workers, request.kind).ingest(ingest.jobs))
        ingested = time.perf_counter()
        for source in selection.sources:
            reader = source.open()
            for first in range(0, source.nrow, source.block_rows):
                reader.read(first, min(source.block_rows, source.nrow - first))
            reader.close()
        walls.append(ingested - begin)
        reads.append(min(walls[-1], time.perf_counter() - ingested))
        if k < request.repeat:
            shutil.rmtree(store.folder)
    walls, reads = walls[1:], reads[1:]
    limit = sum(
        floors.casacore_read(s.path, ["UVW", s.column, "FLAG", s.weight], s.nrow, s.block_rows)
        for s in selection.sources
    )
    nbytes = store.ms_bytes_read
    reading = Floor(work=nbytes, unit="B", nbytes=nbytes, seconds=limit, name="casacore getcolnp", kind="casacore")
    samples, moved = float(store.selected.sum()), nbytes + 2 * store.nbytes()
    copying = Floor(
        work=samples, unit="vis", nbytes=moved, seconds=moved / bandwidth, name="memory copy", kind="memory"
    )
    transposing = [wall - read for wall, read in zip(walls, reads, strict=True)]
    return store, walls, {"read": Stage(reads, reading), "transpose": Stage(transposing, copying)}


class _DiskClock:
    """`Events` that measure how long each worker waits for the disk: from its last channel to "safe".

    Each worker calls from its own thread, so the name of the thread identifies it.
    """

    def __init__(self) -> None:
        self.last: dict[str, float] = {}  # when each worker was last heard of
        self.synced: dict[str, float] = defaultdict(float)  # seconds

    def started(self, channel: int) -> None:
        self.last[threading.current_thread().name] = time.perf_counter()

    def finished(self, record: ChannelRecord) -> None:
        self.started(record.channel)

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        worker, now = threading.current_thread().name, time.perf_counter()
        self.synced[worker] += now - self.last.get(worker, now)
        self.last[worker] = now


@dataclass(frozen=True)
class ImageRun:
    """One run of IMAGE: wall seconds, seconds by stage (over the number of workers), records, and the share of the machine
    that other programs used."""

    wall: float
    seconds: dict[str, float]
    records: list[ChannelRecord]
    others: float


def image_once(job: ImageJob, kind: DeviceKind, workers: int, chunks: Sequence[Sequence[int]]) -> ImageRun:
    """Run IMAGE once."""
    clock, others = _DiskClock(), watch_others()
    begin = time.perf_counter()
    batches = ThreadWorkers(workers, kind).image(job, chunks, clock)
    records = [record for batch in batches for record in batch]
    imaged = time.perf_counter()
    failed = [r for r in records if r.stop_code == StopCode.FAILED]
    if failed:
        raise GpucubeError(f"channel {failed[0].channel} of the workload failed: {failed[0].message}")
    for cube in job.cubes.values():
        sync(cube)
    end = time.perf_counter()
    seconds = {name: sum(r.seconds.get(name, 0.0) for r in records) / workers for name in RECORD_STAGES}
    waited = sum(imaged - at for at in clock.last.values()) + (workers - len(clock.last)) * (imaged - begin)
    seconds |= {"sync": end - imaged + sum(clock.synced.values()) / workers, "idle": waited / workers}
    return ImageRun(end - begin, seconds, records, others())


def measure_image(outcome: Outcome, scene: Scene, request: Request, folder: Path, bandwidth: float) -> None:
    """Time IMAGE and its floors, and fill the outcome.

    A run that other programs disturbed is repeated once, if there is time.
    """
    name, workers, nchan = outcome.definition["name"], outcome.workers, len(scene.channels)
    outcome.chunksize = chunk_size(request.chunksize, nchan, workers, nchan)
    chunks = scene.chunks(outcome.chunksize)
    job = scene.with_cubes(str(folder / "watched"))
    cycles = floors.watch(job, request.kind, scene.hardest, workers)  # which also compiles
    remove_cubes(job)
    say(f"{name}: imaging {nchan} channels, {request.repeat} times")
    runs: list[ImageRun] = []
    until, longest = time.perf_counter() + request.repeat * request.seconds, 0.0
    while len(runs) < request.repeat or (
        len(runs) < 2 * request.repeat
        and sum(run.others <= DISTURBED for run in runs) < request.repeat
        and time.perf_counter() + longest < until
    ):
        job = scene.with_cubes(str(folder / f"run{len(runs)}"))
        runs.append(image_once(job, request.kind, workers, chunks))
        longest = max(longest, runs[-1].wall)
        remove_cubes(job)
    outcome.records, outcome.memory_peak = runs[-1].records, resident_peak()
    runs = sorted(runs, key=lambda run: run.others)[: request.repeat]
    outcome.others = [run.others for run in runs]
    stages = {stage: Stage([run.seconds[stage] for run in runs]) for stage in IMAGE_STAGES}
    if request.floors:
        say(f"{name}: floors")
        seconds = {name: stage.median for name, stage in stages.items()}
        found = floors.image_floors(scene, outcome.records, seconds, cycles, workers, folder, bandwidth)
        stages |= {stage: replace(stages[stage], floor=floor) for stage, floor in found.items()}
    outcome.add([run.wall for run in runs], stages)
