"""Gaussian beams: fitted to a PSF, made common to all channels, taken out of one another.

In: the PSF of a channel (peak 1 at pixel (ny//2, nx//2)), or fitted `Beam`s. Out: `Beam` (radians, position angle from
north through east), the largest sidelobe, beam areas, and the plain record of a beam that `summary.json` holds.

Fit: least squares on the pixels of the main lobe above 0.35, peak and centre held fixed, as CASA's FitGaussianPSF does;
Gauss-Newton with Levenberg damping on the quadratic form, which has no angle and so no degenerate round case.
Common beam: package `radio_beam` (Khachiyan's minimum-volume ellipse around all beams). Deconvolution: difference of
the second moments, the matrix form of Wild 1970 (Aust. J. Phys. 23, 113).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np

from gpucube.errors import GpucubeError
from gpucube.geometry import Beam

LOBE_CUTOFF = 0.35
"""Pixels below this level take no part in the fit (tclean's psfcutoff)."""

FIRST_WINDOW = 16
"""Half the width in pixels of the first window in which the main lobe is sought."""

SIDELOBE_SEMI_AXIS = 1.25
"""Sidelobes begin outside an ellipse whose semi-axes are this many FWHM."""

_ARCSEC = math.pi / 180 / 3600
_FOUR_LN2 = 4 * math.log(2)


def fit_beam(psf: np.ndarray, cell_x: float, cell_y: float) -> Beam:
    """Fit an elliptical Gaussian to the main lobe of a PSF.

    Fitted are the pixels above `LOBE_CUTOFF` that hang together with the peak, and its eight neighbours whatever their
    level, so that a beam little wider than a pixel is still determined.

    Parameters
    ----------
    psf : numpy.ndarray
        (ny, nx), peak 1 at pixel (ny//2, nx//2).
    cell_x, cell_y : float
        Pixel size, radians.

    Returns
    -------
    Beam
        Always finite, with ``bmaj >= bmin`` and ``-pi/2 < bpa <= pi/2``. No axis is shorter than the smaller side of a
        pixel (a Gaussian narrower than that means nothing on this grid) nor longer than the longer side of the image
        (the lobe of a single baseline is a ridge without end).
    """
    ny, nx = psf.shape
    # lengths in units of `unit` keep the normal equations well scaled, and a rectangular pixel needs no special case
    unit = math.sqrt(cell_x * cell_y)
    shortest = min(cell_x, cell_y) / unit
    longest = max(nx * cell_x, ny * cell_y) / unit
    rows, columns, level = _main_lobe(psf)
    east = (nx // 2 - columns) * (cell_x / unit)
    north = (rows - ny // 2) * (cell_y / unit)
    quadratic = np.stack([east * east, 2 * east * north, north * north])
    matrix = _fit_quadratic_form(quadratic, level, longest)
    narrow, wide = _FOUR_LN2 / shortest**2, _FOUR_LN2 / longest**2
    curvature, axes = np.linalg.eigh([[matrix[0], matrix[1]], [matrix[1], matrix[2]]])
    bmaj, bmin = (float(axis) * unit for axis in np.sqrt(_FOUR_LN2 / np.clip(curvature, wide, narrow)))
    return Beam(bmaj, bmin, _position_angle(axes[0, 0], axes[1, 0]) if bmaj > bmin else 0.0)


def _main_lobe(psf: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns (in the whole image) and levels of the pixels that take part in the fit."""
    ny, nx = psf.shape
    half = FIRST_WINDOW
    while True:
        y0, y1 = max(ny // 2 - half, 0), min(ny // 2 + half + 1, ny)
        x0, x1 = max(nx // 2 - half, 0), min(nx // 2 + half + 1, nx)
        window = np.nan_to_num(psf[y0:y1, x0:x1].astype(np.float64), posinf=0.0, neginf=0.0)
        above = window > LOBE_CUTOFF
        cy, cx = ny // 2 - y0, nx // 2 - x0
        lobe = _connected(above, cy, cx)
        touches = (
            (y0 > 0 and lobe[0].any())
            or (y1 < ny and lobe[-1].any())
            or (x0 > 0 and lobe[:, 0].any())
            or (x1 < nx and lobe[:, -1].any())
        )
        if not touches:
            break
        half *= 2
    lobe[max(cy - 1, 0) : cy + 2, max(cx - 1, 0) : cx + 2] = True
    rows, columns = np.nonzero(lobe)
    return rows + y0, columns + x0, window[lobe]


@numba.njit(nogil=True, cache=True)
def _connected(above: np.ndarray, cy: int, cx: int) -> np.ndarray:
    """Pixels that hang together with (cy, cx): a flood fill.

    Corners count as neighbours: the lobe of a thin slanted beam hangs together by them.
    """
    ny, nx = above.shape
    filled = np.zeros((ny, nx), np.bool_)
    stack = [(cy, cx)]
    filled[cy, cx] = above[cy, cx]
    while len(stack) > 0:
        y, x = stack.pop()
        for j in range(max(y - 1, 0), min(y + 2, ny)):
            for i in range(max(x - 1, 0), min(x + 2, nx)):
                if above[j, i] and not filled[j, i]:
                    filled[j, i] = True
                    stack.append((j, i))
    return filled


def _fit_quadratic_form(quadratic: np.ndarray, level: np.ndarray, longest: float) -> np.ndarray:
    """Coefficients (a, b, c) that bring exp(-(a q0 + b q1 + c q2)) closest to the levels.

    The start is the weighted log-linear solution (Caruana et al. 1986); then Levenberg-Marquardt steps.
    """
    bright = level > LOBE_CUTOFF
    design = (quadratic * level)[:, bright]
    normal = design @ design.T
    target = design @ (-np.log(np.minimum(level[bright], 1.0)) * level[bright])
    # the floor decides only what the pixels leave open: a single pixel, or the direction along a ridge
    floor = _FOUR_LN2 / longest**2
    ridge = 1e-9 * max(np.trace(normal), 1.0)
    form = np.linalg.solve(normal + ridge * np.eye(3), target + ridge * np.array([floor, 0.0, floor]))
    if form[0] * form[2] <= form[1] ** 2 or form[0] <= 0:
        form = np.array([1.0, 0.0, 1.0]) * max(form[0], form[2], floor)

    def model(form: np.ndarray) -> np.ndarray:
        return np.exp(-np.clip(form @ quadratic, -20.0, 700.0))

    gaussian = model(form)
    cost = float(np.sum((level - gaussian) ** 2))
    damping = 1e-3
    for _ in range(60):
        jacobian = -quadratic * gaussian
        normal = jacobian @ jacobian.T
        gradient = jacobian @ (level - gaussian)
        diagonal = np.diag(normal) + 1e-12 * max(np.trace(normal), 1e-300)
        step = np.linalg.solve(normal + np.diag(damping * diagonal + 1e-300), gradient)
        trial = form + step
        trial_gaussian = model(trial)
        trial_cost = float(np.sum((level - trial_gaussian) ** 2))
        if trial_cost <= cost:
            settled = np.all(np.abs(step) <= 1e-10 * np.max(np.abs(trial)))
            form, gaussian, cost = trial, trial_gaussian, trial_cost
            damping = max(damping / 10, 1e-12)
            if settled:
                break
        else:
            damping *= 10
            if damping > 1e10:
                break
    return form


def _position_angle(east: float, north: float) -> float:
    """Angle from north through east of an axis (not a direction), in (-pi/2, pi/2]."""
    angle = math.atan2(east, north)
    if angle <= -math.pi / 2:
        return angle + math.pi
    if angle > math.pi / 2:
        return angle - math.pi
    return angle


def psf_sidelobe(psf: np.ndarray, beam: Beam, cell_x: float, cell_y: float) -> float:
    """Largest absolute PSF outside the main lobe.

    Parameters
    ----------
    psf : numpy.ndarray
        (ny, nx), peak 1 at pixel (ny//2, nx//2).
    beam : Beam
        Fitted to it.
    cell_x, cell_y : float
        Pixel size, radians.

    Returns
    -------
    float
        The main lobe is the ellipse along the beam's axes with semi-axes of `SIDELOBE_SEMI_AXIS` FWHM, at least 2
        pixels. 0 if it covers the image.
    """
    ny, nx = psf.shape
    cy, cx = ny // 2, nx // 2
    pixel = max(cell_x, cell_y)
    major = max(SIDELOBE_SEMI_AXIS * beam.bmaj, 2 * pixel)
    minor = max(SIDELOBE_SEMI_AXIS * beam.bmin, 2 * pixel)
    sin, cos = math.sin(beam.bpa), math.cos(beam.bpa)
    reach_x = math.ceil(math.hypot(major * sin, minor * cos) / cell_x)
    reach_y = math.ceil(math.hypot(major * cos, minor * sin) / cell_y)
    y0, y1 = max(cy - reach_y, 0), min(cy + reach_y + 1, ny)
    x0, x1 = max(cx - reach_x, 0), min(cx + reach_x + 1, nx)
    # the form is evaluated only in the box around the ellipse; the rest of the image needs no more than its extremes
    east = (cx - np.arange(x0, x1)) * cell_x
    north = ((np.arange(y0, y1) - cy) * cell_y)[:, None]
    along = (north * cos + east * sin) / major
    across = (east * cos - north * sin) / minor
    box = psf[y0:y1, x0:x1][along**2 + across**2 > 1]
    parts = [box, psf[:y0], psf[y1:], psf[y0:y1, :x0], psf[y0:y1, x1:]]
    return max((max(float(part.max()), -float(part.min())) for part in parts if part.size), default=0.0)


def beam_area_pixels(beam: Beam, cell_x: float, cell_y: float) -> float:
    """Beam's solid angle in pixels: what divides a sum in Jy/beam to give Jy."""
    return math.pi / _FOUR_LN2 * beam.bmaj * beam.bmin / (cell_x * cell_y)


def _moments(beam: Beam) -> np.ndarray:
    """Second moments (east, north) of the Gaussian, in units of FWHM squared, shape (2, 2)."""
    sin, cos = math.sin(beam.bpa), math.cos(beam.bpa)
    major, minor = beam.bmaj**2, beam.bmin**2
    cross = (major - minor) * sin * cos
    return np.array([[major * sin**2 + minor * cos**2, cross], [cross, major * cos**2 + minor * sin**2]])


def deconvolve(target: Beam, beam: Beam) -> Beam | None:
    """Gaussian that takes one beam to another.

    Parameters
    ----------
    target, beam : Beam
        The beam wanted and the beam at hand.

    Returns
    -------
    Beam or None
        The kernel whose convolution with `beam` gives `target` (its peak is not 1: keep the flux scale by the beam
        areas); an axis of zero length means no smoothing along it. None if `target` does not contain `beam`.
        An excess below 1e-8 of the target's moments counts as rounding.
    """
    moments, axes = np.linalg.eigh(_moments(target) - _moments(beam))
    rounding = 1e-8 * target.bmaj**2
    if moments[0] < -rounding:
        return None
    minor, major = (0.0 if moment <= rounding else math.sqrt(moment) for moment in moments)
    return Beam(major, minor, _position_angle(axes[0, 1], axes[1, 1]) if major > minor else 0.0)


def common_beam(beams: Sequence[Beam]) -> Beam:
    """Smallest beam to which all the given ones can be convolved.

    Parameters
    ----------
    beams : sequence of Beam
        At least one; the order does not matter.

    Returns
    -------
    Beam
        One of the given beams if it contains all others; otherwise `radio_beam.Beams.common_beam`, whose ellipse is
        within about 0.1 % of the smallest.

    Raises
    ------
    GpucubeError
        Without any beam.
    """
    distinct = sorted(set(beams), key=lambda beam: (-beam.bmaj * beam.bmin, beam.bmaj, beam.bpa))
    if not distinct:
        raise GpucubeError("no common beam: no channel has a beam")
    if _contains_all(distinct[0], distinct):
        return distinct[0]
    hull = _outermost(distinct)
    for tolerance, epsilon in ((1e-4, 5e-4), (1e-5, 5e-4), (1e-5, 2e-3), (1e-4, 1e-2)):
        candidate = _radio_beam_common(hull, tolerance, epsilon)
        if candidate is not None and _contains_all(candidate, distinct):
            return candidate
    widest = max(beam.bmaj for beam in distinct)
    return Beam(widest, widest, 0.0)


def _contains_all(candidate: Beam, beams: Sequence[Beam]) -> bool:
    return all(deconvolve(candidate, beam) is not None for beam in beams)


def _outermost(beams: Sequence[Beam]) -> list[Beam]:
    """The beams that reach furthest in some direction.

    An ellipse contains another exactly when its extent (support function) is larger in every direction, so only the
    beams that lead in one of many directions matter: a handful of them for ten thousand channels.
    """
    east_east, north_north, east_north = np.array([_moments(beam)[[0, 1, 0], [0, 1, 1]] for beam in beams]).T
    leading = set()
    for angle in np.linspace(0, math.pi, 180, endpoint=False):
        sin, cos = math.sin(angle), math.cos(angle)
        extent = east_east * sin**2 + north_north * cos**2 + 2 * east_north * sin * cos
        leading.add(int(np.argmax(extent)))
    return [beams[index] for index in sorted(leading)]


def _radio_beam_common(beams: Sequence[Beam], tolerance: float, epsilon: float) -> Beam | None:
    """`radio_beam`'s answer, or None where it does not converge."""
    import radio_beam
    from astropy import units
    from radio_beam.utils import BeamError

    if len(beams) == 1:
        return beams[0]
    # scaled to arcseconds of order one: the package's tolerances are absolute
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
    bpa = _position_angle(math.sin(angle), math.cos(angle))
    return Beam(
        float(found.major.to_value(units.arcsec)) * scale, float(found.minor.to_value(units.arcsec)) * scale, bpa
    )


def beam_to_record(beam: Beam) -> dict[str, float]:
    """The beam as `summary.json` holds it: ``bmaj_arcsec``, ``bmin_arcsec``, ``bpa_deg``."""
    return {
        "bmaj_arcsec": beam.bmaj / _ARCSEC,
        "bmin_arcsec": beam.bmin / _ARCSEC,
        "bpa_deg": math.degrees(beam.bpa),
    }


def beam_from_record(record: dict[str, float]) -> Beam:
    """The beam of a record made by `beam_to_record`."""
    return Beam(record["bmaj_arcsec"] * _ARCSEC, record["bmin_arcsec"] * _ARCSEC, math.radians(record["bpa_deg"]))
