"""Image one MeasurementSet with gpucube, tclean, WSClean and ducc0, one after the other: what each costs and gives.

In: a MeasurementSet (make_ms.sh) and the programs (setup_peers.sh). Out: in DIR one folder of images per run, logs, and
the figures as JSON and as Markdown tables with the hardware and versions. Every program makes the same cube: Stokes I,
Briggs 0.5 with the density of each channel, Hogbom with gain 0.1 down to 3 sigma, with a limit on iterations that none
reaches; or its dirty image alone. Whole processes are measured, start-up included. Only ratios from one run mean
anything. If the truth lies beside the MeasurementSet, the quality of every cube is measured (quality.py), and the verdicts of
compare_tclean_quality.py follow; the exit status is 1 if one of them is FAIL. The page names peers that are not installed.

    python bench/peers/compare_peers.py --ms small.ms --imsize 256 --cell 10arcsec --out out \
        --casa-python peers/casa/bin/python
    python bench/peers/compare_peers.py ... --only ducc0 --merge out/peers.json     # one row again
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from casacore.tables import table
from compare_tclean_quality import compare, read_truth, report
from measure import Measurement, measure
from quality import measure_quality, read_product
from run_wsclean import summarise_log, wsclean_command

from gpucube.bench.machine import machine
from gpucube.constants import LIGHT_SPEED
from gpucube.text import markdown_table

HERE = Path(__file__).resolve().parent

Figures = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A row of the comparison: what `--only` calls it, its title, whose it is, and whether it cleans."""

    key: str
    title: str
    owner: str
    cleans: bool


PROGRAMS = (
    Program("gpucube", "gpucube", "gpucube", True),
    Program("tclean", "tclean", "tclean", True),
    Program("wsclean-wgridder", "WSClean, w-gridder", "WSClean", True),
    Program("wsclean-default", "WSClean, default gridder", "WSClean", True),
    Program("gpucube-dirty", "gpucube, dirty only", "gpucube", False),
    Program("tclean-dirty", "tclean, dirty only", "tclean", False),
    Program("ducc0", "ducc0, dirty only", "ducc0", False),
)
"""In the order of the tables. Costs of dirty images are compared with those of gpucube's dirty images."""

KEYS = tuple(program.key for program in PROGRAMS)


def describe_ms(ms: Path) -> Figures:
    """Size and resolution of the MeasurementSet. All of it is read, so every program finds it cached."""
    with table(str(ms), ack=False) as main, table(f"{ms}::SPECTRAL_WINDOW", ack=False) as windows:
        nchan, ncorr = main.getcell("DATA", 0).shape
        if windows.nrows() != 1:
            raise SystemExit(
                f"compare_peers.py: {ms} has {windows.nrows()} spectral windows; this comparison needs one"
            )
        rows = main.nrows()
        longest = np.sqrt((main.getcol("UVW") ** 2).sum(axis=1).max())
        wavelength = LIGHT_SPEED / windows.getcell("CHAN_FREQ", 0).mean()
    for path in ms.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
    resolution = round(float(np.degrees(1.22 * wavelength / longest)) * 3600, 4)
    return {"ms": ms.name, "rows": rows, "channels": nchan, "correlations": ncorr, "resolution_arcsec": resolution}


def gpucube_command(options: argparse.Namespace, name: Path, dirty: bool) -> list[str]:
    """`python -m gpucube image`; if it cleans, it writes the dirty and PSF cubes too."""
    command = [sys.executable, "-m", "gpucube", "image", str(options.ms), "--imagename", str(name)]
    command += ["--imsize", str(options.imsize), "--cell", options.cell, "--weighting", "briggs", "--robust", "0.5"]
    command += ["--gridder", "standard"]  # tclean's
    if dirty:
        return [*command, "--niter", "0", "--products", "dirty"]
    return [*command, "--niter", "1000000", "--nsigma", "3", "--products", "image,residual,model,psf,dirty"]


def gpucube_account(name: Path) -> Figures:
    """Major cycles and iterations of all channels, from summary.json."""
    channels = json.loads(name.with_name(f"{name.name}.summary.json").read_text())["channels"]
    return {key: sum(channel[key] for channel in channels) for key in ("major_cycles", "iterations")}


def last_line_account(output: str) -> Figures:
    """The work that one of the run_*.py reports: JSON in the last line of its output."""
    return json.loads(output.splitlines()[-1])


def script(options: argparse.Namespace, python: str, script_name: str, name: Path, *arguments: str) -> list[str]:
    """Command of one of the run_*.py beside this file."""
    command = [python, str(HERE / script_name), "--ms", str(options.ms), "--out", str(name)]
    return [*command, "--imsize", str(options.imsize), "--cell", options.cell, *arguments]


def prepare(
    program: Program, options: argparse.Namespace, name: Path, nchan: int
) -> tuple[list[str], Callable[[str], Figures]]:
    """The command of a run, and the function that reads the work done from its output."""
    match program.key:
        case "gpucube" | "gpucube-dirty":
            return gpucube_command(options, name, not program.cleans), lambda _: gpucube_account(name)
        case "tclean":
            return script(options, options.casa_python, "run_tclean.py", name, "--nsigma", "3"), last_line_account
        case "tclean-dirty":
            return script(options, options.casa_python, "run_tclean.py", name, "--niter", "0"), last_line_account
        case "ducc0":
            return script(options, sys.executable, "run_ducc0.py", name), last_line_account
    wgridder = program.key == "wsclean-wgridder"
    return (
        wsclean_command(str(options.ms), str(name), options.imsize, options.cell, nchan, wgridder=wgridder),
        summarise_log,
    )


def image_name(options: argparse.Namespace, key: str, number: int = 0) -> Path:
    """Image name of a run, in a folder of its own that holds all that the program writes."""
    return options.out / f"run-{key}-{number}" / key


def run(program: Program, options: argparse.Namespace, number: int, nchan: int) -> Figures:
    """Run a program in an empty folder and measure it; stops the comparison if it failed."""
    name = image_name(options, program.key, number)
    shutil.rmtree(name.parent, ignore_errors=True)
    name.parent.mkdir(parents=True)
    log = name.parent.with_suffix(".log")
    command, account = prepare(program, options, name, nchan)
    print(f"{program.title} ...", end=" ", flush=True)
    cost: Measurement = measure(command, log, name.parent)
    if cost.exit_status != 0:
        raise SystemExit(
            f"compare_peers.py: {program.title} ended with status {cost.exit_status}; its output is in {log}"
        )
    print(f"{cost.wall_seconds:.1f} s", flush=True)
    figures = {
        "program": program.title,
        "key": program.key,
        "date": datetime.date.today().isoformat(),
        "command": as_typed(command, options),
        **asdict(cost),
        **account(log.read_text(errors="replace")),
    }
    if program.owner == "tclean":
        subprocess.run([options.casa_python, str(HERE / "export_tclean.py"), str(name)], check=True)
    return figures


def as_typed(command: list[str], options: argparse.Namespace) -> str:
    """A command as one would type it, without the folders of this machine."""
    short = {
        str(options.out): "OUT",
        str(options.ms): options.ms.name,
        str(HERE): "bench/peers",
        sys.executable: "python",
    }
    if options.casa_python:
        short[options.casa_python] = "CASA_PYTHON"
    text = " ".join(command)
    for long in sorted(short, key=len, reverse=True):
        text = text.replace(long, short[long])
    return text


def versions(selected: Iterable[Program]) -> dict[str, str]:
    """Versions of gpucube, of the libraries its speed rests on, and of WSClean."""
    found = {name: version(name) for name in ("numpy", "ducc0", "numba", "dask")}
    command = [sys.executable, "-m", "gpucube", "--version"]
    found["gpucube"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    if any(program.owner == "WSClean" for program in selected):
        text = subprocess.run(["wsclean", "--version"], capture_output=True, text=True, check=True).stdout
        found["WSClean"] = next(line for line in text.splitlines() if "version" in line).split("version")[1].strip()
    return found


def ratios(runs: list[Figures]) -> dict[str, Figures]:
    """Every peer's cost over the median of gpucube's runs of the same kind (cleaned, or dirty only), by title.

    The costs are ``wall``, ``cpu`` and ``peak`` (memory of all processes). A kind that gpucube has not run has none.
    """
    found = {}
    for cleans, own in ((True, "gpucube"), (False, "gpucube-dirty")):
        mine = [run for run in runs if run["key"] == own]
        if not mine:
            continue
        kind = {program.key for program in PROGRAMS if program.cleans == cleans} - {own}
        costs = ("wall_seconds", "cpu_seconds", "peak_tree_mib")
        base = {cost: statistics.median(run[cost] for run in mine) for cost in costs}
        for run in runs:
            if run["key"] in kind:
                found[run["program"]] = {cost.split("_")[0]: round(run[cost] / base[cost], 2) for cost in costs}
    return found


def merge(old: Figures, new: Figures) -> Figures:
    """The old result, with the rows of every program that was run again replaced.

    It must be of the same machine, data and versions: otherwise ratios would mean nothing.
    """
    hardware = ("cpu", "cores", "memory_gib", "accelerators")
    both = old["versions"].keys() & new["versions"].keys()
    for what, keys in (("machine", hardware), ("data", new["data"]), ("versions", both)):
        for key in keys:
            before, now = old[what].get(key), new[what][key]
            if before != now:
                raise SystemExit(
                    f"compare_peers.py: --merge: {what}: {key} was {before} and is {now}; run everything again"
                )
    repeated = {run["key"] for run in new["runs"]}
    runs = [run for run in old["runs"] if run["key"] not in repeated] + new["runs"]
    runs.sort(key=lambda run: KEYS.index(run["key"]))
    there = {program.owner for program in PROGRAMS if program.key in {run["key"] for run in runs}}
    absent = {owner: why for owner, why in old["absent"].items() if owner not in there}
    return {**old, "versions": old["versions"] | new["versions"], "absent": absent, "runs": runs}


def add_quality(runs: list[Figures], options: argparse.Namespace, truth_file: Path, data: Figures) -> None:
    """Measure the images of this call's runs; dirty images are compared with gpucube's, "dirty only" where it was run."""
    truth = read_truth(truth_file)
    nchan, radius = data["channels"], data["resolution_arcsec"] / truth.cell_arcsec
    references = (read_product(str(image_name(options, key)), "dirty", nchan) for key in ("gpucube-dirty", "gpucube"))
    reference = next((cube for cube in references if cube is not None), None)
    counted: dict[str, int] = {}
    for run in runs:
        number = counted[run["key"]] = counted.get(run["key"], -1) + 1
        cleans = next(program.cleans for program in PROGRAMS if program.key == run["key"])
        name = str(image_name(options, run["key"], number))
        run["quality"] = asdict(measure_quality(name, truth, radius, cleans, reference))


def verdicts(options: argparse.Namespace, truth: Path) -> Figures:
    """The verdicts of compare_tclean_quality.py on the images in DIR; nothing if one of the three is missing."""
    names = [str(image_name(options, key)) for key in ("gpucube", "tclean-dirty", "tclean")]
    if not all(Path(f"{name}.residual.fits").exists() for name in names):
        return {}
    criteria, figures = compare(*names, str(truth))
    return {"quality": report(criteria, figures), "quality_figures": figures}


COST_COLUMNS = {
    "wall s": "wall_seconds",
    "CPU s": "cpu_seconds",
    "wall x": "wall",
    "CPU x": "cpu",
    "process MiB": "peak_process_mib",
    "all MiB": "peak_tree_mib",
    "majors": "major_cycles",
    "iterations": "iterations",
    "files": "files_left",
    "MiB": "left_mib",
    "most files": "files_most",
    "most MiB": "most_mib",
    "written MiB": "written_mib",
    "busy %": "busy_before_percent",
}
"""Title of a column -> key of a run or of its ratios."""

QUALITY_COLUMNS = {
    "worst peak / limit": ("residual_peak_over_limit", 1, "{:.3f}"),
    "flux error": ("flux_error", 100, "{:.2f} %"),
    "noise mJy": ("noise_jy", 1000, "{:.4f}"),
    "restored error": ("restored_error", 1, "{:.3f}"),
    "dirty image": ("dirty_difference", 1, "{:.1e}"),
}
"""Title of a column -> field of `Quality`, factor, format."""


def cost_table(result: Figures) -> str:
    """One row for each run; a figure that a program does not have is left empty."""
    rows = [["program", *COST_COLUMNS]]
    for run in result["runs"]:
        figures = run | result["ratios"].get(run["program"], {})
        found = [figures.get(key) for key in COST_COLUMNS.values()]
        rows.append([run["program"], *("" if value is None else str(value) for value in found)])
    return markdown_table(rows)


def quality_table(runs: list[Figures]) -> str:
    """One row for each program, its first run."""
    rows = [["program", "above limit", *QUALITY_COLUMNS]]
    first = {run["program"]: run["quality"] for run in reversed(runs) if "quality" in run}
    for program in sorted(first, key=[known.title for known in PROGRAMS].index):
        q = first[program]
        above = "" if q["channels_above_limit"] is None else f"{q['channels_above_limit']} of {q['channels']}"
        cells = [
            "" if q[key] is None else shown.format(factor * q[key]) for key, factor, shown in QUALITY_COLUMNS.values()
        ]
        rows.append([program, above, *cells])
    return markdown_table(rows)


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
        *(f"Absent: {owner}, {why}." for owner, why in sorted(result["absent"].items())),
        "",
        cost_table(result),
        "",
        "`x`: ratio to the median of the gpucube runs of the same kind, cleaned or dirty only. gpucube and WSClean count "
        "major cycles per channel, tclean per cube; WSClean's figure includes every inversion, those of PSFs too.",
    ]
    if any("quality" in run for run in result["runs"]):
        lines += [
            "",
            quality_table(result["runs"]),
            "",
            "`above limit`: channels whose exact residual exceeds 3 times its own noise. `flux error`: of the models at the "
            "emission, against the truth. `restored error`: rms at the emission over the noise. `dirty image`: largest "
            "difference from gpucube's, over the cube's peak.",
        ]
    if "quality" in result:
        lines += ["", "Against tclean:", "", *(f"    {line}" for line in result["quality"])]
    return "\n".join(lines) + "\n"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", type=Path, required=True)
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", required=True, help="with unit, e.g. 10arcsec")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for images and logs; it is made if it does not exist"
    )
    parser.add_argument("--casa-python", help="the CASA python made by setup_peers.sh; without it tclean is absent")
    parser.add_argument("--only", default="", help=f"programs to run, by comma, of {', '.join(KEYS)}; default: all")
    parser.add_argument("--merge", type=Path, metavar="OLD.json", help="put the rows run now in place of this file's")
    parser.add_argument(
        "--gpucube-repeat", type=int, default=3, help="cleaned runs of gpucube; ratios are to their median"
    )
    parser.add_argument("--truth", type=Path, help="default: the .truth.npz beside the MeasurementSet, if there is one")
    parser.add_argument("--json", type=Path, help="default: DIR/peers.json")
    parser.add_argument("--markdown", type=Path, help="default: DIR/peers.md")
    options = parser.parse_args()
    if not (options.ms / "table.dat").is_file():
        parser.error(f"--ms {options.ms}: no such MeasurementSet")
    options.only = {key for key in options.only.split(",") if key}
    if unknown := options.only - set(KEYS):
        parser.error(f"--only {','.join(sorted(unknown))}: there are {', '.join(KEYS)}")
    options.absent = {}
    if not options.casa_python:
        options.absent["tclean"] = "no --casa-python PATH (made by setup_peers.sh)"
    elif shutil.which(options.casa_python) is None:
        parser.error(f"--casa-python {options.casa_python}: no such program")
    if shutil.which("wsclean") is None:
        options.absent["WSClean"] = "no wsclean on the PATH (installed by setup_peers.sh)"
    for program in PROGRAMS:
        if program.key in options.only and program.owner in options.absent:
            parser.error(f"--only {program.key}: {options.absent[program.owner]}")
    if options.gpucube_repeat < 1:
        parser.error(f"--gpucube-repeat {options.gpucube_repeat}: at least 1")
    if options.merge and not options.merge.is_file():
        parser.error(f"--merge {options.merge}: no such file")
    return options


def write(result: Figures, options: argparse.Namespace) -> None:
    """Write the JSON file and the Markdown page."""
    (options.json or options.out / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.markdown or options.out / "peers.md").write_text(markdown(result))


def main() -> int:
    options = parse_arguments()
    old = json.loads(options.merge.read_text()) if options.merge else None
    if old is not None and "absent" not in old:
        raise SystemExit(
            f"compare_peers.py: --merge {options.merge}: written before rows could be merged; run everything again"
        )
    options.ms, options.out = options.ms.resolve(), options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    selected = [p for p in PROGRAMS if p.owner not in options.absent and (not options.only or p.key in options.only)]
    result: Figures = {"machine": machine(), "versions": versions(selected), "absent": options.absent}
    result["data"] = {**describe_ms(options.ms), "imsize": options.imsize, "cell": options.cell}
    result["runs"] = []
    if old is not None:
        merge(old, result)  # refuses before the work what does not fit

    for program in selected:
        for number in range(options.gpucube_repeat if program.key == "gpucube" else 1):
            result["runs"].append(run(program, options, number, result["data"]["channels"]))
    for figures in result["runs"]:
        if "stop_code" in figures:
            result["versions"]["CASA"] = figures["version"]
    truth = options.truth or options.ms.with_suffix(".truth.npz")
    final = result if old is None else merge(old, result)
    final["ratios"] = ratios(final["runs"])
    write(final, options)

    if truth.exists():
        add_quality(result["runs"], options, truth, result["data"])
        judged = {"gpucube", "tclean", "tclean-dirty"} & {program.key for program in selected}
        if judged:
            for key in ("quality", "quality_figures"):
                final.pop(key, None)
            final |= verdicts(options, truth)
        write(final, options)
    print(markdown(final))
    return int(any(line.startswith("FAIL") for line in final.get("quality", [])))


if __name__ == "__main__":
    sys.exit(main())
