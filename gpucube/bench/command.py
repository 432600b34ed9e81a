"""The command line of ``python -m gpucube.bench``.

In: arguments. Out: tables on standard output, progress on standard error, JSON if asked for, and the exit status: 0, or
2 with one line on a mistake. Large libraries are imported after the options have been checked, so that mistakes appear at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpucube import streams
from gpucube.bench.machine import busy_percent
from gpucube.bench.outcome import STAGES
from gpucube.errors import GpucubeError
from gpucube.execution.machine import cores
from gpucube.text import did_you_mean

DEVICES = ("auto", "cpu", "cuda")

METER = "Count what a GPU has to do for a workload, and time what Python needs to request it. No GPU is needed."

TOTAL_SECONDS = 60.0
"""Limit for all timed runs together. The rest of two minutes is for making workloads and measuring floors."""


def positive(text: str) -> int:
    """Read a number from 1 on. This function and the next four are types for `argparse`."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} should be at least 1")
    return int(text)


def chunk_sizes(text: str) -> list[int | str]:
    """Read ``"1,8,auto"`` as a list."""
    sizes: list[int | str] = []
    for word in text.split(","):
        number = int(word) if word.lstrip("-").isdigit() else 0
        if word != "auto" and number < 1 and number != -1:
            raise argparse.ArgumentTypeError(f"{word!r} should be -1, 1 or more, or auto")
        sizes.append(number or word)
    return sizes


def seconds(text: str) -> float:
    """Read a number of seconds, 0 for no limit."""
    if not float(text) >= 0:
        raise argparse.ArgumentTypeError(f"{text} should be 0 or more")
    return float(text) or float("inf")


def _stages(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in STAGES:
            advice = did_you_mean(name, STAGES) or f": there are {', '.join(STAGES)}"
            raise argparse.ArgumentTypeError(f"no stage {name!r}{advice}")
    return names


def _new_file(text: str) -> Path:
    folder = Path(text).absolute().parent
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {folder}")
    return Path(text)


def _meter(arguments: Sequence[str]) -> None:
    """Run ``python -m gpucube.bench meter``: what a GPU is asked to do, counted without one."""
    parser = _Parser(prog="python -m gpucube.bench meter", allow_abbrev=False, description=METER)
    parser.add_argument("--workload", default="vla-hi", metavar="NAME|FILE", help="a built-in name, or a YAML file")
    parser.add_argument("--json", type=_new_file, metavar="FILE", help="write the counts too")
    options = parser.parse_args(arguments)
    from gpucube.bench.meter import meter, table
    from gpucube.bench.workloads import find_workload

    workload = find_workload(options.workload)
    found = meter(workload)
    print(table(workload, found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


class _Parser(argparse.ArgumentParser):
    def _print_message(self, message: str, file: object = None) -> None:
        streams.show(message, end="")

    def error(self, message: str) -> NoReturn:
        raise GpucubeError(f"{message}; see python -m gpucube.bench --help")


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m gpucube.bench",
        allow_abbrev=False,
        description="Measure how fast this machine images, stage by stage, and what limits it.",
        epilog="meter --help: count what a GPU has to do, without a GPU. "
        "Experiments on scaling and convergence need a checkout of gpucube: see bench/README.md there.",
    )
    add = parser.add_argument
    add("--workload", nargs="+", default=["vla-hi"], metavar="NAME|FILE", help="built-in names, YAML files, or all")
    add("--ms", metavar="FILE", help="measure this MeasurementSet, with the imaging parameters of the workload")
    add("--device", default="auto", choices=DEVICES, help="default: auto")
    add("--workers", type=positive, help="default: one for each core, or the threads that share a GPU")
    chunk_help = "chunk sizes, separated by commas; one run for each (default auto)"
    add("--chunksize", type=chunk_sizes, default=["auto"], metavar="LIST", help=chunk_help)
    add("--stages", type=_stages, default=STAGES, metavar="LIST", help="run only these stages, separated by commas")
    add("--repeat", type=positive, default=3, help="timed runs (default 3)")
    limit_help = "limit for all timed runs together; workloads are cut to fit; 0: no limit (default %(default)g)"
    add("--seconds", type=seconds, default=TOTAL_SECONDS, help=limit_help)
    add("--json", type=_new_file, metavar="FILE", help="also write the figures to this file")
    add("--compare", type=Path, metavar="OLD.json", help="compare with an older result")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        advice = did_you_mean(unknown[0].partition("=")[0], parser._option_string_actions)
        raise GpucubeError(f"unknown option {unknown[0]!r}{advice or '; see python -m gpucube.bench --help'}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given[:1] == ["meter"]:
            _meter(given[1:])
        else:
            _run(given, _options(given))
    except GpucubeError as error:
        message = str(error).replace("`", "")  # which mark parameters of the main job
        streams.tell(f"gpucube.bench: error: {message}")
        return 2
    except KeyboardInterrupt:
        streams.tell("\ngpucube.bench: interrupted")
        return 130
    return 0


def _run(given: Sequence[str], options: argparse.Namespace) -> None:
    """Run every workload with every chunk size, and show what was found."""
    from gpucube.bench import report
    from gpucube.bench.stages import Request, run_ms, run_workload
    from gpucube.bench.workloads import WORKLOADS, find_workload
    from gpucube.devices.choice import find_hardware

    hardware = find_hardware(options.device)
    workers = options.workers or (hardware.kind.lanes if hardware.gpu_count else cores())
    old = report.read_result(options.compare) if options.compare else None
    busy = busy_percent()
    names = list(WORKLOADS) if options.workload == ["all"] else options.workload
    runs = [(workload, size) for workload in map(find_workload, names) for size in options.chunksize]
    results: list[dict[str, Any]] = []
    for workload, size in runs:
        request = Request(
            kind=hardware.kind,
            workers=workers,
            chunksize=size,
            repeat=options.repeat,
            stages=options.stages,
            seconds=options.seconds / (len(runs) * options.repeat),
        )
        outcome = run_ms(options.ms, workload, request) if options.ms else run_workload(workload, request)
        results.append(report.as_json(outcome, options.stages))
    document = report.document(["python -m gpucube.bench", *given], results)
    document["machine"]["busy_before_percent"] = busy
    if options.json:  # before standard output, which may be full
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    streams.show(f"# `{document['command']}`\n\n{report.head(document)}.\n")
    streams.show("\n".join(report.page(result) for result in results))
    streams.show(f"Other programs used {busy} % of the machine before the start.")
    streams.show(f"{hardware.note[0].upper()}{hardware.note[1:]}.\n" if hardware.note else "")
    if old is not None:
        streams.show(report.comparison(document, old))
