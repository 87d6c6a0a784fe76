"""Converted models, as the other library itself loads and runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
import transformers as t
from PIL import Image
from support.encoders import TINY, load, noise, save_cosmos
from support.pages import ROOT
from torch.testing import assert_close

import cosmos_core
import cosmos_eval
from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_core.model.checkpoint import save_checkpoint
from cosmos_eval.models.convert import convert
from cosmos_eval.models.specs import parse_model_spec
from cosmos_eval.types import UsageError

TEXTS = ["a dog", "Two DOGs on  the red sofa!", "it's a café, isn't it?", "", "dog " * 100]
CLOSE = {"rtol": 0, "atol": 1e-6}
VISION, TEXT = TINY["vision_cfg"], TINY["text_cfg"]


def run(spec: str, output: Path, **options: Any) -> list[str]:
    return convert(parse_model_spec(spec, **options), output)


def save_openclip(folder: Path, config: dict[str, Any], **preprocess: Any) -> str:
    """Write a model with random weights in OpenCLIP's layout; return its name."""
    folder.mkdir()
    described = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(described))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"openclip:{folder}"


def of_openclip(folder: Path, picture: Image.Image, texts: list[str]) -> tuple[Any, ...]:
    """Stock OpenCLIP's pixels, features and scale of the logits."""
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    pixels = transform(picture)[None]
    with torch.no_grad():
        return pixels, *model.eval()(pixels, open_clip.get_tokenizer(name)(texts))


def of_transformers(folder: Path, picture: Image.Image, texts: list[str]) -> tuple[Any, ...]:
    """Stock transformers' pixels, resized by Pillow, features and scale of the logits."""
    model, found = t.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values())
    processor = t.CLIPProcessor.from_pretrained(folder, backend="pil")
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    given = processor(images=[picture], text=texts, **options)
    with torch.no_grad():
        output = model(**given)
        scale = output.logits_per_image / (output.image_embeds @ output.text_embeds.T)
    assert_close(scale, model.logit_scale.exp().expand_as(scale), rtol=1e-4, atol=0)
    features = output.image_embeds, output.text_embeds
    return given["pixel_values"], *features, model.logit_scale.exp()


def assert_same(openclip: Path, other: Path) -> None:
    given = noise(40, 60), TEXTS
    assert_close(of_transformers(other, *given), of_openclip(openclip, *given), **CLOSE)


OTHER_SIZES = {
    "quick_gelu": True,
    "vision_cfg": {
        **{**VISION, "mlp_ratio": 1.9, "layers": 3, "head_width": 8, "norm_kwargs": {"eps": 1e-2}},
        "pos_embed_type": "sin_cos_2d",
    },
    "text_cfg": {
        **{**TEXT, "width": 24, "mlp_ratio": 2.7, "vocab_size": 49500},
        "norm_kwargs": {"eps": 1e-3},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("config", [{}, OTHER_SIZES], ids=["tiny", "other sizes"])
def test_openclip_there_and_back(config: dict[str, Any], tmp_path: Path) -> None:
    spec = save_openclip(tmp_path / "own", {**TINY, **config}, mean=[0.5, 0.4, 0.3])
    assert run(spec, tmp_path / "hf") == []
    assert_same(tmp_path / "own", tmp_path / "hf")
    assert run(f"hf:{tmp_path / 'hf'}", tmp_path / "back") == []
    assert_same(tmp_path / "back", tmp_path / "hf")
    before, after = (
        safetensors.torch.load_file(tmp_path / name / "open_clip_model.safetensors")
        for name in ("own", "back")
    )
    assert_close(after, before, rtol=0, atol=0)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of OpenCLIP's, whose bias of the logits is left out, and what it became."""
    folder = tmp_path_factory.mktemp("converted")
    spec = save_openclip(folder / "own", {**TINY, "quick_gelu": True, "init_logit_bias": -10})
    assert run(spec, folder / "hf") == ["CLIPModel has no place for logit_bias"]
    return folder / "own", folder / "hf"


def test_what_the_folder_states(converted: tuple[Path, Path]) -> None:
    config = t.AutoConfig.from_pretrained(converted[1])
    assert config.architectures == ["CLIPModel"]
    words = config.text_config
    assert (words.bos_token_id, words.eos_token_id, words.pad_token_id) == (49406, 49407, 49407)
    assert words.hidden_act == config.vision_config.hidden_act == "quick_gelu"
    t.CLIPVisionModelWithProjection.from_pretrained(converted[1])  # which fails on other sizes
    vocabulary = t.AutoTokenizer.from_pretrained(converted[1]).get_vocab()
    assert json.loads((converted[1] / "vocab.json").read_text("utf-8")) == vocabulary
    merges = (converted[1] / "merges.txt").read_text("utf-8").splitlines()
    assert merges[1:] == [" ".join(pair) for pair in open_clip.SimpleTokenizer().bpe_ranks]
    card = (converted[1] / "README.md").read_text()
    digest = load(f"openclip:{converted[0]}").info.weights_sha256
    assert f"`openclip:{converted[0]}` (model weights, SHA-256 `{digest}`)" in card
    assert "license:" not in card


def patch_tokens(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The patches after the last block but one of a model of OpenCLIP's or a COSMOS model."""
    outputs: list[torch.Tensor] = []
    transformer = model.visual.transformer
    block = transformer.resblocks[-2]
    hook = block.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    with torch.no_grad():
        model.encode_image(pixels)
    hook.remove()
    return outputs[0].reshape(len(pixels), -1, transformer.width)[:, 1:]


def test_an_image_tower_as_llava_takes_it(converted: tuple[Path, Path]) -> None:
    """The calls of LLaVA's CLIPVisionTower: llava/model/multimodal_encoder/clip_encoder.py."""
    own = open_clip.create_model(f"local-dir:{converted[0]}").eval()
    model, found = t.CLIPVisionModel.from_pretrained(converted[1], output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["mismatched_keys"]
    processor = t.CLIPImageProcessor.from_pretrained(converted[1])
    assert processor.crop_size == {"height": 32, "width": 32}
    pixels = processor(images=noise(40, 60), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    assert_close(states[-2][:, 1:], patch_tokens(own, pixels), **CLOSE)


def test_an_image_tower_of_cosmos_as_llava_takes_it(tmp_path: Path) -> None:
    run("scenes-cosmos", tmp_path / "hf")
    own: Any = load("scenes-cosmos")
    model = t.CLIPVisionModel.from_pretrained(tmp_path / "hf")
    processor = t.CLIPImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = processor(images=noise(90, 60), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    expected = patch_tokens(getattr(own, "built", own).model, pixels)
    assert_close(states[-2][:, 1:], expected, rtol=0, atol=1e-5)


def test_a_llava_of_transformers_with_the_image_tower(
    converted: tuple[Path, Path], tmp_path: Path
) -> None:
    """As docs/models.md makes it, and as lmms-eval's llava_hf loads it: from its own folder."""
    text_config = t.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    image_token = 49
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig.from_pretrained(converted[1]),
        text_config=text_config,
        image_token_index=image_token,
    )
    torch.manual_seed(0)
    model = t.LlavaForConditionalGeneration(config)
    model.model.vision_tower = t.CLIPVisionModel.from_pretrained(converted[1])
    model.save_pretrained(tmp_path / "llava")
    loaded = t.AutoModelForImageTextToText.from_pretrained(tmp_path / "llava").eval()

    processor = t.CLIPImageProcessor.from_pretrained(converted[1])
    pixels = processor(images=noise(40, 60), return_tensors="pt")["pixel_values"]
    own = open_clip.create_model(f"local-dir:{converted[0]}").eval()
    tokens = patch_tokens(own, pixels)
    seen: list[torch.Tensor] = []
    projector = loaded.model.multi_modal_projector
    projector.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    ids = torch.tensor([[1, *[image_token] * tokens.shape[1], 2]])
    with torch.no_grad():
        logits = loaded(input_ids=ids, pixel_values=pixels).logits
    assert_close(seen[0], tokens, rtol=0, atol=1e-5)
    assert logits.shape == (1, tokens.shape[1] + 2, 50)
    assert logits.isfinite().all()


def test_the_student_of_cosmos(tmp_path: Path) -> None:
    models = {name: cosmos_core.create_model(TINY) for name in ("teacher", "student")}
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, models, "cosmos", {**TINY, "preprocess": {"std": [0.5, 0.4, 0.3]}}, {})
    (note,) = run(f"cosmos:{path}", tmp_path / "hf", weights="student")
    parts = "visual.attn_cross_pool, text_attn_cross_pool, image_token_mapping, text_token_mapping"
    assert note == f"CLIPModel has no place for {parts}, distill_logit_scale"
    assert note in (tmp_path / "hf" / "README.md").read_text()
    own = load(f"cosmos:{path}", weights="student")
    pixels, tokens = own.transform(noise(40, 60))[None], own.tokenize(TEXTS)
    features = own.encode_image(pixels), own.encode_text(tokens)
    expected = pixels, *features, models["student"].logit_scale.exp()
    assert_close(of_transformers(tmp_path / "hf", noise(40, 60), TEXTS), expected, **CLOSE)


def test_bundled_models_there_and_back(tmp_path: Path) -> None:
    """Their vocabulary is not OpenCLIP's: it is written beside the weights both times."""
    own = load("scenes-clip")
    run("scenes-clip", tmp_path / "hf")
    (note,) = run(f"hf:{tmp_path / 'hf'}", tmp_path / "back")
    assert "hf_tokenizer_name" in note
    texts, pixels = ["a red ball", "two boats " * 80], own.transform(noise(90, 60))[None]
    expected = pixels, own.encode_image(pixels), own.encode_text(own.tokenize(texts))
    for of, name in ((of_transformers, "hf"), (of_openclip, "back")):
        assert_close(of(tmp_path / name, noise(90, 60), texts)[:3], expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "cls", "select"])
def test_metrics_of_scenes_are_the_same(task: str, tmp_path: Path) -> None:
    run("scenes-cosmos", tmp_path / "hf")
    rows = [
        cosmos_eval.evaluate(name, f"scenes-{task}", limit=150)
        for name in ("scenes-cosmos", f"hf:{tmp_path / 'hf'}")
    ]
    # Counts are equal; the calibration error is of features that differ in their last bits.
    assert rows[0].metrics == pytest.approx(rows[1].metrics, abs=1e-3)


# Height and width; of none does the crop cut off 3, 7, 11... pixels.
PICTURES = ((32, 32), (40, 60), (60, 40), (32, 33), (37, 32), (20, 31), (128, 96))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels(mode: str, interpolation: str, tmp_path: Path) -> None:
    spec = save_openclip(tmp_path / "own", TINY, resize_mode=mode, interpolation=interpolation)
    run(spec, tmp_path / "hf")
    transform = load(spec).transform
    read = t.AutoImageProcessor.from_pretrained
    pillow, default = read(tmp_path / "hf", backend="pil"), read(tmp_path / "hf")
    for sides in PICTURES:
        expected = transform(noise(*sides))
        found, other = (
            one(images=noise(*sides), return_tensors="pt")["pixel_values"][0]
            for one in (pillow, default)
        )
        assert_close(found, expected, rtol=0, atol=1e-6)
        assert (other - expected).abs().mean() < 0.5 / 255 / 0.27  # half a step of 255
    run(f"hf:{tmp_path / 'hf'}", tmp_path / "back")
    assert torch.equal(
        load(f"openclip:{tmp_path / 'back'}").transform(noise(40, 60)), transform(noise(40, 60))
    )


def test_where_crops_are_one_pixel_apart(converted: tuple[Path, Path]) -> None:
    """At a margin of 3 pixels torchvision rounds 1.5 to 2, transformers to 1."""
    expected = load(f"openclip:{converted[0]}").transform(noise(32, 35))
    pillow = t.CLIPImageProcessor.from_pretrained(converted[1])
    found = pillow(images=noise(32, 35), return_tensors="pt")["pixel_values"][0]
    assert_close(found[:, :, 1:], expected[:, :, :-1], rtol=0, atol=1e-6)


SAME = [
    *("a dog", "A photo of a CAT!", "", "  a   dog\t\n", "don't you're I'VE x'sy", "1234 5th"),
    *("café", "cafe\u0301", "naïve ÉCOLE", "日本語のテキスト", "İstanbul", "straße", "👍🏽 👨‍👩‍👧"),
    *("a\u00a0b", "½ ² ①", "नमस्ते", "한국어", "مرحبا", "a – b — c…", "!!! ...", "dog " * 100),
]
OTHER = [
    *("don’t", "“quoted”", "salt &amp; pepper", "ＦＵＬＬ", "ﬁne", "schÃ¶n", "a\ufeffb"),
    *("bell\x07", "ΟΔΟΣ", "<end_of_text>", "<|endoftext|>"),
]


@pytest.mark.parametrize("make", [open_clip.SimpleTokenizer, scenes_tokenizer])
def test_tokens(make: Callable[..., Any], converted: tuple[Path, Path], tmp_path: Path) -> None:
    """Equal up to the end of text, then padded with it instead of 0, where OpenCLIP's cleaning
    changes nothing; it also mends encodings, HTML, quotes, ligatures and widths."""
    own, folder = make(context_length=20), converted[1]
    if make is scenes_tokenizer:
        save_cosmos(tmp_path / "c.safetensors", text_cfg={**TEXT, "vocab_size": own.vocab_size})
        run(f"cosmos:{tmp_path / 'c.safetensors'}", folder := tmp_path / "hf")
    saved = t.AutoTokenizer.from_pretrained(folder)
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    for texts, same in ((SAME, True), (OTHER, False)):
        expected, found = own(texts), saved(texts, **options)["input_ids"]
        ended = (expected == own.eot_token_id).cumsum(1) > 0
        expected = expected.where(~ended, own.eot_token_id)
        equal = (found == expected).all(1).tolist()
        assert dict(zip(texts, equal, strict=True)) == dict.fromkeys(texts, same)


# What OpenCLIP can build and CLIPModel cannot hold, and what the message says of it.
OTHER_WEIGHTS = {
    "visual.attn_pool.": {"attentional_pool": True, "attn_pooler_heads": 2},
    "visual.transformer.resblocks.0.ls_1.gamma": {"ls_init_value": 0.1},
}
OTHER_IMAGES = {
    "CLIPModel has no ModifiedResNet": {"layers": [1, 1, 1, 1], "width": 8},
    "CLIPModel has square images": {"image_size": [32, 64]},
    "CLIPModel reads the class token": {"pool_type": "avg"},
    **{f"CLIPModel has other weights: {name}": one for name, one in OTHER_WEIGHTS.items()},
    "its image features would differ by ": {"act_kwargs": {"approximate": "tanh"}},
}
OTHER_TEXTS = {
    "CLIPModel's text tower is causal": {"no_causal_mask": True},
    "and read at the end of text": {"pool_type": "last"},
    "CLIPModel has other weights: text_projection;": {"proj_type": "none"},
    "its text features would differ by ": {"tokenizer_kwargs": {"clean": "canonicalize"}},
}
ODD = {
    "CLIPModel has no CustomTextCLIP of OpenCLIP's": {"custom_text": True},
    **{key: {"vision_cfg": {**VISION, **changes}} for key, changes in OTHER_IMAGES.items()},
    **{key: {"text_cfg": {**TEXT, **changes}} for key, changes in OTHER_TEXTS.items()},
}


def refusal(spec: str, folder: Path) -> str:
    """The one line that says why a model is not converted; nothing is left."""
    before = sorted(folder.iterdir())
    with pytest.raises(UsageError) as raised:
        run(spec, folder / "out")
    assert sorted(folder.iterdir()) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("message", ODD)
def test_openclips_models_that_are_refused(message: str, tmp_path: Path) -> None:
    found = refusal(save_openclip(tmp_path / "own", {**TINY, **ODD[message]}), tmp_path)
    assert found.startswith("the model cannot be converted: ")
    assert message in found
    assert found.endswith("; use it as it is")


def test_transforms_and_weights_that_are_refused(tiny_archs, tmp_path: Path) -> None:
    spec = save_openclip(tmp_path / "own", TINY, resize_mode="longest")
    assert "CLIPImageProcessor has no resize_mode 'longest'" in refusal(spec, tmp_path)
    random = refusal(f"openclip:{tiny_archs['tiny']}/random", tmp_path)
    assert "its weights are random" in random


def copied(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    """Copy a folder and change values of a JSON file in it."""
    path = shutil.copytree(folder, to) / file
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(content))
    return to


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config", {"text_config": {"hidden_act": "gelu"}}, "has no quick_gelu and gelu"),
        ("preprocessor_config", {"resample": 0}, "OpenCLIP has no resample 0"),
        ("preprocessor_config", {"size": {"shortest_edge": 40}}, "its pixels would differ"),
        ("tokenizer_config", {"model_max_length": 9}, "its text features would differ"),
    ],
)
def test_transformers_models_that_are_refused(
    file: str, changes: dict[str, Any], message: str, converted: Any, tmp_path: Path
) -> None:
    folder = copied(converted[1], tmp_path / "copy", f"{file}.json", **changes)
    assert message in refusal(f"hf:{folder}", tmp_path)


def test_an_end_of_text_as_older_configurations_have_it(converted: Any, tmp_path: Path) -> None:
    """2, which stands for the highest id of a text."""
    folder = copied(converted[1], tmp_path / "hf", "config.json", text_config={"eos_token_id": 2})
    run(f"hf:{folder}", tmp_path / "own")
    assert_same(tmp_path / "own", folder)


def test_another_model_of_transformers_is_refused(converted: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(converted[1], tmp_path / "copy")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = t.AltCLIPConfig(
        text_config={**sizes, "vocab_size": 49408, "pad_token_id": 1, "project_dim": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )
    t.AltCLIPModel(config).save_pretrained(folder)
    assert "OpenCLIP has no AltCLIPModel" in refusal(f"hf:{folder}", tmp_path)


def test_the_command(command, tmp_path: Path) -> None:
    ended = command("convert", "scenes-cosmos", "--output", "new")
    assert (ended.status, ended.out) == (0, "")
    assert ended.err.startswith("note: CLIPModel has no place for visual.attn_cross_pool, ")
    assert ended.err.endswith("\nwrote new\n")
    again = command("convert", "scenes-clip", "--output", "new")
    assert again.status == 2
    assert again.err == f"cosmos-eval: {tmp_path / 'new'} is there already; choose another folder\n"
    (tmp_path / "file").touch()
    assert command("convert", "scenes-clip", "--output", "file/new").status == 2
    own = command("convert", f"python:{ROOT / 'examples' / 'two_tower.py'}", "--output", "other")
    assert "the model cannot be converted: it is code of your own; use it as it is" in own.err
