"""Towers on views of several sizes and captions of several lengths."""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F

import cosmos_core
from cosmos_core.model.clip import resize_positional_embedding, trim

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    ours = cosmos_core.create_model(CONFIG, "clip").double().eval()
    plain = open_clip.CLIP(**CONFIG).double().eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.fixture(scope="module")
def tokens():
    return torch.tensor(
        [[17, 3, 5, 19, 0, 0, 0, 0, 0, 0, 0, 0], [17, 4, 6, 7, 8, 2, 19, 0, 0, 0, 0, 0]]
    )


def test_training_size_equals_openclip(models, tokens):
    ours, plain = models
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours.encode_image(images), plain.encode_image(images))
    torch.testing.assert_close(ours.encode_text(tokens), plain.encode_text(tokens))


def test_trimmed_text_equals_full_length(models, tokens):
    ours, plain = models
    assert trim(tokens).shape == (2, 7)
    difference = ours.encode_text(trim(tokens)) - plain.encode_text(tokens)
    assert difference.abs().max() < 1e-12


def cubic_row(values, position, a=-0.75):
    """Cubic convolution of a row at one position, borders repeated: the textbook formula."""
    total = 0.0
    for tap in range(math.floor(position) - 1, math.floor(position) + 3):
        x = abs(position - tap)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        total += (near if x <= 1 else far) * values[min(max(tap, 0), len(values) - 1)]
    return total


def test_positional_embedding_samples_where_the_scale_factor_says():
    """Output i reads input (i + 0.5) / factor - 0.5, with a factor of (new + 0.1) / old."""
    old, new = 7, 3
    values = torch.randn(old)
    grid = values[:, None].expand(old, old).reshape(-1, 1)
    resized = resize_positional_embedding(torch.cat([torch.zeros(1, 1), grid]), (new, old))
    rows = resized[1:].reshape(new, old)[:, 3]
    places = [(i + 0.5) / ((new + 0.1) / old) - 0.5 for i in range(new)]
    expected = torch.tensor([cubic_row(values.tolist(), place) for place in places])
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)


def test_positional_embedding_keeps_class_token_and_own_grid():
    embedding = torch.randn(17, 4)
    assert resize_positional_embedding(embedding, (4, 4)) is embedding
    assert torch.equal(resize_positional_embedding(embedding, (2, 5))[0], embedding[0])
    assert resize_positional_embedding(embedding, (2, 5)).shape == (11, 4)


def test_gradient_reaches_the_positional_embedding_through_local_views():
    model = cosmos_core.create_model(CONFIG)
    F.normalize(model.encode_image(torch.randn(2, 3, 16, 24)), dim=-1).sum().backward()
    assert model.visual.positional_embedding.grad.abs().sum() > 0
