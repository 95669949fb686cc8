"""Splits: no group in two of them, and the same split everywhere."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repose.data.splits import GroupSplit, shared_groups
from repose.data.store import Pair
from repose.errors import DatasetError

ELEMENTS = [1, 6, 8, 11, 12, 20, 22, 25, 26, 38, 56]


def make_pair(name, numbers, tags=None) -> Pair:
    numbers = np.array(numbers)
    positions = np.zeros((len(numbers), 3))
    return Pair(name, numbers, np.ones(3, bool), positions, np.eye(3), positions, np.eye(3), tags=tags or {})


systems = st.lists(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=4), min_size=1, max_size=40)
seeds = st.integers(0, 2**31)


@given(systems, seeds)
def test_no_group_stands_in_two_splits_nor_differs_between_datasets(compositions, seed):
    split = GroupSplit(seed=seed, fractions=(0.5, 0.25, 0.25))
    first = [make_pair(f"a{k}", numbers) for k, numbers in enumerate(compositions)]
    # Another dataset: other names, order, stoichiometry.
    second = [make_pair(f"b{k}", numbers * 3) for k, numbers in enumerate(reversed(compositions))]
    given_splits = [dataclasses.replace(pair, split=split(pair)) for pair in first + second]
    count, shared = shared_groups(given_splits, split.group)
    assert count == len({tuple(sorted(set(numbers))) for numbers in compositions})
    assert shared == []


def test_a_shared_group_is_found():
    pairs = [make_pair("a", [12, 8]), dataclasses.replace(make_pair("b", [8, 12, 12]), split="test")]
    assert shared_groups([*pairs, make_pair("c", [12])], lambda pair: pair.chemical_system) == (2, ["Mg-O"])


@given(seeds)
def test_shares_of_the_groups_are_those_asked_for(seed):
    split = GroupSplit("tag", fractions=(0.7, 0.1, 0.2), seed=seed)
    given_splits = [split(make_pair("x", [1], {"tag": str(k)})) for k in range(2000)]
    for name, share in zip(("train", "val", "test"), split.fractions, strict=True):
        # Five standard deviations of a binomial.
        allowed = 5 * (share * (1 - share) / 2000) ** 0.5
        assert abs(given_splits.count(name) / 2000 - share) < allowed


def test_the_seed_and_the_kind_of_group_matter():
    pairs = [make_pair(str(k), [k % 90 + 1], {"tag": str(k)}) for k in range(90)]
    base = [GroupSplit()(pair) for pair in pairs]
    assert base != [GroupSplit(seed=1)(pair) for pair in pairs]
    assert base != [GroupSplit("tag")(pair) for pair in pairs]


def test_splits_stay_what_they_were():
    """Datasets of last year must still agree with those of today."""
    split = GroupSplit(fractions=(0.2, 0.2, 0.6))
    systems = ([3, 8], [11, 17], [12, 8], [20, 8], [22, 8, 38], [26, 16], [30, 8])
    assert [split(make_pair("x", numbers)) for numbers in systems] == [
        "val",
        "train",
        "test",
        "test",
        "val",
        "train",
        "test",
    ]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_shares_that_do_not_add_up_are_refused(fractions):
    with pytest.raises(DatasetError, match="add up to 1"):
        GroupSplit(fractions=fractions)


def test_a_missing_tag_is_named():
    with pytest.raises(DatasetError, match=r"'x' has no tag 'prototype'.*family"):
        GroupSplit("prototype")(make_pair("x", [1], {"family": "spinel"}))
