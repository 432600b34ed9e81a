"""VisibilityStore: the selected visibilities, channel after channel, memory-mapped in a scratch folder.

In: rows of all channels, as INGEST writes them (`write_rows`). Out: the samples of any plane (`VisibilityStore.samples`),
each of its arrays a contiguous run. A plane is an output channel of one Stokes parameter and one pointing; a `PlaneKey`
names it.

The store is made of partitions, one for each MeasurementSet, DATA_DESC_ID and field. Each has its own uvw, its own output
channels and one pointing, so spectral windows and MeasurementSets with different rows cost nothing extra. A sample takes
12 bytes: complex64 and float32. The system's page cache keeps as much of it in memory as fits.

Visibilities and weights are stored in the order of the MeasurementSet, so that they are written sequentially. They are returned
in the order of their place in the uv plane (`sort_rows`): neighbours share cache lines, and gridding is a quarter faster.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gpucube import disk
from gpucube.constants import LIGHT_SPEED

BYTES_A_SAMPLE = 12

UV_TILES = 64
"""Tiles along u and along v that rows are sorted into."""


class PlaneKey(NamedTuple):
    """The name of a plane of the cube."""

    channel: int  # output channel
    stokes: int  # number of the Stokes parameter, in the order of the cube
    pointing: int = 0


@dataclass(frozen=True, kw_only=True)
class Partition:
    """The place of one partition on disk, and the planes that it has samples of."""

    folder: str
    index: int  # number of the partition in its store
    nrow: int
    nstokes: int
    output: tuple[int, ...]  # output channel of each slot, ascending
    frequency: tuple[float, ...]  # of each slot, Hz; uvw * frequency / c is in wavelengths
    pointing: int = 0  # the pointing that all its rows belong to

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (nstokes, nslot, nrow) of visibilities and weights."""
        return self.nstokes, len(self.output), self.nrow

    def layout(self) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
        """Type and shape of every array on disk.

        Once `sort_rows` has run, ``uvw`` is in the order of the uv plane. Its row k belongs to row ``order[k]`` of
        ``vis`` and ``weight``.
        """
        return {
            "uvw": (np.dtype(np.float64), (self.nrow, 3)),
            "order": (np.dtype(np.int32), (self.nrow,)),
            "vis": (np.dtype(np.complex64), self.shape),
            "weight": (np.dtype(np.float32), self.shape),
        }

    def sizes(self) -> dict[str, int]:
        """Bytes of every array on disk."""
        return {name: dtype.itemsize * math.prod(shape) for name, (dtype, shape) in self.layout().items()}

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(self.sizes().values())

    def path(self, name: str) -> str:
        """Path of the array `name`: ``"uvw"``, ``"order"``, ``"vis"`` or ``"weight"``."""
        return os.path.join(self.folder, f"partition{self.index}.{name}")

    def array(self, name: str) -> np.ndarray:
        """Memory-map the array `name` for reading, see `layout`."""
        with disk.explain(f"cannot read the visibility store in {self.folder}"):
            return disk.mapped(self.path(name), *self.layout()[name])

    def slot(self, key: PlaneKey) -> int | None:
        """Slot of a plane's channel; None if the partition has no samples of the plane."""
        if key.pointing != self.pointing:
            return None
        slot = int(np.searchsorted(self.output, key.channel))
        return slot if slot < len(self.output) and self.output[slot] == key.channel else None

    def samples(self, stokes: int, slot: int) -> Samples:
        """Samples of one slot in one Stokes parameter, as they lie on disk."""
        return Samples(
            uvw=self.array("uvw"),
            frequency=self.frequency[slot],
            vis=self.array("vis")[stokes, slot],
            weight=self.array("weight")[stokes, slot],
            order=self.array("order"),
            rows=self.path("uvw"),
        )

    def is_intact(self) -> bool:
        """True while every file exists at full length."""
        return all(
            os.path.isfile(self.path(name)) and os.path.getsize(self.path(name)) >= size
            for name, size in self.sizes().items()
        )


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of one plane.

    Attributes
    ----------
    uvw : numpy.ndarray
        Metres, float64, shape (nrow, 3).
    frequency : float
        Hz; uvw * frequency / c is in wavelengths.
    vis : numpy.ndarray
        Jy, complex64, shape (nrow,).
    weight : numpy.ndarray
        1/Jy^2, float32, shape (nrow,); 0 where the sample does not count.
    order : numpy.ndarray or None
        Row k of `uvw` belongs to ``vis[order[k]]`` and ``weight[order[k]]``; None: to ``vis[k]`` and ``weight[k]``.
    rows : str
        A name for `uvw` and `order`. Planes with the same name share them. Empty if no other plane has them.
    """

    uvw: np.ndarray
    frequency: float
    vis: np.ndarray
    weight: np.ndarray
    order: np.ndarray | None = None
    rows: str = ""

    def in_order(self) -> Samples:
        """Return the same samples with visibilities and weights in the order of `uvw`."""
        if self.order is None:
            return self
        return Samples(
            uvw=self.uvw,
            frequency=self.frequency,
            vis=np.take(self.vis, self.order),
            weight=np.take(self.weight, self.order),
        )


@dataclass(frozen=True, kw_only=True)
class VisibilityStore:
    """All partitions, and what INGEST learnt about every plane.

    Attributes
    ----------
    folder : str
    partitions : tuple of Partition
    counts : numpy.ndarray
        Samples that count, int64, shape (npointing, nstokes, nchan).
    selected : numpy.ndarray
        Samples selected, flagged or not, int64, shape (npointing, nchan).
    power : numpy.ndarray
        Weighted mean |V|^2 in units of the noise expected from the weights, shape (npointing, nstokes, nchan); 0 without
        data.
    ms_bytes_read : int
        Bytes read from the MeasurementSets to make the store; 0 if an earlier run has made it.
    safe : bool
        Whether every byte is known to be on disk, so that the store outlives a restart of the machine.
    lacking : numpy.ndarray or None
        Share of the input channels of these samples that are flagged or missing, shape (npointing, nstokes, nchan); None if
        it is not known.
    """

    folder: str
    partitions: tuple[Partition, ...]
    counts: np.ndarray
    selected: np.ndarray
    power: np.ndarray
    ms_bytes_read: int = 0
    safe: bool = False
    lacking: np.ndarray | None = None
    warnings: tuple[str, ...] = ()  # what the rows had that the user should know

    @property
    def channel_power(self) -> np.ndarray:
        """`power` summed over the planes of each channel, shape (nchan,): emission makes a channel costly."""
        power: np.ndarray = self.power.sum(axis=(0, 1))
        return power

    def samples(self, key: PlaneKey) -> Samples | None:
        """Return the samples of a plane, as they lie on disk; None if no partition holds any.

        The samples of several partitions are joined at the frequency of the first: uvw of the others is scaled by the
        ratio of the frequencies.
        """
        slots = [(p, slot) for p in self.partitions if p.nrow and (slot := p.slot(key)) is not None]
        if len(slots) < 2:
            return slots[0][0].samples(key.stokes, slots[0][1]) if slots else None
        reference, nrow = slots[0][0].frequency[slots[0][1]], sum(p.nrow for p, _ in slots)
        uvw, vis, weight = np.empty((nrow, 3)), np.empty(nrow, np.complex64), np.empty(nrow, np.float32)
        first = 0
        for p, slot in slots:  # copied one after the other: a mapped array keeps a file open
            part, span = p.samples(key.stokes, slot).in_order(), slice(first, first + p.nrow)
            uvw[span], vis[span], weight[span] = part.uvw * (part.frequency / reference), part.vis, part.weight
            first += p.nrow
        uvw.flags.writeable = False  # like that of a single partition: compiled loops know it as another type
        return Samples(uvw=uvw, frequency=reference, vis=vis, weight=weight)

    def max_uvw_wavelengths(self, half_u: float = math.inf, half_v: float = math.inf) -> tuple[float, float]:
        """Return the longest projected baseline and the largest |w| over all channels, in wavelengths.

        A row decides on w only if its |u| and |v| are below `half_u` and `half_v` wavelengths, on the grid of an image, in some
        channel.
        """
        uv, w = 0.0, 0.0
        for p in self.partitions:
            if p.nrow and p.output:
                uvw = p.array("uvw")
                low, high = min(p.frequency) / LIGHT_SPEED, max(p.frequency) / LIGHT_SPEED
                uv = max(uv, high * float(np.sqrt((uvw[:, :2] ** 2).sum(1).max())))
                on_grid = (np.abs(uvw[:, :2]) * low < (half_u, half_v)).all(axis=1)
                w = max(w, high * float(np.abs(uvw[:, 2]).max(where=on_grid, initial=0.0)))
        return uv, w

    def most_samples(self) -> int:
        """Return the number of samples of the plane that has most."""
        return int(self.selected.max(initial=0))

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(p.nbytes() for p in self.partitions)

    def exists(self) -> bool:
        """Return True while every file exists at full length, False once the run starts to delete the store."""
        return all(p.is_intact() for p in self.partitions)


def write_rows(partition: Partition, first: int, uvw: np.ndarray, vis: np.ndarray, weight: np.ndarray) -> None:
    """Write a run of rows, the `first`-th of the partition and following.

    Any number of processes may write at once. The files are written and not memory-mapped, because page faults would
    take longer than the transposition.

    Parameters
    ----------
    partition : Partition
    first : int
    uvw : numpy.ndarray
        Metres, float64, C order, shape (n, 3).
    vis, weight : numpy.ndarray
        complex64 and float32, C order, shape (nstokes, nslot, n).

    Raises
    ------
    GpucubeError
        The store is gone, or the file system refuses to write.
    """
    if not vis.size:
        return
    nrow = partition.nrow
    with ExitStack() as stack:
        stack.enter_context(disk.explain(f"cannot write the visibility store in {partition.folder}"))
        files = {name: stack.enter_context(disk.opened(partition.path(name))) for name in ("uvw", "vis", "weight")}
        disk.write_all(files["uvw"], uvw.data.cast("B"), first * 3 * uvw.itemsize)
        for name, values in (("vis", vis), ("weight", weight)):
            data, run = values.data.cast("B"), values.itemsize * len(uvw)
            for plane in range(values.nbytes // run):
                begin = plane * run
                disk.write_all(files[name], data[begin : begin + run], (plane * nrow + first) * values.itemsize)


def sort_rows(partition: Partition) -> None:
    """Put the uvw of the rows in the order of tiles of the uv plane, and write that order beside them.

    (u, v) and (-u, -v) count as the same place, because the grid of a real sky is Hermitian.
    """
    uvw = partition.array("uvw")
    uv = np.where(uvw[:, :1] < 0, -uvw[:, :2], uvw[:, :2])
    tile = (uv * (0.5 * UV_TILES / max(float(np.abs(uv).max()), 1e-300))).astype(np.int32)
    order = np.lexsort((tile[:, 1], tile[:, 0])).astype(np.int32)
    with disk.explain(f"cannot write the visibility store in {partition.folder}"):
        disk.write_at(partition.path("order"), order.data.cast("B"), 0)
        disk.write_at(partition.path("uvw"), uvw[order].data.cast("B"), 0)
