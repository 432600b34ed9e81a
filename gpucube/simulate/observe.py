"""Observe the simulated sky: write UVW, exact visibilities, noise, flags and weights to an MS, block by block.

In: `SimulationParameters` and, optionally, a list of point sources in place of the default sky. Out: the MS, its truth
beside it, and a summary. Flags cover whole rows, one antenna for some minutes, random (row, channel) samples, single
correlations and whole channels. Flagged samples contain garbage, so that an imager that ignores a flag is noticed.
The order of the random numbers is part of the definition: the same seed gives the same data.
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
from gpucube.disk import check_current_folder, explain, remove_if_possible, remove_tree
from gpucube.errors import GpucubeError
from gpucube.simulate.arrays import antenna_positions, antenna_uvw, track_times
from gpucube.simulate.parameters import SimulationParameters
from gpucube.simulate.sky import Sky, line_sky, point_sky, visibilities

BLOCK_BYTES = 64e6  # complex128 visibilities that are computed at a time
SCAN_LENGTH = 30  # integrations
EDGE_NOISE = 1.5  # noise of the band's edges with `weight_spectrum`, relative to the other channels


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
        The output exists and must not be replaced, it cannot be written, or a source is not on the sky.

    Examples
    --------
    >>> simulate_ms(SimulationParameters(out="sim.ms", nchan=8, ntime=20))  # doctest: +SKIP
    SimulationResult(sim.ms: 7,020 rows of 8 channels; truth in sim.truth.npz)
    """
    check_current_folder()
    started = time.perf_counter()
    p = parameters
    truth = p.out.with_name(p.out.name.removesuffix(".ms") + ".truth.npz")
    rng = np.random.default_rng(p.seed)
    sky = line_sky(p, rng) if sources is None else point_sky(sources, p.nchan)
    with _new_files(p.out, truth, p.overwrite):
        observation = _Observation(p, sky, rng)
        observation.write()
        np.savez_compressed(truth, **observation.truth())
    seconds = round(time.perf_counter() - started, 2)
    return SimulationResult(p.out, truth, observation.summary() | {"seconds": seconds})


@contextlib.contextmanager
def _new_files(ms: Path, truth: Path, overwrite: bool) -> Iterator[None]:
    """Remove earlier files if they may be replaced, and the new ones if they cannot be completed."""
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


class _Observation:
    """An observation: what all blocks of integrations share, and the counts over the blocks written so far."""

    def __init__(self, p: SimulationParameters, sky: Sky, rng: np.random.Generator):
        self.p, self.sky, self.rng = p, sky, rng
        self.positions, self.stations = antenna_positions(p.array, p.antennas)
        self.times = track_times(p.kind, p.phase_centre[0], p.ntime, p.integration, p.track_hours)
        self.antenna_uvw = antenna_uvw(self.positions, self.times, *p.phase_centre)  # (ntime, nant, 3) metres
        self.antenna1, self.antenna2 = (index.astype(np.int32) for index in np.triu_indices(p.antennas, 1))  # (nbl,)
        factor = np.ones(p.antennas) if p.equal_weights else rng.uniform(0.8, 1.25, p.antennas)
        self.spread = np.sqrt(factor[self.antenna1] * factor[self.antenna2])  # (nbl,) noise relative to the mean
        self.edge = np.ones(p.nchan)  # noise of a channel relative to the middle of the band
        if p.weight_spectrum:
            few = max(1, p.nchan // 40)
            self.edge[:few] = self.edge[-few:] = EDGE_NOISE
        self.weight = np.zeros(p.nchan)  # sum of the Stokes I weights, 1/Jy^2
        self.samples = np.zeros(p.nchan, np.int64)
        self.flagged = self.flagged_rows = 0
        self.longest = 0.0  # metres

    def write(self) -> None:
        """Write the MS."""
        # not at the top: sky and arrays are useful where casacore is not installed
        from gpucube.simulate.tables import create_main, write_constant_columns, write_subtables

        p, nbl = self.p, len(self.antenna1)
        main = create_main(p.out, nbl * p.ntime, p.npol, p.tile_chan or min(p.nchan, 64), p.weight_spectrum)
        block = max(1, int(BLOCK_BYTES / (nbl * p.nchan * p.npol * 16)))
        for first in range(0, p.ntime, block):
            index = np.arange(first, min(p.ntime, first + block))
            for column, values in self._observe(index).items():
                main.putcol(column, values, first * nbl, len(index) * nbl)
        write_constant_columns(main, p.integration)
        main.flush()
        write_subtables(main, p, self.positions, self.stations, self.times)
        main.close()

    def _observe(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Observe the integrations `index`, and count: columns of the MS, each (nrow, ...)."""
        p, ntime = self.p, len(index)
        of_antenna = self.antenna_uvw[index]  # (ntime, nant, 3)
        uvw = (of_antenna[:, self.antenna1] - of_antenna[:, self.antenna2]).reshape(-1, 3)  # (nrow, 3)
        model = visibilities(self.sky, uvw, p.frequency)  # (nrow, nchan)
        data = self._measure(model, np.tile(p.noise * self.spread, ntime)[:, None] * self.edge)
        flag, flag_row = self._flags(index)
        dead = flag | flag_row[:, None, None]  # (nrow, nchan, npol)
        data[dead] = p.garbage
        sigma = np.tile((p.noise or 1.0) * self.spread, ntime)  # without noise the weights still need a scale: 1 Jy
        weight = 1.0 / (sigma[:, None] * self.edge) ** 2  # (nrow, nchan) 1/Jy^2
        good = ~dead.any(axis=2)
        self.weight += (good * weight).sum(0) * min(p.npol, 2)
        self.samples += good.sum(0)
        self.flagged += int(dead.sum())
        self.flagged_rows += int(flag_row.sum())
        self.longest = max(self.longest, float(np.abs(uvw[:, :2]).max()))
        time = np.repeat(self.times[index], len(self.antenna1))
        columns = {
            "DATA": data,
            "FLAG": flag if p.flagrow_only else dead,
            "FLAG_ROW": flag_row,
            "UVW": uvw,
            "ANTENNA1": np.tile(self.antenna1, ntime),
            "ANTENNA2": np.tile(self.antenna2, ntime),
            "TIME": time,
            "TIME_CENTROID": time,
            "SCAN_NUMBER": np.repeat(1 + index // SCAN_LENGTH, len(self.antenna1)).astype(np.int32),
            "WEIGHT": np.repeat((1.0 / sigma**2)[:, None], p.npol, 1).astype(np.float32),
            "SIGMA": np.repeat(sigma[:, None], p.npol, 1).astype(np.float32),
        }
        if p.weight_spectrum:
            columns["WEIGHT_SPECTRUM"] = np.repeat(weight.astype(np.float32)[..., None], p.npol, 2)
        return columns

    def _measure(self, model: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Add noise to every correlation: complex64 (nrow, nchan, npol).

        The sky is unpolarised, so the cross hands hold noise only.
        """
        npol, normal = self.p.npol, self.rng.standard_normal
        data = np.empty((*model.shape, npol), np.complex64)
        for correlation in range(npol):
            noise = normal(model.shape, np.float32) + 1j * normal(model.shape, np.float32)
            parallel = npol != 4 or correlation in (0, 3)
            data[..., correlation] = (model if parallel else 0) + noise * sigma
        return data

    def _flags(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw FLAG (nrow, nchan, npol) without the flagged rows, and FLAG_ROW (nrow,), of the integrations `index`."""
        p, rng = self.p, self.rng
        nrow = len(index) * len(self.antenna1)
        flag_row = rng.random(nrow) < p.flag_rows
        if p.flag_rows > 0:
            bad_antenna, bad_from = p.antennas // 3, int(0.2 * p.ntime)
            bad_time = (index >= bad_from) & (index < bad_from + max(1, p.ntime // 40))
            bad_baseline = (self.antenna1 == bad_antenna) | (self.antenna2 == bad_antenna)
            flag_row |= (bad_time[:, None] & bad_baseline).ravel()
        flag = np.zeros((nrow, p.nchan, p.npol), bool)
        flag |= (rng.random((nrow, p.nchan)) < p.flag_cells)[..., None]
        if p.npol > 1:
            single = rng.random((nrow, p.nchan)) < 0.001
            if p.flag_cells > 0:
                flag[..., 0] |= single
        flag[:, list(p.flagged_channels), :] = True
        return flag, flag_row

    def natural_rms(self) -> np.ndarray:
        """Predict the noise of a naturally weighted Stokes I image, Jy/beam (nchan,), NaN for a channel without data."""
        with np.errstate(divide="ignore"):
            return np.where(self.weight > 0, 1.0 / np.sqrt(self.weight), np.nan)

    def bright_channels(self) -> np.ndarray:
        """Find the channels in which some source is five sigma above the noise."""
        brightest = self.sky.flux.max(0, initial=0.0)
        return np.flatnonzero(brightest > 5 * np.median(self.natural_rms()[self.weight > 0]))

    def truth(self) -> dict[str, Any]:
        """Collect the contents of `SimulationResult.truth`."""
        p, sky = self.p, self.sky
        ra, dec = sky.radec(*p.phase_centre)
        return {
            "ra": ra,
            "dec": dec,
            "l": sky.l,
            "m": sky.m,
            "x": p.imsize / 2 - sky.l / p.cell_radians,
            "y": p.imsize / 2 + sky.m / p.cell_radians,
            "flux": sky.flux,
            "kind": sky.kind,
            "freq": p.frequency,
            "chan_width": p.chan_width,
            "phase_ra": p.phase_centre[0],
            "phase_dec": p.phase_centre[1],
            "imsize": p.imsize,
            "cell_rad": p.cell_radians,
            "natural_rms": self.natural_rms(),
            "nvis": self.samples,
            "flagged_channels": np.array(p.flagged_channels, int),
            "bright": self.bright_channels(),
            "args": p.model_dump_json(),
        }

    def summary(self) -> dict[str, Any]:
        """Collect the contents of `SimulationResult.summary`, except the seconds."""
        p = self.p
        nrow = len(self.antenna1) * p.ntime
        samples = nrow * p.nchan * p.npol
        finest = LIGHT_SPEED / p.frequency.max() / self.longest  # fringe spacing of the longest baseline, radians
        return {
            "ms": str(p.out),
            "rows": nrow,
            **{name: getattr(p, name) for name in ("antennas", "nchan", "npol", "ntime")},
            "sources": len(self.sky.flux),
            "bright_channels": len(self.bright_channels()),
            "data_mib": round(samples * 8 / 2**20, 1),
            "flagged_fraction": round(self.flagged / samples, 4),
            "flagged_row_fraction": round(self.flagged_rows / nrow, 4),
            "longest_baseline_m": round(self.longest, 1),
            "beam_arcsec": _rounded(np.degrees(0.6 * finest) * 3600),
            "largest_cell_arcsec": _rounded(np.degrees(finest / 2) * 3600),
            "natural_rms_jy": _rounded(np.nanmedian(self.natural_rms())),
        }


def _rounded(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")
