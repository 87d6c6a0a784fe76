"""Towers on views of several sizes and captions of several lengths."""

import math

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


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    ours = cosmos_core.create_model(CONFIG, "clip").double().eval()
    plain = open_clip.CLIP(**CONFIG).double().eval()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def captions(lengths):
    """Token ids (N, 12) that end with the highest id, after so many tokens in all."""
    texts = torch.zeros(len(lengths), 12, dtype=torch.long)
    for row, length in zip(texts, lengths, strict=True):
        row[:length] = torch.arange(1, length + 1)
        row[length - 1] = 19
    return texts


def test_training_size_equals_openclip(models):
    ours, plain = models
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(ours.encode_image(images), plain.encode_image(images))


@pytest.mark.parametrize("one_call", [False, True])
def test_texts_in_one_pass_equal_openclip_at_full_length(models, one_call, monkeypatch):
    """Captions of many lengths in any order: features come in the order given. `one_call` is as on
    a GPU, by the definition of PyTorch's attention over variable lengths."""
    monkeypatch.setattr(clip, "supports_varlen", lambda *_: one_call)
    monkeypatch.setattr(packed, "varlen_attn", written_out)
    ours, plain = models
    texts = captions(lengths=(12, 3, 7, 2, 12, 5, 3, 9))
    torch.testing.assert_close(ours.encode_text(texts), plain.encode_text(texts))
    features, tokens = ours.text_tokens(texts, keep=3)
    torch.testing.assert_close(features, plain.encode_text(texts))
    x = plain.token_embedding(texts[:3]) + plain.positional_embedding
    x = plain.ln_final(plain.transformer(x, attn_mask=plain.attn_mask))
    torch.testing.assert_close(tokens, x)


def test_texts_shorter_than_the_context(models):
    ours, plain = models
    texts = captions(lengths=(3, 7))
    torch.testing.assert_close(ours.encode_text(texts[:, :7]), plain.encode_text(texts))


@pytest.mark.parametrize("one_call", [False, True])
@pytest.mark.parametrize("pool_type", ["tok", "avg"])
def test_images_of_two_sizes_in_one_pass_equal_openclip_on_each(pool_type, one_call, monkeypatch):
    monkeypatch.setattr(clip, "supports_varlen", lambda *_: one_call)
    monkeypatch.setattr(packed, "varlen_attn", written_out)
    torch.manual_seed(0)
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "pool_type": pool_type}}
    ours = cosmos_core.create_model(config, "clip").double()
    plain = open_clip.CLIP(**config).double()
    plain.load_state_dict(ours.state_dict())
    plain.visual.output_tokens = True
    whole = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    small = torch.randn(5, 3, 16, 24, dtype=torch.float64)
    features, tokens = ours.image_tokens([whole, small], keep=2)
    expected, expected_tokens = plain.visual(whole)
    torch.testing.assert_close(features[:4], expected)
    torch.testing.assert_close(tokens, expected_tokens[:2])
    embedding = resize_positional_embedding(plain.visual.positional_embedding, (2, 3))
    plain.visual.positional_embedding = torch.nn.Parameter(embedding)
    torch.testing.assert_close(features[4:], plain.visual(small)[0])


def test_texts_are_packed_by_hand():
    """Lengths 3, 7, 1, 6 are rounded up to 4, 8, 4, 8; the context has 7."""
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
