"""Counts of a computation: operations in matrix products, and bytes that operations read and write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# These change as many rows of their first argument as their last argument has.
SCATTERS = {torch.ops.aten.index_add_, torch.ops.aten.scatter_add_}
# These read as many rows of their first argument as they return.
GATHERS = {torch.ops.aten.index, torch.ops.aten.index_select, torch.ops.aten.embedding, torch.ops.aten.gather}


class Work(TorchDispatchMode):
    """Context manager that counts operations. Compiled kernels are not counted.

    Attributes:
        flops: Operations in matrix products; a multiplication and an addition count as two.
        bytes: Bytes of all tensors that operations read or write, from cache or memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.bytes = 0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Run compiled kernels instead of the code that they were compiled from."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count one operation, or those that it decomposes into."""
        del types
        kwargs = kwargs or {}
        operation = func._overloadpacket
        if operation not in flop_registry:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if operation in flop_registry:
            self.flops += flop_registry[operation](*args, **kwargs, out_val=result)
        if not func.is_view:
            self.bytes += _touched(operation, args, result)
        return result


def count(function: Callable[[], object]) -> Work:
    """Counts of one call of a function."""
    with Work() as work:
        function()
    return work


def _touched(operation: Any, args: tuple[Any, ...], result: Any) -> int:
    """Bytes that an operation reads and writes."""
    first, others, written = _bytes(args[:1]), _bytes(args[1:]), _bytes(result)
    if operation in GATHERS:
        return others + 2 * written
    if operation in SCATTERS:
        return others + 2 * min(first, _bytes(args[-1]))
    return first + others + written


def _bytes(values: Any) -> int:
    """Bytes of all tensors in nested data; expanded tensors count by their storage."""
    return sum(
        min(t.nbytes, t.untyped_storage().nbytes()) for t in tree_leaves(values) if isinstance(t, Tensor)
    )
