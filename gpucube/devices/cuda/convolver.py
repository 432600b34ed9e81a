"""Convolution of images with large kernels by the passes in `kernels/convolve.cu`, many planes at a time.

In: kernels (PSFs of twice the field), images in slots of a stack. Out: spectra, convolved images, and residuals: dirty - PSF *
model, the major cycle in the image, exact where w is neglected (a Toeplitz operator). The same passes as
`gpucube.devices.cpu.convolve`, on whole groups of planes. Written against a `gpucube.devices.backend.Backend`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucube.devices.cuda.backend import Backend, Kernels, fft_group


class Convolver:
    """Convolution of images of one size, float32 throughout.

    Parameters
    ----------
    backend : Backend
    nx, ny : int
        Pixels of the images.
    """

    def __init__(self, backend: Backend, nx: int, ny: int):
        self.backend, self.nx, self.ny = backend, nx, ny
        self.group = fft_group(4 * nx * ny)
        self._kernels = Kernels(backend, {"convolve": ("-DREAL=float",)})

    def _fft_bytes(self) -> int:
        return self.group * 2 * self.ny * (2 * self.nx + 2) * 4

    def plan_memory(self) -> int:
        """Bytes that plans of FFTs keep, forwards and backwards."""
        return int(2 * self.backend.fft_kept * self._fft_bytes())

    def work_memory(self) -> int:
        """Bytes that one group takes meanwhile: padded images, their transforms, and the FFT's own work."""
        return int((2 + self.backend.fft_work) * self._fft_bytes())

    def spectrum(self, psf: Any, slot: Any, out: Any) -> None:
        """Real spectra of PSFs, with the normalisation of `convolve` in them.

        Parameters
        ----------
        psf : float32, shape (slots, 2 ny, 2 nx)
            Peak at (ny, nx).
        slot : int32, shape (n,)
            Which of them.
        out : float32, shape (slots, 2 ny, nx + 1)
            Written, in the same slots.
        """
        xp = self.backend.xp
        for start in range(0, len(slot), self.group):
            some = slot[start : start + self.group]
            whole = xp.zeros((self.group, *psf.shape[1:]), np.float32)
            whole[: len(some)] = psf[some]
            transform = self.backend.rfft2(whole)
            size = transform.shape[1:]
            self._kernels.over("convolve.psf_spectrum", len(some), *size, transform, some, *size, out)

    def _convolved(self, image: Any, slot: Any, spectrum: Any, spectrum_slot: Any) -> Any:
        """Convolved images of one group, (group, 2 ny, 2 nx), of which the first quarter counts."""
        size, twice = (self.ny, self.nx), (2 * self.ny, 2 * self.nx)
        padded = self.backend.xp.empty((self.group, *twice), np.float32)
        padded[len(slot) :] = 0
        self._kernels.over("convolve.pad_twice", len(slot), *twice, image, slot, *size, padded)
        transform = self.backend.rfft2(padded)
        shape = transform.shape[1:]
        self._kernels.over("convolve.multiply_spectrum", len(slot), *shape, spectrum, spectrum_slot, *shape, transform)
        return self.backend.irfft2(transform, twice)

    def convolve(self, image: Any, spectrum: Any) -> Any:
        """One image convolved.

        Parameters
        ----------
        image : float32, shape (ny, nx)
        spectrum : float32, shape (2 ny, nx + 1)
            With the normalisation 1 / (4 ny nx) in it.

        Returns
        -------
        float32, shape (ny, nx)
        """
        only = self.backend.xp.zeros(1, np.int32)
        return self._convolved(image[None], only, spectrum[None], only)[0, : self.ny, : self.nx].copy()

    def residual(self, dirty: Any, model: Any, spectrum: Any, slot: Any, out: Any) -> None:
        """dirty - PSF * model.

        Parameters
        ----------
        dirty, model : float32, shape (slots, ny, nx)
        spectrum : float32, shape (slots, 2 ny, nx + 1)
        slot : int32, shape (n,)
            Which of them.
        out : float32, shape (slots, ny, nx)
            Written, in the same slots.
        """
        size = (self.ny, self.nx)
        for start in range(0, len(slot), self.group):
            some = slot[start : start + self.group]
            convolved = self._convolved(model, some, spectrum, some)
            self._kernels.over("convolve.crop_residual", len(some), *size, dirty, convolved, some, *size, out)
