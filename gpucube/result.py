"""The result of a run: its channels, its products, and ways to look at them.

In: the records and paths of a run that has just ended, or the summary of an older one (`open_run`). Out: `Result`,
which shows itself in a few lines, and gives its channels as an astropy table and its cubes as arrays or as
spectral-cube's cubes.
"""

from __future__ import annotations

import html
import math
import os
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from gpucube.errors import GpucubeError
from gpucube.output.paths import RunPaths
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.output.summary import SpectralSummary, Summary
from gpucube.sky.spectral_types import velocity_of
from gpucube.text import counted, ranges

if TYPE_CHECKING:
    import numpy as np
    from astropy.table import Table
    from spectral_cube import SpectralCube


_FURTHEST_FROM_CONVERGED = (
    *(StopCode.FAILED, StopCode.PEAK_GREW, StopCode.PEAK_ABOVE_MINIMUM, StopCode.NO_CHANGE, StopCode.ITERATION_LIMIT),
    *(StopCode.MAJOR_LIMIT, StopCode.FORCED_STOP, StopCode.NSIGMA, StopCode.THRESHOLD, StopCode.ZERO_MASK),
    StopCode.NO_DATA,
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Result:
    """The result of a run.

    Attributes
    ----------
    channels : list of ChannelRecord
        One record per channel of the cube, in order of channel.
    products : dict
        Product name -> path, and ``"summary"`` -> path.
    summary : dict
        What ``OUT.summary.json`` holds.

    Examples
    --------
    >>> result = gpucube.image_cube("target.ms", "out/target", imsize=512, cell="1arcsec")  # doctest: +SKIP
    >>> result.table()["channel", "noise", "stop_reason"].pprint()  # doctest: +SKIP
    >>> result.data("image").max()  # doctest: +SKIP
    """

    channels: list[ChannelRecord]
    products: dict[str, str]
    summary: dict[str, Any]

    @property
    def failed_channels(self) -> list[int]:
        """Channels that could not be imaged. Their planes are NaN."""
        return [r.channel for r in self.channels if r.stop_code == StopCode.FAILED]

    @property
    def visibilities(self) -> str:
        """Say in which folder the visibilities are kept, and whether the run has read them from there. Empty if they are not."""
        folder: str = self.summary.get("visibilities", "")
        if folder and not self.summary["ms_bytes_read"]:
            return f"visibilities read from {folder} instead of the MeasurementSets"
        return f"visibilities kept in {folder}" if folder else ""

    def table(self) -> Table:
        """The channels as an astropy table, one row per channel, with units.

        A quantity that a channel does not have (noise and beam of a channel without data, velocity without a rest frequency)
        is NaN. The descriptions of the columns ``frequency`` and ``velocity`` name their frame, the convention of the velocity
        and the rest frequency.
        """
        from astropy.table import Table

        units = {
            "frequency": "Hz", "velocity": "km/s", "peak_residual": "Jy/beam", "noise": "Jy/beam", "limit": "Jy/beam",
            "model_flux": "Jy", "bmaj": "arcsec", "bmin": "arcsec", "bpa": "deg", "seconds": "s",
        }  # fmt: skip
        axis = self._axis()
        rest = axis.rest_frequency_hz if axis else None
        table = Table([_row(record) for record in self.channels], units=units)
        if axis:
            table["frequency"].description = axis.frame
        if axis and rest:
            table["velocity"] = velocity_of(table["frequency"].value, rest, axis.veltype)
            table["velocity"].unit = "km/s"
            table["velocity"].description = axis.meaning()
        return table

    def _axis(self) -> SpectralSummary | None:
        """The spectral axis as the summary describes it; None for runs of older versions."""
        axis = self.summary.get("spectral_axis")
        return SpectralSummary(**axis) if axis else None

    def data(self, product: str = "image") -> np.ndarray:
        """The pixels of a product, memory-mapped: nothing is read before it is used.

        Parameters
        ----------
        product : str
            A key of `products`, such as ``"image"`` or ``"residual"``.

        Returns
        -------
        numpy.ndarray
            float32 (nstokes, nchan, ny, nx). A channel without data is NaN.

        Raises
        ------
        GpucubeError
            The run did not make this product.
        """
        from astropy.io import fits

        pixels: np.ndarray = fits.getdata(self._path(product), memmap=True)
        return pixels

    def cube(self, product: str = "image") -> SpectralCube:
        """A product as a `spectral_cube.SpectralCube`, ready for moments, units and velocities.

        Raises
        ------
        GpucubeError
            The run did not make this product, or the package spectral-cube is not installed.
        """
        try:
            from spectral_cube import SpectralCube
        except ImportError:
            raise GpucubeError("the package spectral-cube is not installed: pip install spectral-cube") from None
        return SpectralCube.read(self._path(product))

    def as_tclean(self) -> dict[str, Any]:
        """The result with the keys of tclean's dictionary.

        Returns
        -------
        dict
            ``iterdone`` (the sum over all planes), ``nmajordone`` (of the plane with most, with the first residual, as
            tclean counts), ``stopcode`` and ``stopDescription`` (of the plane that is furthest from converged) and
            ``summaryminor``: field 0, channel, Stokes plane, then lists with one entry, for the end of the run.
        """
        planes = [plane for channel in self.channels for plane in channel.planes.values()]
        last = min((plane.stop_code for plane in planes), key=_FURTHEST_FROM_CONVERGED.index)
        parameters = self.summary["parameters"]
        limits = (
            "niter",
            "threshold",
            "nsigma",
            "cyclefactor",
            "cycleniter",
            "minpsffraction",
            "maxpsffraction",
            "nmajor",
        )
        return {
            "iterdone": sum(plane.iterations for plane in planes),
            "nmajordone": 1 + max(plane.major_cycles for plane in planes),
            "stopcode": int(last),
            "stopDescription": last.reason,
            "cleanstate": "stopped",
            "loopgain": parameters["gain"],
            **{name: parameters[name] for name in limits},
            "summaryminor": {
                0: {
                    channel.channel: {
                        number: {
                            "iterDone": [plane.iterations],
                            "peakRes": [plane.peak_residual],
                            "modelFlux": [plane.model_flux],
                            "cycleThresh": [plane.limit],
                            "stopCode": [int(plane.stop_code)],
                        }
                        for number, plane in enumerate(channel.planes.values())
                    }
                    for channel in self.channels
                }
            },
        }

    def _path(self, product: str) -> str:
        cubes = [name for name in self.products if name != "summary"]
        if product not in cubes:
            raise GpucubeError(f"the run made no {product!r} cube: it made {', '.join(cubes)}")
        return self.products[product]

    def _lines(self) -> list[tuple[str, str]]:
        """Describe the result: pairs of a heading and its text."""
        reasons = Counter(record.stop_reason for record in self.channels)
        lines = [
            ("channels", str(len(self.channels))),
            ("stopped by", "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common())),
        ]
        if self.failed_channels:
            lines.append(("failed", ranges(self.failed_channels)))
        imaged = [record for record in self.channels if record.noise is not None]
        if imaged:
            frequencies = [record.frequency_hz for record in imaged]
            beams = [record.beam for record in imaged]
            bmaj, bmin = (median(beam[name] for beam in beams if beam) for name in ("bmaj_arcsec", "bmin_arcsec"))
            cycles = counted(sum(record.major_cycles for record in self.channels), "major cycle")
            work = f"{sum(record.iterations for record in self.channels):,} iterations and {cycles}"
            axis = self._axis()
            span = f"{min(frequencies) / 1e9:.6g} to {max(frequencies) / 1e9:.6g} GHz"
            lines += [
                ("frequency", f"{span} ({axis.frame})" if axis else span),
                *([("velocity", axis.words())] if axis and axis.words() else []),
                ("beam", f"{bmaj:.4g} x {bmin:.4g} arcsec (median)"),
                ("noise", f"{1e3 * median(record.noise or 0.0 for record in imaged):.4g} mJy/beam (median)"),
                ("cleaned", f"{sum(record.model_flux for record in imaged):.4g} Jy in {work}"),
            ]
        kept = [("data", self.visibilities)] if self.visibilities else []
        return [*lines, *self.products.items(), *kept]

    def __repr__(self) -> str:
        """The run in a few lines."""
        return "\n".join(["gpucube Result", *(f"  {head:<10}  {text}" for head, text in self._lines())])

    def _repr_html_(self) -> str:
        """The run in a few lines, as notebooks show it."""
        row = "<tr><th style='text-align:left'>{}</th><td style='text-align:left'>{}</td></tr>"
        rows = "".join(row.format(html.escape(head), html.escape(text)) for head, text in self._lines())
        return f"<table>{rows}</table>"


def _row(record: ChannelRecord) -> dict[str, Any]:
    """A record as a row of `Result.table`."""
    beam = record.beam or {}
    row = {
        "channel": record.channel,
        "frequency": record.frequency_hz,
        "velocity": None,
        "stop_code": int(record.stop_code),
        "stop_reason": record.stop_reason,
        "iterations": record.iterations,
        "major_cycles": record.major_cycles,
        "peak_residual": record.peak_residual,
        "noise": record.noise,
        "limit": record.limit,
        "model_flux": record.model_flux,
        "bmaj": beam.get("bmaj_arcsec"),
        "bmin": beam.get("bmin_arcsec"),
        "bpa": beam.get("bpa_deg"),
        "sum_weights": record.sum_weights,
        "visibilities": record.visibilities,
        "visibilities_off_grid": record.visibilities_off_grid,
        "flagged_fraction": record.flagged_fraction,
        "seconds": sum(record.seconds.values()),
    }
    return {name: math.nan if value is None else value for name, value in row.items()}


def open_run(imagename: str | os.PathLike[str]) -> Result:
    """Open a finished run.

    Parameters
    ----------
    imagename : str or path
        The `imagename` of the run.

    Returns
    -------
    Result
        As `image_cube` returned it.

    Raises
    ------
    GpucubeError
        There is no such run, it is not finished, or its summary is damaged.

    Examples
    --------
    >>> gpucube.open_run("out/target").data("residual")  # doctest: +SKIP
    """
    imagename = os.fspath(imagename)
    summary = Summary.read(imagename)
    if summary is not None:
        return Result(channels=summary.channels, products=summary.products, summary=summary.model_dump())
    if os.path.exists(RunPaths(imagename).journal):
        raise GpucubeError(
            f"the run on {imagename} is not finished: `resume=True` continues it, and `gpucube report` shows how far it is"
        )
    raise GpucubeError(f"no finished run is called {imagename}: {RunPaths(imagename).summary} does not exist")
