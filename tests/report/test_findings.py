"""Findings name what an astronomer must look at, the worst first, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace

from made_up import record, run_of

from gpucube.output.records import StopCode
from gpucube.report.state import findings


def test_what_needs_attention_is_named_the_worst_first() -> None:
    records = [record(c) for c in range(20)]
    records[1] = record(1, StopCode.FAILED, message="MemoryError: out", noise=None, beam=None)
    records[2] = record(2, StopCode.PEAK_GREW, retried=True)
    records[3] = record(3, StopCode.NSIGMA, retried=True)
    records[4] = record(4, StopCode.ITERATION_LIMIT)
    records[5] = record(5, StopCode.MAJOR_LIMIT)
    records[6] = record(6, StopCode.NO_CHANGE)
    records[7] = record(7, noise=2.5e-3)
    records[8] = record(8, noise=2.5e-3)
    records[9] = record(9, beam={"bmaj_arcsec": 90.0, "bmin_arcsec": 30.0, "bpa_deg": 0.0})
    records[10] = record(10, flagged_fraction=0.7)
    records[11] = record(11, StopCode.NO_DATA, noise=None, beam=None, flagged_fraction=1.0)
    found = findings(run_of(records))
    ends = ["1", "2", "2~3", "4", "5", "6", "7~8", "9", "10", "11"]
    assert [re.search(r" \(\d+ channels?\): ([\d~, ]+)$", line)[1] for line in found] == ends
    assert found[0].startswith("failed, MemoryError (1 channel)")


def test_of_several_stokes_planes_none_is_forgotten() -> None:
    good = record(0, StopCode.NSIGMA, iterations=2).planes["I"]
    bad = record(0, StopCode.PEAK_GREW, iterations=1).planes["I"]
    merged = replace(record(0), planes={"I": good, "V": bad})
    assert merged.stop_code == StopCode.NSIGMA
    assert findings(run_of([merged]))[0].startswith("diverged twice")


def test_many_failures_take_few_lines() -> None:
    records = [record(c, StopCode.FAILED, message=f"KilledWorker: task {c} " + "x" * 400) for c in range(0, 4000, 2)]
    (line,) = findings(run_of(records, nchan=4000))
    assert line.startswith("failed, KilledWorker (2000 channels): 0, 2, 4,")


def test_nothing_needs_attention_where_all_is_well() -> None:
    assert findings(run_of([record(c) for c in range(5)])) == []
    assert findings(run_of([])) == []
