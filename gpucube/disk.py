"""The only access to the file system: gpucube reads, writes, reserves, locks and removes files with these functions.

In: paths, bytes and open files. Out: files that are whole and safe, or one line that says what the system refused. File
systems of clusters and containers may lack locks, syncing, allocation, shared mappings or links. Each function then
finds another way or does without, and `rehearse` warns of it before a run begins. A function raises `OSError` if only its
caller knows what the file means to the user. The caller then makes the message with `explain`.

Every system call raises an audit event ``gpucube.disk``, so that a hook (`sys.addaudithook`) can make any of them fail.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeAlias, TypeVar

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.text import size_text

AnyPath: TypeAlias = str | os.PathLike[str]
P = ParamSpec("P")
R = TypeVar("R")

UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY})
"""Errors of a file system that does not support a call."""

NO_LOCKS = UNSUPPORTED | {errno.ENOLCK}
NO_SHARED_MAPPINGS = UNSUPPORTED | {errno.ENODEV, errno.EACCES, errno.EPERM}

ZEROS = bytes(1 << 20)

SECONDS_TO_SEE = 5.0

REMOVAL_PAUSES = 0.02, 0.1
"""Seconds to wait after an attempt to remove something has failed."""


def _do(call: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> R:
    """Call the system."""
    sys.audit("gpucube.disk", getattr(call, "__name__", ""), arguments)
    return call(*arguments, **options)


@contextmanager
def explain(what: str) -> Iterator[None]:
    """Turn an `OSError` of the body into one line: what could not be done, and the system's reason."""
    try:
        yield
    except OSError as error:
        raise GpucubeError(f"{what}: {error.strerror}") from None


@contextmanager
def explain_the_system() -> Iterator[None]:
    """Turn any error with which the system refuses something, memory or threads into one line, wherever in the body it arises."""
    try:
        yield
    except MemoryError:
        raise GpucubeError("the system has no more memory: use fewer `workers`, or give the job more memory") from None
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        raise GpucubeError(
            "the system lets this user start no more threads (ulimit -u): end some, or raise the limit"
        ) from None
    except OSError as error:
        if error.errno is None or (isinstance(error, ConnectionError) and error.filename is None):
            raise  # of a network, not of a file on a server
        raise GpucubeError(f"cannot read or write {error.filename or 'a file'}: {error.strerror}") from None


def check_current_folder() -> None:
    """Refuse to go on if the folder in which this process runs has been removed: casacore would abort the process."""
    try:
        os.getcwd()
    except OSError as error:
        raise GpucubeError(f"the current folder is gone ({error.strerror}): change to another folder") from None


def rehearse(imagename: str, scratch: str, links: bool, parameter: str = "scratch") -> list[str]:
    """Before a run begins, try what it will need in the folders of its products and of its visibility store.

    Return warnings about what a file system lacks if the run can do without it. `links` says whether it needs symbolic links,
    `parameter` names the one that chooses the folder of the store.
    """
    products, store = nearest_folder(imagename), nearest_folder(scratch)
    trial = f"trial-{secrets.token_hex(3)}"
    path, fresh = products / f"{Path(imagename).name}.{trial}", products / f"{Path(imagename).name}.{trial}.new"
    in_store = store / f"{Path(scratch).name}.{trial}"
    warnings = []
    try:
        with explain(f"the products cannot be written in {products} (name another folder with `imagename`)"):
            log = open_log(fresh)
            try:
                append(log, ZEROS[:1])
                if not _flock(log, fcntl.LOCK_EX):
                    warnings.append(
                        f"the file system of {products} has no locks: "
                        "two runs with the same `imagename` would not notice each other"
                    )
                if not _fsync(log):
                    warnings.append(
                        f"the file system of {products} cannot sync files: "
                        "a power failure may destroy channels that were reported as safe"
                    )
            finally:
                os.close(log)
            replace(fresh, path)
            remove(path)
        what = "scratch folder" if parameter == "scratch" else "visibility store"
        with explain(f"the {what} cannot be in {store} (name another with `{parameter}`)"):
            reserve(in_store, 1)
            mapped(in_store, np.dtype(np.uint8), (1,))
            remove(in_store)
            if links and not link(os.curdir, in_store):
                warnings.append(
                    f"the file system of {store} has no symbolic links: "
                    "a task that outlives this run on the scheduler could write into the store of the next"
                )
    finally:
        for left in (fresh, path, in_store):
            remove_if_possible(left)
    return warnings


def out_of_sight(to_read: Iterable[str], to_write: Iterable[str]) -> tuple[str, str]:
    """Report the first path that this node cannot see or write, with the name of the node; empty if there is none.

    A network file system may take seconds to show what another node has made.
    """
    node = os.uname().nodename
    until = time.monotonic() + SECONDS_TO_SEE
    for path, how in [*((p, os.R_OK) for p in to_read), *((p, os.W_OK) for p in to_write)]:
        while not os.path.exists(path):
            if time.monotonic() > until:
                return node, f"does not see {path}"
            time.sleep(0.1)
        if not os.access(path, how):
            return node, f"cannot {'write' if how == os.W_OK else 'read'} {path}"
    return node, ""


# --- space ---


def free_space(folder: AnyPath) -> int | None:
    """Free bytes of the disk that holds a folder; None if the file system does not say."""
    try:
        usage = _do(shutil.disk_usage, folder)
    except OSError:
        return None
    return usage.free if usage.total else None


def space_taken(path: AnyPath) -> int:
    """Bytes of disk that a file takes, which for a sparse file are fewer than its length. Links are not followed."""
    try:
        return 512 * _do(os.lstat, path).st_blocks
    except OSError:
        return 0


def check_space(folder: AnyPath, needed: int, what: str, parameter: str, reusable: int = 0) -> None:
    """Refuse a job that needs more bytes than the disk of a folder has.

    `what` is the subject and verb of the message (``"the cubes need"``) and `parameter` the one that chooses the disk.
    `reusable` bytes count as free, because they belong to files that will be replaced.
    """
    free = free_space(folder)
    if free is not None and needed > free + reusable:
        raise GpucubeError(
            f"{what} {size_text(needed)} of disk but {folder} has only {size_text(free + reusable)} free: "
            f"choose another `{parameter}`"
        )


def reserve(path: AnyPath, nbytes: int) -> None:
    """Make a file of at least one byte on real disk blocks: writing to a mapped hole on a full disk kills the process."""
    length = max(1, nbytes)
    with _do(open, path, "wb") as file:
        try:
            _do(os.posix_fallocate, file.fileno(), 0, length)
        except AttributeError:  # macOS
            pass
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return
        for start in range(0, length, len(ZEROS)):
            _do(file.write, ZEROS[: length - start])


# --- reading ---


def open_to_read(path: AnyPath) -> BinaryIO:
    """Open a file to read bytes."""
    return open(path, "rb", opener=_no_pipe)


def _no_pipe(path: AnyPath, flags: int, mode: int = 0o666) -> int:
    """Open a file, but no named pipe, where opening or reading would wait for ever."""
    file = _do(os.open, path, flags | os.O_NONBLOCK, mode)
    if stat.S_ISFIFO(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.ENXIO, "it is a pipe", str(path))
    return file


def read_at(path: AnyPath, nbytes: int, offset: int) -> bytes:
    """Read bytes at an offset; fewer if the file ends before."""
    with open_to_read(path) as file:
        _do(file.seek, offset)
        return _do(file.read, nbytes)


def mapped(path: AnyPath, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """Map an array for reading: shared, or else privately, which more file systems can. It is not to be written."""
    try:
        return _do(np.memmap, path, dtype, "r", 0, shape)
    except OSError as error:
        if error.errno not in NO_SHARED_MAPPINGS:
            raise
        array = _do(np.memmap, path, dtype, "c", 0, shape)
        array.flags.writeable = False
        return array


# --- writing ---


def create(path: AnyPath) -> BinaryIO:
    """Open a new file for writing in the place of a leftover one. A link is replaced, not followed."""
    remove(path)
    return _do(open, path, "xb")


def lengthen(file: BinaryIO, length: int) -> None:
    """Give a file that is being written its full length; what is not written yet takes no blocks, if possible."""
    file.flush()
    try:
        _do(os.ftruncate, file.fileno(), length)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EPERM}:
            raise
        write_all(file.fileno(), ZEROS[:1], length - 1)


def replace(path: AnyPath, target: AnyPath) -> None:
    """Give a file another name, in the place of the file that has this name."""
    _do(os.replace, path, target)


def link(target: AnyPath, path: AnyPath) -> bool:
    """Make a symbolic link. False if the file system has none."""
    try:
        _do(os.symlink, target, path)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EPERM, errno.EACCES}:
            raise
        return False
    return True


def second_name(path: AnyPath, name: AnyPath) -> None:
    """Give a file a second name, with the same times, or make a copy where the file system has no hard links."""
    try:
        _do(os.link, path, name)
    except OSError:
        _do(shutil.copy2, path, name)


@contextmanager
def opened(path: AnyPath) -> Iterator[int]:
    """Open an existing file for `write_all`. Links are not followed."""
    file = _do(os.open, path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        yield file
    finally:
        os.close(file)


def write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset: one system call takes 2 GiB at most, and may take less."""
    done = 0
    while done < len(data):
        done += _do(os.pwrite, file, data[done:] if done else data, offset + done)


def write_at(path: AnyPath, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes at an offset of an existing file."""
    with opened(path) as file:
        write_all(file, data, offset)


def append(file: int, data: bytes) -> None:
    """Append bytes to a file opened by `open_log`, and return when they are safe on disk. If that fails, append nothing."""
    length = _do(os.fstat, file).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[_do(os.write, file, rest) :]
        _fsync(file)
    except OSError:
        with suppress(OSError):
            truncate(file, length)
        raise


def truncate(file: int, length: int) -> None:
    """Cut off an open file, if it is longer."""
    if _do(os.fstat, file).st_size > length:
        _do(os.ftruncate, file, length)


def write_whole(path: AnyPath, content: str | bytes, *, synced: bool = True) -> None:
    """Write a file that exists with all its content or not at all; if it is `synced`, after a power failure too."""
    fresh = f"{path}.new"
    try:
        with explain(f"cannot write {path}"):
            with create(fresh) as file:
                _do(file.write, content.encode() if isinstance(content, str) else content)
                file.flush()
                if synced:
                    _fsync(file.fileno())
            replace(fresh, path)
    except BaseException:
        remove_if_possible(fresh)
        raise


def sync(path: AnyPath) -> None:
    """Return when every byte of a file, by whatever process it was written, is safe."""
    file = _do(os.open, path, os.O_RDONLY)
    try:
        _fsync(file)
    finally:
        os.close(file)


def sync_names(folder: AnyPath) -> None:
    """Return when the names of the files in a folder are safe, if the folder can be synced."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR):
            raise


def _fsync(file: int) -> bool:
    """Return when an open file is safe. False if the file system cannot say."""
    try:
        _do(os.fsync, file)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


# --- locking ---


def open_log(path: AnyPath) -> int:
    """Open a file to be locked, read and appended to, and make it if there is none. Links are not followed."""
    return _no_pipe(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)


def _flock(file: int, how: int) -> bool:
    """Lock an open file at once, or raise `BlockingIOError`. False if the file system has no locks."""
    try:
        _do(fcntl.flock, file, how | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def lock(file: int) -> bool:
    """Lock an open file until it is closed, or the process ends in any way. False if another process holds the lock.

    `is_locked` of another process takes the lock for a moment, so the attempt is repeated for a fifth of a second. Where
    there are no locks, no other process can be noticed.
    """
    for _ in range(10):
        with suppress(BlockingIOError):
            _flock(file, fcntl.LOCK_EX)
            return True
        time.sleep(0.02)
    return False


def is_locked(path: AnyPath) -> bool:
    """Return True if a process is known to hold the lock of a file."""
    try:
        file = _no_pipe(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        _flock(file, fcntl.LOCK_SH)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def is_file_at(file: int, path: AnyPath) -> bool:
    """Return True if a path still names an open file, which may have been removed or replaced."""
    try:
        return os.path.samestat(_do(os.fstat, file), _do(os.lstat, path))
    except FileNotFoundError:
        return False


# --- folders, and removing ---


def nearest_folder(path: AnyPath) -> Path:
    """The nearest folder above a path that exists."""
    return next(folder for folder in Path(path).absolute().parents if os.path.exists(folder))


@contextmanager
def folder_made(folder: AnyPath) -> Iterator[None]:
    """Make a folder and its parents. If the body fails, those that were made and are empty are removed again."""
    wanted = Path(folder).absolute()
    missing = [path for path in (wanted, *wanted.parents) if not os.path.exists(path)]
    try:
        with explain(f"cannot make the folder {folder}"):
            _do(os.makedirs, wanted, exist_ok=True)
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # never made, or somebody else has put a file there
                path.rmdir()
        raise


def make_folder(folder: AnyPath) -> None:
    """Make a folder that must not exist, and its parents."""
    _do(os.makedirs, folder)


def remove(path: AnyPath) -> None:
    """Remove a file if it exists."""
    with suppress(FileNotFoundError):
        _do(os.unlink, path)


def remove_if_possible(path: AnyPath) -> None:
    """Remove a file if it exists and can be removed. Network file systems may be ready only after a moment."""
    for pause in REMOVAL_PAUSES:
        with suppress(OSError):
            remove(path)
            return
        time.sleep(pause)


def remove_tree(folder: AnyPath) -> None:
    """Remove a folder and what is in it, as far as possible."""
    for pause in REMOVAL_PAUSES:
        if not os.path.lexists(folder):
            return
        with suppress(OSError):
            _do(shutil.rmtree, folder)
            return
        time.sleep(pause)
    shutil.rmtree(folder, ignore_errors=True)
