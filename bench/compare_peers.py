"""Image one MeasurementSet with gpucube, tclean and WSClean, one after the other, and write what each of them cost.

In: a MeasurementSet (make_ms.sh) and the programs (setup_peers.sh). Out: in DIR every program's images and logs, and
the figures as JSON and as a Markdown table with the hardware and versions. Every program makes the same cube: Stokes I,
Briggs 0.5 with the density of each channel, Hogbom with gain 0.1 down to 3 sigma, no limit on iterations that any
reaches. Whole processes are measured, start-up included; only ratios taken from one run mean anything. Where the truth
lies beside the MeasurementSet, compare_tclean_quality.py's verdicts follow, and the exit status is 1 if one fails.

    python bench/compare_peers.py --ms small.ms --imsize 256 --cell 10arcsec --out out \
        --casa-python peers/casa/bin/python
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from casacore.tables import table
from compare_tclean_quality import compare, report
from measure import Measurement, measure
from run_wsclean import summarise_log, wsclean_command

from gpucube.bench.machine import machine

HERE = Path(__file__).resolve().parent
PRODUCTS = ("image", "residual", "model", "psf", "dirty")
PEERS = ("tclean", "wsclean")

Figures = dict[str, Any]


def describe_ms(ms: Path) -> Figures:
    """Rows, channels and correlations of the MeasurementSet; reads it all, so that every program finds it cached."""
    with table(str(ms), ack=False) as main, table(f"{ms}::SPECTRAL_WINDOW", ack=False) as windows:
        nchan, ncorr = main.getcell("DATA", 0).shape
        if windows.nrows() != 1:
            raise SystemExit(
                f"compare_peers.py: {ms} has {windows.nrows()} spectral windows; this comparison needs one"
            )
        rows = main.nrows()
    for path in ms.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
    return {"ms": ms.name, "rows": rows, "channels": nchan, "correlations": ncorr}


def timed(program: str, command: list[str], log: Path, account: Callable[[str], Figures]) -> Figures:
    """Measure `command` and add `account(its output)`; stops the comparison if the program failed."""
    print(f"{program} ...", end=" ", flush=True)
    cost: Measurement = measure(command, log)
    output = log.read_text(errors="replace")
    if cost.exit_status != 0:
        raise SystemExit(f"compare_peers.py: {program} ended with status {cost.exit_status}; its output is in {log}")
    print(f"{cost.wall_seconds:.1f} s", flush=True)
    return {"program": program, "command": command, **asdict(cost), **account(output)}


def gpucube_run(options: argparse.Namespace, out: Path) -> Figures:
    """One run of `python -m gpucube image`."""
    for old in out.parent.glob(f"{out.name}.*"):
        old.unlink()
    command = [sys.executable, "-m", "gpucube", "image", str(options.ms), "--imagename", str(out)]
    command += ["--imsize", str(options.imsize), "--cell", options.cell, "--weighting", "briggs", "--robust", "0.5"]
    command += ["--niter", "1000000", "--nsigma", "3", "--products", ",".join(PRODUCTS)]

    def account(_: str) -> Figures:
        channels = json.loads(out.with_name(f"{out.name}.summary.json").read_text())["channels"]
        return {key: sum(channel[key] for channel in channels) for key in ("major_cycles", "iterations")}

    return timed("gpucube", command, out.with_name(f"{out.name}.log"), account)


def tclean_run(options: argparse.Namespace, out: Path, program: str, *arguments: str) -> Figures:
    """One run of run_tclean.py in the CASA python."""
    command = [options.casa_python, str(HERE / "run_tclean.py"), "--ms", str(options.ms), "--out", str(out)]
    command += ["--imsize", str(options.imsize), "--cell", options.cell, *arguments]
    return timed(program, command, out.with_name(f"{out.name}.log"), lambda text: json.loads(text.splitlines()[-1]))


def wsclean_run(options: argparse.Namespace, out: Path, program: str, nchan: int, wgridder: bool) -> Figures:
    """One run of WSClean itself."""
    command = wsclean_command(str(options.ms), str(out), options.imsize, options.cell, nchan, wgridder=wgridder)
    return timed(program, command, out.with_name(f"{out.name}.log"), summarise_log)


def versions(options: argparse.Namespace) -> dict[str, str]:
    """Versions of gpucube, of the libraries its speed rests on, and of WSClean."""
    found = {name: version(name) for name in ("numpy", "ducc0", "numba", "dask")}
    command = [sys.executable, "-m", "gpucube", "--version"]
    found["gpucube"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    if "wsclean" not in options.skip:
        text = subprocess.run(["wsclean", "--version"], capture_output=True, text=True, check=True).stdout
        found["WSClean"] = next(line for line in text.splitlines() if "version" in line).split("version")[1].strip()
    return found


def ratios(runs: list[Figures]) -> dict[str, Figures]:
    """Every peer's cost over gpucube's median: speed-up in wall time and in CPU seconds, and share of memory."""
    own = [run for run in runs if run["program"] == "gpucube"]
    base = {key: statistics.median(run[key] for run in own) for key in ("wall_seconds", "cpu_seconds", "peak_tree_mib")}
    return {
        run["program"]: {key.split("_")[0]: round(run[key] / value, 2) for key, value in base.items()}
        for run in runs
        if run["program"] != "gpucube"
    }


def markdown(result: Figures) -> str:
    """The result as a Markdown page."""
    data, hardware = result["data"], result["machine"]
    lines = [
        f"# {data['ms']}: {data['rows']} rows x {data['channels']} channels x {data['correlations']} correlations, "
        f"{data['imsize']} x {data['imsize']} pixels of {data['cell']}",
        "",
        f"{hardware['date']}, {hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        + ", ".join(f"{name} {number}" for name, number in sorted(result["versions"].items()))
        + ".",
        "",
        "| program | wall s | CPU s | largest process MiB | all processes MiB | major cycles | iterations "
        "| wall, times gpucube | CPU, times gpucube | machine busy before |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in result["runs"]:
        ratio = result["ratios"].get(run["program"], {"wall": "", "cpu": ""})
        cells = [run[key] for key in ("program", "wall_seconds", "cpu_seconds", "peak_process_mib", "peak_tree_mib")]
        cells += [
            run["major_cycles"],
            run["iterations"],
            ratio["wall"],
            ratio["cpu"],
            f"{run['busy_before_percent']} %",
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    lines += [
        "",
        "Ratios are to the median of the gpucube runs. gpucube and WSClean count a major cycle per channel, tclean per "
        "cube; WSClean's figure holds every inversion, PSFs included.",
    ]
    if "quality" in result:
        lines += ["", "Against tclean:", "", *(f"    {line}" for line in result["quality"])]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", type=Path, required=True)
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", required=True, help="with unit, e.g. 10arcsec")
    parser.add_argument("--out", type=Path, required=True, help="folder for images and logs; made if need be")
    parser.add_argument("--casa-python", help="the CASA python made by setup_peers.sh")
    parser.add_argument("--skip", default="", help="peers not to run, by comma: tclean, wsclean")
    parser.add_argument("--gpucube-repeat", type=int, default=3, help="runs of gpucube; ratios are to their median")
    parser.add_argument("--truth", type=Path, help="default: the .truth.npz beside the MeasurementSet, if it is there")
    parser.add_argument("--json", type=Path, help="default: DIR/peers.json")
    parser.add_argument("--markdown", type=Path, help="default: DIR/peers.md")
    options = parser.parse_args()
    options.skip = {name for name in options.skip.split(",") if name}
    if unknown := options.skip - set(PEERS):
        parser.error(f"--skip {','.join(sorted(unknown))}: there are {', '.join(PEERS)}")
    if "tclean" not in options.skip and not options.casa_python:
        parser.error("tclean needs --casa-python PATH (made by setup_peers.sh), or --skip tclean")
    return options


def write(result: Figures, options: argparse.Namespace) -> None:
    """Write the JSON file and the Markdown page."""
    (options.json or options.out / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.markdown or options.out / "peers.md").write_text(markdown(result))


def main() -> int:
    options = parse_arguments()
    options.ms, options.out = options.ms.resolve(), options.out.resolve()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    result: Figures = {"machine": machine(), "versions": versions(options)}
    result["data"] = {**describe_ms(options.ms), "imsize": options.imsize, "cell": options.cell}

    runs = [gpucube_run(options, out / f"gpucube{i}") for i in range(options.gpucube_repeat)]
    if "tclean" not in options.skip:
        runs.append(tclean_run(options, out / "tclean_dirty", "tclean, dirty only", "--niter", "0"))
        runs.append(tclean_run(options, out / "tclean", "tclean", "--nsigma", "3"))
        result["versions"]["CASA"] = runs[-1]["version"]
    if "wsclean" not in options.skip:
        nchan = result["data"]["channels"]
        runs.append(wsclean_run(options, out / "wsclean_wgridder", "WSClean, w-gridder", nchan, wgridder=True))
        runs.append(wsclean_run(options, out / "wsclean_default", "WSClean, default gridder", nchan, wgridder=False))
    result |= {"runs": runs, "ratios": ratios(runs)}
    write(result, options)

    truth = options.truth or options.ms.with_suffix(".truth.npz")
    failed = False
    if "tclean" not in options.skip and truth.exists():
        export = [options.casa_python, str(HERE / "export_tclean.py"), str(out / "tclean_dirty"), str(out / "tclean")]
        subprocess.run(export, check=True)
        criteria, figures = compare(str(out / "gpucube0"), str(out / "tclean_dirty"), str(out / "tclean"), str(truth))
        failed = not all(criterion.passed for criterion in criteria)
        result |= {"quality": report(criteria, figures), "quality_figures": figures}
        write(result, options)
    print(markdown(result))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
