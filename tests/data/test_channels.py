"""The map from input channels to output channels: start, width, nchan, and overlapping windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucube.data.channels import OutputChannels, WindowChannels, output_channels
from gpucube.errors import GpucubeError

STEP = 1e5


def window(
    first: float = 0.0,
    nchan: int = 12,
    step: float = STEP,
    selected: Sequence[int] | np.ndarray | None = None,
    label: str = "w",
) -> WindowChannels:
    """A window whose first channel lies `first` channels of 100 kHz above 100 GHz."""
    frequency = 100e9 + first * STEP + step * np.arange(nchan)
    chosen = np.arange(nchan) if selected is None else np.asarray(selected, int)
    return WindowChannels(label=label, frequency=frequency, width=np.full(nchan, step), selected=chosen)


def members(channels: OutputChannels, of_window: int = 0) -> dict[int, list[int]]:
    """Output channel -> its input channels in one window."""
    m = channels.maps[of_window]
    return {int(o): m.members[a:b].tolist() for o, a, b in zip(m.output, m.offsets, m.offsets[1:], strict=False)}


@pytest.mark.parametrize(
    ("start", "width", "nchan", "expected"),
    [
        (None, 1, -1, [[c] for c in range(12)]),
        (3, 1, 4, [[3], [4], [5], [6]]),
        (2, 3, -1, [[2, 3, 4], [5, 6, 7], [8, 9, 10]]),  # channel 11 alone makes no group
        (0, 5, 2, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
        (None, -1, -1, [[c] for c in range(11, -1, -1)]),
        (4, -1, 3, [[4], [3], [2]]),
        (None, -3, -1, [[9, 10, 11], [6, 7, 8], [3, 4, 5], [0, 1, 2]]),
        (7, -3, -1, [[5, 6, 7], [2, 3, 4]]),  # 0 and 1 make no group
        (0, 12, -1, [list(range(12))]),
        (11, 1, 1, [[11]]),
    ],
)
def test_start_width_nchan_count_selected_channels(
    start: int | None, width: int, nchan: int, expected: list[list[int]]
) -> None:
    w = window()
    channels = output_channels([w], start, width, nchan)
    got = members(channels)
    assert [sorted(got[o]) for o in range(len(expected))] == expected
    assert len(channels.frequency) == len(got) == len(expected)
    for o, group in enumerate(expected):
        # exact to rounding: sums of a dozen frequencies of 1e11 Hz
        assert channels.frequency[o] == pytest.approx(w.frequency[group].mean(), rel=1e-14)
        assert channels.width[o] == len(group) * STEP
        assert channels.maps[0].frequency[o] == pytest.approx(w.frequency[group].mean(), rel=1e-14)


def test_counting_is_along_the_selection_not_along_the_window() -> None:
    channels = output_channels([window(selected=[2, 3, 4, 8, 9, 10])], start=1, width=2)
    assert members(channels) == {0: [3, 4], 1: [8, 9]}


def test_falling_frequency_keeps_the_order_of_the_data_and_positive_widths() -> None:
    w = window(step=-STEP)
    channels = output_channels([w], start=2, width=2, nchan=3)
    assert members(channels) == {0: [2, 3], 1: [4, 5], 2: [6, 7]}
    assert np.all(np.diff(channels.frequency) < 0)
    assert np.array_equal(channels.width, np.full(3, 2 * STEP))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": 12}, ["start=12", "0 to 11"]),
        ({"start": -1}, ["start=-1", "0 to 11"]),
        ({"start": 10, "nchan": 3}, ["nchan=3", "start=10", "2 output channels"]),
        ({"width": 5, "nchan": 3}, ["nchan=3", "width=5", "2 output channels"]),
        ({"width": 13}, ["width=13", "12 channels"]),
        ({"start": 1, "width": -3}, ["width=-3", "start=1"]),
    ],
)
def test_what_lies_beyond_the_selection_is_refused_in_one_line(arguments: dict[str, int], words: list[str]) -> None:
    with pytest.raises(GpucubeError) as caught:
        output_channels([window()], **arguments)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_an_empty_selection_is_refused() -> None:
    with pytest.raises(GpucubeError, match="no channel is selected"):
        output_channels([window(selected=[])])


def test_windows_follow_one_another_in_the_order_selected() -> None:
    low, high = window(0, 4), window(100, 3)
    channels = output_channels([high, low])
    assert np.array_equal(channels.frequency, np.concatenate([high.frequency, low.frequency]))
    assert members(channels, 0) == {0: [0], 1: [1], 2: [2]}
    assert members(channels, 1) == {3: [0], 4: [1], 5: [2], 6: [3]}


def test_averaging_may_reach_across_neighbouring_windows() -> None:
    channels = output_channels([window(0, 4), window(4, 4)], start=2, width=4)
    assert members(channels, 0) == {0: [2, 3]}
    assert members(channels, 1) == {0: [0, 1]}
    # each window's own mean scales its uvw; the cube's channel lies in the middle of all four
    assert channels.frequency[0] == pytest.approx(100e9 + 3.5 * STEP, rel=1e-14)
    assert [m.frequency[0] for m in channels.maps] == pytest.approx([100e9 + 2.5 * STEP, 100e9 + 4.5 * STEP], rel=1e-14)


def test_windows_that_merely_touch_are_neighbours() -> None:
    first, second = window(6, 6), window(0, 6)
    channels = output_channels([first, second])
    # sharing a band edge is no overlap: not sorted, in the order selected
    assert np.array_equal(channels.frequency, np.concatenate([first.frequency, second.frequency]))


@pytest.mark.parametrize("offset", [0.0, 0.2, -0.2, 0.49])
@pytest.mark.parametrize("step", [STEP, -STEP])
def test_windows_in_the_same_place_share_their_channels(offset: float, step: float) -> None:
    first, second = window(0, 6, step), window(offset, 6, step)
    channels = output_channels([first, second])
    assert np.array_equal(channels.frequency, first.frequency)
    assert members(channels, 0) == members(channels, 1) == {c: [c] for c in range(6)}
    assert np.array_equal(channels.maps[1].frequency, second.frequency)


@pytest.mark.parametrize("step", [STEP, -STEP])
def test_a_shifted_window_shares_what_it_can_and_adds_the_rest_in_order_of_frequency(step: float) -> None:
    # the second execution lies 3 channels before the first: 3 new channels in front, 3 shared, 3 only in the first
    first, second = window(0, 6, step), window(-3 * step / STEP, 6, step)
    channels = output_channels([first, second])
    expected = 100e9 + step * np.arange(-3, 6)
    assert channels.frequency == pytest.approx(expected, rel=1e-14)
    assert members(channels, 0) == {3 + c: [c] for c in range(6)}
    assert members(channels, 1) == {c: [c] for c in range(6)}


def test_a_window_of_the_other_sense_is_sorted_in_the_sense_of_the_first() -> None:
    rising, falling = window(0, 4), window(5, 4, -STEP)  # 0 1 2 3 and 5 4 3 2
    channels = output_channels([rising, falling])
    assert channels.frequency == pytest.approx(100e9 + STEP * np.arange(6), rel=1e-14)
    assert members(channels, 1) == {5: [0], 4: [1], 3: [2], 2: [3]}
    channels = output_channels([falling, rising])
    assert channels.frequency == pytest.approx(100e9 + STEP * np.arange(5, -1, -1), rel=1e-14)


def test_half_a_channel_apart_is_another_channel() -> None:
    channels = output_channels([window(0, 3), window(0.6, 3)])
    # 0.6, 1.6 join 1 and 2 (0.4 away); 2.6 is new
    assert channels.frequency == pytest.approx(100e9 + STEP * np.array([0, 1, 2, 2.6]), rel=1e-14)
    assert members(channels, 1) == {1: [0], 2: [1], 3: [2]}


def test_overlapping_windows_of_different_resolution_are_refused() -> None:
    with pytest.raises(GpucubeError, match="fine overlaps another spectral window with channels of another width"):
        output_channels([window(0, 6), window(0, 12, STEP / 2, label="fine")])


def test_two_channels_of_one_window_stay_two_even_where_both_would_join_the_same() -> None:
    """Channels may be wider than their spacing; the second of the two is a channel of its own."""
    narrow = window(0, 1), window(-0.4, 2, 0.7 * STEP)  # at 0; at -0.4 and 0.3
    wide = [replace(w, width=np.full(len(w.frequency), 2 * STEP)) for w in narrow]
    channels = output_channels(wide)
    assert channels.frequency == pytest.approx(100e9 + STEP * np.array([0, 0.3]), rel=1e-14)
    assert members(channels, 0) == {0: [0]}
    assert members(channels, 1) == {0: [0], 1: [1]}


def test_different_resolutions_side_by_side_are_allowed() -> None:
    channels = output_channels([window(0, 3), window(50, 3, STEP / 2)])
    assert channels.width.tolist() == [STEP] * 3 + [STEP / 2] * 3


@st.composite
def _windows(draw: st.DrawFn) -> list[WindowChannels]:
    sense = draw(st.sampled_from([STEP, -STEP]))
    found = []
    for k in range(draw(st.integers(1, 4))):
        nchan = draw(st.integers(1, 12))
        first, last = sorted(draw(st.tuples(st.integers(0, nchan - 1), st.integers(0, nchan - 1))))
        place = draw(st.floats(-20, 20, allow_nan=False))
        found.append(window(place, nchan, sense, np.arange(first, last + 1), label=str(k)))
    return found


@settings(max_examples=150, deadline=None)
@given(_windows(), st.integers(1, 4), st.booleans())
def test_an_input_channel_serves_one_output_at_most_and_every_output_has_an_input(
    windows: list[WindowChannels], width: int, backwards: bool
) -> None:
    try:
        channels = output_channels(windows, None, -width if backwards else width)
    except GpucubeError as error:
        assert "too wide" in str(error)  # the only way in which these selections can be wrong
        return
    used = np.zeros(len(channels.frequency), int)
    for w, m in zip(windows, channels.maps, strict=True):
        assert len(set(m.members.tolist())) == len(m.members), "an input channel is used twice"
        assert set(m.members.tolist()) <= set(w.selected.tolist())
        assert np.all(np.diff(m.output) > 0)
        assert m.offsets[0] == 0
        assert m.offsets[-1] == len(m.members)
        assert np.all(np.diff(m.offsets) >= 1)
        used[m.output] += np.diff(m.offsets)
        for k in range(len(m.output)):
            mean = w.frequency[m.members[m.offsets[k] : m.offsets[k + 1]]].mean()
            assert m.frequency[k] == pytest.approx(mean, rel=1e-14)
            # the members that a window gives to an output channel lie within the output channel, or share one of its
            # native channels by half a width; a gap between windows may make an output channel wide
            if width == 1:
                assert abs(m.frequency[k] - channels.frequency[m.output[k]]) < 0.5 * STEP
    assert np.all(used >= 1)
    assert np.array_equal(channels.width, np.full(len(used), width * STEP))
    if width == 1:
        assert used.sum() == sum(len(w.selected) for w in windows), "a selected channel was lost"
