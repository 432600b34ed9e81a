"""The state of a run, read from disk while it is running, after it was interrupted, or when it has finished.

In: an imagename for which there is a journal (the run was interrupted, or is running) or a summary (it has finished).
Out: `Run`, and `findings`, what an astronomer should look at before trusting the cube.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.output.journal import is_locked, read_journal
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.output.summary import Summary
from gpucube.schema.parameters import Parameters
from gpucube.text import counted, ranges

MOST_KINDS = 10
"""Kinds of failure that get a line of their own."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, finished or not."""

    imagename: str
    nchan: int
    records: Sequence[ChannelRecord]  # of the channels that are safe on disk, in order of channel
    parameters: dict[str, Any]
    summary: Summary | None = None  # None if the run has not finished
    running: bool = False

    def noise(self) -> np.ndarray:
        """Collect the noise of the channels in `records`: Jy/beam, (nrecord,), NaN where there is no data."""
        return np.array([record.noise for record in self.records], float)


def read_run(imagename: str) -> Run:
    """Read what a run has left on disk. `GpucubeError` says if there is no run or its files are damaged."""
    # in this order, because the run may end in between: the summary is written last, and a new run removes it first
    running = is_locked(imagename)
    begun, summary = read_journal(imagename), Summary.read(imagename)
    if summary is not None:
        records, parameters = summary.channels, summary.parameters
        return Run(imagename=imagename, nchan=len(records), records=records, parameters=parameters, summary=summary)
    if begun is not None:
        parameters = {name: value for name, value in begun.fingerprint.items() if name in Parameters.model_fields}
        records, nchan = begun.records, begun.nchan
        return Run(imagename=imagename, nchan=nchan, records=records, parameters=parameters, running=running)
    if running:
        raise GpucubeError(f"the run on {imagename} is still reading its data: try again once imaging has started")
    paths = RunPaths(imagename)
    raise GpucubeError(
        f"no run is called {imagename}: found neither {paths.summary} nor {paths.journal}; give its imagename"
    )


def findings(run: Run) -> list[str]:
    """Say what needs attention, the worst first, such as ``"not clean: niter was used up (2 channels): 4, 9"``."""
    found = []

    def add(records: Iterable[ChannelRecord], text: str) -> None:
        if channels := [record.channel for record in records]:
            found.append(f"{text} ({counted(len(channels), 'channel')}): {ranges(channels)}")

    def stopped(*codes: StopCode) -> list[ChannelRecord]:
        return [record for record in run.records if stop_codes(record) & set(codes)]

    def kind(record: ChannelRecord) -> str:
        return record.message.partition(":")[0]

    failed = stopped(StopCode.FAILED)
    for common, _ in Counter(map(kind, failed)).most_common(MOST_KINDS):
        add((r for r in failed if kind(r) == common), f"failed, {common}" if common else "failed")
    add(
        stopped(StopCode.PEAK_GREW, StopCode.PEAK_ABOVE_MINIMUM),
        "diverged twice, best model kept; a mask, a lower gain or a higher cyclefactor may help",
    )
    add((r for r in run.records if r.retried), "diverged once, rolled back and tried again")
    if run.parameters.get("niter") != 0:
        add(stopped(StopCode.ITERATION_LIMIT), "not clean: niter was used up")
    add(stopped(StopCode.MAJOR_LIMIT), "not clean: nmajor was used up")
    add(stopped(StopCode.NO_CHANGE), "not clean: another cycle changed nothing")
    add(stopped(StopCode.ZERO_MASK), "not clean: the mask allows no pixel")
    imaged = [r for r in run.records if r.noise is not None and math.isfinite(r.noise)]
    usual = typical(run.noise())
    add((r for r in imaged if (r.noise or 0.0) > 2 * usual), "more than twice the usual noise")
    bmaj = {r.channel: r.beam["bmaj_arcsec"] for r in imaged if r.beam and "bmaj_arcsec" in r.beam}
    usual = typical(np.array([*bmaj.values()]))
    odd = (r for r in imaged if not usual / 1.5 < bmaj.get(r.channel, usual) < 1.5 * usual)
    add(odd if bmaj else (), "beam more than 1.5 times as long, or as short, as usual")
    add((r for r in imaged if r.flagged_fraction > 0.5), "more than half of the samples flagged")
    add(stopped(StopCode.NO_DATA), "no data, blank")
    if run.summary is not None:
        found += run.summary.warnings
    return found


def stop_codes(record: ChannelRecord) -> set[int]:
    """Collect the stop codes of all Stokes planes of a channel."""
    return {plane.stop_code for plane in record.planes.values()}


def typical(values: np.ndarray) -> float:
    """Return the median of the finite values, or 0 if there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0
