"""The command line that the experiments share.

In: the function that measures an experiment. Out: its page on standard output, its figures as JSON if asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpucube.bench.command import DEVICES
from gpucube.bench.machine import busy_percent
from gpucube.devices.base import DeviceKind
from gpucube.devices.choice import find_hardware
from gpucube.errors import GpucubeError
from gpucube.execution.machine import cores

Measure = Callable[[DeviceKind, int, int], tuple[str, dict[str, Any]]]
"""From the kind of device, the number of workers and the number of timed runs to the page and the JSON document."""


def command() -> str:
    """The command that runs this experiment, as it was typed."""
    return " ".join(["python", *sys.argv])


def run_experiment(measure: Measure, description: str) -> int:
    """Parse the command line, measure, and report; returns the exit status."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=DEVICES)
    parser.add_argument("--workers", type=int, help="default: one for each core; the threads that share a GPU")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    options = parser.parse_args()
    try:
        hardware = find_hardware(options.device)
    except GpucubeError as error:
        parser.error(str(error))
    workers = options.workers or (hardware.kind.lanes if hardware.gpu_count else cores())
    busy = busy_percent()
    page, result = measure(hardware.kind, workers, options.repeat)
    result["machine"]["busy_before_percent"] = busy
    print(f"{page}\nOther programs used {busy} % of the machine before the start.")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0
