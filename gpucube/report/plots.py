"""Pictures of a cube: channel maps with their beams, spectra against velocity, noise, and how every channel converged.

In: a FITS cube as gpucube writes it (axes RA, DEC, FREQ, STOKES; per-channel beams in a BEAMS table), arrays with one value
per channel, and channel records. Out: matplotlib figures for the caller to save. Maps have east to the left. Velocities follow
the radio convention v = c (1 - nu/nu0). Lines and labels have colours that can be read on white and on black.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Ellipse

from gpucube.constants import ARCSEC
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.report.state import typical
from gpucube.sky.beam import Beam

INK, GREY = "#7a7a7a", "#9a9a9a"
RED, BLUE, GREEN = "#d1495b", "#4a83b5", "#2a9d8f"
INKED = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
STYLE: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False}
STYLE |= dict.fromkeys(INKED, INK)

MOST_MAPS = 8
EMISSION = 6.0
"""A channel or pixel shows emission from this many times the noise on."""


@dataclass(frozen=True, kw_only=True)
class Cube:
    """The first Stokes plane of a FITS cube."""

    planes: np.ndarray  # (nchan, ny, nx), memory-mapped, NaN in channels without data
    cell_x: float  # arcsec
    cell_y: float
    beams: list[Beam | None]  # one per channel, None without data
    header: fits.Header = field(default_factory=fits.Header)

    def flux_within(self, region: np.ndarray) -> np.ndarray:
        """Sum the flux density (Jy, (nchan,)) inside a boolean mask of shape (ny, nx). It is NaN in channels without a beam."""
        pixel = self.cell_x * ARCSEC * (self.cell_y * ARCSEC)  # steradians
        sums = (plane[region].sum(dtype=float) for plane in self.planes)
        pairs = zip(sums, self.beams, strict=True)
        return np.array([np.nan if beam is None else total * pixel / beam.solid_angle for total, beam in pairs])


def read_cube(path: str | Path) -> Cube:
    """Open a cube without loading it. Its beams are in a BEAMS table or, if all channels share one, in the header.

    `OSError`, `KeyError`, `IndexError`, `TypeError` or `ValueError` says that the file is cut short or holds no such cube.
    """
    with fits.open(path, memmap=True) as hdus:
        header, planes = hdus[0].header, hdus[0].data[0]
        beams: list[Beam | None] = [None] * len(planes)
        if "BEAMS" in hdus:
            for row in hdus["BEAMS"].data:
                if row["POL"] == 0 and row["BMAJ"] > 0:
                    bmaj, bmin, bpa = row["BMAJ"] * ARCSEC, row["BMIN"] * ARCSEC, np.deg2rad(row["BPA"])
                    beams[row["CHAN"]] = Beam(bmaj=bmaj, bmin=bmin, bpa=bpa)
        elif header.get("BMAJ", 0.0) > 0:
            bmaj, bmin, bpa = np.deg2rad([header[key] for key in ("BMAJ", "BMIN", "BPA")])
            beams = [Beam(bmaj=bmaj, bmin=bmin, bpa=bpa)] * len(planes)
        cell_x, cell_y = (3600.0 * abs(header[key]) for key in ("CDELT1", "CDELT2"))
        return Cube(planes=planes, cell_x=cell_x, cell_y=cell_y, beams=beams, header=header)


def shown_channels(signal: np.ndarray, noise: np.ndarray, count: int = MOST_MAPS) -> np.ndarray:
    """Choose up to `count` channels for the maps, spread evenly over the longest run of channels with emission.

    If that run is shorter than `count`, the channels with the highest ratio of signal to noise are chosen. Channel numbers
    rise. `signal` and `noise` have the shape (nchan,), and are NaN where there is no data.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(signal / noise, nan=-np.inf)
    count = min(count, int(np.isfinite(ratio).sum()))
    bright = np.flatnonzero(ratio > EMISSION)
    longest = max(np.split(bright, np.flatnonzero(np.diff(bright) > 2) + 1), key=len)
    if len(longest) < count:
        return np.sort(np.argsort(ratio)[::-1][:count])
    chosen: np.ndarray = longest[np.linspace(0, len(longest) - 1, count).round().astype(int)]
    return chosen


def region_of_interest(planes: Iterable[np.ndarray], level: float) -> tuple[slice, slice]:
    """Find the smallest square that holds every pixel above `level`, with a margin: slices along y and x.

    It is at least a third of the field, and all of the field if no pixel of the planes (each (ny, nx)) is above `level`.
    """
    above = functools.reduce(np.logical_or, (plane > level for plane in planes))
    ny, nx = above.shape
    y, x = np.nonzero(above)
    if len(x) == 0:
        return slice(0, ny), slice(0, nx)
    side = int(max(1.25 * (np.ptp(x) + 1), 1.25 * (np.ptp(y) + 1), max(nx, ny) / 3))

    def around(position: np.ndarray, size: int) -> slice:
        length = min(side, size)
        start = int(np.clip((position.min() + position.max() + 1 - length) // 2, 0, size - length))
        return slice(start, start + length)

    return around(y, ny), around(x, nx)


def overview(
    cube: Cube,
    velocity: np.ndarray,
    *,
    noise: np.ndarray,
    image_flux: np.ndarray,
    model_flux: np.ndarray,
    true_flux: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """Draw one page about a cube: eight channel maps (Jy/beam), the integrated spectrum, the noise.

    All arrays have the shape (nchan,): velocity in km/s, residual noise in Jy/beam (NaN where there is no data), and the
    flux of the restored image, of the clean components and, if known, of the simulated sky in Jy.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 9.2), layout="constrained")
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        maps: SubFigure
        spectra: SubFigure
        maps, spectra = figure.subfigures(2, 1, height_ratios=[1.35, 1.0])  # type: ignore[misc]  # an array of both
        # ndarray.max, as nanmax would warn of a channel without data
        shown = shown_channels(np.array([plane.max() for plane in cube.planes]), noise)
        shown = shown[np.argsort(velocity[shown])]
        _draw_maps(maps, cube, shown, [velocity_text(velocity[channel]) for channel in shown], noise)
        upper, lower = spectra.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.0])
        if true_flux is not None:
            upper.fill_between(velocity, true_flux, step="mid", color="#c9ced6", lw=0, label="simulated")
        upper.step(velocity, image_flux, where="mid", color=RED, lw=1.4, label="image, within the source region")
        upper.plot(velocity, model_flux, "o", color=BLUE, ms=3.5, label="clean components")
        upper.axhline(0.0, color=GREY, lw=0.6, zorder=0)
        under_axis = {"clip_on": False, "transform": upper.get_xaxis_transform()}
        upper.plot(velocity[shown], np.full(len(shown), -0.02), "^", color=INK, ms=4, **under_axis)
        upper.set_ylabel("flux density (Jy)")
        upper.legend(frameon=False, loc="upper right")
        lower.step(velocity, 1e3 * noise, where="mid", color=GREEN, lw=1.4)
        lower.set_ylim(0.0, 2e3 * typical(noise) or 1.0)
        lower.set_ylabel("residual noise\n(mJy/beam)")
        lower.set_xlabel("radio velocity (km/s); channels without data are grey")
        width = np.median(np.abs(np.diff(velocity))) if len(velocity) > 1 else 1.0
        _shade(lower, velocity[np.isnan(noise)], width)
        return figure


def channel_maps(cube: Cube, shown: np.ndarray, labels: Sequence[str], noise: np.ndarray) -> Figure:
    """Map the channels `shown`, up to eight, on one colour scale, each with its beam in the lower left corner.

    `labels` has one text for each of them; `noise` (Jy/beam, shape (nchan,)) is NaN where there is no data.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 5.4 if len(shown) > 4 else 3.0), layout="constrained")
        _draw_maps(figure, cube, shown, labels, noise)
        return figure


def velocity_text(kms: float) -> str:
    """Write a velocity as ``"\N{MINUS SIGN}13.2 km/s"``."""
    return f"{kms:.1f} km/s".replace("-", "\N{MINUS SIGN}")


def _draw_maps(
    figure: Figure | SubFigure, cube: Cube, shown: np.ndarray, labels: Sequence[str], noise: np.ndarray
) -> None:
    # one plane at a time: eight planes of a large image would take gigabytes
    top = max((float(np.fmax.reduce(cube.planes[k], axis=None)) for k in shown), default=0.0)
    top = top if top > 0 else 1.0
    sigma = typical(noise) or top / 100.0
    ny, nx = cube.planes.shape[1:]
    rows, columns = slice(0, ny), slice(0, nx)
    if len(shown):
        rows, columns = region_of_interest((cube.planes[k] for k in shown), EMISSION * sigma)
    unit, name = (60.0, "arcmin") if (rows.stop - rows.start) * cube.cell_y > 240.0 else (1.0, "arcsec")
    extent = (
        (nx // 2 - columns.start + 0.5) * cube.cell_x / unit,
        (nx // 2 - columns.stop + 0.5) * cube.cell_x / unit,
        (rows.start - ny // 2 - 0.5) * cube.cell_y / unit,
        (rows.stop - ny // 2 - 0.5) * cube.cell_y / unit,
    )
    norm = AsinhNorm(linear_width=8e3 * sigma, vmin=-3e3 * sigma, vmax=1e3 * top)
    axes = figure.subplots(2 if len(shown) > 4 else 1, 4, sharex=True, sharey=True, squeeze=False)
    image = None
    for panel, channel, text in zip(axes.flat, shown, labels, strict=False):
        part = 1e3 * _coarse(cube.planes[channel, rows, columns])
        image = panel.imshow(part, origin="lower", extent=extent, norm=norm, cmap="inferno", interpolation="nearest")
        panel.text(0.05, 0.95, text, transform=panel.transAxes, color="white", va="top")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=2)
        beam = cube.beams[channel]
        if beam is not None:
            bmaj, bmin = beam.bmaj / ARCSEC / unit, beam.bmin / ARCSEC / unit
            margin = 0.04 * (extent[0] - extent[1]) + 0.5 * bmaj
            place = (extent[0] - margin, extent[2] + margin)
            # a position angle runs from north to east, and x is the offset to the east
            panel.add_patch(Ellipse(place, bmin, bmaj, angle=-np.degrees(beam.bpa), fc="white", ec="none"))
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    axes[-1, 0].set_xlabel(f"offset east ({name})")
    axes[-1, 0].set_ylabel(f"offset north ({name})")
    if image is not None:
        ticks = [0.0, *_one_two_five(4e3 * sigma, 1e3 * top)]
        bar = figure.colorbar(
            image, ax=axes, shrink=0.9, aspect=35, pad=0.01, label="mJy/beam", ticks=ticks, format="{x:g}"
        )
        bar.outline.set_visible(False)
        bar.minorticks_off()


def _one_two_five(low: float, high: float) -> list[float]:
    """Place ticks on a logarithmic scale between two positive numbers: 1, 2, 5, 10 and so on, or powers of ten on a long one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    ticks = (float(f"{step}e{k}") for k in decades for step in ((1, 2, 5) if len(decades) < 5 else (1,)))
    return [tick for tick in ticks if low < tick < high]


def _coarse(plane: np.ndarray, most: int = 800) -> np.ndarray:
    """Reduce a plane to `most` pixels a side. Each is the largest of the pixels that it replaces, so that no source is lost."""
    step = -(-max(plane.shape) // most)
    for axis, size in enumerate(plane.shape):
        plane = np.maximum.reduceat(plane, np.arange(0, size, step), axis=axis)
    return plane


def _shade(axes: Axes, places: Iterable[float], width: float) -> None:
    """Draw grey bars behind the curves."""
    bars = [(place - width / 2, width) for place in places]
    axes.broken_barh(bars, (0, 1), color=GREY, alpha=0.3, lw=0, zorder=0, transform=axes.get_xaxis_transform())


COSTS = {
    "read, weigh, grid": (("upload", "weights", "grid"), "#8d99ae"),
    "PSF, FFTs": (("fft", "psf"), "#457b9d"),
    "minor cycles": (("minor",), RED),
    "major cycles": (("major",), "#e9a23b"),
    "the rest": (("measure", "restore", "write"), "#c9ced6"),
}
"""Stages of a channel (`ChannelRecord.seconds`) that are drawn together, and their colour."""


def convergence(records: Sequence[ChannelRecord], nchan: int) -> Figure:
    """Draw one page about the convergence of all `nchan` channels: flux, residual and limit, cycles, beams, flags, seconds."""
    imaged = [r for r in records if r.noise is not None]

    def values(get: Callable[[ChannelRecord], float | None], scale: float = 1.0) -> np.ndarray:
        """Collect one value per channel, NaN for a channel without one."""
        column = np.full(nchan, np.nan)
        column[[r.channel for r in imaged]] = scale * np.array([get(r) for r in imaged], float)
        return column

    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 11.0), layout="constrained")
        panels = figure.subplots(6, 1, sharex=True)
        flux, level, cycles, beam, flags, cost = panels
        _draw_curves(flux, "clean components\n(Jy)", {"flux": values(lambda r: r.model_flux)})
        levels = {
            "peak residual": values(lambda r: r.peak_residual, 1e3),
            "limit": values(lambda r: r.limit, 1e3),
            "noise": values(lambda r: r.noise, 1e3),
        }
        _draw_curves(level, "mJy/beam", levels, log=True)
        counts = {"iterations": values(lambda r: r.iterations), "major cycles": values(lambda r: r.major_cycles)}
        _draw_curves(cycles, "cycles", counts, log=True)
        major = values(lambda r: (r.beam or {}).get("bmaj_arcsec"))
        minor = values(lambda r: (r.beam or {}).get("bmin_arcsec"))
        _draw_curves(beam, "beam (arcsec)", {"major axis": major, "minor axis": minor})
        _draw_curves(flags, "flagged (%)", {"flagged": values(lambda r: r.flagged_fraction, 100.0)})
        flags.set_ylim(-3, 103)
        _draw_costs(cost, records, nchan)
        blank = [r.channel for r in records if r.stop_code in (StopCode.NO_DATA, StopCode.FAILED)]
        for axes in panels:
            _shade(axes, blank, 1.0)
        cost.set_xlim(-0.5, nchan - 0.5)
        cost.set_xlabel("channel; blank ones are grey")
        return figure


def _draw_curves(axes: Axes, label: str, curves: dict[str, np.ndarray], log: bool = False) -> None:
    """Draw a curve per entry, dashed for "limit". A logarithmic axis leaves out what is not positive."""
    for (name, curve), colour in zip(curves.items(), (RED, BLUE, GREEN), strict=False):
        shown = np.where(curve > 0, curve, np.nan) if log else curve
        axes.plot(shown, "--" if name == "limit" else ".-", ms=3, lw=0.8, color=colour, label=name)
    positive = np.concatenate([curve[np.isfinite(curve) & (curve > 0)] for curve in curves.values()])
    if log and len(positive):
        low, high = positive.min() / 1.6, positive.max() * 1.6  # wide enough for one tick at least
        axes.set_ylim(low, high)
        axes.set_yscale("log")
        axes.set_yticks(_one_two_five(low, high))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.set_ylabel(label)
    if len(curves) > 1:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_costs(axes: Axes, records: Sequence[ChannelRecord], nchan: int) -> None:
    """Draw the seconds of every channel, stage upon stage."""
    edges, below = np.repeat(np.arange(nchan + 1) - 0.5, 2)[1:-1], np.zeros(nchan)
    for name, (stages, colour) in COSTS.items():
        above = below.copy()
        for record in records:
            above[record.channel] += sum(record.seconds.get(stage, 0.0) for stage in stages)
        # `Axes.stairs` draws the same, and takes 4 s for 20,000 channels
        axes.fill_between(edges, np.repeat(below, 2), np.repeat(above, 2), color=colour, linewidth=0, label=name)
        below = above
    axes.set_ylim(0)
    axes.set_ylabel("seconds of a worker")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
