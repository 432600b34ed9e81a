"""Does gpucube give the same answer as tclean? One verdict line per criterion; exit status 0 if all hold, else 1.

In: gpucube's products and summary.json, tclean's images of the same MeasurementSet as FITS (export_tclean.py) with
niter=0 and cleaned, and the simulation's truth. Out: verdicts on dirty images, PSFs, sums of weights, exact residuals
and recovered flux, and the figures of every channel with --json. Images are compared whole, no pixel or channel left
out; the reasons for the limits on dirty images are in bench/README.md ("What the criteria mean").

    python bench/peers/compare_tclean_quality.py --gpucube out/gpucube --tclean-dirty out/tclean_dirty --tclean out/tclean \
        --truth small.truth.npz [--json quality.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from scipy.spatial import cKDTree

DIRTY_LIMIT = 5e-4
"""Largest difference of two dirty images, in units of the largest absolute value in tclean's dirty cube; and of two
PSFs, in units of their peak, 1, in every channel."""

DIRTY_RMS_LIMIT = 1e-2
"""Root mean square of the difference in one channel, over that channel's own root mean square."""

SUMWT_LIMIT = 1e-5
"""Relative difference of the sums of weights."""

FLUX_LIMIT = 0.02
"""Relative difference of the model flux of a bright channel from tclean's."""

TRUTH_MARGIN = 1.0
"""By how many times a channel's noise (of one beam) our model flux may be farther from the truth than tclean's."""

FLOAT32_ROUNDING = 1e-6
"""Relative slack for values that have been through a float32 product."""


@dataclass(frozen=True)
class Criterion:
    """One verdict: `value` of the worst channel must not be above `limit`."""

    name: str
    value: float
    limit: float
    channel: int
    unit: str

    @property
    def passed(self) -> bool:
        """False as well where the value is not a number."""
        return bool(self.value <= self.limit)

    def line(self) -> str:
        """The verdict in one line."""
        verdict = "PASS" if self.passed else "FAIL"
        figure = f"{self.value:.3g} (limit {self.limit:g}) {self.unit}"
        return f"{verdict}  {self.name}: {figure}, worst in channel {self.channel}"


@dataclass(frozen=True)
class Truth:
    """The simulated sources: pixel positions [source], flux in Jy [source, channel], channels with bright emission.

    `filled` lists the channels that hold data.
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    bright: np.ndarray
    filled: np.ndarray
    cell_arcsec: float


def read_truth(path: Path) -> Truth:
    """Read the ``.truth.npz`` beside a simulated MeasurementSet."""
    with np.load(path) as npz:
        cell = float(np.degrees(npz["cell_rad"]) * 3600)
        return Truth(npz["x"], npz["y"], npz["flux"], npz["bright"], np.flatnonzero(npz["nvis"]), cell)


def read_cube(path: Path) -> np.ndarray:
    """First Stokes plane of a FITS cube [stokes, channel, y, x] as float64 [channel, y, x]."""
    return fits.getdata(path)[0].astype(np.float64)


def worst(name: str, values: np.ndarray, channels: np.ndarray, limit: float, unit: str = "relative") -> Criterion:
    """Criterion on the largest of `values`, one per entry of `channels`; a NaN anywhere is the worst."""
    index = int(np.argmax(values))
    return Criterion(name, float(values[index]), limit, int(channels[index]), unit)


def compare_dirty(ours: np.ndarray, theirs: np.ndarray, channels: np.ndarray) -> tuple[list[Criterion], dict[str, Any]]:
    """Compare dirty cubes [channel, y, x] over the channels that hold data.

    The criteria are the largest difference over the cube's peak, and the rms of the difference over that of the channel. The
    figures are, per channel, the largest difference over the channel's own peak, in the whole image and in its inner 3/4.
    """
    difference = ours[channels] - theirs[channels]
    size = np.abs(difference)
    peak = np.abs(theirs[channels]).max(axis=(1, 2))
    ny, nx = theirs.shape[1:]
    inner = size[:, ny // 8 : ny - ny // 8, nx // 8 : nx - nx // 8]
    rms = np.sqrt((difference**2).mean(axis=(1, 2))) / np.sqrt((theirs[channels] ** 2).mean(axis=(1, 2)))
    largest = size.max(axis=(1, 2))
    criteria = [
        worst("dirty image, largest difference", largest / peak.max(), channels, DIRTY_LIMIT, "of the cube's peak"),
        worst("dirty image, rms difference", rms, channels, DIRTY_RMS_LIMIT, "of the channel's rms"),
    ]
    figures = {
        "dirty_difference_over_channel_peak": (largest / peak).tolist(),
        "dirty_difference_over_channel_peak_inner": (inner.max(axis=(1, 2)) / peak).tolist(),
        "dirty_difference_over_cube_peak": (largest / peak.max()).tolist(),
        "dirty_difference_over_cube_peak_inner": (inner.max(axis=(1, 2)) / peak.max()).tolist(),
        "dirty_rms_difference_over_channel_rms": rms.tolist(),
    }
    return criteria, figures


def compare_psf(ours: np.ndarray, theirs: np.ndarray, channels: np.ndarray) -> Criterion:
    """Largest difference of the PSFs [channel, y, x] in each channel; their peaks are 1."""
    largest = np.abs(ours[channels] - theirs[channels]).max(axis=(1, 2))
    return worst("PSF, largest difference", largest, channels, DIRTY_LIMIT, "of the channel's peak")


def check_empty_channels(cubes: dict[str, np.ndarray], records: list[dict[str, Any]], empty: np.ndarray) -> Criterion:
    """Every channel without data has weight 0 and is blank (NaN) in every product; counts those that are not."""
    wrong = [
        c
        for c in empty
        if records[c]["sum_weights"] != 0 or not all(np.isnan(cube[c]).all() for cube in cubes.values())
    ]
    channel = int(wrong[0]) if wrong else int(empty[0]) if len(empty) else -1
    return Criterion("channels without data that are not blank", float(len(wrong)), 0.0, channel, "channels")


def compare_sums_of_weights(ours: np.ndarray, theirs: np.ndarray, channels: np.ndarray) -> Criterion:
    """Largest relative difference of the sums of weights per channel; tclean counts both parallel hands."""
    relative = np.abs(ours[channels] / theirs[channels] - 1.0)
    return worst("sum of weights", relative, channels, SUMWT_LIMIT)


def check_residuals(residual: np.ndarray, records: list[dict[str, Any]], channels: np.ndarray) -> list[Criterion]:
    """Every channel's exact residual peak is at or below its limit, by the records and by the residual cube itself."""
    limit = np.array([records[c]["limit"] for c in channels], float)
    recorded = np.array([records[c]["peak_residual"] for c in channels], float)
    written = np.abs(residual[channels]).max(axis=(1, 2))
    unit = "of the channel's limit"
    return [
        worst("peak residual in summary.json", recorded / limit, channels, 1.0, unit),
        worst("peak residual in residual.fits", written / limit, channels, 1.0 + FLOAT32_ROUNDING, unit),
    ]


def near_emission(truth: Truth, channel: int, radius: float, shape: tuple[int, int]) -> np.ndarray:
    """Pixels [y, x] no farther than `radius` pixels from a source that emits in this channel."""
    emits = truth.flux[:, channel] > 0
    sources = cKDTree(np.column_stack([truth.y[emits], truth.x[emits]]))
    distance, _ = sources.query(np.indices(shape).reshape(2, -1).T)
    return (distance <= radius).reshape(shape)


def compare_flux(
    ours: np.ndarray, theirs: np.ndarray, truth: Truth, records: list[dict[str, Any]]
) -> tuple[list[Criterion], dict[str, Any]]:
    """Compare the flux of the bright channels in model cubes [channel, y, x] (Jy/pixel) with tclean's and with the truth.

    Each channel's beam in gpucube's records sets the region of emission, its noise the margin.
    """
    bright = truth.bright
    radius = [records[c]["beam"]["bmaj_arcsec"] / truth.cell_arcsec for c in bright]
    region = [near_emission(truth, c, r, ours.shape[1:]) for c, r in zip(bright, radius, strict=True)]
    mine, peer = (np.array([cube[c][r].sum() for c, r in zip(bright, region, strict=True)]) for cube in (ours, theirs))
    whole_mine, whole_peer = ours[bright].sum(axis=(1, 2)), theirs[bright].sum(axis=(1, 2))
    true = truth.flux[:, bright].sum(axis=0)
    noise = np.array([records[c]["noise"] for c in bright])
    farther = (np.abs(mine - true) - np.abs(peer - true)) / noise
    criteria = [
        worst(
            "model flux of the whole image against tclean's", np.abs(whole_mine / whole_peer - 1), bright, FLUX_LIMIT
        ),
        worst("model flux at the emission against tclean's", np.abs(mine / peer - 1), bright, FLUX_LIMIT),
        worst(
            "model flux at the emission farther from the truth than tclean's by",
            farther,
            bright,
            TRUTH_MARGIN,
            "of the channel's noise",
        ),
    ]
    figures = {
        "bright_channels": bright.tolist(),
        "flux_true_jy": true.tolist(),
        "flux_gpucube_jy": mine.tolist(),
        "flux_tclean_jy": peer.tolist(),
        "flux_whole_image_gpucube_jy": whole_mine.tolist(),
        "flux_whole_image_tclean_jy": whole_peer.tolist(),
        "channels_as_close_to_truth_at_emission": int((np.abs(mine - true) <= np.abs(peer - true)).sum()),
        "channels_as_close_to_truth_whole_image": int((np.abs(whole_mine - true) <= np.abs(whole_peer - true)).sum()),
    }
    return criteria, figures


def compare(gpucube: str, tclean_dirty: str, tclean: str, truth_file: str) -> tuple[list[Criterion], dict[str, Any]]:
    """All criteria, and the figures behind them, from image names and the truth beside the simulated MeasurementSet.

    gpucube's products are dirty, psf, residual and model; tclean's are those of niter=0 and the cleaned ones, as FITS.
    """
    records = json.loads(Path(f"{gpucube}.summary.json").read_text())["channels"]
    ours = {kind: read_cube(Path(f"{gpucube}.{kind}.fits")) for kind in ("dirty", "psf", "residual", "model")}
    sumwt = fits.getdata(f"{tclean_dirty}.sumwt.fits").ravel().astype(np.float64)
    weights = np.array([record["sum_weights"] for record in records], float)
    filled, empty = np.flatnonzero(sumwt > 0), np.flatnonzero(sumwt == 0)

    dirty, dirty_figures = compare_dirty(ours["dirty"], read_cube(Path(f"{tclean_dirty}.residual.fits")), filled)
    fluxes, flux_figures = compare_flux(
        ours["model"], read_cube(Path(f"{tclean}.model.fits")), read_truth(Path(truth_file)), records
    )
    criteria = [
        *dirty,
        compare_psf(ours["psf"], read_cube(Path(f"{tclean_dirty}.psf.fits")), filled),
        compare_sums_of_weights(weights, sumwt, filled),
        *check_residuals(ours["residual"], records, filled),
        *fluxes,
        check_empty_channels(ours, records, empty),
    ]
    figures = {"channels": filled.tolist(), **dirty_figures, **flux_figures}
    return criteria, figures


def report(criteria: list[Criterion], figures: dict[str, Any]) -> list[str]:
    """The verdicts, and one line that is not a criterion: how many bright channels are at least as close to the truth."""
    emission, whole = (figures[f"channels_as_close_to_truth_{place}"] for place in ("at_emission", "whole_image"))
    note = "NOTE  bright channels whose model flux is at least as close to the truth as tclean's: "
    note += f"{emission} at the emission, {whole} in the whole image, of {len(figures['bright_channels'])}"
    return [*(criterion.line() for criterion in criteria), note]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpucube", required=True, help="gpucube's image name")
    parser.add_argument("--tclean-dirty", required=True, help="image name of tclean with niter=0, exported to FITS")
    parser.add_argument("--tclean", required=True, help="image name of the cleaned tclean run, exported to FITS")
    parser.add_argument("--truth", required=True, help="the simulation's .truth.npz")
    parser.add_argument("--json", help="write criteria and figures of every channel here")
    options = parser.parse_args()
    criteria, figures = compare(options.gpucube, options.tclean_dirty, options.tclean, options.truth)
    print("\n".join(report(criteria, figures)))
    if options.json:
        verdicts = [{**asdict(c), "passed": c.passed} for c in criteria]
        Path(options.json).write_text(json.dumps({"criteria": verdicts, "figures": figures}, indent=1) + "\n")
    return 0 if all(c.passed for c in criteria) else 1


if __name__ == "__main__":
    sys.exit(main())
