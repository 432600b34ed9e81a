"""VisibilityStore: the selected visibilities, channel after channel, memory-mapped in a scratch folder.

In: what INGEST makes of blocks of rows. Out: for any output channel, its samples (uvw, visibility, weight), each a
contiguous run. The store is made of partitions, one per (MeasurementSet, DATA_DESC_ID, FIELD), each with its own uvw and
its own output channels, so that spectral windows and MSs with different rows cost nothing extra. 12 bytes a sample:
complex64 + float32. The page cache keeps what fits in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.geometry import LIGHT_SPEED

BYTES_A_SAMPLE = 12


@dataclass(frozen=True)
class Partition:
    """Where one partition lies.

    Attributes
    ----------
    folder : str
    index : int
    nrow, nstokes : int
    output : tuple of int
        Output channel of each slot, ascending.
    frequency : tuple of float
        Hz, of each slot: scales uvw.
    """

    folder: str
    index: int
    nrow: int
    nstokes: int
    output: tuple[int, ...]
    frequency: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (nstokes, nslot, nrow) of visibilities and weights."""
        return self.nstokes, len(self.output), self.nrow

    def nbytes(self) -> int:
        """Bytes on disk."""
        return int(np.prod(self.shape)) * BYTES_A_SAMPLE + self.nrow * 24

    def path(self, name: str) -> str:
        """Path of the array `name`: ``"uvw"``, ``"vis"`` or ``"weight"``."""
        return os.path.join(self.folder, f"partition{self.index}.{name}")

    def array(self, name: str, mode: str = "r") -> np.ndarray:
        """Memory-map an array: uvw float64 (nrow, 3); vis complex64, weight float32 (nstokes, nslot, nrow)."""
        dtype, shape = {
            "uvw": (np.float64, (self.nrow, 3)),
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
    """

    uvw: np.ndarray
    frequency: float
    vis: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class VisibilityStore:
    """All partitions, and what INGEST learnt of every plane.

    Attributes
    ----------
    folder : str
    partitions : tuple of Partition
    counts : numpy.ndarray
        Samples that count, int64, shape (nstokes, nchan).
    selected : numpy.ndarray
        Samples selected, flagged or not, int64, shape (nchan,).
    power : numpy.ndarray
        Weighted mean |V|^2 in units of the noise expected from the weights, shape (nstokes, nchan); 0 without data.
    """

    folder: str
    partitions: tuple[Partition, ...]
    counts: np.ndarray
    selected: np.ndarray
    power: np.ndarray

    def samples(self, stokes: int, channel: int) -> Samples | None:
        """Samples of a plane; None if no partition holds its channel.

        Several partitions are joined into one set at the frequency of the first.
        """
        parts = [
            Samples(p.array("uvw"), p.frequency[k], p.array("vis")[stokes, k], p.array("weight")[stokes, k])
            for p in self.partitions
            if p.nrow and (k := _slot(p.output, channel)) is not None
        ]
        if len(parts) < 2:
            return parts[0] if parts else None
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

    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(p.nbytes() for p in self.partitions)


def _slot(output: tuple[int, ...], channel: int) -> int | None:
    index = int(np.searchsorted(output, channel))
    return index if index < len(output) and output[index] == channel else None


def allocate(folder: str, shapes: Sequence[tuple[int, int, tuple[int, ...], tuple[float, ...]]]) -> list[Partition]:
    """Make the scratch folder and the empty arrays of every partition, on real disk blocks.

    Parameters
    ----------
    folder : str
    shapes : sequence of (nrow, nstokes, output channels, frequencies)

    Raises
    ------
    GpucubeError
        The folder exists, cannot be made, or the disk is too small.
    """
    partitions = [Partition(folder, i, *shape) for i, shape in enumerate(shapes)]
    need = sum(p.nbytes() for p in partitions)
    try:
        os.makedirs(folder)
    except FileExistsError:
        raise GpucubeError(
            f"scratch folder {folder} already exists: remove it if no other run uses it, or name another with scratch"
        ) from None
    except OSError as error:
        raise GpucubeError(f"scratch folder {folder} cannot be made: {error.strerror}") from None
    free = shutil.disk_usage(folder).free
    if need > free:
        os.rmdir(folder)
        raise GpucubeError(
            f"the visibility store needs {need / 1e9:.2f} GB but {folder} has only {free / 1e9:.2f} GB free: "
            "name another folder with scratch"
        )
    for p in partitions:
        for name in ("uvw", "vis", "weight"):
            _reserve(p.path(name), {"uvw": p.nrow * 24, "vis": 8 * np.prod(p.shape), "weight": 4 * np.prod(p.shape)}[name])
    return partitions


def _reserve(path: str, nbytes: int) -> None:
    """Give a file real blocks: a memory-mapped hole on a full disk would end in a bus error."""
    with open(path, "wb") as file:
        if nbytes:
            try:
                os.posix_fallocate(file.fileno(), 0, int(nbytes))
            except OSError as error:
                raise GpucubeError(f"{path}: {error.strerror} ({nbytes / 1e9:.2f} GB wanted)") from None
        else:
            file.write(b"\0")
