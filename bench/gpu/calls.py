"""What to run on a GPU for the first time, as three calls of less than ten minutes each; docs/gpu.md says why.

In: a checkout of gpucube, and a folder of wheels made by `wheels.sh`. The machine needs Python, numpy, scipy, numba, psutil,
PyYAML and CuPy; it needs no network and no installed gpucube. Out: ``call1.md`` and ``call1.json`` (2, 3) in a folder, with the
hardware, and for each step whether it succeeded, its seconds, the end of what it printed, and in the JSON its figures.

    python3 bench/gpu/calls.py 1 --wheels .whl --out out
    python3 bench/gpu/calls.py 1 --wheels .whl --out out --on-host      # the same without a GPU: shows that nothing is missing

A step that fails does not stop the others, but the exit status is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

NEEDED = ("numpy", "scipy", "numba", "psutil", "yaml", "pytest", "pydantic", "ducc0", "astropy", "casacore")
"""Modules that the calls import."""

NAMED = ("cupy-cuda12x", "cupy-cuda13x", "numpy", "scipy", "numba", "ducc0", "astropy", "pytest")
"""Packages whose versions are recorded."""

KERNELS = [
    *(
        f"tests/devices/test_kernels_{name}.py"
        for name in ("weights", "statistics", "beam", "hogbom", "multiscale", "components", "planes")
    ),
    *("tests/devices/test_kernels_grid.py", "tests/devices/test_minor_cycle.py", "tests/devices/test_devices.py"),
    "tests/devices/test_multiscale.py",
]
"""Tests that need neither casacore nor a MeasurementSet."""

TAIL = 12_000
"""Characters of a step's output that are kept."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command; `tool` is put before it where there is one. With `figures` it takes ``--json FILE``."""

    name: str
    command: tuple[str, ...]
    seconds: int  # it is stopped after these
    tool: tuple[str, ...] = ()
    figures: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a step."""

    name: str
    command: str
    status: str  # "ok", "failed", "out of time" or "no time left"
    seconds: float
    note: str
    output: str
    figures: Any = None  # what it wrote as JSON


def tests(name: str, seconds: int, *arguments: str, tool: tuple[str, ...] = ()) -> Step:
    """A step of pytest. Under a tool, arrays lie in blocks of their own: a pool hides writes past the end of an array."""
    program = ("bench/gpu/without_pool.py",) if tool else ("-m", "pytest")
    return Step(name=name, command=(*program, "-m", "gpu", "-q", *arguments), seconds=seconds, tool=tool)


def speed(name: str, seconds: int, *arguments: str) -> Step:
    """A step of `gpu_speed.py`, which begins no part when half of its time is over."""
    command = ("bench/gpu/gpu_speed.py", *arguments, "--seconds", str(seconds // 2))
    return Step(name=name, command=command, seconds=seconds, figures=True)


def steps_of(call: int) -> list[Step]:
    """The steps of a call, the most telling first."""
    where = "from gpucube.devices.choice import gpus_here; print(gpus_here())"
    sanitizer = ("compute-sanitizer", "--report-api-errors", "no", "--error-exitcode", "9", "--tool")
    profiler = ("ncu", "--clock-control", "none", "--set", "basic", "--launch-count", "3", "--kernel-name")
    grid, hogbom = "tests/devices/test_kernels_grid.py", "tests/devices/test_kernels_hogbom.py"
    if call == 1:
        return [
            Step(name="GPUs that gpucube finds", command=("-c", where), seconds=60),
            tests("does CuPy take what it is given", 100, "-x", grid, "-k", "ragged or edges"),
            tests("kernels and device", 270, "--maxfail=30", "--durations=15", *KERNELS),
            speed("speed of kernels", 200, "--parts", "copy,repeat,hogbom,grid,fft"),
        ]
    if call == 2:
        lanes = [speed(f"busy with {n} lanes", 60, "--parts", "busy", "--lanes", f"{n}") for n in (1, 2, 4)]
        return [
            tests("whole runs", 180, "--maxfail=10", "tests/devices/test_cuda.py"),
            speed("speed of chunks", 150, "--parts", "copy,chunk,busy,memory,sort"),
            Step(name="one job on both devices", command=("bench/gpu/main_job.py",), seconds=90, figures=True),
            *lanes,
        ]
    edges = (grid, "-k", "edges or without")
    return [
        tests("memory of minor cycles", 120, "-x", hogbom, tool=(*sanitizer, "memcheck")),
        tests("memory of gridding", 120, "-x", *edges, tool=(*sanitizer, "memcheck")),
        tests("races in gridding", 90, "-x", *edges, tool=(*sanitizer, "racecheck")),
        tests(
            *("races in statistics", 60, "-x", "tests/devices/test_kernels_statistics.py"),
            *("-k", "shape2"),
            tool=(*sanitizer, "racecheck"),
        ),
        tests("barriers of minor cycles", 60, "-x", hogbom, "-k", "shape1", tool=(*sanitizer, "synccheck")),
        *(
            Step(name=f"profile of {kernel}", command=profiled, seconds=45, tool=(*profiler, kernel))
            for kernel, part in (("grid_samples", "grid"), ("hogbom_active_set", "hogbom"), ("hogbom_step", "hogbom"))
            for profiled in [("bench/gpu/gpu_speed.py", "--repeat", "1", "--parts", part)]
        ),
        speed("minor cycles with small fetches of the L2 cache", 60, "--parts", "copy,hogbom", "--l2-fetch", "32"),
    ]


def on_host(step: Step) -> Step:
    """The step with kernels run on the host, without the tool."""
    command = tuple("not gpu" if word == "gpu" else word for word in step.command)
    if command[0].startswith("bench/gpu/") and command[0] != "bench/gpu/without_pool.py":
        command = (*command, "--on-host")
    return replace(step, command=command, seconds=20 * step.seconds, tool=())


def carry_out(step: Step, environment: dict[str, str]) -> Outcome:
    """Run a step."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        outcome = _run(step, ("--json", str(figures)) if step.figures else (), environment)
        return replace(outcome, figures=json.loads(figures.read_text()) if figures.exists() else None)


def _run(step: Step, more: tuple[str, ...], environment: dict[str, str]) -> Outcome:
    note, command = "", [sys.executable, *step.command, *more]
    if step.tool:
        if path := shutil.which(step.tool[0]):
            command = [path, *step.tool[1:], *command]
        else:
            note = f"{step.tool[0]} is not installed"
    shown = " ".join(("python3", *step.command))
    print(f"{step.name}: {shown}", flush=True)
    begin = time.perf_counter()
    if note or step.seconds <= 0:
        status = "failed" if note else "no time left"
        return Outcome(name=step.name, command=shown, status=status, seconds=0.0, note=note, output="")
    try:
        run = subprocess.run(
            command,
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=step.seconds,
        )
        status, output = "ok" if run.returncode == 0 else "failed", run.stdout
        if step.tool and step.tool[0] == "ncu" and "No kernels were profiled" in output:
            status = "failed"
    except subprocess.TimeoutExpired as late:
        said = late.stdout or b""
        status, output = "out of time", said.decode(errors="replace") if isinstance(said, bytes) else said
    seconds = time.perf_counter() - begin
    print(output[-TAIL:], f"{step.name}: {status}, {seconds:.0f} s", sep="\n", flush=True)
    return Outcome(
        name=step.name, command=shown, status=status, seconds=round(seconds, 1), note=note, output=output[-TAIL:]
    )


def install(wheels: Path, environment: dict[str, str]) -> None:
    """Install the wheels into a folder of their own, once for each machine."""
    target = Path(environment["PYTHONPATH"].split(os.pathsep)[-1])
    if target.exists():
        return
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
    ]
    subprocess.run([*command, "--target", str(target), *map(str, sorted(wheels.glob("*.whl")))], check=True)


IMPORT_ALL = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"{name} ({type(error).__name__}: {error})")
"""


def missing(environment: dict[str, str]) -> list[str]:
    """The modules that are needed and cannot be imported, and why."""
    command = [sys.executable, "-c", IMPORT_ALL, *NEEDED]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def hardware(environment: dict[str, str]) -> dict[str, str]:
    """Names of the machine, its GPUs and the packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    found = {"cpu": f"{len(models)} x {models[0]}" if models else platform.processor(), "system": platform.platform()}
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    found["gpu"] = "none"
    if shutil.which(query[0]):
        found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.strip().replace("\n", "; ")
    found["python"] = platform.python_version()
    places = [*environment["PYTHONPATH"].split(os.pathsep), *sys.path]
    for name in NAMED:
        for package in metadata.distributions(name=name, path=places):
            found.setdefault(name, package.version)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return found | {"gpucube": revision.stdout.strip() or "unknown"}


def page(call: int, machine: dict[str, str], outcomes: list[Outcome]) -> str:
    """The result as Markdown."""
    lines = [f"# Call {call} on {machine['gpu']}", "", ", ".join(f"{k} {v}" for k, v in machine.items()) + ".", ""]
    lines += ["| step | status | seconds | |", "|---|---|---|---|"]
    lines += [f"| {o.name} | {o.status} | {o.seconds:.0f} | {o.note} |" for o in outcomes]
    for o in outcomes:
        lines += ["", f"## {o.name}", "", f"    {o.command}", "", "```", o.output.strip(), "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("call", type=int, choices=(1, 2, 3))
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install these first, offline")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the results (default: out)")
    parser.add_argument("--seconds", type=float, default=570.0, help="the call ends after these (default 570)")
    parser.add_argument("--on-host", action="store_true", help="run kernels on the host: proves the procedure alone")
    options = parser.parse_args()
    begin = time.perf_counter()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    site = Path(os.environ.get("TMPDIR", "/tmp")) / f"gpucube-wheels-{platform.python_version()}"
    places = [str(REPOSITORY), str(REPOSITORY / "tests"), *([str(site)] if options.wheels else [])]
    # plugins of pytest that the machine has may be older than the pytest that is carried
    settings = {"PYTHONUNBUFFERED": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(places)}
    if options.wheels:
        install(options.wheels, environment)
    if lacking := missing(environment):
        print(
            f"calls.py: {', '.join(lacking)} cannot be imported: carry the wheels (bench/gpu/wheels.sh)",
            file=sys.stderr,
        )
        return 2
    machine = hardware(environment)
    outcomes: list[Outcome] = []
    for step in steps_of(options.call):
        left = int(options.seconds - (time.perf_counter() - begin))
        short = on_host(step) if options.on_host else replace(step, seconds=min(step.seconds, left))
        outcomes.append(carry_out(short, environment))
        # after each step, so that a call that is cut off has told what it found
        stem = out / f"call{options.call}"
        stem.with_suffix(".md").write_text(page(options.call, machine, outcomes))
        result = {"call": options.call, "on_host": options.on_host, "hardware": machine}
        result |= {"steps": [asdict(o) for o in outcomes]}
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(*(f"{o.status:12} {o.name}" for o in outcomes), sep="\n")
    return int(any(o.status != "ok" for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
