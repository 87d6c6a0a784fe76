"""Patch embeddings against OpenCLIP's own tower and against the papers' formulas in NumPy."""

import math

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from open_clip.model import CLIPVisionCfg, _build_vision_tower
from torch.nn import functional as F

from cosmos_eval.encoders.dense import (
    LAST_BLOCKS,
    encode_patches,
    neighbourhood,
    resize_positional_embedding,
)
from cosmos_eval.types import UsageError

PATCH, WIDTH, HEADS, EMBED = 8, 32, 4, 16


def tower(**changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"image_size": 32, "layers": 2, "width": WIDTH, "head_width": 8, "patch_size": PATCH}
    return _build_vision_tower(EMBED, CLIPVisionCfg(**{**config, **changes})).eval()


@pytest.fixture(scope="module")
def visual() -> torch.nn.Module:
    return tower()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_vanilla_patches_are_those_of_the_tower(visual, images):
    output = visual.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_fmt="NLC", intermediates_only=True
    )
    expected = F.normalize(output["image_intermediates"][0] @ visual.proj, dim=-1)
    patches = encode_patches(visual, images, "vanilla")
    assert patches.shape == (2, 4, 4, EMBED)
    torch.testing.assert_close(patches.flatten(1, 2), expected, atol=1e-6, rtol=0)


def softmax(scores: NDArray) -> NDArray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def gaussian(rows: int, columns: int) -> NDArray:
    """NACLIP's term, patch pair by patch pair; token 0 is CLS."""
    term = np.zeros((1 + rows * columns, 1 + rows * columns))
    for i in range(rows * columns):
        for j in range(rows * columns):
            (y, x), (v, u) = divmod(i, columns), divmod(j, columns)
            term[1 + i, 1 + j] = math.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * 5**2))
    return term


def weights_of(form: str, q: NDArray, k: NDArray, grid: tuple[int, int]) -> NDArray:
    """Attention weights (N, N) of one head, as the papers write them."""
    root = math.sqrt(q.shape[-1])
    return {
        "csa": lambda: softmax(q @ q.T / root) + softmax(k @ k.T / root),
        "maskclip": lambda: np.eye(len(q)),
        "clearclip": lambda: softmax(q @ q.T / root),
        "naclip": lambda: softmax(k @ k.T / root + gaussian(*grid)),
    }[form]()


def last_block_in_numpy(block: torch.nn.Module, x: NDArray, form: str, grid: tuple[int, int]):
    def call(module: torch.nn.Module, values: NDArray) -> NDArray:
        return module(torch.from_numpy(values).float()).detach().double().numpy()

    weight, bias = (
        getattr(block.attn, name).detach().double().numpy()
        for name in ("in_proj_weight", "in_proj_bias")
    )
    q, k, v = np.split(call(block.ln_1, x) @ weight.T + bias, 3, axis=-1)
    heads = np.split(np.arange(WIDTH), HEADS)
    mixed = [weights_of(form, q[:, h], k[:, h], grid) @ v[:, h] for h in heads]
    out = call(block.attn.out_proj, np.concatenate(mixed, axis=-1))
    if form in ("clearclip", "naclip"):
        return out
    x = x + out
    return x + call(block.mlp, call(block.ln_2, x))


@torch.no_grad()
@pytest.mark.parametrize("form", sorted(LAST_BLOCKS))
@pytest.mark.parametrize("size", [(32, 32), (24, 45)])
def test_last_block_forms_follow_their_formulas(visual, form, size):
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    inputs = []
    hook = visual.transformer.resblocks[-1].register_forward_pre_hook(
        lambda module, arguments: inputs.append(arguments[0])
    )
    encode_patches(visual, image, "vanilla")
    hook.remove()
    grid = (size[0] // PATCH, size[1] // PATCH)
    x = last_block_in_numpy(
        visual.transformer.resblocks[-1], inputs[0][0].double().numpy(), form, grid
    )
    tokens = visual.ln_post(torch.from_numpy(x).float())[1:] @ visual.proj
    expected = F.normalize(tokens, dim=-1).unflatten(0, grid)
    torch.testing.assert_close(encode_patches(visual, image, form)[0], expected, atol=2e-6, rtol=0)


def test_neighbourhood_by_hand():
    near = neighbourhood((1, 2), torch.zeros(1, dtype=torch.float64))
    e = math.exp(-1 / 50)
    torch.testing.assert_close(
        near, torch.tensor([[0, 0, 0], [0, 1, e], [0, e, 1]]).double(), atol=1e-7, rtol=0
    )


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75, as torch and OpenCV use it."""
    a, t = -0.75, abs(distance)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def resize_axis(length: int, side: int) -> NDArray:
    """Matrix (length, side) of bicubic interpolation by a factor of (length + 0.1) / side."""
    matrix = np.zeros((length, side))
    for out in range(length):
        place = (out + 0.5) * side / (length + 0.1) - 0.5
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[out, min(max(tap, 0), side - 1)] += cubic(place - tap)
    return matrix


@pytest.mark.parametrize("grid", [(6, 6), (3, 9), (12, 1), (4, 5)])
def test_positional_embedding_is_resized_by_a_shifted_factor(grid):
    embedding = torch.randn(1 + 16, 5, generator=torch.Generator().manual_seed(3))
    patches = embedding[1:].reshape(4, 4, 5).double().numpy()
    expected = np.einsum(
        "hi,wj,ijc->hwc", resize_axis(grid[0], 4), resize_axis(grid[1], 4), patches
    )
    resized = resize_positional_embedding(embedding, grid)
    assert torch.equal(resized[0], embedding[0])
    np.testing.assert_allclose(resized[1:].numpy(), expected.reshape(-1, 5), atol=1e-5)


def test_positional_embedding_of_the_training_size_is_untouched():
    embedding = torch.randn(1 + 16, 5)
    assert resize_positional_embedding(embedding, (4, 4)) is embedding


@pytest.mark.parametrize("size", [(7, 32), (32, 7)])
def test_an_image_under_one_patch_is_refused(visual, size):
    with pytest.raises(UsageError, match="smaller than one patch"):
        encode_patches(visual, torch.zeros(1, 3, *size), "csa")


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (lambda: tower(layers=(1, 1, 1, 1)), "ModifiedResNet"),
        (lambda: tower(attentional_pool=True), "attentional pooling"),
        (lambda: tower(image_size=(32, 64)), "not square"),
    ],
)
def test_towers_without_patch_tokens_are_refused(build, kind, images):
    with pytest.raises(UsageError, match=kind):
        encode_patches(build(), images, "vanilla")


def test_other_attention_modules_know_only_their_own_form(images):
    custom = tower(qk_norm=True)
    assert isinstance(custom, open_clip.transformer.VisionTransformer)
    assert encode_patches(custom, images, "vanilla").shape == (2, 4, 4, EMBED)
    with pytest.raises(UsageError, match="only --attention vanilla"):
        encode_patches(custom, images, "csa")
