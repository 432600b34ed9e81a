"""The door to the file system: whatever gpucube writes, reserves, locks or removes passes through these functions.

In: paths, bytes and open files. Out: files that are whole and safe, or one line that says what the system refused.
Every kind of access has one function, so that the peculiarities of a file system need care in one place only. Functions
raise `OSError` where only the caller knows what the file means to the user. The caller then says so with `explain`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

from gpucube.errors import GpucubeError
from gpucube.text import size_text

AnyPath: TypeAlias = str | os.PathLike[str]


@contextmanager
def explain(what: str) -> Iterator[None]:
    """Turn an `OSError` of the body into one line: what could not be done, and the system's reason."""
    try:
        yield
    except OSError as error:
        raise GpucubeError(f"{what}: {error.strerror}") from None


@contextmanager
def explain_failing_disk() -> Iterator[None]:
    """Turn an `OSError` that means a full or failing disk into one line, wherever in the body it arises."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE):
            raise
        raise GpucubeError(f"cannot write {error.filename or 'to disk'}: {error.strerror}") from None


# --- space ---


def free_space(folder: AnyPath) -> int:
    """Free bytes of the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def space_taken(path: AnyPath) -> int:
    """Bytes of disk that a file takes, which for a sparse file are fewer than its length. Links are not followed."""
    return 512 * os.lstat(path).st_blocks


def check_space(folder: AnyPath, needed: int, what: str, parameter: str, reusable: int = 0) -> None:
    """Refuse a job that needs more bytes than the disk of a folder has.

    `what` is the subject and verb of the message (``"the cubes need"``) and `parameter` the one that chooses the disk.
    `reusable` bytes count as free, because they belong to files that will be replaced.
    """
    free = free_space(folder) + reusable
    if needed > free:
        raise GpucubeError(
            f"{what} {size_text(needed)} of disk but {folder} has only {size_text(free)} free: "
            f"choose another `{parameter}`"
        )


def reserve(path: AnyPath, nbytes: int) -> None:
    """Make a file of at least one byte on real disk blocks: writing to a mapped hole on a full disk kills the process."""
    with explain(f"cannot reserve {size_text(nbytes)} for {path}"), open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, nbytes))


# --- writing ---


def create(path: AnyPath) -> BinaryIO:
    """Open a new file for writing in the place of a leftover one. A link is replaced, not followed."""
    remove(path)
    return open(path, "xb")


def replace(path: AnyPath, target: AnyPath) -> None:
    """Give a file another name, in the place of the file that has this name."""
    os.replace(path, target)


@contextmanager
def opened(path: AnyPath) -> Iterator[int]:
    """Open an existing file for `write_all`. Links are not followed."""
    file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)


def write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset: one system call takes 2 GiB at most, and may take less."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(file, rest, offset)
        rest, offset = rest[written:], offset + written


def write_at(path: AnyPath, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset of an existing file."""
    with opened(path) as file:
        write_all(file, data, offset)


def append(file: int, data: bytes) -> None:
    """Append bytes to a file opened by `open_log`, and return when they are safe on disk. If that fails, append nothing."""
    length = os.fstat(file).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    except OSError:
        with suppress(OSError):
            truncate(file, length)
        raise


def truncate(file: int, length: int) -> None:
    """Cut off an open file."""
    os.ftruncate(file, length)


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Write a file that exists with all its content or not at all."""
    fresh = f"{path}.new"
    try:
        with explain(f"cannot write {path}"):
            with create(fresh) as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            replace(fresh, path)
    except BaseException:
        remove_if_possible(fresh)
        raise


def sync(path: AnyPath) -> None:
    """Return when every byte of a file or folder, by whatever process it was written, is safe."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


# --- locking ---


def open_log(path: AnyPath) -> int:
    """Open a file to be locked, read and appended to, and make it if there is none. Links are not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)


def lock(file: int) -> bool:
    """Lock an open file until it is closed, however the process ends. False if another process holds the lock.

    `is_locked` of another process takes the lock for a moment, so the attempt is repeated for a fifth of a second.
    """
    for _ in range(10):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def is_locked(path: AnyPath) -> bool:
    """Whether a process holds the lock of a file."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def is_file_at(file: int, path: AnyPath) -> bool:
    """Whether a path still names an open file, which somebody may have removed or replaced."""
    try:
        return os.path.samestat(os.fstat(file), os.lstat(path))
    except FileNotFoundError:
        return False


# --- folders, and removing ---


def nearest_folder(path: AnyPath) -> Path:
    """The nearest folder above a path that exists."""
    return next(folder for folder in Path(path).absolute().parents if folder.exists())


@contextmanager
def folder_made(folder: AnyPath) -> Iterator[None]:
    """Make a folder and its parents. If the body fails, those that were made and are empty are removed again."""
    wanted = Path(folder).absolute()
    missing = [path for path in (wanted, *wanted.parents) if not path.exists()]
    try:
        with explain(f"cannot make the folder {folder}"):
            wanted.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # never made, or somebody else has put a file there
                path.rmdir()
        raise


def remove(path: AnyPath) -> None:
    """Remove a file if it exists."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_if_possible(path: AnyPath) -> None:
    """Remove a file if it exists and can be removed."""
    with suppress(OSError):
        os.unlink(path)


def remove_tree(folder: AnyPath) -> None:
    """Remove a folder and what is in it, as far as possible."""
    shutil.rmtree(folder, ignore_errors=True)
