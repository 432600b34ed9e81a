"""Stokes parameters from correlations: the feed equations inverted, and the weight of the result."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpucube.data.channels import ChannelMap
from gpucube.data.rows import Block
from gpucube.data.stokes import Rule, combinations
from gpucube.data.transpose import KeptRows, transpose

CODE = {"I": 1, "RR": 5, "RL": 6, "LR": 7, "LL": 8, "XX": 9, "XY": 10, "YX": 11, "YY": 12}


def feeds(i: float, q: float, u: float, v: float) -> dict[str, complex]:
    """What each pair of feeds measures (Hamaker & Bregman 1996, A&AS 117, 161)."""
    return {
        "XX": i + q, "XY": u + 1j * v, "YX": u - 1j * v, "YY": i - q,
        "RR": i + v, "RL": q + 1j * u, "LR": q - 1j * u, "LL": i - v,
    }  # fmt: skip


def form(names: tuple[str, ...], wanted: str, values: dict[str, complex]) -> complex:
    (c,) = combinations(tuple(CODE[n] for n in names), (wanted,))
    return sum(factor * values[names[hand]] for factor, hand in zip(c.factors, c.hands, strict=True) if hand >= 0)


@pytest.mark.parametrize("basis", [("XX", "XY", "YX", "YY"), ("RR", "RL", "LR", "LL")])
@pytest.mark.parametrize("wanted", ["I", "Q", "U", "V"])
def test_the_feed_equations_are_inverted_whatever_the_order_of_the_correlations(
    basis: tuple[str, ...], wanted: str
) -> None:
    sky = {"I": 3.0, "Q": 0.7, "U": -1.1, "V": 0.4}
    values = feeds(*sky.values())
    for names in itertools.permutations(basis):
        assert form(names, wanted, values) == pytest.approx(sky[wanted], abs=1e-15)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [(("LL", "RR"), "I"), (("LL", "RR"), "V"), (("YY", "XX"), "I"), (("YY", "XX"), "Q"), (("XY", "YX"), "U")],
)
def test_two_hands_are_enough_for_what_they_carry(names: tuple[str, ...], wanted: str) -> None:
    sky = {"I": 3.0, "Q": 0.7, "U": -1.1, "V": 0.4}
    assert form(names, wanted, feeds(*sky.values())) == pytest.approx(sky[wanted], abs=1e-15)


@pytest.mark.parametrize("hand", ["XX", "YY", "RR", "LL", "I"])
@pytest.mark.parametrize("wanted", ["I", "pseudoI"])
def test_a_single_hand_images_as_stokes_i(hand: str, wanted: str) -> None:
    (c,) = combinations((CODE[hand],), (wanted,))
    assert (c.rule, c.hands, c.factors[0]) == (Rule.SINGLE, (0, -1), 1.0)


def test_pseudo_i_takes_whatever_hand_is_there() -> None:
    (c,) = combinations((8, 6, 7, 5), ("pseudoI",))
    assert c.rule is Rule.ANY
    assert set(c.hands) == {0, 3}


def test_several_parameters_come_in_the_order_asked_for() -> None:
    found = combinations((5, 8), ("V", "I"))
    assert [c.factors[1].real for c in found] == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("XX",), "Q"),
        (("XX", "YY"), "V"),
        (("XX", "YY"), "U"),
        (("RR", "LL"), "Q"),
        (("XY",), "I"),
        (("RL",), "pseudoI"),
    ],
)
def test_a_parameter_whose_hands_are_missing_has_no_samples(names: tuple[str, ...], wanted: str) -> None:
    found = combinations(tuple(CODE[n] for n in names), (wanted,))
    assert [c.rule for c in found] == [Rule.NONE]
    ones = np.ones((5, 1, len(names)))
    planes = transpose(
        Block(np.zeros((5, 3)), ones.astype(np.complex64), ones == 0, ones.astype(np.float32)),
        KeptRows(np.arange(5), np.ones(5, bool), np.zeros(5)),
        ChannelMap(
            output=np.array([0]),
            offsets=np.array([0, 1]),
            members=np.array([0]),
            member_frequency=np.array([1e9]),
            frequency=np.array([1e9]),
        ),
        found,
    )
    assert not planes.vis.any() and not planes.weight.any() and not planes.counts.any()


@pytest.mark.parametrize(
    ("names", "wanted"), [(("XX", "YY"), "I"), (("XX", "YY"), "Q"), (("RR", "LL"), "pseudoI"), (("RR",), "I")]
)
@pytest.mark.parametrize("averaged", [1, 3])
def test_the_weight_is_that_of_the_value(names: tuple[str, ...], wanted: str, averaged: int) -> None:
    """Noise of known variance goes in; what comes out has the variance 1 / weight that is written beside it."""
    nrow, rng = 40_000, np.random.default_rng(5)
    sigma = np.array([0.5, 2.0, 1.0])[:, None] * np.array([1.0, 3.0])[: len(names)]
    sigma = sigma[:averaged]
    noise = rng.standard_normal((nrow, averaged, len(names), 2)) @ [1, 1j] * sigma
    weight = np.broadcast_to(1 / sigma**2, noise.shape).astype(np.float32)
    block = Block(
        np.zeros((nrow, 3)),
        np.ascontiguousarray(noise, np.complex64),
        np.zeros(noise.shape, bool),
        np.ascontiguousarray(weight),
    )
    channels = ChannelMap(
        output=np.array([0]),
        offsets=np.array([0, averaged]),
        members=np.arange(averaged),
        member_frequency=np.full(averaged, 1e9),
        frequency=np.array([1e9]),
    )
    found = transpose(
        block,
        KeptRows(np.arange(nrow), np.ones(nrow, bool), np.zeros(nrow)),
        channels,
        combinations(tuple(CODE[n] for n in names), (wanted,)),
    )
    vis, weight_out = found.vis, found.weight
    assert np.ptp(weight_out) == 0
    # variance of nrow Gaussian numbers is known to sqrt(2 / nrow) = 0.7 %: five times that
    assert np.var(vis.real) * weight_out[0, 0, 0] == pytest.approx(1.0, abs=0.035)
    assert np.var(vis.imag) * weight_out[0, 0, 0] == pytest.approx(1.0, abs=0.035)
    assert found.counts[0, 0] == nrow and found.seen.all()
    assert found.power[0, 0] / (2 * nrow) == pytest.approx(1.0, abs=0.025)
