"""Reads of values of tensors, which make a process wait for a GPU. They show on a CPU as well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

READS = (
    *("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"),
    *("nonzero", "bincount", "unique", "equal", "allclose", "masked_select"),
)


class Reads(TorchFunctionMode):
    """Counts the calls of this thread that read values of tensors, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__
        index = args[1] if name in ("__getitem__", "__setitem__") else ()
        indices = index if isinstance(index, tuple) else (index,)
        has_mask = any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        if name in READS or has_mask:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class DeviceReads(Reads):
    """Counts reads of tensors that stand for those on a GPU, and of all computed from them."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._tensors = {id(tensor): tensor for tensor in tensors}  # held: an id is not used again

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not any(id(leaf) in self._tensors for leaf in tree_leaves((args, kwargs))):
            return func(*args, **(kwargs or {}))
        output = super().__torch_function__(func, types, args, kwargs)
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._tensors[id(leaf)] = leaf
        return output
