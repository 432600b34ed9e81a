"""Major cycles in the image by the kernels in `kernels/convolve.cu`: residual = dirty - PSF * model, many planes at once.

In: PSFs of twice the field, dirty images and models. Out: residual images. Exact where w is neglected (a Toeplitz
operator): the same passes as `gpucube.devices.cpu.convolve`, on whole batches. Written against a `Backend`, as
`gpucube.devices.tile_gridder`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucube.devices.tile_gridder import Backend, as_arguments, blocks_over


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
        self._module = backend.compile("convolve", ("-DREAL=float",))

    def _over(self, name: str, planes: int, ny: int, nx: int, *arguments: Any) -> None:
        self._module.get_function(name)(*blocks_over(planes, ny, nx), as_arguments(arguments), shared_mem=0)

    def spectrum(self, psf: Any) -> Any:
        """Real spectra of PSFs, with the normalisation of `residual` in them.

        Parameters
        ----------
        psf : float32, shape (planes, 2 ny, 2 nx)
            Peak at (ny, nx).

        Returns
        -------
        float32, shape (planes, 2 ny, nx + 1)
        """
        transform = self.backend.rfft2(psf)
        spectrum = self.backend.xp.empty(transform.shape, np.float32)
        size = transform.shape[1:]
        self._over("psf_spectrum", len(psf), *size, transform, *size, spectrum)
        return spectrum

    def residual(self, dirty: Any, model: Any, spectrum: Any) -> Any:
        """dirty - PSF * model.

        Parameters
        ----------
        dirty, model : float32, shape (planes, ny, nx)
        spectrum : float32, shape (planes, 2 ny, nx + 1)

        Returns
        -------
        float32, shape (planes, ny, nx)
        """
        planes, size, twice = len(model), (self.ny, self.nx), (2 * self.ny, 2 * self.nx)
        padded = self.backend.xp.empty((planes, *twice), np.float32)
        self._over("pad_twice", planes, *twice, model, *size, padded)
        transform = self.backend.rfft2(padded)
        shape = transform.shape[1:]
        self._over("multiply_spectrum", planes, *shape, spectrum, *shape, transform)
        convolved = self.backend.irfft2(transform, twice)
        residual = self.backend.xp.empty((planes, *size), np.float32)
        self._over("crop_residual", planes, *size, dirty, convolved, *size, residual)
        return residual
