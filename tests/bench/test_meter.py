"""The meter of the CUDA path counts what the device asks of the array library, and holds it to its limits."""

from __future__ import annotations

import json

import pytest

from gpucube.bench.command import main
from gpucube.bench.meter import STEPS, meter
from gpucube.bench.workloads import find_workload


def test_the_command_writes_counts_of_every_step_and_the_time_of_python(tmp_path, capsys) -> None:
    assert main(["meter", "--workload", "snapshot", "--json", str(tmp_path / "meter.json")]) == 0
    found = json.loads((tmp_path / "meter.json").read_text())
    shown = capsys.readouterr().out
    for step in STEPS:
        assert f"| {step} |" in shown
        assert set(found[step]) == {"operations", "looks", "copies", "bytes"}
        assert found[step]["operations"] > 0
    assert 0 < found["python_seconds"] < 60


def test_a_mistake_is_one_line_and_status_2(capsys) -> None:
    assert main(["meter", "--workload", "vla-hj"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["vla-hi", "alma-line"])
def test_counts_repeat(name) -> None:
    first, second = (meter(find_workload(name)) for _ in range(2))
    assert {step: first[step] for step in STEPS} == {step: second[step] for step in STEPS}
