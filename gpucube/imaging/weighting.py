"""Imaging weights that devices do not make: those with one density for all channels, and those of rarer formulae.

In: the samples of a plane, or all samples of a store. Out: the same samples with their imaging weights. A device takes these as
natural weights and multiplies them by the taper, so these formulae exist once for all hardware. The devices make natural,
uniform and Briggs weights of single channels themselves.

The formulae are tclean's (CASA's classes VisImagingWeight and BriggsCubeWeightor). G is the density, the sum of weights w
in the uv cells of the image, of u and of -u:

* uniform: w / G. superuniform: the same with the sum of G over a square of cells about the sample's.
* Briggs: w / (1 + G f^2), f^2 = (5 x 10^-robust)^2 / (sum G^2 / sum G).
* briggsabs: w / (G robust^2 + 2 noise^2).
* briggsbwtaper (CASA issue CAS-13021): as Briggs with G / t, where t = n + 1/2 grows with the number n of cells that the
  sample moves over the bandwidth of the cube, n = bandwidth x uv distance in cells. For n below 1, t = (4 - n) / (4 - 2 n).
* radial: w times the uv distance in wavelengths.
* `npixels` with uniform, Briggs or briggsabs: G is its mean over a square of cells, which extends `npixels` cells to every side.
  If all channels share one density, its cells are instead those of an image with `npixels` pixels to every side.

Cells are centred on whole numbers where each channel has its density. Where all channels share one, and for superuniform
weights, cells begin at whole numbers, and G is that of one hand, half of that of Stokes I.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from gpucube import disk
from gpucube.caches import njit
from gpucube.constants import LIGHT_SPEED
from gpucube.data.selection import Selection
from gpucube.data.stokes import Rule
from gpucube.data.store import Partition, PlaneKey, Samples, VisibilityStore
from gpucube.devices.cpu import loops
from gpucube.schema.parameters import Parameters
from gpucube.sky.geometry import ImageGeometry

SUPERUNIFORM_REACH = 3
"""Cells that the square of superuniform weights reaches to every side unless `npixels` says otherwise."""

_DENSITY = np.dtype(np.float32)

BYTES_OF_SHARED_DENSITY = 48
"""For each pixel: the density in double precision, its squares, and what `_box_sum` makes."""


@dataclass(frozen=True, kw_only=True)
class SharedDensity:
    """The density over all channels of one Stokes parameter; the array is in a file, which workers map."""

    path: str
    total: float  # sum of G
    squares: float  # sum of G^2


@dataclass(frozen=True, kw_only=True)
class HostWeighting:
    """How the imaging weights of a job are made on the host; picklable."""

    weighting: str  # "uniform", "briggs", "briggsabs", "briggsbwtaper", "superuniform" or "radial"
    robust: float
    noise: float  # Jy
    bandwidth: float  # of the cube, of its middle frequency
    geometry: ImageGeometry
    shared: tuple[SharedDensity, ...] = ()  # by Stokes parameter; empty if every channel has its own density
    reach: int = 0  # cells to every side over which the density of a channel is averaged

    def weigh(self, samples: Samples, key: PlaneKey) -> Samples:
        """Return the samples of a plane with imaging weights in the place of weights."""
        given = samples.weight if samples.order is None else np.take(samples.weight, samples.order)
        g, per_metre = self.geometry, samples.frequency / LIGHT_SPEED
        if self.weighting == "radial":
            weight = given * np.hypot(samples.uvw[:, 0], samples.uvw[:, 1]) * per_metre
        else:
            density, total, squares = self._densities(samples.uvw, given, per_metre, key.stokes)
            slope, constant = self._slope_and_constant(total, squares)
            if self.weighting == "briggsbwtaper":
                cells = np.hypot(samples.uvw[:, 0] * g.nx * g.cell_x, samples.uvw[:, 1] * g.ny * g.cell_y) * per_metre
                slope = slope / _spread(self.bandwidth * cells)
            known = density > 0
            weight = np.divide(given, constant + slope * density, out=np.zeros(len(given)), where=known)
        imaging = np.empty(len(given), np.float32)
        imaging[slice(None) if samples.order is None else samples.order] = weight
        return replace(samples, weight=imaging)

    def _densities(
        self, uvw: np.ndarray, given: np.ndarray, per_metre: float, stokes: int
    ) -> tuple[np.ndarray, float, float]:
        """G of every sample, 0 outside, (nsample,) float64; the sums of G and G^2."""
        g = self.geometry
        field_x, field_y = g.nx * g.cell_x, g.ny * g.cell_y
        if self.shared:
            of = self.shared[stokes]
            found = np.empty(len(given))
            look_up(uvw, per_metre, field_x, field_y, disk.mapped(of.path, _DENSITY, g.shape), found)
            return found, of.total, of.squares
        half_u, half_v = g.nx // 2, g.ny // 2
        cell, lookup = np.empty((2, len(given)), np.int32)
        loops.uv_cells(uvw, per_metre, field_x, field_y, half_u, half_v, given, cell, lookup)
        density = np.zeros((half_v + 1) * (2 * half_u + 1))
        total, squares = loops.cell_density(cell, given, density, half_u)
        if self.reach:
            mean = _mean_density(density.reshape(half_v + 1, -1), self.reach)
            density, total, squares = mean[half_v:].ravel(), float(mean.sum()), float((mean**2).sum())
        return np.where(lookup >= 0, density[lookup], 0.0), total, squares

    def _slope_and_constant(self, total: float, squares: float) -> tuple[float | np.ndarray, float]:
        """Of w / (constant + slope G)."""
        if self.weighting == "briggsabs":
            return self.robust**2, 2.0 * self.noise**2
        if self.weighting in ("uniform", "superuniform") or not squares:
            return 1.0, 0.0
        return (5.0 * 10.0**-self.robust) ** 2 / (squares / total), 1.0


def _mean_density(half: np.ndarray, reach: int) -> np.ndarray:
    """The mean of the density over a square of cells, (2 half_v + 1, 2 half_u + 1), from its half plane v >= 0.

    As in CASA, samples count only where the square about them lies in the plane.
    """
    half[0, : half.shape[1] // 2] = half[0, : half.shape[1] // 2 : -1]
    plane = np.concatenate([half[:0:-1, ::-1], half])
    inner = np.zeros(plane.shape)
    inside = (slice(reach, -reach),) * 2
    inner[inside] = plane[inside]
    mean: np.ndarray = _box_sum(inner, reach) / (2 * reach + 1) ** 2
    return mean


def _spread(cells: np.ndarray) -> np.ndarray:
    """The number of cells over which a sample is spread if it moves by `cells`."""
    return np.where(cells >= 1, cells + 0.5, (4 - cells) / (4 - 2 * np.minimum(cells, 1)))


def shares_density(parameters: Parameters) -> bool:
    """Whether all channels share one density. The store must then be complete before the first channel is imaged."""
    shared = not parameters.perchanweightdensity and parameters.weighting in ("uniform", "briggs", "briggsabs")
    return shared or parameters.weighting == "superuniform"


def on_host(parameters: Parameters) -> bool:
    """Whether the weights are made here, and devices take them as natural ones."""
    if parameters.weighting == "natural":
        return False
    return parameters.weighting not in ("uniform", "briggs") or parameters.npixels > 0 or shares_density(parameters)


def host_weighting(
    parameters: Parameters, selection: Selection, store: VisibilityStore, scratch: str
) -> HostWeighting | None:
    """Prepare the weights of a job; None if devices make them.

    A shared density is one pass over the weights of the store, and is written to the folder `scratch`.
    """
    if not on_host(parameters):
        return None
    frequency = selection.axis.frequency
    low, high = float(frequency.min()), float(frequency.max())
    shared: tuple[SharedDensity, ...] = ()
    geometry, reach, square = selection.geometry, parameters.npixels, parameters.weighting == "superuniform"
    if shares_density(parameters):
        if reach and not square:  # CASA gives the density the cells of such an image
            geometry, reach = replace(geometry, nx=reach, ny=reach), 0
        reach = reach or (SUPERUNIFORM_REACH if square else 0)
        shared = tuple(
            _share(store, number, selection, geometry, reach, os.path.join(scratch, f"density.{number}"))
            for number in range(len(selection.stokes))
        )
    return HostWeighting(
        weighting=parameters.weighting,
        robust=parameters.robust,
        noise=parameters.noise,
        bandwidth=2.0 * (high - low) / (high + low),
        geometry=geometry,
        shared=shared,
        reach=reach,
    )


def _share(
    store: VisibilityStore, stokes: int, selection: Selection, g: ImageGeometry, reach: int, path: str
) -> SharedDensity:
    """Add up the weights of all channels on the uv cells of an image, and write the density to a file."""
    plane = np.zeros(g.shape)
    for partition in store.partitions:
        _add(partition, stokes, g, reach, plane)
    rules = {source.combinations[stokes].rule for source in selection.sources}
    if rules <= {Rule.BOTH, Rule.ANY}:
        plane /= 2
    if reach:
        plane = _box_sum(plane, reach)
    with disk.explain(f"cannot write {path}"):
        disk.write_whole(path, plane.astype(_DENSITY).tobytes())
    return SharedDensity(path=path, total=float(plane.sum()), squares=float((plane**2).sum()))


def _add(partition: Partition, stokes: int, g: ImageGeometry, reach: int, plane: np.ndarray) -> None:
    uvw, order, weights = (partition.array(name) for name in ("uvw", "order", "weight"))
    for slot, frequency in enumerate(partition.frequency):
        per_metre = frequency / LIGHT_SPEED
        fields = g.nx * g.cell_x, g.ny * g.cell_y
        add_density(uvw, order, weights[stokes, slot], per_metre, *fields, reach, plane)


def _box_sum(plane: np.ndarray, reach: int) -> np.ndarray:
    """Sum a plane over a square of 2 reach + 1 cells about each."""
    for axis in (0, 1):
        after = np.cumsum(np.pad(plane, [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]), axis=axis)
        size, width = plane.shape[axis], 2 * reach + 1
        plane = np.take(after, np.arange(width, width + size), axis) - np.take(after, np.arange(size), axis)
    return plane


@njit()
def add_density(
    uvw: np.ndarray,
    order: np.ndarray,
    weight: np.ndarray,
    per_metre: float,
    cells_u: float,
    cells_v: float,
    reach: int,
    plane: np.ndarray,
) -> None:
    """Add weights to the cells of (u, v) and (-u, -v).

    Row k of `uvw` (metres) has ``weight[order[k]]``; `per_metre` is wavelengths in a metre, `cells_u` and `cells_v` are cells
    in a wavelength. Cells that lie less than `reach` from the edge of `plane` (ny, nx), float64, get nothing.
    """
    ny, nx = plane.shape
    single, scale_u, scale_v = np.float64(np.float32(per_metre)), np.float32(-cells_u), np.float32(cells_v)
    for k in range(len(order)):
        w = weight[order[k]]
        if w > 0:
            u, v = scale_u * np.float32(uvw[k, 0] * single), scale_v * np.float32(uvw[k, 1] * single)
            for sign in (1, -1):
                iu, iv = _cell(sign, u, nx), _cell(sign, v, ny)
                if reach < iu < nx - reach and reach < iv < ny - reach:
                    plane[iv, iu] += w


@njit()
def look_up(
    uvw: np.ndarray, per_metre: float, cells_u: float, cells_v: float, density: np.ndarray, found: np.ndarray
) -> None:
    """Find the density at every sample, in the same cells; 0 outside."""
    ny, nx = density.shape
    single, scale_u, scale_v = np.float64(np.float32(per_metre)), np.float32(-cells_u), np.float32(cells_v)
    for k in range(len(found)):
        u, v = scale_u * np.float32(uvw[k, 0] * single), scale_v * np.float32(uvw[k, 1] * single)
        iu, iv = _cell(1, u, nx), _cell(1, v, ny)
        found[k] = density[iv, iu] if 0 < iu < nx and 0 < iv < ny else 0.0


@njit(inline="always")
def _cell(sign: int, distance: np.float32, size: int) -> int:
    """The cell that begins at a whole number, computed in single precision as in CASA; the middle one is size // 2."""
    return int(np.floor(np.float32(sign) * distance + np.float32(size // 2)))


def device_weighting(parameters: Parameters) -> str:
    """Return the weighting that devices apply."""
    return "natural" if on_host(parameters) else parameters.weighting


def expected_weighting(parameters: Parameters) -> str:
    """Return the most similar weighting of a device, for a forecast."""
    nearest = {"briggsabs": "natural", "briggsbwtaper": "briggs", "superuniform": "uniform", "radial": "natural"}
    return nearest.get(parameters.weighting, parameters.weighting)
