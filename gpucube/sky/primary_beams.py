"""Primary beams: the sensitivity of an antenna as a function of the angle from the direction that it points at.

In: a telescope, the diameter of its dishes, and a frequency. Out: the power pattern, 1 at the pointing, as a function of the
angle from it. Every pattern is round, applies to the mean of both hands, and ends with the main lobe: beyond its first
minimum it is 0. Angles are in arcmin times GHz (`x` below). In this unit a dish has the same pattern at all frequencies.

Patterns and their sources:

* ALMA: Airy discs of 10.7 m (of the 12 m dishes) and 6.25 m (7 m), both blocked by 0.75 m, as in CASA (class PBMath1DAiry;
  numbers of Hunter & Brogan).
* EVLA: polynomials of Perley 2016, see `gpucube.sky.evla_beams`, the nearest in frequency.
* VLA, before 2010: a dish of 25 m, as in tclean.
* MeerKAT: cosine-tapered field of Mauch et al. 2020 (ApJ 888, 61), eq. 3 and 4: 57.5 arcmin wide at 1.5 GHz.
* GMRT: polynomials of NCRA, "Upgraded GMRT: (Updated) primary-beam shape parameters", 9 September 2022.
* ATCA: inverse polynomials of Wieringa & Kesteven 1992 (ATNF memo AT/39.3/024) and, at 1.3 to 2.9 GHz, of the CABB
  receivers, as in CASA (class PBMath), between whose frequencies the voltage is interpolated.
* ASKAP: Gaussian of full width 1.09 wavelengths / 12 m (McConnell et al. 2020, PASA 37, e048), about the direction that the
  beam of its phased-array feed was formed for.
* WSRT: cos^6(68 x / 60 degrees), e.g. Popping & Braun 2008 (A&A 479, 903).
* SMA: prolate spheroid, 52.3 arcsec wide at 224 GHz, as in CASA (numbers of C. Brogan).
* a dish of given diameter: CASA's pattern (PBMath::initByDiameter), 1074 arcmin / (diameter in m x frequency in GHz) wide.

Differences from tclean: it does not know MeerKAT and ASKAP, and uses the pattern by diameter. It takes GMRT to be such a dish
of 45 m, a fifth too narrow, and WSRT to be cos^8, a tenth too narrow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpucube.constants import ARCSEC, LIGHT_SPEED
from gpucube.sky.directions import Direction, uvw_rotation
from gpucube.sky.evla_beams import EVLA_BEAMS
from gpucube.sky.geometry import ImageGeometry, one_minus_n

ARCMIN = 60 * ARCSEC
PIXELS_AT_ONCE = 2**18
"""Pixels of a plane that are computed together, so that no whole plane in float64 is needed."""

Pattern = Callable[[np.ndarray], np.ndarray]
"""Power at angles x, arcmin GHz."""


@dataclass(frozen=True, kw_only=True)
class PrimaryBeam:
    """The primary beam of a kind of antenna: one pattern for each of some frequencies."""

    name: str  # for headers and messages
    patterns: tuple[Pattern, ...]
    frequencies: tuple[float, ...] = (1e9,)  # that the patterns hold for, Hz, ascending
    interpolated: bool = (
        False  # whether the voltage is interpolated between the patterns; otherwise the nearest one is taken
    )

    def power(self, angle: np.ndarray, frequency: float) -> np.ndarray:
        """Return the response to sources at angles (rad) from the pointing, at a frequency (Hz): 1 at the pointing."""
        x = angle * (frequency / 1e9 / ARCMIN)
        if not self.interpolated:
            nearest = np.argmin(
                np.abs(np.subtract(self.frequencies, frequency))[::-1]
            )  # the higher one of two, as in CASA
            return self._pattern(len(self.frequencies) - 1 - int(nearest), x)
        place = float(np.interp(frequency, self.frequencies, np.arange(len(self.frequencies))))
        low = min(int(place), len(self.frequencies) - 2)
        voltages = [np.sqrt(self._pattern(number, x)) for number in (low, low + 1)]
        power: np.ndarray = (voltages[0] + (place - low) * (voltages[1] - voltages[0])) ** 2
        return power

    def _pattern(self, number: int, x: np.ndarray) -> np.ndarray:
        """The pattern within its main lobe, and 0 beyond."""
        pattern = self.patterns[number]
        return np.where(x < _end_of_main_lobe(pattern), np.maximum(pattern(x), 0.0), 0.0)

    def width(self, frequency: float) -> float:
        """Return the full width at half maximum, radians."""
        angle = np.linspace(0.0, 1.0, 20001) * (400.0 / (frequency / 1e9)) * ARCMIN
        return 2.0 * float(angle[np.argmax(self.power(angle, frequency) < 0.5)])


@functools.cache
def _end_of_main_lobe(pattern: Pattern) -> float:
    """Where the pattern has its first minimum or zero, arcmin GHz."""
    x = np.linspace(0.0, 400.0, 4001)
    power = pattern(x)
    over = (power[1:] <= 0) | (power[1:] > power[:-1])
    return float(x[1:][over][0]) if over.any() else float(x[-1])


# Patterns


@dataclass(frozen=True)
class Airy:
    """An evenly illuminated disc with a round central blockage, as in CASA; diameters in metres.

    CASA (class PBMath1DAiry) takes the ratio of the diameters upside down in the field of the blockage. Nearly all of that
    field falls away within the first pixels, and the power around it is higher than of an aperture with that blockage: by 1 %
    for ALMA's 12 m dishes and 3 % for those of 7 m. It is kept, because every ALMA image has been corrected with it.
    """

    diameter: float
    blockage: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import j1

        argument = math.pi * self.diameter * ARCMIN * 1e9 / LIGHT_SPEED * np.maximum(x, 1e-6)
        ratio = self.diameter / self.blockage
        field = ratio**2 * 2 * j1(argument) / argument - 2 * j1(ratio * argument) / (ratio * argument)
        power: np.ndarray = (field / (ratio**2 - 1)) ** 2
        return power


@dataclass(frozen=True)
class EvenPolynomial:
    """1 + a x^2 + b x^4 + ..., or its inverse."""

    coefficients: tuple[float, ...]  # a, b, ...
    inverse: bool = False

    def __call__(self, x: np.ndarray) -> np.ndarray:
        value = np.polyval((*self.coefficients[::-1], 1.0), x * x)
        power: np.ndarray = 1.0 / value if self.inverse else value
        return power


@dataclass(frozen=True)
class Tabulated:
    """Values at even steps from the centre to a radius, joined by cosines as in CASA (class PBMath1DNumeric)."""

    radius: float  # arcmin GHz
    values: tuple[float, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        from scipy.fft import dct

        order = len(self.values) - 1
        terms = dct(self.values, type=1) / order
        terms[0] /= 2  # the last one is not halved, as in CASA
        terms /= terms.sum()
        phase = np.pi / self.radius * np.minimum(x, self.radius)
        power: np.ndarray = np.polynomial.chebyshev.chebval(np.cos(phase), terms)  # cos(n phase) is T_n(cos phase)
        return power


@dataclass(frozen=True)
class CosineTaper:
    """The field of an aperture with cosine illumination, [cos(pi r) / (1 - 4 r^2)]^2 with r = 1.189 x / width."""

    width: float  # full width at half maximum, arcmin GHz

    def __call__(self, x: np.ndarray) -> np.ndarray:
        r = 1.189 / self.width * x
        r = np.where(np.abs(r - 0.5) < 1e-6, 0.5 + 1e-6, r)  # the limit there is (pi / 4)^2
        power: np.ndarray = (np.cos(np.pi * r) / (1 - 4 * r * r)) ** 2
        return power


@dataclass(frozen=True)
class CosinePower:
    """cos^power(scale x)."""

    scale: float  # rad / (arcmin GHz)
    power: int

    def __call__(self, x: np.ndarray) -> np.ndarray:
        value: np.ndarray = np.cos(np.minimum(self.scale * x, np.pi / 2)) ** self.power
        return value


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian of a full width at half maximum."""

    width: float  # arcmin GHz

    def __call__(self, x: np.ndarray) -> np.ndarray:
        value: np.ndarray = np.exp(-4 * math.log(2) * (x / self.width) ** 2)
        return value


# Telescopes

_BY_DIAMETER = (
    *(1.0, 0.997634, 0.972516, 0.913722, 0.837871, 0.750356, 0.651549, 0.549903, 0.449083, 0.352819, 0.266025),
    *(0.190533, 0.128047, 0.0794855, 0.0438381, 0.0201386, 0.0065117, 0.000690041, 8.87288e-05),
)
"""CASA's pattern of a dish of 25 m, out to 51.6 arcmin GHz."""

_ATCA_16CM = (
    (1.06274e-03, 1.32342e-06, -8.72013e-10, 1.08020e-12),
    (9.80817e-04, 1.17898e-06, -7.83160e-10, 8.66199e-13),
    (9.53553e-04, 9.33233e-07, -4.26759e-10, 5.63667e-13),
    (9.78268e-04, 6.63231e-07, 4.18235e-11, 2.62297e-13),
    (1.02424e-03, 6.12726e-07, 2.25733e-10, 2.04834e-13),
    (1.05818e-03, 5.37473e-07, 4.22386e-10, 1.17530e-13),
    (1.10650e-03, 5.11574e-07, 5.89732e-10, 8.13628e-14),
)
_ATCA_6CM = ((1.08e-3, 1.31e-6, -1.17e-9, 1.07e-12), (1.04e-3, 8.36e-7, -4.68e-10, 5.50e-13))
_ATCA_MM = (9.832e-4, 1.081e-6, -4.676e-10, 6.650e-13)
_ATCA_3MM = (1.271e-3, -3.040e-7, 1.410e-9)
_GMRT = (  # bands 2, 3, 4 and 5
    (-3.089e-3, 39.314e-7, -23.011e-10, 5.037e-13),
    (-2.939e-3, 33.312e-7, -16.659e-10, 3.066e-13),
    (-3.263e-3, 42.618e-7, -25.580e-10, 5.823e-13),
    (-2.614e-3, 27.594e-7, -13.268e-10, 2.395e-13),
)
_SPHEROID = (
    *(1.0, 0.99462, 0.97862, 0.95246, 0.91689, 0.8729, 0.82169, 0.76463, 0.70319, 0.63889, 0.57325, 0.5077, 0.44359),
    *(0.38211, 0.32424, 0.2708, 0.22235, 0.17925, 0.14165, 0.10951, 0.082623, 0.060648, 0.043134, 0.029562, 0.019376),
    *(0.012011, 0.0069179, 0.0035903, 0.0015748, 0.00048392, 0.0),
)
"""Prolate spheroidal function of order 1 with parameter 3 pi, times (1 - r^2)^(1/2), at even steps of r from 0 to 1."""


def of_dish(diameter: float) -> PrimaryBeam:
    """Return the beam of a dish of which only the diameter (m) is known."""
    pattern = Tabulated(1.1998662 * 43 * 25 / diameter, _BY_DIAMETER)
    return PrimaryBeam(name=f"dish of {diameter:g} m", patterns=(pattern,))


def _evla() -> PrimaryBeam:
    return PrimaryBeam(
        name="EVLA (Perley 2016)",
        patterns=tuple(
            EvenPolynomial(tuple(np.multiply(row[1:], (1e-3, 1e-7, 1e-10, 1e-14)[: len(row) - 1])))
            for row in EVLA_BEAMS
        ),
        frequencies=tuple(1e6 * row[0] for row in EVLA_BEAMS),
    )


def _atca(frequency: float) -> PrimaryBeam:
    ghz = frequency / 1e9
    bands: tuple[Sequence[tuple[float, ...]], Sequence[float]]
    if ghz < 3.5:
        name, bands = "16 cm", (_ATCA_16CM, [1.332 + 0.256 * number for number in range(7)])
    elif ghz < 13:
        name, bands = "4 cm", (_ATCA_6CM, [4.8, 8.64])
    else:
        name, bands = ("15 mm and 7 mm", ([_ATCA_MM], [1])) if ghz < 65 else ("3 mm", ([_ATCA_3MM], [1]))
    return PrimaryBeam(
        name=f"ATCA, {name}",
        patterns=tuple(EvenPolynomial(row, inverse=True) for row in bands[0]),
        frequencies=tuple(1e9 * f for f in bands[1]),
        interpolated=len(bands[0]) > 1,
    )


def of_telescope(telescope: str, diameter: float, frequency: float) -> PrimaryBeam | None:
    """Return the beam of a telescope.

    Parameters
    ----------
    telescope : str
        Its name in the MeasurementSet, in upper or lower case.
    diameter : float
        Of its dishes, m. It tells ALMA's two kinds apart.
    frequency : float
        Hz; the band, where bands have models of their own.

    Returns
    -------
    PrimaryBeam or None
        None if there is no model.
    """

    def one(name: str, pattern: Pattern) -> PrimaryBeam:
        return PrimaryBeam(name=name, patterns=(pattern,))

    match telescope.strip().upper():
        case "ALMA" | "ACA" if 0 < diameter < 12:
            return one("ALMA, 7 m (Airy disc of 6.25 m blocked by 0.75 m)", Airy(6.25, 0.75))
        case "ALMA" | "ACA" if diameter >= 12:
            return one("ALMA, 12 m (Airy disc of 10.7 m blocked by 0.75 m)", Airy(10.7, 0.75))
        case "EVLA" | "JVLA":
            return _evla()
        case "VLA":
            return of_dish(25.0)
        case "MEERKAT":
            return one("MeerKAT (Mauch et al. 2020)", CosineTaper(57.5 * 1.5))
        case "GMRT" | "UGMRT":
            bands = (0.15e9, 0.35e9, 0.7e9, 1.2e9)  # half-way between neighbours, at 250, 525 and 950 MHz, bands change
            return PrimaryBeam(
                name="GMRT (NCRA 2022)", patterns=tuple(EvenPolynomial(row) for row in _GMRT), frequencies=bands
            )
        case "ATCA":
            return _atca(frequency)
        case "ASKAP":
            return one("ASKAP (Gaussian)", Gaussian(1.09 * LIGHT_SPEED / 12 / 1e9 / ARCMIN))
        case "WSRT":
            return one("WSRT (cos^6)", CosinePower(math.radians(68 / 60), 6))
        case "SMA":
            return one("SMA", Tabulated(52.3 / 2 * 3 / 1.1117 / 60 * 224, _SPHEROID))
    return None


# On the sky


@dataclass(frozen=True, kw_only=True)
class BeamOnSky:
    """A primary beam that points somewhere in an image."""

    beam: PrimaryBeam
    pointing: Direction
    geometry: ImageGeometry
    limit: float  # response below which it is blank

    def plane(self, frequency: float) -> np.ndarray:
        """Return the response at a frequency (Hz), float32 (ny, nx), NaN where it is not above the limit."""
        g = self.geometry
        rotation = uvw_rotation(self.pointing, g.centre)
        l0, m0, n0 = (0.0, 0.0, 1.0) if rotation is None else rotation[:, 2]
        l = (g.nx // 2 - np.arange(g.nx)) * g.cell_x  # to the east
        m = (np.arange(g.ny) - g.ny // 2) * g.cell_y
        plane = np.empty(g.shape, np.float32)
        step = max(1, PIXELS_AT_ONCE // g.nx)
        for first in range(0, g.ny, step):
            rows = slice(first, first + step)
            r2 = np.add.outer(m[rows] ** 2, l**2)
            n = 1 - one_minus_n(np.minimum(r2, 1.0))
            chord2 = np.add.outer((m[rows] - m0) ** 2, (l - l0) ** 2) + (n - n0) ** 2
            power = self.beam.power(2 * np.arcsin(np.minimum(np.sqrt(chord2) / 2, 1.0)), frequency)
            plane[rows] = np.where((power > self.limit) & (r2 < 1), power, np.nan)
        return plane
