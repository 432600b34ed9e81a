"""The three calls for a first run on a GPU (bench/gpu/calls.py), and the model of its speed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from calls import Step, carry_out, on_host, page, steps_of
from conftest import REPOSITORY
from model import GPUS, jobs, stages

WRITES = "import json, sys; json.dump({'speed': 3}, open(sys.argv[2], 'w')); print('done')"


@pytest.mark.parametrize("call", [1, 2, 3])
def test_the_steps_name_files_that_exist(call) -> None:
    steps = steps_of(call)
    for step in steps:
        for word in step.command:
            if word.endswith(".py"):
                assert (REPOSITORY / word).is_file(), word
        assert "not gpu" in on_host(step).command or "gpu" not in step.command


@pytest.mark.parametrize(
    ("step", "status", "note"),
    [
        (Step(name="works", command=("-c", WRITES), seconds=60, figures=True), "ok", ""),
        (Step(name="fails", command=("-c", "raise SystemExit('why')"), seconds=60), "failed", ""),
        (Step(name="hangs", command=("-c", "import time; time.sleep(60)"), seconds=1), "out of time", ""),
        (
            Step(name="lacks", command=("-c", ""), seconds=60, tool=("no-such-tool",)),
            "failed",
            "no-such-tool is not installed",
        ),
        (Step(name="late", command=("-c", ""), seconds=0), "no time left", ""),
    ],
    ids=lambda value: value.name if isinstance(value, Step) else "",
)
def test_what_becomes_of_a_step_is_recorded(step, status, note) -> None:
    outcome = carry_out(step, dict(os.environ))
    assert (outcome.status, outcome.note) == (status, note)
    assert outcome.figures == ({"speed": 3} if step.figures else None)
    assert {"works": "done", "fails": "why"}.get(step.name, "") in outcome.output
    assert f"| {step.name} | {status} |" in page(1, {"gpu": "none"}, [outcome])


def test_what_to_carry_is_named_on_a_machine_that_lacks_a_module(tmp_path) -> None:
    without = "import sys; sys.argv[0] = 'calls.py'; sys.path.insert(0, 'bench/gpu'); import calls;"
    without += "calls.NEEDED = ('numpy', 'no_such_module'); sys.exit(calls.main())"
    command = [sys.executable, "-c", without, "1", "--out", str(tmp_path)]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("calls.py: no_such_module (ModuleNotFoundError: ")


def test_the_model_is_positive_and_more_bandwidth_takes_no_stage_longer() -> None:
    slow, fast = (stages(jobs()[0], gpu) for gpu in GPUS)
    for name in set(slow) - {"Python and CuPy"}:
        assert 0 < fast[name] <= slow[name], name
