"""Stokes parameters from correlations, as tclean defines them.

In: the correlation types of a DATA_DESC_ID (casacore's codes) and the wanted Stokes parameters. Out: one `Combination`
per parameter, which `gpucube.data.transpose` applies to every sample. The feed equations are those of Hamaker & Bregman
1996 (A&AS 117, 161). Linear feeds measure XX = I + Q, XY = U + iV, YX = U - iV, YY = I - Q. Circular feeds measure
RR = I + V, RL = Q + iU, LR = Q - iU, LL = I - V.

* ``I`` is the mean of both parallel hands, with the weight of that mean. A sample with either hand flagged is dropped.
  If the data have one parallel hand only, that hand alone is I.
* ``pseudoI`` is the weighted mean of the parallel hands that are not flagged.
* ``Q``, ``U``, ``V`` are half the sum or difference of two hands, both required.
* ``XX``, ``YY``, ``RR``, ``LL`` are the hands themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

CORRELATION_NAMES = {
    1: "I", 2: "Q", 3: "U", 4: "V",
    5: "RR", 6: "RL", 7: "LR", 8: "LL",
    9: "XX", 10: "XY", 11: "YX", 12: "YY",
}  # fmt: skip

FITS_CODES = {"I": 1, "pseudoI": 1, "Q": 2, "U": 3, "V": 4, "RR": -1, "LL": -2, "XX": -5, "YY": -6}
"""Parameters that can be imaged -> their values on the STOKES axis of FITS."""


class Rule(IntEnum):
    """Which of its hands a combination needs: the only one, both, or any. None if the data lack them."""

    SINGLE = 0
    BOTH = 1
    ANY = 2
    NONE = 3


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A Stokes parameter in terms of two correlations, its hands.

    Its value is factors[0] V[hands[0]] + factors[1] V[hands[1]] for `Rule.BOTH`, their weighted mean for `Rule.ANY`, and
    V[hands[0]] for `Rule.SINGLE`. Its weight is that of the value: for `Rule.BOTH`, 4 / (1/w_0 + 1/w_1); for `Rule.NONE`,
    always 0.
    """

    rule: Rule
    hands: tuple[int, int]  # places on the correlation axis; the second is -1 for `Rule.SINGLE`
    factors: tuple[complex, complex]


_PAIRS = {
    "I": (("XX", "YY", (0.5, 0.5)), ("RR", "LL", (0.5, 0.5))),
    "Q": (("XX", "YY", (0.5, -0.5)), ("RL", "LR", (0.5, 0.5))),
    "U": (("XY", "YX", (0.5, 0.5)), ("RL", "LR", (-0.5j, 0.5j))),
    "V": (("XY", "YX", (-0.5j, 0.5j)), ("RR", "LL", (0.5, -0.5))),
}


def correlation_names(corr_types: Sequence[int]) -> list[str]:
    """Return the names of casacore's Stokes codes."""
    return [CORRELATION_NAMES.get(code, f"type {code}") for code in corr_types]


def combinations(corr_types: Sequence[int], stokes: Sequence[str]) -> tuple[Combination, ...]:
    """Work out how to form each wanted Stokes parameter, by `Rule.NONE` if the data lack a hand that it needs.

    Parameters
    ----------
    corr_types : sequence of int
        casacore's Stokes codes in the order of the data's correlation axis.
    stokes : sequence of str
        ``"I"``, ``"Q"``, ``"U"``, ``"V"``, ``"pseudoI"``, or the name of a parallel hand.

    Examples
    --------
    >>> (c,) = combinations((5, 8), ("V",))  # RR, LL
    >>> c.factors
    (0.5, -0.5)
    """
    names = correlation_names(corr_types)
    return tuple(_combination(names, name) for name in stokes)


def _single(hand: int) -> Combination:
    return Combination(rule=Rule.SINGLE, hands=(hand, -1), factors=(1.0, 0.0))


def _combination(names: list[str], wanted: str) -> Combination:
    parameter = "I" if wanted == "pseudoI" else wanted
    if parameter in names:
        return _single(names.index(parameter))
    for first, second, factors in _PAIRS.get(parameter, ()):
        if first in names and second in names:
            rule = Rule.ANY if wanted == "pseudoI" else Rule.BOTH
            return Combination(rule=rule, hands=(names.index(first), names.index(second)), factors=factors)
    if parameter == "I":
        for hand in ("XX", "YY", "RR", "LL"):
            if hand in names:
                return _single(names.index(hand))
    return Combination(rule=Rule.NONE, hands=(0, -1), factors=(0.0, 0.0))
