"""Imaging weights that are made on the host: the formulae written out, sample by sample, and whole runs with them.

The oracle grids densities with plain numpy in float64. Uniform cells are those of `uv_cells`; the agreement with tclean is
shown by bench/peers/compare_weights.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from events import WhenSafe, interrupt
from jobs import geometry, image, payload, samples

from gpucube.data.store import PlaneKey, Samples
from gpucube.errors import GpucubeError
from gpucube.execution.tuning import Tuning
from gpucube.imaging.weighting import HostWeighting, add_density, look_up
from gpucube.schema.parameters import make_parameters
from gpucube.sky.geometry import ImageGeometry

KEY = PlaneKey(channel=0, stokes=0)
LIGHT = 299792458.0


def cells(s: Samples, g: ImageGeometry) -> tuple[np.ndarray, np.ndarray]:
    """u and v in cells."""
    return (
        s.uvw[:, 0] * s.frequency / LIGHT * g.nx * g.cell_x,
        s.uvw[:, 1] * s.frequency / LIGHT * g.ny * g.cell_y,
    )


def density(s: Samples, g: ImageGeometry) -> tuple[np.ndarray, float]:
    """G of every sample, of cells centred on whole numbers, and sum G^2 / sum G."""
    u, v = cells(s, g)
    plane: dict[tuple[int, int], float] = {}
    for sign in (1, -1):
        for cu, cv, w in zip(np.floor(sign * u + 0.5), np.floor(sign * v + 0.5), s.weight, strict=True):
            plane[cu, cv] = plane.get((cu, cv), 0.0) + float(w)
    found = [plane[cell] for cell in zip(np.floor(u + 0.5), np.floor(v + 0.5), strict=True)]
    every = np.array(list(plane.values()))
    return np.array(found), float((every**2).sum() / every.sum())


def weigh(s: Samples, g: ImageGeometry, weighting: str, **given: Any) -> np.ndarray:
    chosen = {"robust": 0.5, "noise": 0.3, "bandwidth": 0.05} | given
    return HostWeighting(weighting=weighting, geometry=g, **chosen).weigh(s, KEY).weight


@pytest.mark.parametrize("bandwidth", [0.0, 0.003, 0.05, 0.4])
def test_briggsbwtaper_spreads_the_density_over_the_cells_that_a_sample_crosses(bandwidth: float) -> None:
    g, s = geometry(), samples(geometry())
    found, mean = density(s, g)
    f2 = (5 * 10**-0.5) ** 2 / mean
    n = bandwidth * np.hypot(*cells(s, g))
    t = np.array([k + 0.5 if k >= 1 else (4 - k) / (4 - 2 * k) for k in n])
    # float32 weights; samples within float32 of the edge of a cell may take their neighbour's density
    near = np.isclose(weigh(s, g, "briggsbwtaper", bandwidth=bandwidth), s.weight / (1 + found * f2 / t), rtol=1e-6)
    assert near.mean() > 0.995


@pytest.mark.parametrize("weighting", ["uniform", "briggs"])
def test_npixels_averages_the_density_over_a_square_of_cells(weighting: str) -> None:
    g, s = geometry(), samples(geometry())
    u, v = cells(s, g)
    plane, middle = np.zeros((g.ny + 1, g.nx + 1)), np.array([g.ny // 2, g.nx // 2])
    for sign in (1, -1):
        at = np.floor(sign * np.stack([v, u]) + 0.5).astype(int) + middle[:, None]
        near = ((at >= 2) & (at <= 2 * middle[:, None] - 2)).all(axis=0)
        np.add.at(plane, tuple(at[:, near]), s.weight[near])
    mean = sum(np.roll(plane, (dy, dx), (0, 1)) for dy in range(-2, 3) for dx in range(-2, 3)) / 25
    of_sample = mean[tuple(np.floor(np.stack([v, u]) + 0.5).astype(int) + middle[:, None])]
    f2 = (5 * 10**-0.5) ** 2 / ((mean**2).sum() / mean.sum())
    known = s.weight > 0
    expected = np.zeros(len(known))
    expected[known] = s.weight[known] / (of_sample if weighting == "uniform" else 1 + of_sample * f2)[known]
    near = np.isclose(weigh(s, g, weighting, reach=2), expected, rtol=1e-6)
    assert near.mean() > 0.995


@pytest.mark.parametrize(("robust", "noise"), [(0.5, 0.3), (-1.0, 1e-3), (0.0, 1.0)])
def test_briggsabs_compares_the_density_with_a_noise(robust: float, noise: float) -> None:
    g, s = geometry(), samples(geometry())
    expected = s.weight / (density(s, g)[0] * robust**2 + 2 * noise**2)
    near = np.isclose(weigh(s, g, "briggsabs", robust=robust, noise=noise), expected, rtol=1e-6)
    assert near.mean() > 0.995


def test_radial_weights_grow_with_the_distance_in_wavelengths() -> None:
    g, s = geometry(), samples(geometry())
    expected = s.weight * np.hypot(s.uvw[:, 0], s.uvw[:, 1]) * s.frequency / LIGHT
    assert weigh(s, g, "radial") == pytest.approx(expected, rel=1e-6)


def test_weights_keep_the_order_of_the_visibilities() -> None:
    """In a store, row k of uvw belongs to visibility and weight order[k]."""
    g, s = geometry(), samples(geometry())
    order = np.random.default_rng(1).permutation(len(s.weight)).astype(np.int32)
    stored = replace(s, uvw=s.uvw[order], order=order)
    for weighting in ("radial", "briggsabs", "briggsbwtaper"):
        assert np.array_equal(weigh(stored, g, weighting), weigh(s, g, weighting))


@pytest.mark.parametrize("reach", [0, 3])
def test_a_shared_density_counts_both_halves_and_keeps_from_the_edge(reach: int) -> None:
    g, s = geometry(), samples(geometry(), fill=0.6)  # some lie beyond the grid
    plane, fields = np.zeros(g.shape), (g.nx * g.cell_x, g.ny * g.cell_y)
    order = np.arange(len(s.weight), dtype=np.int32)
    add_density(s.uvw, order, s.weight, s.frequency / LIGHT, *fields, reach, plane)
    expected = np.zeros(g.shape)
    u, v = cells(s, g)
    for sign in (1, -1):
        iu, iv = (np.floor(sign * x + 32).astype(int) for x in (-u, v))  # as the pixels of an image, from east to west
        inside = (iu > reach) & (iu < 64 - reach) & (iv > reach) & (iv < 64 - reach)
        np.add.at(expected, (iv[inside], iu[inside]), s.weight[inside])
    # a sample within float32 of an edge may fall to the other side
    assert np.abs(plane - expected).sum() < 0.01 * expected.sum()
    found = np.empty(len(order))
    look_up(s.uvw, s.frequency / LIGHT, *fields, plane, found)
    assert (found[s.weight > 0] > 0).mean() > (0.7 if reach else 0.8)


# Whole runs

RUN: dict[str, Any] = {"niter": 50, "products": ("psf", "residual", "model")}
WEIGHTINGS: list[dict[str, Any]] = [
    {"weighting": "uniform", "perchanweightdensity": False},
    {"weighting": "briggs", "perchanweightdensity": False},
    {"weighting": "briggsabs", "noise": "0.3Jy"},
    {"weighting": "briggsbwtaper"},
    {"weighting": "superuniform", "npixels": 2},
    {"weighting": "uniform", "npixels": 2},
    {"weighting": "briggs", "npixels": 40, "perchanweightdensity": False},
    {"weighting": "radial"},
]


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda given: given["weighting"])
def test_bits_do_not_depend_on_chunks_or_on_a_run_that_was_cut_off(
    weighting: dict[str, Any], tiny_ms: Any, tmp_path: Path
) -> None:
    settings = RUN | weighting
    whole = image(tiny_ms.ms, tmp_path / "whole", workers=2, chunksize=5, **settings)
    with pytest.raises(KeyboardInterrupt):
        at_once, observer = Tuning(seconds_between_syncs=0.0), WhenSafe(5, interrupt)
        image(tiny_ms.ms, tmp_path / "cube", workers=1, tuning=at_once, observer=observer, **settings)
    resumed = image(tiny_ms.ms, tmp_path / "cube", workers=1, chunksize=1, resume=True, **settings)
    assert payload(resumed) == payload(whole)
    assert not (tmp_path / "cube.scratch").exists()


def test_equal_channels_get_a_share_of_their_uniform_weights_from_one_density(make_ms: Any, tmp_path: Path) -> None:
    """Without flags, and with channels too narrow to move a sample to another cell, G of all is that of one times 8."""
    ms = make_ms(nchan=8, chan_width=1.0, flag_rows=0.0, flag_cells=0.0, flag_channels=[]).ms
    own, shared = (
        image(
            ms, tmp_path / f"{flag}", weighting="briggs", perchanweightdensity=flag, niter=0, products="psf", robust=-2
        )
        for flag in (True, False)
    )
    for one, other in zip(own.channels, shared.channels, strict=True):
        assert other.beam["bmaj_arcsec"] == pytest.approx(
            one.beam["bmaj_arcsec"], rel=0.05
        )  # cells lie half a cell off
        assert other.sum_weights == pytest.approx(shared.channels[0].sum_weights, rel=1e-6)


def test_briggsbwtaper_of_a_narrow_cube_is_nearly_briggs(tiny_ms: Any, tmp_path: Path) -> None:
    """12 channels of 15.6 kHz are 1.3e-4 of 1.42 GHz: t differs from 1 by less than 1e-3."""
    plain, tapered = (
        image(tiny_ms.ms, tmp_path / name, weighting=name, niter=0, products="psf")
        for name in ("briggs", "briggsbwtaper")
    )
    sums = [[record.sum_weights for record in result.channels] for result in (plain, tapered)]
    assert sums[1] == pytest.approx(sums[0], rel=2e-3)
    assert sums[1] != sums[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weighting": "briggsbwtaper", "perchanweightdensity": False}, "needs `perchanweightdensity=True`"),
        ({"weighting": "briggsabs", "robust": 0, "noise": 0}, "needs `robust` or `noise` other than 0"),
        ({"weighting": "briggsbwtaper", "npixels": 3}, "`npixels=3` does not work with `weighting='briggsbwtaper'`"),
        ({"weighting": "uniform", "npixels": 50}, "`npixels=50` reaches beyond the uv plane, which has 100 cells"),
        ({"weighting": "uniform", "npixels": 1, "perchanweightdensity": False}, "`npixels=1` leaves no uv cells"),
        ({"weighting": "briggsabs", "noise": "-1Jy"}, "noise cannot be negative"),
    ],
)
def test_what_does_not_belong_together_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(GpucubeError, match=message):
        make_parameters(vis="a.ms", imagename="a", **given)


def test_a_noise_that_is_not_used_gives_a_warning() -> None:
    assert make_parameters(vis="a.ms", imagename="a", noise="2Jy").warnings == (
        "`noise='2Jy'` is not used, because it belongs to `weighting='briggsabs'`",
    )
