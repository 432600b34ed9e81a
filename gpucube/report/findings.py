"""What an astronomer should look at before trusting a cube.

In: a `Run`. Out: lines of plain text, the worst first; each names its channels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from gpucube.output.records import ChannelRecord, StopCode
from gpucube.report.state import Run
from gpucube.words import counted, ranges

MOST_KINDS = 10
"""Kinds of failure that get a line of their own."""


def findings(run: Run) -> list[str]:
    """List what needs attention; the list is empty if nothing does.

    Parameters
    ----------
    run : Run

    Returns
    -------
    list of str
        Such as ``"not clean: niter was used up (2 channels): 4, 9"``.
    """
    found = []

    def add(records: Iterable[ChannelRecord], text: str) -> None:
        if channels := [record.channel for record in records]:
            found.append(f"{text} ({counted(len(channels), 'channel')}): {ranges(channels)}")

    def stopped(*codes: StopCode) -> list[ChannelRecord]:
        return [record for record in run.records if stop_codes(record) & set(codes)]

    failed = stopped(StopCode.FAILED)
    kinds = Counter(_kind(record) for record in failed)
    for kind, _ in kinds.most_common(MOST_KINDS):
        add((r for r in failed if _kind(r) == kind), f"failed, {kind}" if kind else "failed")
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
    noise = {r.channel: r.noise for r in run.records if r.noise is not None and math.isfinite(r.noise)}
    imaged = [r for r in run.records if r.channel in noise]
    if noise:
        usual = float(np.median(list(noise.values())))
        add((r for r in imaged if noise[r.channel] > 2 * usual), "more than twice the usual noise")
    bmaj = {r.channel: r.beam["bmaj_arcsec"] for r in imaged if r.beam and "bmaj_arcsec" in r.beam}
    if bmaj:
        usual = float(np.median(list(bmaj.values())))
        odd = (r for r in imaged if not usual / 1.5 < bmaj.get(r.channel, usual) < 1.5 * usual)
        add(odd, "beam more than 1.5 times as long, or as short, as usual")
    add((r for r in imaged if r.flagged_fraction > 0.5), "more than half of the samples flagged")
    add(stopped(StopCode.NO_DATA), "no data, blank")
    if run.summary is not None:
        found += run.summary.warnings
    return found


def stop_codes(record: ChannelRecord) -> set[int]:
    """Stop codes of all Stokes planes of a channel."""
    return {plane.stop_code for plane in record.planes.values()}


def _kind(record: ChannelRecord) -> str:
    """What kind of failure a message reports: the words before its colon."""
    return record.message.partition(":")[0]
