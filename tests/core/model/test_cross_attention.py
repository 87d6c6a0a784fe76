"""What the cross-attention looks at, against torch's own module on OpenCLIP's own tokens."""

import pytest
import torch
from torch import Tensor, nn

import cosmos_core
from cosmos_core.model.cosmos import CrossAttentionPooler

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def model() -> cosmos_core.Cosmos:
    torch.manual_seed(0)
    made = cosmos_core.create_model(CONFIG)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim < 2:  # biases and norms start at constants, which would hide faults
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made.double().eval()


def torch_weights(pooler: CrossAttentionPooler, queries: Tensor, tokens: Tensor) -> Tensor:
    inputs = pooler.ln_q(queries), pooler.ln_k(tokens), pooler.ln_k(tokens)
    return pooler.attn(*inputs, need_weights=True, average_attn_weights=False)[1]


def texts() -> Tensor:
    made = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate((3, 7, 12)):
        made[row, :length] = torch.randint(1, 58, (length,), generator=torch.manual_seed(row))
        made[row, length - 1] = 59
    return made


@torch.no_grad()
def test_patches_that_texts_look_at(model: cosmos_core.Cosmos) -> None:
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    queries = model.encode_text(texts())
    weights = model.patch_attention(images, queries)
    model.visual.output_tokens = True
    _, tokens = model.visual(images)
    model.visual.output_tokens = False
    keys = nn.functional.linear(tokens, *model.image_token_mapping.parameters())
    expected = torch_weights(model.visual.attn_cross_pool, queries.expand(2, -1, -1), keys)
    assert weights.shape == (2, 8, 3, 4, 4)
    torch.testing.assert_close(weights.flatten(3), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum((3, 4)), torch.ones(2, 8, 3).double())


@torch.no_grad()
def test_values_are_what_a_patch_alone_would_give(model: cosmos_core.Cosmos) -> None:
    """By torch's own module, of one key; and what a text pools where a head sees all alike."""
    images = torch.randn(2, 3, 30, 48, dtype=torch.float64)
    values = model.patch_values(images)
    assert values.shape == (2, 3, 6, 32)
    pooler = model.visual.attn_cross_pool
    keys = pooler.ln_k(model.image_token_mapping(model.image_tokens([images], keep=2).tokens))
    alone = keys.flatten(0, 1)[:, None]
    expected = pooler.attn(torch.randn_like(alone), alone, alone, need_weights=False)[0]
    torch.testing.assert_close(values.reshape(-1, 1, 32), expected, rtol=0, atol=1e-12)
    several = torch.cat([model.patch_values(one[None]) for one in images])
    torch.testing.assert_close(values, several, rtol=0, atol=1e-12)


@torch.no_grad()
def test_tokens_that_images_look_at(model: cosmos_core.Cosmos) -> None:
    queries = model.encode_image(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    weights = model.token_attention(texts(), queries)
    x = model.token_embedding(texts()) + model.positional_embedding
    tokens = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    keys = nn.functional.linear(tokens, *model.text_token_mapping.parameters())
    expected = torch_weights(model.text_attn_cross_pool, queries.expand(3, -1, -1), keys)
    assert weights.shape == (3, 8, 2, 12)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 8, 2).double())


@torch.no_grad()
def test_images_that_are_not_square(model: cosmos_core.Cosmos) -> None:
    images = torch.randn(1, 3, 30, 48, dtype=torch.float64)
    weights = model.patch_attention(images, model.encode_text(texts()))
    assert weights.shape == (1, 8, 3, 3, 6)


@torch.no_grad()
def test_scores_of_pairs_are_cosines_with_cross_modal_features(model: cosmos_core.Cosmos) -> None:
    """Every pair alone, with torch's own module on OpenCLIP's own tokens."""
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = model.pair_scores(model.image_parts(images), model.text_parts(texts()))
    model.visual.output_tokens = True
    pooled, patches = model.visual(images)
    model.visual.output_tokens = False
    x = model.token_embedding(texts()) + model.positional_embedding
    tokens = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))
    features = model.encode_text(texts())

    def crossed(pooler: CrossAttentionPooler, feature: Tensor, keys: Tensor) -> Tensor:
        inputs = pooler.ln_q(feature[None]), pooler.ln_k(keys), pooler.ln_k(keys)
        return feature + pooler.attn(*inputs)[0][0]

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    for i, image in enumerate(pooled):
        for t, text in enumerate(features):
            of_image = crossed(
                model.text_attn_cross_pool, image, model.text_token_mapping(tokens[t])
            )
            of_text = crossed(
                model.visual.attn_cross_pool, text, model.image_token_mapping(patches[i])
            )
            cosines = cosine(image, text), cosine(of_image, image), cosine(of_text, text)
            assert float(found[i, t]) == pytest.approx(sum(cosines) / 3, abs=1e-12)
