"""Compiled loops of the CPU device: weight density, peak and noise, minor cycles, sparse restoring.

In: plain numpy arrays of one plane. Out: numbers, or arrays changed in place. All loops run without the interpreter lock
and in a fixed order, so results repeat bit for bit, however many threads run side by side.

Algorithms: Briggs 1995 (robust weights, in tclean's per-channel form); Högbom 1974 (A&AS 15, 417), full image; and
Högbom restricted to an active set of bright pixels, after Clark 1980 (A&A 89, 377) and the sub-minor loop of
Offringa & Smirnov 2017 (MNRAS 471, 301), here with the full PSF at every offset.
"""

from __future__ import annotations

import numpy as np

from gpucube.caches import njit


@njit()
def uv_cells(
    uvw: np.ndarray,
    per_metre: float,
    cells_u: float,
    cells_v: float,
    half_u: int,
    half_v: int,
    weight: np.ndarray,
    cell: np.ndarray,
    lookup: np.ndarray,
) -> int:
    """Find the uv cell of every sample, folded into the half plane v >= 0.

    tclean grids the weights by a double-precision index but looks the density up by a single-precision one, so samples on
    the edge between two cells get their neighbour's density. This loop does the same: it is worth 3e-5 of the sum of weights.

    uvw (n, 3) is in metres: `per_metre` wavelengths in each, and `cells_u`, `cells_v` cells in a wavelength. Samples at
    |u| >= half_u or |v| >= half_v cells lie outside the image's uv plane. Written, (n,) int32: iv * (2 half_u + 1) + iu
    + half_u of the cell that takes the weight (`cell`), and of the cell whose density is looked up (`lookup`); -1 for
    samples without weight or outside. Returns the number of samples inside.
    """
    inside = 0
    row = 2 * half_u + 1
    scale_u, scale_v = np.float32(cells_u), np.float32(cells_v)
    centre_u, centre_v = np.float32(half_u), np.float32(half_v)
    single = np.float64(np.float32(per_metre))
    for k in range(len(weight)):
        u, v = uvw[k, 0] * per_metre * cells_u, uvw[k, 1] * per_metre * cells_v
        if weight[k] > 0 and abs(u) < half_u and abs(v) < half_v:
            cell[k] = _folded(int(np.floor(u + 0.5)), int(np.floor(v + 0.5)), half_u, row)
            at_u = np.float32(uvw[k, 0] * single) * scale_u + centre_u
            at_v = np.float32(-uvw[k, 1] * single) * scale_v + centre_v
            iu, iv = int(np.floor(at_u + 0.5)) - half_u, half_v - int(np.floor(at_v + 0.5))
            lookup[k] = _folded(min(max(iu, -half_u), half_u), min(max(iv, -half_v), half_v), half_u, row)
            inside += 1
        else:
            cell[k] = lookup[k] = -1
    return inside


@njit(inline="always")
def _folded(iu: int, iv: int, half_u: int, row: int) -> int:
    if iv < 0 or (iv == 0 and iu < 0):
        iu, iv = -iu, -iv
    return iv * row + iu + half_u


@njit()
def cell_density(cell: np.ndarray, weight: np.ndarray, density: np.ndarray, origin: int) -> tuple[float, float]:
    """Grid the weights at (u, v) and (-u, -v); returns the sums of G and of G^2 over the whole plane.

    `density` (float64, zeros) holds the half plane v >= 0; `origin` is the index of cell (0, 0), which gets each weight
    twice.
    """
    total = 0.0
    for k in range(len(cell)):
        if cell[k] >= 0:
            density[cell[k]] += weight[k]
            total += weight[k]
    density[origin] *= 2.0
    squares = 0.0
    for g in density:
        squares += g * g
    return 2.0 * total, 2.0 * squares - density[origin] ** 2


@njit()
def weigh(
    lookup: np.ndarray,
    weight: np.ndarray,
    density: np.ndarray,
    slope: float,
    constant: float,
    uvw: np.ndarray,
    taper: np.ndarray,
    out: np.ndarray,
) -> float:
    """out = weight / (constant + slope * density) * exp(-(t0 u^2 + t1 u v + t2 v^2)); returns its sum.

    Natural weights: slope 0, constant 1. Uniform: slope 1, constant 0. Briggs: slope f^2, constant 1. Where the density
    is 0 (see `uv_cells`) a weight that depends on it is 0, as in tclean.
    """
    total = 0.0
    tapered = np.any(taper != 0.0)
    for k in range(len(lookup)):
        w = 0.0
        if lookup[k] >= 0:
            w = np.float64(weight[k])
            if slope > 0.0:
                g = density[lookup[k]]
                w = w / (constant + slope * g) if g > 0.0 else 0.0
            if tapered:
                u, v = uvw[k, 0], uvw[k, 1]
                w *= np.exp(-(taper[0] * u * u + taper[1] * u * v + taper[2] * v * v))
        out[k] = w
        total += out[k]
    return total


@njit()
def peak(plane: np.ndarray, mask: np.ndarray) -> tuple[float, int]:
    """Find the largest |value| where `mask` is set, and its flat index; of equal values the first.

    A mask of size 0 allows every pixel. Returns (-1, -1) if no pixel is allowed.
    """
    flat, allowed = plane.ravel(), mask.ravel()
    bits = flat.view(np.uint32)
    best, where = np.int64(-1), -1
    if allowed.size == 0:
        # comparing magnitudes as integers lets the compiler vectorise: same order as floats of one sign
        width = plane.shape[1]
        for y in range(plane.shape[0]):
            top = np.uint32(0)
            for x in range(y * width, (y + 1) * width):
                top = max(top, bits[x] & np.uint32(0x7FFFFFFF))
            if np.int64(top) > best:
                best = np.int64(top)
                for x in range(y * width, (y + 1) * width):
                    if bits[x] & np.uint32(0x7FFFFFFF) == top:
                        where = x
                        break
    else:
        for i in range(flat.size):
            if allowed[i]:
                magnitude = np.int64(bits[i] & np.uint32(0x7FFFFFFF))
                if magnitude > best:
                    best, where = magnitude, i
    return (np.float64(abs(flat[where])), where) if where >= 0 else (-1.0, -1)


@njit()
def _quickselect(values: np.ndarray, size: int, rank: int) -> np.float32:
    """Find the element of a given rank among values[:size], which are reordered (Hoare 1961)."""
    low, high = 0, size - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    found: np.float32 = values[rank]
    return found


@njit()
def _select(values: np.ndarray, rank: int, buffer: np.ndarray) -> np.float32:
    """Find the element of a given rank, exactly (after Floyd & Rivest 1975).

    A sample of every 61st value gives likely bounds of the element. The values below them are counted, the values between
    them collected. If the element lies outside after all, everything is collected. `buffer` has the size of `values`.
    """
    n = values.size
    size = (n + 60) // 61
    for i in range(size):
        buffer[i] = values[61 * i]
    spread = 1.5 * np.sqrt(size) + 1.0
    place = rank / n * size
    low, high = np.float32(-np.inf), np.float32(np.inf)
    if place - spread >= 0.0 and place + spread < size:
        low = _quickselect(buffer, size, int(place - spread))
        high = _quickselect(buffer, size, int(place + spread))
    below, inside = _collect(values, low, high, buffer)
    if not below <= rank < below + inside:
        below, inside = _collect(values, np.float32(-np.inf), np.float32(np.inf), buffer)
    return _quickselect(buffer, inside, rank - int(below))


@njit()
def _collect(values: np.ndarray, low: np.float32, high: np.float32, buffer: np.ndarray) -> tuple[np.int32, int]:
    """Count the values below `low`, and put those from `low` to `high` into the buffer; returns both numbers."""
    below, inside = np.int32(0), 0
    for v in values:
        below += np.int32(1) if v < low else np.int32(0)
    for v in values:
        # every value is written, but few are kept: a branch here would be mispredicted and cost seven times as much
        buffer[inside] = v
        inside += (v >= low) & (v <= high)
    return below, inside


@njit()
def noise(plane: np.ndarray, deviation: np.ndarray, buffer: np.ndarray) -> float:
    """Compute 1.4826 times the median absolute deviation from the median; medians of even numbers are the lower middle value.

    `deviation` and `buffer` are scratch space, float32, of the size of the plane.
    """
    flat = plane.ravel()
    rank = (flat.size - 1) // 2
    median = _select(flat, rank, buffer)
    for i in range(flat.size):
        deviation[i] = abs(flat[i] - median)
    return 1.4826 * np.float64(_select(deviation, rank, buffer))


@njit()
def hogbom_textbook(
    residual: np.ndarray,
    psf: np.ndarray,
    mask: np.ndarray,
    model: np.ndarray,
    gain: float,
    threshold: float,
    limit: int,
) -> int:
    """Find the absolute peak, subtract gain * peak * PSF over the whole image, and repeat (Högbom 1974).

    It stops at |peak| <= threshold or after `limit` iterations, and returns the iterations done. `residual` is changed and
    `model` added to, both float32 (ny, nx); `psf` is float32 (2 ny, 2 nx), its peak at (ny, nx); `mask` is bool (ny, nx),
    or of size 0 for everywhere.
    """
    ny, nx = residual.shape
    for iteration in range(limit):
        value, where = peak(residual, mask)
        if value <= threshold:
            return iteration
        py, px = where // nx, where % nx
        flux = np.float32(gain * residual[py, px])
        model[py, px] += flux
        for y in range(ny):
            line = psf[ny + y - py, nx - px : 2 * nx - px]
            out = residual[y]
            for x in range(nx):
                out[x] -= flux * line[x]
    return limit


@njit()
def hogbom_active_set(
    residual: np.ndarray,
    psf: np.ndarray,
    mask: np.ndarray,
    model: np.ndarray,
    gain: float,
    threshold: float,
    limit: int,
    cut: float,
) -> int:
    """Clean as `hogbom_textbook` does, but only the pixels with |residual| > `cut`, with the full PSF at every offset.

    It gives the textbook sequence of components as long as no other pixel would grow to be the peak. `residual` is left as
    it was: the next major cycle recomputes it.
    """
    ny, nx = residual.shape
    size = 0
    for y in range(ny):
        for x in range(nx):
            if abs(residual[y, x]) > cut and (mask.size == 0 or mask[y, x]):
                size += 1
    # a pixel's place in the PSF array is its own place there plus one offset for all pixels
    place, value = np.empty(size, np.int32), np.empty(size, np.float32)
    k = 0
    for y in range(ny):
        for x in range(nx):
            if abs(residual[y, x]) > cut and (mask.size == 0 or mask[y, x]):
                place[k], value[k] = y * 2 * nx + x, residual[y, x]
                k += 1
    flat = psf.ravel()
    bits = value.view(np.uint32)
    centre = ny * 2 * nx + nx
    for iteration in range(limit):
        top = np.uint32(0)
        for k in range(size):
            top = max(top, bits[k] & np.uint32(0x7FFFFFFF))
        at = -1
        for k in range(size):
            if bits[k] & np.uint32(0x7FFFFFFF) == top:
                at = k
                break
        if at < 0 or abs(value[at]) <= threshold:
            return iteration
        flux = np.float32(gain * value[at])
        model[place[at] // (2 * nx), place[at] % (2 * nx)] += flux
        offset = centre - place[at]
        for k in range(size):
            value[k] -= flux * flat[place[k] + offset]
    return limit


@njit()
def multiscale_active_set(
    smooth: np.ndarray,
    cross: np.ndarray,
    allowed: np.ndarray,
    merit: np.ndarray,
    level: np.ndarray,
    step: np.ndarray,
    found: np.ndarray,
    limit: int,
    cut: float,
    growth: float,
) -> int:
    """Find the best component over all scales, subtract its response from the active pixels, and repeat.

    Parameters
    ----------
    smooth : numpy.ndarray
        The residual convolved with each scale, float32 (nscale, ny, nx).
    cross : numpy.ndarray
        The PSF convolved with pairs of scales, float32 (npair, 2 ny, 2 nx), peaks at (ny, nx). The pair (a, b), a <= b, is
        at b (b + 1) / 2 + a.
    allowed : numpy.ndarray
        Where components may lie, bool (nscale, ny, nx), or of size 0 for everywhere.
    merit, level, step : numpy.ndarray
        Of each scale, float32 (nscale,). The best component has the largest |smooth| * merit among those with
        |smooth| > level; its flux is step * smooth.
    found : numpy.ndarray
        Receives the components, float32 (nscale, ny, nx).
    limit : int
        Largest number of iterations.
    cut : float
        Pixels with |smooth| > cut * level are active.
    growth : float
        The loop ends once the merit has grown to so many times that of the first component.

    Returns
    -------
    int
        The iterations done.
    """
    nscale, ny, nx = smooth.shape
    begin = np.zeros(nscale + 1, np.int64)  # of each scale's active pixels
    for s in range(nscale):
        begin[s + 1] = begin[s]
        for y in range(ny):
            for x in range(nx):
                if abs(smooth[s, y, x]) > cut * level[s] and (allowed.size == 0 or allowed[s, y, x]):
                    begin[s + 1] += 1
    size = begin[nscale]
    place, value = np.empty(size, np.int32), np.empty(size, np.float32)
    k = 0
    for s in range(nscale):
        for y in range(ny):
            for x in range(nx):
                if abs(smooth[s, y, x]) > cut * level[s] and (allowed.size == 0 or allowed[s, y, x]):
                    place[k], value[k] = y * 2 * nx + x, smooth[s, y, x]
                    k += 1
    bits = value.view(np.uint32)
    centre = ny * 2 * nx + nx
    most = np.float32(np.inf)
    for iteration in range(limit):
        best, scale, at = np.float32(0.0), -1, -1
        for s in range(nscale):
            top = np.uint32(0)
            for k in range(begin[s], begin[s + 1]):
                top = max(top, bits[k] & np.uint32(0x7FFFFFFF))
            for k in range(begin[s], begin[s + 1]):
                if bits[k] & np.uint32(0x7FFFFFFF) == top:
                    if abs(value[k]) > level[s] and abs(value[k]) * merit[s] > best:
                        best, scale, at = abs(value[k]) * merit[s], s, k
                    break
        if at < 0 or best > most:
            return iteration
        if iteration == 0:
            most = growth * best
        flux = step[scale] * value[at]
        found[scale, place[at] // (2 * nx), place[at] % (2 * nx)] += flux
        offset = centre - place[at]
        for t in range(nscale):
            high, low = max(scale, t), min(scale, t)
            flat = cross[high * (high + 1) // 2 + low].ravel()
            for k in range(begin[t], begin[t + 1]):
                value[k] -= flux * flat[place[k] + offset]
    return limit


@njit()
def subtract_components(residual: np.ndarray, psf: np.ndarray, change: np.ndarray, where: np.ndarray) -> None:
    """residual -= change * PSF, for a change of the model that is zero except at the flat pixel indices `where`.

    `psf` is (2 ny, 2 nx) with its peak at (ny, nx). The loop goes row by row, so that a row of the residual stays in the
    nearest cache.
    """
    ny, nx = residual.shape
    for y in range(ny):
        row = residual[y]
        for k in where:
            py, px = k // nx, k % nx
            flux = change[py, px]
            line = psf[ny + y - py, nx - px : 2 * nx - px]
            for x in range(nx):
                row[x] -= flux * line[x]


@njit()
def add_gaussians(image: np.ndarray, model: np.ndarray, shape: np.ndarray) -> None:
    """image += model convolved with a small kernel of odd sides, whose centre is its middle pixel."""
    ny, nx = model.shape
    half_y, half_x = shape.shape[0] // 2, shape.shape[1] // 2
    for y in range(ny):
        for x in range(nx):
            flux = model[y, x]
            if flux != 0.0:
                x0, x1 = max(0, x - half_x), min(nx, x + half_x + 1)
                for row in range(max(0, y - half_y), min(ny, y + half_y + 1)):
                    line = shape[row - y + half_y]
                    out = image[row]
                    for col in range(x0, x1):
                        out[col] += flux * line[col - x + half_x]


@njit()
def psf_spectrum(transform: np.ndarray, out: np.ndarray) -> None:
    """Compute the real spectrum of a PSF centred in its array: (-1)^(ky + kx) Re(transform) / size.

    A PSF is even, so its transform about its centre is real. The sign moves the centre to pixel (0, 0), and the division
    normalises the later inverse transform of size (ny, 2 (nx - 1)) = twice the image.
    """
    ny, nx = transform.shape
    scale = np.float32(1.0 / (ny * 2.0 * (nx - 1)))
    for y in range(ny):
        for x in range(nx):
            value = transform[y, x].real * scale
            out[y, x] = value if (x + y) % 2 == 0 else -value
