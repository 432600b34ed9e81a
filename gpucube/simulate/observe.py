"""Observe the simulated sky: UVW, exact visibilities, noise, flags and weights go into an MS, block by block.

In: `SimulationParameters` and, optionally, a list of point sources in place of the default sky. Out: the MS, its truth beside
it, and a summary. Flags cover whole rows, one antenna for some minutes, random (row, channel) samples, single correlations and
whole channels. Flagged samples hold garbage, so that an imager which ignores a flag shows it. The order of the random numbers
is part of the definition: the same seed gives the same data.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpucube.constants import LIGHT_SPEED
from gpucube.disk import explain, remove_if_possible, remove_tree
from gpucube.errors import GpucubeError
from gpucube.simulate.arrays import antenna_positions, antenna_uvw, track_times
from gpucube.simulate.parameters import SimulationParameters
from gpucube.simulate.sky import Sky, line_sky, point_sky, visibilities

BLOCK_BYTES = 64e6
"""Complex128 visibilities that are computed at a time."""

SCAN_LENGTH = 30
"""Integrations per scan."""

EDGE_NOISE = 1.5
"""Noise of the band's edges with `weight_spectrum`, relative to the other channels."""


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

    def __repr__(self) -> str:
        rows, channels = self.summary["rows"], self.summary["nchan"]
        return f"SimulationResult({self.ms}: {rows:,} rows of {channels:,} channels; truth in {self.truth.name})"


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
        If the output exists and may not be replaced, cannot be written, or a source is impossible.

    Examples
    --------
    >>> simulate_ms(SimulationParameters(out="sim.ms", nchan=8, ntime=20))  # doctest: +SKIP
    SimulationResult(sim.ms: 7,020 rows of 8 channels; truth in sim.truth.npz)
    """
    started = time.perf_counter()
    p = parameters
    truth = p.out.with_name(p.out.name.removesuffix(".ms") + ".truth.npz")
    rng = np.random.default_rng(p.seed)
    if sources is not None:
        sky = point_sky(sources, p.nchan)
    else:
        sky = line_sky(
            imsize=p.imsize,
            cell=p.cell_radians,
            nchan=p.nchan,
            peak=p.peak,
            bright_frac=p.bright_frac,
            continuum=p.continuum,
            rng=rng,
        )
    with _new_files(p.out, truth, p.overwrite):
        tally = _write_ms(p, sky, rng)
        _write_truth(truth, p, sky, tally)
    summary = _summary(p, sky, tally) | {"seconds": round(time.perf_counter() - started, 2)}
    return SimulationResult(p.out, truth, summary)


@contextlib.contextmanager
def _new_files(ms: Path, truth: Path, overwrite: bool) -> Iterator[None]:
    """Remove earlier files if they may be replaced; remove the new ones if they cannot be completed."""
    for path in (ms, truth):
        if path.exists() and not overwrite:
            raise GpucubeError(f"{path} exists already: give another name, or `overwrite=True` to replace it")
    if ms.exists() and not (ms / "table.dat").is_file():
        raise GpucubeError(f"{ms} is no MeasurementSet, so it is not replaced; give another name")
    with explain(f"cannot write {ms}"):
        if ms.exists():
            shutil.rmtree(ms)
        truth.unlink(missing_ok=True)
        ms.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException as error:
        remove_tree(ms)
        remove_if_possible(truth)
        if isinstance(error, OSError | RuntimeError):  # casacore reports every failure as a RuntimeError
            raise GpucubeError(f"cannot write {ms}: {' '.join(str(error).split())}") from None
        raise


@dataclass(frozen=True, kw_only=True)
class _Baselines:
    """What all blocks of rows share."""

    antenna1: np.ndarray  # (nbl,) int32
    antenna2: np.ndarray  # (nbl,) int32
    times: np.ndarray  # (ntime,) centres of the integrations, UTC seconds since MJD 0
    uvw_of_antenna: np.ndarray  # (ntime, nant, 3) metres
    spread: np.ndarray  # (nbl,) noise of a baseline relative to the mean
    edge: np.ndarray  # (nchan,) noise of a channel relative to the middle of the band


class _Tally:
    """What is counted while the blocks go by."""

    def __init__(self, nchan: int):
        self.weight = np.zeros(nchan)  # sum of the Stokes I weights, 1/Jy^2
        self.samples = np.zeros(nchan, np.int64)
        self.flagged = 0
        self.flagged_rows = 0
        self.longest = 0.0  # metres

    def add(self, columns: dict[str, np.ndarray], dead: np.ndarray, weight: np.ndarray) -> None:
        """Count a block: `dead` has the shape (nrow, nchan, npol), `weight` (nrow, nchan)."""
        good = ~dead.any(axis=2)
        self.weight += (good * weight).sum(0) * min(dead.shape[2], 2)
        self.samples += good.sum(0)
        self.flagged += int(dead.sum())
        self.flagged_rows += int(columns["FLAG_ROW"].sum())
        self.longest = max(self.longest, float(np.abs(columns["UVW"][:, :2]).max()))

    def natural_rms(self) -> np.ndarray:
        """Noise of a naturally weighted Stokes I image, Jy/beam, NaN for a channel without data."""
        with np.errstate(divide="ignore"):
            return np.where(self.weight > 0, 1.0 / np.sqrt(self.weight), np.nan)


def _write_ms(p: SimulationParameters, sky: Sky, rng: np.random.Generator) -> _Tally:
    """Write the MS, and count what the truth and the summary report."""
    # not at the top: sky and arrays are of use where casacore is not installed
    from gpucube.simulate.tables import create_main, write_constant_columns, write_subtables

    ra, dec = p.phase_centre
    positions, stations = antenna_positions(p.array, p.antennas)
    times = track_times(p.kind.site, ra, p.ntime, p.integration, p.track_hours)
    antenna1, antenna2 = (index.astype(np.int32) for index in np.triu_indices(p.antennas, 1))
    factor = np.ones(p.antennas) if p.equal_weights else rng.uniform(0.8, 1.25, p.antennas)
    edge = np.ones(p.nchan)
    if p.weight_spectrum:
        edge[: max(1, p.nchan // 40)] = EDGE_NOISE
        edge[-max(1, p.nchan // 40) :] = EDGE_NOISE
    baselines = _Baselines(
        antenna1=antenna1,
        antenna2=antenna2,
        times=times,
        uvw_of_antenna=antenna_uvw(positions, times, ra, dec),
        spread=np.sqrt(factor[antenna1] * factor[antenna2]),
        edge=edge,
    )
    nbl = len(antenna1)
    tally = _Tally(p.nchan)
    main = create_main(p.out, nbl * p.ntime, p.npol, p.tile_chan or min(p.nchan, 64), p.weight_spectrum)
    block = max(1, int(BLOCK_BYTES / (nbl * p.nchan * p.npol * 16)))
    for first in range(0, p.ntime, block):
        index = np.arange(first, min(p.ntime, first + block))
        columns, dead, weight = _block(p, sky, baselines, index, rng)
        for column, values in columns.items():
            main.putcol(column, values, first * nbl, len(index) * nbl)
        tally.add(columns, dead, weight)
    write_constant_columns(main, p.integration)
    main.flush()
    write_subtables(main, p, positions, stations, times)
    main.close()
    return tally


def _block(
    p: SimulationParameters, sky: Sky, baselines: _Baselines, index: np.ndarray, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Columns of the integrations `index`, their flagged samples (nrow, nchan, npol), and weights (nrow, nchan), 1/Jy^2."""
    antenna1, antenna2 = baselines.antenna1, baselines.antenna2
    nbl, ntime = len(antenna1), len(index)
    uvw_of_antenna = baselines.uvw_of_antenna[index]  # (ntime, nant, 3)
    uvw = (uvw_of_antenna[:, antenna1] - uvw_of_antenna[:, antenna2]).reshape(ntime * nbl, 3)
    model = visibilities(sky, uvw, p.frequency)  # (nrow, nchan)
    data = _measure(p, model, np.tile(p.noise * baselines.spread, ntime)[:, None] * baselines.edge, rng)
    flag, flag_row = _flags(p, baselines, index, rng)
    dead = flag | flag_row[:, None, None]
    data[dead] = p.garbage
    sigma = np.tile((p.noise or 1.0) * baselines.spread, ntime)  # without noise the weights still need a scale: 1 Jy
    columns = {
        "DATA": data,
        "FLAG": flag if p.flagrow_only else dead,
        "FLAG_ROW": flag_row,
        "UVW": uvw,
        "ANTENNA1": np.tile(antenna1, ntime),
        "ANTENNA2": np.tile(antenna2, ntime),
        "TIME": np.repeat(baselines.times[index], nbl),
        "TIME_CENTROID": np.repeat(baselines.times[index], nbl),
        "SCAN_NUMBER": np.repeat(1 + index // SCAN_LENGTH, nbl).astype(np.int32),
        "WEIGHT": np.repeat((1.0 / sigma**2)[:, None], p.npol, 1).astype(np.float32),
        "SIGMA": np.repeat(sigma[:, None], p.npol, 1).astype(np.float32),
    }
    weight = 1.0 / (sigma[:, None] * baselines.edge) ** 2
    if p.weight_spectrum:
        columns["WEIGHT_SPECTRUM"] = np.repeat(weight.astype(np.float32)[..., None], p.npol, 2)
    return columns, dead, weight


def _measure(p: SimulationParameters, model: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise to every correlation: complex64, shape (nrow, nchan, npol).

    The sky is unpolarised, so the cross hands hold noise only.
    """
    data = np.empty((*model.shape, p.npol), np.complex64)
    for correlation in range(p.npol):
        noise = rng.standard_normal(model.shape, np.float32) + 1j * rng.standard_normal(model.shape, np.float32)
        parallel = p.npol != 4 or correlation in (0, 3)
        data[..., correlation] = (model if parallel else 0) + noise * sigma
    return data


def _flags(
    p: SimulationParameters, baselines: _Baselines, index: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """FLAG (nrow, nchan, npol) without the flagged rows, and FLAG_ROW (nrow,), of the integrations `index`."""
    nrow = len(index) * len(baselines.antenna1)
    flag_row = rng.random(nrow) < p.flag_rows
    if p.flag_rows > 0:
        bad_antenna, bad_from = p.antennas // 3, int(0.2 * p.ntime)
        bad_time = (index >= bad_from) & (index < bad_from + max(1, p.ntime // 40))
        bad_baseline = (baselines.antenna1 == bad_antenna) | (baselines.antenna2 == bad_antenna)
        flag_row |= (bad_time[:, None] & bad_baseline).ravel()
    flag = np.zeros((nrow, p.nchan, p.npol), bool)
    flag |= (rng.random((nrow, p.nchan)) < p.flag_cells)[..., None]
    if p.npol > 1:
        single = rng.random((nrow, p.nchan)) < 0.001
        if p.flag_cells > 0:
            flag[..., 0] |= single
    flag[:, list(p.flagged_channels), :] = True
    return flag, flag_row


def _write_truth(path: Path, p: SimulationParameters, sky: Sky, tally: _Tally) -> None:
    source_ra, source_dec = sky.radec(*p.phase_centre)
    np.savez_compressed(
        path,
        ra=source_ra,
        dec=source_dec,
        l=sky.l,
        m=sky.m,
        x=p.imsize / 2 - sky.l / p.cell_radians,
        y=p.imsize / 2 + sky.m / p.cell_radians,
        flux=sky.flux,
        kind=sky.kind,
        freq=p.frequency,
        chan_width=p.chan_width,
        phase_ra=p.phase_centre[0],
        phase_dec=p.phase_centre[1],
        imsize=p.imsize,
        cell_rad=p.cell_radians,
        natural_rms=tally.natural_rms(),
        nvis=tally.samples,
        flagged_channels=np.array(p.flagged_channels, int),
        bright=_bright_channels(sky, tally),
        args=p.model_dump_json(),
    )


def _bright_channels(sky: Sky, tally: _Tally) -> np.ndarray:
    """Channels in which some source is five sigma above the noise."""
    brightest = sky.flux.max(0, initial=0.0)
    return np.flatnonzero(brightest > 5 * np.median(tally.natural_rms()[tally.weight > 0]))


def _summary(p: SimulationParameters, sky: Sky, tally: _Tally) -> dict[str, Any]:
    nrow = p.antennas * (p.antennas - 1) // 2 * p.ntime
    samples = nrow * p.nchan * p.npol
    finest = LIGHT_SPEED / p.frequency.max() / tally.longest  # fringe spacing of the longest baseline, radians
    return {
        "ms": str(p.out),
        "rows": nrow,
        "antennas": p.antennas,
        "nchan": p.nchan,
        "npol": p.npol,
        "ntime": p.ntime,
        "sources": len(sky.flux),
        "bright_channels": len(_bright_channels(sky, tally)),
        "data_mib": round(samples * 8 / 2**20, 1),
        "flagged_fraction": round(tally.flagged / samples, 4),
        "flagged_row_fraction": round(tally.flagged_rows / nrow, 4),
        "longest_baseline_m": round(tally.longest, 1),
        "beam_arcsec": _rounded(np.degrees(0.6 * finest) * 3600),
        "largest_cell_arcsec": _rounded(np.degrees(finest / 2) * 3600),
        "natural_rms_jy": _rounded(np.nanmedian(tally.natural_rms())),
    }


def _rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
