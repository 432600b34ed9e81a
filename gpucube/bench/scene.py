"""The visibilities of a workload, and the job that images them.

In: a `Workload`. Out: its `VisibilityStore`, with uvw tracks of a real layout, noise, flags, and point sources in the bright
channels; and a `Scene`, which IMAGE works on. The store is written channel-major at once, so no MeasurementSet is made on
the way. Antennas, tracks and exact visibilities come from `gpucube.simulate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gpucube.bench.workloads import PRODUCTS, Workload
from gpucube.data.scratch import allocate
from gpucube.data.store import Partition, VisibilityStore, sort_rows, write_rows
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cycle_rules import needs_w
from gpucube.execution.plan import make_chunks
from gpucube.imaging.job import ImageJob
from gpucube.imaging.stopping import CleanParameters
from gpucube.output.fits_cube import create_cubes
from gpucube.output.fits_header import CubeDescription
from gpucube.simulate.arrays import antenna_positions, antenna_uvw, track_times
from gpucube.simulate.sky import point_sky, visibilities
from gpucube.sky.spectral import SpectralAxis

FLAGGED = 0.05
"""Share of the samples without weight."""

BLOCK_SAMPLES = 2_000_000
"""Samples that are made at a time."""


@dataclass(frozen=True)
class Scene:
    """What IMAGE works on: some `channels` of a store, and the axis of all of them."""

    job: ImageJob
    axis: SpectralAxis
    channels: Sequence[int]

    @property
    def hardest(self) -> int:
        """Find the channel with the most power, which takes longest to clean."""
        return max(self.channels, key=lambda channel: float(self.job.store.channel_power[channel]))

    def with_cubes(self, imagename: str) -> ImageJob:
        """Return the job with new cubes, which replace older ones of that name."""
        description = CubeDescription(geometry=self.job.settings.geometry, axis=self.axis, stokes=self.job.stokes)
        return replace(self.job, cubes=create_cubes(imagename, PRODUCTS, description, overwrite=True))

    def chunks(self, size: int) -> list[list[int]]:
        """Divide the channels into chunks, the costly ones first."""
        return make_chunks(size, self.job.store.channel_power, self.channels)


def scene_of(
    workload: Workload,
    store: VisibilityStore,
    axis: SpectralAxis | None = None,
    channels: Sequence[int] | None = None,
    **settings: Any,
) -> Scene:
    """Make the job that images a store as the workload says: all its channels unless others are named.

    `settings` replaces fields of `ImagingSettings`.
    """
    axis = axis or workload.axis
    uv_max, w_max = store.max_uvw_wavelengths()
    values = {
        "geometry": workload.geometry,
        "weighting": workload.weighting,
        "robust": workload.robust,
        "w_term": needs_w(workload.geometry.w_phase(w_max), workload.gridder, ImagingSettings.epsilon),
        "samples": store.most_samples(),
        "uv_max": uv_max,
        "w_max": w_max,
    }
    job = ImageJob(
        store=store,
        settings=ImagingSettings(**(values | settings)),
        clean=CleanParameters(niter=workload.niter, nsigma=workload.nsigma),
        frequency=axis.frequency,
    )
    return Scene(job, axis, range(axis.nchan) if channels is None else channels)


def remove_cubes(job: ImageJob) -> None:
    """Remove the cubes of a job."""
    for cube in job.cubes.values():
        Path(cube.path).unlink()


def point_sources(workload: Workload, rng: np.random.Generator) -> list[tuple[float, float, np.ndarray]]:
    """Draw sources within the inner 60 % of the image: l and m in radians, and the spectrum in Jy, (channels,)."""
    reach = 0.3 * workload.imsize * workload.geometry.cell_x
    flux = workload.peak * rng.uniform(0.1, 1.0, workload.sources)
    flux[0] = workload.peak
    places = rng.uniform(-reach, reach, (workload.sources, 2))
    line = np.zeros(workload.channels)
    line[workload.bright_channels] = 1.0
    return [(l, m, f * line) for (l, m), f in zip(places, flux, strict=True)]


def make_store(workload: Workload, folder: str) -> VisibilityStore:
    """Write the visibilities of a workload, Stokes I made of two hands, into a new folder."""
    p = workload.simulation()
    rng = np.random.default_rng(p.seed)
    frequency, bright = workload.axis.frequency, list(workload.bright_channels)
    positions, _ = antenna_positions(p.array, p.antennas)
    times = track_times(p.kind, p.phase_centre[0], p.ntime, p.integration, p.track_hours)
    antennas = antenna_uvw(positions, times, *p.phase_centre)  # (ntime, nant, 3) metres
    one, two = np.triu_indices(p.antennas, 1)
    sky = point_sky([(l, m, s[bright]) for l, m, s in point_sources(workload, rng)], len(bright))
    partition = Partition(
        folder=folder,
        index=0,
        nrow=workload.rows,
        nstokes=1,
        output=tuple(range(workload.channels)),
        frequency=tuple(frequency.tolist()),
    )
    allocate([partition])
    sigma = workload.noise / math.sqrt(2.0)  # of the mean of two hands
    counts = np.zeros((1, 1, workload.channels), np.int64)  # (npointing, nstokes, nchan)
    power = np.zeros((1, 1, workload.channels))
    step = max(1, BLOCK_SAMPLES // (workload.channels * len(one)))
    for first in range(0, workload.integrations, step):
        uvw = (antennas[first : first + step, one] - antennas[first : first + step, two]).reshape(-1, 3)
        noise = rng.standard_normal((1, workload.channels, len(uvw), 2), np.float32) * np.float32(sigma)
        vis = noise.view(np.complex64)[..., 0]  # (nstokes, nchan, nrow)
        if bright:
            vis[0, bright] += visibilities(sky, uvw, frequency[bright]).T
        weight = np.full(vis.shape, 1.0 / sigma**2, np.float32)
        weight[rng.random(vis.shape, np.float32) < FLAGGED] = 0.0
        write_rows(partition, first * len(one), np.ascontiguousarray(uvw), vis, weight)
        counts += (weight > 0).sum(2)
        power += (weight * (vis.real**2 + vis.imag**2)).sum(2, dtype=float)
    sort_rows(partition)
    return VisibilityStore(
        folder=folder,
        partitions=(partition,),
        counts=counts,
        selected=np.full((1, workload.channels), workload.rows),
        power=power / np.maximum(2 * counts, 1),
    )
