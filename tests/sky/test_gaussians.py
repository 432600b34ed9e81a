"""Gaussians as quadratic forms: a taper falls to one half at its half widths."""

from __future__ import annotations

import numpy as np
import pytest

from gpucube.sky.beam import sampled_gaussian, taper_form


@pytest.mark.parametrize("degrees", [0, 30, -75, 90])
def test_a_taper_is_one_half_at_its_half_widths(degrees: float) -> None:
    """Position angles run from v (north) through u (east); 1e-14 is rounding."""
    along, across, angle = 5000.0, 2000.0, np.radians(degrees)
    t0, t1, t2 = taper_form((along, across, degrees))

    def taper(u: float, v: float) -> float:
        return float(np.exp(-(t0 * u * u + t1 * u * v + t2 * v * v)))

    sin, cos = np.sin(angle), np.cos(angle)
    assert taper(along * sin, along * cos) == pytest.approx(0.5, rel=1e-14)
    assert taper(across * cos, -across * sin) == pytest.approx(0.5, rel=1e-14)
    # between the axes the exponents add: 1/2 of each, where both are at 1 / sqrt(2) of their half widths
    u, v = (along * sin + across * cos) / np.sqrt(2), (along * cos - across * sin) / np.sqrt(2)
    assert taper(u, v) == pytest.approx(0.5, rel=1e-14)


def test_no_taper_leaves_every_weight_as_it_is() -> None:
    assert np.array_equal(taper_form(()), np.zeros(3))


def test_samples_are_symmetric_about_a_peak_of_one() -> None:
    samples = sampled_gaussian((0.3, 0.1, 0.5), 6, 8)
    assert samples.shape == (13, 17) and samples.dtype == np.float32
    assert samples[6, 8] == samples.max() == 1
    assert np.array_equal(samples, samples[::-1, ::-1])
    assert samples[7, 10] == pytest.approx(np.exp(-(0.3 * 4 + 2 * 0.1 * 2 + 0.5)), rel=1e-7)
