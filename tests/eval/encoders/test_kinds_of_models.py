"""Every kind of OpenCLIP model, tiny, against OpenCLIP's own functions.

What tells a kind's inputs apart: SigLIP squashes images, normalises by one half, pads with its end
of text and lets every position see every other; CLIPA's end of text becomes padding; CoCa's feature
is that of a class token behind the padding; text towers may be transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import transformers
from open_clip.pretrained import _apcfg, _mccfg, _pcfg, _slpcfg
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from support import encoders
from support.encoders import noise

from cosmos_eval.models.clip import ClipEncoder, count_tokens

TEXTS = ["a dog", "two dogs on the red sofa", "A photo of a CAT!", ""]
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TIMM = {"timm_model_name": "test_vit", "image_size": 32}
TEXT = {"context_length": 8, "width": 16, "heads": 2, "layers": 2}
WORDS = {"vocab_size": 49408}


# An architecture and how the weights of its tag want their images.
Kind = tuple[dict[str, Any], dict[str, Any]]


def kinds(siglip: Path, bert: Path, roberta: Path) -> dict[str, Kind]:
    canonical = {"hf_tokenizer_name": str(siglip), "tokenizer_kwargs": {"clean": "canonicalize"}}
    berts = {"hf_tokenizer_name": str(bert), "vocab_size": 16}
    two_way = {**TEXT, "no_causal_mask": True, "pool_type": "last", "vocab_size": 14}
    pooled = {"attentional_pool": True, "attn_pooler_heads": 2}
    hugging = {"hf_model_name": str(roberta), "hf_proj_type": "mlp", "context_length": 8}
    siglip_config = {
        "vision_cfg": {**TIMM, "timm_pool": "map", "timm_proj": "none"},
        "embed_dim": 64,
        "text_cfg": {**two_way, **canonical, "proj_bias": True},
        "init_logit_bias": -10,
        "custom_text": True,
    }
    clipa_config = {
        "vision_cfg": {**VIT, "pool_type": "avg", "final_ln_after_pool": True},
        "text_cfg": {**two_way, **berts, "tokenizer_kwargs": {"strip_sep_token": True}},
    }
    worldwide_text = {**TEXT, **berts, "pool_type": "eos", "eos_id": 3}
    coca_config = {
        "vision_cfg": {**VIT, **pooled, "output_tokens": True},
        "text_cfg": {**TEXT, **WORDS, "output_tokens": True, "embed_cls": True},
        "multimodal_cfg": {**TEXT, **WORDS, "attn_pooler_heads": 2},
        "custom_text": True,
    }
    roberta_text = {**berts, **hugging, "hf_pooler_type": "mean_pooler"}
    eva_config = {
        "vision_cfg": {**TIMM, "timm_pool": "avg", "timm_proj": "linear"},
        "text_cfg": {**TEXT, **WORDS},
        "custom_text": True,
    }
    return {
        "siglip": (siglip_config, _slpcfg()),
        "clipa": (clipa_config, _apcfg()),
        "worldwide": ({"vision_cfg": VIT, "text_cfg": worldwide_text}, _pcfg()),
        "coca": (coca_config, _pcfg()),
        "roberta": ({"vision_cfg": VIT, "text_cfg": roberta_text}, _pcfg()),
        "eva": (eva_config, _mccfg()),
    }


KINDS = ("siglip", "clipa", "worldwide", "coca", "roberta", "eva")


@pytest.fixture(scope="module")
def tags(
    siglip_tokenizer: Path, bert_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Kind]:
    """Add the kinds to OpenCLIP as architectures with random weights, under the tag `made`."""
    folder = tmp_path_factory.mktemp("kinds")
    roberta = folder / "roberta"
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings")
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 0}
    transformers.RobertaConfig(**dict.fromkeys(sizes, 16), **layers).save_pretrained(roberta)
    kind_of_name = kinds(siglip_tokenizer, bert_tokenizer, roberta)
    for name, (config, _) in kind_of_name.items():
        (folder / f"cosmos-eval-{name}.json").write_text(json.dumps({"embed_dim": 16, **config}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    for name, (_, preprocessing) in kind_of_name.items():
        model = open_clip.create_model(f"cosmos-eval-{name}", pretrained_text=False)
        state = model.state_dict()
        if name == "coca":  # OpenCLIP does not initialise this tensor, and features do not use it
            state["text_decoder.text_projection"].zero_()
        torch.save(state, folder / f"{name}.pt")
        tag = {**preprocessing, "file": str(folder / f"{name}.pt")}
        open_clip.pretrained._PRETRAINED[f"cosmos-eval-{name}"] = {"made": tag}
    yield kind_of_name
    for name in kind_of_name:
        del open_clip.pretrained._PRETRAINED[f"cosmos-eval-{name}"]


def load(name: str, precision: Any = "fp32") -> ClipEncoder:
    return encoders.load(f"openclip:cosmos-eval-{name}/made", precision=precision)


@pytest.mark.parametrize("name", KINDS)
def test_as_openclip_runs_it(name: str, tags: dict[str, Kind]) -> None:
    arch = f"cosmos-eval-{name}"
    model, transform = open_clip.create_model_from_pretrained(arch, "made")
    model.eval()
    tokens = open_clip.get_tokenizer(arch)(TEXTS)
    picture = noise(40, 60)
    images = torch.stack([transform(picture), transform(picture.rotate(90))])
    encoder = load(name)
    torch.testing.assert_close(encoder.transform(picture), images[0], rtol=0, atol=0)
    torch.testing.assert_close(encoder.tokenize(TEXTS), tokens, rtol=0, atol=0)
    with torch.no_grad():
        expected_images = model.encode_image(images, normalize=True)
        expected_texts = model.encode_text(tokens, normalize=True)
    close = {"rtol": 0, "atol": 1e-6}
    torch.testing.assert_close(encoder.encode_image(images), expected_images, **close)
    torch.testing.assert_close(encoder.encode_text(tokens), expected_texts, **close)
    assert encoder.trims_text == (name == "eva")
    stated = json.loads(json.dumps(tags[name][1]))
    for key in ("mean", "std", "interpolation", "resize_mode"):
        assert encoder.preprocessing[key] == stated[key]
    assert encoder.preprocessing["size"] in (32, [32, 32])


@pytest.mark.parametrize("name", KINDS)
def test_features_in_reduced_precision_are_near(name: str, tags: dict[str, Kind]) -> None:
    exact, half = load(name), load(name, "bf16")
    tokens = exact.tokenize(TEXTS)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert (half.encode_text(tokens) * exact.encode_text(tokens)).sum(1).min() > 0.99
    assert (half.encode_image(images) * exact.encode_image(images)).sum(1).min() > 0.99
    wide = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    for form in ("vanilla", "csa"):
        pair = [encoder.encode_patches(wide, form) for encoder in (half, exact)]
        assert (pair[0] * pair[1]).sum(-1).min() > 0.99
        assert not torch.equal(*pair)


def test_custom_text_towers_are_trimmed_exactly(tags: dict[str, Kind]) -> None:
    encoder = load("eva")
    tokens = encoder.tokenize(["a dog", "a red dog"])
    trimmed = encoder.encode_text(tokens[:, :5])
    torch.testing.assert_close(trimmed, encoder.encode_text(tokens), rtol=0, atol=1e-6)
    assert encoder.model.text.attn_mask.shape == (8, 8)


@pytest.mark.parametrize("name", KINDS)
def test_texts_that_are_cut_are_counted(name: str, tags: dict[str, Kind]) -> None:
    """SigLIP has no start, and its end of text is also the padding; CLIPA's becomes padding."""
    encoder, fits = load(name), 7 if name == "siglip" else 6
    texts = [" ".join(["dog"] * n) for n in (0, 1, fits, fits + 1, fits + 2, 30)]
    assert encoder.overlong(texts).tolist() == [False, False, False, True, True, True]
    # The second way to see it: a longer context changes nothing where nothing was cut.
    longer = encoder.openclip_tokenizer(texts, context_length=9)[:, :8]
    changed = (longer != encoder.tokenize(texts)).any(dim=1)
    assert changed.tolist() == [False, False, False, True, True, True]


def test_tokens_of_other_tokenizers_are_counted(
    siglip_tokenizer: Path, bert_tokenizer: Path
) -> None:
    texts = ["dog", "dog dog dog"]
    clips = HFTokenizer(bert_tokenizer, context_length=8, tokenizer_mode="clips")
    for tokens, needed in zip(clips(texts), count_tokens(clips, texts), strict=True):
        assert needed == int((tokens != 0).sum())  # padding is 0, and nothing is cut
    siglip = SigLipTokenizer.__new__(SigLipTokenizer)  # its constructor downloads
    siglip.tokenizer = HFTokenizer(siglip_tokenizer).tokenizer
    assert count_tokens(siglip, ["Dog!", "a dog"]) == [2, 3]


def test_an_exclamation_mark_is_not_padding() -> None:
    """Both have the id 0."""
    tokenizer = SimpleTokenizer(context_length=4)
    assert count_tokens(tokenizer, ["a b", "a ! !"]) == [4, 5]
