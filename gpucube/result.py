"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpucube.output.records import ChannelRecord, StopCode


@dataclass(frozen=True)
class Result:
    """What a run made.

    Attributes
    ----------
    channels : list of ChannelRecord
        In order of channel.
    products : dict
        Product name -> path, and ``"summary"``.
    summary : dict
        What ``OUT.summary.json`` holds.
    """

    channels: list[ChannelRecord]
    products: dict[str, str]
    summary: dict[str, Any]

    @property
    def failed_channels(self) -> list[int]:
        """Channels that could not be imaged; their planes are NaN."""
        return [r.channel for r in self.channels if r.stop_code == StopCode.FAILED]
