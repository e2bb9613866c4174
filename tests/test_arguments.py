"""Checks of arguments: what each admits, and that a refusal names the argument and the value."""

import numpy as np
import pytest

from pipeline.arguments import (
    checked_choice,
    checked_count,
    checked_flag,
    checked_number,
    checked_seeds,
)
from pipeline.errors import ArgumentError


@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, "3", None, True, np.nan, 11])
def test_a_count_out_of_range_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^chunk is .*from 1 to 10"):
        checked_count(value, "chunk", most=10)


@pytest.mark.parametrize("value", [1, np.int64(3), np.uint8(7)])
def test_a_whole_number_is_a_count(value):
    assert checked_count(value, "chunk") == int(value)


@pytest.mark.parametrize("value", [0.0, -1e-3, np.nan, np.inf, "1e-3", None, True])
def test_a_number_that_is_not_positive_and_finite_is_refused(value):
    with pytest.raises(ArgumentError, match=r"^tolerance is "):
        checked_number(value, "tolerance", above=0)


@pytest.mark.parametrize("value", [[], 2, "01", [0.5], [1, 1], [-1], [True], None])
def test_seeds_are_distinct_whole_numbers(value):
    with pytest.raises(ArgumentError, match=r"^seeds is "):
        checked_seeds(value)


def test_seeds_may_be_any_iterable():
    assert checked_seeds(range(3)) == [0, 1, 2]
    assert checked_seeds(np.array([4, 2])) == [4, 2]


def test_flags_and_choices():
    assert checked_flag(True, "compiled")
    assert checked_choice("A1", "name", ["A1", "B1"]) == "A1"
    with pytest.raises(ArgumentError, match=r"^compiled is 1"):
        checked_flag(1, "compiled")
    with pytest.raises(ArgumentError, match="A1, B1"):
        checked_choice("A3", "name", ["A1", "B1"])
