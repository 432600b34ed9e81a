"""`gpucube report`: one HTML page about a run, finished or not.

In: an imagename, of which there is a journal (the run is cut off, or goes on) or a summary (it is finished), and its image cube
where it is there. Out: `OUT.report.html`: what needs a look, pictures, what the run took, its parameters, a table of the
channels. The page needs nothing beside it and runs nothing: no scripts, no links, pictures inside.

Words of a header may come from anybody's MeasurementSet, and a summary can be edited: every word is bounded and escaped.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucube.errors import GpucubeError
from gpucube.output.disk import write_whole
from gpucube.output.journal import is_locked, read_journal
from gpucube.output.paths import journal_path, product_path, report_path, summary_path
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.output.summary import Summary, read_summary
from gpucube.schema.parameters import Parameters
from gpucube.version import __version__
from gpucube.words import counted, ranges, size_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 2000
"""Channels that the table holds: a page of ten thousand is of no use in a browser."""

LONGEST_TEXT = 300
"""Characters that are shown of any one word from a file."""


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes
    ----------
    imagename : str
    nchan : int
        Of the cube.
    records : list of ChannelRecord
        Of the channels that are safe on disk, in order of channel.
    parameters : dict
        By name, plain.
    summary : Summary or None
        None if the run is not finished.
    at_work : bool
        Whether it goes on now.
    """

    imagename: str
    nchan: int
    records: list[ChannelRecord]
    parameters: dict[str, Any]
    summary: Summary | None
    at_work: bool = False


def read_run(imagename: str) -> Run:
    """What a run has left on disk.

    Raises
    ------
    GpucubeError
        There was no such run, or what it left is damaged.
    """
    # in this order: the run may end meanwhile; a summary is the last thing that it writes, and the first that a new one removes
    at_work = is_locked(imagename)
    begun, summary = read_journal(imagename), read_summary(imagename)
    if summary is not None:
        return Run(imagename, len(summary.channels), summary.channels, summary.parameters, summary)
    if begun is not None:
        known = {name: value for name, value in begun.fingerprint.items() if name in Parameters.model_fields}
        return Run(imagename, begun.nchan, begun.records, known, None, at_work)
    if at_work:
        raise GpucubeError(f"the run on {imagename} is still reading its data: ask again when it images")
    raise GpucubeError(
        f"no run of that name: neither {summary_path(imagename)} nor {journal_path(imagename)} tells of one;"
        " give what was given as imagename"
    )


def write_report(imagename: str, path: str = "") -> str:
    """Write the page.

    Parameters
    ----------
    imagename : str
        Of a run.
    path : str
        Of the page; by default ``OUT.report.html``. A page that is there is replaced, any other file is not.

    Returns
    -------
    str
        The path.

    Raises
    ------
    GpucubeError
        There was no such run, what it left is damaged, or the page cannot be written.
    """
    path = path or report_path(imagename)
    _refuse_what_is_no_page(path)
    write_whole(path, page(read_run(imagename)))
    return path


_DOCTYPE = "<!doctype html>\n"


def _refuse_what_is_no_page(path: str) -> None:
    try:
        with open(path, "rb") as file:
            known = file.read(len(_DOCTYPE)) == _DOCTYPE.encode()
    except FileNotFoundError:
        return
    except OSError as error:
        raise GpucubeError(f"cannot write {path}: {error.strerror}") from None
    if not known:
        raise GpucubeError(f"{path} is no report and would be lost: give another name to --html")


def findings(run: Run) -> list[str]:
    """What an astronomer should look at before trusting the cube, the worst first; plain text, empty if there is nothing."""
    found = []

    def tell(records: Iterable[ChannelRecord], text: str) -> None:
        if channels := [record.channel for record in records]:
            found.append(f"{text} ({counted(len(channels), 'channel')}): {ranges(channels)}")

    def stopped(*codes: StopCode) -> list[ChannelRecord]:
        return [r for r in run.records if _codes(r) & set(codes)]

    failed = stopped(StopCode.FAILED)
    kinds = Counter(record.message.partition(":")[0] for record in failed)
    for kind, _ in kinds.most_common(10):
        tell((r for r in failed if r.message.partition(":")[0] == kind), f"failed, {kind}" if kind else "failed")
    tell(
        stopped(StopCode.PEAK_GREW, StopCode.PEAK_ABOVE_MINIMUM),
        "diverged twice, best model kept; a mask, a lower gain or a higher cyclefactor may help",
    )
    tell((r for r in run.records if r.retried), "diverged once, rolled back and tried again")
    if run.parameters.get("niter") != 0:
        tell(stopped(StopCode.ITERATION_LIMIT), "not clean: niter was used up")
    tell(stopped(StopCode.MAJOR_LIMIT), "not clean: nmajor was used up")
    tell(stopped(StopCode.NO_CHANGE), "not clean: another cycle changed nothing")
    tell(stopped(StopCode.ZERO_MASK), "not clean: the mask allows no pixel")
    measured = [r for r in run.records if r.noise is not None and math.isfinite(r.noise)]
    if measured:
        usual = float(np.median([r.noise for r in measured]))
        tell((r for r in measured if r.noise > 2 * usual), "more than twice the usual noise")
    longest = {r.channel: r.beam["bmaj_arcsec"] for r in measured if r.beam and "bmaj_arcsec" in r.beam}
    if longest:
        usual = float(np.median(list(longest.values())))
        far = (r for r in measured if not usual / 1.5 < longest.get(r.channel, usual) < 1.5 * usual)
        tell(far, "beam more than 1.5 times as long, or as short, as usual")
    tell((r for r in measured if r.flagged_fraction > 0.5), "more than half of the samples flagged")
    tell(stopped(StopCode.NO_DATA), "no data, blank")
    if run.summary is not None:
        found += run.summary.warnings
    return found


def _codes(record: ChannelRecord) -> set[int]:
    """Stop codes of all Stokes planes of a channel."""
    return {plane.get("stop_code", record.stop_code) for plane in record.planes.values()} or {record.stop_code}


def page(run: Run) -> str:
    """The whole page."""
    cube = _cube(run)
    title = " ".join(filter(None, ["gpucube:", cube.object if cube else "", run.imagename]))
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<p class=state>{_text(_state(run))}</p>",
        f"<p>Page made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.</p>",
        _header(run, cube),
        "<h2>To be looked at</h2>",
        _list(findings(run)) or f"<p>Nothing{': every channel that is done went well' if run.records else ' yet'}.</p>",
        "<h2>Why channels stopped</h2>",
        _table(["channels", "reason"], [[n, r] for r, n in Counter(r.stop_reason for r in run.records).most_common()]),
        *_pictures(run, cube),
        *_costs(run),
        "<h2>Channels</h2>",
        _channels(run),
        "<h2>Parameters</h2>",
        "<p>Those that are not as they are by default come first.</p>",
        _parameters(run.parameters),
        f"<footer>gpucube {_text(__version__)}</footer>",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        f'{_DOCTYPE}<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2rem }
.state { font-size: 1.1rem } img { max-width: 100% }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid #e5e5e5; vertical-align: top;
         overflow-wrap: anywhere }
.long td { white-space: nowrap } .long th { overflow-wrap: normal } .long td:last-child { white-space: normal }
.right { text-align: right } .wide { overflow-x: auto } .bad td { background: #fdecea }
summary { cursor: pointer } footer { color: #777; margin-top: 3rem }
"""


def _text(value: Any) -> str:
    """Any word from outside: printable, bounded, escaped."""
    shown = "".join(c if c.isprintable() else " " for c in str(value)[: LONGEST_TEXT + 1])
    if len(shown) > LONGEST_TEXT:
        shown = shown[:LONGEST_TEXT] + "\N{HORIZONTAL ELLIPSIS}"
    return html.escape(shown)


def _list(lines: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{_text(line)}</li>" for line in lines) + "\n</ul>" if lines else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]], marked: Callable[[int], bool] = lambda k: False) -> str:
    """Numbers stand to the right, with three digits behind the point. `marked` tells which rows are red."""

    def cell(value: Any) -> str:
        text = _text(f"{value:z.3f}" if isinstance(value, float) else value)
        return f"<td{' class=right' if isinstance(value, int | float) else ''}>{text}</td>"

    lines = ["<tr>" + "".join(f"<th>{_text(word)}</th>" for word in head) + "</tr>"] if head else []
    for k, row in enumerate(rows):
        lines.append(f"<tr{' class=bad' if marked(k) else ''}>" + "".join(map(cell, row)) + "</tr>")
    return f"<div class=wide><table{' class=long' if head else ''}>\n" + "\n".join(lines) + "\n</table></div>"


def _state(run: Run) -> str:
    if run.summary is None:
        done = f"{len(run.records)} of {counted(run.nchan, 'channel')} are safe on disk"
        return (
            f"Going on now: {done}." if run.at_work else f"Not finished: {done}; the same call with --resume goes on."
        )
    failed = sum(r.stop_code == StopCode.FAILED for r in run.records)
    ended = (
        f"{failed} of {counted(run.nchan, 'channel')} failed" if failed else f"{counted(run.nchan, 'channel')} imaged"
    )
    return f"Finished: {ended} in {run.summary.wall_seconds:.1f} s."


@dataclass(frozen=True)
class _Shown:
    """The image cube, and what its header says."""

    path: str
    object: str
    telescope: str
    date: str
    restfreq: float


def _cube(run: Run) -> _Shown | None:
    """None if there is no image, or one without pixels yet."""
    from astropy.io import fits

    if run.summary is None and run.parameters.get("restoringbeam") == "common":
        return None  # restored when all channels are there
    path = product_path(run.imagename, "image")
    try:
        header = fits.getheader(path)
    except OSError:
        return None
    if header.get("NAXIS") != 4 or header.get("NAXIS3") != run.nchan:
        return None
    rest = header.get("RESTFRQ", 0.0)
    words = (str(header.get(key, "")) for key in ("OBJECT", "TELESCOP", "DATE-OBS"))
    return _Shown(path, *words, rest if isinstance(rest, float) and rest > 0 else 0.0)


def _header(run: Run, cube: _Shown | None) -> str:
    rows: list[Sequence[Any]] = [["MeasurementSets", _plain(run.parameters.get("vis", ""))]]
    if cube is not None:
        rows += [["telescope", cube.telescope], ["observed from", cube.date]]
    if run.records:
        first, last = run.records[0], run.records[-1]
        rows.append(
            ["frequency", f"{_gigahertz(first)} to {_gigahertz(last)} GHz (channels {first.channel} to {last.channel})"]
        )
    for name in ("imsize", "cell"):
        value = run.parameters.get(name, "")
        text = " x ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append([name, text + (" arcsec" if name == "cell" else " pixels")])
    return _table([], [row for row in rows if row[1]])


def _gigahertz(record: ChannelRecord) -> str:
    return f"{record.frequency_hz / 1e9:.6f}"


def _pictures(run: Run, cube: _Shown | None) -> list[str]:
    from gpucube.report.plots import channel_maps, convergence, radio_velocity, read_cube, shown_channels

    if not run.records:
        return []
    parts = []
    flux, noise = np.full((2, run.nchan), np.nan)
    for r in run.records:
        first = next(iter(r.planes.values()), r.as_dict())  # the maps are of the first Stokes plane
        if first.get("noise") is not None:
            flux[r.channel] = first.get("model_flux") or first.get("peak_residual") or 0.0
            noise[r.channel] = first["noise"]
    # the flux found tells where the line is: the pixels of a large cube need not all be read for it
    shown = shown_channels(flux, noise, 8)
    if cube is not None and len(shown):
        frequency = {r.channel: r.frequency_hz for r in run.records}
        if cube.restfreq:
            velocity = radio_velocity(np.array([frequency[c] for c in shown]), cube.restfreq)
            shown, velocity = shown[np.argsort(velocity)], np.sort(velocity)
            labels = [f"{v:.1f} km/s" for v in velocity]
        else:
            labels = [f"{frequency[c] / 1e9:.5f} GHz" for c in shown]
        labels = [f"{c}: {label}".replace("-", "\N{MINUS SIGN}") for c, label in zip(shown, labels, strict=True)]
        parts.append("<h2>Channel maps</h2>")
        try:
            parts.append(_picture(channel_maps(read_cube(cube.path), shown, labels, noise)))
        except (OSError, ValueError, TypeError, KeyError, IndexError):
            # a copy that was cut short, or a file of another program
            parts.append(f"<p>{_text(cube.path)} cannot be read as gpucube writes it.</p>")
    return [*parts, "<h2>Channel by channel</h2>", _picture(convergence(run.records, run.nchan))]


def _picture(figure: Figure) -> str:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100, format="png")
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _costs(run: Run) -> list[str]:
    """What the run took; known when it has ended."""
    s = run.summary
    if s is None:
        return []
    again = s.ms_bytes_read / s.ms_bytes_selected if s.ms_bytes_selected else 1.0
    rows = [
        ["wall time", f"{s.wall_seconds:.1f} s ({', '.join(f'{k} {v:.1f}' for k, v in s.stage_seconds.items())})"],
        ["read", f"{size_text(s.ms_bytes_read)}, {again:.2f} times what was selected"],
        ["memory", f"{size_text(s.memory_peak)} at most, {size_text(s.memory_predicted)} predicted"],
        [
            "device memory",
            f"{size_text(s.device_memory_peak)} at most, {size_text(s.device_memory_predicted)} predicted",
        ],
        ["work", ", ".join(f"{name} {value}" for name, value in s.plan.items()) + f", gridder {s.gridder}"],
        ["taken over from a run cut off", counted(s.resumed_channels, "channel")],
        ["versions", ", ".join(f"{name} {version}" for name, version in s.versions.items())],
    ]
    if not s.device_memory_peak:
        rows = [row for row in rows if row[0] != "device memory"]
    return ["<h2>What it took</h2>", _table([], rows)]


_HEAD = (
    *("channel", "GHz", "stopped by", "iterations", "major cycles", "peak residual (mJy/beam)", "limit", "noise"),
    *("model (Jy)", "beam (arcsec, arcsec, deg)", "visibilities", "flagged", "seconds", ""),
)


_WORST = {StopCode.PEAK_GREW, StopCode.PEAK_ABOVE_MINIMUM, StopCode.FAILED}


def _channels(run: Run) -> str:
    """A row for each; of more than `MOST_ROWS`, only those that are no plain success."""
    plain = (StopCode.THRESHOLD, StopCode.NSIGMA)
    shown, note = run.records, ""
    if len(shown) > MOST_ROWS:
        shown = [r for r in shown if _codes(r) - set(plain) or r.retried]
        shown = sorted(shown, key=lambda r: not _codes(r) & _WORST)[:MOST_ROWS]
        note = (
            f"<p>{len(shown)} of {len(run.records)} channels: those that did not simply reach their limit, no more than"
            f" {MOST_ROWS}. The others are in the summary.</p>"
        )
    table = _table(_HEAD, map(_row, shown), lambda k: bool(_codes(shown[k]) & _WORST))
    return f"{note}<details{'' if len(shown) > 200 else ' open'}><summary>{counted(len(shown), 'row')}</summary>{table}</details>"


def _row(r: ChannelRecord) -> list[Any]:
    beam = r.beam or {}
    axes = (beam.get(name) for name in ("bmaj_arcsec", "bmin_arcsec", "bpa_deg"))
    return [
        *(r.channel, _gigahertz(r), r.stop_reason, r.iterations, r.major_cycles),
        *("" if value is None else 1e3 * value for value in (r.peak_residual, r.limit, r.noise)),
        r.model_flux,
        ", ".join(f"{value:.4g}" for value in axes if value is not None),
        *(r.visibilities, f"{100 * r.flagged_fraction:.0f} %", float(sum(r.seconds.values()))),
        " ".join(filter(None, ["diverged once" if r.retried else "", r.message])),
    ]


def _parameters(parameters: dict[str, Any]) -> str:
    defaults = {name: field.get_default(call_default_factory=False) for name, field in Parameters.model_fields.items()}

    def changed(name: str) -> bool:
        value, default = parameters[name], defaults.get(name)
        return value != (list(default) if isinstance(default, tuple) else default)

    names = sorted(parameters, key=lambda name: not changed(name))
    return _table([], [[name, _plain(parameters[name])] for name in names])


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
