"""Speed of the CUDA device on one GPU, each figure beside its floor and beside what it must reach.

In: which parts to measure. Out: tables as Markdown on standard output, and JSON with the hardware if asked for. Every figure
is the median of some repeats with its spread, (largest - smallest) / median. Floors are measured in the same run, most of them
with the bandwidth of a copy on the device. A part that fails is reported in its place and does not stop the others.

    python bench/gpu/gpu_speed.py --json out/gpu-speed.json --markdown out/gpu-speed.md
    python bench/gpu/gpu_speed.py --parts copy,hogbom

What a figure must reach is a share of its floor, or of the bandwidth of a copy, so that it holds for any GPU.

The docstring of each part says what it does. No MeasurementSet is read, so casacore is not needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerator import Accelerator, Gpu
from gridding import measure_grid, measure_sort
from harness import Bench, Figure, Sizes, say, shown, table
from imaging import measure_busy, measure_chunk, measure_memory, measure_repeat
from minor_cycles import measure_hogbom
from transfers import measure_copy, measure_fft

from gpucube.bench.machine import busy_percent, machine
from gpucube.errors import GpucubeError
from gpucube.text import one_line

Part = Callable[[Bench], Iterator[Figure]]

PARTS: dict[str, Part] = {
    "copy": measure_copy,
    "grid": measure_grid,
    "sort": measure_sort,
    "fft": measure_fft,
    "hogbom": measure_hogbom,
    "chunk": measure_chunk,
    "busy": measure_busy,
    "memory": measure_memory,
    "repeat": measure_repeat,
}


def run(bench: Bench, parts: Mapping[str, Part], seconds: float) -> tuple[list[Figure], dict[str, str]]:
    """Figures of all parts, and what went wrong in some. No part begins after so many seconds."""
    figures: list[Figure] = []
    errors: dict[str, str] = {}
    begin = time.perf_counter()
    for name, part in parts.items():
        if time.perf_counter() - begin > seconds:
            errors[name] = f"no time left of {seconds:g} s"
            continue
        say(name)
        try:
            for figure in part(bench):
                figures.append(figure)
                say(f"  {figure.what}: {shown(figure.median, figure.unit)}")
        except Exception as error:  # whatever it is, the other parts may work
            if not isinstance(error, GpucubeError):
                traceback.print_exc()
            errors[name] = one_line(error)
        with suppress(Exception):  # a GPU that no longer works shows in the next part
            bench.backend.free()
    return figures, errors


def page(result: dict[str, Any], parts: Mapping[str, Part], figures: Sequence[Figure]) -> str:
    """The result as Markdown."""
    hardware = result["hardware"]
    names = ", ".join(f"{k} {v}" for k, v in hardware.items() if v and k not in ("gpu", "accelerators"))
    lines = [f"# Speed of the CUDA device on {hardware['gpu']}", "", f"{names}.", ""]
    lines.append(
        f"Medians of {result['repeat']}; spread: (largest - smallest) / median. {result['wall_seconds']:.0f} s in all."
    )
    lines.append(f"Other programs used {hardware['busy_before_percent']} % of the machine before the start.")
    if "grid" in parts and not hardware["cufinufft"]:
        lines.append("cuFINUFFT is absent (package `cufinufft`): gridding is held to 1 Gvis/s alone.")
    for name, part in parts.items():
        lines += ["", f"## {name}", "", " ".join((part.__doc__ or "").split()), ""]
        if some := [f for f in figures if f.part == name]:
            lines.append(table(some))
        if name in result["errors"]:
            lines += ["", f"Failed: {result['errors'][name]}"]
    return "\n".join(lines)


def host_accelerator() -> tuple[Accelerator, Sizes]:
    """The kernels on the host, as the tests run them."""
    tests = Path(__file__).resolve().parents[2] / "tests"
    sys.path += [str(tests), str(tests / "bench")]
    from host_accelerator import TINY, HostAccelerator

    return HostAccelerator(), TINY


def main(
    arguments: Sequence[str] | None = None,
    *,
    here: Accelerator | None = None,
    sizes: Sizes | None = None,
    parts: Mapping[str, Part] = PARTS,
) -> int:
    """Measure an accelerator, by default the GPU; returns the exit status: 0, 1 if a part failed, 2 for wrong usage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--parts", default=",".join(parts), help="with commas (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="timings of each figure (default 5)")
    parser.add_argument("--seconds", type=float, default=400.0, help="no part begins after these (default 400)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the hardware too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables to a file too")
    parser.add_argument("--lanes", type=int, help="threads that share the GPU in part busy (default: as in a job)")
    parser.add_argument(
        "--l2-fetch", type=int, metavar="BYTES", help="what the L2 cache fetches at least (32, 64 or 128)"
    )
    parser.add_argument(
        "--on-host", action="store_true", help="kernels on the host, tiny sizes: tries the procedure only"
    )
    options = parser.parse_args(arguments)
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in parts]:
        parser.error(f"no part {unknown[0]!r}: there are {', '.join(parts)}")
    if options.repeat < 1:
        parser.error("--repeat should be at least 1")
    begin, busy = time.perf_counter(), busy_percent(0.5)
    try:
        if options.on_host:
            here, sizes = host_accelerator()
        here = here or Gpu(options.l2_fetch)
    except GpucubeError as error:
        parser.error(str(error))
    chosen = {name: parts[name] for name in names}
    bench = Bench(here, sizes or Sizes(), options.repeat, options.lanes or here.kind.lanes)
    try:
        figures, errors = run(bench, chosen, options.seconds)
    finally:
        bench.close()
    result = {
        "hardware": machine() | here.describe() | {"busy_before_percent": busy},
        "repeat": options.repeat,
        "wall_seconds": time.perf_counter() - begin,
        "figures": [asdict(f) | {"median": f.median, "spread": f.spread, "reached": f.reached} for f in figures],
        "errors": errors,
    }
    text = page(result, chosen, figures)
    print(text)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
