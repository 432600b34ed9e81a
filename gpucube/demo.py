"""`gpucube demo`: simulate a rotating ring, image every channel, and hold the result against the truth.

In: a folder. Out, in that folder: the simulated MeasurementSet with its truth, the cubes and their summary, and
``gpucube-demo.png`` and the report; on the terminal a table of how each channel converged. It is the shortest tour of the
package: `gpucube.simulate`, `gpucube.image_cube`, `gpucube.plots`, `gpucube.report`, called as a user would call them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich import box
from rich.console import Console
from rich.table import Table

from gpucube import image_cube
from gpucube.output.records import ChannelRecord
from gpucube.report.page import write_report
from gpucube.report.plots import overview, radio_velocity, read_cube
from gpucube.simulate import SimulationParameters, simulate_ms

NAME = "gpucube-demo"
IMSIZE, CELL = 256, 5.0
"""Pixels; arcsec, a sixth of the beam of the VLA's D configuration in the HI line."""
REGION_RADIUS = 9.0
"""Pixels about each simulated source that count as its region: one and a half beams."""
CAPTION = "peak residual, limit and noise in mJy/beam; flux found (model) and true in Jy"


def run_demo(out: Path) -> int:
    """Simulate, image and compare.

    Parameters
    ----------
    out : Path
        Folder for everything that is written; an earlier demo in it is replaced.

    Returns
    -------
    int
        Exit status: 0, or 1 if a channel failed.

    Raises
    ------
    GpucubeError
        If the folder cannot be used.
    """
    console = Console(highlight=False, soft_wrap=True)
    parameters = SimulationParameters(
        out=out / f"{NAME}.ms",
        array="vla-d",
        nchan=60,
        ntime=96,
        bright_frac=0.35,
        imsize=IMSIZE,
        cell=CELL,
        overwrite=True,
    )
    console.print(f"simulating {parameters.nchan} channels of the VLA in its D configuration ...")
    simulated = simulate_ms(parameters)
    result = image_cube(
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
    true_flux = truth["flux"].sum(axis=0)
    records = result.channels
    velocity = radio_velocity(np.array([record.frequency_hz for record in records]), parameters.rest_freq)
    cube = read_cube(result.products["image"])
    figure = overview(
        cube,
        velocity,
        noise=np.array([np.nan if record.noise is None else record.noise for record in records]),
        image_flux=cube.flux_within(source_region(truth, REGION_RADIUS)),
        model_flux=np.array([np.nan if record.noise is None else record.model_flux for record in records]),
        true_flux=true_flux,
        title="A simulated rotating ring, imaged channel by channel",
    )
    picture = out / f"{NAME}.png"
    FigureCanvasAgg(figure)
    figure.savefig(picture, dpi=130)
    console.print(convergence_table(records, velocity, true_flux))
    report = write_report(str(out / NAME))
    for what, path in (("cube", result.products["image"]), ("picture", picture), ("report", report)):
        console.print(f"{what:8s} {path}")
    return int(bool(result.failed_channels))


def source_region(truth: dict[str, np.ndarray], radius: float) -> np.ndarray:
    """Pixels within `radius` pixels of a simulated source, shape (imsize, imsize)."""
    imsize = int(truth["imsize"])
    y, x = np.indices((imsize, imsize))
    region = np.zeros((imsize, imsize), bool)
    for source_x, source_y in zip(truth["x"], truth["y"], strict=True):
        region |= (x - source_x) ** 2 + (y - source_y) ** 2 <= radius**2
    return region


def convergence_table(records: Sequence[ChannelRecord], velocity: np.ndarray, true_flux: np.ndarray) -> Table:
    """How each channel converged, for the terminal; fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False, show_edge=False, caption=CAPTION)
    for heading in ("chan", "km/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("stopped by", no_wrap=True, overflow="ellipsis", max_width=18)
    for heading in ("minor", "major", "peak", "limit", "noise", "found", "true"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record, kms, flux in zip(records, velocity, true_flux, strict=True):
        row = [str(record.channel), f"{kms:.1f}", record.stop_reason]
        if record.noise is not None:
            row += [str(record.iterations), str(record.major_cycles)]
            row += [_milli(record.peak_residual), _milli(record.limit), _milli(record.noise)]
            row += [f"{jansky:z.3f}" for jansky in (record.model_flux, flux)]
        table.add_row(*row, style="dim" if flux == 0 else None)
    return table


def _milli(value: float | None) -> str:
    return "" if value is None else f"{1e3 * value:.2f}"
