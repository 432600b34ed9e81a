"""Numbers, lists, tables and suggestions in words."""

from __future__ import annotations

import pytest

from gpucube.text import counted, did_you_mean, in_words, markdown_table, ranges, size_text, with_prefix


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_600, "1 MB"), (3.4e8, "340 MB"), (5e15, "5e+03 TB")],
)  # fmt: skip
def test_bytes_are_written_with_three_digits(nbytes: float, text: str) -> None:
    assert size_text(nbytes) == text


def test_a_unit_takes_a_prefix() -> None:
    assert [with_prefix(value, "vis/s") for value in (1.5, -2e3, 4.56e9, 5e15)] == [
        "1.5 vis/s", "-2 kvis/s", "4.56 Gvis/s", "5e+03 Tvis/s",
    ]  # fmt: skip


def test_only_one_thing_has_no_s() -> None:
    assert [counted(number, "channel") for number in (0, 1, 2)] == ["0 channels", "1 channel", "2 channels"]


def test_neighbouring_channels_make_a_range() -> None:
    assert ranges([8, 4, 7, 1, 9]) == "1, 4, 7~9"
    assert ranges([]) == ""


def test_alternatives_are_joined_by_or() -> None:
    assert [in_words(values) for values in (["a"], ["a", "b"], ["a", "b", 3])] == ["'a'", "'a' or 'b'", "'a', 'b' or 3"]


def test_the_nearest_name_is_suggested_in_its_own_case() -> None:
    assert did_you_mean("imzise", ["imsize", "cell"]) == ": did you mean 'imsize'?"
    assert did_you_mean("PSEUDO", ["pseudoI", "I"]) == ": did you mean 'pseudoI'?"
    assert did_you_mean("xyzzy", ["imsize"]) == did_you_mean(3, ["imsize"]) == ""


def test_a_name_of_another_program_is_suggested_before_a_similar_one() -> None:
    assert did_you_mean("GPU", ["cpu", "cuda"], {"gpu": "cuda"}) == ": did you mean 'cuda'?"


def test_columns_of_a_table_are_aligned() -> None:
    assert markdown_table([["stage", "s"], ["grid", "12.5"]]) == "| stage |    s |\n|-------|-----:|\n| grid  | 12.5 |"
