"""IMAGE on real stores and the real CPU device: what a chunk must deliver, also when a channel fails or diverges."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import jobs
import numpy as np
import pytest
from events import RecordedEvents
from jobs import CELL, read, samples, with_sky
from oracles import dft_image, dft_predict, direct_dirty, direct_predict, imaging_weights, point_components

from gpucube.constants import ARCSEC
from gpucube.data.mask_image import load_mask
from gpucube.data.scratch import allocate
from gpucube.data.store import Partition, PlaneKey, Samples, VisibilityStore, sort_rows, write_rows
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.device import CpuDevice
from gpucube.imaging.chunk import image_chunk
from gpucube.imaging.job import ImageJob
from gpucube.imaging.restore import restore_chunk
from gpucube.imaging.stopping import CleanParameters
from gpucube.output.fits_cube import read_plane
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.sky.beam import Beam
from gpucube.sky.directions import Direction
from gpucube.sky.frames import FRAMES
from gpucube.sky.geometry import ImageGeometry
from gpucube.sky.spectral import SpectralAxis

GEOMETRY = ImageGeometry(
    nx=64, ny=64, cell_x=CELL, cell_y=CELL, centre=Direction(ra=np.deg2rad(187.5), dec=np.deg2rad(30.0))
)
CLEAN = CleanParameters(niter=2000, nsigma=3.0)
DATA_CHANNELS = [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11]

MakeJob = Callable[..., ImageJob]


@pytest.fixture(scope="module")
def stores(tiny_ms, tmp_path_factory) -> Iterator[Callable[..., tuple[VisibilityStore, ImageGeometry, SpectralAxis]]]:
    """Factory: the store of `tiny_ms` in given Stokes parameters and the axes of its cube, made once each."""
    with ExitStack() as stack:
        yield functools.cache(
            lambda *stokes: read(tiny_ms.ms, tmp_path_factory.mktemp("store"), stack, stokes="".join(stokes))
        )


@pytest.fixture
def make_job(stores, tmp_path) -> MakeJob:
    """Factory: a job on `tiny_ms`, Briggs 0.5, all products; keywords change the job or its settings."""

    def make(name: str = "cube", stokes: tuple[str, ...] = ("I",), **changes):
        return jobs.make_job(
            *stores(*stokes), tmp_path / name, stokes=stokes, **({"clean": CLEAN, "epsilon": 1e-5} | changes)
        )

    return make


def planes(job: ImageJob, channel: int, stokes: int = 0) -> dict[str, np.ndarray]:
    return {name: read_plane(cube, stokes, channel) for name, cube in job.cubes.items()}


def by_channel(records: Sequence[ChannelRecord]) -> dict[int, ChannelRecord]:
    assert len({r.channel for r in records}) == len(records), "a channel has two records"
    return {r.channel: r for r in records}


def everything(job: ImageJob) -> dict[str, bytes]:
    return {name: Path(cube.path).read_bytes()[cube.data_offset :] for name, cube in job.cubes.items()}


def exact_residual(job: ImageJob, channel: int, model: np.ndarray) -> np.ndarray:
    """Residual of a model by direct sums in float64 over every visibility and pixel."""
    s = job.store.samples(PlaneKey(channel=channel, stokes=0)).in_order()
    weight = imaging_weights(s, GEOMETRY, job.settings.weighting, job.settings.robust)
    return dft_image(s, GEOMETRY, weight, np.where(weight > 0, s.vis, 0) - dft_predict(s, GEOMETRY, model))


@pytest.mark.parametrize("majorcycle", ["visibility", "image"])
@pytest.mark.parametrize("minorcycle", ["textbook", "activeset"])
def test_every_channel_ends_with_its_exact_residual_below_its_limit(make_job, majorcycle, minorcycle):
    job = make_job(majorcycle=majorcycle, minorcycle=minorcycle)
    records = by_channel(image_chunk(job, CpuDevice(job.settings), range(12), chunk=3, worker="w"))
    assert sorted(records) == list(range(12))
    for channel in DATA_CHANNELS:
        r, p = records[channel], planes(job, channel)
        residual = exact_residual(job, channel, p["model"])
        # gridding to 1e-5 of the brightest source, 1 Jy, in data and model
        error = 6e-5
        assert p["residual"] == pytest.approx(residual, abs=error)
        assert np.abs(residual).max() == pytest.approx(r.peak_residual, abs=error)
        assert r.peak_residual <= r.limit
        mad = 1.4826 * np.median(np.abs(residual - np.median(residual)))
        assert r.noise == pytest.approx(mad, abs=error)
        assert r.limit == pytest.approx(3 * r.noise, rel=1e-6)
        assert r.stop_code == StopCode.NSIGMA
        assert r.model_flux == pytest.approx(p["model"].sum(dtype=float), rel=1e-6)
        assert p["dirty"] == pytest.approx(exact_residual(job, channel, np.zeros((64, 64))), abs=error)
        assert p["psf"].max() == p["psf"][32, 32] == pytest.approx(1.0, abs=2e-5)


def test_the_records_are_complete(make_job):
    job = make_job()
    events = RecordedEvents()
    records = by_channel(
        image_chunk(job, CpuDevice(job.settings), range(12), chunk=3, worker="w", events=events),
    )
    frequency = 1420.405752e6 + (np.arange(12) - 6) * 15625.0
    for channel in DATA_CHANNELS:
        r = records[channel]
        assert (r.chunk, r.worker, r.device, r.retried, r.message, list(r.planes)) == (3, "w", "cpu", False, "", ["I"])
        assert r.frequency_hz == frequency[channel]
        assert r.stop_reason == StopCode(r.stop_code).reason
        assert r.visibilities == job.store.counts[0, 0, channel]
        assert r.flagged_fraction == pytest.approx(1 - job.store.counts[0, 0, channel] / 900)
        s = job.store.samples(PlaneKey(channel=channel, stokes=0)).in_order()
        assert r.sum_weights == pytest.approx(imaging_weights(s, GEOMETRY, "briggs", 0.5).sum(), rel=1e-6)
        assert 20 < r.beam["bmin_arcsec"] <= r.beam["bmaj_arcsec"] < 80
        assert {"grid", "psf", "measure", "restore", "write"} <= set(r.seconds)
        assert all(v >= 0 for v in r.seconds.values())
    assert records[5].major_cycles >= 2
    assert records[5].iterations > 20
    assert records[5].model_flux == pytest.approx(2.0, abs=0.1)  # 1 + 0.6 + 0.4 Jy
    assert events.finished_records == list(records.values())
    assert sorted(events.started_channels) == list(range(12))


def test_a_channel_without_data_is_blank_in_every_image(make_job):
    job = make_job()
    (r,) = image_chunk(job, CpuDevice(job.settings), [2])
    assert (r.stop_code, r.iterations, r.beam, r.visibilities) == (StopCode.NO_DATA, 0, None, 0)
    assert (r.peak_residual, r.noise, r.limit, r.sum_weights, r.flagged_fraction) == (None, None, None, 0, 1)
    for name, plane in planes(job, 2).items():
        assert np.isnan(plane).all() if name != "mask" else (plane == 1).all()


def test_a_dirty_cube_is_what_is_seen(make_job):
    job = make_job(clean=CleanParameters())
    records = by_channel(image_chunk(job, CpuDevice(job.settings), range(12)))
    for channel in DATA_CHANNELS:
        p = planes(job, channel)
        assert (records[channel].iterations, records[channel].major_cycles) == (0, 0)
        assert not p["model"].any()
        assert np.array_equal(p["image"], p["dirty"])
        assert np.array_equal(p["residual"], p["dirty"])


class Recorder(CpuDevice):
    """Counts the planes it is given for each verb."""

    def __init__(self, settings: ImagingSettings, batch: int = 1):
        super().__init__(settings)
        self.batch, self.calls = batch, {"minor": [], "major": [], "begin": []}

    def begin(self, samples, masks):
        self.calls["begin"].append(len(samples))
        return super().begin(samples, masks)

    def minor(self, planes, orders):
        self.calls["minor"].append(len(planes))
        return super().minor(planes, orders)

    def major(self, planes):
        self.calls["major"].append(len(planes))
        super().major(planes)


@pytest.mark.parametrize("batch", [1, 4, 12, 50])
def test_a_chunk_costs_the_sum_of_what_its_channels_need(make_job, batch):
    job = make_job()
    device = Recorder(job.settings, batch)
    records = image_chunk(job, device, range(12))
    majors = [r.major_cycles for r in records]
    assert sum(device.calls["minor"]) == sum(device.calls["major"]) == sum(majors)
    assert sum(majors) < 12 * max(majors) / 2, "a chunk of unequal channels, or this shows nothing"
    assert sum(device.calls["begin"]) == 12
    assert max(device.calls["minor"]) <= batch
    if batch == 50:
        assert len(device.calls["major"]) == max(majors), "all channels together while they last"


def test_noise_is_finished_without_a_single_minor_cycle(make_job):
    job = make_job(clean=replace(CLEAN, threshold=10.0))
    device = Recorder(job.settings)
    records = image_chunk(job, device, range(12))
    assert device.calls["minor"] == device.calls["major"] == []
    assert {r.stop_code for r in records if r.channel != 2} == {StopCode.THRESHOLD}


def test_the_cube_does_not_depend_on_the_batch_or_on_the_order_of_the_channels(make_job):
    reference = make_job("reference")
    image_chunk(reference, CpuDevice(reference.settings), range(12))
    expected = everything(reference)
    for name, batch, chunks in (("a", 5, [range(12)]), ("b", 1, [[11, 3], [5], [0, 1, 2, 4, 6], [7, 8, 9, 10]])):
        job = make_job(name)
        for channels in chunks:
            image_chunk(job, Recorder(job.settings, batch), channels)
        assert everything(job) == expected


class Failing(CpuDevice):
    """Raises in one verb whenever a plane of one channel takes part, as a device does that runs out of memory."""

    def __init__(self, job: ImageJob, verb: str, channel: int, batch: int):
        super().__init__(job.settings)
        self.batch, self._verb, self._frequency = batch, verb, job.frequency[channel]

    def _check(self, verb: str, samples: Sequence[Samples | None]) -> None:
        if verb == self._verb and any(s is not None and s.frequency == self._frequency for s in samples):
            raise MemoryError("out of device memory")

    def begin(self, samples, masks):
        self._check("begin", samples)
        return super().begin(samples, masks)

    def major(self, planes):
        self._check("major", [p.samples for p in planes])
        super().major(planes)

    def fetch(self, plane, product):
        if product == "model":
            self._check("fetch", [plane.samples])
        return super().fetch(plane, product)


@pytest.mark.parametrize("batch", [1, 5, 12])
@pytest.mark.parametrize("verb", ["begin", "major", "fetch"])
@pytest.mark.parametrize("stokes", [("I",), ("I", "V")])
def test_a_channel_that_fails_is_blank_and_spoils_no_other(make_job, stokes, verb, batch):
    reference = make_job("reference", stokes)
    expected = by_channel(image_chunk(reference, CpuDevice(reference.settings), range(12)))
    job = make_job("cube", stokes)
    records = by_channel(image_chunk(job, Failing(job, verb, 5, batch), range(12)))
    assert sorted(records) == list(range(12))
    assert records[5].stop_code == StopCode.FAILED
    assert records[5].message == "MemoryError: out of device memory"
    for s in range(len(stokes)):
        for channel in range(12):
            for name, plane in planes(job, channel, s).items():
                if channel == 5 and name != "mask":
                    assert np.isnan(plane).all()
                else:
                    assert plane.tobytes() == planes(reference, channel, s)[name].tobytes()
    for channel in set(range(12)) - {5}:
        assert records[channel].iterations == expected[channel].iterations
        assert records[channel].stop_code == expected[channel].stop_code


def test_visibilities_too_large_for_the_image_fail_their_channel_only(make_job, stores, tmp_path):
    """1e38 Jy is finite in the MS, but not summed in single precision."""
    job = make_job()
    (p,) = job.store.partitions
    folder = str(tmp_path / "copy")
    copy = replace(p, folder=folder)
    allocate([copy])
    for name in ("uvw", "order", "vis", "weight"):
        values = np.array(p.array(name))
        if name == "vis":
            values[0, 4] = 3e38
        values.tofile(copy.path(name))
    job = replace(job, store=replace(job.store, folder=folder, partitions=(copy,)))
    records = by_channel(image_chunk(job, CpuDevice(job.settings), [3, 4, 5]))
    assert records[4].stop_code == StopCode.FAILED
    assert records[4].message == "the residual is not finite"
    assert np.isnan(planes(job, 4)["image"]).all()
    assert records[3].stop_code == records[5].stop_code == StopCode.NSIGMA
    assert np.isfinite(planes(job, 5)["image"]).all()


def test_several_stokes_parameters_make_one_record(make_job):
    job = make_job(stokes=("I", "V"))
    records = by_channel(image_chunk(job, CpuDevice(job.settings), range(12)))
    r = records[5]
    assert list(r.planes) == ["I", "V"]
    i, v = r.planes["I"], r.planes["V"]
    # the sky is unpolarised: of V only a noise peak or two is cleaned
    assert abs(v.model_flux) < 0.02 * i.model_flux
    assert (r.iterations, r.major_cycles) == (i.iterations + v.iterations, i.major_cycles + v.major_cycles)
    assert i.iterations > v.iterations
    assert (r.stop_code, r.peak_residual, r.limit) == (i.stop_code, i.peak_residual, i.limit)
    assert r.model_flux == i.model_flux
    assert r.visibilities == i.visibilities + v.visibilities
    alone = make_job("alone")
    image_chunk(alone, CpuDevice(alone.settings), [5])
    assert planes(alone, 5)["image"].tobytes() == planes(job, 5)["image"].tobytes()


def test_components_lie_inside_the_mask(make_job, tmp_path, stores):
    from astropy.io import fits

    allowed = np.zeros((64, 64), np.float32)
    allowed[20:28, 36:44] = 1  # around the source at (40, 24)
    fits.PrimaryHDU(allowed).writeto(tmp_path / "mask.fits")
    mask = load_mask(tmp_path / "mask.fits", GEOMETRY, stores("I")[2])
    job = make_job(mask=mask)
    records = by_channel(image_chunk(job, CpuDevice(job.settings), range(12)))
    p = planes(job, 6)
    assert p["model"][24, 40] > 0.8
    assert not p["model"][allowed == 0].any()
    assert np.array_equal(p["mask"], allowed)
    assert records[6].peak_residual == np.abs(p["residual"][allowed == 1]).max() <= records[6].limit
    assert np.abs(p["residual"]).max() > 0.3, "the source outside the mask stays"


def test_an_empty_mask_ends_every_channel(make_job, tmp_path, stores):
    from astropy.io import fits

    fits.PrimaryHDU(np.zeros((64, 64), np.int16)).writeto(tmp_path / "mask.fits")
    job = make_job(mask=load_mask(tmp_path / "mask.fits", GEOMETRY, stores("I")[2]))
    records = image_chunk(job, CpuDevice(job.settings), range(12))
    assert {r.stop_code for r in records} == {StopCode.ZERO_MASK, StopCode.NO_DATA}
    assert {r.peak_residual for r in records} == {None}


def test_a_mask_that_vanishes_fails_its_channels_and_says_so(make_job, tmp_path, stores):
    from astropy.io import fits

    path = tmp_path / "mask.fits"
    fits.PrimaryHDU(np.ones((64, 64), np.int16)).writeto(path)
    job = make_job(mask=load_mask(path, GEOMETRY, stores("I")[2]))
    job.cubes.pop("mask")  # which would be read from the same file
    path.unlink()
    records = image_chunk(job, CpuDevice(job.settings), [4, 5])
    assert [r.stop_code for r in records] == [StopCode.FAILED] * 2
    assert all("mask.fits" in r.message for r in records)


def diverging_job(tmp_path: Path, cycleniter: int, threshold: float) -> tuple[ImageJob, Samples]:
    """Sources far off axis where w smears the PSF, which the minor cycle does not know.

    Cleaned with a gain of 1 in deep cycles, it finds more flux than there is.
    """
    cell = 150 * ARCSEC
    g = ImageGeometry(nx=64, ny=64, cell_x=cell, cell_y=cell, centre=Direction(ra=1.0, dec=0.5))
    base = samples(g, n=600, w=4000.0)
    places = [(-29 * cell, -29 * cell, 1.0), (28 * cell, 27 * cell, 0.8)]
    s = with_sky(base, direct_predict(base.uvw, base.frequency, places))
    folder = str(tmp_path / "scratch")
    p = Partition(folder=folder, index=0, nrow=600, nstokes=1, output=(0,), frequency=(s.frequency,))
    allocate([p])
    write_rows(p, 0, np.ascontiguousarray(s.uvw), s.vis.reshape(1, 1, -1), s.weight.reshape(1, 1, -1))
    sort_rows(p)
    store = VisibilityStore(
        folder=folder,
        partitions=(p,),
        counts=np.array([[[np.count_nonzero(s.weight)]]]),
        selected=np.array([[600]]),
        power=np.ones((1, 1, 1)),
    )
    axis = SpectralAxis(frequency=np.array([s.frequency]), width=np.array([1e4]), frame=FRAMES["LSRK"], restfreq=None)
    clean = CleanParameters(
        niter=100_000, gain=1.0, threshold=threshold, cyclefactor=1e-3, minpsffraction=0.0, cycleniter=cycleniter
    )
    settings = {"weighting": "natural", "epsilon": 1e-5, "w_term": True}
    return jobs.make_job(store, g, axis, tmp_path / "cube", clean=clean, **settings), s


class Peaks(CpuDevice):
    """Remembers the peak of every exact residual."""

    def __init__(self, settings: ImagingSettings):
        super().__init__(settings)
        self.peaks: list[float] = []

    def measure(self, planes):
        measured = super().measure(planes)
        self.peaks += [peak for peak, _ in measured]
        return measured


@pytest.mark.parametrize(
    ("cycleniter", "threshold", "stop"),
    [
        (3000, 1e-3, StopCode.PEAK_GREW),  # the second attempt diverges too
        (300, 1e-3, StopCode.PEAK_ABOVE_MINIMUM),
        (100, 0.1, StopCode.THRESHOLD),  # the second attempt comes to its end
    ],
)
def test_a_plane_that_diverges_is_rolled_back_and_tried_again(tmp_path, cycleniter, threshold, stop):
    job, s = diverging_job(tmp_path, cycleniter, threshold)
    device = Peaks(job.settings)
    (r,) = image_chunk(job, device, [0])
    assert max(device.peaks) > 3 * min(device.peaks), "it did diverge"
    assert (r.retried, r.stop_code) == (True, stop)
    assert r.peak_residual == min(device.peaks), "the best that was seen"
    # what is written belongs together: the residual is that of the model, and both are the best
    p = planes(job, 0)
    g = job.settings.geometry
    assert np.abs(p["residual"]).max() == pytest.approx(r.peak_residual, rel=1e-6)
    left = s.vis - direct_predict(s.uvw, s.frequency, point_components(p["model"], g))
    pixels = [(3, 3), (32, 32), (60, 59), (61, 61), (10, 50)]
    residual = direct_dirty(s.uvw, s.frequency, left, s.weight, g, pixels)
    error = 3e-5 * float(2 + np.abs(p["model"]).sum())  # epsilon 1e-5 of the sources and of every component
    assert [p["residual"][y, x] for x, y in pixels] == pytest.approx(residual, abs=error)


def test_restoring_afterwards_with_one_beam_is_restoring_at_once_with_it(make_job):
    beam = Beam(bmaj=90 * ARCSEC, bmin=80 * ARCSEC, bpa=0.4)
    at_once = make_job("at_once", beam=beam)
    image_chunk(at_once, CpuDevice(at_once.settings), [4, 5, 2])
    later = make_job("later", beam="common")
    records = image_chunk(later, CpuDevice(later.settings), [4, 5, 2])
    fitted = {PlaneKey(channel=r.channel, stokes=0): Beam.from_record(r.beam) for r in records if r.beam}
    restore_chunk(later, CpuDevice(later.settings), beam, fitted, [4, 5, 2])
    assert np.isnan(planes(later, 2)["image"]).all()
    for channel in (4, 5):
        # the beam goes through arcsec and back: 1e-16; the same single precision
        assert planes(later, channel)["image"] == pytest.approx(planes(at_once, channel)["image"], abs=1e-6)
        assert np.abs(planes(later, channel)["image"]).max() > 0.3
