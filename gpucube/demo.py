"""`gpucube demo`: simulate a rotating ring, image every channel, and compare the result with the truth.

In: a folder. Out, in that folder: the simulated MeasurementSet with its truth, the cubes and their summary, the picture
``gpucube-demo.png`` and the report; on the terminal, a table of how the channels with emission converged. The demo is a
short tour of the package: it calls the functions that a user would call.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich import box
from rich.console import Console
from rich.table import Table

import gpucube
from gpucube import streams
from gpucube.disk import explain
from gpucube.report.plots import overview, read_cube

NAME = "gpucube-demo"

IMSIZE, CELL = 256, 5.0
"""Pixels; arcsec, an eighth of the beam of the VLA's D configuration in the HI line."""

REGION_RADIUS = 9.0
"""Pixels around each simulated source that count as its region: about one beam."""

CAPTION = """\
Peak residual, limit and noise are in mJy/beam, flux densities in Jy.
The image holds the clean components and the residual, so it shows the
true flux. The components alone miss what lies below the limit.
"""


def run_demo(out: Path) -> int:
    """Simulate, image and compare. An earlier demo in the folder `out` is replaced.

    The exit status is 0, or 1 if a channel failed.
    """
    console = Console(highlight=False, soft_wrap=True)
    parameters = gpucube.SimulationParameters(
        out=out / f"{NAME}.ms",
        array="vla-d",
        nchan=60,
        ntime=96,
        bright_frac=0.35,
        imsize=IMSIZE,
        cell=CELL,
        overwrite=True,
    )
    _show(console, f"simulating {parameters.nchan} channels of the VLA in its D configuration ...")
    simulated = gpucube.simulate_ms(parameters)
    result = gpucube.image_cube(
        str(simulated.ms),
        imagename=str(out / NAME),
        imsize=IMSIZE,
        cell=f"{CELL:g}arcsec",
        weighting="briggs",
        robust=0.5,
        niter=10000,
        nsigma=3,
        overwrite=True,
    )
    with np.load(simulated.truth) as archive:
        truth = dict(archive)
    records = result.channels
    velocity = result.table()["velocity"].value
    cube = read_cube(result.products["image"])
    image_flux = cube.flux_within(source_region(truth, REGION_RADIUS))
    true_flux = truth["flux"].sum(axis=0)
    blank = np.array([record.noise is None for record in records])
    figure = overview(
        cube,
        velocity,
        noise=np.array([record.noise for record in records], float),
        image_flux=image_flux,
        model_flux=np.where(blank, np.nan, [record.model_flux for record in records]),
        true_flux=true_flux,
        title="A simulated rotating ring, imaged channel by channel",
    )
    picture = out / f"{NAME}.png"
    FigureCanvasAgg(figure)
    with explain(f"cannot write {picture}"):
        figure.savefig(picture, dpi=130)
    _show(console, convergence_table(result, velocity, image_flux, true_flux))
    report = gpucube.write_report(out / NAME)
    for what, path in (("cube", result.products["image"]), ("picture", picture), ("report", report)):
        _show(console, f"{what:8s} {path}")
    return int(bool(result.failed_channels))


def _show(console: Console, what: str | Table) -> None:
    """Print as `console` would, on standard output."""
    with console.capture() as captured:
        console.print(what)
    streams.show(captured.get(), end="")


def source_region(truth: dict[str, np.ndarray], radius: float) -> np.ndarray:
    """Pixels within `radius` pixels of a simulated source: boolean, shape (imsize, imsize)."""
    imsize = int(truth["imsize"])
    y, x = np.indices((imsize, imsize))
    region = np.zeros((imsize, imsize), bool)
    for source_x, source_y in zip(truth["x"], truth["y"], strict=True):
        region |= (x - source_x) ** 2 + (y - source_y) ** 2 <= radius**2
    return region


def convergence_table(
    result: gpucube.Result, velocity: np.ndarray, image_flux: np.ndarray, true_flux: np.ndarray
) -> Table:
    """How the channels with emission or without data converged, for a terminal of 80 columns.

    Velocity (km/s) and fluxes (Jy) have the shape (nchan,).
    """
    shown = [r for r in result.channels if true_flux[r.channel] > 0 or r.noise is None]
    others = len(result.channels) - len(shown)
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 0),
        pad_edge=False,
        show_edge=False,
        caption=f"{others} more channels hold noise only.\n{CAPTION}",
        caption_justify="left",
    )
    for heading in ("chan", "km/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stopped by", no_wrap=True, overflow="ellipsis", max_width=18)
    for heading in ("minor", "major", "peak", "limit", "noise", "image", "compon.", "true"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in shown:
        row = [str(record.channel), f"{velocity[record.channel]:.1f}", record.stop_reason]
        if record.noise is not None:
            row += [str(record.iterations), str(record.major_cycles)]
            row += [_milli(record.peak_residual), _milli(record.limit), _milli(record.noise)]
            fluxes = (image_flux[record.channel], record.model_flux, true_flux[record.channel])
            row += [f"{jansky:z.3f}" for jansky in fluxes]
        table.add_row(*row)
    return table


def _milli(value: float | None) -> str:
    return "" if value is None else f"{1e3 * value:.2f}"
