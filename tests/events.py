"""`Events` that tests listen to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gpucube.output.records import ChannelRecord


@dataclass
class RecordedEvents:
    """Every event in the order in which it came.

    Attributes
    ----------
    order : list of (str, int)
        Name of the event and channel.
    started_channels : list of int
    finished_records, safe_records : list of ChannelRecord
    """

    order: list[tuple[str, int]] = field(default_factory=list)
    started_channels: list[int] = field(default_factory=list)
    finished_records: list[ChannelRecord] = field(default_factory=list)
    safe_records: list[ChannelRecord] = field(default_factory=list)

    def started(self, channel: int) -> None:
        self.order.append(("started", channel))
        self.started_channels.append(channel)

    def finished(self, record: ChannelRecord) -> None:
        self.order.append(("finished", record.channel))
        self.finished_records.append(record)

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        self.order += [("safe", r.channel) for r in records]
        self.safe_records += records

    def of(self, channel: int) -> list[str]:
        """Names of the events of one channel, in order."""
        return [name for name, c in self.order if c == channel]
