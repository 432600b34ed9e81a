"""How good one program's cube is, measured the same way for every program, against the simulation's truth.

In: FITS products of one run, as one cube per product (gpucube, ducc0, tclean by export_tclean.py) or one file per
channel (WSClean), the truth, and a radius that says what is "at the emission". Out: `Quality`, a handful of figures.
Nothing is used that a program says about itself: noise is 1.4826 times the median absolute deviation of the plane it
left. Only the beam of a restored image is taken from its header.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from compare_tclean_quality import FLOAT32_ROUNDING, Truth, near_emission, read_cube

NSIGMA = 3.0
"""Where every program was told to stop, in units of the noise of a channel's own residual."""

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))


@dataclass(frozen=True)
class Beam:
    """Full widths at half maximum in arcsec, position angle in degrees from north through east."""

    major: float
    minor: float
    angle: float


@dataclass(frozen=True)
class Quality:
    """Figures of one cube; None where the program makes no such product, or the sky has no such channel."""

    channels: int  # with data, all of which count
    noise_jy: float | None
    """Noise of the residual (dirty image, if there is no model), median over the channels without emission."""
    dirty_difference: float | None
    """Largest difference of the dirty image from the reference's, over the largest absolute value in the latter's cube."""
    channels_above_limit: int | None = None
    """Those whose exact residual has a peak above `NSIGMA` times the noise of the same residual."""
    residual_peak_over_limit: float | None = None  # in the worst channel
    residual_worst_channel: int | None = None  # which one that is
    flux_error: float | None = None
    """Sum over bright channels of |model flux at the emission - true flux|, over the sum of the true flux."""
    restored_error: float | None = None
    """rms of restored image minus truth convolved with the restoring beam, at the emission, over the noise of that
    channel's residual; median over bright channels."""


def channel_file(name: str, channel: int, kind: str) -> Path:
    """WSClean's file of one channel."""
    return Path(f"{name}-{channel:04d}-{kind}.fits")


def read_product(name: str, kind: str, nchan: int) -> np.ndarray | None:
    """One product of an image name as float64 [channel, y, x]; NaN in a channel without a file, None without any."""
    if (cube := Path(f"{name}.{kind}.fits")).exists():
        return read_cube(cube)
    files = [channel_file(name, c, kind) for c in range(nchan)]
    planes = {c: read_cube(file)[0] for c, file in enumerate(files) if file.exists()}
    if not planes:
        return None
    blank = np.full_like(next(iter(planes.values())), np.nan)
    return np.stack([planes.get(c, blank) for c in range(nchan)])


def read_beam(name: str, channel: int) -> Beam:
    """Restoring beam of one channel, from the table BEAMS or from the header of the restored image."""
    cube = Path(f"{name}.image.fits")
    with fits.open(cube if cube.exists() else channel_file(name, channel, "image")) as hdus:
        if "BEAMS" in hdus:
            beams = hdus["BEAMS"].data
            row = beams[beams["CHAN"] == channel][0]
            return Beam(float(row["BMAJ"]), float(row["BMIN"]), float(row["BPA"]))
        header = hdus[0].header
        return Beam(header["BMAJ"] * 3600, header["BMIN"] * 3600, header["BPA"])


def noise(plane: np.ndarray) -> float:
    """1.4826 times the median absolute deviation from the median: sigma, for Gaussian noise."""
    return float(1.4826 * np.median(np.abs(plane - np.median(plane))))


def peaks_over_limit(residual: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """Absolute peak of each channel's residual [channel, y, x] over `NSIGMA` times its noise."""
    return np.array([np.abs(residual[c]).max() / (NSIGMA * noise(residual[c])) for c in channels])


def flux_error(model: np.ndarray, truth: Truth, radius: float) -> float:
    """Sum over bright channels of |model flux within `radius` pixels of the emission - true flux|, over the true flux."""
    true = truth.flux[:, truth.bright].sum(axis=0)
    found = [model[c][near_emission(truth, c, radius, model.shape[1:])].sum() for c in truth.bright]
    return float(np.abs(found - true).sum() / true.sum())


def true_image(truth: Truth, channel: int, beam: Beam, shape: tuple[int, int]) -> np.ndarray:
    """The sources of one channel convolved with a Gaussian beam, Jy/beam [y, x]; x grows to the west."""
    y, x = np.indices(shape)
    angle = np.radians(beam.angle)
    image = np.zeros(shape)
    for source in np.flatnonzero(truth.flux[:, channel]):
        east = (truth.x[source] - x) * truth.cell_arcsec
        north = (y - truth.y[source]) * truth.cell_arcsec
        along = (east * np.sin(angle) + north * np.cos(angle)) * FWHM_PER_SIGMA / beam.major
        across = (east * np.cos(angle) - north * np.sin(angle)) * FWHM_PER_SIGMA / beam.minor
        image += truth.flux[source, channel] * np.exp(-0.5 * (along**2 + across**2))
    return image


def restored_error(image: np.ndarray, residual: np.ndarray, beams: list[Beam], truth: Truth, radius: float) -> float:
    """Median over bright channels of the rms error of the restored image at the emission, over the channel's noise.

    Cubes are [channel, y, x], `beams` those of the bright channels. `radius` is in pixels from a source that emits.
    """
    ratios = []
    for c, beam in zip(truth.bright, beams, strict=True):
        error = image[c] - true_image(truth, c, beam, image.shape[1:])
        at_emission = near_emission(truth, c, radius, image.shape[1:])
        ratios.append(np.sqrt((error[at_emission] ** 2).mean()) / noise(residual[c]))
    return float(np.median(ratios))


def measure_quality(name: str, truth: Truth, radius: float, cleaned: bool, reference: np.ndarray | None) -> Quality:
    """Measure the products of one run.

    What lies within `radius` pixels of a source that emits counts as at the emission. If the run made no model, its residual is
    its dirty image. `reference` is a dirty cube [channel, y, x] to compare with.
    """
    truth = replace(truth, bright=np.intersect1d(truth.bright, truth.filled))
    nchan = truth.flux.shape[1]
    dirty = read_product(name, "dirty", nchan)
    residual = read_product(name, "residual", nchan)
    if dirty is None and not cleaned:
        dirty = residual
    left = residual if cleaned else dirty
    silent = np.setdiff1d(truth.filled, np.flatnonzero(truth.flux.any(axis=0)))
    figures = {
        "channels": len(truth.filled),
        "noise_jy": float(np.median([noise(left[c]) for c in silent])) if len(silent) else None,
        "dirty_difference": None if dirty is None or reference is None else difference(dirty, reference, truth.filled),
    }
    if not cleaned:
        return Quality(**figures)
    ratio = peaks_over_limit(residual, truth.filled)
    if len(truth.bright):
        model, image = (read_product(name, kind, nchan) for kind in ("model", "image"))
        beams = [read_beam(name, c) for c in truth.bright]
        figures["flux_error"] = flux_error(model, truth, radius)
        figures["restored_error"] = restored_error(image, residual, beams, truth, radius)
    return Quality(
        channels_above_limit=int((ratio > 1 + FLOAT32_ROUNDING).sum()),
        residual_peak_over_limit=float(ratio.max()),
        residual_worst_channel=int(truth.filled[ratio.argmax()]),
        **figures,
    )


def difference(dirty: np.ndarray, reference: np.ndarray, channels: np.ndarray) -> float:
    """Largest difference of two dirty cubes [channel, y, x] over the reference's largest absolute value."""
    return float(np.abs(dirty[channels] - reference[channels]).max() / np.abs(reference[channels]).max())
