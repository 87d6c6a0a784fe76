"""Maps of texts over images, against torch's own attention and hand-solved cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.maps import (
    default_map_kind,
    heatmaps,
    scale_to_unit_range,
    upsample,
    whole_image,
    whole_image_size,
)
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import MAPS, UsageError

TEXTS = ["a photo of a dog", "grass", "two red cups on a table"]


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def test_kinds_that_models_have(
    cosmos: ClipEncoder, tiny_encoder: ClipEncoder, tiny_archs: dict[str, str]
) -> None:
    resnet = load_encoder(parse_model_spec(f"openclip:{tiny_archs['tiny-resnet']}/random"))
    assert default_map_kind(cosmos) == "values of cross-attention"
    assert default_map_kind(tiny_encoder) == "text-to-patch similarity"
    with pytest.raises(UsageError, match=r"tiny-resnet/random has no patches"):
        default_map_kind(resnet)
    for kind in MAPS.values():
        with pytest.raises(UsageError, match=r"has no (patches|cross-attention)"):
            heatmaps(resnet, torch.zeros(1, 3, 32, 32), TEXTS, kind=kind)


@torch.no_grad()
def test_weights_are_those_of_torch(cosmos: ClipEncoder) -> None:
    images = torch.stack([whole_image(cosmos, noise(224, 336)), torch.randn(3, 224, 336)])
    weights = heatmaps(cosmos, images, TEXTS, kind="cross-attention")
    assert weights.shape == (2, 3, 8, 14, 21)
    torch.testing.assert_close(weights.sum((3, 4)), torch.ones(2, 3, 8))
    model = cosmos.model
    pooler, mapping = model.visual.attn_cross_pool, model.image_token_mapping
    keys = pooler.ln_k(mapping(model.image_tokens([images], keep=2).tokens))
    queries = pooler.ln_q(model.encode_text(cosmos.tokenize(TEXTS))).expand(2, -1, -1)
    _, each = pooler.attn(queries, keys, keys, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(weights.flatten(3), each.transpose(1, 2), rtol=0, atol=1e-6)
    _, mean = pooler.attn(queries, keys, keys, need_weights=True)
    torch.testing.assert_close(weights.mean(2).flatten(2), mean, rtol=0, atol=1e-6)


@torch.no_grad()
def test_ratios_and_values_by_torch(cosmos: ClipEncoder) -> None:
    """Of log weights of `nn.MultiheadAttention`, and of its outputs where a patch is alone."""
    images = torch.stack([whole_image(cosmos, noise(224, 336)), torch.randn(3, 224, 336)])
    model = cosmos.model
    attn, pooler = model.visual.attn_cross_pool.attn, model.visual.attn_cross_pool
    keys = pooler.ln_k(model.image_token_mapping(model.image_tokens([images], keep=2).tokens))
    texts = model.encode_text(cosmos.tokenize([*TEXTS, ""]))
    queries = pooler.ln_q(texts).expand(2, -1, -1)
    _, each = attn(queries, keys, keys, need_weights=True, average_attn_weights=False)
    logs = each.log().unflatten(3, (14, 21))
    ratios = heatmaps(cosmos, images, TEXTS, kind="log ratio to the empty text")
    assert ratios.shape == (2, 3, 8, 14, 21)
    for text in range(3):
        torch.testing.assert_close(
            ratios[:, text], logs[:, :, 3] - logs[:, :, text], atol=1e-5, rtol=0
        )
    ratios = heatmaps(cosmos, images, TEXTS, kind="log ratio to the mean over texts")
    for text in range(3):
        mean = (logs[:, :, 0] + logs[:, :, 1] + logs[:, :, 2]) / 3
        torch.testing.assert_close(ratios[:, text], mean - logs[:, :, text], atol=1e-5, rtol=0)
    alone = keys.reshape(-1, 1, 32)
    values = F.normalize(attn(alone, alone, alone)[0].view(2, 14, 21, 32), dim=-1)
    units = F.normalize(texts[:3], dim=-1)
    maps = heatmaps(cosmos, images, TEXTS, kind="values of cross-attention")
    (heatmap,) = heatmaps(cosmos, images[:1], TEXTS[:1], kind="values of cross-attention")
    torch.testing.assert_close(heatmap[0, 0], values[0] @ units[0], atol=1e-6, rtol=0)
    assert maps.shape == (2, 3, 1, 14, 21)
    for text in range(3):
        cosines = values @ units[text] - (values @ units.T).mean(-1)
        torch.testing.assert_close(maps[:, text, 0], cosines, atol=1e-6, rtol=0)


def test_one_text_has_no_mean_over_texts(cosmos: ClipEncoder) -> None:
    with pytest.raises(UsageError, match="the mean over texts needs at least two texts: name"):
        heatmaps(cosmos, torch.zeros(1, 3, 32, 32), TEXTS[:1], kind=MAPS["texts-ratio"])


def test_similarities_are_cosines(tiny_encoder: ClipEncoder) -> None:
    images = torch.randn(2, 3, 32, 48)
    maps = heatmaps(
        tiny_encoder, images, TEXTS, kind="text-to-patch similarity", attention="maskclip"
    )
    assert maps.shape == (2, 3, 1, 4, 6)
    patches = tiny_encoder.encode_patches(images, "maskclip")
    texts = tiny_encoder.encode_text(tiny_encoder.tokenize(TEXTS))
    for text in range(3):
        expected = F.cosine_similarity(patches, texts[text], dim=-1)
        torch.testing.assert_close(maps[:, text, 0], expected)


@pytest.mark.parametrize(
    ("image_hw", "expected"),
    [
        ((100, 100), (32, 32)),
        ((100, 150), (32, 48)),
        ((110, 100), (32, 32)),  # 35.2: a tenth more is not a patch more
        ((115, 100), (40, 32)),  # 36.8
        ((16, 20), (32, 40)),
        ((1, 1), (32, 32)),
        ((1000, 1), (128, 32)),  # squeezed to four times the shorter side
        ((1, 1000), (32, 128)),
    ],
)
def test_size_of_a_whole_image(
    tiny_encoder: ClipEncoder, image_hw: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert whole_image_size(tiny_encoder, image_hw) == expected
    assert whole_image(tiny_encoder, noise(*image_hw)).shape == (3, *expected)


def transforming(encoder: ClipEncoder, config: PreprocessCfg) -> ClipEncoder:
    """The same model with another transform."""
    return ClipEncoder(encoder.model, config, encoder.openclip_tokenizer, encoder.info)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [20, 32, 75])
def test_square_pictures_are_as_the_model_sees_them(
    tiny_encoder: ClipEncoder, interpolation: str, side: int
) -> None:
    config = PreprocessCfg(size=32, interpolation=interpolation, mean=(0.4, 0.5, 0.6))
    encoder = transforming(tiny_encoder, config)
    image = noise(side, side)
    torch.testing.assert_close(whole_image(encoder, image), encoder.transform(image))


def test_a_model_with_an_input_that_is_not_square(tiny_encoder: ClipEncoder) -> None:
    encoder = transforming(tiny_encoder, PreprocessCfg(size=(24, 40)))
    assert whole_image_size(encoder, (48, 80)) == (24, 40)
    assert whole_image_size(encoder, (80, 80)) == (40, 40)
    assert whole_image_size(encoder, (24, 80)) == (24, 80)
    image = noise(48, 80)
    torch.testing.assert_close(whole_image(encoder, image), encoder.transform(image))


def test_upsampling_by_hand() -> None:
    maps = torch.tensor([[0.0, 4.0]])
    torch.testing.assert_close(upsample(maps, (1, 4)), torch.tensor([[0.0, 1.0, 3.0, 4.0]]))
    torch.testing.assert_close(upsample(maps, (2, 2)), torch.tensor([[0.0, 4.0], [0.0, 4.0]]))


def test_upsampling_against_a_plain_formula() -> None:
    """Pixel centres at (i + 0.5) * h / H - 0.5 of patch centres, held at the border."""
    maps = torch.rand(2, 3, 4, 5, generator=torch.manual_seed(0))

    def along(signal: np.ndarray, size: int) -> np.ndarray:
        places = (np.arange(size) + 0.5) * len(signal) / size - 0.5
        return np.interp(places, np.arange(len(signal)), signal)

    def plain(one: Tensor) -> np.ndarray:
        wide = np.stack([along(row, 23) for row in one.numpy()])
        return np.stack([along(column, 17) for column in wide.T]).T

    large = upsample(maps, (17, 23))
    assert large.shape == (2, 3, 17, 23)
    expected = np.stack([plain(map_of_pair) for map_of_pair in maps.flatten(0, 1)])
    np.testing.assert_allclose(large.flatten(0, 1), expected, atol=1e-6)


def test_scaling_by_hand() -> None:
    maps = torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[7.0, 7.0], [7.0, 7.0]], [[-1.0, 0.0], [0, 1]]])
    expected = [[[0, 0.25], [0.5, 1]], [[0, 0], [0, 0]], [[0, 0.5], [0.5, 1]]]
    torch.testing.assert_close(scale_to_unit_range(maps), torch.tensor(expected))
    tiny = scale_to_unit_range(torch.tensor([[1e-9, 3e-9, 2e-9]]))
    torch.testing.assert_close(tiny, torch.tensor([[0, 1, 0.5]]))
