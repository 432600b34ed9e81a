"""Automatic masks: every step of auto-multithresh, one at a time, against plain arithmetic; then whole runs.

`bench/peers/compare_automask.py` compares whole runs with tclean.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import CELL, GEOMETRY, image, payload, planes
from oracles import convolved, gaussian

from gpucube.devices.base import DeviceKind
from gpucube.devices.choice import Hardware
from gpucube.imaging.automask import AutoMask
from gpucube.imaging.stopping import CleanParameters, LoopState, has_grown, observe, with_new_mask
from gpucube.sky.beam import Beam

BEAM = Beam(bmaj=5 * CELL, bmin=3 * CELL, bpa=0.5)
AREA = np.pi / (4 * np.log(2)) * 15
"""Of the beam, pixels."""

PLAIN = AutoMask(sidelobethreshold=0.0, smoothfactor=0.0, minbeamfrac=0.0, growiterations=0)
"""The noise threshold alone."""

NOTHING = np.zeros(GEOMETRY.shape, bool)


def noise(sigma: float = 1.0, median: float = 0.0) -> np.ndarray:
    return (median + np.random.default_rng(3).normal(0, sigma, GEOMETRY.shape)).astype(np.float32)


def renew(how: AutoMask, residual: np.ndarray, mask: np.ndarray = NOTHING, **changes: Any) -> tuple[np.ndarray, bool]:
    usual = {"beam": BEAM, "sidelobe": 0.1, "geometry": GEOMETRY, "grow": False, "threshold_reached": False}
    return how.renew(mask, residual.astype(np.float32), **(usual | changes))


def squares(**sides: int) -> np.ndarray:
    """Squares of 100 on noise of 1: the first at (5, 5), the next 20 pixels further."""
    residual = noise()
    for number, side in enumerate(sides.values()):
        residual[5 : 5 + side, 5 + 20 * number : 5 + 20 * number + side] = 100.0
    return residual


def test_pixels_above_the_noise_threshold_and_the_median_are_masked() -> None:
    residual = noise(2.0, median=1.0)
    residual[10, 10:14] = [1 + 9.0, 1 + 9.9, 1 + 10.8, 1 + 12.0]
    sigma = 1.4826 * np.median(np.abs(residual - np.median(residual)))
    expected = residual > np.median(residual) + 5 * sigma
    assert 1 <= expected.sum() < 6
    np.testing.assert_array_equal(renew(PLAIN, residual)[0], expected)


def test_sidelobes_of_the_peak_are_not_masked() -> None:
    residual = noise(0.1)
    residual[10, 10:13] = [100.0, 29.0, 31.0]
    found, _ = renew(replace(PLAIN, sidelobethreshold=3.0), residual, sidelobe=0.1)
    assert np.argwhere(found).tolist() == [[10, 10], [10, 12]]
    residual[20, 20] = -200.0  # the largest absolute value counts
    assert not renew(replace(PLAIN, sidelobethreshold=3.0), residual, sidelobe=0.3)[0].any()


def test_regions_smaller_than_a_fraction_of_the_beam_are_dropped() -> None:
    smallest = 0.5 * AREA  # 8.5 pixels
    found, _ = renew(replace(PLAIN, minbeamfrac=0.5), squares(a=2, b=3))
    assert 4 < smallest < 9 and found.sum() == 9 and found[5, 25]


def test_pixels_that_touch_with_a_corner_are_two_regions() -> None:
    residual = noise(0.01)
    residual[5:8, 5:7] = residual[8:10, 7:10] = 100.0  # 6 pixels each
    assert renew(replace(PLAIN, minbeamfrac=0.3), residual)[0].sum() == 12  # 5.1 pixels
    assert not renew(replace(PLAIN, minbeamfrac=0.5), residual)[0].any()


@pytest.mark.parametrize("factor", [1.0, 1.5])
@pytest.mark.parametrize("cut", [0.01, 0.3])
def test_masks_are_smoothed_with_the_beam_and_cut(factor: float, cut: float) -> None:
    residual = squares(a=3, b=6)
    found, _ = renew(replace(PLAIN, smoothfactor=factor, cutthreshold=cut), residual)
    larger = Beam(bmaj=factor * BEAM.bmaj, bmin=factor * BEAM.bmin, bpa=BEAM.bpa)
    smooth = convolved(residual == 100.0, GEOMETRY, larger)
    near = np.abs(smooth / smooth.max() - cut) < 1e-5  # FFTs in single precision
    np.testing.assert_array_equal(found[~near], (smooth > cut * smooth.max())[~near])
    assert found.sum() > 45


def test_a_mask_grows_step_by_step_into_what_is_above_the_lower_threshold() -> None:
    residual = 20 * gaussian(GEOMETRY, Beam(bmaj=18 * CELL, bmin=9 * CELL, bpa=1.0), 30, 30) + noise(1.0)
    mask = NOTHING.copy()
    mask[28:32, 28:32] = True
    how = replace(PLAIN, growiterations=4, noisethreshold=1e6)
    sigma = 1.4826 * np.median(np.abs(residual - np.median(residual)))
    allowed = residual > np.median(residual) + 1.5 * sigma
    steps = {(y, x): 0 for y, x in np.argwhere(mask & allowed)}
    queue = deque(steps)
    while queue:
        y, x = queue.popleft()
        for to in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if to not in steps and allowed[to] and steps[y, x] < 4:
                steps[to] = steps[y, x] + 1
                queue.append(to)
    expected = mask.copy()
    expected[tuple(np.array(list(steps)).T)] = True
    assert expected.sum() > 40
    np.testing.assert_array_equal(renew(how, residual, mask, grow=True)[0], expected)
    np.testing.assert_array_equal(renew(how, residual, mask, grow=False)[0], mask)


@pytest.mark.parametrize("prune", [True, False])
def test_what_has_grown_is_pruned_if_wanted(prune: bool) -> None:
    residual, mask = squares(a=2), NOTHING.copy()
    mask[5, 5] = True
    how = replace(PLAIN, growiterations=9, noisethreshold=1e6, minbeamfrac=0.5, dogrowprune=prune)
    assert renew(how, residual, mask, grow=True)[0].sum() == (1 if prune else 4)


def test_negative_features_are_masked_if_wanted() -> None:
    residual = noise(0.1)
    residual[10:14, 10:14] = -5.0
    assert not renew(PLAIN, residual)[0].any()
    found, _ = renew(replace(PLAIN, negativethreshold=15.0), residual)
    np.testing.assert_array_equal(found, residual == -5.0)
    assert not renew(replace(PLAIN, negativethreshold=15.0, sidelobethreshold=3.0), residual, sidelobe=0.5)[0].any()


def test_a_mask_is_never_made_smaller_and_stays_within_the_valid_pixels() -> None:
    mask, valid = NOTHING.copy(), ~NOTHING
    mask[40:44, 40:44] = True
    valid[:, 10:] = False
    found, _ = renew(PLAIN, squares(a=3, b=3), mask)
    assert found[40:44, 40:44].all() and found.sum() == 16 + 18
    assert renew(PLAIN, squares(a=3, b=3), mask, valid=valid)[0].sum() == 9


def mad(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def test_the_slow_noise_is_that_outside_the_mask_or_without_outliers() -> None:
    """With a mask it is that of the pixels outside; without, that of what Chauvenet's criterion keeps."""
    residual = noise(1.0)
    residual[:8] += np.linspace(60, 400, 8 * 64).reshape(8, 64).astype(np.float32)
    mask = np.zeros(GEOMETRY.shape, bool)
    mask[:8] = True
    slow = replace(PLAIN, fastnoise=False)
    assert PLAIN.statistics(residual, mask, None).noise == pytest.approx(mad(residual), rel=1e-6)
    assert slow.statistics(residual, mask, None).noise == pytest.approx(mad(residual[8:]), rel=1e-6)
    # of 3584 values Chauvenet keeps all within 3.8 sigma
    kept = residual[8:][np.abs(residual[8:]) < 3.8]
    assert slow.statistics(residual, NOTHING, None).noise == pytest.approx(mad(kept), rel=1e-2)
    assert mad(residual) > 1.1 * mad(kept)
    assert slow.statistics(residual, mask, None).peak == float(np.abs(residual).max())


def test_a_channel_without_emission_ends_with_an_empty_mask() -> None:
    found, final = renew(PLAIN, noise())
    assert not found.any() and final
    # limited by sidelobes: a later residual may show more
    assert not renew(replace(PLAIN, sidelobethreshold=60.0), squares(a=3), sidelobe=0.5)[1]


@pytest.mark.parametrize(
    ("percent", "reached", "final"), [(-1.0, True, False), (10.0, True, True), (10.0, False, False), (0.0, True, False)]
)
def test_a_mask_that_hardly_changes_is_kept_once_the_stop_level_is_reached(
    percent: float, reached: bool, final: bool
) -> None:
    mask = squares(a=7) == 100.0
    mask[5, 5] = mask[5, 6] = mask[6, 5] = False  # 46 of 49 pixels: the change is 6.5 %
    how = replace(PLAIN, minpercentchange=percent)
    assert renew(how, squares(a=7), mask, threshold_reached=reached)[1] is final


def test_a_peak_that_a_new_mask_lets_in_is_no_divergence() -> None:
    clean = CleanParameters(niter=100, nsigma=3.0)
    state, _ = observe(LoopState(), 1.0, 0.01, clean)
    state, _ = observe(replace(state, majors=1, iterations=5), 0.08, 0.01, clean)
    assert has_grown(state, 0.25) and not has_grown(state, 0.2)
    state, _ = observe(with_new_mask(replace(state, majors=2, iterations=9)), 0.25, 0.01, clean)
    assert state.stop is None and not state.retried and state.best_peak == 0.25


AUTO = {"usemask": "auto-multithresh", "gridder": "standard"}


def test_components_lie_inside_the_mask_of_each_channel_and_empty_channels_have_none(
    tiny_ms: Any, tmp_path: Path
) -> None:
    result = image(tiny_ms.ms, tmp_path / "cube", **AUTO)
    masks, models = planes(result, "mask"), planes(result, "model")
    bright = [c.channel for c in result.channels if c.iterations]
    assert 2 <= len(bright) < 11
    for channel in result.channels:
        mask = masks[channel.channel]
        assert set(np.unique(mask)) <= {0.0, 1.0}
        assert mask.any() == (channel.channel in bright) and mask.mean() < 0.6
        assert not np.nan_to_num(models[channel.channel])[mask == 0].any()
        assert channel.stop_reason in ("n-sigma threshold", "zero mask", "no data")


def test_the_mask_of_the_user_is_where_automatic_masks_begin(tiny_ms: Any, tmp_path: Path) -> None:
    box = "box[[3pix,3pix],[6pix,9pix]]"
    with_box = planes(image(tiny_ms.ms, tmp_path / "box", mask=box, **AUTO), "mask")
    alone = planes(image(tiny_ms.ms, tmp_path / "alone", **AUTO), "mask")
    assert (with_box[0, 3:10, 3:7] == 1).all() and not alone[0, 3:10, 3:7].any()


def test_automatic_masks_have_the_same_bits_however_the_work_is_divided(tiny_ms: Any, tmp_path: Path) -> None:
    several = payload(image(tiny_ms.ms, tmp_path / "a", chunksize=5, workers=2, **AUTO))
    assert payload(image(tiny_ms.ms, tmp_path / "b", chunksize=1, workers=1, **AUTO)) == several


def test_every_device_makes_the_same_masks(device_kind: DeviceKind, tiny_ms: Any, tmp_path: Path) -> None:
    """Rounding differs between devices, and can move a pixel that lies at a threshold."""
    changes = AUTO | {"start": 4, "nchan": 3, "workers": 1}
    gpus = {} if device_kind.name == "cpu" else {"gpu_count": 1, "gpu_memory": 1 << 34}
    ours = image(tiny_ms.ms, tmp_path / "device", hardware=Hardware(kind=device_kind, **gpus), **changes)
    cpu = image(tiny_ms.ms, tmp_path / "cpu", device="cpu", **changes)
    masks, expected = planes(ours, "mask"), planes(cpu, "mask")
    assert expected.any() and np.count_nonzero(masks != expected) <= 2e-3 * expected.size
    assert [c.stop_code for c in ours.channels] == [c.stop_code for c in cpu.channels]


def test_a_mask_from_the_primary_beam_is_where_the_beam_is_above_its_level(tiny_ms: Any, tmp_path: Path) -> None:
    result = image(
        tiny_ms.ms, tmp_path / "cube", usemask="pb", pbmask=0.5, pbcor=True, mask="box[[0pix,0pix],[40pix,63pix]]",
        products=("mask", "model"),
    )  # fmt: skip
    beams, masks = planes(result, "pb"), planes(result, "mask")
    assert 0 < masks[3].mean() < 1
    np.testing.assert_array_equal(masks[3] == 1, (beams[3] > 0.5) & (np.arange(64) <= 40))
