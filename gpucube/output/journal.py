"""The journal: what of a run is safely on disk, so that a cut-off run can be finished with the same bits.

In: the run's fingerprint (everything its bits depend on) and, channel by channel, a record that holds the checksums of its
planes, given only after their bytes were synced. Out: an append-only file of JSON lines, `OUT.journal`, which is the truth for
``resume=True``: a plane not journalled, or whose bytes do not match, is made again. While a run goes on it holds a lock on
the file, so that a second run on the same imagename refuses; the system lets go of it however the run ends. The first line
begins with a name that every run, also one that resumes, makes up for itself: tasks that an ended run left on somebody's
scheduler see by it that the cubes are no longer theirs (`Lease`). A finished run has its summary instead and leaves no journal.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic import TypeAdapter

from gpucube import disk
from gpucube.errors import GpucubeError
from gpucube.output.fits_cube import CubeFile
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord

FORMAT = 2

NOT_IN_FINGERPRINT = frozenset(
    {"resume", "overwrite", "workers", "memory", "scheduler", "scratch", "chunksize", "device", "quiet"}
)
"""Parameters that do not change a bit of the cube."""


def fingerprint(parameters: dict[str, Any], device: str, version: str) -> dict[str, Any]:
    """Everything the bits of the cube depend on, by name.

    Parameters
    ----------
    parameters : dict
        Plain, in base units; `vis` among them.
    device : str
        The kind of device that was chosen.
    version : str
        Of gpucube.
    """
    found = {name: value for name, value in parameters.items() if name not in NOT_IN_FINGERPRINT}
    found["vis"] = [os.path.abspath(path) for path in parameters["vis"]]
    found["imagename"] = os.path.abspath(parameters["imagename"])
    found |= {"device": device, "gpucube version": version}
    for path in parameters["vis"]:
        found[f"contents of {os.path.abspath(path)}"] = tree_state(path)
    if parameters.get("mask"):
        found[f"contents of {os.path.abspath(parameters['mask'])}"] = tree_state(parameters["mask"])
    return json.loads(json.dumps(found))


def tree_state(path: str) -> str:
    """Digest of names, sizes and modification times of a file or of all files under a folder; lock files do not count."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file() and p.name != "table.lock")
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed between two fingerprints, in words; empty if nothing did."""
    changes = []
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            if name.startswith("contents of "):
                changes.append(f"{name.removeprefix('contents of ')} has changed")
            else:
                changes.append(f"{name} was {json.dumps(before.get(name))} and is {json.dumps(now.get(name))}")
    return "; ".join(changes)


_RUN_PREFIX = b'{"run": "'
"""A journal begins with this and the name of the run, so that a resumed run can put its own in the same place."""


@dataclass(frozen=True)
class Lease:
    """Leave to write into the cubes of a run, good until another run takes the imagename over, or this one has ended.

    A task cannot be stopped on a scheduler that outlives the run: it must see by itself that it comes too late.

    Attributes
    ----------
    path : str
        The journal, as any worker can find it.
    run : str
        Name of the run, of fixed length.
    """

    path: str
    run: str

    def check(self) -> None:
        """Look whether the journal still is this run's.

        Raises
        ------
        GpucubeError
            It is not.
        """
        mine = _RUN_PREFIX + self.run.encode()
        try:
            with open(self.path, "rb") as file:
                valid = file.read(len(mine)) == mine
        except FileNotFoundError:
            valid = False
        except OSError as error:
            raise GpucubeError(f"cannot read the journal {self.path}: {error.strerror}") from None
        if not valid:
            raise GpucubeError(f"{self.path} is no longer that of this run: nothing more is written")


def _shared_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Thousands of records need not hold the same words thousands of times."""
    return {sys.intern(name): value for name, value in pairs}


class SafeRecords(MutableMapping[int, ChannelRecord]):
    """Records by channel, each kept as its line of the journal, compressed: a quarter of what the objects take."""

    def __init__(self) -> None:
        self._lines: dict[int, bytes] = {}

    def __getitem__(self, channel: int) -> ChannelRecord:
        line = zlib.decompress(self._lines[channel])
        return ChannelRecord(**json.loads(line, object_pairs_hook=_shared_names))

    def __setitem__(self, channel: int, record: ChannelRecord) -> None:
        self._lines[channel] = zlib.compress(json.dumps(record.as_dict()).encode(), 1)

    def __delitem__(self, channel: int) -> None:
        del self._lines[channel]

    def __iter__(self) -> Iterator[int]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, channel: object) -> bool:
        return channel in self._lines


def _lines(path: str) -> Iterator[tuple[Any, int]]:
    """What the lines of a journal hold, and the bytes up to the end of each; whole lines, up to the first that is no JSON."""
    with open(path, "rb") as file:
        end = 0
        for line in file.read().split(b"\n")[:-1]:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                return
            end += len(line) + 1
            yield value, end


def _check_format(path: str, header: dict[str, Any]) -> None:
    if header["format"] != FORMAT:
        raise GpucubeError(
            f"{path} has format {header['format']}, this version knows {FORMAT}: start anew with overwrite=True"
        )


@dataclass(frozen=True)
class Unfinished:
    """A run as its journal tells it.

    Attributes
    ----------
    fingerprint : dict
    records : list of ChannelRecord
        Of the channels that are safe, in order of channel.
    nchan : int
        Of the cube.
    """

    fingerprint: dict[str, Any]
    records: list[ChannelRecord]
    nchan: int


def read_journal(imagename: str) -> Unfinished | None:
    """Look into the journal of a run that is cut off or goes on, without touching it.

    Returns
    -------
    Unfinished or None
        None if there is no journal, or no imaging was begun in it.

    Raises
    ------
    GpucubeError
        It cannot be read, or is of another version.
    """
    path = RunPaths(imagename).journal
    a_cube, a_record = TypeAdapter(CubeFile), TypeAdapter(ChannelRecord)
    try:
        lines = [value for value, _ in _lines(path)]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise GpucubeError(f"cannot read {path}: {error.strerror}") from None
    if not lines:
        return None
    try:
        _check_format(path, lines[0])
        nchan = max(a_cube.validate_python(cube).nchan for cube in lines[0]["cubes"].values())
        identity = dict(lines[0]["fingerprint"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise GpucubeError(f"{path} is damaged: start anew with overwrite=True") from None
    records: dict[int, ChannelRecord] = {}
    for value in lines[1:]:
        try:
            record = a_record.validate_python(value)
        except ValueError:
            break  # what follows does not count, as for `resume`
        if not 0 <= record.channel < nchan:
            break
        records[record.channel] = record
    return Unfinished(identity, [records[c] for c in sorted(records)], nchan)


class Journal:
    """An open, locked journal. Use as a context manager.

    Parameters
    ----------
    imagename : str
    identity : dict
        Fingerprint of the run.
    resume : bool
        Take over what an earlier run journalled.

    Attributes
    ----------
    cubes : dict of str to CubeFile
        Of the run that is taken up; empty if there is none.
    records : mapping of int to ChannelRecord
        Safe channels.
    lease : Lease
        What the tasks of this run write under, once `begin` was called or an earlier run was taken up.

    Raises
    ------
    GpucubeError
        Another run holds the lock; the fingerprints differ; the file cannot be written.
    """

    def __init__(self, imagename: str, identity: dict[str, Any], resume: bool):
        self.path = RunPaths(imagename).journal
        self.cubes: dict[str, CubeFile] = {}
        self.records = SafeRecords()
        self.lease = Lease(os.path.abspath(self.path), secrets.token_hex(16))
        self._identity = identity
        self._mutex = threading.Lock()
        with self._explained():
            self._file = disk.open_log(self.path)
        try:
            self._lock(imagename)
            if resume:
                self._read()
                self._take_over()
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self, imagename: str) -> None:
        # the file may have been removed, by a run that came to its end, between opening and locking it
        if not (disk.lock(self._file) and disk.is_file_at(self._file, self.path)):
            raise GpucubeError(f"another run is making {imagename} now: wait for it, or give another imagename")

    def _explained(self) -> AbstractContextManager[None]:
        return disk.explain(f"cannot write the journal {self.path}")

    def _read(self) -> None:
        """Take over an earlier run; a line cut off by a crash, and what follows it, do not count."""
        good = 0
        for value, end in _lines(self.path):
            try:
                if good == 0:
                    self._take_header(value)
                else:
                    record = ChannelRecord(**value)
                    self.records[record.channel] = record
            except (ValueError, KeyError, TypeError):
                break
            good = end
        os.ftruncate(self._file, good)

    def _take_over(self) -> None:
        """Put the name of this run in the place of the one that is taken up."""
        if not self.cubes:
            return
        with self._explained():
            # not through the journal's own descriptor, which can only append
            disk.write_at(self.path, self.lease.run.encode(), len(_RUN_PREFIX))
            disk.sync(self.path)

    def _take_header(self, value: dict[str, Any]) -> None:
        _check_format(self.path, value)
        if len(value["run"]) != len(self.lease.run):
            raise ValueError("no name of a run")
        if changed := difference(value["fingerprint"], self._identity):
            raise GpucubeError(
                f"cannot resume {self.path}: {changed}; give the same again, or start anew with overwrite=True"
            )
        self.cubes = {name: CubeFile(**cube) for name, cube in value["cubes"].items()}

    def clear(self) -> None:
        """Forget an earlier run, and end its tasks' leave to write: to be called before its cubes are replaced."""
        os.ftruncate(self._file, 0)

    def begin(self, cubes: dict[str, CubeFile]) -> None:
        """Write the header of a new run, and make the names of journal and cubes safe."""
        self.clear()
        self.cubes, self.records = dict(cubes), SafeRecords()
        plain = {name: asdict(cube) for name, cube in cubes.items()}
        self._append([{"run": self.lease.run, "format": FORMAT, "fingerprint": self._identity, "cubes": plain}])
        with self._explained():
            disk.sync(os.path.dirname(os.path.abspath(self.path)))

    def add(self, records: Iterable[ChannelRecord]) -> None:
        """Note channels whose planes have been synced, and sync the note. May be called from any thread."""
        with self._mutex:
            fresh = [r for r in records if r.channel not in self.records]
            self._append([r.as_dict() for r in fresh])
            self.records.update({r.channel: r for r in fresh})

    def drop(self, channels: Iterable[int]) -> None:
        """Forget channels whose bytes turned out not to be there: their next line counts."""
        for channel in channels:
            del self.records[channel]

    def _append(self, values: list[dict[str, Any]]) -> None:
        with self._explained():  # a line cut short would hide all that follow it
            disk.append(self._file, "".join(json.dumps(v) + "\n" for v in values).encode())

    def forget(self) -> None:
        """Remove the file: the run is finished, or nothing of it is worth keeping.

        Raises
        ------
        GpucubeError
            The file system refuses.
        """
        with disk.explain(f"cannot remove the journal {self.path}"):
            os.unlink(self.path)

    def close(self) -> None:
        """Let go of the file and its lock; once is enough."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_locked(imagename: str) -> bool:
    """Whether a run on this imagename is going on now."""
    return disk.is_locked(RunPaths(imagename).journal)
