"""Records and runs made up in memory, for the tests of findings and pages."""

from __future__ import annotations

from typing import Any

from records import channel_record

from gpucube.output.records import ChannelRecord, StopCode
from gpucube.report.state import Run


def record(channel: int, code: StopCode = StopCode.NSIGMA, **changes: Any) -> ChannelRecord:
    """A channel that went well unless `code` and `changes` say otherwise."""
    beam = {"bmaj_arcsec": 40.0, "bmin_arcsec": 30.0, "bpa_deg": 0.0}
    settings = {"noise": 1e-3, "limit": 3e-3, "peak_residual": 2.9e-3, "beam": beam, "flagged_fraction": 0.1} | changes
    return channel_record(channel, stop_code=code, **settings)


def run_of(records: list[ChannelRecord], nchan: int | None = None) -> Run:
    """An unfinished run with these channels done."""
    return Run(imagename="cube", nchan=nchan or len(records), records=records, parameters={})
