"""The beam of a PSF: a Gaussian fitted to its main lobe, and its largest sidelobe.

In: the PSF of a plane, with peak 1 at pixel (ny // 2, nx // 2), or the part around its peak. Out: a `Beam`, and the largest
|PSF| outside the main lobe.

Fit: least squares on the pixels of the main lobe above 0.35, with peak and centre held fixed, as in CASA's FitGaussianPSF. The
method is Levenberg-Marquardt (Marquardt 1963, SIAM J. 11, 431) on the coefficients of the quadratic form: it has no angle,
so a round beam is no degenerate case.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucube.caches import njit
from gpucube.sky.beam import FOUR_LN2, Beam

LOBE_CUTOFF = 0.35
"""Pixels below this level take no part in the fit (tclean's psfcutoff)."""

FIRST_WINDOW = 16
"""Half the width, in pixels, of the first window in which the main lobe is sought."""

SIDELOBE_SEMI_AXIS = 1.25
"""Sidelobes begin outside an ellipse whose semi-axes are this many FWHM."""


def fit_beam(psf: np.ndarray, cell_x: float, cell_y: float) -> Beam:
    """Fit an elliptical Gaussian to the main lobe of a PSF.

    The fit uses the pixels above `LOBE_CUTOFF` that are connected to the peak, and the peak's eight neighbours whatever
    their level, so that a beam little wider than a pixel is still determined. Values that are not finite count as 0.
    `psf` is (ny, nx) with peak 1 at pixel (ny//2, nx//2); pixel sizes are in radians.

    The beam is always finite, with ``bmaj >= bmin`` and ``-pi/2 < bpa <= pi/2``. No axis is shorter than the smaller side
    of a pixel, since a narrower Gaussian means nothing on this grid, or longer than the longer side of the image: the lobe
    of a single baseline is a ridge without end.
    """
    beam, half = None, FIRST_WINDOW
    while beam is None:
        (beam,) = fit_beams(psf[peak_window(psf.shape, half)][None], psf.shape, cell_x, cell_y)
        half *= 2
    return beam


def peak_window(shape: tuple[int, int], half: int) -> tuple[slice, slice]:
    """Rows and columns of an image (ny, nx) that lie within `half` pixels of its peak at (ny//2, nx//2)."""
    ny, nx = shape
    return (
        slice(max(ny // 2 - half, 0), min(ny // 2 + half + 1, ny)),
        slice(max(nx // 2 - half, 0), min(nx // 2 + half + 1, nx)),
    )


def fit_beams(windows: np.ndarray, shape: tuple[int, int], cell_x: float, cell_y: float) -> list[Beam | None]:
    """Fit beams from the parts of PSFs that `peak_window` cuts out, (n, rows, columns); each is bit-identical with `fit_beam`'s.

    The windows' half width is at least 1; `shape` is (ny, nx) of a whole PSF. A beam is None if the main lobe touches an edge
    of the window that is not an edge of the image: the window is too small.
    """
    ny, nx = shape
    # lengths in units of `unit` keep the normal equations well scaled; a rectangular pixel needs no special case
    unit = math.sqrt(cell_x * cell_y)
    narrow = FOUR_LN2 / (min(cell_x, cell_y) / unit) ** 2
    wide = FOUR_LN2 / (max(nx * cell_x, ny * cell_y) / unit) ** 2
    kind = np.float32 if windows.dtype == np.float32 else np.float64
    levels = np.require(windows, kind, ["C", "W"])  # one layout for the compiler, and usually one type
    complete, forms = _fit_lobes(levels, ny, nx, cell_x / unit, cell_y / unit, wide)
    a, b, c = forms.T
    mean, difference = (a + c) / 2, (a - c) / 2
    spread = np.array([math.hypot(d, off) for d, off in zip(difference.tolist(), b.tolist(), strict=True)])
    # curvatures of the long and the short axis
    axes = np.minimum(np.maximum((mean - spread, mean + spread), wide), narrow)
    bmaj, bmin = unit * np.sqrt(FOUR_LN2 / axes)
    of_each = zip(complete.tolist(), bmaj.tolist(), bmin.tolist(), b.tolist(), difference.tolist(), strict=True)
    return [
        Beam(bmaj=major, bmin=minor, bpa=_position_angle(off, d) if major > minor else 0.0) if whole else None
        for whole, major, minor, off, d in of_each
    ]


def _position_angle(b: float, difference: float) -> float:
    """The angle at which the form a east^2 + 2 b east north + c north^2 is smallest; `difference` is (a - c) / 2."""
    # along (sin t, cos t) the form is mean - difference cos 2t + b sin 2t
    angle = math.atan2(0.0 - b, difference) / 2
    return angle + math.pi if angle <= -math.pi / 2 else angle


@njit()
def _fit_lobes(
    levels: np.ndarray, ny: int, nx: int, width: float, height: float, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit exp(-(a east^2 + 2 b east north + c north^2)) to main lobes; returns whether each is complete, and (a, b, c), (n, 3).

    `levels` (n, rows, columns) are windows of images (ny, nx) whose pixels are `width` by `height`; values that are not finite
    count as 0. Nothing is fitted if the lobe may continue beyond the window.
    """
    complete, forms = np.zeros(len(levels), np.bool_), np.zeros((len(levels), 3))
    for k in range(len(levels)):
        complete[k] = _fit_lobe(levels[k], ny, nx, width, height, floor, forms[k])
    return complete, forms


@njit()
def _fit_lobe(level: np.ndarray, ny: int, nx: int, width: float, height: float, floor: float, form: np.ndarray) -> bool:
    """Fit one main lobe: see `_fit_lobes`."""
    rows, columns = level.shape
    cy, cx = rows // 2, columns // 2
    lobe, bottom, top, left, right = _connected(level, cy, cx)
    y0, x0 = ny // 2 - cy, nx // 2 - cx
    if (
        (y0 > 0 and bottom == 0)
        or (y0 + rows < ny and top == rows - 1)
        or (x0 > 0 and left == 0)
        or (x0 + columns < nx and right == columns - 1)
    ):
        return False
    lobe[max(cy - 1, 0) : cy + 2, max(cx - 1, 0) : cx + 2] = True
    bottom, top = max(min(bottom, cy - 1), 0), min(max(top, cy + 1), rows - 1)
    left, right = max(min(left, cx - 1), 0), min(max(right, cx + 1), columns - 1)
    most = (top - bottom + 1) * (right - left + 1)
    quadratic, found, n = np.empty((most, 3)), np.zeros(most), 0  # of the pixels of the lobe
    for y in range(bottom, top + 1):
        for x in range(left, right + 1):
            if lobe[y, x]:
                east, north = (cx - x) * width, (y - cy) * height
                quadratic[n, 0], quadratic[n, 1], quadratic[n, 2] = east * east, 2 * east * north, north * north
                if np.isfinite(level[y, x]):
                    found[n] = level[y, x]
                n += 1
    form[:] = _fit_quadratic_form(quadratic[:n], found[:n], floor)
    return True


@njit()
def _connected(level: np.ndarray, cy: int, cx: int) -> tuple[np.ndarray, int, int, int, int]:
    """Flood fill: finite pixels above `LOBE_CUTOFF` that are 8-connected to (cy, cx); with their first and last row and column.

    Corners count as neighbours because the lobe of a thin slanted beam is connected through them.
    """
    ny, nx = level.shape
    filled, stack = np.zeros((ny, nx), np.bool_), np.empty((ny * nx + 1, 2), np.int64)
    bottom, top, left, right = cy, cy, cx, cx
    stack[0, 0], stack[0, 1], waiting = cy, cx, 1
    while waiting > 0:
        waiting -= 1
        y, x = stack[waiting, 0], stack[waiting, 1]
        for j in range(max(y - 1, 0), min(y + 2, ny)):
            for i in range(max(x - 1, 0), min(x + 2, nx)):
                if not filled[j, i] and LOBE_CUTOFF < level[j, i] < np.inf:
                    filled[j, i] = True
                    bottom, top, left, right = min(bottom, j), max(top, j), min(left, i), max(right, i)
                    stack[waiting, 0], stack[waiting, 1] = j, i
                    waiting += 1
    return filled, bottom, top, left, right


@njit()
def _fit_quadratic_form(quadratic: np.ndarray, level: np.ndarray, floor: float) -> np.ndarray:
    """Find the coefficients (a, b, c) that bring exp(-(a q0 + b q1 + c q2)) closest to the levels.

    The weighted log-linear solution (Caruana et al. 1986) is the start of the Levenberg-Marquardt steps. `floor` is the
    curvature in directions that the pixels do not determine.
    """
    normal, target = np.empty((3, 3)), np.empty(3)
    slope, misfit, trial_slope, trial_misfit = np.zeros((4, level.size))
    for k in range(level.size):
        if level[k] > LOBE_CUTOFF:
            slope[k], misfit[k] = level[k], -np.log(min(level[k], 1.0)) * level[k]
    _normal_equations(quadratic, slope, misfit, normal, target)
    # the floor matters only where the pixels determine nothing: for a single pixel, or along a ridge
    ridge = 1e-9 * max(np.trace(normal), 1.0)
    for i in range(3):
        normal[i, i] += ridge
    target[0] += ridge * floor
    target[2] += ridge * floor
    form, step = np.empty(3), np.empty(3)
    if not _solve(normal, target, form) or form[0] * form[2] <= form[1] ** 2 or form[0] <= 0:
        form[0] = form[2] = max(form[0], form[2], floor)
        form[1] = 0.0

    cost = _compare(quadratic, level, form, slope, misfit)
    damping = 1e-3
    for _ in range(60):
        _normal_equations(quadratic, slope, misfit, normal, target)
        least = 1e-12 * max(np.trace(normal), 1e-300)
        for i in range(3):
            normal[i, i] += damping * (normal[i, i] + least) + 1e-300
        solved = _solve(normal, target, step)
        trial = form + step
        trial_cost = _compare(quadratic, level, trial, trial_slope, trial_misfit)
        # a rise within the rounding of the sum does not count: steps much larger than the accuracy wanted can cause it
        if solved and trial_cost <= (1 + 1e-12) * cost:
            settled = np.abs(step).max() <= 1e-10 * np.abs(trial).max()
            form, cost = trial, trial_cost
            slope, trial_slope = trial_slope, slope
            misfit, trial_misfit = trial_misfit, misfit
            damping = max(damping / 10, 1e-12)
            if settled:
                break
        else:
            damping *= 10
            if damping > 1e10:
                break
    return form


@njit()
def _compare(
    quadratic: np.ndarray, level: np.ndarray, form: np.ndarray, slope: np.ndarray, misfit: np.ndarray
) -> float:
    """Compute misfit = level - Gaussian and slope = -Gaussian, its derivative by the exponent; returns the sum of squares."""
    cost = 0.0
    for k in range(level.size):
        exponent = form[0] * quadratic[k, 0] + form[1] * quadratic[k, 1] + form[2] * quadratic[k, 2]
        slope[k] = -np.exp(-min(max(exponent, -20.0), 700.0))
        misfit[k] = level[k] + slope[k]
        cost += misfit[k] * misfit[k]
    return cost


@njit()
def _normal_equations(
    quadratic: np.ndarray, slope: np.ndarray, misfit: np.ndarray, normal: np.ndarray, target: np.ndarray
) -> None:
    """Compute normal = J'J and target = J' misfit, where row k of J is slope[k] * quadratic[k]."""
    normal[:] = 0.0
    target[:] = 0.0
    for k in range(slope.size):
        for i in range(3):
            partial = slope[k] * quadratic[k, i]
            target[i] += partial * misfit[k]
            for j in range(i + 1):
                normal[i, j] += partial * slope[k] * quadratic[k, j]
    for i in range(3):
        for j in range(i):
            normal[j, i] = normal[i, j]


@njit()
def _solve(matrix: np.ndarray, right: np.ndarray, x: np.ndarray) -> bool:
    """Solve a symmetric positive definite 3x3 system (Cholesky); False, with x = 0, if rounding has made it indefinite."""
    lower = np.zeros((3, 3))
    x[:] = 0.0
    for i in range(3):
        for j in range(i + 1):
            rest = matrix[i, j]
            for m in range(j):
                rest -= lower[i, m] * lower[j, m]
            if i > j:
                lower[i, j] = rest / lower[j, j]
            elif rest > 0:
                lower[i, i] = np.sqrt(rest)
            else:
                return False
    for i in range(3):
        x[i] = (right[i] - lower[i, 0] * x[0] - lower[i, 1] * x[1]) / lower[i, i]
    for i in range(2, -1, -1):
        for m in range(i + 1, 3):
            x[i] -= lower[m, i] * x[m]
        x[i] /= lower[i, i]
    return True


def psf_sidelobe(psf: np.ndarray, beam: Beam, cell_x: float, cell_y: float) -> float:
    """Find the largest |PSF| outside the main lobe, the ellipse of `lobe_ellipse` for the beam fitted to it.

    `psf` is as in `fit_beam`. The result is 0 if the ellipse covers the image, and NaN if there is a NaN outside it.
    """
    psf = np.asarray(psf, dtype=np.float32)
    ny, nx = psf.shape
    if psf.strides[1] != psf.itemsize or psf.strides[0] < nx * psf.itemsize:
        psf = np.ascontiguousarray(psf)
    step = psf.strides[0] // psf.itemsize
    # one flat line from the first pixel to the last, although the rows of a larger array lie between: the compiler makes
    # vector instructions only for contiguous pixels
    line = as_strided(psf, ((ny - 1) * step + nx,), (psf.itemsize,), writeable=False).view(np.uint32)
    bits = _largest_outside(line, step, ny, nx, np.array(lobe_ellipse(beam, cell_x, cell_y)), cell_x, cell_y)
    return float(np.uint32(bits).view(np.float32))


def lobe_ellipse(beam: Beam, cell_x: float, cell_y: float) -> tuple[float, ...]:
    """Compute the ellipse outside which sidelobes begin, as `psf_sidelobe` and the kernel `sidelobe` take it.

    It has the beam's axes. Its semi-axes are `SIDELOBE_SEMI_AXIS` FWHM, but at least 2 pixels. Returns sine
    and cosine of the position angle; semi-axes (major, minor), radians; extent along x and y, in pixels rounded up.
    """
    pixel = max(cell_x, cell_y)
    major = max(SIDELOBE_SEMI_AXIS * beam.bmaj, 2 * pixel)
    minor = max(SIDELOBE_SEMI_AXIS * beam.bmin, 2 * pixel)
    sin, cos = math.sin(beam.bpa), math.cos(beam.bpa)
    reach_x = math.ceil(math.hypot(major * sin, minor * cos) / cell_x)
    reach_y = math.ceil(math.hypot(major * cos, minor * sin) / cell_y)
    return sin, cos, major, minor, reach_x, reach_y


@njit(error_model="numpy")
def _largest_outside(
    line: np.ndarray, step: int, ny: int, nx: int, ellipse: np.ndarray, cell_x: float, cell_y: float
) -> np.uint32:
    """Find the bits of the largest |value| outside the ellipse, 0 if there is none.

    `line` holds an image (ny, nx) as unsigned integers, a row at every multiple of `step`. Magnitudes are compared as
    integers: the order of floats of one sign, with NaN above all else.
    """
    cy, cx = ny // 2, nx // 2
    sin, cos, major, minor = ellipse[0], ellipse[1], ellipse[2], ellipse[3]
    # the form is evaluated only in the box around the ellipse
    reach_x, reach_y = int(min(ellipse[4], nx)), int(min(ellipse[5], ny))
    x0, x1 = max(cx - reach_x, 0), min(cx + reach_x + 1, nx)
    top = np.uint32(0)
    for y in range(ny):
        row = line[y * step : y * step + nx]
        if abs(y - cy) > reach_y:
            top = max(top, _largest(row))
            continue
        top = max(top, _largest(row[:x0]), _largest(row[x1:]))
        box = row[x0:x1]
        north = (y - cy) * cell_y
        for x in range(box.size):
            east = (cx - x0 - x) * cell_x
            along, across = (north * cos + east * sin) / major, (east * cos - north * sin) / minor
            if along * along + across * across > 1:
                top = max(top, box[x] & np.uint32(0x7FFFFFFF))
    return top


@njit()
def _largest(bits: np.ndarray) -> np.uint32:
    """Find the bits of the largest |value|."""
    top = np.uint32(0)
    for x in range(bits.size):
        top = max(top, bits[x] & np.uint32(0x7FFFFFFF))
    return top
