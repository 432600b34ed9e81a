"""Stokes parameters from correlations, as tclean means them.

In: the correlation types of a DATA_DESC_ID (casacore codes) and the wanted Stokes parameters. Out: one `Combination` per
parameter, which the ingest loop applies to every sample. Equations: Hamaker & Bregman 1996 (A&AS 117, 161), linear feeds
XX = I + Q, XY = U + iV, YX = U - iV, YY = I - Q; circular feeds RR = I + V, RL = Q + iU, LR = Q - iU, LL = I - V.

* ``I``: the mean of both parallel hands, with the weight of that mean; a sample with either hand flagged is dropped.
  Data with one hand only image as I from it.
* ``pseudoI``: the weighted mean of whatever parallel hands are there.
* ``Q``, ``U``, ``V``: half the sum or difference of the two hands they need, both required.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gpucube.errors import GpucubeError

CORRELATION_NAMES = {
    1: "I", 2: "Q", 3: "U", 4: "V",
    5: "RR", 6: "RL", 7: "LR", 8: "LL",
    9: "XX", 10: "XY", 11: "YX", 12: "YY",
}  # fmt: skip


class Rule(IntEnum):
    """How the two hands of a combination are put together."""

    SINGLE = 0
    BOTH = 1
    ANY = 2


@dataclass(frozen=True)
class Combination:
    """value = factor_a * V[a] + factor_b * V[b] (the weighted mean of V[a] and V[b] for `Rule.ANY`).

    The weight is that of the value: for `Rule.BOTH`, 4 / (1/w_a + 1/w_b).
    """

    rule: Rule
    a: int
    b: int
    factor_a: complex
    factor_b: complex


_PAIRS = {
    "I": (("XX", "YY", 0.5, 0.5), ("RR", "LL", 0.5, 0.5)),
    "Q": (("XX", "YY", 0.5, -0.5), ("RL", "LR", 0.5, 0.5)),
    "U": (("XY", "YX", 0.5, 0.5), ("RL", "LR", -0.5j, 0.5j)),
    "V": (("XY", "YX", -0.5j, 0.5j), ("RR", "LL", 0.5, -0.5)),
}


def combinations(corr_types: tuple[int, ...], stokes: tuple[str, ...], where: str) -> tuple[Combination, ...]:
    """Say how each wanted Stokes parameter is made.

    Parameters
    ----------
    corr_types : tuple of int
        casacore's Stokes codes in the order of the data's correlation axis.
    stokes : tuple of str
        ``"I"``, ``"Q"``, ``"U"``, ``"V"`` or ``"pseudoI"``.
    where : str
        How the message names the data.

    Raises
    ------
    GpucubeError
        The data lack a hand that a parameter needs.
    """
    names = [CORRELATION_NAMES.get(code, f"type {code}") for code in corr_types]
    return tuple(_combination(names, name, where) for name in stokes)


def _combination(names: list[str], wanted: str, where: str) -> Combination:
    parameter = "I" if wanted == "pseudoI" else wanted
    if parameter in names:
        return Combination(Rule.SINGLE, names.index(parameter), -1, 1.0, 0.0)
    for first, second, factor_a, factor_b in _PAIRS[parameter]:
        if first in names and second in names:
            rule = Rule.ANY if wanted == "pseudoI" else Rule.BOTH
            return Combination(rule, names.index(first), names.index(second), factor_a, factor_b)
    if parameter == "I":
        for hand in ("XX", "YY", "RR", "LL"):
            if hand in names:
                return Combination(Rule.SINGLE, names.index(hand), -1, 1.0, 0.0)
    raise GpucubeError(f"stokes {wanted} cannot be made from {where}: it has correlations {', '.join(names)}")
