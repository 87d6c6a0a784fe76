"""`python benchmarks/_bf16_products.py MODULE [ARGUMENT...]`: run a module with faster products.

Without AVX-512, PyTorch multiplies bfloat16 matrices on a CPU with a loop over single values. Here
both operands are converted to float32 and multiplied, and the product is rounded to bfloat16.
PyTorch also sums in float32 and rounds once, so the results differ only by the order of the sums:
in the last bit of few values.
"""

from __future__ import annotations

import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, get_kernel

ROOT = Path(__file__).parents[1]
OPERATORS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward")
# Of these operators compiled code calls the form that writes to an existing tensor.
OPERATORS_WITH_OUTPUT = ("mm", "addmm", "bmm", "baddbmm")


def install_products(library: Library) -> None:
    """Replace PyTorch's products of bfloat16 tensors on CPUs; those of other dtypes stay.

    Args:
        library: A library of the operators "aten". The products are replaced as long as it exists.
    """
    for name in OPERATORS:
        _install_product(library, name)


def _install_product(library: Library, name: str) -> None:
    """Replace one operator.

    Args:
        library: The library of the operators "aten".
        name: The name of the operator.
    """
    operator = getattr(torch.ops.aten, name)
    kernel = get_kernel(operator.default, "CPU")

    def product(keys: torch._C.DispatchKeySet, *arguments: Any, **options: Any) -> Any:
        if not _is_bfloat16(arguments):
            return kernel.call_boxed(keys, *arguments, **options)
        result = kernel.call_boxed(keys, *map(_to_float32, arguments), **options)
        if isinstance(result, Tensor):
            return result.bfloat16()
        # The gradients of a convolution; those that are not needed are None.
        return tuple(tensor if tensor is None else tensor.bfloat16() for tensor in result)

    library.impl(name, product, "CPU", with_keyset=True, allow_override=True)
    if name not in OPERATORS_WITH_OUTPUT:
        return
    kernel_with_output = get_kernel(operator.out, "CPU")

    def product_with_output(
        keys: torch._C.DispatchKeySet, *arguments: Any, out: Tensor, **options: Any
    ) -> Tensor:
        if not _is_bfloat16(arguments):
            return kernel_with_output.call_boxed(keys, *arguments, out=out, **options)
        return out.copy_(product(keys, *arguments, **options))

    library.impl(f"{name}.out", product_with_output, "CPU", with_keyset=True, allow_override=True)


def _is_bfloat16(arguments: tuple[Any, ...]) -> bool:
    """Return whether the first tensor of the arguments is of bfloat16."""
    return next(x for x in arguments if isinstance(x, Tensor)).dtype is torch.bfloat16


def _to_float32(argument: Any) -> Any:
    """Return a bfloat16 tensor as float32, and everything else as it is."""
    is_bfloat16 = isinstance(argument, Tensor) and argument.dtype is torch.bfloat16
    return argument.float() if is_bfloat16 else argument


def main() -> None:
    """Install the products, and run the module."""
    library = Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*operators may also be overridden")
        install_products(library)
    sys.path[0] = str(ROOT)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
