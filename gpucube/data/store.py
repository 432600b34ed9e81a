"""VisibilityStore: the selected visibilities, channel after channel, memory-mapped in a scratch folder.

In: what INGEST makes of blocks of rows. Out: for any output channel, its samples (uvw, visibility, weight), each a
contiguous run. The store is made of partitions, one per (MeasurementSet, DATA_DESC_ID, FIELD), each with its own uvw and
its own output channels, so that spectral windows and MSs with different rows cost nothing extra. 12 bytes a sample:
complex64 + float32. The page cache keeps what fits in memory.

Rows lie in the order of the MeasurementSet, so that writing them is sequential; samples are handed out in the order of
their place in the uv plane (`sort_rows`), which makes gridding a quarter faster: neighbours share cache lines.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpucube import disk
from gpucube.constants import LIGHT_SPEED
from gpucube.errors import GpucubeError

BYTES_A_SAMPLE = 12


@dataclass(frozen=True, kw_only=True)
class PlaneKey:
    """Names a plane of the cube.

    Attributes
    ----------
    channel : int
        Output channel.
    stokes : int
        Number of the Stokes parameter, in the order of the cube.
    pointing : int
    """

    channel: int
    stokes: int
    pointing: int = 0

    @property
    def index(self) -> tuple[int, int, int]:
        """Index of the plane in arrays of shape (npointing, nstokes, nchan)."""
        return self.pointing, self.stokes, self.channel


@dataclass(frozen=True, kw_only=True)
class Partition:
    """Where one partition lies on disk, and which planes it has samples of.

    Attributes
    ----------
    folder : str
    index : int
    nrow, nstokes : int
    output : tuple of int
        Output channel of each slot, ascending.
    frequency : tuple of float
        Hz, of each slot: scales uvw.
    pointing : int
        Pointing that all its rows belong to.
    """

    folder: str
    index: int
    nrow: int
    nstokes: int
    output: tuple[int, ...]
    frequency: tuple[float, ...]
    pointing: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (nstokes, nslot, nrow) of visibilities and weights."""
        return self.nstokes, len(self.output), self.nrow

    def nbytes(self) -> int:
        """Bytes on disk."""
        return int(np.prod(self.shape)) * BYTES_A_SAMPLE + self.nrow * 28

    def slot(self, key: PlaneKey) -> int | None:
        """Slot of a plane's channel; None if the partition has no samples of the plane."""
        if key.pointing != self.pointing:
            return None
        slot = int(np.searchsorted(self.output, key.channel))
        return slot if slot < len(self.output) and self.output[slot] == key.channel else None

    def path(self, name: str) -> str:
        """Path of the array `name`: ``"uvw"``, ``"order"``, ``"vis"`` or ``"weight"``."""
        return os.path.join(self.folder, f"partition{self.index}.{name}")

    def array(self, name: str, mode: str = "r") -> np.ndarray:
        """Memory-map an array.

        uvw float64 (nrow, 3), order int32 (nrow,), vis complex64 and weight float32 (nstokes, nslot, nrow). Once
        `sort_rows` has run, uvw is in the order of the uv plane; row k of it is row ``order[k]`` of vis and weight.
        """
        dtype, shape = {
            "uvw": (np.float64, (self.nrow, 3)),
            "order": (np.int32, (self.nrow,)),
            "vis": (np.complex64, self.shape),
            "weight": (np.float32, self.shape),
        }[name]
        return np.memmap(self.path(name), dtype, mode, shape=shape)


@dataclass(frozen=True)
class Samples:
    """The samples of one plane (an output channel in one Stokes parameter).

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
        Names `uvw` and `order`: planes with the same name share them. Empty if they are nobody else's.
    """

    uvw: np.ndarray
    frequency: float
    vis: np.ndarray
    weight: np.ndarray
    order: np.ndarray | None = None
    rows: str = ""

    def in_order(self) -> Samples:
        """The same samples row by row: neighbours in `uvw` are neighbours in memory."""
        if self.order is None:
            return self
        return Samples(self.uvw, self.frequency, np.take(self.vis, self.order), np.take(self.weight, self.order))


@dataclass(frozen=True, kw_only=True)
class VisibilityStore:
    """All partitions, and what INGEST learnt of every plane.

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
        Bytes read from the MeasurementSets to make it.
    """

    folder: str
    partitions: tuple[Partition, ...]
    counts: np.ndarray
    selected: np.ndarray
    power: np.ndarray
    ms_bytes_read: int = 0

    @property
    def channel_power(self) -> np.ndarray:
        """`power` summed over the planes of each channel, shape (nchan,): emission makes a channel costly."""
        return np.asarray(self.power.sum(axis=(0, 1)))

    def samples(self, key: PlaneKey) -> Samples | None:
        """Samples of a plane, as they lie on disk; None if no partition holds any.

        Several partitions are joined into one set at the frequency of the first.
        """
        parts = [_samples(p, key.stokes, k) for p in self.partitions if p.nrow and (k := p.slot(key)) is not None]
        if len(parts) < 2:
            return parts[0] if parts else None
        parts = [p.in_order() for p in parts]
        reference = parts[0].frequency
        return Samples(
            np.concatenate([p.uvw * (p.frequency / reference) for p in parts]),
            reference,
            np.concatenate([p.vis for p in parts]),
            np.concatenate([p.weight for p in parts]),
        )

    def max_uvw_wavelengths(self) -> tuple[float, float]:
        """Longest projected baseline and largest |w| over all channels, in wavelengths."""
        uv, w = 0.0, 0.0
        for p in self.partitions:
            if p.nrow and p.output:
                uvw = p.array("uvw")
                scale = max(p.frequency) / LIGHT_SPEED
                uv = max(uv, scale * float(np.sqrt((uvw[:, :2] ** 2).sum(1).max())))
                w = max(w, scale * float(np.abs(uvw[:, 2]).max()))
        return uv, w

    def most_samples(self) -> int:
        """Samples of the plane that has most."""
        return int(self.selected.max(initial=0))

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(p.nbytes() for p in self.partitions)

    def exists(self) -> bool:
        """Whether every file is there at full length: not once the run has begun to remove it."""
        return all(map(_whole, self.partitions))


def _samples(partition: Partition, stokes: int, slot: int) -> Samples:
    return Samples(
        partition.array("uvw"),
        partition.frequency[slot],
        partition.array("vis")[stokes, slot],
        partition.array("weight")[stokes, slot],
        partition.array("order"),
        partition.path("uvw"),
    )


def write_rows(partition: Partition, first: int, uvw: np.ndarray, vis: np.ndarray, weight: np.ndarray) -> None:
    """Write a run of rows, the `first`-th of the partition and following; any number of processes may do so at once.

    Written, not mapped: a fault for every page would cost more than the transposition.

    Parameters
    ----------
    uvw : (n, 3) float64; vis : (nstokes, nslot, n) complex64; weight : the same, float32

    Raises
    ------
    GpucubeError
        The file system refuses.
    """
    _, nslot, nrow = partition.shape
    runs: list[tuple[str, int, np.ndarray]] = [("uvw", first * 24, uvw)]
    for name, values in (("vis", vis), ("weight", weight)):
        size = values.itemsize
        for s, slot in np.ndindex(values.shape[:2]):
            runs.append((name, ((s * nslot + slot) * nrow + first) * size, values[s, slot]))
    with ExitStack() as stack:
        files = {name: stack.enter_context(disk.opened(partition.path(name))) for name in ("uvw", "vis", "weight")}
        with disk.explain(f"cannot write the visibility store in {partition.folder}"):
            for name, offset, values in runs:
                disk.write_all(files[name], memoryview(values).cast("B"), offset)


UV_TILES = 64
"""Tiles along u and along v that rows are sorted into."""


def sort_rows(partition: Partition) -> None:
    """Put the rows' uvw in the order of tiles of the uv plane, and note that order.

    (u, v) and (-u, -v) are the same place: a real sky's grid is Hermitian.
    """
    uvw = partition.array("uvw", "r+")
    uv = np.where(uvw[:, :1] < 0, -uvw[:, :2], uvw[:, :2])
    tile = (uv * (0.5 * UV_TILES / max(float(np.abs(uv).max()), 1e-300))).astype(np.int32)
    order = np.lexsort((tile[:, 1], tile[:, 0])).astype(np.int32)
    partition.array("order", "r+")[:] = order
    uvw[:] = uvw[order]


def allocate(partitions: Sequence[Partition], owner: str = "") -> None:
    """Make the scratch folder and the empty arrays of its partitions, on real disk blocks.

    Parameters
    ----------
    partitions : sequence of Partition
        At least one; all of one folder.
    owner : str
        Whose scratch folder it is, see `clear_leftover`.

    Raises
    ------
    GpucubeError
        The folder exists, cannot be made, or the disk is too small.
    """
    folder = partitions[0].folder
    need = sum(p.nbytes() for p in partitions)
    try:
        os.makedirs(folder)
    except FileExistsError:
        raise GpucubeError(
            f"scratch folder {folder} already exists: remove it if no other run uses it, or name another with scratch"
        ) from None
    except OSError as error:
        raise GpucubeError(f"scratch folder {folder} cannot be made: {error.strerror}") from None
    try:
        disk.check_space(folder, need, "the visibility store needs", "scratch")
        disk.write_whole(os.path.join(folder, OWNER_FILE), os.path.abspath(owner))
        for p in partitions:
            for name, size in _sizes(p).items():
                disk.reserve(p.path(name), size)
    except BaseException:
        disk.remove_tree(folder)
        raise


OWNER_FILE = "gpucube-scratch"
"""Says which imagename a scratch folder belongs to."""

_STATE_FILE = "store.json"

_STATE_FORMAT = 2
"""Number of the form of the state file: one of another form is as good as none."""


def belongs_to(folder: str, owner: str) -> bool:
    """Whether a folder is the scratch folder of an imagename."""
    try:
        with open(os.path.join(folder, OWNER_FILE)) as file:
            return file.read() == os.path.abspath(owner)
    except OSError:
        return False


def clear_leftover(folder: str, owner: str) -> None:
    """Remove the scratch folder of an earlier run of the same owner, whose lock must be held; nobody else's."""
    if belongs_to(folder, owner):
        disk.remove_tree(folder)


def _boot() -> str:
    """Changes when the machine starts anew: what was not synced may then be lost."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def save_state(store: VisibilityStore, identity: dict[str, Any]) -> None:
    """Note that the store is whole, and what is known of it."""
    state = {
        "format": _STATE_FORMAT,
        "identity": identity,
        "boot": _boot(),
        "partitions": [asdict(p) for p in store.partitions],
        "counts": store.counts.tolist(),
        "selected": store.selected.tolist(),
        "power": store.power.tolist(),
        "ms_bytes_read": store.ms_bytes_read,
    }
    disk.write_whole(os.path.join(store.folder, _STATE_FILE), json.dumps(state))


def load_state(folder: str, identity: dict[str, Any]) -> VisibilityStore | None:
    """The store of an earlier run with the same identity; None if it is not there or not whole."""
    try:
        with open(os.path.join(folder, _STATE_FILE)) as file:
            state = json.load(file)
        if (state["format"], state["identity"], state["boot"]) != (_STATE_FORMAT, identity, _boot()):
            return None
        store = VisibilityStore(
            folder=folder,
            partitions=tuple(
                Partition(**(p | {"output": tuple(p["output"]), "frequency": tuple(p["frequency"])}))
                for p in state["partitions"]
            ),
            counts=np.array(state["counts"], np.int64),
            selected=np.array(state["selected"], np.int64),
            power=np.array(state["power"], float),
            ms_bytes_read=int(state["ms_bytes_read"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return store if store.exists() else None


def _whole(partition: Partition) -> bool:
    return all(
        os.path.isfile(partition.path(name)) and os.path.getsize(partition.path(name)) >= size
        for name, size in _sizes(partition).items()
    )


def _sizes(partition: Partition) -> dict[str, int]:
    """Bytes of every array of a partition."""
    samples = int(np.prod(partition.shape))
    return {"uvw": 24 * partition.nrow, "order": 4 * partition.nrow, "vis": 8 * samples, "weight": 4 * samples}
