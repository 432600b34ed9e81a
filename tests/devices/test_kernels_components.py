"""kernels/components.cu and restore.cu compared with the CPU's loops: the pixels are bit-identical."""

from __future__ import annotations

import numpy as np
import pytest
from hosts.kernel_runs import ORDERS, needs_compiler, run

from gpucube.devices.cpu import loops as cpu_loops
from gpucube.sky.beam import sampled_gaussian

pytestmark = needs_compiler

SHAPES = [(16, 16), (33, 47), (1, 1), (9, 70)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_changed_components_are_subtracted_as_on_the_cpu(shape, order):
    rng = np.random.default_rng(2)
    ny, nx = shape
    slots, listed = 6, 40
    residual = rng.standard_normal((slots, ny, nx)).astype(np.float32)
    psf = rng.standard_normal((slots, 2 * ny, 2 * nx)).astype(np.float32)
    where, change = np.full((slots, listed), -1, np.int32), np.full((slots, listed), np.nan, np.float32)
    count = np.full(slots, -1, np.int32)
    slot = np.array([3, 0, 4, 1, 2, 5], np.int32)
    dirty, convolved = rng.standard_normal(residual.shape), rng.standard_normal((2, 2 * ny, 2 * nx))
    dirty, convolved = dirty.astype(np.float32), convolved.astype(np.float32)
    of_fft = np.array([-1, -1, -1, -1, 1, -2], np.int32)
    expected = residual.copy()
    expected[2] = dirty[2] - convolved[1, :ny, :nx]
    for s, n in zip(slot[:4], [0, 1, 25, 60], strict=True):  # the last does not fit
        # the corners first, where the whole PSF is needed
        chosen = np.unique(np.concatenate([[0, ny * nx - 1], rng.permutation(ny * nx)])[:n])
        count[s] = n if n > listed else len(chosen)
        if n <= listed:
            image = np.zeros((ny, nx), np.float32)
            image.flat[chosen] = rng.choice([-1.0, 0.5], len(chosen))
            where[s, : len(chosen)], change[s, : len(chosen)] = chosen, image.flat[chosen]
            cpu_loops.subtract_components(expected[s], psf[s], image, chosen)
    arguments = (residual, psf, slot, ny, nx, listed, where, change, count, dirty, convolved, of_fft)
    run("components", "renew_residuals", (2, 6), (256,), *arguments, order=order)
    assert np.array_equal(residual, expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [*SHAPES, (70, 66)])
def test_gaussians_are_added_as_on_the_cpu(shape, order):
    rng = np.random.default_rng(3)
    ny, nx = shape
    beams = [(0.3, 0.1, 0.5, 6, 8), (0.02, 0.0, 0.03, 24, 29), (3.0, 0.0, 3.0, 0, 2)]
    model = np.zeros((4, ny, nx), np.float32)
    for s, fraction in ((0, 0.0), (1, 0.02), (2, 0.5)):
        model[s] = rng.standard_normal(shape) * (rng.random(shape) < fraction)
    model[1, 0, 0], model[1, -1, -1], model[2, 0, -1] = 1.0, -2.0, 1.0
    slot = np.array([1, 2, 0], np.int32)
    image = rng.standard_normal((3, ny, nx)).astype(np.float32)
    expected = image.copy()
    for k, (s, beam) in enumerate(zip(slot, beams, strict=True)):
        cpu_loops.add_gaussians(expected[k], model[s], sampled_gaussian(beam[:3], *beam[3:]))
    tables = [sampled_gaussian(beam[:3], *beam[3:]).ravel() for beam in beams]
    first = np.concatenate([[0], np.cumsum([len(t) for t in tables])])[:-1].astype(np.int64)
    half_y, half_x = (np.array([beam[i] for beam in beams], np.int32) for i in (3, 4))
    grid = ((nx + 31) // 32, (ny + 31) // 32, 3)
    arguments = (image, model, slot, ny, nx, np.concatenate(tables), first, half_y, half_x)
    run("restore", "add_gaussians", grid, (32, 8), *arguments, order=order)
    # the same sums in the same order; two libraries' exp may differ in the last bit of the float32 table
    assert image == pytest.approx(expected, rel=2e-7, abs=2e-7 * float(np.abs(model).sum()))
    assert np.mean(image == expected) > 0.99
