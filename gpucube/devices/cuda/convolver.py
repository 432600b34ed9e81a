"""Convolution of images with large kernels by the passes in `kernels/convolve.cu`, many planes at a time.

In: kernels (PSFs of twice the field), images in slots of a stack. Out: spectra, and convolved images: PSF * model is what a
major cycle in the image subtracts, exact where w is neglected (a Toeplitz operator). The passes are those of
`gpucube.devices.cpu.device.convolve`, on as many planes as the workspace holds. Written against a
`gpucube.devices.cuda.backend.Backend`.
"""

from __future__ import annotations

import numpy as np

from gpucube.devices.base import DeviceArray
from gpucube.devices.cuda.backend import Backend, Kernels, Spec, Workspace, block_bytes, fft_group, fft_planes


def stacks_of(nx: int, ny: int, planes: int) -> tuple[Spec, Spec]:
    """Padded images of nx by ny pixels, and their transforms."""
    count = fft_planes(planes, fft_group(4 * nx * ny))
    return ((count, 2 * ny, 2 * nx), np.float32), ((count, 2 * ny, nx + 1), np.complex64)


class Convolver:
    """Convolution of images of nx by ny pixels, in float32."""

    def __init__(self, backend: Backend, work: Workspace, nx: int, ny: int):
        self._backend, self._work, self._size, self._twice = backend, work, (ny, nx), (2 * ny, 2 * nx)
        self.group = fft_group(4 * nx * ny)
        self._batch_bytes = block_bytes(stacks_of(nx, ny, self.group))
        self._kernels = Kernels(backend, {"convolve": ("-DREAL=float",)})

    def spectrum(
        self, psf: DeviceArray, count: int, transform: DeviceArray, slot: DeviceArray, out: DeviceArray
    ) -> None:
        """Make real spectra of PSFs, which include the normalisation of `convolve`.

        `psf` is float32 (n, 2 ny, 2 nx) of whole batches, `count` of them PSFs with peaks at (ny, nx). `transform` is complex64
        (n, 2 ny, nx + 1), overwritten. The spectra go into the slots (count,) int32 of `out`, float32 (slots, 2 ny, nx + 1).
        """
        self._backend.rfft2(psf, transform, self.group)
        size = (self._twice[0], self._size[1] + 1)
        self._kernels.over("convolve.psf_spectrum", count, *size, transform, slot, *size, out)

    def convolve(self, image: DeviceArray, spectrum: DeviceArray, slot: DeviceArray) -> DeviceArray:
        """Convolve the images in the slots (n,) int32 of a stack, float32, with the kernels in the same slots of `spectrum`.

        The kernels' spectra, float32 (slots, 2 ny, nx + 1), include the normalisation 1 / (4 ny nx). Returns (n or more, 2 ny,
        2 nx), of which the first quarter counts.
        """
        count = len(slot)
        padded, transform = self._work.take(*stacks_of(self._size[1], self._size[0], count))
        self._kernels.over("convolve.pad_twice", count, *self._twice, image, slot, *self._size, padded)
        self._backend.rfft2(padded, transform, self.group)
        shape = transform.shape[1:]
        self._kernels.over("convolve.multiply_spectrum", count, *shape, spectrum, slot, *shape, transform)
        self._backend.irfft2(transform, padded, self.group)
        return padded

    def fitting(self, nbytes: int) -> int:
        """Number of planes that are convolved at once in so many bytes, at least one batch."""
        return max(1, nbytes // self._batch_bytes) * self.group
