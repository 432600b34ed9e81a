"""Those who listen to a run, for tests: some record its events, some let something happen at a given moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gpucube.output.records import ChannelRecord
from gpucube.run import Observer


@dataclass
class RecordedEvents:
    """Every event in the order in which it came."""

    order: list[tuple[str, int]] = field(default_factory=list)  # name of the event, and channel
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


@dataclass
class AtStage(Observer):
    """Lets something happen when a stage begins."""

    name: str
    happen: Callable[[], None]

    def stage(self, name: str) -> None:
        if name == self.name:
            self.happen()


@dataclass
class WhenSafe(Observer):
    """Lets something happen, once, when so many channels have been journalled."""

    count: int
    happen: Callable[[], None]
    safe_channels: set[int] = field(default_factory=set)

    def safe(self, records: Sequence[ChannelRecord]) -> None:
        before = len(self.safe_channels)
        self.safe_channels.update(r.channel for r in records)
        if before < self.count <= len(self.safe_channels):
            self.happen()


def interrupt() -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt
