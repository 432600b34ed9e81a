"""kernels/beam.cu compared with `psf_sidelobe`: the same pixels count, whatever the ellipse, the size and the layout."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hosts.kernel_runs import ORDERS, needs_compiler, run

from gpucube.devices.psf_fit import SIDELOBE_SEMI_AXIS, lobe_ellipse, psf_sidelobe
from gpucube.sky.beam import Beam

pytestmark = needs_compiler

CELL_X, CELL_Y = 4.8e-6, 5.3e-6
"""Radians: pixels that are neither square nor a round number."""

SHAPES = [(1, 1), (2, 2), (7, 9), (64, 48), (33, 70), (101, 103)]

BEAMS = [
    Beam(bmaj=CELL_X, bmin=CELL_X, bpa=0.0),  # the smallest lobe: two pixels, some of them exactly on its edge
    Beam(bmaj=4 * CELL_Y, bmin=4 * CELL_Y, bpa=0.0),
    Beam(bmaj=11 * CELL_Y, bmin=2 * CELL_X, bpa=0.7),
    Beam(bmaj=7.3 * CELL_X, bmin=5.1 * CELL_X, bpa=-1.3),
    Beam(bmaj=400 * CELL_X, bmin=3 * CELL_X, bpa=2.1),  # a ridge through the whole image
    Beam(bmaj=30 * CELL_X, bmin=20 * CELL_X, bpa=math.pi / 2),
    Beam(bmaj=400 * CELL_X, bmin=400 * CELL_X, bpa=0.0),  # covers every image here
]


def central(psf: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The part of the array of that shape whose pixel (ny // 2, nx // 2) is the array's (height // 2, width // 2)."""
    top, left = (size // 2 - n // 2 for size, n in zip(psf.shape, shape, strict=True))
    return psf[top : top + shape[0], left : left + shape[1]]


def sidelobes(psfs, slot, shape, beams, order=0, blocks=3):
    largest = np.zeros(len(slot), np.uint32)
    ellipses = np.array([lobe_ellipse(beam, CELL_X, CELL_Y) for beam in beams])
    (height, width), (ny, nx) = psfs.shape[1:], shape
    first = slot.astype(np.int64) * height * width + (height // 2 - ny // 2) * width + width // 2 - nx // 2
    images = (psfs, first, np.full(len(slot), width, np.int32), ny, nx)
    run("beam", "sidelobe", (blocks, len(slot)), (256,), *images, ellipses, CELL_X, CELL_Y, largest, order=order)
    return largest.view(np.float32)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("wide", [False, True], ids=["image", "twice the field"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_sidelobe_is_bit_identical_to_the_cpus(shape, wide, order):
    """Around the image, a wide array holds larger values, which must not count."""
    rng = np.random.default_rng(8)
    size = tuple((1 + wide) * n for n in shape)
    psfs = np.full((len(BEAMS), *size), 1e30, np.float32)
    for psf in psfs:
        central(psf, shape)[:] = rng.standard_normal(shape)
    slot = rng.permutation(len(BEAMS)).astype(np.int32)
    expected = [
        psf_sidelobe(central(psfs[s], shape), beam, CELL_X, CELL_Y) for s, beam in zip(slot, BEAMS, strict=True)
    ]
    assert expected[-1] == 0
    assert sidelobes(psfs, slot, shape, BEAMS, order).tolist() == expected
    assert sidelobes(psfs, slot[2:3], shape, BEAMS[2:3], order, blocks=1).tolist() == expected[2:3]


@pytest.mark.parametrize("beam", BEAMS[:4])
def test_every_pixel_is_judged_as_on_the_cpu(beam):
    """One plane for each pixel of the image, which is 0 elsewhere."""
    shape = (23, 18)
    pixels = math.prod(shape)
    psfs = np.eye(pixels, dtype=np.float32).reshape(pixels, *shape)
    expected = [psf_sidelobe(psf, beam, CELL_X, CELL_Y) for psf in psfs]
    assert 0 < sum(expected) < pixels
    assert sidelobes(psfs, np.arange(pixels, dtype=np.int32), shape, [beam] * pixels, blocks=1).tolist() == expected


def test_pixels_on_the_edge_of_the_ellipse_are_rounded_as_on_the_cpu():
    """Ellipses drawn through a pixel: the last bit of float64 decides, so any other arithmetic fails."""
    rng = np.random.default_rng(9)
    planes, size = 200, 41
    psfs, beams = np.zeros((planes, size, size), np.float32), []
    for psf in psfs:
        x, y = rng.integers(4, 20, 2) * rng.choice([-1, 1], 2)
        psf[size // 2 + y, size // 2 - x] = 1
        distance, direction = math.hypot(x * CELL_X, y * CELL_Y), math.atan2(x * CELL_X, y * CELL_Y)
        turn, minor = rng.uniform(-0.3, 0.3), distance * rng.uniform(0.4, 0.9)
        major = distance * math.cos(turn) / math.sqrt(1 - (distance * math.sin(turn) / minor) ** 2)
        beams.append(Beam(bmaj=major / SIDELOBE_SEMI_AXIS, bmin=minor / SIDELOBE_SEMI_AXIS, bpa=direction + turn))
    expected = [psf_sidelobe(psf, beam, CELL_X, CELL_Y) for psf, beam in zip(psfs, beams, strict=True)]
    assert 0.2 * planes < sum(expected) < 0.8 * planes
    assert sidelobes(psfs, np.arange(planes, dtype=np.int32), (size, size), beams, blocks=1).tolist() == expected


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_count_outside_the_lobe_and_nowhere_else(bad):
    beams = [BEAMS[2]] * 3
    psfs = np.full((3, 40, 50), 0.25, np.float32)
    psfs[1, 20, 25] = bad
    psfs[2, 3, 4] = bad
    got = sidelobes(psfs, np.arange(3, dtype=np.int32), (40, 50), beams)
    assert got[:2].tolist() == [0.25, 0.25]
    assert not np.isfinite(got[2])
    assert got.view(np.uint32)[2] == np.float32(psf_sidelobe(psfs[2], beams[2], CELL_X, CELL_Y)).view(np.uint32)
