"""Step 2, IMAGE: a chunk of channels from visibilities to planes on disk, every channel on its own schedule.

In: an `ImageJob` (store, settings, cubes) and the channels of one chunk. Out: one `ChannelRecord` for each channel. Its
planes go straight into the cubes. The loop is the major/minor scheme of Schwab 1984 (AJ 89, 1076): minor cycles work on
an approximate residual, then a major cycle makes the exact one, and a plane is judged on exact residuals only.

The life of a chunk: `_Chunk` takes as many planes as the device has places for (`device.batch`), begins them,
and cycles all active planes together. A plane that has stopped is finished, and the next plane takes its place, so a chunk
costs the sum of what its channels need. If anything fails, the active channels are tried again: in smaller batches
after running out of memory, otherwise one at a time, until the faulty channel has been found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from gpucube.data.store import PlaneKey
from gpucube.devices.base import FINISHED_BYTES, Device, DevicePlane
from gpucube.errors import GpucubeError
from gpucube.imaging.job import NO_EVENTS, Events, ImageJob
from gpucube.imaging.plane import ActivePlane, Place, channel_records, charge, fail_channel, write_products
from gpucube.imaging.stopping import (
    Action,
    LoopState,
    after_cycle,
    has_grown,
    next_cycle,
    observe,
    stop_level,
    with_new_mask,
)
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.text import one_line


def image_chunk(
    job: ImageJob,
    device: Device[DevicePlane],
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
        Is called with what happens to the channels.
    abort_if_cancelled : callable
        Called before every cycle and before channels are made safe. To abort the chunk it raises a `BaseException` that
        is no `Exception`.

    Returns
    -------
    list of ChannelRecord
        In the order in which the channels finished.

    Raises
    ------
    GpucubeError
        The run must end: the disk is full, the store is damaged, or the cubes belong to another run.
    """
    return _Chunk(
        job=job,
        device=device,
        place=Place(chunk, worker, device.name),
        events=events,
        abort_if_cancelled=abort_if_cancelled,
        waiting=list(channels)[::-1],
    ).run()


@dataclass(kw_only=True)
class _Chunk:
    """The channels of one chunk on their way through a device.

    Every channel is in one of three places: `waiting`, `at_work` (begun, and without a record), or among the `records`.
    """

    job: ImageJob
    device: Device[DevicePlane]
    place: Place
    events: Events
    abort_if_cancelled: Callable[[], None]
    waiting: list[int]
    """The next one last."""
    at_work: set[int] = field(default_factory=set)
    to_begin: list[PlaneKey] = field(default_factory=list)
    """Planes of channels at work for which there was no place yet, the next one last."""
    records: list[ChannelRecord] = field(default_factory=list)
    suspects: set[int] = field(default_factory=set)
    """Channels that were at work when something failed."""
    active: list[ActivePlane] = field(default_factory=list)
    stopped: list[ActivePlane] = field(default_factory=list)
    """Planes that have stopped and are still to be written."""
    ended: dict[int, list[ActivePlane]] = field(default_factory=dict)
    """Planes that are written, of channels whose other Stokes planes are not."""
    unsafe: list[ChannelRecord] = field(default_factory=list)
    """Records of channels whose planes are written, but perhaps not on disk yet."""
    synced: float = field(default_factory=time.monotonic)
    written: float = field(default_factory=time.monotonic)
    """When planes that had stopped were last written."""

    def run(self) -> list[ChannelRecord]:
        """Image all channels."""
        while self.waiting or self.at_work:
            self.abort_if_cancelled()
            if self.unsafe and time.monotonic() - self.synced > self.job.seconds_between_syncs:
                self._make_safe()
            fresh = self._take_planes()
            try:
                self.stopped += self._begin(fresh)
                self.stopped += self._cycle()
                self._finish_stopped()
            except GpucubeError:
                raise
            except Exception as error:  # one channel's trouble must not end the others
                self._recover(error)
        self._make_safe()
        return self.records

    def _take_planes(self) -> list[PlaneKey]:
        """Planes to begin now: as many as there are places for."""
        fresh: list[PlaneKey] = []
        places = self.device.batch - len(self.active) - len(self.stopped)
        while len(fresh) < places:
            if not self.to_begin:
                if not self.waiting or (self.suspects and self._must_wait(self.waiting[-1])):
                    break
                channel = self.waiting.pop()
                self.at_work.add(channel)
                self.to_begin = [PlaneKey(channel=channel, stokes=s) for s in reversed(range(len(self.job.stokes)))]
                self.events.started(channel)
            fresh.append(self.to_begin.pop())
        return fresh

    def _must_wait(self, channel: int) -> bool:
        """Whether a channel must wait until no other is at work: a suspect is imaged with nothing beside it."""
        return bool(self.at_work and self.suspects & {channel, *self.at_work})

    def _begin(self, keys: Sequence[PlaneKey]) -> list[ActivePlane]:
        """Begin planes; returns those that need no cycle."""
        planes = _begin_planes(self.job, self.device, keys) if keys else []
        self.active += [p for p in planes if not p.stopped]
        return [p for p in planes if p.stopped]

    def _cycle(self) -> list[ActivePlane]:
        """One minor and one major cycle of all active planes; returns those that stopped."""
        planes = self.active
        if planes:
            _cycle_planes(self.job, self.device, planes)
        self.active = [p for p in planes if not p.stopped]
        return [p for p in planes if p.stopped]

    def _finish_stopped(self) -> None:
        """Write the planes that have stopped: together, since few large copies are cheaper than many small ones.

        They wait for each other while other planes are cleaned, unless channels wait for their places, or for so long that they
        would be brought to disk meanwhile.
        """
        late = time.monotonic() - self.written > self.job.seconds_between_syncs
        if self.active and not (self.waiting or self.to_begin or late):
            return
        stopped, self.stopped = self.stopped, []
        for some in _in_groups(self.job, stopped, len(self.job.cubes)):
            self._finish(some)
        self.written = time.monotonic()

    def _finish(self, planes: Sequence[ActivePlane]) -> None:
        """Write planes and free their places. After the last plane of a channel, complete the channel."""
        write_products(self.job, self.device, planes)
        self.device.release([p.data for p in planes])
        complete = []
        for plane in planes:
            of_channel = self.ended.setdefault(plane.key.channel, [])
            of_channel.append(plane)
            if len(of_channel) == len(self.job.stokes):
                complete.append(self.ended.pop(plane.key.channel))
        for record in channel_records(self.job, complete, self.place):
            self._close(record)

    def _close(self, record: ChannelRecord) -> None:
        """Store the record of a channel that has ended."""
        self.records.append(record)
        self.unsafe.append(record)
        self.at_work.discard(record.channel)
        self.events.finished(record)

    def _make_safe(self) -> None:
        """Bring what was written to disk, and report it."""
        self.abort_if_cancelled()
        self.job.sync()
        self.events.safe(self.unsafe.copy())
        self.unsafe.clear()
        self.synced = time.monotonic()

    def _recover(self, error: Exception) -> None:
        """After a failure, return the channels at work to the queue, or give up a channel that failed alone."""
        if not self.job.store.exists():  # damaged, or the run ended and another worker did this chunk: write nothing
            raise GpucubeError(f"the visibility store in {self.job.store.folder} was damaged while in use") from None
        if not self.at_work:
            raise error
        self.active, self.stopped, self.ended, self.to_begin = [], [], {}, []
        self.device.substage_seconds.clear()
        self.device.reset()
        channels = sorted(self.at_work, reverse=True)
        self.at_work.clear()
        if isinstance(error, self.device.out_of_memory) and self.device.shrink():
            self.waiting += channels
        elif len(channels) == 1:
            self._close(fail_channel(self.job, channels[0], one_line(error), self.place))
        else:
            self.waiting += channels
            self.suspects.update(channels)


def _begin_planes(job: ImageJob, device: Device[DevicePlane], keys: Sequence[PlaneKey]) -> list[ActivePlane]:
    """Load and grid fresh planes, judge their dirty images and make their PSFs."""
    begin = time.perf_counter()
    masks = [job.mask_plane(key) if job.automask is None else None for key in keys]
    samples = [job.samples(key) for key in keys]
    gathered = time.perf_counter()
    data = device.begin(samples, masks)
    spent = device.substage_seconds
    spent["upload"] = spent.get("upload", 0.0) + gathered - begin
    fresh, no_data = LoopState(), LoopState(stop=StopCode.NO_DATA)
    planes = [ActivePlane(k, d, fresh if d.sum_weights else no_data) for k, d in zip(keys, data, strict=True)]
    charge(planes, device, "grid", begin)
    with_data = [p for p in planes if not p.stopped]
    _start_from_model(job, device, with_data)
    if job.automask is not None:  # its first mask depends on the PSF
        _make_psfs(device, [p for p in with_data if p.beam is None], wide=job.clean.niter > 0)
    _judge(job, device, with_data)
    if job.automask is None:
        # planes that are going to be cleaned need the PSF of twice the field
        without_psf = [p for p in with_data if p.beam is None]
        _make_psfs(device, without_psf, [not p.stopped for p in without_psf])
    return planes


def _start_from_model(job: ImageJob, device: Device[DevicePlane], planes: Sequence[ActivePlane]) -> None:
    """Give fresh planes the model that cleaning starts from, and its residual."""
    if job.start_model is None:
        return
    read = [(p, job.start_model.plane(p.key.channel, job.stokes[p.key.stokes])) for p in planes]
    found = [(p, model) for p, model in read if model is not None]
    if not found:
        return
    planes, models = [p for p, _ in found], [model for _, model in found]
    _make_psfs(device, planes, True)  # of twice the field, because the model may have a component in any pixel
    begin = time.perf_counter()
    data = [p.data for p in planes]
    device.set_model(data, models)
    device.major(data)
    charge(planes, device, "major", begin)


def _make_psfs(device: Device[DevicePlane], planes: Sequence[ActivePlane], wide: bool | Sequence[bool]) -> None:
    """Make the PSFs; fit their beams and measure their sidelobes."""
    begin, data = time.perf_counter(), [p.data for p in planes]
    device.make_psf(data, wide)
    for p, (beam, sidelobe) in zip(planes, device.beams(data), strict=True):
        p.beam, p.sidelobe = beam, sidelobe
    charge(planes, device, "psf", begin)


def _judge(job: ImageJob, device: Device[DevicePlane], planes: Sequence[ActivePlane]) -> None:
    """Measure exact residuals and decide what becomes of each plane; roll back those that diverged."""
    begin = time.perf_counter()
    _renew_masks(job, device, planes)
    rolling, improved, clean, stop = [], [], Action.CLEAN, Action.STOP
    for p, (peak, noise) in zip(planes, device.measure([p.data for p in planes]), strict=True):
        before = p.state.best_peak
        p.state, action = observe(p.state, peak, noise, job.clean)
        if action is clean:
            if p.state.best_peak < before:
                improved.append(p.data)
        elif action is not stop:
            rolling.append(p.data)
    device.keep_model(improved)
    device.roll_back(rolling)
    charge(planes, device, "measure", begin)


def _renew_masks(job: ImageJob, device: Device[DevicePlane], planes: Sequence[ActivePlane]) -> None:
    """Let automatic masks follow the residuals. A plane that has diverged keeps its mask: it is going to be rolled back."""
    if job.automask is None:
        return
    changed = []
    for p, residual in _residuals(job, device, [p for p in planes if not p.mask_final]):
        before = p.mask
        if before is None:
            given = None if job.mask is None else job.mask_plane(p.key)
            mask = np.zeros(residual.shape, bool) if given is None else given
        elif has_grown(p.state, float(np.abs(residual[before]).max(initial=0.0))):
            continue
        else:
            mask = before
        assert p.beam is not None
        p.mask, p.mask_final = job.automask.renew(
            mask,
            residual,
            beam=p.beam,
            sidelobe=p.sidelobe,
            geometry=job.settings.geometry,
            valid=job.beam_plane(p.key),
            grow=p.state.iterations > 0,
            threshold_reached=p.at_stop_level,
        )
        if before is None or not np.array_equal(before, p.mask):
            changed.append(p)
            p.state = with_new_mask(p.state)
    device.set_masks([p.data for p in changed], [p.mask for p in changed if p.mask is not None])


def _residuals(
    job: ImageJob, device: Device[DevicePlane], planes: Sequence[ActivePlane]
) -> Iterator[tuple[ActivePlane, np.ndarray]]:
    """Bring the residuals of planes to the host."""
    for some in _in_groups(job, planes, 1):
        found = device.finish([p.data for p in some], ("residual",), None)
        yield from zip(some, chain.from_iterable(each.products["residual"] for each in found), strict=True)


def _in_groups(job: ImageJob, planes: Sequence[ActivePlane], images: int) -> Iterator[Sequence[ActivePlane]]:
    """Divide planes into groups of which the host holds so many images at once."""
    each = 4 * job.settings.geometry.nx * job.settings.geometry.ny * max(1, images)
    together = max(1, FINISHED_BYTES // each)
    for start in range(0, len(planes), together):
        yield planes[start : start + together]


def _cycle_planes(job: ImageJob, device: Device[DevicePlane], planes: Sequence[ActivePlane]) -> None:
    """Run one minor and one major cycle of every plane, and judge the residuals."""
    begin = time.perf_counter()
    data = [p.data for p in planes]
    cycles = [next_cycle(p.state, p.sidelobe, job.clean) for p in planes]
    if job.automask is not None:
        for p, cycle in zip(planes, cycles, strict=True):
            p.at_stop_level = cycle.threshold <= stop_level(p.state.noise, job.clean)
            p.last_mask = p.mask
    iterations = device.minor(data, cycles)
    charge(planes, device, "minor", begin)
    begin = time.perf_counter()
    device.major(data)
    charge(planes, device, "major", begin)
    for p, n in zip(planes, iterations, strict=True):
        p.state = after_cycle(p.state, n)
    _judge(job, device, planes)
