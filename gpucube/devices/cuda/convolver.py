"""Convolution of images with large kernels by the passes in `kernels/convolve.cu`, many planes at a time.

In: kernels (PSFs of twice the field), images in slots of a stack. Out: spectra, convolved images, and residuals: dirty - PSF *
model, the major cycle in the image, exact where w is neglected (a Toeplitz operator). The passes are those of
`gpucube.devices.cpu.device.convolve`, on whole groups of planes. Written against a `gpucube.devices.cuda.backend.Backend`.
"""

from __future__ import annotations

import numpy as np

from gpucube.devices.base import DeviceArray
from gpucube.devices.cuda.backend import Backend, Kernels, fft_group


class Convolver:
    """Convolution of images of nx by ny pixels, in float32."""

    def __init__(self, backend: Backend, nx: int, ny: int):
        self._backend, self._size, self._twice = backend, (ny, nx), (2 * ny, 2 * nx)
        self._group = fft_group(4 * nx * ny)
        self._kernels = Kernels(backend, {"convolve": ("-DREAL=float",)})

    def spectrum(self, psf: DeviceArray, slot: DeviceArray, out: DeviceArray) -> None:
        """Make real spectra of the PSFs in the slots (n,) int32, which include the normalisation of `convolve`.

        `psf` is float32 (slots, 2 ny, 2 nx) with peaks at (ny, nx). The spectra go into the same slots of `out`, float32
        (slots, 2 ny, nx + 1).
        """
        for start in range(0, len(slot), self._group):
            some = slot[start : start + self._group]
            whole = self._backend.xp.zeros((self._group, *self._twice), np.float32)
            whole[: len(some)] = psf[some]
            transform = self._backend.rfft2(whole)
            size = transform.shape[1:]
            self._kernels.over("convolve.psf_spectrum", len(some), *size, transform, some, *size, out)

    def convolve(self, image: DeviceArray, spectrum: DeviceArray) -> DeviceArray:
        """Convolve one image, float32 (ny, nx).

        The kernel's spectrum, float32 (2 ny, nx + 1), includes the normalisation 1 / (4 ny nx).
        """
        ny, nx = self._size
        only = self._backend.xp.zeros(1, np.int32)
        convolved: DeviceArray = self._convolved(image[None], only, spectrum[None])[0, :ny, :nx].copy()
        return convolved

    def residual(
        self, dirty: DeviceArray, model: DeviceArray, spectrum: DeviceArray, slot: DeviceArray, out: DeviceArray
    ) -> None:
        """Compute dirty - PSF * model for the slots (n,) int32, into the same slots of `out`.

        Images are float32 (slots, ny, nx), spectra float32 (slots, 2 ny, nx + 1).
        """
        for start in range(0, len(slot), self._group):
            some = slot[start : start + self._group]
            convolved, over = self._convolved(model, some, spectrum), (len(some), *self._size)
            self._kernels.over("convolve.crop_residual", *over, dirty, convolved, some, *self._size, out)

    def _convolved(self, image: DeviceArray, slot: DeviceArray, spectrum: DeviceArray) -> DeviceArray:
        """Convolve the images of one group; returns (group, 2 ny, 2 nx), of which the first quarter counts."""
        padded = self._backend.xp.empty((self._group, *self._twice), np.float32)
        padded[len(slot) :] = 0
        self._kernels.over("convolve.pad_twice", len(slot), *self._twice, image, slot, *self._size, padded)
        transform = self._backend.rfft2(padded)
        shape = transform.shape[1:]
        self._kernels.over("convolve.multiply_spectrum", len(slot), *shape, spectrum, slot, *shape, transform)
        return self._backend.irfft2(transform, self._twice)
