"""Run CASA tclean on a spectral-line MeasurementSet, offline, and print one JSON line of what it did.

In: a MeasurementSet and a few of tclean's own parameters. Out: the CASA images OUT.residual, OUT.psf, OUT.model,
OUT.image, OUT.sumwt ..., the log OUT.casa.log, and one line of JSON (version, stop code, major cycles, iterations).
It runs with the CASA python made by setup_peers.sh and uses nothing of gpucube. Everything that makes the images comparable
channel by channel is fixed here: the data's own channel grid (LSRK, nearest), weight density per channel, no mask at
the primary beam's edge (negative pblimit), Hogbom or multiscale, gain 0.1.

    CASA_PYTHON bench/peers/run_tclean.py --ms small.ms --out out/tclean --imsize 256 --cell 10arcsec --nsigma 3
    CASA_PYTHON bench/peers/run_tclean.py ... --niter 0                  # dirty image and PSF only
    CASA_PYTHON bench/peers/run_tclean.py ... --processes 2 --block 59   # one call per 59 channels, two calls at a time
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

IMAGE_KINDS = ("image", "residual", "model", "psf", "pb", "sumwt", "mask", "workdirectory")


def configure_casa(log_file: Path) -> None:
    """Point CASA at the tables of the casadata wheel, so that it downloads nothing, and at its log file.

    Call this before the first CASA import.
    """
    import casadata

    folder = Path(tempfile.mkdtemp(prefix="casa-config-"))
    site_config = folder / "casasiteconfig.py"
    site_config.write_text(
        f"measurespath = rundata = {casadata.datapath!r}\ndatapath = [{casadata.datapath!r}]\n"
        "measures_auto_update = data_auto_update = False\nnogui = agg = True\n"
        "telemetry_enabled = crashreporter_enabled = False\nnologger = True\nlog2term = False\n"
        f"logfile = {str(log_file.resolve())!r}\n"
    )
    os.environ["CASASITECONFIG"] = str(site_config)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import casatools  # noqa: F401  (reads the file; it is not needed afterwards)

    shutil.rmtree(folder)


def tclean(options: argparse.Namespace, out: Path, start: int, nchan: int) -> dict[str, Any]:
    """Image `nchan` channels from `start` on (-1: all) and summarise tclean's returned dictionary."""
    import casatasks

    for kind in IMAGE_KINDS:
        shutil.rmtree(f"{out}.{kind}", ignore_errors=True)
    returned = casatasks.tclean(
        vis=options.ms,
        imagename=str(out),
        imsize=[options.imsize],
        cell=[options.cell],
        specmode="cube",
        start=start,
        width=1,
        nchan=nchan,
        outframe="LSRK",
        interpolation="nearest",
        datacolumn="data",
        stokes="I",
        gridder=options.gridder,
        wprojplanes=-1,
        weighting=options.weighting,
        robust=options.robust,
        perchanweightdensity=True,
        deconvolver="multiscale" if options.scales else "hogbom",
        scales=options.scales,
        niter=options.niter,
        gain=0.1,
        nsigma=options.nsigma,
        pblimit=-0.2,
        usemask=options.usemask,
        restoration=True,
        savemodel="none",
        fullsummary=True,
        parallel=False,
    )
    minor = (returned or {}).get("summaryminor") or {}
    iterations = {
        int(channel): int(sum(sum(plane["iterDone"]) for plane in planes.values()))
        for field in minor.values()
        for channel, planes in field.items()
    }
    return {
        "stop_code": int(returned["stopcode"]),
        "stop_reason": returned["stopDescription"],
        "major_cycles": int(returned["nmajordone"]),
        "iterations": sum(iterations.values()),
        "iterations_per_channel": [iterations[c] for c in sorted(iterations)],
    }


def _start_worker(log_stem: str) -> None:
    configure_casa(Path(f"{log_stem}.{os.getpid()}.casa.log"))


def _image_block(job: tuple[argparse.Namespace, int, int]) -> dict[str, Any]:
    options, start, nchan = job
    return tclean(options, Path(f"{options.out}.channel{start:04d}"), start, nchan)


def tclean_in_blocks(options: argparse.Namespace) -> dict[str, Any]:
    """One tclean call per block of channels, in a pool of processes that import CASA once."""
    import casatools

    spw = casatools.table()
    spw.open(f"{options.ms}/SPECTRAL_WINDOW")
    total = int(spw.getcell("NUM_CHAN", 0))
    spw.close()
    jobs = [(options, c, min(options.block, total - c)) for c in range(0, total, options.block)]
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.processes, _start_worker, (options.out,)) as pool:
        blocks = pool.map(_image_block, jobs, chunksize=1)
        pool.close()
        pool.join()
    return {
        "calls": len(blocks),
        "major_cycles": sum(b["major_cycles"] for b in blocks),
        "iterations": sum(b["iterations"] for b in blocks),
        "iterations_per_channel": [n for b in blocks for n in b["iterations_per_channel"]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms", required=True)
    parser.add_argument("--out", required=True, help="image name; its folder is made")
    parser.add_argument("--imsize", type=int, required=True)
    parser.add_argument("--cell", required=True, help="with unit, e.g. 10arcsec")
    parser.add_argument("--gridder", default="standard")
    parser.add_argument("--weighting", default="briggs")
    parser.add_argument("--robust", type=float, default=0.5)
    parser.add_argument("--niter", type=int, default=1_000_000, help="over all channels, as tclean counts")
    parser.add_argument("--nsigma", type=float, default=0.0)
    parser.add_argument("--scales", type=int, nargs="*", default=[], help="of multiscale CLEAN, pixels; none: Hogbom")
    parser.add_argument("--usemask", default="user", help="user (no mask) or auto-multithresh")
    parser.add_argument("--processes", type=int, default=0, help="run blocks of channels in this many processes")
    parser.add_argument("--block", type=int, default=1, help="with --processes: channels per tclean call")
    options = parser.parse_args()

    options.ms = os.path.abspath(options.ms)
    out = Path(options.out).resolve()
    options.out = str(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(out.parent)  # tclean leaves temporary tables in the current folder
    configure_casa(Path(f"{out}.casa.log"))
    result = tclean_in_blocks(options) if options.processes else tclean(options, out, start=0, nchan=-1)
    import casatools

    print(json.dumps({"peer": "tclean", "version": casatools.version_string(), **result}))


if __name__ == "__main__":
    main()
