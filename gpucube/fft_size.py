"""Sizes that are quick to Fourier transform."""
