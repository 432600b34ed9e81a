"""Image and grid sizes that a Fourier transform handles quickly."""

from __future__ import annotations


def good_fft_size(at_least: int) -> int:
    """Return the smallest even size, not below `at_least` nor 2, that has no prime factor above 7.

    FFTW's, ducc0's and cuFFT's fast paths all cover these factors. The sizes of `scipy.fft.next_fast_len` also have the
    factor 11, which sends cuFFT on a slower path.
    """
    size = max(2, at_least + at_least % 2)
    while not _has_small_factors(size):
        size += 2
    return size


def _has_small_factors(size: int) -> bool:
    for factor in (2, 3, 5, 7):
        while size % factor == 0:
            size //= factor
    return size == 1
