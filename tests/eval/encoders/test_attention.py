"""Attention that projects in one piece: the same numbers, without copies of the weights."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_eval.models import load_encoder
from cosmos_eval.models.attention import project_in_one_piece
from cosmos_eval.models.specs import parse_model_spec


class Projections(TorchDispatchMode):
    """Notes for every linear layer whether its input lies in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.in_one_piece: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "linear":
            self.in_one_piece.append(args[0].is_contiguous())
        return func(*args, **(kwargs or {}))


def load(arch: str, precision: str = "fp32"):
    return load_encoder(parse_model_spec(f"openclip:{arch}/random"), precision=precision)


@pytest.mark.parametrize("arch", ["tiny", "tiny-bidirectional", "tiny-custom"])
def test_features_are_the_same(arch, tiny_archs):
    torch.manual_seed(0)
    images = torch.randn(3, 3, 32, 32)
    plain, ours = load(tiny_archs[arch]), load(tiny_archs[arch])
    before = dict(ours.model.state_dict())
    project_in_one_piece(ours.model)
    assert before.keys() == ours.model.state_dict().keys()
    tokens = plain.tokenize(["a cat", "two dogs on a hill"])
    torch.testing.assert_close(ours.encode_image(images), plain.encode_image(images))
    torch.testing.assert_close(ours.encode_text(tokens), plain.encode_text(tokens))


def test_in_bf16_every_projection_is_of_one_piece(tiny_archs):
    images = torch.randn(3, 3, 32, 32)
    exact, half = load(tiny_archs["tiny"]), load(tiny_archs["tiny"], "bf16")
    with Projections() as projections:
        features = half.encode_image(images)
    assert len(projections.in_one_piece) == 2 * 4  # blocks; attention's two and the MLP's two
    assert all(projections.in_one_piece)
    assert (features * exact.encode_image(images)).sum(1).min() > 0.999
