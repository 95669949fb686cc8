"""Quarters of the input's error and groups by size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repose.evaluation.regimes import quarters, regimes


@given(n=st.integers(1, 40), seed=st.integers(0, 99))
def test_quarters_of_distinct_errors_are_even_and_ordered(n, seed):
    errors = np.random.default_rng(seed).permutation(n) / 100
    found = quarters(errors)
    assert (np.diff(found[np.argsort(errors)]) >= 0).all()
    counts = np.bincount(found, minlength=4)
    assert np.ptp(counts) <= 1
    assert counts.sum() == n


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([], []),
        ([0.3], [0]),
        ([0.3, 0.1], [2, 0]),
        ([0.3, 0.1, 0.2], [2, 0, 1]),
        ([0.2] * 5, [0] * 5),
        ([0.0, 0.0, 0.0, 0.1, 0.1, 0.2, 0.3, 0.4], [0, 0, 0, 1, 1, 2, 3, 3]),
        ([0.0, 1e-12, 0.0, 1e-9, 0.5, 0.6], [0, 0, 0, 0, 2, 3]),
    ],
)
def test_equal_errors_are_in_one_quarter_in_any_order(errors, expected):
    errors, expected = np.array(errors), np.array(expected)
    assert quarters(errors).tolist() == expected.tolist()
    assert quarters(errors[::-1]).tolist() == expected[::-1].tolist()


def test_groups_without_crystals_are_absent():
    found = regimes(np.array([0.3, 0.0, 0.0]), np.array([12, 41, 13]))
    assert [(group.name, group.low, group.high, group.crystals.tolist()) for group in found] == [
        ("quarter 1", 0.0, 0.0, [1, 2]),
        ("quarter 3", 0.3, 0.3, [0]),
        ("up to 12 atoms", 12, 12, [0]),
        ("13 to 20 atoms", 13, 13, [2]),
        ("more than 40 atoms", 41, 41, [1]),
    ]
    edges = regimes(np.zeros(4), np.array([20, 21, 40, 1]))[1:]
    assert [(group.name, group.low, group.high) for group in edges] == [
        ("up to 12 atoms", 1, 1), ("13 to 20 atoms", 20, 20), ("21 to 40 atoms", 21, 40)
    ]  # fmt: skip
