"""The journal: which channels of a run are safe on disk, so that an interrupted run can be finished with the same bits.

In: the run's fingerprint and cubes, then the record of every channel, once its planes have been synced. Out: an
append-only file of JSON lines, ``OUT.journal``. ``resume=True`` relies on this file: a channel is imaged again if it has no
record, or if its planes do not have the checksums of its record. A damaged line and everything after it are
ignored. A finished run has a summary and no journal.

The run holds a lock on the file, so that a second run with the same imagename is refused. The system releases the lock
however the run ends. Tasks that an ended run left on a scheduler cannot be stopped. They learn from the first line,
which begins with the name of the run, that the cubes are no longer theirs (`Lease`).
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic_core import from_json

from gpucube import disk
from gpucube.errors import GpucubeError
from gpucube.output.fingerprint import difference
from gpucube.output.fits_cube import CubeFile
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord

FORMAT = 3
"""Number of the format of the file. A run of another format cannot be resumed."""

_RUN_PREFIX = '{"run": "'
"""A journal begins with this and the name of the run, so that a resumed run can put its own name in the same place."""

_RUN_LENGTH = 32
"""Characters of the name of a run."""


@dataclass(frozen=True)
class Lease:
    """Permission to write into the cubes of a run, until the run has ended or another run has taken over its imagename."""

    path: str  # the journal, as any worker can find it
    run: str  # name of the run

    def check(self) -> None:
        """Return if the journal is still this run's; otherwise raise."""
        expected = (_RUN_PREFIX + self.run).encode()
        with disk.explain(f"cannot read the journal {self.path}"):
            try:
                ours = disk.read_at(self.path, len(expected), 0) == expected
            except FileNotFoundError:
                ours = False
        if not ours:
            raise GpucubeError(f"{self.path} no longer belongs to this run: nothing more is written")


@dataclass(frozen=True, kw_only=True)
class _Header:
    """The first line of a journal."""

    run: Annotated[str, Field(min_length=_RUN_LENGTH, max_length=_RUN_LENGTH)]
    format: int
    fingerprint: dict[str, Any]
    cubes: Annotated[dict[str, CubeFile], Field(min_length=1)]


_header = TypeAdapter(_Header)


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """The contents of the journal of an unfinished run."""

    fingerprint: dict[str, Any]
    cubes: dict[str, CubeFile]  # by product
    records: list[ChannelRecord]  # channels that are safe, in order of channel
    nbytes: int  # length of the file up to the first line that is damaged
    nchan: int  # of the cubes


def read_journal(imagename: str) -> Unfinished | None:
    """Read the journal of a run that was interrupted or is running, without changing it.

    None if there is no journal, or if imaging has not begun. An error if the journal cannot be read, is damaged from its
    beginning, or has the format of another version.
    """
    path = RunPaths(imagename).journal
    lines = _whole_lines(path)
    if (first := next(lines, None)) is None:
        return None
    try:
        plain = from_json(first)
        if isinstance(plain, dict) and plain.get("format", FORMAT) != FORMAT:
            raise GpucubeError(
                f"{path} has format {plain['format']}, this version knows {FORMAT}: start again with `overwrite=True`"
            )
        header = _header.validate_python(plain)
    except ValueError:
        raise GpucubeError(f"{path} is damaged: start again with `overwrite=True`") from None
    nchan = next(iter(header.cubes.values())).nchan
    nbytes, records = len(first), {}
    for line in lines:
        try:
            record = ChannelRecord.from_json(line)
        except ValueError:
            break
        if not 0 <= record.channel < nchan:
            break
        nbytes += len(line)
        records[record.channel] = record
    return Unfinished(
        fingerprint=header.fingerprint,
        cubes=header.cubes,
        records=[records[channel] for channel in sorted(records)],
        nbytes=nbytes,
        nchan=nchan,
    )


def resumable(imagename: str, identity: dict[str, Any]) -> Unfinished | None:
    """Read the journal as `read_journal` does; an error if it belongs to a run with another identity."""
    earlier = read_journal(imagename)
    if earlier and (changed := difference(earlier.fingerprint, identity)):
        path = RunPaths(imagename).journal
        raise GpucubeError(
            f"cannot resume {path}: {changed}; give the same again, or start again with `overwrite=True`"
        )
    return earlier


def _whole_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file up to the first that was cut short, or none if there is no file."""
    with disk.explain(f"cannot read {path}"), suppress(FileNotFoundError), disk.open_to_read(path) as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line


class Journal(AbstractContextManager["Journal"]):
    """The journal of a running job: a context manager that holds the lock."""

    def __init__(self, imagename: str, identity: dict[str, Any], resume: bool = False):
        """Lock the journal in a folder that exists. With `resume`, take over what a run of the same identity left."""
        self._imagename = imagename
        self.path = RunPaths(imagename).journal
        self.lease = Lease(os.path.abspath(self.path), secrets.token_hex(_RUN_LENGTH // 2))
        self.cubes: dict[str, CubeFile] = {}  # by product; empty until `begin`, unless a run is resumed
        self.safe: set[int] = set()  # channels that are safe on disk
        self._identity = identity
        self._mutex = threading.Lock()
        fresh = not os.path.lexists(self.path)
        with self._explained():
            self._file = disk.open_log(self.path)
        try:
            with self._explained():
                # a run that finished between opening and locking has removed the file
                try:
                    ours = disk.lock(self._file) and disk.is_file_at(self._file, self.path)
                except OSError:
                    if fresh:
                        disk.remove_if_possible(self.path)
                    raise
            if not ours:
                raise GpucubeError(
                    f"another run is making {imagename} now: wait until it ends, or give another `imagename`"
                )
            if resume:
                self._take_over()
        except BaseException:
            self.close()
            raise

    def _explained(self) -> AbstractContextManager[None]:
        return disk.explain(f"cannot write the journal {self.path}")

    def _take_over(self) -> None:
        """Take over an earlier run: cut off damaged lines and replace the name of the old run by that of this run."""
        if (earlier := resumable(self._imagename, self._identity)) is None:
            return
        self.cubes = earlier.cubes
        self.safe = {record.channel for record in earlier.records}
        with self._explained():
            disk.truncate(self._file, earlier.nbytes)
            # not through the journal's own descriptor, which can only append
            disk.write_at(self.path, self.lease.run.encode(), len(_RUN_PREFIX))
            disk.sync(self.path)

    def clear(self) -> None:
        """Discard an earlier run and revoke its lease. Call it before its cubes are replaced."""
        with self._explained():
            disk.truncate(self._file, 0)

    def begin(self, cubes: dict[str, CubeFile]) -> None:
        """Write the header of a new run, and make the names of journal and cubes safe."""
        self.clear()
        self.cubes, self.safe = cubes, set()
        header = _Header(run=self.lease.run, format=FORMAT, fingerprint=self._identity, cubes=cubes)
        self._append([json.dumps(asdict(header))])
        with self._explained():
            disk.sync_names(os.path.dirname(os.path.abspath(self.path)))

    def add(self, records: Iterable[ChannelRecord]) -> None:
        """Record channels whose planes have been synced, and sync the records. Any thread may call it."""
        with self._mutex:
            fresh = {r.channel: r for r in records if r.channel not in self.safe}
            self._append([r.to_json() for r in fresh.values()])
            self.safe.update(fresh)

    def drop(self, channel: int) -> None:
        """Discard the record of a channel whose planes turned out to be damaged."""
        self.safe.remove(channel)

    def records(self) -> list[ChannelRecord]:
        """Read the records of the channels that are safe, in order of channel, one at a time to save memory."""
        found = read_journal(self._imagename)
        return [record for record in found.records if record.channel in self.safe] if found else []

    def _append(self, lines: list[str]) -> None:
        with self._explained():  # all or nothing: a line cut short would hide all that follow it
            disk.append(self._file, "".join(line + "\n" for line in lines).encode())

    def remove(self) -> None:
        """Remove the file: the run has finished, or has no channel worth keeping."""
        with disk.explain(f"cannot remove the journal {self.path}"):
            disk.remove(self.path)

    def close(self) -> None:
        """Close the file, which releases the lock. It may be closed already."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __exit__(self, *_: object) -> None:
        self.close()


def is_locked(imagename: str) -> bool:
    """Return True if a run with this imagename is running now."""
    return disk.is_locked(RunPaths(imagename).journal)
