"""`gpucube report`: one HTML page about a run, finished or not.

In: an imagename with a journal or a summary, and its image cube if there is one. Out: ``OUT.report.html``, a single
file that fetches nothing and runs no script; its pictures are inside. The text of the page is in ``page.html.j2``.

Text may come from any MeasurementSet, and a summary can be edited. The template is therefore rendered with autoescape, and
`bounded` limits the length of every value.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gpucube.disk import explain, write_whole
from gpucube.errors import GpucubeError
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.output.summary import SpectralSummary
from gpucube.report import plots
from gpucube.report.state import Run, findings, read_run, stop_codes, typical
from gpucube.schema.parameters import Parameters
from gpucube.sky.frames import FRAMES
from gpucube.sky.spectral import SpectralAxis
from gpucube.sky.spectral_types import velocity_of
from gpucube.text import counted, size_text
from gpucube.version import __version__

MOST_ROWS = 2000
"""Most rows of the table of channels: ten thousand would slow a browser down."""

LONGEST_TEXT = 300
"""Characters shown of any value."""

PICTURE_DPI = 160
"""Sharp on a screen with two device pixels to a CSS pixel, without doubling the size of the page."""

DOCTYPE = "<!doctype html>"

MAPS_CAPTION = """\
Channels spread over the longest run of channels with emission, or the brightest ones. \
All maps have one colour scale; the beam is in the lower left corner."""

CURVES_ALT = """\
Curves against channel number: flux of the clean components; peak residual, limit and noise; iterations and major cycles; \
beam; flagged samples; seconds"""


def write_report(imagename: str | os.PathLike[str], path: str | os.PathLike[str] = "") -> str:
    """Write the page about a run.

    Parameters
    ----------
    imagename : str or path
        The imagename of the run.
    path : str or path
        Where to write the page, by default ``OUT.report.html``. An existing page is replaced; any other file is not.

    Returns
    -------
    str
        The path of the page.

    Raises
    ------
    GpucubeError
        There is no such run, its files are damaged, or the page cannot be written.
    """
    imagename = os.fspath(imagename)
    path = os.fspath(path) or RunPaths(imagename).report
    if os.path.lexists(path):
        with explain(f"cannot write {path}"), open(path, "rb") as file:
            is_page = file.read(len(DOCTYPE)) == DOCTYPE.encode()
        if not is_page:
            raise GpucubeError(f"{path} is no report and would be lost: give another name to --html")
    write_whole(path, page(read_run(imagename)))
    return path


def page(run: Run) -> str:
    """Fill the template: the whole page as HTML."""
    cube, unreadable = _image_cube(run)
    header = cube.header if cube else fits.Header()
    noise = typical(run.noise())
    spectral = _spectral(run, header)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=bounded, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "counted": counted,
        "size": size_text,
        "plain": _plain,
        "pairs": _pairs,
        "fixed": lambda value, decimals, scale=1.0: "" if value is None else f"{scale * value:z.{decimals}f}",
        "beam": _beam,
    }
    template = environment.from_string(resources.files(__package__).joinpath("page.html.j2").read_text("utf-8"))
    return template.render(
        run=run,
        summary=run.summary,
        failed=sum(record.stop_code == StopCode.FAILED for record in run.records),
        findings=findings(run),
        reasons=Counter(record.stop_reason for record in run.records).most_common(),
        header=header,
        phase_centre=_phase_centre(header),
        spectral=spectral,
        velocity=_velocity(run.records, spectral),
        noise=noise,
        unreadable=unreadable,
        pictures=_pictures(run, cube, spectral),
        rows=_rows(run),
        most_rows=MOST_ROWS,
        is_bad=_is_bad,
        decimals=_decimals(noise),
        parameters=_parameters(run.parameters),
        version=__version__,
        now=datetime.now(UTC),
    )


def bounded(value: object) -> object:
    """Make any value printable text of at most `LONGEST_TEXT` characters. `Markup`, which only this package makes, passes."""
    if isinstance(value, Markup):
        return value
    text = "".join(c if c.isprintable() else " " for c in str(value)[: LONGEST_TEXT + 1])
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + "\N{HORIZONTAL ELLIPSIS}"


def _plain(value: Any, separator: str = ", ") -> str:
    if isinstance(value, list):
        return separator.join(_plain(item) for item in value)
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def _beam(beam: Mapping[str, float] | None) -> str:
    formats = {"bmaj_arcsec": "#.4g", "bmin_arcsec": "#.4g", "bpa_deg": ".1f"}
    return ", ".join(format(beam[name], text) for name, text in formats.items() if beam and name in beam)


def _image_cube(run: Run) -> tuple[plots.Cube | None, str]:
    """Open the image cube if it has pixels. The text is its path if it exists but cannot be read."""
    if run.summary is None and run.parameters.get("restoringbeam") == "common":
        return None, ""  # nothing is restored before all channels are there
    path = RunPaths(run.imagename).product("image")
    try:
        cube = plots.read_cube(path)
    except FileNotFoundError:
        return None, ""
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None, path  # a copy that was cut short, or a file of another program
    return (cube, "") if len(cube.planes) == run.nchan else (None, path)


def _phase_centre(header: fits.Header) -> str:
    try:
        centre = SkyCoord(header["CRVAL1"], header["CRVAL2"], unit="deg")
    except (KeyError, ValueError, TypeError):
        return ""
    return f"{centre.to_string('hmsdms', precision=1)} {header.get('RADESYS', '')}"


def _spectral(run: Run, header: fits.Header) -> SpectralSummary | None:
    """What the frequencies mean: from the summary, or from the cube if the run has not finished. None if nothing says so."""
    if run.summary is not None and run.summary.spectral_axis is not None:
        return run.summary.spectral_axis
    frame = next((frame for frame in FRAMES.values() if frame.specsys == header.get("SPECSYS")), None)
    rest, width = header.get("RESTFRQ"), header.get("CDELT3")
    if frame is None or not run.records or not isinstance(width, float):
        return None
    axis = SpectralAxis(
        frequency=np.array([record.frequency_hz for record in run.records]),
        width=np.full(len(run.records), abs(width)),
        frame=frame,
        restfreq=rest if isinstance(rest, float) and rest > 0 else None,
        veltype="optical" if run.parameters.get("veltype") == "optical" else "radio",
    )
    return SpectralSummary.of(axis)


def _velocity(records: Sequence[ChannelRecord], spectral: SpectralSummary | None) -> dict[int, float]:
    """Velocities in km/s by channel; empty without a rest frequency."""
    if spectral is None or not spectral.rest_frequency_hz:
        return {}
    frequency = np.array([record.frequency_hz for record in records])
    velocity = velocity_of(frequency, spectral.rest_frequency_hz, spectral.veltype)
    return {record.channel: float(v) for record, v in zip(records, velocity, strict=True)}


def _decimals(noise: float) -> int:
    """Count the decimals, at least three, with which a table in mJy/beam shows three digits of the noise (Jy/beam)."""
    return max(3, 2 - math.floor(math.log10(1e3 * noise))) if noise > 0 else 3


def _pictures(run: Run, cube: plots.Cube | None, spectral: SpectralSummary | None) -> list[dict[str, str]]:
    """Draw maps of channels with emission, and the convergence of all channels, each with a heading and a caption."""
    if not run.records:
        return []
    flux, noise = np.full((2, run.nchan), np.nan)
    for record in run.records:
        first = next(iter(record.planes.values()))  # the maps show the first Stokes plane
        if first.noise is not None:
            flux[record.channel] = first.model_flux or first.peak_residual or 0.0
            noise[record.channel] = first.noise
    # chosen by the flux in the records, so that not all pixels of a large cube need be read
    shown = plots.shown_channels(flux, noise)
    pictures = []
    if cube is not None and len(shown):
        if velocity := _velocity(run.records, spectral):
            shown = np.array(sorted(shown, key=lambda c: velocity[c]))
            labels = [f"{c}: {plots.velocity_text(velocity[c])}" for c in shown]
        else:
            frequency = {record.channel: record.frequency_hz for record in run.records}
            labels = [f"{c}: {frequency[c] / 1e9:.5f} GHz" for c in shown]
        alt = f"Maps of {counted(len(shown), 'channel')}: {', '.join(labels)}"
        figure = plots.channel_maps(cube, shown, labels, noise)
        pictures.append(_picture("Channel maps", MAPS_CAPTION, alt, figure))
    figure = plots.convergence(run.records, run.nchan)
    return [*pictures, _picture("Channel by channel", "The table below holds the same numbers.", CURVES_ALT, figure)]


def _picture(heading: str, caption: str, alt: str, figure: Figure) -> dict[str, str]:
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=PICTURE_DPI, format="png", transparent=True)
    data = Markup("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return {"heading": heading, "caption": caption, "alt": alt, "data": data}


def _is_bad(record: ChannelRecord) -> bool:
    return bool(stop_codes(record) & {StopCode.PEAK_GREW, StopCode.PEAK_ABOVE_MINIMUM, StopCode.FAILED})


def _rows(run: Run) -> list[ChannelRecord]:
    """Choose the channels of the table: all, or the `MOST_ROWS` worst of those that did not reach their limit."""
    if len(run.records) <= MOST_ROWS:
        return list(run.records)
    odd = [r for r in run.records if r.retried or stop_codes(r) - {StopCode.THRESHOLD, StopCode.NSIGMA}]
    return sorted(odd, key=lambda r: not _is_bad(r))[:MOST_ROWS]


def _parameters(parameters: dict[str, Any]) -> list[tuple[str, Any]]:
    """Sort names and values, those that differ from their defaults first."""

    def is_default(item: tuple[str, Any]) -> bool:
        field = Parameters.model_fields.get(item[0])
        default = field.get_default() if field else None
        return bool(item[1] == (list(default) if isinstance(default, tuple) else default))

    return sorted(parameters.items(), key=is_default)
