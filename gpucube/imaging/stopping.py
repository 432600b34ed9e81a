"""The stopping rule: whether a plane is cleaned further, how deep its next minor cycle goes, and why it stops.

In: the measured peak and noise of an exact residual. Out: the next `MinorCycle`, or a `StopCode`. This is pure arithmetic.
The rules are tclean's (CASA documentation, "Synthesis imaging: iteration control"), applied to each plane on its own:

* noise sigma = 1.4826 MAD of the residual; stop level = max(threshold, nsigma * sigma);
* cycle threshold = max(0.98 stop level, peak * clamp(cyclefactor * PSF sidelobe, minpsffraction, maxpsffraction));
* a plane whose peak has grown threefold (stop codes 5 and 6) is rolled back to its best model and tried once more with
  twice the cyclefactor and half the gain. If its peak grows again, its result is its best model;
* if a plane stops with a peak above its smallest one, its result is the model that had the smallest peak, whatever the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import Enum

from gpucube.devices.base import MinorCycle
from gpucube.output.records import StopCode
from gpucube.schema.parameters import Parameters

GROWTH = 3.0
"""A peak this many times above its last or its smallest value means divergence."""

FINAL_DEPTH = 0.98
"""The last minor cycle goes down to this fraction of the stop level, because the level falls with the noise as sources are
removed. Measured: half as many major cycles, the same model within 2 %, nearer to the truth (docs/decisions.md, D7)."""

ROUNDING = 1e-6
"""Peaks of float32 images that differ by no more than this fraction are the same."""

MULTISCALE_CYCLEFACTOR = 2.0
"""Minor cycles of multiscale CLEAN are shallower by this factor: extended components reach beyond the active pixels.
Measured: models nearer to the truth, with as many major cycles (docs/decisions.md, D33)."""

_UNLIMITED = 2**62


@dataclass(frozen=True, kw_only=True)
class CleanParameters:
    """tclean's parameters of iteration control.

    Fluxes are in Jy/beam, `niter` counts for each plane, and -1 means no limit for `cycleniter` and `nmajor`.
    """

    niter: int = 0
    gain: float = 0.1
    threshold: float = 0.0
    nsigma: float = 0.0
    cyclefactor: float = 1.0
    cycleniter: int = -1
    minpsffraction: float = 0.05
    maxpsffraction: float = 0.8
    nmajor: int = -1

    @classmethod
    def of(cls, parameters: Parameters) -> CleanParameters:
        """Take the parameters of iteration control from those of the run."""
        given = {field.name: getattr(parameters, field.name) for field in fields(cls)}
        if parameters.deconvolver == "multiscale":
            given["cyclefactor"] *= MULTISCALE_CYCLEFACTOR
        return cls(**given)


class Action(Enum):
    """What to do with a plane next."""

    CLEAN = "clean"
    ROLL_BACK_AND_CLEAN = "roll back and clean"
    ROLL_BACK_AND_STOP = "roll back and stop"
    STOP = "stop"


@dataclass(slots=True)
class LoopState:
    """How far one plane has come. A state is not changed, but replaced: each look at a plane makes a new one.

    `peak` and `noise` (Jy/beam) belong to the last exact residual, or to the best one if the plane was rolled back;
    `best_peak` and `best_noise` belong to the model that the device remembers.
    """

    iterations: int = 0
    majors: int = 0
    peak: float = math.inf
    noise: float = 0.0
    best_peak: float = math.inf
    best_noise: float = 0.0
    retried: bool = False
    stop: StopCode | None = None


def stop_level(noise: float, clean: CleanParameters) -> float:
    """Jy/beam at which a plane with this noise counts as clean."""
    return max(clean.threshold, clean.nsigma * noise)


def observe(state: LoopState, peak: float, noise: float, clean: CleanParameters) -> tuple[LoopState, Action]:
    """Decide what to do with a plane whose residual has just been computed.

    Parameters
    ----------
    state : LoopState
        Before this residual.
    peak, noise : float
        Largest |residual| inside the mask and noise, Jy/beam. A negative peak means that the mask is empty.

    Returns
    -------
    LoopState
        After it; `stop` is set if the action stops.
    Action
    """
    grown: StopCode | None = None
    if not (math.isfinite(peak) and math.isfinite(noise)):
        if state.majors == 0:
            return replace(state, peak=peak, noise=noise, stop=StopCode.FAILED), Action.STOP
        grown = StopCode.PEAK_GREW
    elif state.majors > 0:
        if peak > GROWTH * state.peak:
            grown = StopCode.PEAK_GREW
        elif peak > GROWTH * state.best_peak:
            grown = StopCode.PEAK_ABOVE_MINIMUM
    if grown is not None:
        rolled_back = _best(state)
        out_of_budget = state.iterations >= clean.niter or 0 <= clean.nmajor <= state.majors
        if state.retried or out_of_budget:
            return replace(rolled_back, stop=grown), Action.ROLL_BACK_AND_STOP
        return replace(rolled_back, retried=True), Action.ROLL_BACK_AND_CLEAN
    stop = _stop_code(state, peak, noise, clean)
    if stop is not None and peak > (1 + ROUNDING) * state.best_peak:
        return replace(_best(state), stop=stop), Action.ROLL_BACK_AND_STOP
    best = (peak, noise) if peak < state.best_peak else (state.best_peak, state.best_noise)
    found = LoopState(state.iterations, state.majors, peak, noise, *best, state.retried, stop)
    return found, Action.CLEAN if stop is None else Action.STOP


def _best(state: LoopState) -> LoopState:
    """The state of a plane that has been rolled back. The discarded iterations still count."""
    return replace(state, peak=state.best_peak, noise=state.best_noise)


def _stop_code(state: LoopState, peak: float, noise: float, clean: CleanParameters) -> StopCode | None:
    if peak < 0:
        return StopCode.ZERO_MASK
    # a stop level that was only met because the noise of a diverging plane has risen does not count
    if peak <= stop_level(noise, clean) and peak <= (1 + ROUNDING) * state.best_peak:
        return StopCode.THRESHOLD if clean.threshold >= clean.nsigma * noise else StopCode.NSIGMA
    if state.iterations >= clean.niter:
        return StopCode.ITERATION_LIMIT
    if state.majors > 0 and math.isfinite(state.peak) and abs(peak - state.peak) <= ROUNDING * state.peak:
        return StopCode.NO_CHANGE
    if 0 <= clean.nmajor <= state.majors:
        return StopCode.MAJOR_LIMIT
    return None


def next_cycle(state: LoopState, sidelobe: float, clean: CleanParameters) -> MinorCycle:
    """How far the next minor cycle goes."""
    cyclefactor, gain = clean.cyclefactor, clean.gain
    if state.retried:
        cyclefactor, gain = 2.0 * cyclefactor, 0.5 * gain
    fraction = min(max(cyclefactor * sidelobe, clean.minpsffraction), clean.maxpsffraction)
    cycleniter = clean.cycleniter if clean.cycleniter >= 0 else _UNLIMITED
    return MinorCycle(
        threshold=max(FINAL_DEPTH * stop_level(state.noise, clean), fraction * state.peak),
        max_iterations=min(clean.niter - state.iterations, cycleniter),
        gain=gain,
    )


def has_grown(state: LoopState, peak: float) -> bool:
    """Whether a peak means divergence, as in `observe`."""
    return not math.isfinite(peak) or peak > GROWTH * min(state.peak, state.best_peak)


def with_new_mask(state: LoopState) -> LoopState:
    """Forget the peaks inside the old mask: they cannot be compared with those inside the new one."""
    return replace(state, peak=math.inf, best_peak=math.inf)


def after_cycle(state: LoopState, iterations: int) -> LoopState:
    """Count one minor cycle and the major cycle that follows it."""
    done = state.iterations + iterations, state.majors + 1
    return LoopState(*done, state.peak, state.noise, state.best_peak, state.best_noise, state.retried, state.stop)
