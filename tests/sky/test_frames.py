"""Spectral frames: casacore's own table of them, and names that FITS knows."""

from __future__ import annotations

import pytest
from casacore.measures import measures

from gpucube.sky.frames import FRAMES, frame_of_code


def test_names_and_codes_are_those_of_casacore() -> None:
    """casacore lists the names in the order of their codes."""
    dm = measures()
    names = list(dm.list_codes(dm.frequency("TOPO", "1GHz"))["normal"])
    assert [frame.name for frame in sorted(FRAMES.values(), key=lambda frame: frame.code)] == names
    assert [frame_of_code(code) for code in range(len(names))] == [FRAMES[name] for name in names]


@pytest.mark.parametrize("code", [-1, 9, 64])
def test_an_unknown_code_is_no_frame(code: int) -> None:
    assert frame_of_code(code) is None


def test_fits_names_are_those_of_the_standard() -> None:
    """Greisen et al. 2006 (WCS paper III), table 3, typed from there."""
    standard = {"TOPOCENT", "GEOCENTR", "BARYCENT", "LSRK", "LSRD", "GALACTOC", "LOCALGRP", "CMBDIPOL", "SOURCE"}
    assert {frame.specsys for frame in FRAMES.values()} == standard  # HELIOCEN has no code in casacore
