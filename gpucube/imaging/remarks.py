"""Warnings about a finished run: data that were lost, and a beam that does not suit its channels.

In: the records of all channels and the beam of the image. Out: warnings, each in one line. `gpucube.run` treats them like
the warnings of the plan: it issues Python warnings and writes them into the summary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpucube.constants import ARCSEC
from gpucube.errors import GpucubeError
from gpucube.imaging.forecast import largest_cell
from gpucube.imaging.job import ImageJob
from gpucube.imaging.plane import BLANK
from gpucube.output.records import ChannelRecord, StopCode
from gpucube.sky.beam import Beam
from gpucube.text import ranges

LACKING = 0.1
"""Share of the channels averaged into one that can be flagged without a warning."""

TIMES_USUAL_AREA = 2.0
"""A channel whose beam has more than this many times the median area decides a common beam that suits no other channel."""


def refuse_if_all_off_grid(job: ImageJob, records: Sequence[ChannelRecord]) -> None:
    """Refuse a run in which every sample lies outside the image's uv plane.

    Raises
    ------
    GpucubeError
    """
    lost = sum(record.visibilities_off_grid for record in records)
    if lost and not any(record.visibilities for record in records):
        raise GpucubeError(
            f"no data are left: the baselines of all {lost} samples are too long for this `cell`: "
            f"choose a `cell` of at most {largest_cell(job.settings.uv_max)}"
        )


def remarks(job: ImageJob, records: Sequence[ChannelRecord], target: Beam | None) -> tuple[str, ...]:
    """Warnings about a run whose channels have all been imaged.

    Parameters
    ----------
    job : ImageJob
    records : sequence of ChannelRecord
    target : Beam or None
        The common or given beam of the image; None if each channel has its own, or there is no image.
    """
    found = [
        *job.store.warnings,
        *_lost_samples(job, records),
        *_lacking(records),
        *_blank_with_data(records),
        *_nothing_cleaned(job, records),
        *([] if isinstance(job.restoring_beam, Beam) else _beams_cut(job, records)),
    ]
    if target is not None:
        found += _unlike_beams(job, records, target)
    return tuple(found)


def _lost_samples(job: ImageJob, records: Sequence[ChannelRecord]) -> list[str]:
    lost = sum(record.visibilities_off_grid for record in records)
    if lost:
        total = lost + sum(record.visibilities for record in records)
        channels = ranges(record.channel for record in records if record.visibilities_off_grid)
        return [
            f"{lost} of {total} samples ({_percent(lost / total)}) are not imaged, because their baselines are too long for "
            f"this `cell`: a `cell` of at most {largest_cell(job.settings.uv_max)} keeps all of them (channels {channels})"
        ]
    return []


def _lacking(records: Sequence[ChannelRecord]) -> list[str]:
    off = [record for record in records if record.lacking_fraction > LACKING and record.visibilities]
    if not off:
        return []
    return [
        f"up to {_percent(max(record.lacking_fraction for record in off))} of the channels that are averaged into one are "
        f"flagged or missing (channels {ranges(record.channel for record in off)} of the cube): the values are "
        "those at the frequencies of the other channels, not at the centre"
    ]


def _blank_with_data(records: Sequence[ChannelRecord]) -> list[str]:
    found = []
    if failed := [record for record in records if record.stop_code == StopCode.FAILED]:
        channels = ranges(record.channel for record in failed)
        found.append(f"failed channels, which are blank: {channels} ({failed[0].message})")
    unweighted = [record for record in records if record.stop_code == StopCode.NO_DATA and record.visibilities]
    if unweighted:
        channels = ranges(record.channel for record in unweighted)
        found.append(
            f"channels {channels} are blank, because their samples have no imaging weight: `uvtaper` is too narrow"
        )
    return found


def _beams_cut(job: ImageJob, records: Sequence[ChannelRecord]) -> list[str]:
    g = job.settings.geometry
    width = max(g.nx * g.cell_x, g.ny * g.cell_y)
    wide = [
        record.channel
        for record in records
        if any(plane.beam and Beam.from_record(plane.beam).bmaj > 0.999 * width for plane in record.planes.values())
    ]
    if not wide:
        return []
    return [
        f"the main lobe of the PSF is wider than the image in channels {ranges(wide)}: their beams are cut to its width of "
        f"{width / ARCSEC:.4g} arcsec; choose a larger `imsize` or `cell`"
    ]


def _nothing_cleaned(job: ImageJob, records: Sequence[ChannelRecord]) -> list[str]:
    peaks = [record.peak_residual for record in records if record.peak_residual is not None]
    imaged = [record.stop_code for record in records if record.stop_code not in BLANK]
    if imaged and all(code == StopCode.ZERO_MASK for code in imaged):
        return ["nothing was cleaned: `mask` allows no pixel in any channel that has data"]
    threshold = job.clean.threshold
    cleaned = any(record.iterations for record in records)
    if job.clean.niter == 0 or threshold == 0 or not peaks or threshold < max(peaks) or cleaned:
        return []
    return [
        f"nothing was cleaned: `threshold` is {threshold:.3g} Jy/beam, and no channel has a peak above {max(peaks):.3g} Jy/beam"
    ]


def _unlike_beams(job: ImageJob, records: Sequence[ChannelRecord], target: Beam) -> list[str]:
    fitted = [
        (record.channel, Beam.from_record(plane.beam))
        for record in records
        for plane in record.planes.values()
        if plane.beam
    ]
    found = []
    if fitted and job.restoring_beam == "common":
        areas = np.array([beam.solid_angle for _, beam in fitted])
        usual = float(np.median(areas))
        wide = sorted(
            {channel for (channel, _), area in zip(fitted, areas, strict=True) if area > TIMES_USUAL_AREA * usual}
        )
        if wide:
            found.append(
                f"the common beam, {_size(target)}, is {target.solid_angle / usual:.1f} times the median area of the "
                f"channels' own beams, because of channels {ranges(wide)}, whose beams are up to {areas.max() / usual:.1f} "
                "times the median area: leave them out, or give `restoringbeam`"
            )
    elif small := sorted({channel for channel, beam in fitted if target.deconvolve(beam) is None}):
        widest = max((beam for _, beam in fitted), key=lambda beam: beam.bmaj)
        found.append(
            f"the beam of {_size(target)} does not contain the fitted beam of channels {ranges(small)} (up to {_size(widest)}): "
            "their residual stays in Jy per fitted beam, so that only cleaned emission has the right flux in the image"
        )
    ny, nx = job.settings.geometry.shape
    width = min(nx * job.settings.geometry.cell_x, ny * job.settings.geometry.cell_y)
    if fitted and target.bmaj > width:
        found.append(f"the beam of {_size(target)} is wider than the image, {width / ARCSEC:.4g} arcsec")
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "less than 0.1 %"


def _size(beam: Beam) -> str:
    return f"{beam.bmaj / ARCSEC:.4g} x {beam.bmin / ARCSEC:.4g} arcsec"
