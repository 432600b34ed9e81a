"""Observe the simulated sky: UVW, exact visibilities, noise, flags and weights, block by block into an MS.

In: `SimulationParameters` and, if wanted, a list of point sources in place of the default sky. Out: the MS, the truth
beside it, and a summary. About 17 % of the channels hold a line; flags are whole rows, one antenna for some minutes,
random (row, channel) samples, single correlations and whole channels. Flagged samples hold garbage, so that an imager
which ignores a flag shows it. The order of the random numbers is part of the definition: same seed, same data.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpucube.constants import LIGHT_SPEED
from gpucube.errors import GpucubeError
from gpucube.simulate.arrays import ARRAYS, antenna_positions, antenna_uvw, track_times
from gpucube.simulate.parameters import SimulationParameters
from gpucube.simulate.sky import Sky, line_sky, point_sky, visibilities

BLOCK_BYTES = 64e6
SCAN_LENGTH = 30
"""Integrations per scan."""


@dataclass(frozen=True)
class SimulationResult:
    """What was written.

    Attributes
    ----------
    ms : Path
        The MeasurementSet.
    truth : Path
        NumPy archive with, per source, ``ra dec l m`` (radians), ``x y`` (pixels, from 0, x to the west), ``flux``
        (Jy, shape (nsource, nchan)) and ``kind``; per channel, ``freq`` (Hz), ``natural_rms`` (Jy/beam of a naturally
        weighted Stokes I image) and ``nvis``; and ``flagged_channels``, ``bright``, ``chan_width``, ``phase_ra``,
        ``phase_dec``, ``imsize``, ``cell_rad``, ``args``.
    summary : dict
        Rows, antennas, sizes, flagged fractions, resolution, noise, seconds.
    """

    ms: Path
    truth: Path
    summary: dict[str, Any]


@dataclass
class _Tally:
    """What is counted while the blocks go by."""

    weight: np.ndarray
    samples: np.ndarray
    flagged: int = 0
    flagged_rows: int = 0
    longest: float = 0.0


def simulate_ms(
    parameters: SimulationParameters, sources: Iterable[tuple[float, float, ArrayLike]] | None = None
) -> SimulationResult:
    """Write a simulated MeasurementSet and its truth.

    Parameters
    ----------
    parameters : SimulationParameters
        What to observe, and how.
    sources : iterable of (l, m, flux), optional
        Point sources in place of the default sky: direction cosines to the east and to the north, and Jy, one number
        or one per channel. An empty list gives noise only.

    Returns
    -------
    SimulationResult

    Raises
    ------
    GpucubeError
        If the output exists and may not be replaced, or a source is impossible.
    """
    started = time.perf_counter()
    p = parameters
    truth_path = p.out.with_name(p.out.name.removesuffix(".ms") + ".truth.npz")
    rng = np.random.default_rng(p.seed)
    cell = np.deg2rad(p.cell / 3600.0)
    if sources is None:
        sky = line_sky(p.imsize, cell, p.nchan, p.peak, p.bright_frac, p.continuum, rng)
    else:
        sky = point_sky(sources, p.nchan)
    frequency = p.rest_freq + (np.arange(p.nchan) - p.nchan // 2) * p.chan_width
    _make_room(p.out, truth_path, p.overwrite)
    try:
        tally = _write(p, sky, frequency, rng)
        _write_truth(truth_path, p, sky, frequency, tally)
    except BaseException:
        shutil.rmtree(p.out, ignore_errors=True)
        truth_path.unlink(missing_ok=True)
        raise
    summary = _summary(p, sky, frequency, tally) | {"seconds": round(time.perf_counter() - started, 2)}
    return SimulationResult(p.out, truth_path, summary)


def _make_room(out: Path, truth: Path, overwrite: bool) -> None:
    """Remove what may be replaced, refuse what may not."""
    for path in (out, truth):
        if path.exists() and not overwrite:
            raise GpucubeError(f"{path} exists already; choose another name or allow overwrite")
    if out.exists():
        if not (out / "table.dat").is_file():
            raise GpucubeError(f"{out} is no MeasurementSet, so it is not replaced; choose another name")
        shutil.rmtree(out)
    truth.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)


def _write(p: SimulationParameters, sky: Sky, frequency: np.ndarray, rng: np.random.Generator) -> _Tally:
    """Write the MS; count what the truth and the summary tell."""
    # not at the top: sky and arrays are of use where casacore is not installed
    from gpucube.simulate.tables import MeasurementSetHeader, create_main, write_constant_columns, write_subtables

    array = ARRAYS[p.array]
    ra, dec = np.deg2rad(p.ra), np.deg2rad(p.dec)
    positions, stations = antenna_positions(p.array, p.antennas)
    times = track_times(array.site, ra, p.ntime, p.integration, p.track_hours)
    uvw_of_antenna = antenna_uvw(positions, times, ra, dec)
    antenna1, antenna2 = (index.astype(np.int32) for index in np.triu_indices(p.antennas, 1))
    nbl = len(antenna1)
    header = MeasurementSetHeader(
        telescope=array.telescope,
        feeds=array.feeds,
        positions=positions,
        stations=stations,
        dish=array.dish,
        ra=ra,
        dec=dec,
        frequency=frequency,
        chan_width=p.chan_width,
        rest_freq=p.rest_freq,
        frame=p.frame,
        npol=p.npol,
        times=(times[0] - p.integration / 2, times[-1] + p.integration / 2),
        integration=p.integration,
    )
    factor = np.ones(p.antennas) if p.equal_weights else rng.uniform(0.8, 1.25, p.antennas)
    spread = np.sqrt(factor[antenna1] * factor[antenna2])
    edge = np.ones(p.nchan)
    if p.weight_spectrum:
        edge[: max(1, p.nchan // 40)] = 1.5
        edge[-max(1, p.nchan // 40) :] = 1.5
    tally = _Tally(np.zeros(p.nchan), np.zeros(p.nchan, np.int64))
    main = create_main(p.out, nbl * p.ntime, p.npol, p.tile_chan or min(p.nchan, 64), p.weight_spectrum)
    block = max(1, int(BLOCK_BYTES / (nbl * p.nchan * p.npol * 16)))
    for first in range(0, p.ntime, block):
        index = np.arange(first, min(p.ntime, first + block))
        row, nrow = first * nbl, len(index) * nbl
        uvw = (uvw_of_antenna[index][:, antenna1] - uvw_of_antenna[index][:, antenna2]).reshape(nrow, 3)
        # Without noise the weights still need a scale: 1 Jy
        sigma = np.tile((p.noise or 1.0) * spread, len(index))
        model = visibilities(sky, uvw, frequency)
        data = _measure(p, model, np.tile(p.noise * spread, len(index))[:, None] * edge, rng)
        flag, flag_row = _flags(p, index, antenna1, antenna2, rng)
        dead = flag | flag_row[:, None, None]
        data[dead] = p.garbage
        columns = {
            "DATA": data,
            "FLAG": flag if p.flagrow_only else dead,
            "FLAG_ROW": flag_row,
            "UVW": uvw,
            "ANTENNA1": np.tile(antenna1, len(index)),
            "ANTENNA2": np.tile(antenna2, len(index)),
            "TIME": np.repeat(times[index], nbl),
            "TIME_CENTROID": np.repeat(times[index], nbl),
            "SCAN_NUMBER": np.repeat(1 + index // SCAN_LENGTH, nbl).astype(np.int32),
            "WEIGHT": np.repeat((1.0 / sigma**2)[:, None], p.npol, 1).astype(np.float32),
            "SIGMA": np.repeat(sigma[:, None], p.npol, 1).astype(np.float32),
        }
        weight = 1.0 / (sigma[:, None] * edge) ** 2
        if p.weight_spectrum:
            columns["WEIGHT_SPECTRUM"] = np.repeat(weight.astype(np.float32)[..., None], p.npol, 2)
        for column, values in columns.items():
            main.putcol(column, values, row, nrow)
        good = ~dead.any(axis=2)
        tally.weight += (good * weight).sum(0) * (2 if p.npol > 1 else 1)
        tally.samples += good.sum(0)
        tally.flagged += int(dead.sum())
        tally.flagged_rows += int(flag_row.sum())
        tally.longest = max(tally.longest, float(np.abs(uvw[:, :2]).max()))
    write_constant_columns(main, p.integration)
    main.flush()
    write_subtables(main, header)
    main.close()
    return tally


def _measure(p: SimulationParameters, model: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to every correlation; the sky is unpolarised, so the cross hands hold noise only."""
    data = np.empty((*model.shape, p.npol), np.complex64)
    for correlation in range(p.npol):
        noise = rng.standard_normal(model.shape, np.float32) + 1j * rng.standard_normal(model.shape, np.float32)
        parallel = p.npol != 4 or correlation in (0, 3)
        data[..., correlation] = (model if parallel else 0) + noise * sigma
    return data


def _flags(
    p: SimulationParameters, index: np.ndarray, antenna1: np.ndarray, antenna2: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """FLAG (nrow, nchan, npol) without the flagged rows, and FLAG_ROW (nrow,), of the integrations `index`."""
    nrow = len(index) * len(antenna1)
    flag_row = rng.random(nrow) < p.flag_rows
    if p.flag_rows > 0:
        bad_antenna, bad_from = p.antennas // 3, int(0.2 * p.ntime)
        bad_time = (index >= bad_from) & (index < bad_from + max(1, p.ntime // 40))
        bad_baseline = (antenna1 == bad_antenna) | (antenna2 == bad_antenna)
        flag_row |= (bad_time[:, None] & bad_baseline).ravel()
    flag = np.zeros((nrow, p.nchan, p.npol), bool)
    flag |= (rng.random((nrow, p.nchan)) < p.flag_cells)[..., None]
    if p.npol > 1:
        single = rng.random((nrow, p.nchan)) < 0.001
        if p.flag_cells > 0:
            flag[..., 0] |= single
    flag[:, list(p.flagged_channels), :] = True
    return flag, flag_row


def _write_truth(path: Path, p: SimulationParameters, sky: Sky, frequency: np.ndarray, tally: _Tally) -> None:
    ra, dec = np.deg2rad(p.ra), np.deg2rad(p.dec)
    source_ra, source_dec = sky.radec(ra, dec)
    cell = np.deg2rad(p.cell / 3600.0)
    np.savez_compressed(
        path,
        ra=source_ra,
        dec=source_dec,
        l=sky.l,
        m=sky.m,
        x=p.imsize / 2 - sky.l / cell,
        y=p.imsize / 2 + sky.m / cell,
        flux=sky.flux,
        kind=sky.kind,
        freq=frequency,
        chan_width=p.chan_width,
        phase_ra=ra,
        phase_dec=dec,
        imsize=p.imsize,
        cell_rad=cell,
        natural_rms=_natural_rms(tally),
        nvis=tally.samples,
        flagged_channels=np.array(p.flagged_channels, int),
        bright=_bright_channels(sky, tally),
        args=p.model_dump_json(),
    )


def _natural_rms(tally: _Tally) -> np.ndarray:
    """Noise of a naturally weighted Stokes I image, Jy/beam, NaN for a channel without data."""
    with np.errstate(divide="ignore"):
        return np.where(tally.weight > 0, 1.0 / np.sqrt(tally.weight), np.nan)


def _bright_channels(sky: Sky, tally: _Tally) -> np.ndarray:
    """Channels in which some source stands five sigma above the noise."""
    brightest = sky.flux.max(0, initial=0.0)
    return np.flatnonzero(brightest > 5 * np.median(_natural_rms(tally)[tally.weight > 0]))


def _summary(p: SimulationParameters, sky: Sky, frequency: np.ndarray, tally: _Tally) -> dict[str, Any]:
    nrow = p.antennas * (p.antennas - 1) // 2 * p.ntime
    cells = nrow * p.nchan * p.npol
    finest = LIGHT_SPEED / frequency.max() / tally.longest
    return {
        "ms": str(p.out),
        "rows": nrow,
        "antennas": p.antennas,
        "nchan": p.nchan,
        "npol": p.npol,
        "ntime": p.ntime,
        "sources": len(sky.flux),
        "bright_channels": len(_bright_channels(sky, tally)),
        "data_mib": round(cells * 8 / 2**20, 1),
        "flagged_fraction": round(tally.flagged / cells, 4),
        "flagged_row_fraction": round(tally.flagged_rows / nrow, 4),
        "longest_baseline_m": round(tally.longest, 1),
        "beam_arcsec": float(f"{np.degrees(0.6 * finest) * 3600:.4g}"),
        "largest_cell_arcsec": float(f"{np.degrees(finest / 2) * 3600:.4g}"),
        "natural_rms_jy": float(np.nanmedian(_natural_rms(tally))),
    }
