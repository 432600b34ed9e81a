"""The map from input channels to output channels: start, width, nchan, and overlapping windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

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


def test_counting_begins_at_the_first_selected_channel_and_goes_through_gaps() -> None:
    channels = output_channels([window(selected=[2, 3, 4, 8, 9, 10])], start=1, width=2)
    assert members(channels) == {0: [3, 4], 2: [8], 3: [9, 10]}  # channels 5 and 6 are blank, and so is 7
    assert channels.frequency == pytest.approx(100e9 + STEP * np.array([3.5, 5.5, 7.5, 9.5]), rel=1e-14)


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
    with pytest.raises(GpucubeError, match="no channel is selected in w"):
        output_channels([window(selected=[])])


# Windows and gaps: one regular axis


@pytest.mark.parametrize("gap", [0, 1, 9])
@pytest.mark.parametrize("step", [STEP, -STEP])
def test_windows_side_by_side_make_one_regular_axis_in_any_order(gap: int, step: float) -> None:
    windows = [window(0, 4, step), window((4 + gap) * step / STEP, 6, step)]
    for order in ((0, 1), (1, 0)):
        channels = output_channels([windows[k] for k in order])
        assert channels.frequency == pytest.approx(100e9 + step * np.arange(10 + gap), rel=1e-14)
        assert np.array_equal(channels.width, np.full(10 + gap, STEP))
        assert members(channels, order.index(0)) == {c: [c] for c in range(4)}
        assert members(channels, order.index(1)) == {4 + gap + c: [c] for c in range(6)}
        assert channels.warnings == ()


def test_a_gap_in_the_selection_of_a_window_stays_blank() -> None:
    channels = output_channels([window(selected=[1, 4, 5, 8])])
    assert channels.frequency == pytest.approx(100e9 + STEP * np.arange(1, 9), rel=1e-14)
    assert members(channels) == {0: [1], 3: [4], 4: [5], 7: [8]}


def test_a_gap_within_the_frequencies_of_a_window_stays_blank() -> None:
    """Channels were left out when the data were written."""
    w = window(0, 20)
    kept = np.r_[0:4, 9:12, 13]
    w = replace(w, frequency=w.frequency[kept], width=w.width[kept], selected=np.arange(8))
    channels = output_channels([w])
    assert channels.frequency == pytest.approx(100e9 + STEP * np.arange(14), rel=1e-14)
    assert members(channels) == {int(place): [k] for k, place in enumerate(kept)}


def test_channels_that_are_stored_in_no_order_are_sorted() -> None:
    w = window(0, 6)
    shuffled = [2, 0, 5, 1, 4, 3]
    channels = output_channels([replace(w, frequency=w.frequency[shuffled])])
    assert channels.frequency == pytest.approx(w.frequency, rel=1e-14)
    assert members(channels) == {place: [k] for k, place in enumerate(shuffled)}


def test_averaging_reaches_across_neighbouring_windows_and_gaps() -> None:
    channels = output_channels([window(0, 4), window(5, 4)], start=2, width=4)
    assert members(channels, 0) == {0: [2, 3]}
    assert members(channels, 1) == {0: [0]}
    # each window's own mean scales its uvw; the cube's channel lies in the middle of all four places
    assert channels.frequency[0] == pytest.approx(100e9 + 3.5 * STEP, rel=1e-14)
    assert [m.frequency[0] for m in channels.maps] == pytest.approx([100e9 + 2.5 * STEP, 100e9 + 5 * STEP], rel=1e-14)
    assert channels.width[0] == 4 * STEP


def test_an_output_channel_all_of_whose_places_are_in_the_gap_is_blank() -> None:
    channels = output_channels([window(0, 4), window(8, 4)], width=2)
    assert members(channels, 0) == {0: [0, 1], 1: [2, 3]}
    assert members(channels, 1) == {4: [0, 1], 5: [2, 3]}
    assert len(channels.frequency) == 6


@pytest.mark.parametrize("hertz", [0.0, 1.0, -1.0, 900.0])  # the last is 0.009 channel
@pytest.mark.parametrize("step", [STEP, -STEP])
def test_windows_in_the_same_place_share_their_channels(hertz: float, step: float) -> None:
    first, second = window(0, 6, step), window(hertz / STEP, 6, step)
    for windows in ([first, second], [second, first]):
        channels = output_channels(windows)
        assert channels.frequency == pytest.approx(first.frequency, abs=1000)
        assert members(channels, 0) == members(channels, 1) == {c: [c] for c in range(6)}
        # whatever the cube's axis says, every row keeps its own frequency
        assert [m.frequency.tolist() for m in channels.maps] == [w.frequency.tolist() for w in windows]
        assert channels.warnings == ()


def test_twenty_equal_windows_are_one_set_of_channels() -> None:
    channels = output_channels([window(0, 6, label=str(k)) for k in range(20)])
    assert len(channels.frequency) == 6
    assert all(members(channels, k) == {c: [c] for c in range(6)} for k in range(20))


@pytest.mark.parametrize("offset", [0.02, -0.05, 0.099])
def test_channels_that_almost_agree_are_imaged_together_with_a_warning(offset: float) -> None:
    channels = output_channels([window(0, 6, label="a.ms"), window(2 + offset, 6, label="b.ms")])
    assert len(channels.frequency) == 8
    (warning,) = channels.warnings
    assert re.search(rf"[ab]\.ms are up to {abs(offset):.2g} channel \({abs(offset) * 100:.3g} kHz\) away", warning)


def test_neighbours_at_a_distance_of_almost_one_channel_keep_their_frequencies() -> None:
    """Two wide channels with a slit between them: a straight line fits them exactly."""
    channels = output_channels([window(0, 1), window(1.08, 1)])
    assert channels.frequency == pytest.approx(100e9 + STEP * np.array([0, 1.08]), rel=1e-14)
    assert channels.warnings == ()


@pytest.mark.parametrize("place", [0.3, 5.5, 6.5, -7.2, 40.4])
def test_a_fraction_of_a_channel_apart_is_refused_wherever_the_windows_lie(place: float) -> None:
    windows = [window(0, 6, label="a.ms spectral window 0"), window(place, 6, label="b.ms spectral window 3")]
    off = abs(place - round(place))
    for order in (windows, windows[::-1]):
        with pytest.raises(GpucubeError) as caught:
            output_channels(order)
        message = str(caught.value)
        assert "a.ms spectral window 0" in message and "b.ms spectral window 3" in message and "\n" not in message
        assert f"{off:.2g} channel ({off * 100:.3g} kHz) apart" in message


def test_widths_that_almost_agree_are_refused_where_they_add_up() -> None:
    """0.2 % of a channel more in each of 100 channels."""
    with pytest.raises(GpucubeError, match=r"are 0\.2 channel \(.*\) apart"):
        output_channels([window(0, 101), window(0, 101, 1.002 * STEP)])


@pytest.mark.parametrize("place", [0, 50])
def test_windows_of_different_resolution_are_refused(place: int) -> None:
    windows = [window(place, 12, STEP / 2, label="fine"), window(0, 6, label="coarse")]
    for order in (windows, windows[::-1]):
        with pytest.raises(
            GpucubeError, match=r"fine and coarse have channels of different width \(50000 and 100000 Hz\)"
        ):
            output_channels(order)


@pytest.mark.parametrize("step", [STEP, -STEP])
def test_a_shifted_window_shares_what_it_can_and_adds_the_rest_in_order_of_frequency(step: float) -> None:
    # the second execution lies 3 channels before the first: 3 new channels in front, 3 shared, 3 only in the first
    first, second = window(0, 6, step), window(-3 * step / STEP, 6, step)
    channels = output_channels([first, second])
    expected = 100e9 + step * np.arange(-3, 6)
    assert channels.frequency == pytest.approx(expected, rel=1e-14)
    assert members(channels, 0) == {3 + c: [c] for c in range(6)}
    assert members(channels, 1) == {c: [c] for c in range(6)}


def test_the_axis_rises_if_any_window_rises() -> None:
    rising, falling = window(0, 4), window(5, 4, -STEP)  # 0 1 2 3 and 5 4 3 2
    for k, windows in enumerate(([falling, rising], [rising, falling])):
        channels = output_channels(windows)
        assert channels.frequency == pytest.approx(100e9 + STEP * np.arange(6), rel=1e-14)
        assert members(channels, k) == {5: [0], 4: [1], 3: [2], 2: [3]}


def test_single_channels_rise_or_fall_with_the_sign_of_their_width() -> None:
    rising = output_channels([window(0, 1), window(3, 1)])
    falling = output_channels([window(0, 1, -STEP), window(3, 1, -STEP)])
    assert rising.frequency == pytest.approx(100e9 + STEP * np.arange(4), rel=1e-14)
    assert falling.frequency == pytest.approx(100e9 + STEP * np.arange(3, -1, -1), rel=1e-14)


def test_a_warning_names_the_ends_of_a_wide_gap() -> None:
    channels = output_channels([window(500, 12, label="b.ms spectral window 0"), window(0, 12, label="a.ms")])
    assert len(channels.frequency) == 512
    (warning,) = channels.warnings
    assert warning.startswith(
        "488 of 512 channels are blank, because a.ms and b.ms spectral window 0 are 48.9 MHz apart"
    )


def test_a_gap_that_would_make_a_huge_cube_is_refused_with_what_to_select() -> None:
    """1 GHz apart in channels of 1 kHz; nothing of that size may be allocated."""
    far = [window(0, 16, 1e3, label="low"), window(1e4, 16, 1e3, label="high"), window(1e10, 16, 1e3, label="X rays")]
    with pytest.raises(GpucubeError) as caught:
        output_channels(far[:2])
    assert "999984 of 1000016 channels would be blank, because low and high are 1 GHz apart" in str(caught.value)
    assert "`spw`" in str(caught.value) and "`start`" in str(caught.value)
    with pytest.raises(GpucubeError, match=r"1e\+03 THz apart"):
        output_channels(far)
    # but a part of it can be imaged
    assert members(output_channels(far[:2], 1_000_000, 1, 16), 1) == {c: [c] for c in range(16)}
    with pytest.raises(GpucubeError, match=r"no data in the 5 channels from `start=500`: low and high are 1 GHz apart"):
        output_channels(far[:2], 500, 1, 5)


def optical(nchan: int = 40) -> WindowChannels:
    """Channels even in wavelength: their distances grow by a tenth from the first to the last."""
    frequency = 1 / np.linspace(1 / 100e9, 1 / (100e9 + nchan * STEP), nchan)
    uneven = 100e9 + (frequency - 100e9) * (1 + 0.05 * np.linspace(0, 1, nchan))
    return WindowChannels(label="w", frequency=uneven, width=np.gradient(uneven), selected=np.arange(nchan))


def test_a_window_with_uneven_channels_keeps_them() -> None:
    w = optical()
    channels = output_channels([w])
    assert np.array_equal(channels.frequency, w.frequency)
    assert np.array_equal(channels.width, np.abs(w.width))
    # twice the same, and a part of it, go together; blank channels are the window's own
    both = output_channels([replace(w, selected=np.array([3, 30])), w, replace(w, selected=np.array([5]))])
    assert np.array_equal(both.frequency, w.frequency)
    assert members(both, 0) == {3: [3], 30: [30]}
    part = output_channels([replace(w, selected=np.array([3, 4, 10]))])
    assert np.array_equal(part.frequency, w.frequency[3:11])


@pytest.mark.parametrize("width", [STEP, 0.0])
def test_two_channels_of_the_same_frequency_are_refused(width: float) -> None:
    w = window(0, 4)
    for frequency in (w.frequency[[0, 1, 1, 2]], w.frequency[[1, 1, 1, 1]]):
        with pytest.raises(GpucubeError, match="two channels of w have the same frequency"):
            output_channels([replace(w, frequency=frequency, width=np.full(4, width))])


def test_a_single_channel_without_a_width_is_imaged() -> None:
    assert len(output_channels([window(0, 1, 0.0)]).frequency) == 1


@st.composite
def _windows(draw: st.DrawFn) -> list[WindowChannels]:
    found = []
    for k in range(draw(st.integers(1, 4))):
        nchan = draw(st.integers(1, 12))
        selected = draw(st.sets(st.integers(0, nchan - 1), min_size=1))
        place = draw(st.integers(-20, 20)) + draw(st.floats(-0.004, 0.004))
        found.append(window(place, nchan, draw(st.sampled_from([STEP, -STEP])), sorted(selected), label=str(k)))
    return found


@settings(max_examples=150, deadline=None)
@given(_windows(), st.integers(1, 4), st.booleans(), st.randoms())
def test_every_selected_channel_is_where_its_frequency_says_whatever_the_order_of_the_windows(
    windows: list[WindowChannels], width: int, backwards: bool, random: Random
) -> None:
    try:
        channels = output_channels(windows, None, -width if backwards else width)
    except GpucubeError as error:
        assert "too wide" in str(error)  # the only way in which these selections can be wrong
        return
    step = np.diff(channels.frequency)
    falls = all(w.frequency[-1] < w.frequency[0] if len(w.frequency) > 1 else w.width[0] < 0 for w in windows)
    # frequencies within 0.004 channel of whole places: steps differ by twice that at most
    assert step == pytest.approx(np.full(len(step), width * STEP * (-1 if falls != backwards else 1)), abs=0.009 * STEP)
    assert np.array_equal(channels.width, np.full(len(channels.frequency), width * STEP))
    for w, m in zip(windows, channels.maps, strict=True):
        assert len(set(m.members.tolist())) == len(m.members), "an input channel is used twice"
        assert set(m.members.tolist()) <= set(w.selected.tolist())
        assert np.all(np.diff(m.output) > 0)
        assert (m.offsets[0], m.offsets[-1]) == (0, len(m.members))
        assert np.all(np.diff(m.offsets) >= 1)
        output = np.repeat(m.output, np.diff(m.offsets))
        off = np.abs(w.frequency[m.members] - channels.frequency[output])
        assert np.all(off < 0.5 * (width - 1) * STEP + 0.01 * STEP), "a channel is not where its frequency says"
        for k in range(len(m.output)):
            mean = w.frequency[m.members[m.offsets[k] : m.offsets[k + 1]]].mean()
            assert m.frequency[k] == pytest.approx(mean, rel=1e-14)
        if width == 1:
            assert len(m.members) == len(w.selected), "a selected channel was lost"
    order = list(range(len(windows)))
    random.shuffle(order)
    again = output_channels([windows[k] for k in order], None, -width if backwards else width)
    assert np.array_equal(again.frequency, channels.frequency)
    for place, k in enumerate(order):
        assert members(again, place) == members(channels, k)
