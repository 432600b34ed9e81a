"""Clean masks that follow the emission: auto-multithresh (Kepley et al. 2020, PASP 132, 024505), for one plane.

In: the exact residual of a plane, its beam, its sidelobe level and the mask so far. Out: the mask for the next minor cycle.
The steps are those of CASA's SDMaskHandler:

* the mask threshold is the higher of the sidelobe threshold (`sidelobethreshold` times the sidelobe level times the peak)
  and the noise threshold (`noisethreshold` times the noise), above the median of the residual;
* pixels above it form regions; regions smaller than `minbeamfrac` beams are removed, the others are smoothed with the beam and
  cut at `cutthreshold` of the maximum;
* once there are components, the mask so far grows, pixel by pixel, into pixels above a lower threshold, which has
  `lownoisethreshold` in place of `noisethreshold`; the pixels that it has grown into are pruned, smoothed and cut as well;
* pixels below the negative threshold are smoothed, cut and added, if `negativethreshold` is set;
* the mask is never made smaller.

The noise is 1.4826 MAD of the whole residual. With `fastnoise=False` it is that of the pixels outside the mask or, if there is
no mask yet, of the pixels that Chauvenet's criterion keeps in five rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from gpucube.schema.parameters import Parameters
from gpucube.sky.beam import Beam
from gpucube.sky.geometry import ImageGeometry

MAD_TO_SIGMA = 1.4826
CHAUVENET_ROUNDS = 5

BYTES_OF_MASKS = 64
"""Memory that making a mask takes, bytes a pixel: labels, convolutions and copies for the statistics."""

ROUNDING = 1e-5
"""Share of the maximum below which a convolution by FFT in single precision is noise."""


@dataclass(frozen=True, kw_only=True)
class MaskStatistics:
    """What thresholds follow from, Jy/beam."""

    median: float
    noise: float  # 1.4826 MAD
    peak: float  # largest |value|


@dataclass(frozen=True, kw_only=True)
class AutoMask:
    """The parameters of tclean's auto-multithresh."""

    sidelobethreshold: float = 3.0
    noisethreshold: float = 5.0
    lownoisethreshold: float = 1.5
    negativethreshold: float = 0.0
    smoothfactor: float = 1.0
    minbeamfrac: float = 0.3
    cutthreshold: float = 0.01
    growiterations: int = 75
    dogrowprune: bool = True
    minpercentchange: float = -1.0
    fastnoise: bool = True

    @classmethod
    def of(cls, parameters: Parameters) -> AutoMask | None:
        """Take the parameters from those of the run; None if it has no automatic masks."""
        if parameters.usemask != "auto-multithresh":
            return None
        return cls(**{field.name: getattr(parameters, field.name) for field in fields(cls)})

    def renew(
        self,
        mask: np.ndarray,
        residual: np.ndarray,
        *,
        beam: Beam,
        sidelobe: float,
        geometry: ImageGeometry,
        valid: np.ndarray | None = None,
        grow: bool,
        threshold_reached: bool,
    ) -> tuple[np.ndarray, bool]:
        """Make the mask for the next minor cycle.

        Parameters
        ----------
        mask : numpy.ndarray
            The mask so far, bool (ny, nx).
        residual : numpy.ndarray
            Float32 (ny, nx).
        beam, sidelobe : Beam, float
            Of the plane's PSF.
        geometry : ImageGeometry
        valid : numpy.ndarray or None
            Pixels that count and may be masked, bool (ny, nx), None for all.
        grow : bool
            Whether the mask may grow: there are components.
        threshold_reached : bool
            Whether the last minor cycle went down to the stop level.

        Returns
        -------
        numpy.ndarray
            Bool (ny, nx).
        bool
            Whether this mask is final.
        """
        found = self.statistics(residual, mask, valid)
        from_sidelobes = sidelobe * self.sidelobethreshold * found.peak
        from_noise = self.noisethreshold * found.noise
        low = max(from_sidelobes, self.lownoisethreshold * found.noise)

        def kept(pixels: np.ndarray, prune: bool) -> np.ndarray:
            pixels = pixels if valid is None else pixels & valid
            return self._smoothed(self._pruned(pixels, beam, geometry) if prune else pixels, beam, geometry)

        added = kept(residual > max(from_sidelobes, from_noise) + found.median, prune=True)
        if grow and self.growiterations > 0 and mask.any():
            from scipy import ndimage

            may_grow = residual > low + found.median
            grown = ndimage.binary_dilation(mask & may_grow, iterations=self.growiterations, mask=may_grow)
            added |= kept(grown, prune=self.dogrowprune)
        if self.negativethreshold > 0:
            deepest = max(from_sidelobes, self.negativethreshold * found.noise)
            added |= kept(residual < found.median - deepest, prune=False)
        renewed: np.ndarray = mask | added if valid is None else (mask | added) & valid
        return renewed, from_noise > from_sidelobes and self._is_final(mask, renewed, threshold_reached)

    def _is_final(self, before: np.ndarray, now: np.ndarray, threshold_reached: bool) -> bool:
        """tclean's rule for channels whose mask follows from the noise."""
        size, change = np.count_nonzero(now), abs(np.count_nonzero(now) - np.count_nonzero(before))
        fraction = self.minpercentchange / 100.0
        small = change == 0 or change < fraction * np.count_nonzero(before)
        return bool(size == 0 or (fraction >= 0 and threshold_reached and small))

    def statistics(self, residual: np.ndarray, mask: np.ndarray, valid: np.ndarray | None) -> MaskStatistics:
        """Median, noise and peak of a residual."""
        values = residual.ravel() if valid is None else residual[valid]
        if not values.size:
            return MaskStatistics(median=0.0, noise=0.0, peak=0.0)
        sample = values
        if not self.fastnoise:
            outside = residual[~mask if valid is None else valid & ~mask]
            sample = outside if mask.any() and outside.size else _without_outliers(values)
        median = float(np.median(sample))
        mad = float(np.median(np.abs(sample - np.float32(median))))
        return MaskStatistics(median=median, noise=MAD_TO_SIGMA * mad, peak=float(np.abs(values).max()))

    def _pruned(self, pixels: np.ndarray, beam: Beam, geometry: ImageGeometry) -> np.ndarray:
        """Drop regions of fewer pixels than `minbeamfrac` beams. Pixels that touch with an edge are of one region."""
        from scipy import ndimage

        smallest = self.minbeamfrac * beam.area(geometry)
        if not pixels.any() or smallest <= 0:
            return pixels
        labels, count = ndimage.label(pixels)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        large = sizes >= smallest
        large[0] = False
        kept: np.ndarray = large[labels]
        return kept

    def _smoothed(self, pixels: np.ndarray, beam: Beam, geometry: ImageGeometry) -> np.ndarray:
        """Convolve a mask with `smoothfactor` times the beam, and keep what is above `cutthreshold` of the maximum."""
        if not pixels.any() or self.smoothfactor <= 0:
            return pixels
        from scipy.signal import fftconvolve

        kernel = Beam(bmaj=self.smoothfactor * beam.bmaj, bmin=self.smoothfactor * beam.bmin, bpa=beam.bpa)
        rows, columns = _around(np.asarray(pixels.any(axis=1))), _around(np.asarray(pixels.any(axis=0)))
        sampled = kernel.sampled(geometry)
        reach_y, reach_x = sampled.shape[0] // 2, sampled.shape[1] // 2
        window = (
            slice(max(0, rows.start - reach_y), min(geometry.ny, rows.stop + reach_y)),
            slice(max(0, columns.start - reach_x), min(geometry.nx, columns.stop + reach_x)),
        )
        smooth = fftconvolve(pixels[window].astype(np.float32), sampled, mode="same")
        result = np.zeros_like(pixels)
        result[window] = smooth > max(self.cutthreshold, ROUNDING) * smooth.max()
        return result


def _around(occupied: np.ndarray) -> slice:
    """From the first True to the last."""
    return slice(int(occupied.argmax()), len(occupied) - int(occupied[::-1].argmax()))


def _without_outliers(values: np.ndarray) -> np.ndarray:
    """The values that Chauvenet's criterion keeps: of a normal distribution, half a value would lie further out."""
    from scipy.special import erfcinv

    kept = values
    for _ in range(CHAUVENET_ROUNDS):
        limit = math.sqrt(2.0) * float(erfcinv(0.5 / len(kept))) * float(kept.std(dtype=np.float64))
        inside = values[np.abs(values - np.float32(kept.mean(dtype=np.float64))) <= limit]
        if len(inside) == len(kept):
            break
        kept = inside
    return kept
