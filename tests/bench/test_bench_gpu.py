"""The benchmark of a GPU (bench/gpu), run with kernels on the host: nearly all of its lines, none of its speed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gpu_speed
import pytest
from conftest import REPOSITORY
from harness import Bench, Figure, shown, table
from host_accelerator import TINY, HostAccelerator
from hosts.kernel_runs import NO_GPU, needs_compiler

WITHOUT_CASACORE = """
import sys
sys.modules["casacore"] = None
sys.path[:0] = sys.argv.pop(1).split(":")
import gpu_speed
sys.exit(gpu_speed.main([*sys.argv[1:], "--on-host"]))
"""


def measure(*options: object, **more: object) -> int:
    return gpu_speed.main([str(option) for option in options], here=HostAccelerator(), sizes=TINY, **more)


@pytest.mark.long
@needs_compiler
def test_every_part_is_measured_without_a_gpu_and_without_casacore(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    folders = ":".join(str(REPOSITORY / folder) for folder in ("", "bench/gpu"))
    command = [sys.executable, "-c", WITHOUT_CASACORE, folders, "--repeat", "1", "--json", str(result)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    found = json.loads(result.read_text())
    assert found["errors"] == {} and found["hardware"]["cores"] > 0
    figures = {(f["part"], f["what"]): f for f in found["figures"]}
    assert {part for part, _ in figures} == set(gpu_speed.PARTS)
    assert all(f["median"] > 0 for f in found["figures"])
    for part, what in figures:
        assert f"\n## {part}\n" in run.stdout and f"| {what} " in run.stdout
    # what does not depend on the hardware is true here too
    assert {f["reached"] for f in found["figures"] if f["part"] == "repeat"} == {"aim"}
    assert "same stop reason in 3 of 3 channels" in figures["chunk", "times faster than the CPU"]["note"]


@needs_compiler
def test_a_part_that_fails_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(bench: Bench) -> Iterator[Figure]:
        """Breaks."""
        yield Figure("copy", "before it broke", "B/s", [1.0])
        raise RuntimeError("cudaErrorIllegalAddress:\n an illegal memory access")

    result = tmp_path / "result.json"
    parts = {"copy": broken, "sort": gpu_speed.PARTS["sort"]}
    assert measure("--repeat", 1, "--json", result, parts=parts) == 1
    found = json.loads(result.read_text())
    assert found["errors"] == {"copy": "RuntimeError: cudaErrorIllegalAddress: an illegal memory access"}
    assert [f["part"] for f in found["figures"]] == ["copy", "sort", "sort"]
    assert "Failed: RuntimeError: cudaErrorIllegalAddress" in capsys.readouterr().out


@needs_compiler
def test_no_part_begins_when_the_time_is_over(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    assert measure("--parts", "sort", "--seconds", -1, "--json", result) == 1
    assert json.loads(result.read_text())["errors"] == {"sort": "no time left of -1 s"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "grid,hogbohm"], "no part 'hogbohm': there are copy, grid"),
        (["--repeat", "0"], "--repeat should be at least 1"),
        pytest.param([], "no GPU to measure: ", marks=pytest.mark.skipif(not NO_GPU, reason="there is a GPU")),
    ],
)
def test_wrong_usage_is_reported_in_one_line(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        gpu_speed.main(options)
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_figures_are_held_to_what_they_must_reach() -> None:
    assert [Figure("p", "w", "it/s", [v], None, 10.0, 50.0).reached for v in (9.0, 10.0, 50.0)] == ["no", "yes", "aim"]
    assert Figure("p", "w", "it/s", [1.0]).reached == ""
    figure = Figure("p", "this", "vis/s", [2e9, 1e9, 4e9], 8e9, 1e9, None, "how")
    assert (figure.median, figure.spread) == (2e9, 1.5)
    cells = [cell.strip() for cell in table([figure]).splitlines()[-1].split("|")[1:-1]]
    assert cells == ["this", "2 Gvis/s", "150%", "8 Gvis/s", "1 Gvis/s", "", "yes", "how"]
    assert [shown(v, "it/s") for v in (None, 999.0, 12345.0)] == ["", "999 it/s", "12.3 kit/s"]
    assert shown(1234.5, "s") == "1.23e+03 s"
