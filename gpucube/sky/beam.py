"""Elliptical Gaussian beams (pixels, spectrum, solid angle), the beam common to several, and uv tapers.

In: `Beam`s fitted to a PSF (`gpucube.devices.psf_fit`), given by the user or read from a file. Out: what the devices
need to restore an image, the kernel that convolves one beam to another, and the beam that contains all others. Position
angles run from north (v) through east (u), in radians unless a name says otherwise.

Spectrum: the Fourier transform of a Gaussian is a Gaussian (Bracewell 2000, "The Fourier transform", ch. 13).
Deconvolution: difference of the second moments, the matrix form of Wild 1970 (Aust. J. Phys. 23, 113).
Common beam: package `radio_beam` (Khachiyan's minimum-volume ellipse around all beams).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gpucube.constants import ARCSEC
from gpucube.errors import GpucubeError
from gpucube.sky.geometry import ImageGeometry

FOUR_LN2 = 4 * math.log(2)
"""A Gaussian of full width w at half maximum is exp(-FOUR_LN2 (x / w)^2)."""

EXPONENT_END = 16.0
"""A sampled Gaussian ends at this exponent: exp(-16) = 1e-7 of the peak, below what float32 resolves beside it."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """An elliptical Gaussian beam: full widths at half maximum and the major axis's position angle, radians."""

    bmaj: float
    bmin: float
    bpa: float

    @property
    def solid_angle(self) -> float:
        """Integral of the beam, steradians. Divided by a pixel's solid angle it turns a sum in Jy/beam into Jy."""
        return math.pi / FOUR_LN2 * self.bmaj * self.bmin

    def area(self, geometry: ImageGeometry) -> float:
        """Integral of the beam in pixels."""
        return self.solid_angle / (geometry.cell_x * geometry.cell_y)

    def quadratic_form(self, geometry: ImageGeometry) -> tuple[float, float, float]:
        """(a, b, c) of the beam exp(-(a x^2 + 2 b x y + c y^2)) in pixels, x growing to the west and y to the north."""
        dx, dy = geometry.cell_x, geometry.cell_y
        ee, en, nn = rotated_form(FOUR_LN2 / self.bmaj**2, FOUR_LN2 / self.bmin**2, self.bpa)
        return ee * dx**2, -en * dx * dy, nn * dy**2

    def sampled(self, geometry: ImageGeometry) -> np.ndarray:
        """The beam on the pixels around its peak (see `sampled_gaussian`).

        It extends to the exponent `EXPONENT_END`, and at most the size of the image to either side.
        """
        return sampled_gaussian(*self.sampling(geometry))

    def sampling(self, geometry: ImageGeometry) -> tuple[tuple[float, float, float], int, int]:
        """Find what `sampled_gaussian` takes: the quadratic form, and the extent along y and x in pixels."""
        a, b, c = form = self.quadratic_form(geometry)
        determinant = a * c - b * b
        half_y = min(math.ceil(math.sqrt(EXPONENT_END * a / determinant)), geometry.ny)
        half_x = min(math.ceil(math.sqrt(EXPONENT_END * c / determinant)), geometry.nx)
        return form, half_y, half_x

    def spectrum(self, geometry: ImageGeometry) -> np.ndarray:
        """Compute the spectrum of the beam, scaled to unit sum, on twice the image. An axis of the beam may have length 0.

        It is float32, (2 ny, nx + 1), and contains the factor 1 / size of the FFT: multiply a real FFT by it and transform back
        without a further factor.
        """
        ny, nx = geometry.shape
        ky, kx = np.fft.fftfreq(2 * ny)[:, None] / geometry.cell_y, np.fft.rfftfreq(2 * nx) / geometry.cell_x
        sin, cos = math.sin(self.bpa), math.cos(self.bpa)
        # in place, because each array of float64 is as large as four images
        along, across = ky * cos - kx * sin, ky * sin + kx * cos
        along *= self.bmaj
        across *= self.bmin
        along **= 2
        across **= 2
        along += across
        along *= -(math.pi**2 / FOUR_LN2)
        np.exp(along, out=along)
        along /= 4 * ny * nx
        spectrum: np.ndarray = along.astype(np.float32)
        return spectrum

    def moments(self) -> np.ndarray:
        """Second moments in (east, north), in units of FWHM squared, shape (2, 2)."""
        ee, en, nn = rotated_form(self.bmaj**2, self.bmin**2, self.bpa)
        return np.array([[ee, en], [en, nn]])

    def deconvolve(self, beam: Beam) -> Beam | None:
        """Find the kernel that convolves `beam` to this beam. None if this beam does not contain `beam`.

        The flux scale is left out: it is the ratio of the solid angles. An axis of zero length means no smoothing along
        it. An excess of `beam` below 1e-8 of the moments counts as rounding.

        >>> Beam(bmaj=5.0, bmin=5.0, bpa=0.0).deconvolve(Beam(bmaj=4.0, bmin=4.0, bpa=0.0))
        Beam(bmaj=3.0, bmin=3.0, bpa=0.0)
        """
        moments, axes = np.linalg.eigh(self.moments() - beam.moments())
        rounding = 1e-8 * self.bmaj**2
        if moments[0] < -rounding:
            return None
        minor, major = (0.0 if moment <= rounding else math.sqrt(moment) for moment in moments)
        angle = axis_position_angle(axes[0, 1], axes[1, 1]) if major > minor else 0.0
        return Beam(bmaj=major, bmin=minor, bpa=angle)

    def to_record(self) -> dict[str, float]:
        """Return the beam as it is written to `summary.json`: ``bmaj_arcsec``, ``bmin_arcsec``, ``bpa_deg``."""
        bmaj, bmin, bpa = self.bmaj / ARCSEC, self.bmin / ARCSEC, math.degrees(self.bpa)
        return {"bmaj_arcsec": bmaj, "bmin_arcsec": bmin, "bpa_deg": bpa}

    @classmethod
    def from_record(cls, record: Mapping[str, float]) -> Beam:
        """The beam of a record made by `to_record`."""
        bmaj, bmin = record["bmaj_arcsec"] * ARCSEC, record["bmin_arcsec"] * ARCSEC
        return cls(bmaj=bmaj, bmin=bmin, bpa=math.radians(record["bpa_deg"]))


RestoringBeam = Literal["channel", "common"] | Beam
"""What an image is restored with: each channel's own fitted beam, the smallest beam that holds all of them, or a given one."""


def axis_position_angle(east: float, north: float) -> float:
    """Normalise the position angle of an axis to (-pi/2, pi/2]: an axis has no direction."""
    angle = math.atan2(east, north)
    if angle <= -math.pi / 2:
        return angle + math.pi
    return angle - math.pi if angle > math.pi / 2 else angle


def common_beam(beams: Sequence[Beam]) -> Beam:
    """Find the smallest beam to which all given beams can be convolved. GpucubeError if there are none.

    It is one of the given beams if that contains all others; otherwise `radio_beam.Beams.common_beam`, whose ellipse is
    within about 0.1 % of the smallest.
    """
    distinct = sorted(set(beams), key=lambda beam: (-beam.bmaj * beam.bmin, beam.bmaj, beam.bpa))
    if not distinct:
        raise GpucubeError("a common beam needs at least one channel with data: no channel has a beam")
    if _contains_all(distinct[0], distinct):
        return distinct[0]
    hull = _outermost(distinct)
    for tolerance, epsilon in ((1e-4, 5e-4), (1e-5, 5e-4), (1e-5, 2e-3), (1e-4, 1e-2)):
        candidate = _radio_beam_common(hull, tolerance, epsilon)
        if candidate is not None and _contains_all(candidate, distinct):
            return candidate
    widest = max(beam.bmaj for beam in distinct)
    return Beam(bmaj=widest, bmin=widest, bpa=0.0)


def _contains_all(candidate: Beam, beams: Sequence[Beam]) -> bool:
    return all(candidate.deconvolve(beam) is not None for beam in beams)


def _outermost(beams: Sequence[Beam]) -> list[Beam]:
    """Select the beams that extend furthest in some direction.

    An ellipse contains another exactly when its extent (support function) is larger in every direction. So only the
    beams that extend furthest in one of many directions matter: a handful of them for ten thousand channels.
    """
    east_east, north_north, east_north = np.array([beam.moments()[[0, 1, 0], [0, 1, 1]] for beam in beams]).T
    leading = set()
    for angle in np.linspace(0, math.pi, 180, endpoint=False):
        sin, cos = math.sin(angle), math.cos(angle)
        extent = east_east * sin**2 + north_north * cos**2 + 2 * east_north * sin * cos
        leading.add(int(np.argmax(extent)))
    return [beams[index] for index in sorted(leading)]


def _radio_beam_common(beams: Sequence[Beam], tolerance: float, epsilon: float) -> Beam | None:
    """Find the common beam with `radio_beam`; None if it does not converge."""
    import radio_beam
    from astropy import units
    from radio_beam.utils import BeamError

    if len(beams) == 1:
        return beams[0]
    # scaled to arcseconds of order one because the package's tolerances are absolute
    scale = max(beam.bmaj for beam in beams)
    table = radio_beam.Beams(
        major=[beam.bmaj / scale for beam in beams] * units.arcsec,
        minor=[beam.bmin / scale for beam in beams] * units.arcsec,
        pa=[beam.bpa for beam in beams] * units.rad,
    )
    try:
        found = table.common_beam(tolerance=tolerance, epsilon=epsilon) if len(beams) > 2 else table.common_beam()
    except (BeamError, ValueError, np.linalg.LinAlgError):
        return None
    angle = found.pa.to_value(units.rad)
    return Beam(
        bmaj=float(found.major.to_value(units.arcsec)) * scale,
        bmin=float(found.minor.to_value(units.arcsec)) * scale,
        bpa=axis_position_angle(math.sin(angle), math.cos(angle)),
    )


def rotated_form(along: float, across: float, angle: float) -> tuple[float, float, float]:
    """Turn the quadratic form along s^2 + across t^2, with s along the position angle and t across it.

    (ee, en, nn) are the elements of the symmetric matrix in (east, north).
    """
    sin, cos = math.sin(angle), math.cos(angle)
    return along * sin**2 + across * cos**2, (along - across) * sin * cos, along * cos**2 + across * sin**2


def sampled_gaussian(form: Sequence[float], half_y: int, half_x: int) -> np.ndarray:
    """exp(-(a x^2 + 2 b x y + c y^2)) in pixels for the form (a, b, c): float32, (2 half_y + 1, 2 half_x + 1), peak 1."""
    a, b, c = form
    y, x = np.arange(-half_y, half_y + 1)[:, None], np.arange(-half_x, half_x + 1)
    pixels: np.ndarray = np.exp(-(a * x * x + 2.0 * b * x * y + c * y * y)).astype(np.float32)
    return pixels


def taper_form(taper: tuple[float, ...]) -> np.ndarray:
    """(t0, t1, t2) of the uv taper exp(-(t0 u^2 + t1 u v + t2 v^2)), with u and v in wavelengths.

    `taper` holds the half widths at half maximum along and across the position angle, in wavelengths, and that angle in
    degrees; it is empty for no taper.
    """
    if not taper:
        return np.zeros(3)
    along, across, angle = taper
    uu, uv, vv = rotated_form(math.log(2) / along**2, math.log(2) / across**2, math.radians(angle))
    return np.array([uu, 2.0 * uv, vv])
