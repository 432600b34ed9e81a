"""Show that two checkouts of gpucube make the same products, byte for byte.

In: two checkouts, each with its environment in `.venv`, and for some jobs a folder of real MeasurementSets (`NAME.ms`, or
packed as `NAME.ms.tar.xz`). The script runs each job in both checkouts, on the CPU, with the same data and parameters. It
runs many small jobs also on the CUDA device; g++ compiles the kernels, and they run on the CPU (device `host`).
Out: one line for each run, `same`, `DIFFERENT` or `skipped`. The exit status is 1 if a run differs, or if no run was
compared. The script compares all bytes of the FITS files and of the simulated truth. It compares all
columns of simulated MeasurementSets, and all values of the summaries except times, places and versions.

    python bench/same_products.py BEFORE_CHECKOUT [AFTER_CHECKOUT] --data FOLDER --out DIR
    python bench/same_products.py BEFORE_CHECKOUT --quick                # run only the smallest jobs, about a minute
    python bench/same_products.py BEFORE_CHECKOUT --jobs demo,small      # run only these jobs

AFTER_CHECKOUT is by default the checkout that holds this script. DIR keeps the simulated data and the products of the first
checkout. The next call uses them again if the sources of the first checkout have not changed. DIR also keeps the products
that differ. Several calls may share one DIR.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {
    "imagename": "out/cube", "imsize": 256, "gridder": "standard", "weighting": "briggs", "robust": 0.5,
    "niter": 1000000, "nsigma": 3,
    "products": ["image", "residual", "model", "psf", "dirty", "mask"], "workers": 1, "memory": "4GB", "quiet": True,
}  # fmt: skip
"""Every image has these parameters. A job may change them."""

TINY = {
    "antennas": 10,
    "ntime": 20,
    "nchan": 12,
    "noise": "0.05Jy",
    "peak": "1Jy",
    "imsize": 64,
    "cell": "20arcsec",
    "continuum": 1,
}
SIMULATIONS: dict[str, dict[str, Any]] = {
    "small": {"array": "vla-d", "ntime": 144, "imsize": 256, "cell": "10arcsec"},
    "alma": {"array": "alma", "ntime": 56, "imsize": 256, "cell": "0.15arcsec", "track-hours": 1},
    "wide": {"ntime": 60, "nchan": 8, "imsize": 512, "cell": "20arcsec", "continuum": 3, "peak": "1Jy"},
    "tiny": TINY,
    "tiny-wide": TINY | {"cell": "120arcsec", "nchan": 6},
    "tiny-other": TINY | {"seed": 2, "ntime": 12, "tile-chan": 5},
    "tiny-full": TINY | {"npol": 4, "chan-width": -15625, "nchan": 8, "weight-spectrum": True, "flagrow-only": True},
    "tiny-snapshot": TINY | {"antennas": 4, "ntime": 2, "noise": "0.005Jy"},
}
"""The first checkout simulates these MeasurementSets; small and alma are those of make_ms.sh."""


@dataclass(frozen=True)
class Job:
    """A job makes one image of `data` with `SETTINGS` and `changes`, or it runs one command of gpucube."""

    data: tuple[str, ...] = ()  # names of `SIMULATIONS`, or of real MeasurementSets
    changes: dict[str, Any] = field(default_factory=dict)
    host: bool = False  # the job also runs on the CUDA device with its kernels on the CPU
    quick: bool = False  # the job belongs to --quick
    cluster: bool = False  # two processes of a Dask cluster do the work
    command: tuple[str, ...] = ()


def job(data: str, *, host: bool = False, **changes: Any) -> Job:
    """Return a job that makes an image."""
    return Job((data,), changes, host)


def tiny(*data: str, cluster: bool = False, **changes: Any) -> Job:
    """Return a job that makes a small image in a few seconds."""
    return Job(data, {"imsize": 64, "cell": "20arcsec"} | changes, host=not cluster, quick=True, cluster=cluster)


HARSH = {"nsigma": 1, "gain": 0.9, "cyclefactor": 0.05, "minpsffraction": 0, "niter": 600}
MEERKAT = "--array meerkat --antennas 8 --ntime 9 --nchan 6 --npol 4 --weight-spectrum"
JOBS: dict[str, Job] = {
    "tiny": tiny("tiny"),
    "textbook": tiny("tiny", minorcycle="textbook", majorcycle="visibility", weighting="uniform", niter=100),
    "tiny-w": tiny("tiny-wide", cell="120arcsec", gridder="wgridder", nsigma=5),
    "common-beam": tiny("tiny", restoringbeam="common", weighting="natural", uvtaper="1klambda,0.7klambda,30deg"),
    "mask": tiny("tiny", mask="mask.fits", phasecenter="J2000 12h30m08s +29d58m00s", threshold="50mJy"),
    "stokes": tiny("tiny-full", stokes="IQUV", width=-2, restoringbeam="100arcsec,90arcsec,20deg", nsigma=4),
    "two-sets": tiny(
        *("tiny", "tiny-other"), imsize="80,64", cell="20arcsec,25arcsec", stokes="pseudoI", spw="0:0~9", start=1,
        width=2, nchan=3, gridder="auto", nsigma=9,
    ),
    "diverging": tiny("tiny-snapshot", start=3, nchan=3, **HARSH),
    "cluster": tiny("tiny", cluster=True, restoringbeam="common"),
    "simulate": Job(quick=True, command=("simulate", "out/meerkat.ms", *MEERKAT.split())),
    "demo": Job(command=("demo", "--out", "out")),
    "small": job("small", cell="10arcsec"),
    "alma": job("alma", cell="0.15arcsec"),
    "wide": job("wide", imsize=512, cell="20arcsec", gridder="wgridder"),
    "dmtau": job("dmtau_co21_sma", cell="0.2arcsec", stokes="pseudoI", host=True),
    "hcop": job("hd142527_hcop43_alma", cell="0.1arcsec", stokes="pseudoI"),
    "vlba": job("j0414_vlba_8spw", cell="0.4mas", stokes="pseudoI"),
    "two-windows": job("j0414_vlba_8spw", imsize=64, cell="0.4mas", spw="1:14,4:3~9", stokes="pseudoI", host=True),
    "m87": job("m87_eht2017", imsize=128, cell="2uas", stokes="pseudoI", niter=2000),
    "mosaic-field": job("antennae_mosaic_alma", field=10, cell="0.2arcsec", stokes="pseudoI"),
    "raw": job("vla_j1008_raw", imsize=128, cell="0.4arcsec", stokes="IQUV", niter=0, width=4),
}  # fmt: skip

MAKE_MASK = """
import numpy as np
from astropy.io import fits
mask = np.zeros((64, 64), np.int16)
mask[14:34, 34:54] = 1
fits.PrimaryHDU(mask).writeto("mask.fits")
"""
IGNORED = {
    *("seconds", "stage_seconds", "wall_seconds", "worker", "chunk", "plan", "scheduler", "versions", "fingerprint"),
    *("memory_peak", "memory_predicted", "device_memory_peak", "device_memory_predicted"),
}
"""These keys of a summary, at any depth, say when, where and by which versions a run was done."""
COMPARED = (".fits", ".npz", ".columns")
"""Files with these endings must have the same bytes."""


def use_host_backend_of_tests(checkout: Path) -> None:
    """Make ``device="cuda"`` run its kernels on the CPU, with the backend that the tests use."""
    sys.path.append(str(checkout / "tests"))
    from host_backend import host_backend

    import gpucube.api
    from gpucube import devices
    from gpucube.devices.cuda import CudaDevice

    devices.MAKERS["cuda"] = lambda settings, lanes: CudaDevice(settings, host_backend())
    gpucube.api.gpus_here = lambda: ("", 1, 1 << 34)


def use_host_kind(checkout: Path) -> None:
    """The same, for a checkout whose devices have kinds."""
    sys.path.append(str(checkout / "tests"))
    from hosts.host_backend import HostCuda

    import gpucube.run

    gpucube.run.hardware_for = lambda *_: HostCuda().hardware()


HOST_DEVICES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("gpucube/devices/cpu/kind.py", use_host_kind),
    ("tests/host_backend.py", use_host_backend_of_tests),
)
"""Each function makes the CUDA device run its kernels on the CPU. A checkout uses the first function whose file it has. Add
a line before the older lines if a checkout needs another function."""


# The next two functions run in the Python of a checkout, in the folder of one run.


def run_here(order: dict[str, Any]) -> None:
    """Make the products in ``out``, as `run_job` orders."""
    import gpucube

    checkout = Path(order["checkout"])
    if not Path(gpucube.__file__).is_relative_to(checkout):
        raise SystemExit(f"gpucube was imported from {gpucube.__file__} and not from {checkout}")
    if order["host"]:
        ways = [use for file, use in HOST_DEVICES if (checkout / file).exists()]
        if not ways:
            raise SystemExit(f"HOST_DEVICES knows no file of {checkout}")
        ways[0](checkout)
    if order["command"]:
        command = [sys.executable, "-P", "-m", "gpucube", *order["command"]]
        if status := subprocess.run(command, check=False).returncode:
            raise SystemExit(status)
        for ms in Path("out").glob("*.ms"):
            ms.with_suffix(".columns").write_text("\n".join(describe_columns(ms)))
        return
    with contextlib.ExitStack() as stack:
        if order["cluster"]:
            from distributed import LocalCluster

            cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0")
            order["parameters"]["scheduler"] = stack.enter_context(cluster).scheduler_address
        gpucube.image_cube(**order["parameters"])


def describe_columns(ms: Path) -> Iterator[str]:
    """Yield a digest of each column of a MeasurementSet and its subtables. Their files also hold bytes without a meaning."""
    from casacore.tables import table

    for folder in [ms, *sorted(path.parent for path in ms.glob("*/table.dat"))]:
        with table(str(folder), ack=False) as opened:
            for name in sorted(opened.colnames()):
                content = hashlib.sha256()
                for row in (row for row in range(opened.nrows()) if opened.iscelldefined(name, row)):
                    cell = opened.getcell(name, row)
                    content.update(cell.tobytes() if hasattr(cell, "tobytes") else repr(cell).encode())
                yield f"{folder.name} {name} {opened.nrows()} {content.hexdigest()}"


# All other functions start the runs and compare them.


@dataclass(frozen=True)
class Checkout:
    """A checkout has a folder, and a Python that runs it."""

    folder: Path
    python: str

    def call(self, arguments: list[str], folder: Path) -> None:
        """Run Python in a folder, with one thread and no GPU, and write its output to ``log``. A failure is a RuntimeError."""
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "DUCC0_NUM_THREADS", "NUMBA_NUM_THREADS")
        environment = os.environ | dict.fromkeys(threads, "1")
        environment |= {"PYTHONPATH": str(self.folder), "CUDA_VISIBLE_DEVICES": ""}
        command, log = [self.python, "-P", *arguments], folder / "log"
        with log.open("w") as output:
            status = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output, check=False)
        if status.returncode:
            last_line = log.read_text().strip().rpartition("\n")[2]
            raise RuntimeError(f"a run of {self.folder} failed with status {status.returncode}: {last_line}")

    def digest(self, *more: Any) -> str:
        """Return a short name for the sources and for everything else that decides a result."""
        found = hashlib.sha256(repr((self.python, *more)).encode())
        for part in ("gpucube", "kernels", "tests"):
            for path in sorted(p for p in (self.folder / part).rglob("*") if p.suffix in (".py", ".cu", ".cuh", ".h")):
                found.update(f"{path.relative_to(self.folder)}\0".encode() + path.read_bytes())
        return found.hexdigest()[:12]


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Let `make` fill a folder that does not exist. It gets its name at the end, so no other call sees half of it."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            whole = Path(partial) / "whole"
            whole.mkdir()
            make(whole)
            with contextlib.suppress(OSError):  # another call has made it meanwhile
                whole.rename(folder)
    return folder


def find_data(name: str, before: Checkout, real: Path | None, out: Path) -> Path | None:
    """Return the path of ``mask.fits`` or ``NAME.ms``, or None if the folder `real` does not have the MeasurementSet."""
    stem, folder = name.removesuffix(".ms"), out / "data"
    if name == "mask.fits":
        return made_once(folder / "mask", lambda new: before.call(["-c", MAKE_MASK], new)) / name
    if stem in SIMULATIONS:
        options = [f"--{key}" if value is True else f"--{key}={value}" for key, value in SIMULATIONS[stem].items()]
        arguments = ["-m", "gpucube", "simulate", name, *options]
        return made_once(folder / f"{stem}-{before.digest(options)}", lambda new: before.call(arguments, new)) / name
    if real and (real / name).is_dir():
        return real / name
    if real and (packed := real / f"{name}.tar.xz").is_file():
        return made_once(folder / stem, lambda new: tarfile.open(packed).extractall(new, filter="data")) / name
    return None


def run_job(job: Job, host: bool, checkout: Checkout, data: dict[str, Path], folder: Path) -> None:
    """Run a job in an empty folder. Links give the data the same names for every checkout, because products hold names."""
    for name, path in data.items():
        (folder / name).symlink_to(path)
    parameters = SETTINGS | job.changes | {"vis": [name for name in data if name.endswith(".ms")]}
    parameters["device"] = "cuda" if host else "cpu"
    order = asdict(job) | {"checkout": str(checkout.folder), "host": host, "parameters": parameters}
    checkout.call([str(Path(__file__).resolve()), "--one", json.dumps(order)], folder)


def products(folder: Path) -> list[str]:
    """Return the names of the files to compare."""
    return sorted(p.name for p in folder.iterdir() if p.suffix in COMPARED or p.name.endswith(".summary.json"))


def compare(before: Path, after: Path) -> str:
    """Say where the products in two folders differ first. The text is empty if they are the same."""
    if products(before) != products(after):
        return f"the files are {', '.join(products(before))} before and {', '.join(products(after))} after"
    for name in products(before):
        old, new = (before / name).read_bytes(), (after / name).read_bytes()
        if name.endswith(".json"):
            if where := first_difference(json.loads(old), json.loads(new), name):
                return where
        elif old != new:
            return f"{name}: {describe_difference(old, new)}"
    return ""


def describe_difference(old: bytes, new: bytes) -> str:
    """Say at which offset the first byte differs, and show both cards if that byte is in a FITS header."""
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    text = f"offset {at} of {len(old)} bytes before and {len(new)} after"
    cards = [content[at // 80 * 80 :][:80] for content in (old, new)]
    if all(card and all(32 <= byte < 127 for byte in card) for card in cards):
        text += ", " + " / ".join(card.decode().rstrip() for card in cards)
    return text


def first_difference(old: Any, new: Any, where: str) -> str:
    """Say which value differs first. A key counts if both sides have it, in the same layout."""
    if isinstance(old, dict) and isinstance(new, dict):
        pairs = [(f"{where}.{key}", old[key], new[key]) for key in old if key in new and key not in IGNORED]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif {type(old), type(new)} == {list, dict} or repr(old) == repr(new):
        return ""
    else:
        return f"{where}: {str(old)[:80]} before, {str(new)[:80]} after"
    return next((text for name, a, b in pairs if (text := first_difference(a, b, name))), "")


def judge(name: str, host: bool, before: Checkout, after: Checkout, options: argparse.Namespace) -> str:
    """Run a job in both checkouts, print one line, and return its first word."""
    job, device, out = JOBS[name], "host" if host else "cpu", options.out
    title, inputs = f"{name:14s} {device:4s} ", [f"{item}.ms" for item in job.data]
    inputs += ["mask.fits"] if "mask" in job.changes else []
    data = {item: find_data(item, before, options.data, out) for item in inputs}
    if absent := [item for item, path in data.items() if path is None]:
        print(f"skipped    {title} the folder of --data does not hold {absent[0]}", flush=True)
        return "skipped"
    kept = out / "before" / f"{name}-{device}-{before.digest(job, SETTINGS, data)}"
    was_kept, begun = kept.exists(), time.monotonic()
    made_once(kept, lambda new: run_job(job, host, before, data, new))
    middle, folder = time.monotonic(), Path(tempfile.mkdtemp(dir=out, prefix=f"after-{name}-{device}-"))
    try:
        run_job(job, host, after, data, folder)
        difference = compare(kept / "out", folder / "out")
    except RuntimeError as error:
        difference = str(error)
    if difference:
        print(f"DIFFERENT  {title} {difference}; see {kept} and {folder}", flush=True)
        return "DIFFERENT"
    sizes = [(kept / "out" / file).stat().st_size for file in products(kept / "out") if not file.endswith(".json")]
    seconds = f"before {'kept' if was_kept else f'{middle - begun:.1f} s'}, after {time.monotonic() - middle:.1f} s"
    print(f"same       {title} {len(sizes)} files, {sum(sizes)} bytes ({seconds})", flush=True)
    shutil.rmtree(folder)
    return "same"


def main() -> int:
    """Run the jobs that the command line names, and return the exit status."""
    if sys.argv[1:2] == ["--one"]:
        run_here(json.loads(sys.argv[2]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path, metavar="BEFORE_CHECKOUT")
    parser.add_argument("after", type=Path, nargs="?", metavar="AFTER_CHECKOUT", default=Path(__file__).parents[1])
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of the real MeasurementSets")
    parser.add_argument("--out", type=Path, metavar="DIR", default=Path(tempfile.gettempdir()) / "same-products")
    parser.add_argument("--jobs", metavar="NAME,...", default="", help=f"some of {', '.join(JOBS)}")
    parser.add_argument("--quick", action="store_true", help="only the jobs that take a few seconds")
    parser.add_argument("--python-before", metavar="PYTHON", help="by default .venv/bin/python of the checkout")
    parser.add_argument("--python-after", metavar="PYTHON", help="the same for the other checkout")
    options = parser.parse_args()
    wanted = [name for name in options.jobs.split(",") if name] or list(JOBS)
    if unknown := [name for name in wanted if name not in JOBS]:
        parser.error(f"there is no job {unknown[0]}; there are {', '.join(JOBS)}")
    options.out, options.data = options.out.resolve(), options.data and options.data.resolve()
    before, after = (
        Checkout(folder.resolve(), python or str(folder.resolve() / ".venv" / "bin" / "python"))
        for folder, python in ((options.before, options.python_before), (options.after, options.python_after))
    )
    chosen = [name for name in wanted if JOBS[name].quick or not options.quick]
    runs = [(name, host) for name in chosen for host in (False, True)[: 1 + JOBS[name].host]]
    found = [judge(name, host, before, after, options) for name, host in runs]
    print(", ".join(f"{found.count(word)} {word}" for word in ("same", "DIFFERENT", "skipped")))
    return int("DIFFERENT" in found or "same" not in found)


if __name__ == "__main__":
    sys.exit(main())
