"""The journal: what of a run is safely on disk, so that a cut-off run can be finished with the same bits.

In: the run's fingerprint (everything its bits depend on) and, channel by channel, a record with the checksums of its planes,
given only after their bytes were synced. Out: an append-only file of JSON lines, `OUT.journal`, which is the truth for
``resume=True``: a plane not journalled, or whose bytes do not match, is made again. While a run goes on it holds a lock on
the file, so that a second run on the same imagename refuses; the system lets go of it however the run ends. A finished run
has its summary instead and leaves no journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from gpucube.errors import GpucubeError

FORMAT = 1

NOT_IN_FINGERPRINT = frozenset(
    {"resume", "overwrite", "workers", "memory", "scheduler", "scratch", "chunksize", "device", "quiet"}
)
"""Parameters that do not change a bit of the cube."""


@dataclass(frozen=True)
class Entry:
    """A finished channel: its record, and for each product the checksums of its planes, one per Stokes parameter."""

    record: dict[str, Any]
    checksums: dict[str, list[str]]


def journal_path(imagename: str) -> str:
    """Where the journal of an imagename lies."""
    return f"{imagename}.journal"


def checksum(data: bytes | memoryview) -> str:
    """Checksum of a plane's bytes as they lie in the file."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


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


class Journal:
    """An open, locked journal. Use as a context manager.

    Parameters
    ----------
    imagename : str
    identity : dict
        Fingerprint of the run.
    resume : bool
        Go on with what is there.

    Raises
    ------
    GpucubeError
        Another run holds the lock; the fingerprints differ; the file cannot be written.
    """

    def __init__(self, imagename: str, identity: dict[str, Any], resume: bool):
        self.path = journal_path(imagename)
        self.entries: dict[int, Entry] = {}
        self.resumed = False
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        try:
            self._file = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise GpucubeError(f"cannot write the journal {self.path}: {error.strerror}") from None
        try:
            self._lock(imagename)
            if resume:
                self._read(identity)
            if not self.resumed:
                os.ftruncate(self._file, 0)
                self._append({"format": FORMAT, "fingerprint": identity})
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self, imagename: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GpucubeError(
                f"another run is making {imagename} now: wait for it, or give another imagename"
            ) from None

    def _read(self, identity: dict[str, Any]) -> None:
        """Take over the entries of an earlier run; a line cut off by a crash, and what follows it, do not count."""
        with open(self.path, "rb") as file:
            content = file.read()
        lines = content.split(b"\n")[:-1]  # what follows the last line end was cut off
        if not lines:
            return
        good = 0
        for number, line in enumerate(lines):
            try:
                value = json.loads(line)
                if number == 0:
                    if value["format"] != FORMAT:
                        raise GpucubeError(
                            f"{self.path} has format {value['format']}, this version knows {FORMAT}: "
                            "start again with overwrite=True"
                        )
                    if changed := difference(value["fingerprint"], identity):
                        raise GpucubeError(
                            f"cannot resume {self.path}: {changed}; "
                            "give the same again, or start anew with overwrite=True"
                        )
                else:
                    entry = Entry(value["record"], value["checksums"])
                    self.entries[int(entry.record["channel"])] = entry
            except (ValueError, KeyError, TypeError):
                break
            good += len(line) + 1
        if good == 0:
            return
        os.ftruncate(self._file, good)
        self.resumed = True

    def add(self, entry: Entry) -> None:
        """Note a channel whose planes have been synced, and sync the note."""
        self._append({"record": entry.record, "checksums": entry.checksums})
        self.entries[int(entry.record["channel"])] = entry

    def _append(self, value: dict[str, Any]) -> None:
        data = memoryview((json.dumps(value) + "\n").encode())
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise GpucubeError(f"cannot write the journal {self.path}: {error.strerror}") from None

    def forget(self) -> None:
        """Remove the file: the run is finished, or never began."""
        os.unlink(self.path)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._file)
