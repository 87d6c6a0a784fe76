"""Converted models are loaded and run by the other library itself."""

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
    description = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(description))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    safetensors.torch.save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"openclip:{folder}"


def run_openclip(folder: Path, picture: Image.Image, texts: list[str]) -> tuple[Any, ...]:
    """Return stock OpenCLIP's pixels, image and text features and scale of the logits."""
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    pixels = transform(picture)[None]
    with torch.no_grad():
        return pixels, *model.eval()(pixels, open_clip.get_tokenizer(name)(texts))


def run_transformers(folder: Path, picture: Image.Image, texts: list[str]) -> tuple[Any, ...]:
    """Return the same of stock transformers, whose pixels are resized by Pillow."""
    model, loading_info = t.CLIPModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading_info.values())
    processor = t.CLIPProcessor.from_pretrained(folder, backend="pil")
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    inputs = processor(images=[picture], text=texts, **options)
    with torch.no_grad():
        output = model(**inputs)
        scale = output.logits_per_image / (output.image_embeds @ output.text_embeds.T)
    assert_close(scale, model.logit_scale.exp().expand_as(scale), rtol=1e-4, atol=0)
    features = output.image_embeds, output.text_embeds
    return inputs["pixel_values"], *features, model.logit_scale.exp()


def assert_same_outputs(openclip_folder: Path, hf_folder: Path) -> None:
    picture = noise(40, 60)
    expected = run_openclip(openclip_folder, picture, TEXTS)
    assert_close(run_transformers(hf_folder, picture, TEXTS), expected, **CLOSE)


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
def test_openclip_to_transformers_and_back(config: dict[str, Any], tmp_path: Path) -> None:
    original, converted, converted_back = (tmp_path / name for name in ("own", "hf", "back"))
    spec = save_openclip(original, {**TINY, **config}, mean=[0.5, 0.4, 0.3])
    assert run(spec, converted) == []
    assert_same_outputs(original, converted)
    assert run(f"hf:{converted}", converted_back) == []
    assert_same_outputs(converted_back, converted)
    weights = safetensors.torch.load_file(original / "open_clip_model.safetensors")
    weights_back = safetensors.torch.load_file(converted_back / "open_clip_model.safetensors")
    assert_close(weights_back, weights, rtol=0, atol=0)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Convert a folder of OpenCLIP's, without its bias of the logits; return both folders."""
    folder = tmp_path_factory.mktemp("converted")
    spec = save_openclip(folder / "own", {**TINY, "quick_gelu": True, "init_logit_bias": -10})
    assert run(spec, folder / "hf") == ["CLIPModel has no place for logit_bias"]
    return folder / "own", folder / "hf"


def test_a_converted_folder_has_all_files_of_transformers(converted: tuple[Path, Path]) -> None:
    openclip_folder, hf_folder = converted
    config = t.AutoConfig.from_pretrained(hf_folder)
    assert config.architectures == ["CLIPModel"]
    text_config = config.text_config
    assert (text_config.bos_token_id, text_config.eos_token_id) == (49406, 49407)
    assert text_config.pad_token_id == 49407
    assert text_config.hidden_act == config.vision_config.hidden_act == "quick_gelu"
    t.CLIPVisionModelWithProjection.from_pretrained(hf_folder)  # which fails on other sizes
    vocabulary = t.AutoTokenizer.from_pretrained(hf_folder).get_vocab()
    assert json.loads((hf_folder / "vocab.json").read_text("utf-8")) == vocabulary
    merges = (hf_folder / "merges.txt").read_text("utf-8").splitlines()
    assert merges[1:] == [" ".join(pair) for pair in open_clip.SimpleTokenizer().bpe_ranks]
    card = (hf_folder / "README.md").read_text()
    digest = load(f"openclip:{openclip_folder}").info.weights_sha256
    assert f"`openclip:{openclip_folder}` (model weights, SHA-256 `{digest}`)" in card
    assert "license:" not in card


def patch_tokens(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Return the patches after the second to last block of an OpenCLIP or COSMOS model."""
    outputs: list[torch.Tensor] = []

    def remember(module: Any, inputs: Any, output: torch.Tensor) -> None:
        outputs.append(output)

    transformer = model.visual.transformer
    hook = transformer.resblocks[-2].register_forward_hook(remember)
    with torch.no_grad():
        model.encode_image(pixels)
    hook.remove()
    return outputs[0].reshape(len(pixels), -1, transformer.width)[:, 1:]


def test_llava_gets_the_patches_of_openclip(converted: tuple[Path, Path]) -> None:
    """By the calls of LLaVA's CLIPVisionTower: llava/model/multimodal_encoder/clip_encoder.py."""
    openclip_folder, hf_folder = converted
    openclip_model = open_clip.create_model(f"local-dir:{openclip_folder}").eval()
    model, loading_info = t.CLIPVisionModel.from_pretrained(hf_folder, output_loading_info=True)
    assert not loading_info["missing_keys"]
    assert not loading_info["mismatched_keys"]
    processor = t.CLIPImageProcessor.from_pretrained(hf_folder)
    assert processor.crop_size == {"height": 32, "width": 32}
    pixels = processor(images=noise(40, 60), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    assert_close(states[-2][:, 1:], patch_tokens(openclip_model, pixels), **CLOSE)


def test_llava_gets_the_patches_of_a_cosmos_model(tmp_path: Path) -> None:
    run("scenes-cosmos", tmp_path / "hf")
    cosmos_model: Any = load("scenes-cosmos")
    model = t.CLIPVisionModel.from_pretrained(tmp_path / "hf")
    processor = t.CLIPImageProcessor.from_pretrained(tmp_path / "hf")
    pixels = processor(images=noise(90, 60), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    expected = patch_tokens(getattr(cosmos_model, "built", cosmos_model).model, pixels)
    assert_close(states[-2][:, 1:], expected, rtol=0, atol=1e-5)


def test_a_llava_of_transformers_holds_the_converted_image_tower(
    converted: tuple[Path, Path], tmp_path: Path
) -> None:
    """It is made as in docs/models.md, and loaded from its folder as lmms-eval's llava_hf does."""
    openclip_folder, hf_folder = converted
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
        vision_config=t.CLIPVisionConfig.from_pretrained(hf_folder),
        text_config=text_config,
        image_token_index=image_token,
    )
    torch.manual_seed(0)
    model = t.LlavaForConditionalGeneration(config)
    model.model.vision_tower = t.CLIPVisionModel.from_pretrained(hf_folder)
    model.save_pretrained(tmp_path / "llava")
    loaded_model = t.AutoModelForImageTextToText.from_pretrained(tmp_path / "llava").eval()

    processor = t.CLIPImageProcessor.from_pretrained(hf_folder)
    pixels = processor(images=noise(40, 60), return_tensors="pt")["pixel_values"]
    openclip_model = open_clip.create_model(f"local-dir:{openclip_folder}").eval()
    tokens = patch_tokens(openclip_model, pixels)
    projector_inputs: list[torch.Tensor] = []

    def remember(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        projector_inputs.append(inputs[0])

    loaded_model.model.multi_modal_projector.register_forward_hook(remember)
    ids = torch.tensor([[1, *[image_token] * tokens.shape[1], 2]])
    with torch.no_grad():
        logits = loaded_model(input_ids=ids, pixel_values=pixels).logits
    assert_close(projector_inputs[0], tokens, rtol=0, atol=1e-5)
    assert logits.shape == (1, tokens.shape[1] + 2, 50)
    assert logits.isfinite().all()


def test_the_student_of_cosmos_without_its_cross_attention(tmp_path: Path) -> None:
    models = {name: cosmos_core.create_model(TINY) for name in ("teacher", "student")}
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, models, "cosmos", {**TINY, "preprocess": {"std": [0.5, 0.4, 0.3]}}, {})
    (note,) = run(f"cosmos:{path}", tmp_path / "hf", weights="student")
    left_out = (
        "visual.attn_cross_pool, text_attn_cross_pool, image_token_mapping, text_token_mapping, "
        "distill_logit_scale"
    )
    assert note == f"CLIPModel has no place for {left_out}"
    assert note in (tmp_path / "hf" / "README.md").read_text()
    student = load(f"cosmos:{path}", weights="student")
    pixels, tokens = student.transform(noise(40, 60))[None], student.tokenize(TEXTS)
    features = student.encode_image(pixels), student.encode_text(tokens)
    expected = pixels, *features, models["student"].logit_scale.exp()
    assert_close(run_transformers(tmp_path / "hf", noise(40, 60), TEXTS), expected, **CLOSE)


def test_bundled_models_to_transformers_and_to_openclip(tmp_path: Path) -> None:
    """Their vocabulary is not OpenCLIP's: it is written beside the weights both times."""
    encoder = load("scenes-clip")
    run("scenes-clip", tmp_path / "hf")
    (note,) = run(f"hf:{tmp_path / 'hf'}", tmp_path / "openclip")
    assert "hf_tokenizer_name" in note
    picture, texts = noise(90, 60), ["a red ball", "two boats " * 80]
    pixels, tokens = encoder.transform(picture)[None], encoder.tokenize(texts)
    expected = pixels, encoder.encode_image(pixels), encoder.encode_text(tokens)
    assert_close(run_transformers(tmp_path / "hf", picture, texts)[:3], expected, **CLOSE)
    assert_close(run_openclip(tmp_path / "openclip", picture, texts)[:3], expected, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "cls", "select"])
def test_metrics_of_scenes_are_the_same(task: str, tmp_path: Path) -> None:
    run("scenes-cosmos", tmp_path / "hf")
    cosmos_result = cosmos_eval.evaluate("scenes-cosmos", f"scenes-{task}", limit=150)
    hf_result = cosmos_eval.evaluate(f"hf:{tmp_path / 'hf'}", f"scenes-{task}", limit=150)
    # Counts are equal; the calibration error follows from features whose last bits differ.
    assert cosmos_result.metrics == pytest.approx(hf_result.metrics, abs=1e-3)


# Heights and widths of pictures whose crop does not cut off 3, 7, 11... pixels: see
# test_crops_at_a_margin_of_3_pixels_are_one_pixel_apart.
PICTURES = ((32, 32), (40, 60), (60, 40), (32, 33), (37, 32), (20, 31), (128, 96))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_the_same(mode: str, interpolation: str, tmp_path: Path) -> None:
    """Equal if Pillow resizes, and on average within half a step of 255 if torchvision does."""
    spec = save_openclip(tmp_path / "own", TINY, resize_mode=mode, interpolation=interpolation)
    run(spec, tmp_path / "hf")
    transform = load(spec).transform
    pillow_processor = t.AutoImageProcessor.from_pretrained(tmp_path / "hf", backend="pil")
    default_processor = t.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    for height, width in PICTURES:
        picture = noise(height, width)
        expected = transform(picture)
        pillow_pixels = pillow_processor(images=picture, return_tensors="pt")["pixel_values"][0]
        default_pixels = default_processor(images=picture, return_tensors="pt")["pixel_values"][0]
        assert_close(pillow_pixels, expected, rtol=0, atol=1e-6)
        # Half a step of 255, divided by CLIP's standard deviation of about 0.27.
        assert (default_pixels - expected).abs().mean() < 0.5 / 255 / 0.27
    run(f"hf:{tmp_path / 'hf'}", tmp_path / "back")
    transform_back = load(f"openclip:{tmp_path / 'back'}").transform
    assert torch.equal(transform_back(noise(40, 60)), transform(noise(40, 60)))


def test_crops_at_a_margin_of_3_pixels_are_one_pixel_apart(converted: tuple[Path, Path]) -> None:
    """Torchvision rounds half of the margin, 1.5, to 2, and transformers to 1."""
    openclip_folder, hf_folder = converted
    openclip_pixels = load(f"openclip:{openclip_folder}").transform(noise(32, 35))
    processor = t.CLIPImageProcessor.from_pretrained(hf_folder)
    hf_pixels = processor(images=noise(32, 35), return_tensors="pt")["pixel_values"][0]
    assert_close(hf_pixels[:, :, 1:], openclip_pixels[:, :, :-1], rtol=0, atol=1e-6)


# Texts that OpenCLIP's cleaning does not change, and texts that it does.
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
def test_tokens_are_the_same_unless_openclip_cleans_the_text(
    make: Callable[..., Any], converted: tuple[Path, Path], tmp_path: Path
) -> None:
    """Tokens are padded with the end of text instead of 0.

    OpenCLIP's cleaning mends encodings, HTML, quotes, ligatures and widths.
    """
    tokenizer = make(context_length=20)
    _, folder = converted
    if make is scenes_tokenizer:
        path, folder = tmp_path / "c.safetensors", tmp_path / "hf"
        save_cosmos(path, text_cfg={**TEXT, "vocab_size": tokenizer.vocab_size})
        run(f"cosmos:{path}", folder)
    hf_tokenizer = t.AutoTokenizer.from_pretrained(folder)
    options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
    for texts, are_equal in ((SAME, True), (OTHER, False)):
        expected = tokenizer(texts)
        is_end_or_padding = (expected == tokenizer.eot_token_id).cumsum(1) > 0
        expected = expected.where(~is_end_or_padding, tokenizer.eot_token_id)
        hf_tokens = hf_tokenizer(texts, **options)["input_ids"]
        equal = (hf_tokens == expected).all(1).tolist()
        assert dict(zip(texts, equal, strict=True)) == dict.fromkeys(texts, are_equal)


# Messages on what OpenCLIP can build and CLIPModel cannot hold, with options of such models.
OTHER_WEIGHTS = {
    "visual.attn_pool.": {"attentional_pool": True, "attn_pooler_heads": 2},
    "visual.transformer.resblocks.0.ls_1.gamma": {"ls_init_value": 0.1},
}
OTHER_IMAGES = {
    "CLIPModel has no ModifiedResNet": {"layers": [1, 1, 1, 1], "width": 8},
    "CLIPModel has square images": {"image_size": [32, 64]},
    "CLIPModel reads the class token": {"pool_type": "avg"},
    **{f"CLIPModel has other weights: {name}": cfg for name, cfg in OTHER_WEIGHTS.items()},
    "its image features would differ by ": {"act_kwargs": {"approximate": "tanh"}},
}
OTHER_TEXTS = {
    "CLIPModel's text tower is causal": {"no_causal_mask": True},
    "and read at the end of text": {"pool_type": "last"},
    "CLIPModel has other weights: text_projection;": {"proj_type": "none"},
    "its text features would differ by ": {"tokenizer_kwargs": {"clean": "canonicalize"}},
}
REFUSED_OPTIONS = {
    "CLIPModel has no CustomTextCLIP of OpenCLIP's": {"custom_text": True},
    **{key: {"vision_cfg": {**VISION, **changes}} for key, changes in OTHER_IMAGES.items()},
    **{key: {"text_cfg": {**TEXT, **changes}} for key, changes in OTHER_TEXTS.items()},
}


def refusal(spec: str, folder: Path) -> str:
    """Return the one line that says why a model is not converted; check that no file is left."""
    files_before = sorted(folder.iterdir())
    with pytest.raises(UsageError) as raised:
        run(spec, folder / "out")
    assert sorted(folder.iterdir()) == files_before
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("expected", REFUSED_OPTIONS)
def test_openclips_models_that_are_refused(expected: str, tmp_path: Path) -> None:
    spec = save_openclip(tmp_path / "own", {**TINY, **REFUSED_OPTIONS[expected]})
    message = refusal(spec, tmp_path)
    assert message.startswith("the model cannot be converted: ")
    assert expected in message
    assert message.endswith("; use it as it is")


def test_transforms_and_weights_that_are_refused(tiny_archs, tmp_path: Path) -> None:
    spec = save_openclip(tmp_path / "own", TINY, resize_mode="longest")
    assert "CLIPImageProcessor has no resize_mode 'longest'" in refusal(spec, tmp_path)
    message = refusal(f"openclip:{tiny_archs['tiny']}/random", tmp_path)
    assert "its weights are random" in message


def changed_copy(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    """Copy a folder and change values of a JSON file in it; return the copy."""
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
    _, hf_folder = converted
    folder = changed_copy(hf_folder, tmp_path / "copy", f"{file}.json", **changes)
    assert message in refusal(f"hf:{folder}", tmp_path)


def test_older_configurations_have_the_id_2_as_end_of_text(converted: Any, tmp_path: Path) -> None:
    """It stands for the highest id of a text."""
    _, hf_folder = converted
    changes = {"text_config": {"eos_token_id": 2}}
    folder = changed_copy(hf_folder, tmp_path / "hf", "config.json", **changes)
    run(f"hf:{folder}", tmp_path / "own")
    assert_same_outputs(tmp_path / "own", folder)


def test_another_model_of_transformers_is_refused(converted: Any, tmp_path: Path) -> None:
    _, hf_folder = converted
    folder = shutil.copytree(hf_folder, tmp_path / "copy")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = t.AltCLIPConfig(
        text_config={**sizes, "vocab_size": 49408, "pad_token_id": 1, "project_dim": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )
    t.AltCLIPModel(config).save_pretrained(folder)
    assert "OpenCLIP has no AltCLIPModel" in refusal(f"hf:{folder}", tmp_path)


def test_the_command_writes_a_new_folder(command, tmp_path: Path) -> None:
    completed = command("convert", "scenes-cosmos", "--output", "new")
    assert (completed.status, completed.out) == (0, "")
    assert completed.err.startswith("note: CLIPModel has no place for visual.attn_cross_pool, ")
    assert completed.err.endswith("\nwrote new\n")
    refused = command("convert", "scenes-clip", "--output", "new")
    assert refused.status == 2
    message = f"cosmos-eval: {tmp_path / 'new'} is there already; choose another folder\n"
    assert refused.err == message
    (tmp_path / "file").touch()
    assert command("convert", "scenes-clip", "--output", "file/new").status == 2
    user_model = f"python:{ROOT / 'examples' / 'two_tower.py'}"
    refused = command("convert", user_model, "--output", "other")
    assert "the model cannot be converted: it is code of your own; use it as it is" in refused.err
