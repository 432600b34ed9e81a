"""The selection of spectral windows in tclean's syntax."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucube.schema.spw import SpwRange, parse_numbers, parse_spw


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", (SpwRange(0, None),)),
        ("*", (SpwRange(0, None),)),
        ("0", (SpwRange(0, 0),)),
        ("0,2", (SpwRange(0, 0), SpwRange(2, 2))),
        ("0~3", (SpwRange(0, 3),)),
        ("0:5~20", (SpwRange(0, 0, ((5, 20),)),)),
        ("0:5~20;30~40,1", (SpwRange(0, 0, ((5, 20), (30, 40))), SpwRange(1, 1))),
        ("*:5~20", (SpwRange(0, None, ((5, 20),)),)),
        ("1~2:7", (SpwRange(1, 2, ((7, 7),)),)),
        ("3:*", (SpwRange(3, 3),)),
        (" 0 : 5 ~ 20 , 1 ", (SpwRange(0, 0, ((5, 20),)), SpwRange(1, 1))),
    ],
)
def test_syntax(text: str, ranges: tuple[SpwRange, ...]) -> None:
    assert parse_spw(text) == ranges


@pytest.mark.parametrize(
    "wrong", ["a", "0,", ",0", "0:", "0:5~", "-1", "0:5^2", "0~", "0:1.4~1.5GHz", "<3", "0;1", "1.5"]
)
def test_what_is_no_selection_is_quoted_with_a_right_one(wrong: str) -> None:
    with pytest.raises(ValueError, match="such as '0'") as caught:
        parse_spw(wrong)
    assert repr(wrong) in str(caught.value)


def test_a_range_that_ends_before_it_begins_is_turned_round_in_the_message() -> None:
    with pytest.raises(ValueError, match=r"'20~5' in '0:20~5' ends before it begins; write 5~20"):
        parse_spw("0:20~5")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3", ((3, 3),)),
        ("0,2~4", ((0, 0), (2, 4))),
        (" 1 ~ 2 , 0", ((1, 2), (0, 0))),
        ("", ()),
        ("*", ()),
        ("3C286", ()),
        ("0137+331", ()),
        ("1,", ()),
        ("0:3", ()),
    ],
)
def test_numbers_of_fields(text: str, numbers: tuple[tuple[int, int], ...]) -> None:
    assert parse_numbers(text) == numbers


def test_numbers_that_end_before_they_begin_are_no_name() -> None:
    with pytest.raises(ValueError, match="ends before it begins; write 2~4"):
        parse_numbers("0,4~2")


@given(st.text(alphabet="0123456789~:;,* ", max_size=12))
def test_any_text_is_a_selection_or_a_value_error(text: str) -> None:
    try:
        ranges = parse_spw(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert ranges
        assert all(first <= last for item in ranges for first, last in item.channels)
