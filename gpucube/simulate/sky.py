"""The simulated sky and its exact visibilities.

In: image size, pixel size and channels, or a plain list of point sources. Out: `Sky` (direction cosines, and flux per
channel) and its visibilities by the direct Fourier sum in float64,
V = sum_s S_s exp(+2 pi i (u l + v m + w (n-1)) nu/c), without any gridding.

The default sky is a small spectral-line cube: a tilted rotating ring of many points, eight point sources with narrow lines,
one isolated line far from the centre (where a neglected w term shows), and optional continuum sources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from gpucube.constants import LIGHT_SPEED
from gpucube.errors import GpucubeError
from gpucube.simulate.parameters import SimulationParameters
from gpucube.sky.geometry import lmn_to_radec


@dataclass(frozen=True, kw_only=True)
class Sky:
    """Point sources."""

    l: np.ndarray  # (nsource,) direction cosine to the east
    m: np.ndarray  # (nsource,) direction cosine to the north
    flux: np.ndarray  # (nsource, nchan) Jy
    kind: np.ndarray  # (nsource,) what each source belongs to, in a word

    @property
    def n_minus_one(self) -> np.ndarray:
        """n - 1 = sqrt(1 - l^2 - m^2) - 1 of every source, (nsource,).

        This plain formula differs from the imager's (`gpucube.sky.geometry`) in the last bit, and the bits of simulated data
        depend on it.
        """
        n: np.ndarray = np.sqrt(1.0 - self.l**2 - self.m**2)
        return n - 1.0

    def radec(self, ra: float, dec: float) -> tuple[np.ndarray, np.ndarray]:
        """Place the sources about a phase centre: right ascension and declination in radians."""
        return lmn_to_radec(self.l, self.m, 1.0 + self.n_minus_one, ra, dec)


def _line(channel: np.ndarray, centre: float, sigma: float, peak: float) -> np.ndarray:
    """Make a Gaussian line that is cut off at three sigma, so that line-free channels are exactly empty."""
    profile = peak * np.exp(-0.5 * ((channel - centre) / sigma) ** 2)
    profile[np.abs(channel - centre) > max(3.0 * sigma, 0.5)] = 0.0
    return profile


def line_sky(p: SimulationParameters, rng: np.random.Generator) -> Sky:
    """Make the default sky: rotating ring, point sources, one lone line, and continuum sources that `rng` places."""
    imsize, nchan, peak = p.imsize, p.nchan, p.peak
    # kind, pixels to the east and to the north, Jy per channel
    sources: list[tuple[str, float, float, np.ndarray]] = []
    channel = np.arange(nchan)
    middle, width = 0.45 * nchan, max(p.bright_frac * nchan, 1.0)
    for radius, points in ((0.05, 16), (0.09, 28), (0.13, 40)):
        for t in np.arange(points) * 2 * np.pi / points:
            east = -0.08 * imsize + radius * imsize * np.cos(t)
            north = 0.06 * imsize + radius * imsize * np.sin(t) * 0.7
            centre = middle + 0.40 * width * np.cos(t)
            brightness = peak * 0.12 * (1 + 0.3 * np.sin(5 * t))
            sources.append(("ring", east, north, _line(channel, centre, max(0.05 * width, 0.7), brightness)))
    for k in range(8):
        angle, radius = 2.4 * k + 0.3, (0.12 + 0.08 * k % 0.30) * imsize
        east, north = radius * np.cos(angle), radius * np.sin(angle)
        if k % 2 == 0:  # half of them exactly on a pixel
            east, north = np.round(east), np.round(north)
        centre = np.round(middle + (k - 3.5) / 8.0 * width * 0.9)
        sources.append(("point", east, north, _line(channel, centre, max(0.04 * width, 0.6), peak * (1.0 - 0.09 * k))))
    lone = np.round(0.36 * imsize)
    sources.append(("maser", lone, -lone, _line(channel, np.floor(0.8 * nchan), 0.2, peak)))
    for k in range(p.continuum):
        east = np.round(rng.uniform(-0.7, 0.7) * imsize / 2.0)
        north = np.round(rng.uniform(-0.7, 0.7) * imsize / 2.0)
        sources.append(("continuum", east, north, np.full(nchan, peak * 0.2 / (k + 1))))
    kind, x, y, flux = zip(*sources, strict=True)
    return Sky(l=np.array(x) * p.cell_radians, m=np.array(y) * p.cell_radians, flux=np.array(flux), kind=np.array(kind))


def point_sky(sources: Iterable[tuple[float, float, ArrayLike]], nchan: int) -> Sky:
    """Make a sky of point sources.

    Each source has direction cosines to the east and to the north, and a flux in Jy: one number or one per channel.

    Examples
    --------
    >>> point_sky([(0.001, 0.0, 1.5)], nchan=3).flux
    array([[1.5, 1.5, 1.5]])
    """
    listed = list(sources)
    l = np.array([source[0] for source in listed], float)
    m = np.array([source[1] for source in listed], float)
    flux = np.zeros((len(listed), nchan))
    for i, source in enumerate(listed):
        if l[i] ** 2 + m[i] ** 2 >= 1.0:
            raise GpucubeError(f"source {i}: l = {l[i]}, m = {m[i]} is not on the sky; l^2 + m^2 must be below 1")
        spectrum = np.asarray(source[2], float)
        if spectrum.shape not in ((), (nchan,)):
            raise GpucubeError(
                f"source {i}, counted from 0: its flux has shape {spectrum.shape}, expected one number or {nchan} of them"
            )
        flux[i] = spectrum
    return Sky(l=l, m=m, flux=flux, kind=np.full(len(listed), "point"))


def visibilities(sky: Sky, uvw: np.ndarray, frequency: np.ndarray) -> np.ndarray:
    """Compute noiseless visibilities by the direct Fourier sum: Jy, complex128 (nrow, nchan).

    `uvw` has the shape (nrow, 3) in metres, `frequency` (nchan,) in Hz.
    """
    model = np.zeros((len(uvw), len(frequency)), complex)
    for l, m, n1, spectrum in zip(sky.l, sky.m, sky.n_minus_one, sky.flux, strict=True):
        lit = np.flatnonzero(spectrum)
        delay = (uvw @ np.array([l, m, n1])) / LIGHT_SPEED  # (nrow,) seconds
        turns = delay[:, None] * frequency[lit]  # (nrow, nlit)
        turns -= np.round(turns)  # a small argument keeps sine and cosine fast and exact
        model[:, lit] += spectrum[lit] * np.exp(2j * np.pi * turns)
    return model
