"""Sizes that a Fourier transform handles quickly are even and have small prime factors only."""

from __future__ import annotations

import pytest

from gpucube.fft_size import good_fft_size


@pytest.mark.parametrize(("at_least", "good"), [(0, 2), (31, 32), (101, 108), (512, 512), (1021, 1024), (2050, 2058)])
def test_good_sizes_are_even_products_of_small_primes(at_least: int, good: int) -> None:
    assert good_fft_size(at_least) == good


def test_fft_sizes_are_the_smallest_even_ones_of_small_factors() -> None:
    def small_factors(n: int) -> bool:
        for factor in (2, 3, 5, 7):
            while n % factor == 0:
                n //= factor
        return n == 1

    for at_least in [*range(1, 400), 1025, 4097, 10001]:
        expected = next(n for n in range(max(at_least, 2), 4 * at_least + 4) if n % 2 == 0 and small_factors(n))
        assert good_fft_size(at_least) == expected
