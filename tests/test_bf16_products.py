"""benchmarks/_bf16_products.py: products of bfloat16 tensors that are summed in float32."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.benchmark_modules import import_benchmarks
from torch.library import Library

ROOT = Path(__file__).parents[1]
# The distance of 1 to the next bfloat16.
BFLOAT16_STEP = 2**-7
M, K, N = 200, 96, 80
# The operands of `products`: two of a product, three with a summand or in a gradient.
N_OPERANDS = 6 * 2 + 5 * 3


@pytest.fixture
def module():
    """The module of the products."""
    with import_benchmarks("_bf16_products") as (module,):
        yield module


@pytest.fixture
def library():
    """PyTorch's operators. What is installed in them ends with the test."""
    library = Library("aten", "IMPL")
    yield library
    del library


@pytest.fixture
def converted_tensors(monkeypatch, module):
    """The tensors that were converted to float32."""
    tensors = []
    convert = module._to_float32

    def record(argument):
        if isinstance(argument, torch.Tensor):
            tensors.append(argument)
        return convert(argument)

    monkeypatch.setattr(module, "_to_float32", record)
    return tensors


def bfloat16(*shape):
    return torch.randn(*shape).bfloat16()


def products():
    """Products by every operator, with and without an existing output, and their gradients."""
    torch.manual_seed(0)
    a, b, bias = bfloat16(M, K), bfloat16(K, N), bfloat16(N)
    batch_of_a, batch_of_b = a.view(4, -1, K), b.expand(4, K, N)
    images = bfloat16(3, 3, 16, 16).requires_grad_()
    filters = bfloat16(5, 3, 4, 4).requires_grad_()
    convolved = F.conv2d(images, filters, stride=4)
    return {
        "mm": a @ b,
        "mm, output": torch.mm(a, b, out=bfloat16(M, N)),
        "transposed": b.T @ a.T,
        "addmm": torch.addmm(bias, a, b),
        "addmm, factors": torch.addmm(bias, a, b, beta=0.5, alpha=2),
        "addmm, output": torch.addmm(bias, a, b, out=bfloat16(M, N)),
        "bmm": torch.bmm(batch_of_a, batch_of_b),
        "bmm, output": torch.bmm(batch_of_a, batch_of_b, out=bfloat16(4, M // 4, N)),
        "baddbmm": torch.baddbmm(bias, batch_of_a, batch_of_b),
        "convolution": convolved,
        "convolution, gradient": torch.autograd.grad(convolved.sum(), images)[0],
    }


@pytest.mark.filterwarnings("ignore:.*operators may also be overridden")
def test_products_are_those_of_pytorch_up_to_the_last_bit(module, library, converted_tensors):
    expected = products()
    assert not converted_tensors
    module.install_products(library)
    computed = products()
    assert len(converted_tensors) == N_OPERANDS
    for name, tensor in computed.items():
        assert tensor.dtype is torch.bfloat16, name
        assert tensor.shape == expected[name].shape, name
        torch.testing.assert_close(
            tensor, expected[name], rtol=BFLOAT16_STEP, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
        is_equal = (tensor == expected[name]).float().mean().item()
        assert is_equal > 0.99, f"{name}: {is_equal:.1%} of the values are equal"


@pytest.mark.filterwarnings("ignore:.*operators may also be overridden")
def test_products_of_other_dtypes_stay(module, library):
    a, b = torch.randn(7, 5, dtype=torch.double), torch.randn(5, 3, dtype=torch.double)
    expected = (a[:, :, None] * b).sum(1)
    module.install_products(library)
    torch.testing.assert_close(a @ b, expected)
    torch.testing.assert_close(torch.mm(a, b, out=torch.empty(7, 3, dtype=torch.double)), expected)


@pytest.mark.slow
def test_a_module_runs_with_its_arguments():
    command = [sys.executable, ROOT / "benchmarks" / "_bf16_products.py", "cosmos_core.train"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    plain = subprocess.run(
        [sys.executable, "-m", "cosmos_core.train", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert (shown.stdout, shown.stderr) == (plain.stdout, "")
