"""The result of a benchmark: the seconds, the work and the floor of every stage.

In: the measurements of `gpucube.bench.stages`. Out: an `Outcome`, which `gpucube.bench.report` shows.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gpucube.output.records import ChannelRecord

INGEST_STAGES = ("read", "transpose")
RECORD_STAGES = ("upload", "weights", "grid", "psf", "fft", "measure", "minor", "major", "restore", "write")
"""The stages whose seconds are in the channel records."""

IMAGE_STAGES = (*RECORD_STAGES, "sync", "idle")
STAGES = INGEST_STAGES + IMAGE_STAGES


def spread(values: Sequence[float]) -> float:
    """Return (largest - smallest) / median."""
    middle = statistics.median(values)
    return (max(values) - min(values)) / middle if middle > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The work of a stage, and the least time in which the machine could do it."""

    work: float = 0.0
    unit: str = ""  # of the work: "vis", "it", "pix", "cycle" or "B"
    nbytes: float = 0.0  # read and written at least
    seconds: float | None = None  # None where nothing was measured
    name: str = ""  # of what was timed
    kind: str = ""  # of the resource that it stands for


@dataclass(frozen=True)
class Stage:
    """The seconds of a stage in each repeat, all channels together, and its floor."""

    seconds: Sequence[float]
    floor: Floor = Floor()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def scaled(self, factor: float) -> Stage:
        """Return the stage with `factor` times the work."""
        floor = self.floor
        limit = None if floor.seconds is None else factor * floor.seconds
        floor = replace(floor, work=factor * floor.work, nbytes=factor * floor.nbytes, seconds=limit)
        return Stage([factor * seconds for seconds in self.seconds], floor)


@dataclass(kw_only=True)
class Outcome:
    """The results of a workload, filled in while it runs."""

    definition: dict[str, Any]  # what was run
    notes: list[str] = field(default_factory=list)  # what was cut or scaled
    device: str = "cpu"
    workers: int = 1
    chunksize: int = 0
    stages: dict[str, Stage] = field(default_factory=dict)
    walls: Sequence[float] = ()  # seconds of each repeat
    others: Sequence[float] = ()  # share of the machine that other programs used meanwhile
    records: Sequence[ChannelRecord] = ()  # of one repeat
    memory_peak: int = 0  # of the process so far, bytes

    def add(self, walls: Sequence[float], stages: Mapping[str, Stage], factor: float = 1.0) -> None:
        """Add stages that took these wall seconds for 1 / `factor` of the work."""
        before = self.walls or [0.0] * len(walls)
        self.walls = [a + factor * b for a, b in zip(before, walls, strict=True)]
        self.stages |= {name: stage.scaled(factor) for name, stage in stages.items()}

    @property
    def wall(self) -> float:
        """Median wall seconds."""
        return statistics.median(self.walls)

    @property
    def accounted(self) -> float:
        """Sum of the stages over the wall time, median of the repeats."""
        sums = [sum(stage.seconds[i] for stage in self.stages.values()) for i in range(len(self.walls))]
        return statistics.median(s / w for s, w in zip(sums, self.walls, strict=True))
