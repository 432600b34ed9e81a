"""Predict beam, noise, w term and a suitable cell of a cube before the visibilities are read.

In: the selection. Out: a `Forecast`, from uvw and weights of the rows, as if no sample were flagged. Beam and noise are those
of the middle channel. Its imaging weights are the real ones; the PSF is made on a grid of its own around the main lobe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.data.ingest import to_phase_centre, usable_uvw
from gpucube.data.measurementset import reading
from gpucube.data.selection import Selection, Source
from gpucube.data.stokes import Combination, Rule
from gpucube.data.store import Samples
from gpucube.data.transpose import LARGEST
from gpucube.devices.base import ImagingSettings
from gpucube.devices.cpu.device import CpuDevice, imaging_weights
from gpucube.errors import GpucubeError
from gpucube.sky.beam import Beam
from gpucube.sky.directions import Direction
from gpucube.sky.geometry import ImageGeometry

ROWS_AT_ONCE = 2**18
MOST_SAMPLES = 2**19
"""More samples say no more about beam and noise; of more rows every second, third ... one is taken."""

MOST_CELLS = 4096
"""Size of the largest uv plane on which the density of samples is found; it takes 70 MB."""

LOBE_PIXELS = 64
"""Size of the grid around the main lobe."""


OUTLYING = 3.0
"""Baselines that are this many times longer than 99.5 % of all others are left out of the forecast."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What UVW and WEIGHT predict before the visibilities are read."""

    uv_max: float  # longest projected baseline, wavelengths at the highest frequency
    w_max: float  # largest |w|, likewise
    on_grid: bool  # whether every baseline is short enough for the cell at every frequency
    beam: Beam | None  # with a cell that is fine enough; None without any weight
    noise: float | None  # Jy/beam, if the weights are 1 / sigma^2; None without any weight

    @property
    def recommended_cell(self) -> float | None:
        """A quarter of the beam's minor axis, or less if the longest baseline needs it; radians, rounded down to two digits."""
        if self.beam is None:
            return None
        return _rounded_down(min(self.beam.bmin / 4, 0.5 / self.uv_max) / ARCSEC, 2) * ARCSEC


def forecast(selection: Selection, settings: ImagingSettings) -> Forecast:
    """Read uvw and weights of all rows.

    Raises
    ------
    GpucubeError
        All baselines are too long for the cell in every channel.
    """
    geometry, middle = settings.geometry, selection.axis.nchan // 2
    uv_max = w_max = 0.0
    least, most = math.inf, 0.0  # of max(|u| cell_x, |v| cell_y) over rows and channels; the grid ends at 0.5
    rows = sum(int(s.rows.keep.sum()) for s in selection.sources if middle in s.output)
    step = max(1, -(-rows // MOST_SAMPLES))
    parts: list[tuple[np.ndarray, np.ndarray]] = []  # uvw in wavelengths, (n, 3), and weights, (n,)
    for source in selection.sources:
        of_slot = source.frequency / LIGHT_SPEED
        low, high = of_slot.min(), of_slot.max()
        slot = np.flatnonzero(source.output == middle)
        for uvw, weight in _blocks(source):
            uv_max = max(uv_max, high * float(np.hypot(uvw[:, 0], uvw[:, 1]).max()))
            w_max = max(w_max, high * float(np.abs(uvw[:, 2]).max()))
            reach = (np.abs(uvw[:, :2]) * (geometry.cell_x, geometry.cell_y)).max(axis=1)
            least, most = min(least, low * float(reach.min())), max(most, high * float(reach.max()))
            if len(slot):
                members = int(source.members[slot[0]])
                parts.append((uvw[::step] * of_slot[slot[0]], weight[::step] * (step * members)))
    if 0.5 <= least < math.inf:
        raise GpucubeError(
            "no data are left: all baselines are too long for this `cell`: "
            f"choose a `cell` of at most {largest_cell(uv_max)}"
        )
    beam = noise = None
    if parts:
        uvw, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
        # as if the frequency were such that a wavelength is a metre
        samples = Samples(
            uvw=uvw, frequency=LIGHT_SPEED, vis=np.zeros(len(uvw), np.complex64), weight=weight.astype(np.float32)
        )
        weights, total, _ = imaging_weights(samples, _around(settings, uv_max))
        if total > 0:
            used = weights > 0
            noise = math.sqrt(float((weights[used].astype(float) ** 2 / samples.weight[used]).sum())) / total
            beam = _beam(replace(samples, weight=weights)) if uv_max else None
    return Forecast(uv_max=uv_max, w_max=w_max, on_grid=most < 0.5, beam=beam, noise=noise)


def _blocks(source: Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Usable uvw about the phase centre of the cube, metres, (n, 3), and the weights of the first Stokes parameter, (n,)."""
    numbers, times = source.rows.number[source.rows.keep], source.rows.time[source.rows.keep]
    with reading(source.path) as t:
        for first in range(0, len(numbers), ROWS_AT_ONCE):
            span = slice(first, first + ROWS_AT_ONCE)
            cells = t.selectrows(numbers[span])
            try:
                uvw, weight = cells.getcol("UVW"), cells.getcol("WEIGHT")
            except RuntimeError:
                continue  # reported when the rows are read, and so are other shapes
            if uvw.shape[1:] != (3,) or weight.shape[1:] != source.input_shape[1:]:
                continue
            uvw, usable = usable_uvw(uvw)
            length = np.linalg.norm(uvw, axis=1)
            # FLAG has not been read yet, so this may be garbage of a flagged row
            usable &= length <= OUTLYING * np.quantile(length, 0.995)
            uvw, _ = to_phase_centre(uvw, source.rotation_at(times[span]))
            if usable.any():
                yield uvw[usable], _combined(weight[usable], source.combinations[0])


def _combined(weight: np.ndarray, combination: Combination) -> np.ndarray:
    """Weights (n, ncorr) of the correlations -> those of a Stokes parameter, (n,); 0 where there is none."""
    weight = np.where((weight > 0) & (weight < LARGEST), weight, 0.0).astype(float)
    first: np.ndarray = weight[:, combination.hands[0]]
    second = weight[:, combination.hands[1]]
    if combination.rule == Rule.BOTH:
        both = (first > 0) & (second > 0)
        first = np.divide(4 * first * second, first + second, out=np.zeros(len(first)), where=both)
    elif combination.rule == Rule.ANY:
        first = first + second
    return first * (combination.rule != Rule.NONE)


def _around(settings: ImagingSettings, uv_max: float) -> ImagingSettings:
    """The same field with the largest pixels that keep every sample; a smaller one if that would need too many."""
    g = settings.geometry
    nx, cell_x = _fewest(g.nx * g.cell_x, uv_max)
    ny, cell_y = _fewest(g.ny * g.cell_y, uv_max)
    return replace(settings, geometry=replace(g, nx=nx, ny=ny, cell_x=cell_x, cell_y=cell_y))


def _fewest(field: float, uv_max: float) -> tuple[int, float]:
    """Return the number and size of the largest pixels whose uv plane still reaches beyond `uv_max`."""
    number = 2 * math.ceil(1.01 * uv_max * field + 1)
    if number <= MOST_CELLS:
        return number, field / number  # the field, and with it the uv cell, stays as it is
    return MOST_CELLS, 0.5 / (1.01 * uv_max)


def _beam(samples: Samples) -> Beam:
    """Fit the main lobe of the PSF of weighted samples."""
    rms = math.sqrt(float(np.average((samples.uvw[:, :2] ** 2).sum(axis=1) / 2, weights=samples.weight)))
    cell = math.sqrt(2 * math.log(2)) / math.pi / rms / 6  # a Gaussian with this rms has a beam of six pixels
    lobe = ImageGeometry(nx=LOBE_PIXELS, ny=LOBE_PIXELS, cell_x=cell, cell_y=cell, centre=Direction(ra=0.0, dec=0.0))
    device = CpuDevice(ImagingSettings(geometry=lobe))
    planes = device.begin([samples], [None])
    device.make_psf(planes, wide=False)
    return device.beams(planes)[0][0]


def largest_cell(uv_max: float) -> str:
    """Return the cell, as text, with which a baseline of `uv_max` wavelengths is on the grid."""
    # rounded down, because the very edge is off the grid
    return f"{_rounded_down(0.5 / uv_max / ARCSEC, 3):.3g} arcsec"


def _rounded_down(number: float, digits: int) -> float:
    """Return the next lower number with `digits` digits."""
    unit = 10.0 ** (math.floor(math.log10(number)) - digits + 1)
    return (math.ceil(number / unit) - 1) * unit
