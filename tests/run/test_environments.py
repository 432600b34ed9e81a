"""Limits and variables of other people's shells: a run does without, or one line says what would be right, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobs import SETTINGS, image, payload

from gpucube import GpucubeError, open_run
from gpucube.environment import check_for_libraries

REPOSITORY = Path(__file__).resolve().parents[2]


def in_shell(limits: str, arguments: list[str], **variables: str | None) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(REPOSITORY)} | os.environ | variables
    return subprocess.run(
        ["bash", "-c", f'{limits} exec "$@"', "bash", sys.executable, "-m", "gpucube", *arguments],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("limits", "variables", "message"),
    [
        (
            "ulimit -v 300000;",
            {},
            "the limit of address space (ulimit -v) is 307 MB, but the libraries of gpucube need",
        ),
        ("ulimit -v 570000;", {}, "the limit of address space (ulimit -v) is 584 MB"),  # OpenBLAS would wait for ever
        ("ulimit -d 100000;", {}, "the limit of data (ulimit -d) is 102 MB, but the libraries of gpucube need"),
        ("", {"NUMBA_NUM_THREADS": "0"}, "NUMBA_NUM_THREADS is '0': set it to 1"),
        ("", {"NUMBA_NUM_THREADS": "many"}, "NUMBA_NUM_THREADS is 'many': set it to 1"),
    ],
)
def test_one_line_names_libraries_that_cannot_be_loaded(limits: str, variables: dict[str, str], message: str) -> None:
    done = in_shell(limits, ["plan", "any.ms"], **variables)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"gpucube: error: {message}" in done.stderr


def test_a_folder_of_processes_that_is_not_mounted_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(GpucubeError, match=r"^/proc is not there, .* mount it"):
        check_for_libraries(str(tmp_path / "proc"))


def test_a_home_that_is_no_folder_is_not_looked_at(tiny_ms: Any) -> None:
    """Root may look into every folder, so this stands for one that the user may not enter."""
    done = in_shell("", f"plan {tiny_ms.ms} --imsize 64 --cell 20arcsec --device cpu".split(), HOME="/dev/null")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_run_needs_no_home_and_bears_odd_variables(tiny_ms: Any, tmp_path: Path) -> None:
    """casacore wants HOME, ducc0 one number of threads, numba a level that it knows, and SLURM may say anything."""
    odd: dict[str, str | None] = {
        "HOME": None, "DUCC0_NUM_THREADS": None, "OMP_NUM_THREADS": "4,2", "NUMBA_OPT": "most", "TMPDIR": "/proc/none",
        "SLURM_CPUS_PER_TASK": "2(x3)", "SLURM_MEM_PER_NODE": "9" * 5000, "PYTHONWARNINGS": "default",
    }  # fmt: skip
    usual = image(tiny_ms.ms, tmp_path / "usual", workers=1)
    config = tmp_path / "job.yaml"
    config.write_text(
        yaml.safe_dump(SETTINGS | {"vis": str(tiny_ms.ms), "imagename": str(tmp_path / "odd"), "workers": 1})
    )
    done = in_shell("", ["image", "--config", str(config)], **odd)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("gpucube: warning: ") for line in done.stderr.splitlines())
    assert payload(open_run(tmp_path / "odd")) == payload(usual)
