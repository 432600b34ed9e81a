"""What do frames and continuum subtraction add to INGEST?

    python bench/experiments/conversion_cost.py VIS [--rounds 9] [--workers 1]

Reads a MeasurementSet in TOPO into a visibility store again and again, in turn as it is, in LSRK, with the continuum fitted to
half of the channels of each window (order 0, 1 and 2), and with both. Prints a Markdown table: the median and the least of the
times of each, and the median of the ratio to reading as it is in the same round.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpucube.data.ingest import Ingest
from gpucube.data.selection import select
from gpucube.devices.cpu.kind import CpuKind
from gpucube.execution.threads import ThreadWorkers
from gpucube.schema.parameters import make_parameters


def seconds(vis: str, asked: dict[str, Any], workers: int, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one INGEST."""
    parameters = make_parameters(vis=vis, imagename=folder / "out", workers=workers, **asked)
    reading = Ingest(select(parameters), str(folder / "scratch"))
    pool = ThreadWorkers(workers, CpuKind())
    wall, cpu = time.perf_counter(), time.process_time()
    for report in pool.ingest(reading.jobs):
        reading.add(report)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    pool.close()
    shutil.rmtree(folder / "scratch")
    return wall, cpu


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vis")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    nchan = select(make_parameters(vis=given.vis, imagename="unused")).sources[0].input_shape[0]
    half = f"*:0~{nchan // 4 - 1};{nchan - nchan // 4}~{nchan - 1}"
    orders = {f"order {order}": {"contsubspw": half, "contsuborder": order} for order in (0, 1, 2)}
    lsrk = {"outframe": "LSRK"}
    kinds: dict[str, dict[str, Any]] = {
        "as it is": {},
        **orders,
        "LSRK": lsrk,
        "LSRK, order 1": lsrk | orders["order 1"],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        for _ in range(given.rounds + 1):  # the first round compiles, and fills the page cache
            for name, asked in kinds.items():
                found[name].append(seconds(given.vis, asked, given.workers, Path(folder)))
    print("| conversion | wall s, median | least | ratio | CPU s, median | least | ratio |")
    print("|---|---|---|---|---|---|---|")
    as_it_is = np.array(found["as it is"][1:])
    for name, times in found.items():
        of = np.array(times[1:])
        ratio = np.median(of / as_it_is, axis=0)
        (wall, cpu), (least_wall, least_cpu) = np.median(of, axis=0), of.min(axis=0)
        print(
            f"| {name} | {wall:.3f} | {least_wall:.3f} | {ratio[0]:.2f} | {cpu:.3f} | {least_cpu:.3f} | {ratio[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
