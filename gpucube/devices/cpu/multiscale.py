"""Minor cycles of multiscale CLEAN on the CPU.

In: a residual, its PSF of twice the size, and the scales. Out: the model with the components of all scales added.

Algorithm: Cornwell 2008 (IEEE J. Sel. Top. Signal Process. 2, 793). The residual convolved with a scale has peaks where
components of that scale lie. The best component of all scales is found, and its response is subtracted from all convolved
residuals: the PSF convolved with both scales.

The best component is the one that lowers chi squared most: the convolved residual R over its noise, which is as the root of
P, the peak of the PSF convolved twice with the scale. Its flux is R / P, and a minor cycle ends when no R over its noise is
above the threshold. tclean compares R over the peak of the PSF convolved once, and compares this flux with the threshold:
large scales are then cleaned far below their noise, until the minor cycle diverges (docs/decisions.md, D33).

As in `loops.hogbom_active_set`, only pixels that may become peaks are updated. The next major cycle gives the exact residual.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import ducc0
import numpy as np

from gpucube.devices.base import MinorCycle
from gpucube.devices.cpu import loops
from gpucube.devices.scales import GROWTH, LEAST_RESPONSE, MASK_LEVEL, scale_bias, scale_kernel

Convolve = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Scales:
    """The scales of a job: kernels and their spectra on twice the image, shared by all planes of a device.

    Parameters
    ----------
    sizes : sequence of float
        Pixels.
    smallscalebias : float
    spectrum_of : callable
        Turns a kernel into its spectrum on twice the image, for `convolve`.
    convolve : callable
        Convolves an image (ny, nx) with a kernel given by its spectrum.
    """

    def __init__(
        self,
        sizes: Sequence[float],
        smallscalebias: float,
        spectrum_of: Callable[[np.ndarray], np.ndarray],
        convolve: Convolve,
    ):
        self.kernels = [scale_kernel(size) for size in sizes]
        self.spectra = [spectrum_of(kernel) for kernel in self.kernels]  # (2 ny, nx + 1) float32 each
        self.bias = scale_bias(sizes, smallscalebias)
        self.convolve = convolve

    def smoothed(self, image: np.ndarray, scale: int) -> np.ndarray:
        """Convolve an image with a scale."""
        return image if self.kernels[scale].size == 1 else self.convolve(image, self.spectra[scale])


class PlaneScales:
    """What the minor cycles of one plane need: its PSF convolved with every pair of scales, and where each scale may lie.

    `psf` is float32 (2 ny, 2 nx) with its peak at (ny, nx), `spectrum` its real spectrum as `loops.psf_spectrum` makes it.
    `mask` is bool (ny, nx), or of size 0 for everywhere.
    """

    def __init__(self, scales: Scales, psf: np.ndarray, spectrum: np.ndarray, mask: np.ndarray):
        self._scales, nscale = scales, len(scales.kernels)
        shape = psf.shape
        pixels = np.float32(shape[0] * shape[1])
        ny, nx = shape[0] // 2, shape[1] // 2
        sign = np.where((np.arange(shape[0])[:, None] + np.arange(nx + 1)) % 2, np.float32(-1), np.float32(1))
        centred = spectrum * sign  # so that the peak comes out at (ny, nx)

        def image_of(transform: np.ndarray) -> np.ndarray:
            image: np.ndarray = ducc0.fft.c2r(
                transform.astype(np.complex64), axes=(0, 1), lastsize=shape[1], forward=False, nthreads=1
            )
            return image

        # (npair, 2 ny, 2 nx): the pair (a, b) with a <= b is at b (b + 1) / 2 + a
        self.cross = np.empty((nscale * (nscale + 1) // 2, *shape), np.float32)
        for b in range(nscale):
            of_scale = scales.spectra[b] * pixels
            for a in range(b + 1):
                self.cross[b * (b + 1) // 2 + a] = image_of(centred * of_scale * (scales.spectra[a] * pixels))
        # the response of a component of unit flux to its own scale; the noise of a convolved residual is its root
        own = np.array([self.cross[b * (b + 3) // 2][ny, nx] for b in range(nscale)])
        seen = own > LEAST_RESPONSE
        noise = np.sqrt(own, where=seen, out=np.ones(nscale))
        self._level = np.where(seen, noise, np.inf).astype(np.float32)  # (nscale,), as the next two
        self._merit = (scales.bias / noise).astype(np.float32)
        self._step = (1 / noise**2).astype(np.float32)
        self.mask = mask
        self._allowed = np.zeros((0, 0, 0), bool)  # (nscale, ny, nx), or of size 0 for everywhere
        if mask.size:
            given = mask.astype(np.float32)
            self._allowed = np.stack([scales.smoothed(given, scale) > MASK_LEVEL for scale in range(nscale)])

    def minor(self, residual: np.ndarray, model: np.ndarray, cycle: MinorCycle, cut: float) -> int:
        """Add components to the model, and return their number. `residual` is left as it was.

        Pixels are active if their convolved residual is above `cut` times the threshold of their scale.
        """
        scales, nscale = self._scales, len(self._scales.kernels)
        smooth = np.stack([scales.smoothed(residual, scale) for scale in range(nscale)])
        found = np.zeros_like(smooth)  # (nscale, ny, nx): sums of the components of each scale, Jy
        done: int = loops.multiscale_active_set(
            smooth,
            self.cross,
            self._allowed,
            self._merit,
            self._level * np.float32(cycle.threshold),
            np.float32(cycle.gain) * self._step,
            found,
            cycle.max_iterations,
            cut,
            GROWTH,
        )
        for scale in range(nscale):
            if found[scale].any():
                model += scales.smoothed(found[scale], scale)
        return done
