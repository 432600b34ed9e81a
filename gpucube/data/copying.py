"""Some channels of a visibility store become a store of their own, as if they had been read from the MeasurementSets.

In: a store that has been kept, and the partitions of a new one. Out: the new store, with the same bits that INGEST would
give it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpucube.data.recipe import Part
from gpucube.data.store import BYTES_A_SAMPLE, Partition, VisibilityStore, sort_rows, write_rows

BLOCK_BYTES = 8 * 2**20
"""Bytes of samples that are copied at once."""

BYTES_TO_COPY = 3 * BLOCK_BYTES
"""What copying takes beside the uvw of a partition: samples, and what becomes of them while they are written."""


def copy_channels(store: VisibilityStore, part: Part, partitions: Sequence[Partition]) -> VisibilityStore:
    """Fill the partitions of a new store from another one, whose warnings it gets. GpucubeError as `write_rows`."""
    for partition, number in zip(partitions, part.sources, strict=True):
        if partition.nrow:
            _copy(store.partitions[number], [part.channels[c] for c in partition.output], partition)
            sort_rows(partition)
    there = np.array(part.channels)

    def of_channels(values: np.ndarray) -> np.ndarray:
        return np.where(there < 0, 0, values[..., there])

    return VisibilityStore(
        folder=partitions[0].folder,
        partitions=tuple(partitions),
        counts=of_channels(store.counts),
        selected=of_channels(store.selected),
        power=of_channels(store.power),
        lacking=None if store.lacking is None else of_channels(store.lacking),
        warnings=store.warnings,
    )


def _copy(whole: Partition, channels: Sequence[int], target: Partition) -> None:
    """Fill a partition with channels of another one."""
    slots = [whole.output.index(channel) for channel in channels]
    uvw = np.empty((whole.nrow, 3))
    uvw[whole.array("order")] = whole.array("uvw")  # in the order of the samples
    vis, weight = whole.array("vis"), whole.array("weight")
    step = max(1, BLOCK_BYTES // (BYTES_A_SAMPLE * whole.nstokes * len(slots)))
    for first in range(0, whole.nrow, step):
        rows = slice(first, first + step)
        weights: np.ndarray = np.ascontiguousarray(weight[:, slots, rows])
        # as in INGEST: a row in which nothing counts must not decide the longest baseline
        counts = (weights > 0).any(axis=(0, 1))
        block = np.where(np.expand_dims(counts, 1), uvw[rows], 0.0)
        write_rows(target, first, block, np.ascontiguousarray(vis[:, slots, rows]), weights)
