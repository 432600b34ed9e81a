"""One plane while it is imaged, and the products and record that it leaves.

In: a plane that `gpucube.imaging.chunk` has cleaned until it stopped. Out: its products in the cubes, and the
`ChannelRecord` of its channel.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from gpucube.data.store import PlaneKey
from gpucube.devices.base import Device, DevicePlane, Product, Restoring
from gpucube.imaging.job import ImageJob
from gpucube.imaging.restore import how_to_restore
from gpucube.imaging.stopping import LoopState, stop_level
from gpucube.output.fits_header import RESTORED
from gpucube.output.records import ChannelRecord, PlaneRecord, StopCode
from gpucube.sky.beam import Beam

COPIED: tuple[Product, ...] = ("dirty", "psf", "residual", "model")
"""Images that a device holds and that may be written."""

BLANK = (StopCode.NO_DATA, StopCode.FAILED)
"""A plane with one of these stop codes is NaN in every image product."""


NOTHING_YET: dict[str, int] = {}
"""What has been charged to a new plane."""


@dataclass(slots=True)
class ActivePlane:
    """A plane from its first gridding to its last product.

    Attributes
    ----------
    key : PlaneKey
    data : DevicePlane
        Its arrays on the device.
    state : LoopState
    beam : Beam or None
        Fitted to the PSF; None before, and without data.
    sidelobe : float
        Largest |PSF| outside the main lobe.
    mask : numpy.ndarray or None
        The automatic mask, bool (ny, nx); None before the first, and without automatic masks.
    last_mask : numpy.ndarray or None
        The automatic mask of the last minor cycle.
    mask_final : bool
        Whether the automatic mask stays as it is.
    at_stop_level : bool
        Whether the last minor cycle went down to the stop level.
    model_flux : float
        Jy.
    checksums : dict
        By product.
    nanoseconds : dict
        By stage. Whole numbers add up without rounding. It is replaced, never changed: planes share it.
    """

    key: PlaneKey
    data: DevicePlane
    state: LoopState
    beam: Beam | None = None
    sidelobe: float = 0.0
    mask: np.ndarray | None = None
    last_mask: np.ndarray | None = None
    mask_final: bool = False
    at_stop_level: bool = False
    model_flux: float = 0.0
    checksums: dict[str, str] = field(default_factory=dict)
    nanoseconds: dict[str, int] = field(default_factory=lambda: NOTHING_YET)

    @property
    def stopped(self) -> bool:
        """True if the plane needs no more cycles."""
        return self.state.stop is not None


def charge(planes: Sequence[ActivePlane], device: Device[DevicePlane], stage: str, begin: float) -> None:
    """Charge the time since `begin` to the planes of a batch in equal shares: to `stage`, and to the device's sub-stages."""
    spent = {**device.substage_seconds, stage: time.perf_counter() - begin - sum(device.substage_seconds.values())}
    device.substage_seconds.clear()
    each = {name: int(1e9 * seconds) // max(1, len(planes)) for name, seconds in spent.items()}
    before, total = NOTHING_YET, each
    totals = {id(before): total}  # by the identity of what was charged before: most planes share it
    for p in planes:
        if p.nanoseconds is not before:
            before = p.nanoseconds
            if id(before) not in totals:
                totals[id(before)] = before | {name: before.get(name, 0) + n for name, n in each.items()}
            total = totals[id(before)]
        p.nanoseconds = total


def write_products(job: ImageJob, device: Device[DevicePlane], planes: Sequence[ActivePlane]) -> None:
    """Restore planes that have stopped, and write all their products."""
    imaged, beams, restoring = [], [], None
    for p in planes:
        if p.state.stop in BLANK or p.beam is None:
            p.checksums = _write_blank(job, p.key)
        else:
            imaged.append(p)
            beams.append(p.beam)
    if job.cubes.keys() & set(RESTORED) and job.restoring_beam != "common":
        target = None if job.restoring_beam == "channel" else job.restoring_beam
        restoring = [
            Restoring(beam=beam) if target is None else how_to_restore(job.settings.geometry, beam, target)
            for beam in beams
        ]
    copied = [name for name in COPIED if name in job.cubes or (name == "model" and "startmodel" in job.cubes)]
    begin, writing, waiting = time.perf_counter(), 0.0, iter(imaged)
    for found in device.finish([p.data for p in imaged], copied, restoring):
        some = list(islice(waiting, len(found.model_flux)))
        products = dict(found.products)
        if job.primary_beam is not None:
            products["pb"] = [job.primary_beam.plane(float(job.frequency[p.key.channel])) for p in some]
            if "image" in products:
                products["image.pbcor"] = [i / pb for i, pb in zip(products["image"], products["pb"], strict=True)]
        started = time.perf_counter()
        if "mask" in job.cubes:
            products["mask"] = [_mask_plane(job, p.key, p.mask if p.last_mask is None else p.last_mask) for p in some]
        if "startmodel" in job.cubes:
            products["startmodel"] = products["model"]
        if "sumwt" in job.cubes:
            products["sumwt"] = [np.full((1, 1), p.data.sum_weights, np.float32) for p in some]
        for name in [name for name in job.cubes if name in products]:
            for p, image in zip(some, products[name], strict=True):
                p.checksums[name] = job.write(name, p.key, image)
        for p, model_flux in zip(some, found.model_flux, strict=True):
            p.model_flux = model_flux
        writing += time.perf_counter() - started
    charge(imaged, device, "restore", begin + writing)
    charge(imaged, device, "write", time.perf_counter() - writing)


def _write_blank(job: ImageJob, key: PlaneKey) -> dict[str, str]:
    """Write NaN to every image product, 0 to what adds up; returns the checksums."""
    checksums = {}
    for name, cube in job.cubes.items():
        values = np.full((cube.ny, cube.nx), 0.0 if name in ("sumwt", "startmodel") else np.nan, np.float32)
        if name == "mask":
            # an unreadable mask may be why the channel failed
            with suppress(OSError, TypeError, ValueError):
                values = _mask_plane(job, key)
        checksums[name] = job.write(name, key, values)
    return checksums


def _mask_plane(job: ImageJob, key: PlaneKey, automatic: np.ndarray | None = None) -> np.ndarray:
    """1 where components may lie, 0 elsewhere, float32 (ny, nx)."""
    if job.automask is not None:
        return np.zeros(job.settings.geometry.shape, np.float32) if automatic is None else automatic.astype(np.float32)
    allowed = job.mask_plane(key)
    return np.ones(job.settings.geometry.shape, np.float32) if allowed is None else allowed.astype(np.float32)


class Place(NamedTuple):
    """Where channels are imaged, as their records say."""

    chunk: int = 0
    worker: str = ""
    device: str = ""


NOWHERE = Place()


def channel_records(job: ImageJob, channels: Sequence[list[ActivePlane]], place: Place) -> list[ChannelRecord]:
    """The records of channels whose planes have all been written."""
    for planes in channels:
        planes.sort(key=lambda p: p.key.stokes)
    products, count = _written_products(job), len(job.stokes)
    of_planes = _plane_records(job, [p for planes in channels for p in planes])
    records = []
    for k, planes in enumerate(channels):
        checksums = {name: [p.checksums[name] for p in planes] for name in products}
        of_channel = of_planes[k * count : (k + 1) * count]
        records.append(_channel_record(job, planes[0].key.channel, of_channel, checksums, place))
    return records


def fail_channel(job: ImageJob, channel: int, message: str, place: Place = NOWHERE) -> ChannelRecord:
    """Blank a channel that could not be imaged, and say why."""
    keys = [PlaneKey(channel=channel, stokes=s) for s in range(len(job.stokes))]
    records = [
        PlaneRecord(
            stop_code=StopCode.FAILED,
            visibilities=int(job.store.counts[:, key.stokes, channel].sum()),
            message=" ".join(message.split()),
        )
        for key in keys
    ]
    blank = [_write_blank(job, key) for key in keys]
    checksums = {name: [of_plane[name] for of_plane in blank] for name in _written_products(job)}
    return _channel_record(job, channel, records, checksums, place)


def _written_products(job: ImageJob) -> list[str]:
    """Products that are complete when a channel ends: all but images that are restored at the end."""
    return [name for name in job.cubes if name not in RESTORED or job.restoring_beam != "common"]


def _channel_record(
    job: ImageJob, channel: int, planes: Sequence[PlaneRecord], checksums: dict[str, list[str]], place: Place
) -> ChannelRecord:
    """Planes and checksums are in the order of Stokes."""
    return ChannelRecord(
        channel=channel,
        frequency_hz=float(job.frequency[channel]),
        planes=dict(zip(job.stokes, planes, strict=True)),
        checksums=checksums,
        chunk=place.chunk,
        worker=place.worker,
        device=place.device,
    )


def _plane_records(job: ImageJob, planes: Sequence[ActivePlane]) -> list[PlaneRecord]:
    """The records of planes. What the store knows about them is taken from its arrays at once."""
    if not planes:
        return []
    store, (channel, stokes, pointing) = job.store, np.array(list(zip(*[p.key for p in planes], strict=True)))
    counted, selected = store.counts[pointing, stokes, channel].tolist(), store.selected[pointing, channel].tolist()
    lacking = [0.0] * len(planes) if store.lacking is None else store.lacking[pointing, stokes, channel].tolist()
    charged = {id(p.nanoseconds): p.nanoseconds for p in planes}
    seconds = {number: {stage: n / 1e9 for stage, n in each.items()} for number, each in charged.items()}
    records = []
    for p, valid, chosen, share in zip(planes, counted, selected, lacking, strict=True):
        state, visibilities = p.state, int(p.data.visibilities)
        stop = StopCode.FAILED if state.stop is None else state.stop
        record = PlaneRecord(
            stop_code=stop,
            iterations=state.iterations,
            major_cycles=state.majors,
            model_flux=p.model_flux,
            sum_weights=float(p.data.sum_weights),
            visibilities=visibilities,
            visibilities_off_grid=max(0, valid - visibilities),
            flagged_fraction=1.0 - valid / chosen if chosen else 1.0,
            lacking_fraction=share,
            seconds=seconds[id(p.nanoseconds)],
            retried=state.retried,
        )
        if stop not in BLANK:
            record.peak_residual = state.peak if state.peak >= 0 else None
            record.noise, record.limit = state.noise, stop_level(state.noise, job.clean)
            record.beam = None if p.beam is None else p.beam.to_record()
        elif stop is StopCode.FAILED:
            record.message = "the residual is not finite"
        records.append(record)
    return records
