"""Maps of the cross-attention, against PyTorch's module on the tokens of OpenCLIP's towers."""

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
    model = cosmos_core.create_model(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:  # biases and norms start at constants, which would hide faults
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double().eval()


def attention_weights(pooler: CrossAttentionPooler, queries: Tensor, tokens: Tensor) -> Tensor:
    """Return the weights of PyTorch's module for each head."""
    keys = pooler.ln_k(tokens)
    _outputs, weights = pooler.attn(
        pooler.ln_q(queries), keys, keys, need_weights=True, average_attn_weights=False
    )
    return weights


def random_texts() -> Tensor:
    """Return the token ids of three texts of 3, 7 and 12 tokens, the same ones in each call."""
    texts = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate((3, 7, 12)):
        texts[row, :length] = torch.randint(1, 58, (length,), generator=torch.manual_seed(row))
        texts[row, length - 1] = 59  # the end token
    return texts


def openclip_image_tokens(model: cosmos_core.Cosmos, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features and the tokens of all patches by OpenCLIP's image tower."""
    model.visual.output_tokens = True
    features, tokens = model.visual(images)
    model.visual.output_tokens = False
    return features, tokens


def openclip_text_tokens(model: cosmos_core.Cosmos, texts: Tensor) -> Tensor:
    """Return all tokens of texts by OpenCLIP's transformer."""
    x = model.token_embedding(texts) + model.positional_embedding
    return model.ln_final(model.transformer(x, attn_mask=model.attn_mask))


@torch.no_grad()
def test_attention_of_texts_to_patches_is_that_of_pytorch(model: cosmos_core.Cosmos) -> None:
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    queries = model.encode_text(random_texts())
    weights = model.patch_attention(images, queries)
    _features, tokens = openclip_image_tokens(model, images)
    keys = nn.functional.linear(tokens, *model.image_token_mapping.parameters())
    expected = attention_weights(model.visual.attn_cross_pool, queries.expand(2, -1, -1), keys)
    assert weights.shape == (2, 8, 3, 4, 4)
    torch.testing.assert_close(weights.flatten(3), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum((3, 4)), torch.ones(2, 8, 3).double())


@torch.no_grad()
def test_the_value_of_a_patch_is_what_a_text_pools_from_it_alone(model: cosmos_core.Cosmos) -> None:
    images = torch.randn(2, 3, 30, 48, dtype=torch.float64)
    values = model.patch_values(images)
    assert values.shape == (2, 3, 6, 32)
    pooler = model.visual.attn_cross_pool
    keys = pooler.ln_k(model.image_token_mapping(model.image_tokens([images], keep=2).tokens))
    # Attention to a single key does not depend on the query.
    single_keys = keys.flatten(0, 1)[:, None]
    queries = torch.randn_like(single_keys)
    expected, _weights = pooler.attn(queries, single_keys, single_keys, need_weights=False)
    torch.testing.assert_close(values.reshape(-1, 1, 32), expected, rtol=0, atol=1e-12)
    values_by_image = [model.patch_values(image[None]) for image in images]
    torch.testing.assert_close(values, torch.cat(values_by_image), rtol=0, atol=1e-12)


@torch.no_grad()
def test_attention_of_images_to_tokens_is_that_of_pytorch(model: cosmos_core.Cosmos) -> None:
    queries = model.encode_image(torch.randn(2, 3, 32, 32, dtype=torch.float64))
    weights = model.token_attention(random_texts(), queries)
    tokens = openclip_text_tokens(model, random_texts())
    keys = nn.functional.linear(tokens, *model.text_token_mapping.parameters())
    expected = attention_weights(model.text_attn_cross_pool, queries.expand(3, -1, -1), keys)
    assert weights.shape == (3, 8, 2, 12)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 8, 2).double())


@torch.no_grad()
def test_images_need_not_be_square(model: cosmos_core.Cosmos) -> None:
    images = torch.randn(1, 3, 30, 48, dtype=torch.float64)
    weights = model.patch_attention(images, model.encode_text(random_texts()))
    assert weights.shape == (1, 8, 3, 3, 6)


def crossmodal_feature(pooler: CrossAttentionPooler, feature: Tensor, tokens: Tensor) -> Tensor:
    """Return a feature (D,) plus what it pools from the tokens of the other modality."""
    keys = pooler.ln_k(tokens)
    pooled, _weights = pooler.attn(pooler.ln_q(feature[None]), keys, keys)
    return feature + pooled[0]


def cosine(feature: Tensor, other: Tensor) -> float:
    return float(feature @ other / feature.norm() / other.norm())


@torch.no_grad()
def test_scores_of_pairs_are_cosines_with_cross_modal_features(model: cosmos_core.Cosmos) -> None:
    """A score is the mean of three cosines, which are computed for each pair alone."""
    images, texts = torch.randn(2, 3, 32, 32, dtype=torch.float64), random_texts()
    scores = model.pair_scores(model.image_parts(images), model.text_parts(texts))
    image_features, image_tokens = openclip_image_tokens(model, images)
    text_features, text_tokens = model.encode_text(texts), openclip_text_tokens(model, texts)
    for i, image in enumerate(image_features):
        for j, text in enumerate(text_features):
            mapped_text_tokens = model.text_token_mapping(text_tokens[j])
            mapped_image_tokens = model.image_token_mapping(image_tokens[i])
            crossmodal_image = crossmodal_feature(
                model.text_attn_cross_pool, image, mapped_text_tokens
            )
            crossmodal_text = crossmodal_feature(
                model.visual.attn_cross_pool, text, mapped_image_tokens
            )
            cosines = (
                cosine(image, text),
                cosine(crossmodal_image, image),
                cosine(crossmodal_text, text),
            )
            assert float(scores[i, j]) == pytest.approx(sum(cosines) / 3, abs=1e-12)
