"""Pictures of a cube: channel maps with their beams, spectra against velocity, noise, and how every channel converged.

In: a FITS cube as gpucube writes it (axes RA, DEC, FREQ, STOKES; per-channel beams in a BEAMS table), arrays with one value
per channel, and the records of channels. Out: matplotlib figures that the caller saves. Maps have east to the left;
velocities follow the radio convention v = c (1 - nu/nu0).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse
from matplotlib.ticker import NullFormatter

from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.sky.beam import Beam

TRUTH_COLOUR, IMAGE_COLOUR, MODEL_COLOUR, NOISE_COLOUR = "#c9ced6", "#d1495b", "#1d3557", "#2a9d8f"
MAP_COLOURS = "inferno"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "axes.labelcolor": "#222222",
}


@dataclass(frozen=True)
class Cube:
    """The first Stokes plane of a FITS cube.

    Attributes
    ----------
    planes : numpy.ndarray
        Memory-mapped, shape (nchan, ny, nx); NaN in channels without data.
    cell_x, cell_y : float
        Pixel size, arcsec.
    beams : list of Beam or None
        One per channel; None where the file tells none.
    """

    planes: np.ndarray
    cell_x: float
    cell_y: float
    beams: list[Beam | None]

    def flux_within(self, region: np.ndarray) -> np.ndarray:
        """Flux density (Jy) of every channel inside a boolean mask of shape (ny, nx), for a cube in Jy/beam.

        NaN in channels without data, shape (nchan,).
        """
        pixel = self.cell_x * ARCSEC * (self.cell_y * ARCSEC)  # steradians
        return np.array(
            [
                np.nan if beam is None else plane[region].sum(dtype=float) / (beam.solid_angle / pixel)
                for plane, beam in zip(self.planes, self.beams, strict=True)
            ]
        )


def read_cube(path: str | Path) -> Cube:
    """Open a cube without loading it.

    Parameters
    ----------
    path : str or Path
        FITS file with axes RA, DEC, FREQ, STOKES; beams in a BEAMS table or, one for all channels, in the header.

    Returns
    -------
    Cube
    """
    with fits.open(path, memmap=True) as hdus:
        header, planes = hdus[0].header, hdus[0].data[0]
        beams: list[Beam | None] = [None] * len(planes)
        if "BEAMS" in hdus:
            for row in hdus["BEAMS"].data:
                if row["POL"] == 0 and row["BMAJ"] > 0:
                    beams[row["CHAN"]] = Beam(
                        bmaj=row["BMAJ"] * ARCSEC, bmin=row["BMIN"] * ARCSEC, bpa=np.deg2rad(row["BPA"])
                    )
        elif header.get("BMAJ", 0.0) > 0:
            bmaj, bmin, bpa = np.deg2rad([header["BMAJ"], header["BMIN"], header["BPA"]])
            beams = [Beam(bmaj=bmaj, bmin=bmin, bpa=bpa)] * len(planes)
        return Cube(planes, abs(header["CDELT1"]) * 3600.0, abs(header["CDELT2"]) * 3600.0, beams)


def radio_velocity(frequency: np.ndarray, restfreq: float) -> np.ndarray:
    """Velocity in km/s by the radio convention, from frequencies in Hz."""
    return LIGHT_SPEED / 1e3 * (1.0 - np.asarray(frequency) / restfreq)


def draw_channel_map(
    axes: Axes,
    plane: np.ndarray,
    extent: tuple[float, float, float, float],
    norm: AsinhNorm,
    beam: Beam | None,
    unit: float,
    text: str,
) -> AxesImage:
    """Draw one plane with its beam in the lower left corner.

    Parameters
    ----------
    axes : matplotlib Axes
        Where.
    plane : numpy.ndarray
        Shape (ny, nx), x to the west.
    extent : tuple of float
        Offsets to the east of the left and right edge, to the north of the bottom and top edge.
    norm : AsinhNorm
        Colour scale.
    beam : Beam or None
        Drawn if there is one.
    unit : float
        Unit of the extent, radians.
    text : str
        Shown in the upper left corner.

    Returns
    -------
    matplotlib AxesImage
        For the colour bar.
    """
    image = axes.imshow(plane, origin="lower", extent=extent, norm=norm, cmap=MAP_COLOURS, interpolation="nearest")
    axes.text(0.05, 0.95, text, transform=axes.transAxes, color="white", va="top", fontsize=9)
    if beam is not None:
        east, west, south, _ = extent
        margin = 0.04 * (east - west) + 0.5 * beam.bmaj / unit
        # Position angle runs from north to east, and x is the offset to the east
        angle = -np.degrees(beam.bpa)
        place = (east - margin, south + margin)
        axes.add_patch(Ellipse(place, beam.bmin / unit, beam.bmaj / unit, angle=angle, fc="white", ec="none"))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=2)
    return image


def shown_channels(signal: np.ndarray, noise: np.ndarray, count: int) -> np.ndarray:
    """Channels for the maps: spread evenly over the longest stretch of channels with emission.

    Parameters
    ----------
    signal, noise : numpy.ndarray
        Peak and noise of every channel, NaN where there is no data, shape (nchan,).
    count : int
        At most so many.

    Returns
    -------
    numpy.ndarray
        Channel numbers, rising. The brightest ones if no channel has a peak of six times its noise.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        contrast = np.nan_to_num(signal / noise, nan=-np.inf)
    count = min(count, int(np.isfinite(contrast).sum()))
    bright = np.flatnonzero(contrast > 6.0)
    stretches = np.split(bright, np.flatnonzero(np.diff(bright) > 2) + 1)
    longest = max(stretches, key=len)
    if len(longest) < count:
        return np.sort(np.argsort(contrast)[::-1][:count])
    return longest[np.linspace(0, len(longest) - 1, count).round().astype(int)]


def region_of_interest(planes: Iterable[np.ndarray], level: float) -> tuple[slice, slice]:
    """The smallest square that holds every pixel above `level`, with a margin, but at least a third of the field.

    Parameters
    ----------
    planes : iterable of numpy.ndarray
        Each of shape (ny, nx).
    level : float
        In the unit of the planes.

    Returns
    -------
    tuple of slice
        Along y and along x.
    """
    above = functools.reduce(np.logical_or, (plane > level for plane in planes))
    ny, nx = above.shape
    y, x = np.nonzero(above)
    if len(x) == 0:
        return slice(0, ny), slice(0, nx)
    side = int(max(1.25 * (np.ptp(x) + 1), 1.25 * (np.ptp(y) + 1), max(nx, ny) / 3))
    slices = []
    for position, size in ((y, ny), (x, nx)):
        length = min(side, size)
        start = int(np.clip((position.min() + position.max() + 1 - length) // 2, 0, size - length))
        slices.append(slice(start, start + length))
    return slices[0], slices[1]


def overview(
    cube: Cube,
    velocity: np.ndarray,
    noise: np.ndarray,
    image_flux: np.ndarray,
    model_flux: np.ndarray,
    true_flux: np.ndarray | None = None,
    title: str = "",
) -> Figure:
    """One page about a cube: eight channel maps, the integrated spectrum, the noise.

    Parameters
    ----------
    cube : Cube
        Restored images, Jy/beam.
    velocity : numpy.ndarray
        km/s, shape (nchan,).
    noise : numpy.ndarray
        Residual noise, Jy/beam, NaN where there is no data, shape (nchan,).
    image_flux, model_flux : numpy.ndarray
        Jy, from the restored image and from the clean components, shape (nchan,).
    true_flux : numpy.ndarray, optional
        Jy, what was simulated, shape (nchan,).
    title : str
        Above everything.

    Returns
    -------
    matplotlib Figure
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 9.2), layout="constrained")
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        maps, spectra = figure.subfigures(2, 1, height_ratios=[1.35, 1.0])
        # A channel without data is blank, and its maximum would warn
        shown = shown_channels(np.array([plane.max() for plane in cube.planes]), noise, 8)
        shown = shown[np.argsort(velocity[shown])]
        labels = [f"{velocity[channel]:.1f} km/s".replace("-", "\N{MINUS SIGN}") for channel in shown]
        _draw_maps(maps, cube, shown, labels, noise)
        upper, lower = spectra.subplots(2, 1, sharex=True, height_ratios=[2.6, 1.0])
        _draw_spectrum(upper, velocity, image_flux, model_flux, true_flux)
        upper.plot(velocity[shown], np.full(len(shown), -0.02), "^", color="#555555", ms=4, clip_on=False,
                   transform=upper.get_xaxis_transform())  # fmt: skip
        _draw_noise(lower, velocity, noise)
        return figure


def channel_maps(cube: Cube, shown: np.ndarray, labels: Sequence[str], noise: np.ndarray) -> Figure:
    """Up to eight channel maps on one colour scale.

    Parameters
    ----------
    cube : Cube
        Restored images, Jy/beam.
    shown : numpy.ndarray
        Channels, each with one of `labels`.
    labels : sequence of str
    noise : numpy.ndarray
        Residual noise, Jy/beam, NaN where there is no data, shape (nchan,).

    Returns
    -------
    matplotlib Figure
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 5.4 if len(shown) > 4 else 3.0), layout="constrained")
        _draw_maps(figure, cube, shown, labels, noise)
        return figure


def _draw_maps(
    figure: Figure | SubFigure, cube: Cube, shown: np.ndarray, labels: Sequence[str], noise: np.ndarray
) -> None:
    """Rows of four channel maps on one colour scale."""
    # one plane after another: eight of a large image together would take gigabytes
    top = max((float(np.fmax.reduce(cube.planes[k], axis=None)) for k in shown), default=0.0)
    top = top if top > 0 else 1.0
    sigma = _typical(noise) or top / 100.0
    ny, nx = cube.planes.shape[1:]
    rows, columns = slice(0, ny), slice(0, nx)
    if len(shown):
        rows, columns = region_of_interest((cube.planes[k] for k in shown), 6.0 * sigma)
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
        image = draw_channel_map(panel, part, extent, norm, cube.beams[channel], unit * ARCSEC, text)
    for panel in axes.flat[len(shown) :]:
        panel.set_visible(False)
    axes[-1, 0].set_xlabel(f"offset east ({name})")
    axes[-1, 0].set_ylabel(f"offset north ({name})")
    if image is not None:
        bar = figure.colorbar(image, ax=axes, shrink=0.9, aspect=35, pad=0.01, label="mJy/beam")
        bar.outline.set_visible(False)
        ticks = [0.0] + [10.0**k * step for k in range(-3, 6) for step in (1, 2, 5)]
        bar.set_ticks([tick for tick in ticks if tick == 0 or 4e3 * sigma < tick < 1e3 * top], minor=False)
        bar.formatter = "{x:g}"
        bar.minorticks_off()


def _coarse(plane: np.ndarray, most: int = 800) -> np.ndarray:
    """A plane of no more than `most` pixels a side, each the largest of those that it stands for: no source is lost."""
    step = -(-max(plane.shape) // most)
    for axis, size in enumerate(plane.shape):
        plane = np.maximum.reduceat(plane, np.arange(0, size, step), axis=axis)
    return plane


def _typical(noise: np.ndarray) -> float:
    """Median over the channels with data; 0 if there is none."""
    known = noise[np.isfinite(noise)]
    return float(np.median(known)) if len(known) else 0.0


def _draw_spectrum(
    axes: Axes, velocity: np.ndarray, image_flux: np.ndarray, model_flux: np.ndarray, true_flux: np.ndarray | None
) -> None:
    if true_flux is not None:
        axes.fill_between(velocity, true_flux, step="mid", color=TRUTH_COLOUR, lw=0, label="simulated")
    axes.step(velocity, image_flux, where="mid", color=IMAGE_COLOUR, lw=1.4, label="image, within the source region")
    axes.plot(velocity, model_flux, "o", color=MODEL_COLOUR, ms=3.5, label="clean components")
    axes.axhline(0.0, color="#999999", lw=0.6, zorder=0)
    axes.set_ylabel("flux density (Jy)")
    axes.legend(frameon=False, loc="upper right")


def _draw_noise(axes: Axes, velocity: np.ndarray, noise: np.ndarray) -> None:
    axes.step(velocity, 1e3 * noise, where="mid", color=NOISE_COLOUR, lw=1.4)
    axes.set_ylim(0.0, 2e3 * _typical(noise) or 1.0)
    axes.set_ylabel("residual noise\n(mJy/beam)")
    axes.set_xlabel("radio velocity (km/s)")
    width = np.median(np.abs(np.diff(velocity))) if len(velocity) > 1 else 1.0
    for blank in velocity[np.isnan(noise)]:
        axes.axvspan(blank - width / 2, blank + width / 2, color="#eeeeee", lw=0)
        axes.text(blank, 0.06, "no data", rotation=90, ha="center", va="bottom", fontsize=7, color="#777777",
                  transform=axes.get_xaxis_transform())  # fmt: skip


COSTS = {
    "read, weigh, grid": ("upload", "weights", "grid"),
    "PSF, FFTs": ("fft", "psf"),
    "minor cycles": ("minor",),
    "major cycles": ("major",),
    "the rest": ("measure", "restore", "write"),
}
"""Stages of a channel (`ChannelRecord.seconds`) that are shown together."""


def convergence(records: Sequence[ChannelRecord], nchan: int) -> Figure:
    """One page about how every channel went: flux, residual and limit, cycles, beams, flags, seconds.

    Parameters
    ----------
    records : sequence of ChannelRecord
        Of the channels that are done.
    nchan : int
        Of the cube.

    Returns
    -------
    matplotlib Figure
    """
    channel = np.arange(nchan)
    of: list[ChannelRecord | None] = [None] * nchan
    for record in records:
        of[record.channel] = record

    def values(get: Callable[[ChannelRecord], float | None]) -> np.ndarray:
        """NaN where there is nothing; a zero and what is below it has no place on a logarithmic axis."""
        found = [None if r is None or r.noise is None else get(r) for r in of]
        return np.array([np.nan if value is None else value for value in found], float)

    def panel(axes: Axes, label: str, curves: dict[str, np.ndarray], log: bool = False) -> None:
        for (name, curve), colour in zip(curves.items(), (IMAGE_COLOUR, MODEL_COLOUR, NOISE_COLOUR), strict=False):
            shown = np.where(curve > 0, curve, np.nan) if log else curve
            axes.plot(channel, shown, ".-", ms=3, lw=0.8, color=colour, label=name)
        if log and any((curve > 0).any() for curve in curves.values()):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            low, high = axes.get_ylim()
            axes.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
        axes.set_ylabel(label)
        if len(curves) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))

    with rc_context(STYLE):
        figure = Figure(figsize=(11.0, 11.0), layout="constrained")
        flux, level, cycles, beam, flags, cost = figure.subplots(6, 1, sharex=True)
        panel(flux, "clean components\n(Jy)", {"flux": values(lambda r: r.model_flux)})
        levels = {
            "peak residual": values(lambda r: r.peak_residual),
            "limit": values(lambda r: r.limit),
            "noise": values(lambda r: r.noise),
        }
        panel(level, "mJy/beam", {name: 1e3 * curve for name, curve in levels.items()}, log=True)
        counts = {"iterations": values(lambda r: r.iterations), "major cycles": values(lambda r: r.major_cycles)}
        panel(cycles, "cycles", counts, log=True)
        axes_of_beam = {
            name: values(lambda r, key=key: (r.beam or {}).get(key))
            for name, key in (("major axis", "bmaj_arcsec"), ("minor axis", "bmin_arcsec"))
        }
        panel(beam, "beam (arcsec)", axes_of_beam)
        panel(flags, "flagged (%)", {"flagged": 100 * values(lambda r: r.flagged_fraction)})
        flags.set_ylim(-3, 103)
        _draw_costs(cost, of)
        blank = [(r.channel - 0.5, 1) for r in records if r.stop_code in (StopCode.NO_DATA, StopCode.FAILED)]
        for axes in (flux, level, cycles, beam, flags, cost):
            axes.broken_barh(blank, (0, 1), color="#eeeeee", lw=0, zorder=0, transform=axes.get_xaxis_transform())
        cost.set_xlim(-0.5, nchan - 0.5)
        cost.set_xlabel("channel; blank ones are grey")
        return figure


def _draw_costs(axes: Axes, of: Sequence[ChannelRecord | None]) -> None:
    """Seconds of every channel, stage upon stage."""
    edges, below = np.arange(len(of) + 1) - 0.5, np.zeros(len(of))
    colours = ("#8d99ae", "#457b9d", IMAGE_COLOUR, MODEL_COLOUR, TRUTH_COLOUR)
    for (name, stages), colour in zip(COSTS.items(), colours, strict=True):
        above = below + [0.0 if r is None else sum(r.seconds.get(stage, 0.0) for stage in stages) for r in of]
        axes.stairs(above, edges, baseline=below, fill=True, color=colour, label=name)
        below = above
    axes.set_ylabel("seconds of a worker")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
