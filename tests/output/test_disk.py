"""The door to the file system: whole files, real blocks, and one line when the system refuses.

Some refusals are real: a process limits the size of its own files (`RLIMIT_FSIZE`), which the system answers like a full
disk in the midst of a write.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpucube import disk
from gpucube.errors import GpucubeError


def limited(limit: int, code: str, *arguments: object) -> str:
    """What `code` prints in a process that may write files of `limit` bytes at most; `arguments` are its ``sys.argv[1:]``."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, os\nfrom gpucube import disk\n{code}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    return done.stdout.strip()


def test_a_whole_file_replaces_the_old_one_and_a_link_but_not_what_the_link_names(tmp_path: Path) -> None:
    target, precious = tmp_path / "target", tmp_path / "precious"
    disk.write_whole(target, "one")
    disk.write_whole(target, "two é")
    assert target.read_text(encoding="utf-8") == "two é"
    precious.write_text("mine")
    target.unlink()
    target.symlink_to(precious)
    (tmp_path / "target.new").symlink_to(precious)
    disk.write_whole(target, "three")
    assert (target.read_text(), target.is_symlink(), precious.read_text()) == ("three", False, "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "target"]


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    code = "try: disk.write_whole(sys.argv[1], 'x' * 5000)\nexcept disk.GpucubeError as error: print(error)"
    assert limited(1000, code, target) == f"cannot write {target}: File too large"
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_bytes_are_appended_all_or_none(tmp_path: Path) -> None:
    target = tmp_path / "log"
    code = """
file = disk.open_log(sys.argv[1])
disk.append(file, b"a" * 900)
try: disk.append(file, b"b" * 900)
except OSError as error: print(error.strerror)
disk.append(file, b"c" * 50)
"""
    assert limited(1000, code, target) == "File too large"
    assert target.read_bytes() == b"a" * 900 + b"c" * 50


def test_bytes_are_written_in_their_place(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"0123456789")
    disk.write_at(target, memoryview(b"abc"), 4)
    assert target.read_bytes() == b"0123abc789"
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        disk.write_at(link, b"x", 0)


def test_reserved_files_have_blocks_and_sparse_ones_have_not(tmp_path: Path) -> None:
    for nbytes in (0, 1, 1_000_000):
        disk.reserve(tmp_path / "reserved", nbytes)
        assert disk.space_taken(tmp_path / "reserved") >= nbytes
        assert (tmp_path / "reserved").stat().st_size == max(1, nbytes), "an empty file cannot be mapped"
    with disk.create(tmp_path / "sparse") as file:
        file.truncate(1_000_000)
    assert disk.space_taken(tmp_path / "sparse") < 100_000
    code = "try: disk.reserve(sys.argv[1], 2_000_000)\nexcept OSError as error: print(error.strerror)"
    target = tmp_path / "large"
    assert limited(1000, code, target) == "File too large"


def test_files_are_reserved_where_the_system_cannot_allocate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: zeros are written."""
    monkeypatch.delattr(os, "posix_fallocate")
    disk.reserve(tmp_path / "reserved", 3_000_000)
    assert disk.space_taken(tmp_path / "reserved") >= 3_000_000
    assert (tmp_path / "reserved").read_bytes() == bytes(3_000_000)


def test_a_disk_too_small_is_named_with_numbers_and_the_parameter(tmp_path: Path) -> None:
    free = disk.free_space(tmp_path)
    disk.check_space(tmp_path, 1000, "the cubes need", "imagename")
    disk.check_space(tmp_path, free + 10**12, "the cubes need", "imagename", reusable=10**13)
    with pytest.raises(GpucubeError) as refusal:
        disk.check_space(tmp_path, 10**18, "the cubes need", "imagename")
    assert str(refusal.value).startswith(f"the cubes need 1e+06 TB of disk but {tmp_path} has only ")
    assert str(refusal.value).endswith("free: choose another `imagename`")


def test_folders_made_for_nothing_go_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), disk.folder_made(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RuntimeError), disk.folder_made(tmp_path / "a" / "b"):
        (tmp_path / "a" / "theirs").touch()
        raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "theirs"]
    with pytest.raises(GpucubeError, match=r"cannot make the folder .*theirs/x: Not a directory"):
        disk.folder_made(tmp_path / "a" / "theirs" / "x").__enter__()


def test_the_nearest_folder_above_is_found(tmp_path: Path) -> None:
    assert disk.nearest_folder(tmp_path / "a" / "b" / "c") == tmp_path
    assert disk.nearest_folder(tmp_path / "a") == tmp_path


def test_an_open_file_knows_whether_its_path_still_names_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = disk.open_log(path)
    assert disk.is_file_at(file, path)
    path.unlink()
    assert not disk.is_file_at(file, path)
    path.touch()
    assert not disk.is_file_at(file, path)
    os.close(file)


def test_only_what_the_system_refuses_is_reported_in_one_line() -> None:
    with (
        pytest.raises(GpucubeError, match="cannot read or write x: No space left on device"),
        disk.explain_the_system(),
    ):
        raise OSError(28, "No space left on device", "x")
    with pytest.raises(GpucubeError, match="cannot read or write x: Connection reset"), disk.explain_the_system():
        raise ConnectionResetError(104, "Connection reset by peer", "x")  # a file on a server
    with pytest.raises(GpucubeError, match="the system has no more memory"), disk.explain_the_system():
        raise MemoryError
    for error in (ConnectionResetError(104, "Connection reset by peer"), OSError("no number"), ValueError("a defect")):
        with pytest.raises(type(error)), disk.explain_the_system():
            raise error


@pytest.mark.parametrize("opened", [disk.open_to_read, disk.open_log, lambda path: disk.read_at(path, 1, 0)])
def test_a_named_pipe_is_refused_where_reading_would_wait_for_ever(opened: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a pipe"):
        opened(tmp_path / "pipe")
    assert not disk.is_locked(tmp_path / "pipe")


def test_threads_that_cannot_be_started_are_said_in_one_line() -> None:
    with pytest.raises(GpucubeError, match=r"no more threads \(ulimit -u\)"), disk.explain_the_system():
        raise RuntimeError("can't start new thread")
