"""Caches of compiled code: where a home cannot be written, a disk is full or a file is damaged, functions still compile."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from gpucube.caches import choose_cupy_cache, njit, private_folder

SOURCE = "def twice(x):\n    return 2 * x\n"


def function_of(file: str) -> Any:
    """A function whose source is said to be in a file."""
    names: dict[str, Any] = {"__name__": "somewhere"}
    exec(compile(SOURCE, file, "exec"), names)
    return names["twice"]


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A process whose home cannot be written; its folder for temporary files is returned."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/proc/none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_compiled_code_is_kept_in_a_folder_for_temporary_files(no_home: Path) -> None:
    assert njit()(function_of("/proc/version"))(3) == 6
    (folder,) = no_home.iterdir()
    assert folder.name == f"gpucube-numba-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.rglob("*.nbc"))


def test_where_nothing_can_be_written_functions_compile_without_a_cache(
    no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    assert njit()(function_of("/proc/version"))(3) == 6
    assert list(no_home.iterdir()) == []


def test_a_folder_that_others_can_write_is_not_taken(no_home: Path) -> None:
    """Whoever can write a cache can have code run."""
    folder = no_home / f"gpucube-numba-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        private_folder("numba")
    folder.rmdir()
    folder.symlink_to(no_home)
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        private_folder("numba")
    assert njit()(function_of("/proc/version"))(3) == 6
    assert list(no_home.iterdir()) == [folder]


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_damaged_cache_is_made_anew(ending: str, tmp_path: Path) -> None:
    file = tmp_path / "somewhere.py"
    file.write_text(SOURCE)
    assert njit()(function_of(str(file)))(3) == 6
    for damaged in (tmp_path / "__pycache__").glob(f"*.{ending}"):
        damaged.write_bytes(damaged.read_bytes()[:20])
    assert njit()(function_of(str(file)))(3) == 6


def test_a_disk_too_full_for_the_cache_ends_nothing(tmp_path: Path) -> None:
    """A process limits the size of its own files, which the system answers like a full disk in the midst of a write."""
    (tmp_path / "somewhere.py").write_text(f"from gpucube.caches import njit\n@njit()\n{SOURCE}print(twice(3))\n")
    done = subprocess.run(
        [sys.executable, "-B", str(tmp_path / "somewhere.py")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert (done.stdout, done.stderr) == ("6\n", "")


def test_cupy_gets_a_folder_that_can_be_written_or_keeps_its_kernels_in_memory(
    no_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY", raising=False)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(no_home / "mine"))
    choose_cupy_cache()
    assert os.environ["CUPY_CACHE_DIR"] == str(no_home / "mine")
    monkeypatch.setenv("CUPY_CACHE_DIR", "/proc/none/cache")
    choose_cupy_cache()
    assert os.environ["CUPY_CACHE_DIR"] == str(no_home / f"gpucube-cupy-{os.getuid()}")
    monkeypatch.setenv("CUPY_CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "")
    choose_cupy_cache()
    assert os.environ["CUPY_CACHE_IN_MEMORY"] == "1"
