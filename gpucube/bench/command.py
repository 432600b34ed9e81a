"""The command line of ``python -m gpucube.bench``.

In: arguments. Out: tables on standard output, progress on standard error, JSON if asked for, and the exit status: 0, or
2 for a mistake, told in one line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gpucube.bench.machine import busy_percent, cores
from gpucube.errors import GpucubeError
from gpucube.words import did_you_mean

if TYPE_CHECKING:
    from gpucube.devices.base import DeviceKind

DEVICES = ("auto", "cpu", "cuda")

TOTAL_SECONDS = 60.0
"""What the timed runs may take all together; the rest of two minutes is for making workloads and measuring floors."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise GpucubeError(f"{message}; see python -m gpucube.bench --help")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m gpucube.bench",
        allow_abbrev=False,
        description="What throughput this machine gives, and what limits it.",
        epilog="Experiments on scaling and convergence need a checkout of gpucube: see bench/README.md there.",
    )
    parser.add_argument(
        "--workload", nargs="+", default=["vla-hi"], metavar="NAME|FILE", help="built-in names, YAML files, or all"
    )
    parser.add_argument("--ms", metavar="FILE", help="measure this MeasurementSet, imaged as the workload is")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--workers", type=int, help="default: one for each core; the threads that share a GPU")
    parser.add_argument(
        "--chunksize", default="auto", metavar="LIST", help="with commas: a run for each (default auto)"
    )
    parser.add_argument("--stages", default="", metavar="LIST", help="with commas: only these")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs (default 3)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=TOTAL_SECONDS,
        help=f"the timed runs all together; workloads are cut to fit; 0: no limit (default {TOTAL_SECONDS:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures too")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="compare with an older result")
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        advice = did_you_mean(unknown[0].partition("=")[0], parser._option_string_actions)
        raise GpucubeError(f"unknown option {unknown[0]!r}{advice or '; see python -m gpucube.bench --help'}")
    if options.device not in DEVICES:
        raise GpucubeError(f"no device {options.device!r}: there are {', '.join(DEVICES)}")
    for name in ("workers", "repeat"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise GpucubeError(f"--{name} {getattr(options, name)} should be at least 1")
    if not options.seconds >= 0:
        raise GpucubeError(f"--seconds {options.seconds:g} should be 0 or more")
    if options.json and not options.json.absolute().parent.is_dir():
        raise GpucubeError(f"--json {options.json}: there is no folder {options.json.absolute().parent}")
    return options


def chunk_sizes(text: str) -> list[int | str]:
    """``"1,8,auto"`` as a list.

    Raises
    ------
    GpucubeError
        A size is neither -1, nor 1 or more, nor auto.
    """
    sizes: list[int | str] = []
    for word in text.split(","):
        if word == "auto":
            sizes.append(word)
        elif word.lstrip("-").isdigit() and (int(word) >= 1 or int(word) == -1):
            sizes.append(int(word))
        else:
            raise GpucubeError(f"--chunksize {text}: {word!r} should be -1, 1 or more, or auto")
    return sizes


def _stages(text: str) -> tuple[str, ...]:
    from gpucube.bench.stages import STAGES

    names = tuple(text.split(",")) if text else STAGES
    for name in names:
        if name not in STAGES:
            advice = did_you_mean(name, STAGES) or f": there are {', '.join(STAGES)}"
            raise GpucubeError(f"no stage {name!r}{advice}")
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return _run(given)
    except GpucubeError as error:
        print(f"gpucube.bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ngpucube.bench: interrupted", file=sys.stderr)
        return 130


def _run(given: Sequence[str]) -> int:
    options = _parse(given)
    from gpucube.devices.choice import find_hardware

    sizes, stages = chunk_sizes(options.chunksize), _stages(options.stages)
    hardware = find_hardware(options.device)
    device, note = hardware.kind, hardware.note
    options.workers = options.workers or (device.lanes if hardware.gpu_count else cores())
    from gpucube.bench import report

    busy = busy_percent()
    old = report.read_result(options.compare) if options.compare else None
    text, result = _measure_stages(given, options, device, sizes, stages)
    result["machine"]["busy_before_percent"] = busy
    print(f"{text}\nOther programs used {busy} % of the machine before the start.")
    print(f"{note[0].upper()}{note[1:]}.\n" if note else "")
    if old is not None:
        print(report.comparison(result, old))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _measure_stages(
    given: Sequence[str],
    options: argparse.Namespace,
    device: DeviceKind,
    sizes: Sequence[int | str],
    stages: tuple[str, ...],
) -> tuple[str, dict[str, Any]]:
    from gpucube.bench import report
    from gpucube.bench.stages import Request, run_ms, run_workload
    from gpucube.bench.workloads import WORKLOADS, find_workload

    names = list(WORKLOADS) if options.workload == ["all"] else options.workload
    workloads = [find_workload(name) for name in names]
    runs = len(workloads) * len(sizes) * options.repeat
    seconds = options.seconds / runs if options.seconds else float("inf")
    results = []
    for workload in workloads:
        for size in sizes:
            request = Request(device, options.workers, size, options.repeat, stages, seconds)
            outcome = run_ms(options.ms, workload, request) if options.ms else run_workload(workload, request)
            results.append(report.as_json(outcome, stages))
    result = report.document(["python -m gpucube.bench", *given], results)
    pages = [f"# `{result['command']}`", "", report.head(result) + ".", ""]
    pages += [report.page(r) for r in results]
    return "\n".join(pages), result
