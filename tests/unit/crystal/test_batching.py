"""Batches of items up to a total cost."""

import pytest

from repose.crystal.batching import batches_by_cost


@pytest.mark.parametrize(
    ("costs", "limit", "expected"),
    [
        ([], 5, []),
        ([1, 2, 3, 4], 5, [[1, 2], [3], [4]]),
        ([9, 1, 4, 7], 5, [[9], [1, 4], [7]]),
        ([0, 0, 5, 0], 5, [[0, 0, 5, 0]]),
        ([1, 2, 3], 0, [[1], [2], [3]]),
    ],
)
def test_order_is_kept_and_the_limit_respected(costs, limit, expected):
    assert list(batches_by_cost(costs, float, limit)) == expected


def test_a_limit_that_changes():
    limit = [4]
    found = []
    for batch in batches_by_cost([2] * 7, float, lambda: limit[0]):
        found.append(len(batch))
        limit[0] = 2
    assert found == [2, 1, 1, 1, 1, 1]
