"""Batches that are prepared in a thread while the network works on earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from torch.utils.data import IterableDataset

T = TypeVar("T")
AHEAD = 2  # batches


def prefetched(items: Iterable[T], ahead: int = AHEAD) -> Iterator[T]:
    """Yield items in order, taken from the iterable by one other thread up to some items in advance.

    Errors of the iterable are raised at their place in the order.
    """
    iterator, end = iter(items), cast(T, object())
    with ThreadPoolExecutor(1, thread_name_prefix="repose-batches") as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield item


class Prefetched(IterableDataset[Any]):
    """The same items as those of a dataset, prepared by `prefetched`."""

    def __init__(self, items: Iterable[Any]) -> None:
        super().__init__()
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return prefetched(self.items)
