"""Step 2, IMAGE: a chunk of channels from visibilities to planes on disk, every channel on its own schedule.

In: an `ImageJob` (store, settings, cubes) and the channels of one chunk. Out: one `ChannelRecord` per channel; its planes
go straight into the cubes. The loop is the major/minor scheme of Schwab 1984 (AJ 89, 1076): minor cycles on an
approximate residual, then the exact one; a plane is judged on exact residuals only. A device works on up to `device.batch`
planes at once; a channel that has converged gives its place to the next, so that a chunk costs the sum of what its
channels need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpucube.devices.base import Device
from gpucube.errors import GpucubeError
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.imaging.restore import restored
from gpucube.imaging.stopping import Action, LoopState, after_cycle, next_cycle, observe, stop_level
from gpucube.output.fits_cube import sync
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.sky.beam import Beam, beam_to_record


@dataclass
class _ActivePlane:
    """One plane at work: its device-side `data` and how far it has come."""

    channel: int
    stokes: int
    data: Any
    state: LoopState = field(default_factory=LoopState)
    beam: Beam | None = None
    sidelobe: float = 0.0
    model_flux: float = 0.0
    checksums: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


_BLANK = (StopCode.NO_DATA, StopCode.FAILED)
"""Planes that stop so are NaN in every image product."""

SECONDS_BETWEEN_SYNCS = 5.0
"""A killed run loses at most the channels that finished in this time."""


def image_chunk(
    job: ImageJob,
    device: Device,
    channels: Sequence[int],
    *,
    chunk: int = 0,
    worker: str = "main",
    events: Events = NO_EVENTS,
    abort_if_cancelled: Callable[[], None] = lambda: None,
) -> list[ChannelRecord]:
    """Image the channels of a chunk.

    Parameters
    ----------
    job : ImageJob
    device : Device
    channels : sequence of int
        Output channels.
    chunk, worker : int, str
        For the records.
    events : Events
        Told what happens to the channels.
    abort_if_cancelled : callable
        Called before every cycle and before channels are made safe. To abort the chunk it raises a `BaseException` that
        is no `Exception`.

    Returns
    -------
    list of ChannelRecord
        In the order in which the channels finished.
    """
    records: list[ChannelRecord] = []
    waiting = list(channels)[::-1]
    active: list[_ActivePlane] = []
    finished: dict[int, list[_ActivePlane]] = {}
    at_work: set[int] = set()
    suspects: set[int] = set()
    unsafe: list[ChannelRecord] = []
    synced = time.monotonic()

    def close(record: ChannelRecord) -> None:
        record.chunk, record.worker, record.device = chunk, worker, device.name
        records.append(record)
        unsafe.append(record)
        at_work.discard(record.channel)
        events.finished(record)

    def make_safe() -> None:
        nonlocal synced
        abort_if_cancelled()
        for cube in job.cubes.values():
            sync(cube)
        events.safe(unsafe.copy())
        unsafe.clear()
        synced = time.monotonic()

    def room(channel: int, planes: int) -> bool:
        if at_work & suspects or channel in suspects:
            return not at_work
        return planes + len(job.stokes) <= max(device.batch, len(job.stokes))

    while waiting or active:
        abort_if_cancelled()
        if unsafe and time.monotonic() - synced > SECONDS_BETWEEN_SYNCS:
            make_safe()
        fresh: list[int] = []
        while waiting and room(waiting[-1], len(active) + len(fresh) * len(job.stokes)):
            fresh.append(waiting.pop())
            at_work.add(fresh[-1])
            events.started(fresh[-1])
        try:
            started = _begin(job, device, fresh) if fresh else []
            ending = [p for p in started if p.state.stop is not None]
            active += [p for p in started if p.state.stop is None]
            if active:
                ending += _cycle(job, device, active)
                active = [p for p in active if p.state.stop is None]
            for plane in ending:
                _finish_plane(job, device, plane)
                device.release([plane.data])
                together = finished.setdefault(plane.channel, [])
                together.append(plane)
                if len(together) == len(job.stokes):
                    close(_record(job, finished.pop(plane.channel)))
        except GpucubeError:
            raise
        except Exception as error:  # one channel's trouble must not end the others
            if not job.store.exists():  # or the run is over, and this chunk was done by somebody else: write nothing
                raise GpucubeError(f"the visibility store in {job.store.folder} was damaged while in use") from None
            active, finished = [], {}
            device.apart.clear()
            device.forget()
            if not at_work:
                raise
            if isinstance(error, device.out_of_memory) and device.shrink():
                waiting += sorted(at_work, reverse=True)
                at_work.clear()
            elif len(at_work) == 1:
                close(fail_channel(job, at_work.pop(), f"{type(error).__name__}: {error}"))
            else:  # each alone, so that the one to blame shows itself
                waiting += sorted(at_work, reverse=True)
                suspects |= at_work
                at_work.clear()
    make_safe()
    return records


def _begin(job: ImageJob, device: Device, channels: Sequence[int]) -> list[_ActivePlane]:
    """Grid fresh channels and take the first decision; planes that stop at once have `state.stop` set."""
    places = [(c, s) for c in channels for s in range(len(job.stokes))]
    begin = time.perf_counter()
    masks = [None if job.mask is None else job.mask.plane(c) for c, _ in places]
    samples = [job.store.samples(s, c) for c, s in places]
    gathered = time.perf_counter()
    data = device.begin(samples, masks)
    planes = [_ActivePlane(c, s, d) for (c, s), d in zip(places, data, strict=True)]
    for p in planes:
        p.seconds["upload"] = (gathered - begin) / len(planes)
    _charge(planes, device, "grid", gathered)
    for p in planes:
        if p.data.sum_weights == 0:
            p.state = LoopState(stop=StopCode.NO_DATA)
    _judge(job, device, [p for p in planes if p.state.stop is None])
    for wide in (False, True):
        chosen = [p for p in planes if p.state.stop is not StopCode.NO_DATA and (p.state.stop is None) == wide]
        begin, data = time.perf_counter(), [p.data for p in chosen]
        device.make_psf(data, wide)
        for p, (beam, sidelobe) in zip(chosen, device.beams(data), strict=True):
            p.beam, p.sidelobe = beam, sidelobe
        _charge(chosen, device, "psf", begin)
    return planes


def _judge(job: ImageJob, device: Device, planes: Sequence[_ActivePlane]) -> None:
    """Measure exact residuals, decide, roll back where it must be."""
    begin = time.perf_counter()
    measured = device.measure([p.data for p in planes])
    rolling, improved = [], []
    for p, (peak, noise) in zip(planes, measured, strict=True):
        before = p.state
        p.state, action = observe(before, peak, noise, job.clean)
        if action in (Action.ROLL_BACK_AND_CLEAN, Action.ROLL_BACK_AND_STOP):
            rolling.append(p.data)
        elif p.state.best_peak < before.best_peak and p.state.stop is None:
            improved.append(p.data)
    device.keep_model(improved)
    device.roll_back(rolling)
    _charge(planes, device, "measure", begin)


def _cycle(job: ImageJob, device: Device, planes: Sequence[_ActivePlane]) -> list[_ActivePlane]:
    """One minor and one major cycle on every active plane; returns those that stopped."""
    begin = time.perf_counter()
    data = [p.data for p in planes]
    iterations = device.minor(data, [next_cycle(p.state, p.sidelobe, job.clean) for p in planes])
    _charge(planes, device, "minor", begin)
    begin = time.perf_counter()
    device.major(data)
    _charge(planes, device, "major", begin)
    for p, n in zip(planes, iterations, strict=True):
        p.state = after_cycle(p.state, n)
    _judge(job, device, planes)
    return [p for p in planes if p.state.stop is not None]


def _finish_plane(job: ImageJob, device: Device, plane: _ActivePlane) -> None:
    """Restore and write every product of a plane."""
    if plane.state.stop in _BLANK:
        plane.checksums = _write_blank(job, plane.channel, plane.stokes)
        return
    begin = time.perf_counter()
    products = {
        name: device.fetch(plane.data, name) for name in ("dirty", "psf", "residual", "model") if name in job.cubes
    }
    if "image" in job.cubes and job.restoring_beam != "common":
        products["image"] = restored(
            device,
            job.settings.geometry,
            device.resident(plane.data, "model"),
            device.resident(plane.data, "residual"),
            plane.beam,
            plane.beam if job.restoring_beam == "channel" else job.restoring_beam,
        )
    _charge([plane], device, "restore", begin)
    begin = time.perf_counter()
    if "mask" in job.cubes:
        products["mask"] = _mask_plane(job, plane.channel)
    for name, values in products.items():
        plane.checksums[name] = job.write(name, plane.stokes, plane.channel, values)
    _charge([plane], device, "write", begin)
    plane.model_flux = float(device.fetch(plane.data, "model").sum(dtype=np.float64))


def fail_channel(job: ImageJob, channel: int, message: str) -> ChannelRecord:
    """Blank a channel that could not be imaged, and say why."""
    checksums = [_write_blank(job, channel, s) for s in range(len(job.stokes))]
    return ChannelRecord(
        channel,
        float(job.frequency[channel]),
        int(StopCode.FAILED),
        StopCode.FAILED.reason,
        visibilities=int(job.store.counts[:, channel].sum()),
        message=" ".join(message.split()),
        checksums=_by_product(job, checksums),
    )


def _by_product(job: ImageJob, planes: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Checksums of the planes of a channel, in order of Stokes, by product; none of an image still to be restored."""
    names = [name for name in job.cubes if name != "image" or job.restoring_beam != "common"]
    return {name: [checksums[name] for checksums in planes] for name in names}


def _write_blank(job: ImageJob, channel: int, stokes: int) -> dict[str, str]:
    checksums = {}
    blank = np.full(job.settings.geometry.shape, np.nan, np.float32)
    for name in job.cubes:
        values = blank
        if name == "mask":
            # an unreadable mask may be why the channel failed
            with suppress(OSError, TypeError, ValueError):
                values = _mask_plane(job, channel)
        checksums[name] = job.write(name, stokes, channel, values)
    return checksums


def _mask_plane(job: ImageJob, channel: int) -> np.ndarray:
    if job.mask is None:
        return np.ones(job.settings.geometry.shape, np.float32)
    return job.mask.plane(channel).astype(np.float32)


def _record(job: ImageJob, planes: Sequence[_ActivePlane]) -> ChannelRecord:
    """One record of a channel from its planes; with several, the one that iterated longest gives the stop code."""
    planes = sorted(planes, key=lambda p: p.stokes)
    each = [_plane_record(job, p) for p in planes]
    checksums = _by_product(job, [p.checksums for p in planes])
    if len(each) == 1:
        each[0].checksums = checksums
        return each[0]
    leading = max(each, key=lambda r: (r.major_cycles, r.iterations))
    merged = ChannelRecord(**{**leading.as_dict(), "planes": {}, "checksums": checksums})
    merged.iterations = sum(r.iterations for r in each)
    merged.major_cycles = sum(r.major_cycles for r in each)
    merged.visibilities = sum(r.visibilities for r in each)
    merged.model_flux, merged.beam, merged.sum_weights = each[0].model_flux, each[0].beam, each[0].sum_weights
    merged.retried = any(r.retried for r in each)
    merged.seconds = {k: sum(r.seconds.get(k, 0.0) for r in each) for r in each for k in r.seconds}
    for name, record in zip(job.stokes, each, strict=True):
        merged.planes[name] = {k: v for k, v in record.as_dict().items() if k not in ("planes", "checksums")}
    return merged


def _plane_record(job: ImageJob, plane: _ActivePlane) -> ChannelRecord:
    state, selected = plane.state, int(job.store.selected[plane.channel])
    counted = int(job.store.counts[plane.stokes, plane.channel])
    stop = state.stop if state.stop is not None else StopCode.FAILED
    record = ChannelRecord(
        plane.channel,
        float(job.frequency[plane.channel]),
        int(stop),
        stop.reason,
        iterations=state.iterations,
        major_cycles=state.majors,
        model_flux=plane.model_flux,
        sum_weights=float(plane.data.sum_weights),
        visibilities=int(plane.data.visibilities),
        flagged_fraction=1.0 - counted / selected if selected else 1.0,
        seconds={k: round(v, 6) for k, v in plane.seconds.items()},
        retried=state.retried,
    )
    if stop is StopCode.FAILED:
        record.message = "the residual is not finite"
    if stop not in _BLANK:
        record.beam = beam_to_record(plane.beam) if plane.beam else None
        record.noise, record.limit = state.noise, stop_level(state.noise, job.clean)
        record.peak_residual = state.peak if state.peak >= 0 else None
    return record


def _charge(planes: Sequence[_ActivePlane], device: Device, stage: str, begin: float) -> None:
    """Share the time since `begin` among the planes of a batch, but for what the device spent apart."""
    spent = {**device.apart, stage: time.perf_counter() - begin - sum(device.apart.values())}
    device.apart.clear()
    for p in planes:
        for name, seconds in spent.items():
            p.seconds[name] = p.seconds.get(name, 0.0) + seconds / len(planes)
