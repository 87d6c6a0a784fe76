"""Towers on views of several sizes and captions of several lengths."""

import math
from typing import NamedTuple

import open_clip
import pytest
import torch
import torch.nn.functional as F
from support.varlen import written_out

import cosmos_core
from cosmos_core.model import clip, packed
from cosmos_core.model.clip import pack_texts, resize_positional_embedding

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 20, "width": 16, "heads": 2, "layers": 2},
}


class Models(NamedTuple):
    """A CLIP of this package and one of OpenCLIP with the same weights, in float64."""

    clip: torch.nn.Module
    openclip: torch.nn.Module


def make_models(config):
    torch.manual_seed(0)
    model = cosmos_core.create_model(config, "clip").double()
    openclip_model = open_clip.CLIP(**config).double()
    openclip_model.load_state_dict(model.state_dict())
    return Models(model, openclip_model)


@pytest.fixture(scope="module")
def models():
    models = make_models(CONFIG)
    return Models(models.clip.eval(), models.openclip.eval())


@pytest.fixture
def uses_varlen(request, monkeypatch):
    """Whether all sequences attend in one call of PyTorch's varlen_attn.

    As it needs a GPU, its definition takes its place.
    """
    monkeypatch.setattr(clip, "supports_varlen", lambda *_: request.param)
    monkeypatch.setattr(packed, "varlen_attn", written_out)
    return request.param


def captions(lengths):
    """Return token ids (N, 12) of captions with so many tokens, of which the last is the end."""
    texts = torch.zeros(len(lengths), 12, dtype=torch.long)
    for row, length in zip(texts, lengths, strict=True):
        row[:length] = torch.arange(1, length + 1)
        row[length - 1] = 19  # the end token has the highest id of the vocabulary of 20
    return texts


def test_image_features_equal_openclips(models):
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = models.openclip.encode_image(images)
    torch.testing.assert_close(models.clip.encode_image(images), expected)


@pytest.mark.parametrize("uses_varlen", [False, True], indirect=True)
def test_texts_of_several_lengths_in_one_pass_equal_openclips(models, uses_varlen):
    # The lengths are not sorted: features must have the order of the texts.
    texts = captions(lengths=(12, 3, 7, 2, 12, 5, 3, 9))
    model, openclip_model = models
    expected = openclip_model.encode_text(texts)
    torch.testing.assert_close(model.encode_text(texts), expected)
    features, tokens = model.text_tokens(texts, keep=3)
    torch.testing.assert_close(features, expected)
    x = openclip_model.token_embedding(texts[:3]) + openclip_model.positional_embedding
    x = openclip_model.transformer(x, attn_mask=openclip_model.attn_mask)
    expected_tokens = openclip_model.ln_final(x)
    torch.testing.assert_close(tokens, expected_tokens)


def test_token_ids_may_be_shorter_than_the_context(models):
    texts = captions(lengths=(3, 7))
    expected = models.openclip.encode_text(texts)
    torch.testing.assert_close(models.clip.encode_text(texts[:, :7]), expected)


@pytest.mark.parametrize("uses_varlen", [False, True], indirect=True)
@pytest.mark.parametrize("pool_type", ["tok", "avg"])
def test_images_of_two_sizes_in_one_pass_equal_openclips(pool_type, uses_varlen):
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "pool_type": pool_type}}
    model, openclip_model = make_models(config)
    openclip_model.visual.output_tokens = True
    large_images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    small_images = torch.randn(5, 3, 16, 24, dtype=torch.float64)
    features, tokens = model.image_tokens([large_images, small_images], keep=2)
    expected, expected_tokens = openclip_model.visual(large_images)
    torch.testing.assert_close(features[:4], expected)
    torch.testing.assert_close(tokens, expected_tokens[:2])
    # OpenCLIP takes small images if its positional embedding has their grid of 2 x 3 patches.
    embedding = resize_positional_embedding(openclip_model.visual.positional_embedding, (2, 3))
    openclip_model.visual.positional_embedding = torch.nn.Parameter(embedding)
    expected, _tokens = openclip_model.visual(small_images)
    torch.testing.assert_close(features[4:], expected)


def test_texts_are_packed_by_hand():
    # The lengths 3, 7, 1, 6 are rounded up to multiples of 4, and cut at the context of 7 tokens:
    # 4, 7, 4, 7. Texts of which all tokens are kept come first, with all 7 tokens of the context.
    # The others are sorted by length.
    texts, ends = torch.arange(28).reshape(4, 7), torch.tensor([2, 6, 0, 5])
    order, lengths, tokens, positions = pack_texts(texts, ends, 0, 4)
    assert (order.tolist(), lengths.tolist()) == ([0, 2, 1, 3], [4, 4, 7, 7])
    assert tokens.tolist() == [*range(4), *range(14, 18), *range(7, 14), *range(21, 28)]
    assert positions.tolist() == [*range(4), *range(4), *range(7), *range(7)]
    order, lengths, tokens, positions = pack_texts(texts, ends, 2, 4)
    assert (order.tolist(), lengths.tolist()) == ([0, 1, 2, 3], [7, 7, 4, 7])
    assert tokens.tolist() == [*range(18), *range(21, 28)]
    assert positions.tolist() == [*range(7), *range(7), *range(4), *range(7)]


@pytest.mark.parametrize("option", [{"no_causal_mask": True}, {"pool_type": "first"}])
def test_text_towers_that_cannot_be_trimmed_are_refused(option):
    config = {**CONFIG, "text_cfg": {**CONFIG["text_cfg"], **option}}
    with pytest.raises(ValueError, match="the text tower must be causal and read at the end"):
        cosmos_core.create_model(config, "clip")


def cubic_convolution(values, position, a=-0.75):
    """Return a row's value at one position by the textbook formula, with repeated borders."""
    total = 0.0
    for tap in range(math.floor(position) - 1, math.floor(position) + 3):
        distance = abs(position - tap)
        if distance <= 1:
            weight = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        else:
            weight = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        nearest_index = min(max(tap, 0), len(values) - 1)
        total += weight * values[nearest_index]
    return total


def test_positional_embedding_is_interpolated_with_the_published_scale_factor():
    # The factor is (new + 0.1) / old. The new row i is at position (i + 0.5) / factor - 0.5 of the
    # old rows.
    old, new = 7, 3
    values = torch.randn(old)
    grid = values[:, None].expand(old, old).reshape(-1, 1)
    class_token = torch.zeros(1, 1)
    resized = resize_positional_embedding(torch.cat([class_token, grid]), (new, old))
    column = resized[1:].reshape(new, old)[:, 3]
    factor = (new + 0.1) / old
    positions = [(i + 0.5) / factor - 0.5 for i in range(new)]
    expected = torch.tensor([cubic_convolution(values.tolist(), p) for p in positions])
    torch.testing.assert_close(column, expected, atol=1e-5, rtol=0)


def test_positional_embedding_keeps_the_class_token_and_a_grid_of_its_own_size():
    embedding = torch.randn(17, 4)
    assert resize_positional_embedding(embedding, (4, 4)) is embedding
    assert torch.equal(resize_positional_embedding(embedding, (2, 5))[0], embedding[0])
    assert resize_positional_embedding(embedding, (2, 5)).shape == (11, 4)


def test_gradient_reaches_the_positional_embedding_through_local_views():
    model = cosmos_core.create_model(CONFIG)
    F.normalize(model.encode_image(torch.randn(2, 3, 16, 24)), dim=-1).sum().backward()
    assert model.visual.positional_embedding.grad.abs().sum() > 0
