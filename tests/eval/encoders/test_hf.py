"""Models of transformers behind the encoder interface, tiny, against transformers itself."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import safetensors.torch
import torch
import transformers as t
from support.dense import FORMS
from support.encoders import load, noise, refusal
from support.scene_files import write_scenes
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import cosmos_eval
from cosmos_eval.models.dense import encode_patches
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.models.facts import model_facts
from cosmos_eval.models.maps import require_patches, whole_image
from cosmos_eval.models.specs import parse_model_spec, with_complete_paths
from cosmos_eval.types import UsageError

TEXTS = ["a dog", "two dogs on the red sofa", "A photo of a CAT!", "", "dog " * 100]
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
LAYERS |= {"num_attention_heads": 2}
VISION = {**LAYERS, "image_size": 32, "patch_size": 8}
WORDS = ("a", "dog", "cat", "two", "dogs", "on", "sofa", "red", "blue", "photo", "of", "the")
FEW_WORDS = 2048
"""A vocabulary that loads at once, in place of OpenAI's 49,408."""
Made = tuple[Any, Any, Any, dict[str, Any]]
"""A model, its image processor, its tokenizer, and the processor's options for texts."""


def text(vocab_size: int, positions: int = 20, **more: Any) -> dict[str, Any]:
    return {**LAYERS, "vocab_size": vocab_size, "max_position_embeddings": positions, **more}


def clip_tokenizer(length: int, vocabulary_size: int) -> Any:
    """OpenAI's vocabulary, which OpenCLIP holds, or its first words, under transformers' names."""
    own = open_clip.SimpleTokenizer()
    words = [word for word, i in own.encoder.items() if i < vocabulary_size - 2]
    vocabulary = {word: i for i, word in enumerate((*words, "<|startoftext|>", "<|endoftext|>"))}
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)[: vocabulary_size - 2 - 512]
    return t.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def roberta_tokenizer() -> Any:
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = [*special, *((f"▁{word}", -1.0) for word in WORDS), ("<mask>", 0.0)]
    return t.XLMRobertaTokenizer(vocab=pieces)


def gemma_tokenizer() -> Any:
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")
    letters = ("▁", *sorted({*"".join(WORDS)}))
    vocabulary = {piece: i for i, piece in enumerate((*special, *letters))}
    return t.GemmaTokenizer(vocab=vocabulary, merges=[])  # padded on the left, unlike SigLIP's


def ends(vocabulary_size: int) -> dict[str, int]:
    """The ids of the start and the end of a text, the last of OpenAI's vocabulary."""
    return {"bos_token_id": vocabulary_size - 2, "eos_token_id": vocabulary_size - 1}


def clip(length: int = 20, vocabulary_size: int = FEW_WORDS, **more: Any) -> Made:
    more = {"hidden_act": "quick_gelu", **more}
    config = t.CLIPConfig(
        text_config=text(vocabulary_size, length, **ends(vocabulary_size), **more),
        vision_config={**VISION, **more},
        projection_dim=16,
    )
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    tokenizer = clip_tokenizer(length, vocabulary_size)
    return t.CLIPModel(config), images, tokenizer, {"max_length": length}


def siglip(tokenizer: Any) -> Made:
    vocabulary = text(len(tokenizer), 64, bos_token_id=0, eos_token_id=1)
    config = t.SiglipConfig(text_config=vocabulary, vision_config=VISION)
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    # The model's card: padded to the longest length, without a mask.
    return t.SiglipModel(config), images, tokenizer, {"max_length": 64, "mask": False}


def metaclip2() -> Made:
    words = text(17, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    config = t.MetaClip2Config(text_config=words, vision_config=VISION, projection_dim=16)
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return t.MetaClip2Model(config), images, roberta_tokenizer(), {"max_length": 20}


def altclip(vocab_size: int = 17) -> Made:
    """Its positions begin at 2: 22 are 20 tokens."""
    words = text(vocab_size, 22, project_dim=32, pad_token_id=1)
    config = t.AltCLIPConfig(text_config=words, vision_config=VISION, projection_dim=16)
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return t.AltCLIPModel(config), images, roberta_tokenizer(), {"max_length": 20}


def chinese_clip(bert: Any) -> Made:
    config = t.ChineseCLIPConfig(text_config=text(16), vision_config=VISION, projection_dim=16)
    square = {"height": 32, "width": 32}
    images = t.ChineseCLIPImageProcessor(size=square, crop_size=square)
    return t.ChineseCLIPModel(config), images, bert, {"max_length": 20}


def align(bert: Any) -> Made:
    blocks = {
        **{"in_channels": [32], "out_channels": [16], "kernel_sizes": [3], "strides": [1]},
        **{"num_block_repeats": [1], "expand_ratios": [1], "depthwise_padding": []},
    }
    vision = {**blocks, "image_size": 32, "width_coefficient": 1.0, "depth_coefficient": 1.0}
    vision["hidden_dim"] = 16
    config = t.AlignConfig(text_config=text(16), vision_config=vision, projection_dim=16)
    images = t.EfficientNetImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, include_top=True
    )
    return t.AlignModel(config), images, bert, {"max_length": 20}


def tipsv2() -> Made:
    letters = ("<pad>", "<unk>", "▁", *sorted({*"".join(WORDS)}))
    tokenizer = t.Tipsv2Tokenizer(vocab={piece: i for i, piece in enumerate(letters)}, merges=[])
    vision = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = t.Tipsv2Config(text_config=text(len(letters), 64), vision_config=vision)
    images = t.Tipsv2ImageProcessor(size={"height": 32, "width": 32})
    return t.Tipsv2Model(config), images, tokenizer, {"max_length": 64}


def aimv2(length: int = 20) -> Made:
    config = t.Aimv2Config(
        text_config=text(FEW_WORDS, length, initializer_range=0.5, **ends(FEW_WORDS)),
        vision_config={**VISION, "initializer_range": 0.5},
        projection_dim=16,
    )
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return t.Aimv2Model(config), images, clip_tokenizer(length, FEW_WORDS), {"max_length": length}


def naflex() -> Made:
    """13 patches at most, which no grid but 1 x 13 fills: padding is masked."""
    letters = gemma_tokenizer().get_vocab()
    tokenizer = t.Siglip2Tokenizer(vocab=letters, merges=[], padding_side="right")
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = t.Siglip2Config(
        text_config=text(len(tokenizer), 64, bos_token_id=2, eos_token_id=1),
        vision_config={**vision, "num_patches": 16},
    )
    images = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=13)
    return t.Siglip2Model(config), images, tokenizer, {"max_length": 64, "mask": False}


KINDS = (
    "aimv2",
    "clip",
    "siglip",
    "siglip_pieces",
    "siglip2",
    "metaclip2",
    "altclip",
    "chinese_clip",
    "align",
    "tipsv2",
)


@pytest.fixture(scope="module")
def makers(
    siglip_tokenizer: Path, bert_tokenizer: Path, request: pytest.FixtureRequest
) -> dict[str, Callable[[], Made]]:
    read = t.AutoTokenizer.from_pretrained
    return {
        "aimv2": aimv2,
        "naflex": naflex,
        "clip": clip,
        "siglip": lambda: siglip(read(siglip_tokenizer)),
        "siglip_pieces": lambda: siglip(t.SiglipTokenizer(str(request.getfixturevalue("pieces")))),
        "siglip2": lambda: siglip(gemma_tokenizer()),
        "metaclip2": metaclip2,
        "altclip": altclip,
        "chinese_clip": lambda: chinese_clip(read(bert_tokenizer)),
        "align": lambda: align(read(bert_tokenizer)),
        "tipsv2": tipsv2,
    }


def save(made: Made, folder: Path, **options: Any) -> Path:
    for part in made[:3]:
        part.save_pretrained(folder, **(options if part is made[0] else {}))
    return folder


@pytest.fixture(scope="module")
def kinds(makers, tmp_path_factory) -> Callable[[str], tuple[Made, Path]]:
    """A model of a kind and its folder, each made once."""
    made: dict[str, tuple[Made, Path]] = {}

    def get(kind: str) -> tuple[Made, Path]:
        if kind not in made:
            torch.manual_seed(0)
            parts = makers[kind]()
            parts[0].eval()
            made[kind] = parts, save(parts, tmp_path_factory.mktemp(kind))
        return made[kind]

    return get


@pytest.fixture(scope="module")
def loaded(kinds) -> Callable[[str], Any]:
    """The encoder of a kind's folder, each loaded once."""
    return cache(lambda kind: load(f"hf:{kinds(kind)[1]}"))


@pytest.fixture
def folder(kinds, tmp_path) -> Path:
    """A copy of a CLIP's folder, to be spoilt."""
    return shutil.copytree(kinds("clip")[1], tmp_path / "copy")


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers_forward(kind: str, kinds: Any, loaded: Any) -> None:
    model, processor, tokenizer, options = kinds(kind)[0]
    pictures = [noise(40, 60), noise(40, 60).rotate(90)]
    length = options["max_length"]
    words = tokenizer(
        TEXTS, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    mask = {"attention_mask": words["attention_mask"]} if options.get("mask", True) else {}
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(input_ids=words["input_ids"], pixel_values=pixels, **mask)
    encoder = loaded(kind)
    images = torch.stack([encoder.transform(picture) for picture in pictures])
    tokens = encoder.tokenize(TEXTS)
    close = {"rtol": 0, "atol": 1e-6}
    assert_close(images, pixels, **close)
    assert_close(tokens, words["input_ids"], rtol=0, atol=0)
    unit = torch.nn.functional.normalize  # ALIGN's own embeddings are
    assert_close(encoder.encode_image(images), unit(expected.image_embeds, dim=-1), **close)
    embeds = expected.text_embeds.nan_to_num()  # TIPSv2's feature of an empty text is 0 / 0
    assert_close(encoder.encode_text(tokens), unit(embeds, dim=-1), **close)
    # A batch of short texts, whose padding is left out.
    assert_close(encoder.encode_text(tokens[:1]), unit(expected.text_embeds[:1], dim=-1), **close)
    assert encoder.overlong(TEXTS).tolist() == [False] * 4 + [True]
    assert encoder.info.architecture == type(model.config).__name__
    assert not encoder.info.random


@pytest.mark.parametrize("kind", ["clip", "siglip", "altclip", "naflex"])
def test_a_model_in_training_has_the_metrics_of_its_folder(kind, kinds, loaded, tmp_path) -> None:
    (model, images, tokenizer, _), _ = kinds(kind)
    datasets = write_scenes(tmp_path / "scenes", 20, "found", "named")
    evaluation = cosmos_eval.Evaluation(datasets, on_error="raise")
    model.train()
    try:
        metrics = evaluation(model, tokenizer=tokenizer, transform=images, step=1)
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    for dataset in datasets:
        row = cosmos_eval.evaluate(loaded(kind), dataset)
        expected = {f"{row.dataset}/{name}": row.metrics[name] for name in row.metrics}
        assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "naflex"])
def test_a_text_has_the_same_feature_alone_and_among_others(
    kind: str, kinds: Any, loaded: Any
) -> None:
    """That of transformers' forward of all texts, also for the text that fills the context."""
    model, _, tokenizer, options = kinds(kind)[0]
    texts = [text for text in TEXTS if text]  # TIPSv2's feature of an empty text is 0 / 0
    padded = {"padding": "max_length", "max_length": options["max_length"], "truncation": True}
    words = tokenizer(texts, return_tensors="pt", **padded)
    mask = {"attention_mask": words["attention_mask"]} if options.get("mask", True) else {}
    with torch.no_grad():
        expected = model.get_text_features(words["input_ids"], **mask).pooler_output
    encoder = loaded(kind)
    alone = [encoder.encode_text(encoder.tokenize([text])) for text in texts]
    together = torch.nn.functional.normalize(expected, dim=-1)
    assert_close(torch.cat(alone), together, rtol=0, atol=1e-5)


def test_a_model_whose_texts_depend_on_each_other(
    kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither padding nor a short text helps where the mean of the batch is added."""
    forward = t.CLIPModel.get_text_features

    def with_mean(self: Any, *args: Any, **more: Any) -> Any:
        output = forward(self, *args, **more)
        output.pooler_output += output.pooler_output.mean(dim=0)
        return output

    monkeypatch.setattr(t.CLIPModel, "get_text_features", with_mean)
    message = "the feature of a text depends on the other texts of its batch"
    assert message in refusal(f"hf:{kinds('clip')[1]}")


def test_images_of_any_size(kinds: Any, loaded: Any, command: Any) -> None:
    """NaFlex: pixels, masks and positions of its own processor, and its own forward."""
    (model, processor, tokenizer, options), folder = kinds("naflex")
    pictures = [noise(40, 60), noise(90, 20), noise(64, 64), noise(8, 200)]
    inputs = processor(images=pictures, return_tensors="pt")
    grids = inputs["spatial_shapes"].tolist()
    assert len({tuple(grid) for grid in grids}) == 4
    assert inputs["pixel_attention_mask"].sum(dim=1).tolist() == [h * w for h, w in grids]
    assert inputs["pixel_attention_mask"].min() == 0
    length = options["max_length"]
    words = tokenizer(TEXTS, padding="max_length", truncation=True, max_length=length)
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(words["input_ids"]), **inputs)
    encoder = loaded("naflex")
    images = encoder.collate([encoder.transform(picture) for picture in pictures])
    second = encoder.collate([encoder.transform(pictures[1])])
    close = {"rtol": 0, "atol": 1e-6}
    assert_close(encoder.encode_image(images), expected.image_embeds, **close)
    assert_close(encoder.encode_image(second), expected.image_embeds[1:2], **close)
    tokens = encoder.tokenize(TEXTS)
    assert_close(encoder.encode_text(tokens), expected.text_embeds, **close)
    with pytest.raises(UsageError, match="has no patches to compare a text with"):
        require_patches(encoder)
    facts = model_facts(encoder)
    assert (facts["image_size"], facts["patch_size"], facts["context_length"]) == (None, 8, 64)
    assert all(facts[f"{tower}_gflops"] for tower in ("image", "text"))
    run = ("run", "--dataset", "scenes-cls", "--limit", 8, "--no-cache", "--output", "out")
    done = command(*run, "--model", f"hf:{folder}")
    assert done.status == 0, done.err


def test_a_vocabulary_of_sentencepiece_without_tokenizer_json(pieces: Path, tmp_path: Path) -> None:
    """XLM-R's tokenizer: ids are sentencepiece's and one, but for four special ones."""
    from sentencepiece import SentencePieceProcessor

    folder = save(altclip(vocab_size=40), tmp_path)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces, folder / "sentencepiece.bpe.model")
    own = SentencePieceProcessor(model_file=str(pieces))
    ids = own.encode("two dogs on the red sofa")
    expected = torch.tensor([0, *(i + 1 for i in ids), 2] + [1] * (18 - len(ids)))
    assert_close(load(f"hf:{folder}").tokenize(["two dogs on the red sofa"])[0], expected)


@pytest.mark.slow
def test_a_vocabulary_of_sentencepiece_without_that_package(pieces: Path, tmp_path: Path) -> None:
    folder = save(altclip(vocab_size=40), tmp_path)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces, folder / "sentencepiece.bpe.model")
    program = ("support.without_packages", "sentencepiece", "cosmos_eval.cli.app")
    done = subprocess.run(
        [sys.executable, "-m", *program, "run", "--model", f"hf:{folder}", "--task", "cls"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    message = "its tokenizer needs sentencepiece: pip install 'cosmos-eval[hf]'"
    assert done.stderr.endswith(f"'hf:{folder}' cannot be loaded: {message}\n")


def test_a_text_that_just_fits(loaded: Any) -> None:
    """Between start and end of text a context of 20 holds 18 words."""
    fits = loaded("clip").overlong(["dog " * 17, "dog " * 18, "dog " * 19])
    assert fits.tolist() == [0, 0, 1]


def test_operations_counted_by_hand(loaded: Any) -> None:
    """Two blocks with an MLP of twice the width, of 17 tokens, 16 of them patches, and of 20."""

    def macs(tokens: int) -> int:
        return 2 * (4 * tokens * 32**2 + 2 * tokens**2 * 32 + 2 * tokens * 32 * 64) + 32 * 16

    facts = model_facts(loaded("clip"))
    assert facts["image_gflops"] == 2 * (macs(17) + 16 * 192 * 32) / 1e9
    assert facts["text_gflops"] == 2 * macs(20) / 1e9
    assert (facts["patch_size"], facts["context_length"], facts["image_size"]) == (8, 20, [32, 32])


def test_operations_of_one_text(kinds: Any, loaded: Any) -> None:
    """AIMv2, whose texts are encoded with a short one beside them, which is not counted."""
    model = kinds("aimv2")[0][0]
    tokens = torch.full((1, 20), 320)
    tokens[0, -1] = FEW_WORDS - 1
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.get_text_features(tokens, torch.ones_like(tokens))
    encoder = loaded("aimv2")
    assert encoder.added_texts == 1
    assert model_facts(encoder)["text_gflops"] == counter.get_total_flops() / 1e9


@pytest.mark.parametrize("kind", KINDS)
def test_facts_of_every_kind(kind: str, loaded: Any) -> None:
    facts = model_facts(loaded(kind))
    assert [name for name, fact in facts.items() if fact is None] == (
        ["patch_size"] if kind == "align" else []
    )
    assert facts["image_parameters"] + facts["text_parameters"] <= facts["parameters"]


def to_openclip(state: dict[str, torch.Tensor], layers: int = 2) -> dict[str, torch.Tensor]:
    """Rename a CLIPModel's weights to OpenCLIP's, and join the projections of attention."""
    whole = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "logit_scale": "logit_scale",
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "ln_final": "text_model.final_layer_norm",
    }
    norms["visual.ln_post"] = "vision_model.post_layernorm"
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    inner |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    found = {own: state[name] for own, name in whole.items()}
    found["visual.proj"] = state["visual_projection.weight"].T
    found["text_projection"] = state["text_projection.weight"].T
    for tower, own in (("vision", "visual.transformer"), ("text", "transformer")):
        for i in range(layers):
            layer, block = f"{tower}_model.encoder.layers.{i}", f"{own}.resblocks.{i}"
            norms |= {f"{block}.{a}": f"{layer}.{b}" for a, b in inner.items()}
            for kind in ("weight", "bias"):
                parts = [state[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                found[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    for own, name in norms.items():
        found |= {f"{own}.{kind}": state[f"{name}.{kind}"] for kind in ("weight", "bias")}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def save_both(folder: Path, act: str) -> tuple[str, str]:
    """Save the same CLIP as OpenCLIP and as transformers have it; return the names of both. Its
    weights are large, so that features are not alike, and captions of scenes fit its context."""
    torch.manual_seed(1)
    made = clip(64, 49408, hidden_act=act, initializer_factor=3.0)
    size = {"width": 32, "layers": 2, "mlp_ratio": 2.0}
    towers = {
        "embed_dim": 16,
        "quick_gelu": act == "quick_gelu",
        "vision_cfg": {**size, "image_size": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {**size, "context_length": 64, "vocab_size": 49408, "heads": 2},
    }
    own = folder / "openclip"
    own.mkdir()
    (own / "open_clip_config.json").write_text(json.dumps({"model_cfg": towers}))
    state = to_openclip(made[0].state_dict())
    safetensors.torch.save_file(state, own / "open_clip_model.safetensors")
    return f"openclip:{own}", f"hf:{save(made, folder / 'hf')}"


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_the_same_weights_through_openclip(act: str, tmp_path: Path) -> None:
    first, second = map(load, save_both(tmp_path, act))
    images = torch.stack([first.transform(noise(40, 60))])
    close = {"rtol": 0, "atol": 1e-6}
    assert_close(second.encode_image(images), first.encode_image(images), **close)
    texts = [first.tokenize(TEXTS[:4]), second.tokenize(TEXTS[:4])]
    assert_close(second.encode_text(texts[1]), first.encode_text(texts[0]), **close)
    assert first.overlong(TEXTS).tolist() == second.overlong(TEXTS).tolist()
    for form in FORMS:
        patches = [encoder.encode_patches(images, form) for encoder in (second, first)]
        assert_close(*patches, **close)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "cls"])
def test_the_same_weights_through_openclip_have_the_same_metrics(task, command, tmp_path) -> None:
    """Pictures of 64 px, halved: transformers and Pillow round no pixel of them differently."""
    models = [part for name in save_both(tmp_path, "quick_gelu") for part in ("--model", name)]
    done = command("run", "--task", task, *models, "--limit", 40, "--no-cache", "--output", "out")
    assert done.status == 0, done.err
    first, second = (json.loads(path.read_text()) for path in sorted(Path("out").glob("*.json")))
    assert first["model"]["weights_sha256"] != second["model"]["weights_sha256"]
    # Counts are equal; the calibration error is of features that differ in their last bits.
    assert first["metrics"] == pytest.approx(second["metrics"], abs=1e-3)


def spoil(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of a file."""
    state = safetensors.torch.load_file(file)
    change(state)
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})


def test_weights_of_several_files(kinds: Any, loaded: Any, tmp_path: Path) -> None:
    sharded = save(kinds("clip")[0], tmp_path / "sharded", max_shard_size="100KB")
    names = sorted(path.name for path in sharded.glob("*.safetensors"))
    assert len(names) > 1
    whole, parts = loaded("clip"), load(f"hf:{sharded}")
    tokens = whole.tokenize(TEXTS)
    assert_close(parts.encode_text(tokens), whole.encode_text(tokens), rtol=0, atol=0)
    first = parts.info.weights_sha256
    assert first != whole.info.weights_sha256
    spoil(sharded / names[-1], lambda s: s.update({name: x + 1e-3 for name, x in s.items()}))
    assert load(f"hf:{sharded}").info.weights_sha256 != first
    (sharded / names[-1]).unlink()
    assert f"{names[-1]}; fetch its files again" in refusal(f"hf:{sharded}")


def test_half_precision_and_the_head_of_a_training(folder: Path) -> None:
    """Weights run as float32, and what the model does not have beside its layers is left out."""
    head = {"head.weight": torch.ones(1), "text_model.embeddings.position_ids": torch.arange(20)}

    def change(state: dict[str, Any]) -> None:
        state.update({name: tensor.half() for name, tensor in state.items()} | head)

    spoil(folder / "model.safetensors", change)
    edit(folder / "config.json", dtype="float16")
    encoder = load(f"hf:{folder}")
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        model = t.CLIPModel.from_pretrained(folder, dtype=torch.float32)
        expected = model.get_text_features(tokens).pooler_output
    unit = torch.nn.functional.normalize
    assert_close(encoder.encode_text(tokens), unit(expected, dim=-1), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_descriptions_change_with_their_files(folder: Path) -> None:
    def change(name: str, key: str, value: Any) -> list[bool]:
        before = load(f"hf:{folder}")
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, key: value}))
        after = load(f"hf:{folder}")
        pairs = (
            (getattr(one, k) for one in (before, after)) for k in ("preprocessing", "tokenizer")
        )
        return [first != second for first, second in pairs]

    assert change("config.json", "logit_scale_init_value", 2.0) == [True, True]
    assert change("tokenizer_config.json", "model_max_length", 12) == [False, True]
    assert load(f"hf:{folder}").tokenize(["a"]).shape == (1, 12)
    assert change("preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5])[0]


@pytest.mark.parametrize("layout", ["openclip", "parts"])
def test_existing_results_are_compared_with_the_weights_of_a_folder(
    layout: str, kinds: Any, command: Any, tmp_path: Path
) -> None:
    """And so are cached embeddings, for a preview."""
    folder = tmp_path / layout
    if layout == "parts":
        save(kinds("clip")[0], folder, max_shard_size="100KB")
    else:
        save_both(tmp_path, "gelu")
    run = ("run", "--dataset", "scenes-cls", "--limit", 4, "--output", "out")
    run += ("--model", f"{'hf' if layout == 'parts' else layout}:{folder}")
    assert command(*run).status == 0
    (preview,) = json.loads(command(*run, "--dry-run", "--json").out)
    assert preview["result_fault"] is None
    assert preview["embeddings_kept"]["image"] == 4
    file = sorted(folder.glob("*.safetensors"))[-1]
    spoil(file, lambda s: s.update({name: x + 1 for name, x in s.items()}))
    (preview,) = json.loads(command(*run, "--dry-run", "--json").out)
    assert "was measured with other weights than" in preview["result_fault"]
    assert preview["embeddings_kept"] == {}


@pytest.mark.parametrize(("kind", "resample"), [("clip", 3), ("tipsv2", 2)])
def test_patches(kind: str, resample: int, kinds: Any, tmp_path: Path) -> None:
    (model, processor, *_), folder = kinds(kind)
    folder = shutil.copytree(folder, tmp_path / "copy")
    edit(folder / "preprocessor_config.json", resample=resample)
    encoder = load(f"hf:{folder}")
    assert isinstance(require_patches(encoder, "csa"), DenseEncoder)
    assert encoder.patch_size == model.config.vision_config.patch_size
    assert encoder.image_mean == tuple(processor.image_mean or (0.0, 0.0, 0.0))
    assert encoder.image_std == tuple(processor.image_std or (1.0, 1.0, 1.0))
    pixels = torch.stack([encoder.transform(noise(64, 64))])
    assert_close(whole_image(encoder, noise(64, 64)), pixels[0], rtol=0, atol=1e-5)
    patches = encoder.encode_patches(pixels, "maskclip")
    assert patches.shape == (1, 4, 4, encoder.encode_image(pixels).shape[1])
    assert_close(patches, encode_patches(model, pixels, "maskclip"), rtol=0, atol=1e-6)


def test_requests_for_patches_are_refused(loaded: Any) -> None:
    encoder = loaded("align")
    with pytest.raises(UsageError, match="has no patches to compare a text with"):
        require_patches(encoder)
    with pytest.raises(UsageError, match="image tower, AlignModel, has no patch embeddings"):
        require_patches(encoder, "vanilla")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def no_positions(folder: Path) -> None:
    """BLIP-2: its text tower is a language model, and the tokenizer states no length either."""
    language = {**LAYERS, "model_type": "opt", "word_embed_proj_dim": 32, "ffn_dim": 32}
    towers = {"vision_config": VISION, "qformer_config": LAYERS, "text_config": language}
    t.Blip2Model(t.Blip2Config(**towers)).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_max_length=10**30)


def edit_text_tower(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], **changes})


def save_as(folder: Path, model: t.PreTrainedModel) -> None:
    """Replace a folder's model by one of another class."""
    (folder / "config.json").unlink()
    model.save_pretrained(folder)


def blip_retrieval(folder: Path) -> None:
    words = {**text(16), "encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3}
    config = t.BlipConfig(text_config=words, vision_config=VISION, projection_dim=16)
    save_as(folder, t.BlipForImageTextRetrieval(config))


def clip_segmentation(folder: Path) -> None:
    config = t.CLIPSegConfig(
        text_config=text(FEW_WORDS),
        vision_config=VISION,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0],
        decoder_num_attention_heads=2,
    )
    save_as(folder, t.CLIPSegForImageSegmentation(config))


def prefixed(folder: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        renamed = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
        state.clear()
        state.update(renamed)

    spoil(folder / "model.safetensors", change)


def adapter_alone(folder: Path) -> None:
    edit_adapter(folder)
    (folder / "model.safetensors").unlink()


def edit_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def large_header(folder: Path) -> None:
    """A file of 17 MiB that takes no space."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write((17 << 20).to_bytes(8, "little") + b"{")
        file.truncate((17 << 20) + 8)


def write_weights(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def pickle_named_safetensors(folder: Path) -> None:
    torch.save({"weight": torch.ones(100)}, folder / "model.safetensors")


NORM = "text_model.final_layer_norm.weight"
SPOILT = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors (pickles"),
    "pickles": (pickled, "no model.safetensors (pickles are never opened): name a revision"),
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json: name what"),
    "layout": (
        lambda f: (f / "config.json").rename(f / "open_clip_config.json"),
        "no config.json: use openclip:/",
    ),
    "no images": (lambda f: (f / "preprocessor_config.json").unlink(), "no image processor"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer (tokenizer.json)"),
    "code": (
        lambda f: edit(f / "config.json", auto_map={"AutoModel": "own.Model"}, model_type="own"),
        "config.json asks to run code (auto_map): refused; use python:FILE.py",
    ),
    "unknown": (lambda f: edit(f / "config.json", model_type="own"), "own"),
    "padding": (
        lambda f: edit(f / "tokenizer_config.json", padding_side="left"),
        "its tokenizer must pad on the right, padding_side",
    ),
    "no length": (no_positions, "no context length: set model_max_length of its tokenizer"),
    "missing key": (
        lambda f: spoil(f / "model.safetensors", lambda s: s.pop(NORM)),
        f"its weights lack or misshape {NORM};",
    ),
    "other shape": (
        lambda f: spoil(f / "model.safetensors", lambda s: s.update({NORM: torch.ones(31)})),
        f"its weights lack or misshape {NORM};",
    ),
    "other layers": (
        lambda f: edit_text_tower(f, num_hidden_layers=1),
        "its weights have, unlike config.json, text_model.encoder.layers.1",
    ),
    "NaN": (
        lambda f: spoil(
            f / "model.safetensors", lambda s: s.update({NORM: torch.full((32,), torch.nan)})
        ),
        "NaN or infinite weights",
    ),
    "many layers": (
        lambda f: edit_text_tower(f, num_hidden_layers=10**7),
        "tensors, far more than its weights: they belong to different models",
    ),
    "wide layers": (
        lambda f: edit_text_tower(f, hidden_size=2**20),
        "config.json describes a model of 8,798,567,686,145 parameters, its weights hold 108,289",
    ),
    "large header": (large_header, "has a header of 17,825,792 bytes; at most 16,777,216 are"),
    "cut header": (write_weights(b"\xff" * 7 + b"\x00{"), "it does not begin with the header of"),
    "empty": (write_weights(b""), "model.safetensors is empty: fetch it again"),
    "text": (
        write_weights(b"Not found\n"),
        "model.safetensors is a text, not weights, and begins with 'Not found",
    ),
    "page": (write_weights(b"\n<!DOCTYPE html><html>"), "is an HTML page, such as a login"),
    "pointer": (
        write_weights(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"),
        "is a pointer of Git LFS, not the weights: fetch them with `git lfs pull`",
    ),
    "pickle": (pickle_named_safetensors, "is a pickle, as torch.save writes it, and not the"),
    "adapter": (
        adapter_alone,
        "merge the LoRA adapter into the weights of org/base (peft's model.merge_and_unload())",
    ),
    "prefix": (prefixed, "all names begin with _orig_mod., of a module around the model: save"),
    "BLIP-ITM": (
        blip_retrieval,
        "it is a BlipForImageTextRetrieval, which is not a two-tower model, and its weights lack",
    ),
    "CLIPSeg": (
        clip_segmentation,
        "it is a CLIPSegForImageSegmentation, which is not a two-tower model, and its weights have",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_folders_that_are_refused(fault: str, folder: Path) -> None:
    change, message = SPOILT[fault]
    change(folder)
    found = refusal(f"hf:{folder}")
    assert found.startswith(f"'hf:{folder}' cannot be loaded: ")
    assert message in found.removeprefix(f"'hf:{folder}'")


def test_notes_on_what_is_not_used(folder: Path, command: Any) -> None:
    edit_adapter(folder)
    spoil(folder / "model.safetensors", lambda s: s.update({"head.weight": torch.ones(1)}))
    run = ("run", "--dataset", "scenes-cls", "--limit", 8, "--no-cache", "--output", "out")
    done = command(*run, "--model", f"hf:{folder}")
    assert done.status == 0, done.err
    notes = [
        "tensors of the weights that the model does not use: head.weight",
        "the adapter of adapter_config.json is not applied: merge the LoRA adapter into the "
        "weights of org/base (peft's model.merge_and_unload()) and save the result with "
        "save_pretrained to measure it",
    ]
    (path,) = Path("out").glob("*.json")
    assert json.loads(path.read_text())["provenance"]["notes"][1:] == notes
    assert all(note in " ".join(done.err.split()) for note in notes)


@pytest.mark.parametrize("kind", ["clip", "siglip2", "align"])
def test_a_tokenizer_with_another_word(kind: str, kinds: Any, tmp_path: Path) -> None:
    (model, processor, _, _), folder = kinds(kind)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zyzzyva"])
    found = refusal(f"hf:{save((model, processor, tokenizer, {}), tmp_path)}")
    assert "its tokenizer has ids that its text tower lacks" in found


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_models_that_are_refused(kind: str, folder: Path) -> None:
    config = {"text": t.BertConfig(**text(16)), "vision": t.CLIPVisionConfig(**VISION)}[kind]
    config.save_pretrained(folder)
    assert "Config has not an image and a text tower; take" in refusal(f"hf:{folder}")


def test_an_end_of_text_that_never_occurs(folder: Path) -> None:
    """CLIPModel then reads the feature of every text at its first token, which is always equal."""
    edit_text_tower(folder, eos_token_id=5)
    message = "returns the same feature for 10 different prompts: check its text tower"
    with pytest.raises(UsageError, match=message):
        cosmos_eval.evaluate(f"hf:{folder}", "scenes-cls", limit=4, cache=False)


def test_names(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in (str(tmp_path / "own"), "org/name", "org/name@v1.0"):
        spec = parse_model_spec(f"hf:{name}")
        assert (spec.kind, spec.name) == ("hf", name)
    assert with_complete_paths("hf:own", tmp_path) == f"hf:{tmp_path / 'own'}"
    assert with_complete_paths("hf:org/name", tmp_path) == "hf:org/name"
    for name in ("", "none", "no/such/folder", "org/name@"):
        with pytest.raises(UsageError, match="no such folder; use hf:FOLDER or hf:ORG/NAME"):
            parse_model_spec(f"hf:{name}")
