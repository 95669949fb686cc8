"""Batches of items up to a total cost, such as crystals by their edges or bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches_by_cost(
    items: Iterable[T], cost: Callable[[T], float], limit: float | Callable[[], float]
) -> Iterator[list[T]]:
    """Yield consecutive items in batches whose total cost stays within a limit; at least one item each.

    Args:
        items: Items in order.
        cost: Cost of an item.
        limit: Largest cost of a batch; a function is called anew for every batch.
    """
    batch: list[T] = []
    total = most = 0.0
    for item in items:
        own = cost(item)
        if batch and total + own > most:
            yield batch
            batch, total = [], 0.0
        if not batch:
            most = limit() if callable(limit) else limit
        batch.append(item)
        total += own
    if batch:
        yield batch
