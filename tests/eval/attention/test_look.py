"""What models look at, through the public function: torch's own weights, and similarity."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cosmos_eval
from cosmos_eval.models import load_encoder
from cosmos_eval.models.maps import whole_image
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.reporting.attention import draw
from cosmos_eval.reporting.attention.compute import AttendOptions, Look, read_pairs
from cosmos_eval.types import MAPS, UsageError

PARITY = Path(__file__).parents[2] / "parity"
COSMOS = f"cosmos:{PARITY / 'checkpoint.pt'}"
ARCH = str(PARITY / "model_config.json")
TEXT = "A Dalmatian, running"


def attend(photo: Path, **options: object) -> Look:
    return cosmos_eval.attend(photo, TEXT, COSMOS, arch=ARCH, **options)


@torch.no_grad()
def torch_weights(photo: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Both modules' weights by `nn.MultiheadAttention`: of patches (8, N) and tokens (8, L)."""
    encoder = load_encoder(parse_model_spec(COSMOS, arch=ARCH))
    model, tokens = encoder.model, encoder.tokenize([TEXT])
    image = whole_image(encoder, Image.open(photo))[None]
    patches = model.image_tokens([image], keep=1).tokens
    words = model.text_tokens(tokens, keep=1).tokens

    def weights(pooler, mapping, query: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        keys, query = pooler.ln_k(mapping(keys)), pooler.ln_q(query)[None]
        attend = pooler.attn(query, keys, keys, need_weights=True, average_attn_weights=False)
        return attend[1][0, :, 0]

    of_text, of_image = model.visual.attn_cross_pool, model.text_attn_cross_pool
    return (
        weights(of_text, model.image_token_mapping, model.encode_text(tokens), patches),
        weights(of_image, model.text_token_mapping, model.encode_image(image), words),
    )


def test_weights_of_the_mean_are_those_of_torch(photo: Path) -> None:
    look = attend(photo, kind="cross-attention")
    (view,) = look.views
    over_patches, over_tokens = (weights.mean(0).numpy() for weights in torch_weights(photo))
    expected = "cross-attention", "mean of 8 heads", (14, 21)
    assert (look.kind, view.head, view.map.shape) == expected
    np.testing.assert_allclose(view.map.ravel(), over_patches, atol=1e-6)
    assert view.map.sum() == pytest.approx(1, abs=1e-5)
    caption = view.caption
    assert caption is not None
    assert [word.text for word in caption.words] == ["A", "Dalmatian", ",", "running"]
    a, dal, matian, comma, running, end = over_tokens[1:7]
    shares = [word.share for word in caption.words]
    np.testing.assert_allclose(shares, [a, dal + matian, comma, running], atol=1e-6)
    apart = [caption.start, caption.end, caption.padding]
    np.testing.assert_allclose(apart, [over_tokens[0], end, over_tokens[7:].sum()], atol=1e-6)
    assert sum(shares) + sum(apart) == pytest.approx(1, abs=1e-5)
    low, high = min(shares), max(shares)
    for word in caption.words:
        assert word.scaled == pytest.approx((word.share - low) / (high - low), abs=1e-4)
    assert (caption.tokens, caption.context, caption.unread) == (7, 77, "")


def test_heads_one_by_one(photo: Path) -> None:
    look = attend(photo, kind="cross-attention", heads="each")
    over_patches, over_tokens = torch_weights(photo)
    assert [view.head for view in look.views] == [f"head {n}" for n in range(1, 9)]
    for view, patches, tokens in zip(look.views, over_patches, over_tokens, strict=True):
        np.testing.assert_allclose(view.map.ravel(), patches, atol=1e-6)
        assert view.caption is not None
        assert view.caption.words[0].share == pytest.approx(float(tokens[1]), abs=1e-6)
        assert view.caption.padding == pytest.approx(float(tokens[7:].sum()), abs=1e-6)


def test_the_largest_value_in_pixels_of_the_image(photo: Path) -> None:
    (view,) = attend(photo).views
    row, column = np.unravel_index(view.map.argmax(), view.map.shape)
    x, y = math.floor((column + 0.5) * 90 / 21), math.floor((row + 0.5) * 60 / 14)
    assert view.peak((90, 60)) == (view.map.max(), x, y)


def test_a_model_without_cross_attention_shows_similarity(photo: Path) -> None:
    look = cosmos_eval.attend(photo, "a red ball", "scenes-clip", attention="maskclip")
    encoder = load_encoder(parse_model_spec("scenes-clip"))
    image = whole_image(encoder, Image.open(photo))[None]
    patches = encoder.encode_patches(image, "maskclip")[0]
    text = encoder.encode_text(encoder.tokenize(["a red ball"]))[0]
    (view,) = look.views
    np.testing.assert_allclose(view.map, patches @ text, atol=1e-6)
    assert (look.kind, look.usual, look.attention) == (*[look.kind] * 2, "maskclip")
    assert look.kind == "text-to-patch similarity"
    assert (view.head, view.caption) == ("", None)


def test_one_word_has_nothing_to_be_compared_with(photo: Path) -> None:
    (view,) = cosmos_eval.attend(photo, "ball").views
    assert view.caption is not None
    assert [(word.scaled, word.level) for word in view.caption.words] == [(None, None)]


def test_a_text_that_is_cut(photo: Path) -> None:
    (view,) = cosmos_eval.attend(photo, "red " * 58 + "zebras, far away.").views
    caption = view.caption
    assert caption is not None
    # Places 0 to 63: start, 58 red, z e br a, end; then s, the comma and the rest.
    assert [word.text for word in caption.words[57:]] == ["red", "zebras"]
    assert (caption.unread, caption.last_word_in_part, caption.padding) == (", far away.", True, 0)
    total = sum(word.share for word in caption.words) + caption.start + caption.end
    assert total == pytest.approx(1, abs=1e-5)


def test_pictures_in_memory(photo: Path) -> None:
    from_file = cosmos_eval.attend(str(photo), "a dog")
    from_memory = cosmos_eval.attend(Image.open(photo), "a dog")
    np.testing.assert_array_equal(from_file.views[0].map, from_memory.views[0].map)


SIZES = (
    ((1, 200), "RGB", (32, 8)),
    ((200, 1), "L", (8, 32)),
    ((1, 1), "1", (8, 8)),
    ((128, 128), "RGBA", (8, 8)),
    ((128, 192), "P", (12, 8)),
    ((190, 128), "CMYK", (8, 12)),
)


def test_images_of_any_size_and_mode(tmp_path: Path) -> None:
    lines = ["image,text"]
    for size, mode, _ in SIZES:
        name = f"{mode}.jpg" if mode == "CMYK" else f"{mode}.png"
        Image.new("RGB", size, "orange").convert(mode).save(tmp_path / name)
        lines.append(f"{name},a dog")
    (tmp_path / "images.csv").write_text("\n".join(lines))
    pairs = read_pairs(None, [], tmp_path / "images.csv")
    specs, out = [parse_model_spec("scenes-cosmos")], tmp_path / "out.png"
    rows = draw(pairs, specs, AttendOptions(), out)
    assert [row.looks[0].views[0].map.shape for row in rows] == [shape for *_, shape in SIZES]
    with Image.open(out) as picture:
        picture.load()


def test_texts_of_one_image_are_as_one_by_one(photo: Path) -> None:
    texts = ["a red ball", "grass"]
    specs, options = [parse_model_spec("scenes-cosmos")], AttendOptions(kind="cross-attention")
    rows = draw(read_pairs(photo, texts, None), specs, options, None)
    assert [row.text for row in rows] == texts
    for row in rows:
        alone = cosmos_eval.attend(photo, row.text, kind="cross-attention")
        np.testing.assert_allclose(row.looks[0].views[0].map, alone.views[0].map, atol=1e-6)
        assert row.size == (90, 60)


def test_values_of_several_texts_are_compared_with_each_other(photo: Path) -> None:
    texts = ["a red ball", "grass", "a small blue boat on the left"]
    specs = [parse_model_spec("scenes-cosmos")]
    rows = draw(read_pairs(photo, texts, None), specs, AttendOptions(), None)
    together = [row.looks[0].views[0].map for row in rows]
    alone = [cosmos_eval.attend(photo, text).views[0].map for text in texts]
    mean = np.mean(alone, axis=0)
    for compared_map, plain_map in zip(together, alone, strict=True):
        np.testing.assert_allclose(compared_map, plain_map - mean, atol=1e-6)


@pytest.mark.parametrize("kind", ["empty-ratio", "texts-ratio"])
def test_heads_of_ratios(photo: Path, kind: str) -> None:
    specs, pairs = [parse_model_spec("scenes-cosmos")], read_pairs(photo, ["a dog", "grass"], None)
    (mean,), (each,) = (
        draw(pairs, specs, AttendOptions(kind=kind, heads=heads), None)[0].looks
        for heads in ("mean", "each")
    )
    assert mean.kind == each.kind == MAPS[kind]
    heads = np.stack([view.map for view in each.views])
    (view,) = mean.views
    np.testing.assert_allclose(view.map, heads.mean(0), atol=1e-5)
    assert view.map.min() < 0 < view.map.max()
    assert view.caption is not None
    assert view.caption.words[0].text == "a"


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("scenes-clip", {"kind": "cross-attention"}, "has no cross-attention; leave --kind"),
        ("scenes-clip", {"kind": "values"}, "has no cross-attention; leave --kind"),
        ("scenes-clip", {"heads": "each"}, "similarity have no heads; leave --heads out"),
        ("scenes-cosmos", {"heads": "each"}, "have no heads; add --kind cross-attention or leave"),
        ("scenes-cosmos", {"kind": "texts-ratio"}, "needs at least two texts"),
        ("scenes-cosmos", {"attention": "csa"}, "add --kind similarity"),
    ],
)
def test_what_models_do_not_have(model: str, options: dict, message: str, photo: Path) -> None:
    with pytest.raises(UsageError, match=message):
        cosmos_eval.attend(photo, "a", model, **options)


def test_every_kind_that_a_model_has(photo: Path) -> None:
    specs = [parse_model_spec(name) for name in ("scenes-cosmos", "scenes-clip")]
    (row,) = draw(read_pairs(photo, ["a dog"], None), specs, AttendOptions(kind="both"), None)
    shown = [(look.info.spec, look.kind) for look in row.looks]
    kinds = ["cross-attention", *["text-to-patch similarity"] * 2]
    assert shown == list(zip(["scenes-cosmos"] * 2 + ["scenes-clip"], kinds, strict=True))
