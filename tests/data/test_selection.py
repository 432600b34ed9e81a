"""What the parameters select of a MeasurementSet."""

from __future__ import annotations

import pytest

from gpucube.data.selection import choose_windows
from gpucube.errors import GpucubeError


@pytest.mark.parametrize(
    ("spw", "expected"),
    [
        ("", {0: None, 1: None, 2: None}),
        ("2,0", {2: None, 0: None}),
        ("1:3~5", {1: [3, 4, 5]}),
        ("1:3~5;1~2", {1: [3, 4, 5, 1, 2]}),
        ("*:0~1", {0: [0, 1], 1: [0, 1], 2: [0, 1]}),
        ("1:3~5,1:4~6", {1: [3, 4, 5, 6]}),
        ("1:3~5,1", {1: None}),
        ("1,1:3~5", {1: None}),
        ("0:1,0~1:3", {0: [1, 3], 1: [3]}),
    ],
)
def test_windows_and_channels_named_by_spw(spw, expected):
    chosen = choose_windows(spw, 3)
    assert list(chosen) == list(expected)
    for window, channels in expected.items():
        assert (chosen[window] is None) == (channels is None)
        if channels is not None:
            assert chosen[window].tolist() == channels


def test_a_window_that_is_not_there_is_refused():
    with pytest.raises(GpucubeError, match="no spectral window 3, they are numbered 0 to 2"):
        choose_windows("1~3", 3)
