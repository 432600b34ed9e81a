"""The life of one plane as a script of (peak, noise): how deep each cycle goes, when it stops, what is rolled back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from gpucube.imaging.stopping import Action, CleanParameters, LoopState, after_cycle, next_cycle, observe, stop_level
from gpucube.output.records import StopCode

PARAMETERS = CleanParameters(niter=1000, gain=0.1, threshold=0.01)


def play(
    script: list[tuple[float, float]], parameters: CleanParameters = PARAMETERS, iterations: int = 10
) -> tuple[LoopState, list[Action]]:
    """Let a plane see residuals of these peaks and noises, `iterations` minor iterations apart."""
    state, actions = LoopState(), []
    for k, (peak, noise) in enumerate(script):
        assert state.stop is None, f"stopped after {k} of {len(script)} residuals"
        if k:
            state = after_cycle(state, iterations)
        state, action = observe(state, peak, noise, parameters)
        actions.append(action)
    return state, actions


@pytest.mark.parametrize(
    ("script", "changes", "stop"),
    [
        # iteration limit: 2 cycles of 10 iterations
        ([(1, 0), (0.5, 0), (0.4, 0)], {"niter": 20}, StopCode.ITERATION_LIMIT),
        ([(1, 0)], {"niter": 0}, StopCode.ITERATION_LIMIT),
        # threshold, at once or later; reaching it exactly counts
        ([(0.01, 0)], {}, StopCode.THRESHOLD),
        ([(1, 0), (0.009, 0)], {}, StopCode.THRESHOLD),
        # both limits: whichever is higher names the reason
        ([(1, 0.1), (0.3, 0.1)], {"nsigma": 3.0}, StopCode.NSIGMA),
        ([(1, 0.001), (0.009, 0.001)], {"nsigma": 3.0}, StopCode.THRESHOLD),
        ([(0.2, 0.1)], {"nsigma": 3.0}, StopCode.NSIGMA),
        # no change between two major cycles
        ([(1, 0), (0.5, 0), (0.5, 0)], {}, StopCode.NO_CHANGE),
        # growth: more than 3x since the last cycle, more than 3x above the minimum; a second time each
        ([(1, 0), (3.1, 0), (3.1, 0)], {}, StopCode.PEAK_GREW),
        ([(1, 0), (0.1, 0), (0.25, 0), (0.31, 0), (0.2, 0), (0.31, 0)], {}, StopCode.PEAK_ABOVE_MINIMUM),
        ([(-1, 0)], {}, StopCode.ZERO_MASK),
        ([(1, 0), (0.8, 0), (0.6, 0)], {"nmajor": 2}, StopCode.MAJOR_LIMIT),
        ([(1, 0)], {"nmajor": 0}, StopCode.MAJOR_LIMIT),
        ([(math.nan, 0.1)], {}, StopCode.FAILED),
        ([(1.0, math.nan)], {}, StopCode.FAILED),
        ([(math.inf, 0.1)], {}, StopCode.FAILED),
    ],
)
def test_every_way_to_stop(script, changes, stop):
    state, actions = play(script, replace(PARAMETERS, **changes))
    assert state.stop is stop
    assert actions[-1] is (Action.ROLL_BACK_AND_STOP if stop in (5, 6) else Action.STOP)
    assert all(a in (Action.CLEAN, Action.ROLL_BACK_AND_CLEAN) for a in actions[:-1])


def test_a_plane_of_noise_is_finished_without_a_cycle():
    state, actions = play([(0.29, 0.1)], replace(PARAMETERS, nsigma=3.0))
    assert (state.stop, state.majors, state.iterations, actions) == (StopCode.NSIGMA, 0, 0, [Action.STOP])


def test_a_dirty_image_below_its_limit_says_so_rather_than_that_no_iterations_are_allowed():
    assert play([(0.2, 0.1)], CleanParameters(niter=0, nsigma=3.0))[0].stop is StopCode.NSIGMA


def test_a_peak_that_changes_by_more_than_rounding_goes_on():
    # float32 images: a millionth of the peak is the smallest change that means anything
    assert play([(1, 0), (0.5, 0), (0.5 * (1 - 1e-5), 0)])[0].stop is None


def test_growth_of_up_to_three_times_is_borne():
    assert play([(1, 0), (2.9, 0)])[0].stop is None
    assert play([(1, 0), (0.5, 0), (1.4, 0)])[0].stop is None


@pytest.mark.parametrize("bad", [(3.5, 0.1), (math.nan, 0.1), (math.inf, 0.1), (0.5, math.nan)])
def test_the_first_divergence_is_rolled_back_to_the_best_model_and_retried(bad):
    parameters = replace(PARAMETERS, nsigma=2.0, cyclefactor=1.5)
    state, actions = play([(2.0, 0.3), (1.0, 0.2), bad], parameters)
    assert actions == [Action.CLEAN, Action.CLEAN, Action.ROLL_BACK_AND_CLEAN]
    assert (state.peak, state.noise, stop_level(state.noise, parameters)) == (1.0, 0.2, 0.4)
    assert state.retried
    assert state.iterations == 20, "iterations done in vain still count towards niter"
    before, after = next_cycle(replace(state, retried=False), 0.2, parameters), next_cycle(state, 0.2, parameters)
    assert after.threshold == pytest.approx(0.6)  # 2 x 1.5 x 0.2 of the peak
    assert before.threshold == pytest.approx(0.98 * 0.4)  # 0.3 of the peak, but the limit is 0.4
    assert after.gain == pytest.approx(0.5 * before.gain)


def test_the_best_model_is_the_one_of_the_smallest_peak_not_the_last():
    parameters = replace(PARAMETERS, nsigma=0.1)
    state, _ = play([(2, 0.3), (1.0, 0.2), (2.5, 0.4), (3.1, 0.4)], parameters)
    assert (state.peak, state.noise, state.stop) == (1.0, 0.2, None)
    assert stop_level(state.noise, parameters) == pytest.approx(0.02)


def test_the_second_divergence_ends_on_the_best_model():
    state, actions = play([(2, 0.3), (1.0, 0.2), (3.5, 0.4), (0.8, 0.1), (2.5, 0.4)])
    assert actions[-3:] == [Action.ROLL_BACK_AND_CLEAN, Action.CLEAN, Action.ROLL_BACK_AND_STOP]
    assert (state.peak, state.noise, state.retried, state.stop) == (0.8, 0.1, True, StopCode.PEAK_GREW)


@pytest.mark.parametrize("changes", [{"niter": 20}, {"nmajor": 2}])
def test_a_divergence_with_nothing_left_to_spend_is_rolled_back_and_ends(changes):
    state, actions = play([(2, 0), (1, 0), (3.5, 0)], replace(PARAMETERS, **changes))
    assert actions[-1] is Action.ROLL_BACK_AND_STOP
    assert (state.peak, state.retried, state.stop) == (1, False, StopCode.PEAK_GREW)


@pytest.mark.parametrize(
    ("script", "changes", "stop"),
    [
        ([(1, 0), (0.5, 0), (0.6, 0), (0.7, 0)], {"niter": 30}, StopCode.ITERATION_LIMIT),
        ([(1, 0), (0.5, 0), (0.6, 0), (0.7, 0)], {"nmajor": 3}, StopCode.MAJOR_LIMIT),
        ([(1, 0), (0.5, 0), (0.7, 0), (0.7, 0)], {}, StopCode.NO_CHANGE),
        # worse than the dirty image from the first cycle on
        ([(0.5, 0), (0.6, 0), (0.7, 0)], {"niter": 20}, StopCode.ITERATION_LIMIT),
    ],
)
def test_a_plane_that_grew_slowly_ends_on_its_best_model_whatever_stopped_it(script, changes, stop):
    state, actions = play(script, replace(PARAMETERS, **changes))
    assert actions == [Action.CLEAN] * (len(script) - 1) + [Action.ROLL_BACK_AND_STOP]
    assert (state.peak, state.stop, state.retried) == (0.5, stop, False)


def test_a_plane_whose_last_peak_is_its_smallest_or_differs_by_rounding_is_left_alone():
    state, actions = play([(1, 0), (0.5, 0), (0.6, 0), (0.4, 0)], replace(PARAMETERS, niter=30))
    assert (state.peak, actions[-1]) == (0.4, Action.STOP)
    state, actions = play([(1, 0), (0.5, 0), (0.6, 0), (0.5 * (1 + 5e-7), 0)], replace(PARAMETERS, niter=30))
    assert (state.stop, actions[-1]) == (StopCode.ITERATION_LIMIT, Action.STOP)


def test_a_limit_that_rose_with_the_noise_of_a_plane_that_got_worse_is_not_reached():
    parameters = replace(PARAMETERS, nsigma=3.0)
    state, actions = play([(1.0, 0.3), (1.4, 0.5)], parameters)
    assert (state.stop, actions[-1]) == (None, Action.CLEAN)
    assert next_cycle(state, 0.1, parameters).threshold > state.peak, "nothing is left to clean"
    state, actions = play([(1.0, 0.3), (1.4, 0.5), (1.4, 0.5)], parameters)
    assert (state.peak, state.noise, state.stop) == (1.0, 0.3, StopCode.NO_CHANGE)
    assert actions[-1] is Action.ROLL_BACK_AND_STOP
    assert stop_level(state.noise, parameters) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("sidelobe", "changes", "fraction"),
    [
        (0.2, {}, 0.2),
        (0.2, {"cyclefactor": 2.0}, 0.4),
        (0.01, {}, 0.05),  # minpsffraction
        (0.01, {"minpsffraction": 0.0}, 0.01),
        (0.5, {"cyclefactor": 3.0}, 0.8),  # maxpsffraction
        (0.5, {"cyclefactor": 3.0, "maxpsffraction": 1.0}, 1.0),
    ],
)
def test_a_cycle_goes_down_to_the_clamped_sidelobe_level(sidelobe, changes, fraction):
    parameters = replace(PARAMETERS, **changes)
    state, _ = play([(2.0, 0.001)], parameters)
    assert next_cycle(state, sidelobe, parameters).threshold == pytest.approx(2.0 * fraction)


@pytest.mark.parametrize(("changes", "limit"), [({"threshold": 0.5}, 0.5), ({"nsigma": 4.0}, 0.4)])
def test_no_cycle_goes_more_than_two_per_cent_below_the_limit_of_the_plane(changes, limit):
    """The limit falls with the noise as sources are removed: a little below it saves a cycle."""
    parameters = replace(PARAMETERS, **changes)
    state, _ = play([(1.0, 0.1)], parameters)
    assert next_cycle(state, 0.05, parameters).threshold == pytest.approx(0.98 * limit)


@pytest.mark.parametrize(("cycleniter", "allowed"), [(-1, 970), (7, 7), (5000, 970)])
def test_a_cycle_may_use_what_is_left_of_niter_or_cycleniter(cycleniter, allowed):
    parameters = replace(PARAMETERS, cycleniter=cycleniter)
    state, _ = play([(1, 0), (0.9, 0), (0.8, 0), (0.7, 0)], parameters)
    assert next_cycle(state, 0.1, parameters).max_iterations == allowed
