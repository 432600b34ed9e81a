"""Records of channels, made up for tests."""

from __future__ import annotations

from typing import Any

from gpucube.output.records import ChannelRecord, PlaneRecord


def channel_record(channel: int, **plane: Any) -> ChannelRecord:
    """The record of a channel at 1.42 GHz with one plane; `plane` are fields of `PlaneRecord`."""
    return ChannelRecord(channel=channel, frequency_hz=1.42e9, planes={"I": PlaneRecord(**plane)})
