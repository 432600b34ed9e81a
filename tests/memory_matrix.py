"""Compares the memory that runs take with what their plans predict, for jobs of many kinds.

In: the names of jobs, by default all. Out: a Markdown table, and exit status 0 if no run took more than predicted, and none
above 500 MB less than 90 % of it. Each job is a process of its own, so that none holds what another has left.

`make memory-matrix` runs all jobs; tests/execution/test_memory.py runs those in `QUICK`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LARGE = 500e6
"""Bytes. A small run consists mostly of the interpreter and its libraries, whose size varies between machines."""

LEAST_SHARE = 0.9

ROWS = {
    "array": "vla-d",
    "antennas": 10,
    "ntime": 20,
    "nchan": 4,
    "npol": 4,
    "peak": 1.0,
    "noise": 0.01,
    "flag_channels": "",
}
LINES = {"array": "vla-d", "bright_frac": 0.0, "continuum": 1.0, "flag_channels": ""}
WIDE = {"array": "meerkat", "antennas": 10, "ntime": 36, "bright_frac": 0.0, "continuum": 1.0, "flag_channels": ""}
OBSERVATIONS: dict[str, dict[str, Any]] = {
    "few": ROWS,
    "eight": ROWS | {"nchan": 8, "npol": 2},
    "forty": ROWS | {"nchan": 40, "npol": 2},
    "long": LINES | {"ntime": 1000, "nchan": 2, "npol": 1},
    "longer": LINES | {"ntime": 3000, "nchan": 2, "npol": 1},
    "many": LINES | {"ntime": 20, "nchan": 3000, "npol": 2},
    "4096x4": WIDE | {"nchan": 4096, "npol": 4, "chan_width": 26123.0},
    "16384x2": WIDE | {"nchan": 16384, "npol": 2, "chan_width": 6530.0},
    "32768x2": WIDE | {"nchan": 32768, "npol": 2, "chan_width": 3265.0, "weight_spectrum": True},
    "32768x4": WIDE | {"nchan": 32768, "npol": 4, "chan_width": 3265.0, "weight_spectrum": True},
}
"""MeasurementSets, as `gpucube simulate` takes them; with the smallest image that it simulates."""

CLEAN = {"niter": 300, "cell": "4arcsec"}
DIRTY = {"niter": 0, "cell": "4arcsec"}
FINE = {"niter": 300, "cell": "2arcsec"}
COARSE = {"niter": 0, "imsize": 64, "cell": "30arcsec"}


@dataclass(frozen=True)
class MatrixJob:
    """A run: what it images, how often (as so many MeasurementSets), with which parameters, and in which processes."""

    observation: str
    parameters: dict[str, Any]
    copies: int = 1
    workers: int = 1
    cluster: bool = False


JOBS: dict[str, MatrixJob] = {
    # image sizes, cleaned or not
    "clean 1024": MatrixJob("few", CLEAN | {"imsize": 1024}),
    "clean 1500": MatrixJob("few", CLEAN | {"imsize": 1500}),
    "clean 2048": MatrixJob("few", CLEAN | {"imsize": 2048, "spw": "0:0"}),
    "clean 3000": MatrixJob("few", FINE | {"imsize": 3000, "spw": "0:0"}),
    "clean 2400 x 1200": MatrixJob("few", CLEAN | {"imsize": (2400, 1200), "spw": "0:1"}),
    "dirty 1024": MatrixJob("few", DIRTY | {"imsize": 1024}),
    "dirty 2048": MatrixJob("few", DIRTY | {"imsize": 2048, "spw": "0:0"}),
    "dirty 3000": MatrixJob("few", DIRTY | {"imsize": 3000, "cell": "2arcsec"}),
    "dirty 4096": MatrixJob("few", DIRTY | {"imsize": 4096, "cell": "2arcsec", "spw": "0:0"}),
    # Stokes parameters
    "IQ 1024": MatrixJob("few", CLEAN | {"imsize": 1024, "stokes": "IQ"}),
    "IQUV 1024": MatrixJob("few", CLEAN | {"imsize": 1024, "stokes": "IQUV"}),
    "IQUV 2048": MatrixJob("few", FINE | {"imsize": 2048, "stokes": "IQUV", "spw": "0:0"}),
    "dirty IQUV 2048": MatrixJob("few", DIRTY | {"imsize": 2048, "stokes": "IQUV"}),
    # weighting, products, beams, ways to clean
    "briggs, taper, textbook 1500": MatrixJob(
        "few", CLEAN | {"imsize": 1500, "weighting": "briggs", "uvtaper": "1klambda", "minorcycle": "textbook"}
    ),
    "visibility cycles 1500": MatrixJob("few", CLEAN | {"imsize": 1500, "majorcycle": "visibility"}),
    "six products 1500": MatrixJob("few", CLEAN | {"imsize": 1500, "products": "image,residual,model,psf,dirty,mask"}),
    "common beam 1500": MatrixJob("few", CLEAN | {"imsize": 1500, "restoringbeam": "common"}),
    "given beam 1500": MatrixJob("few", CLEAN | {"imsize": 1500, "restoringbeam": "90arcsec"}),
    # gridders and accuracies
    "w 1024": MatrixJob("few", CLEAN | {"imsize": 1024, "cell": "10arcsec", "gridder": "wgridder"}),
    "w 2048": MatrixJob("few", CLEAN | {"imsize": 2048, "gridder": "wgridder", "spw": "0:0"}),
    "w, 1e-9 1024": MatrixJob("few", CLEAN | {"imsize": 1024, "gridder": "wgridder", "epsilon": 1e-9}),
    "dirty w 2048": MatrixJob("few", DIRTY | {"imsize": 2048, "gridder": "wgridder"}),
    "1e-7 1024": MatrixJob("few", CLEAN | {"imsize": 1024, "epsilon": 1e-7}),
    "1e-2 1500": MatrixJob("few", CLEAN | {"imsize": 1500, "epsilon": 1e-2}),
    # rows and MeasurementSets
    "351,000 rows 1024": MatrixJob("long", CLEAN | {"imsize": 1024}),
    "351,000 rows, two MeasurementSets": MatrixJob("long", COARSE | {"niter": 100}, copies=2),
    "351,000 rows, eight MeasurementSets": MatrixJob("long", COARSE | {"niter": 100}, copies=8),
    "1,053,000 rows": MatrixJob("longer", COARSE),
    "1,053,000 rows, two MeasurementSets 1024": MatrixJob("longer", CLEAN | {"imsize": 1024}, copies=2),
    # channels in and out
    "3,000 channels out": MatrixJob("many", COARSE | {"imsize": 128, "niter": 20}),
    "4,096 channels x 4 to 8": MatrixJob("4096x4", COARSE | {"width": 512}),
    "16,384 channels x 2 to 8": MatrixJob("16384x2", COARSE | {"width": 2048}),
    "32,768 channels x 2 to 8": MatrixJob("32768x2", COARSE | {"width": 4096}),
    "32,768 channels x 4 to 2,048, IQUV": MatrixJob("32768x4", COARSE | {"width": 16, "stokes": "IQUV"}),
    "8 of 32,768 channels": MatrixJob("32768x4", COARSE | {"spw": "0:100~107"}),
    "2,048 channels regridded": MatrixJob("32768x2", COARSE | {"outframe": "LSRK", "width": 16}),
    # workers
    "two threads 1024": MatrixJob("forty", CLEAN | {"imsize": 1024}, workers=2),
    "two threads 1500": MatrixJob("forty", CLEAN | {"imsize": 1500}, workers=2),
    "four threads, 4,096 channels x 4": MatrixJob("4096x4", COARSE | {"width": 512}, workers=4),
    "cluster of two 64": MatrixJob("eight", CLEAN | {"imsize": 64}, workers=2, cluster=True),
    "cluster of two 1024": MatrixJob("eight", CLEAN | {"imsize": 1024}, workers=2, cluster=True),
    "cluster of three 512, w": MatrixJob(
        "eight", CLEAN | {"imsize": 512, "gridder": "wgridder"}, workers=3, cluster=True
    ),
}

QUICK = ("clean 2048", "w, 1e-9 1024", "351,000 rows, two MeasurementSets", "4,096 channels x 4 to 8")
"""A few kinds that take seconds."""

CODE = """
import json, sys
from gpucube import run
from gpucube.execution.tuning import Tuning
from gpucube.schema.parameters import make_parameters

if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    tuning = Tuning(in_process_seconds=0.0 if given.pop("cluster") else 1e9)
    run.image(make_parameters(**given), tuning=tuning)
"""


def measure(job: MatrixJob, observation: Path, folder: Path) -> tuple[int, int]:
    """Run a job; returns the bytes predicted and the largest number of bytes held."""
    folder.mkdir()
    paths = [observation]
    for number in range(1, job.copies):
        paths.append(folder / f"copy{number}.ms")
        shutil.copytree(observation, paths[-1])
    parameters = job.parameters | {"vis": [str(path) for path in paths], "imagename": str(folder / "out")}
    parameters |= {"device": "cpu", "quiet": True, "workers": job.workers, "cluster": job.cluster}
    try:
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CODE, json.dumps(parameters)], capture_output=True, text=True
        )
        if ended.returncode:
            raise AssertionError(ended.stderr)
        summary = json.loads((folder / "out.summary.json").read_text())
    finally:
        shutil.rmtree(folder)
    return summary["memory_predicted"], summary["memory_peak"]


def simulate(name: str, folder: Path) -> Path:
    """Make one of `OBSERVATIONS`."""
    from gpucube.schema.validation import validated
    from gpucube.simulate import SimulationParameters, simulate_ms

    out = folder / f"{name}.ms"
    if not out.exists():
        small = {"imsize": 64, "cell": "20arcsec" if "vla" in OBSERVATIONS[name]["array"] else "30arcsec"}
        simulate_ms(validated(SimulationParameters, OBSERVATIONS[name] | small | {"out": out}))
    return out


def verdict(predicted: int, peak: int) -> str:
    """What is wrong with a prediction; empty if nothing is."""
    if peak > predicted:
        return "too low"
    return "too high" if predicted > LARGE and peak < LEAST_SHARE * predicted else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    from gpucube.bench.machine import machine

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="names of jobs, by default all")
    names = parser.parse_args(arguments).jobs or list(JOBS)
    here, wrong = machine(), 0
    print("# `make memory-matrix`\n")
    print(f"{here['date']}, {here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB, python {here['python']}.\n")
    print("| job | workers | predicted, MB | peak, MB | peak / predicted | |\n|---|---|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory(prefix="gpucube-memory-") as folder:
        for number, name in enumerate(names):
            job = JOBS[name]
            observation = simulate(job.observation, Path(folder))
            predicted, peak = measure(job, observation, Path(folder) / f"job{number}")
            fault = verdict(predicted, peak)
            wrong += bool(fault)
            place = "processes" if job.cluster else "threads" if job.workers > 1 else "thread"
            cells = [name, f"{job.workers} {place}", *(f"{n / 1e6:.0f}" for n in (predicted, peak))]
            print("|", " | ".join([*cells, f"{peak / predicted:.3f}", fault]), "|", flush=True)
            if job.observation not in {JOBS[n].observation for n in names[number + 1 :]}:
                shutil.rmtree(observation)
    print(f"\n{len(names)} jobs, {wrong} predictions wrong.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
