"""Minor cycles as the CUDA device launches them, on a GPU or on the host: bit-identical to the CPU's loops on the same arrays.

PSFs and residuals are given, so nothing of gridding or FFTs comes into it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpucube.devices.base import MinorCycle
from gpucube.devices.cpu import loops as cpu_loops
from gpucube.devices.cuda import minor_cycle
from gpucube.devices.cuda.backend import Backend, Kernels, Workspace
from gpucube.devices.cycle_rules import ACTIVE_SET_CUT

EVERYWHERE = np.zeros((0, 0), bool)
SLOTS = np.array([2, 0, 3], np.int32)
CYCLES = [
    MinorCycle(threshold=0.35, max_iterations=500, gain=0.1),
    MinorCycle(threshold=0.0, max_iterations=70, gain=0.2),
    MinorCycle(threshold=9.0, max_iterations=100, gain=0.1),  # nothing is as bright
]


class Stacks:
    """Four slots with sources under noise and a PSF with sidelobes everywhere; slot 0 has a mask."""

    def __init__(self, ny: int, nx: int):
        rng = np.random.default_rng(5)
        y, x = np.arange(-ny, ny)[:, None], np.arange(-nx, nx)
        waves = rng.uniform(-3, 3, (6, 2))
        psf = np.mean([np.cos(u * x + v * y) for u, v in waves], axis=0) * np.exp(-np.hypot(x, y) / 50)
        self.psf = np.stack([psf, psf, 0.5 * psf, psf]).astype(np.float32)
        self.psf[:, ny, nx] = 1.0
        self.residual = rng.normal(0, 0.1, (4, ny, nx)).astype(np.float32)
        self.residual[:, ny // 3, nx // 4], self.residual[:, ny // 2, nx // 2] = 1.0, -0.8
        self.model = rng.normal(0, 0.01, (4, ny, nx)).astype(np.float32)
        self.masks = rng.random((4, ny, nx)) < 0.7
        self.mask_of = np.array([0, -1, -1, -1], np.int32)

    def on_cpu(self, form: str) -> list[int]:
        """Clean by the CPU's loops."""
        done = []
        for s, cycle in zip(SLOTS, CYCLES, strict=True):
            mask = EVERYWHERE if self.mask_of[s] < 0 else self.masks[self.mask_of[s]]
            planes = self.residual[s], self.psf[s], mask, self.model[s]
            how_far = cycle.gain, cycle.threshold, cycle.max_iterations
            if form == "textbook":
                done.append(cpu_loops.hogbom_textbook(*planes, *how_far))
            else:
                done.append(cpu_loops.hogbom_active_set(*planes, *how_far, ACTIVE_SET_CUT * cycle.threshold))
        return done

    def on(self, backend: Backend, form: str) -> tuple[list[int], list[int]]:
        """Clean by the kernels."""
        upload = backend.xp.array
        kernels, slots = Kernels(backend, {"hogbom": ()}), upload(SLOTS)
        orders = minor_cycle.orders_of(CYCLES)
        masks = upload(self.masks.view(np.uint8)), upload(self.mask_of)
        images = minor_cycle.Images(upload(self.residual), upload(self.psf), upload(self.model), *masks)
        if form == "textbook":
            result = minor_cycle.textbook(backend, kernels, images, slots, orders, upload(orders))
        else:
            listed = (4, minor_cycle.LISTED)
            where, change = upload(np.zeros(listed, np.int32)), upload(np.zeros(listed, np.float32))
            changes = minor_cycle.Changes(where, change, upload(np.zeros(4, np.int32)))
            where = (Workspace(backend, 0), SLOTS, slots, orders, upload(orders))
            result = minor_cycle.active_set(backend, kernels, images, changes, *where)
        self.model, self.residual = backend.download(images.model), backend.download(images.residual)
        return result


@pytest.mark.parametrize(
    ("shape", "form", "shared_bytes", "processors"),
    [
        ((40, 50), "activeset", 227 << 10, 3),  # sets of few pixels alone
        ((200, 180), "activeset", 227 << 10, 3),  # of few and of many
        ((200, 180), "activeset", 3 << 10, 1),  # of more than shared memory holds, one block for each
        ((200, 180), "activeset", 3 << 10, 9),  # many blocks for each, and a launch for each iteration
        ((40, 50), "textbook", 227 << 10, 9),  # one block for each plane
        ((260, 255), "textbook", 227 << 10, 9),  # three blocks for each, and a launch for each iteration
    ],
    ids=["few", "many", "large", "large, many blocks", "one block", "many blocks"],
)
def test_every_form_finds_the_cpus_components(backend, shape, form, shared_bytes, processors) -> None:
    expected, got = Stacks(*shape), Stacks(*shape)
    before = expected.model.copy()
    done = expected.on_cpu(form)
    assert done[0] > 5 and done[1:] == [70, 0]
    iterations, changed = got.on(replace(backend, shared_bytes=shared_bytes, processors=processors), form)
    assert iterations == done
    assert np.array_equal(got.model, expected.model)
    assert np.array_equal(got.residual, expected.residual)
    if form == "activeset":
        assert changed == [np.count_nonzero(expected.model[s] != before[s]) for s in SLOTS]


@pytest.mark.parametrize("form", ["activeset", "textbook"])
def test_launches_are_short_and_go_on_where_the_last_one_ended(backend, form, monkeypatch) -> None:
    """A few iterations in each launch, and sets of which only one at a time has room."""
    expected, got = Stacks(70, 60), Stacks(70, 60)
    done = expected.on_cpu(form)
    monkeypatch.setattr(minor_cycle, "WORK", 3 * 5000)
    monkeypatch.setattr(minor_cycle, "LEAST_ITERATIONS", 3)
    monkeypatch.setattr(minor_cycle, "set_room", lambda ny, nx: 20)
    assert got.on(backend, form)[0] == done
    assert np.array_equal(got.model, expected.model)
    assert np.array_equal(got.residual, expected.residual)
