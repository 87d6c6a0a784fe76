"""Models of transformers behind the encoder interface, tiny, against transformers itself."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers as t
from support.dense import FORMS
from support.encoders import load, noise, refusal
from support.scene_files import write_scenes
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import cosmos_eval
from cosmos_eval.models.dense import encode_patches
from cosmos_eval.models.encoder import DenseEncoder
from cosmos_eval.models.facts import model_facts
from cosmos_eval.models.live import make_encoder
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


class HfModel(NamedTuple):
    """A model with all that is saved beside it."""

    model: Any
    image_processor: Any
    tokenizer: Any
    # How texts are tokenized: "max_length", and "mask" if the model gets no attention mask.
    text_options: dict[str, Any]


def text_config(vocab_size: int, positions: int = 20, **more: Any) -> dict[str, Any]:
    return {**LAYERS, "vocab_size": vocab_size, "max_position_embeddings": positions, **more}


def clip_tokenizer(length: int, vocabulary_size: int) -> Any:
    """Return a tokenizer of the first words of OpenAI's vocabulary, which OpenCLIP holds."""
    openai_tokenizer = open_clip.SimpleTokenizer()
    word_count = vocabulary_size - 2  # besides the start and the end of a text
    words = [word for word, i in openai_tokenizer.encoder.items() if i < word_count]
    vocabulary = {word: i for i, word in enumerate((*words, "<|startoftext|>", "<|endoftext|>"))}
    ranks = openai_tokenizer.bpe_ranks
    # 256 bytes, each also at the end of a word, are words without a merge.
    merges = sorted(ranks, key=ranks.__getitem__)[: word_count - 512]
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


def start_and_end_ids(vocabulary_size: int) -> dict[str, int]:
    """Return the ids of the start and the end of a text, the last two of OpenAI's vocabulary."""
    return {"bos_token_id": vocabulary_size - 2, "eos_token_id": vocabulary_size - 1}


def clip(length: int = 20, vocabulary_size: int = FEW_WORDS, **more: Any) -> HfModel:
    more = {"hidden_act": "quick_gelu", **more}
    config = t.CLIPConfig(
        text_config=text_config(
            vocabulary_size, length, **start_and_end_ids(vocabulary_size), **more
        ),
        vision_config={**VISION, **more},
        projection_dim=16,
    )
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    tokenizer = clip_tokenizer(length, vocabulary_size)
    return HfModel(t.CLIPModel(config), images, tokenizer, {"max_length": length})


def siglip(tokenizer: Any) -> HfModel:
    vocabulary = text_config(len(tokenizer), 64, bos_token_id=0, eos_token_id=1)
    config = t.SiglipConfig(text_config=vocabulary, vision_config=VISION)
    images = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    # The model's card: padded to the longest length, without a mask.
    return HfModel(t.SiglipModel(config), images, tokenizer, {"max_length": 64, "mask": False})


def metaclip2() -> HfModel:
    words = text_config(17, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    config = t.MetaClip2Config(text_config=words, vision_config=VISION, projection_dim=16)
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return HfModel(t.MetaClip2Model(config), images, roberta_tokenizer(), {"max_length": 20})


def altclip(vocab_size: int = 17) -> HfModel:
    """Return a model whose positions begin at 2, so that 22 positions hold 20 tokens."""
    words = text_config(vocab_size, 22, project_dim=32, pad_token_id=1)
    config = t.AltCLIPConfig(text_config=words, vision_config=VISION, projection_dim=16)
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    return HfModel(t.AltCLIPModel(config), images, roberta_tokenizer(), {"max_length": 20})


def chinese_clip(tokenizer: Any) -> HfModel:
    config = t.ChineseCLIPConfig(
        text_config=text_config(16), vision_config=VISION, projection_dim=16
    )
    square = {"height": 32, "width": 32}
    images = t.ChineseCLIPImageProcessor(size=square, crop_size=square)
    return HfModel(t.ChineseCLIPModel(config), images, tokenizer, {"max_length": 20})


def align(tokenizer: Any) -> HfModel:
    vision = {
        "image_size": 32,
        "hidden_dim": 16,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "in_channels": [32],
        "out_channels": [16],
        "kernel_sizes": [3],
        "strides": [1],
        "num_block_repeats": [1],
        "expand_ratios": [1],
        "depthwise_padding": [],
    }
    config = t.AlignConfig(text_config=text_config(16), vision_config=vision, projection_dim=16)
    images = t.EfficientNetImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, include_top=True
    )
    return HfModel(t.AlignModel(config), images, tokenizer, {"max_length": 20})


def tipsv2() -> HfModel:
    letters = ("<pad>", "<unk>", "▁", *sorted({*"".join(WORDS)}))
    tokenizer = t.Tipsv2Tokenizer(vocab={piece: i for i, piece in enumerate(letters)}, merges=[])
    vision = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    config = t.Tipsv2Config(text_config=text_config(len(letters), 64), vision_config=vision)
    images = t.Tipsv2ImageProcessor(size={"height": 32, "width": 32})
    return HfModel(t.Tipsv2Model(config), images, tokenizer, {"max_length": 64})


def aimv2(length: int = 20) -> HfModel:
    config = t.Aimv2Config(
        text_config=text_config(
            FEW_WORDS, length, initializer_range=0.5, **start_and_end_ids(FEW_WORDS)
        ),
        vision_config={**VISION, "initializer_range": 0.5},
        projection_dim=16,
    )
    images = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    tokenizer = clip_tokenizer(length, FEW_WORDS)
    return HfModel(t.Aimv2Model(config), images, tokenizer, {"max_length": length})


def naflex() -> HfModel:
    """Return a model of at most 13 patches, which only a 1 x 13 grid fills: others are padded."""
    letters = gemma_tokenizer().get_vocab()
    tokenizer = t.Siglip2Tokenizer(vocab=letters, merges=[], padding_side="right")
    vision = {key: value for key, value in VISION.items() if key != "image_size"}
    config = t.Siglip2Config(
        text_config=text_config(len(tokenizer), 64, bos_token_id=2, eos_token_id=1),
        vision_config={**vision, "num_patches": 16},
    )
    images = t.Siglip2ImageProcessor(patch_size=8, max_num_patches=13)
    return HfModel(t.Siglip2Model(config), images, tokenizer, {"max_length": 64, "mask": False})


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
def create(request: pytest.FixtureRequest) -> Callable[[str], HfModel]:
    """Create a model of a kind, with the tokenizers of conftest.py for those who have others."""

    def create_kind(kind: str) -> HfModel:
        if kind == "siglip":
            folder = request.getfixturevalue("siglip_tokenizer")
            return siglip(t.AutoTokenizer.from_pretrained(folder))
        if kind == "siglip_pieces":
            return siglip(t.SiglipTokenizer(str(request.getfixturevalue("pieces"))))
        if kind == "siglip2":
            return siglip(gemma_tokenizer())
        if kind in ("chinese_clip", "align"):
            folder = request.getfixturevalue("bert_tokenizer")
            create_with_tokenizer = {"chinese_clip": chinese_clip, "align": align}[kind]
            return create_with_tokenizer(t.AutoTokenizer.from_pretrained(folder))
        functions: tuple[Callable[[], HfModel], ...]
        functions = (aimv2, altclip, clip, metaclip2, naflex, tipsv2)
        return {function.__name__: function for function in functions}[kind]()

    return create_kind


def save(saved: HfModel, folder: Path, **options: Any) -> Path:
    """Save a model, by options of its `save_pretrained`, its image processor and its tokenizer."""
    saved.model.save_pretrained(folder, **options)
    saved.image_processor.save_pretrained(folder)
    saved.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def kinds(create, tmp_path_factory) -> Callable[[str], tuple[HfModel, Path]]:
    """Return a model of a kind and its folder, each created once."""

    @cache
    def model_and_folder(kind: str) -> tuple[HfModel, Path]:
        torch.manual_seed(0)
        created = create(kind)
        created.model.eval()
        return created, save(created, tmp_path_factory.mktemp(kind))

    return model_and_folder


@pytest.fixture(scope="module")
def loaded(kinds) -> Callable[[str], Any]:
    """Return the encoder of a kind's folder, each loaded once."""

    @cache
    def encoder(kind: str) -> Any:
        _, folder = kinds(kind)
        return load(f"hf:{folder}")

    return encoder


@pytest.fixture
def folder(kinds, tmp_path) -> Path:
    """Return a copy of a CLIP's folder, which a test may spoil."""
    _, clip_folder = kinds("clip")
    return shutil.copytree(clip_folder, tmp_path / "copy")


@pytest.mark.parametrize("kind", KINDS)
def test_features_equal_those_of_transformers_forward(kind: str, kinds: Any, loaded: Any) -> None:
    (model, processor, tokenizer, options), _ = kinds(kind)
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
    # ALIGN does not normalize its embeddings.
    image_features = F.normalize(expected.image_embeds, dim=-1)
    assert_close(encoder.encode_image(images), image_features, **close)
    # TIPSv2's feature of an empty text is 0 / 0.
    text_features = F.normalize(expected.text_embeds.nan_to_num(), dim=-1)
    assert_close(encoder.encode_text(tokens), text_features, **close)
    # A batch of a short text, whose padding is left out.
    first_feature = F.normalize(expected.text_embeds[:1], dim=-1)
    assert_close(encoder.encode_text(tokens[:1]), first_feature, **close)
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
def test_a_text_has_the_same_feature_in_a_batch_of_one_and_of_many(
    kind: str, kinds: Any, loaded: Any
) -> None:
    """One text at a time gives the features of transformers' forward of all texts.

    One of the texts fills the context.
    """
    (model, _, tokenizer, options), _ = kinds(kind)
    texts = [text for text in TEXTS if text]  # TIPSv2's feature of an empty text is 0 / 0
    padded = {"padding": "max_length", "max_length": options["max_length"], "truncation": True}
    words = tokenizer(texts, return_tensors="pt", **padded)
    mask = {"attention_mask": words["attention_mask"]} if options.get("mask", True) else {}
    with torch.no_grad():
        expected = model.get_text_features(words["input_ids"], **mask).pooler_output
    encoder = loaded(kind)
    features = [encoder.encode_text(encoder.tokenize([text])) for text in texts]
    assert_close(torch.cat(features), F.normalize(expected, dim=-1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_padding_is_cut_off_in_half_precision(
    dtype: torch.dtype, kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding of half precision is not taken for a dependence on the padding."""
    (model, processor, tokenizer, _), _ = kinds("clip")
    half_model = copy.deepcopy(model).to(dtype)
    encoder = make_encoder(half_model, tokenizer, processor, "half", None, "0" * 64)
    lengths = []
    get_text_features = half_model.get_text_features

    def record_length(input_ids: Tensor, **options: Any) -> Any:
        lengths.append(input_ids.shape[1])
        return get_text_features(input_ids, **options)

    monkeypatch.setattr(half_model, "get_text_features", record_length)
    encoder.encode_text(encoder.tokenize(["a"]))
    assert lengths == [3]  # the beginning, the text and the end


def test_a_model_whose_texts_depend_on_each_other_is_refused(
    kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither padding nor an added short text helps if the mean of the batch is added."""
    forward = t.CLIPModel.get_text_features

    def with_mean(self: Any, *args: Any, **more: Any) -> Any:
        output = forward(self, *args, **more)
        output.pooler_output += output.pooler_output.mean(dim=0)
        return output

    monkeypatch.setattr(t.CLIPModel, "get_text_features", with_mean)
    _, clip_folder = kinds("clip")
    message = "the feature of a text depends on the other texts of its batch"
    assert message in refusal(f"hf:{clip_folder}")


def test_images_of_any_size_have_the_features_of_transformers(
    kinds: Any, loaded: Any, command: Any
) -> None:
    """NaFlex: transformers' processor gives pixels, masks and positions, its forward features."""
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
    second_image = encoder.collate([encoder.transform(pictures[1])])
    close = {"rtol": 0, "atol": 1e-6}
    assert_close(encoder.encode_image(images), expected.image_embeds, **close)
    assert_close(encoder.encode_image(second_image), expected.image_embeds[1:2], **close)
    tokens = encoder.tokenize(TEXTS)
    assert_close(encoder.encode_text(tokens), expected.text_embeds, **close)
    with pytest.raises(UsageError, match="has no patches to compare a text with"):
        require_patches(encoder)
    facts = model_facts(encoder)
    assert (facts["image_size"], facts["patch_size"], facts["context_length"]) == (None, 8, 64)
    assert facts["image_gflops"]
    assert facts["text_gflops"]
    run = ("run", "--dataset", "scenes-cls", "--limit", 8, "--no-cache", "--output", "out")
    completed = command(*run, "--model", f"hf:{folder}")
    assert completed.status == 0, completed.err


def test_a_vocabulary_of_sentencepiece_is_read_without_tokenizer_json(
    pieces: Path, tmp_path: Path
) -> None:
    """XLM-R's tokenizer adds 1 to the ids of sentencepiece, except for four special ones."""
    from sentencepiece import SentencePieceProcessor

    folder = save(altclip(vocab_size=40), tmp_path)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces, folder / "sentencepiece.bpe.model")
    piece_ids = SentencePieceProcessor(model_file=str(pieces)).encode("two dogs on the red sofa")
    start, padding, end = 0, 1, 2
    ids = [start, *(piece_id + 1 for piece_id in piece_ids), end]
    expected = torch.tensor(ids + [padding] * (20 - len(ids)))
    assert_close(load(f"hf:{folder}").tokenize(["two dogs on the red sofa"])[0], expected)


@pytest.mark.slow
def test_a_vocabulary_of_sentencepiece_asks_for_that_package(pieces: Path, tmp_path: Path) -> None:
    folder = save(altclip(vocab_size=40), tmp_path)
    (folder / "tokenizer.json").unlink()
    shutil.copy(pieces, folder / "sentencepiece.bpe.model")
    program = ("support.without_packages", "sentencepiece", "cosmos_eval.cli.app")
    completed = subprocess.run(
        [sys.executable, "-m", *program, "run", "--model", f"hf:{folder}", "--task", "cls"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 2
    message = "its tokenizer needs sentencepiece: pip install 'cosmos-eval[hf]'"
    assert completed.stderr.endswith(f"'hf:{folder}' cannot be loaded: {message}\n")


def test_a_text_that_just_fits_is_not_overlong(loaded: Any) -> None:
    """A context of 20 holds 18 words between the start and the end of a text."""
    overlong = loaded("clip").overlong(["dog " * 17, "dog " * 18, "dog " * 19])
    assert overlong.tolist() == [0, 0, 1]


def test_operations_counted_by_hand(loaded: Any) -> None:
    """Two blocks, whose MLP has twice the width, on 17 tokens (16 patches) and on 20 tokens."""

    def multiplications(tokens: int) -> int:
        width, mlp_width, layers, embedding = 32, 64, 2, 16
        projections = 4 * tokens * width**2  # query, key, value, output
        attention = 2 * tokens**2 * width  # the scores, and the weighted sum of values
        mlp = 2 * tokens * width * mlp_width
        return layers * (projections + attention + mlp) + width * embedding

    facts = model_facts(loaded("clip"))
    patch_embedding = 16 * (8 * 8 * 3) * 32  # 16 patches of 8 x 8 pixels
    # A multiplication with its addition is two operations.
    assert facts["image_gflops"] == 2 * (multiplications(17) + patch_embedding) / 1e9
    assert facts["text_gflops"] == 2 * multiplications(20) / 1e9
    assert (facts["patch_size"], facts["context_length"], facts["image_size"]) == (8, 20, [32, 32])


def test_operations_of_a_text_exclude_the_added_text(kinds: Any, loaded: Any) -> None:
    """AIMv2's texts are encoded with a short one beside them, which is not counted."""
    (model, *_), _ = kinds("aimv2")
    tokens = torch.full((1, 20), 320)  # 20 times the same word, then the end of the text
    tokens[0, -1] = FEW_WORDS - 1
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model.get_text_features(tokens, torch.ones_like(tokens))
    encoder = loaded("aimv2")
    assert encoder.added_texts == 1
    assert model_facts(encoder)["text_gflops"] == counter.get_total_flops() / 1e9


@pytest.mark.parametrize("kind", KINDS)
def test_every_fact_of_every_kind_is_known(kind: str, loaded: Any) -> None:
    """Except the size of ALIGN's patches: its image tower is a convolutional network."""
    facts = model_facts(loaded(kind))
    unknown_facts = [name for name, fact in facts.items() if fact is None]
    assert unknown_facts == (["patch_size"] if kind == "align" else [])
    assert facts["image_parameters"] + facts["text_parameters"] <= facts["parameters"]


def to_openclip(state: dict[str, torch.Tensor], layers: int = 2) -> dict[str, torch.Tensor]:
    """Rename a CLIPModel's weights to OpenCLIP's, and join the projections of attention."""
    # OpenCLIP's names, with those of transformers: first of tensors, then of modules that have
    # a weight and a bias, then of such modules inside a block.
    tensor_names = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "logit_scale": "logit_scale",
    }
    module_names = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    block_module_names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    renamed = {openclip_name: state[name] for openclip_name, name in tensor_names.items()}
    renamed["visual.proj"] = state["visual_projection.weight"].T
    renamed["text_projection"] = state["text_projection.weight"].T
    for tower, openclip_tower in (("vision", "visual.transformer"), ("text", "transformer")):
        for i in range(layers):
            layer, block = f"{tower}_model.encoder.layers.{i}", f"{openclip_tower}.resblocks.{i}"
            for openclip_name, name in block_module_names.items():
                module_names[f"{block}.{openclip_name}"] = f"{layer}.{name}"
            for kind in ("weight", "bias"):
                projections = [state[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
                renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(projections)
    for openclip_name, name in module_names.items():
        for kind in ("weight", "bias"):
            renamed[f"{openclip_name}.{kind}"] = state[f"{name}.{kind}"]
    return {name: tensor.contiguous() for name, tensor in renamed.items()}


def save_both(folder: Path, act: str) -> tuple[str, str]:
    """Save the same CLIP in the layouts of OpenCLIP and of transformers; return both specs.

    Its weights are large, so that features differ, and captions of scenes fit its context.
    """
    torch.manual_seed(1)
    saved = clip(64, 49408, hidden_act=act, initializer_factor=3.0)
    size = {"width": 32, "layers": 2, "mlp_ratio": 2.0}
    towers = {
        "embed_dim": 16,
        "quick_gelu": act == "quick_gelu",
        "vision_cfg": {**size, "image_size": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {**size, "context_length": 64, "vocab_size": 49408, "heads": 2},
    }
    openclip_folder = folder / "openclip"
    openclip_folder.mkdir()
    (openclip_folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": towers}))
    state = to_openclip(saved.model.state_dict())
    safetensors.torch.save_file(state, openclip_folder / "open_clip_model.safetensors")
    hf_folder = save(saved, folder / "hf")
    return f"openclip:{openclip_folder}", f"hf:{hf_folder}"


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_the_same_weights_through_openclip_have_the_same_features(act: str, tmp_path: Path) -> None:
    openclip_spec, hf_spec = save_both(tmp_path, act)
    openclip_encoder, hf_encoder = load(openclip_spec), load(hf_spec)
    images = torch.stack([openclip_encoder.transform(noise(40, 60))])
    close = {"rtol": 0, "atol": 1e-6}
    assert_close(hf_encoder.encode_image(images), openclip_encoder.encode_image(images), **close)
    assert_close(
        hf_encoder.encode_text(hf_encoder.tokenize(TEXTS[:4])),
        openclip_encoder.encode_text(openclip_encoder.tokenize(TEXTS[:4])),
        **close,
    )
    assert openclip_encoder.overlong(TEXTS).tolist() == hf_encoder.overlong(TEXTS).tolist()
    for form in FORMS:
        hf_patches = hf_encoder.encode_patches(images, form)
        assert_close(hf_patches, openclip_encoder.encode_patches(images, form), **close)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["retrieval", "cls"])
def test_the_same_weights_through_openclip_have_the_same_metrics(task, command, tmp_path) -> None:
    """Scenes have 64 px, which are halved: transformers and Pillow round all pixels alike."""
    openclip_spec, hf_spec = save_both(tmp_path, "quick_gelu")
    models = ("--model", openclip_spec, "--model", hf_spec)
    options = ("--limit", 40, "--no-cache", "--output", "out")
    completed = command("run", "--task", task, *models, *options)
    assert completed.status == 0, completed.err
    first, second = (json.loads(path.read_text()) for path in sorted(Path("out").glob("*.json")))
    assert first["model"]["weights_sha256"] != second["model"]["weights_sha256"]
    # Counts are equal; the calibration error follows from features whose last bits differ.
    assert first["metrics"] == pytest.approx(second["metrics"], abs=1e-3)


def save_state(state: dict[str, Any], file: Path) -> None:
    """Save tensors as transformers saves them."""
    safetensors.torch.save_file(state, file, metadata={"format": "pt"})


def add_to_all(file: Path, number: float) -> None:
    """Add a number to all tensors of a file."""
    state = safetensors.torch.load_file(file)
    save_state({name: tensor + number for name, tensor in state.items()}, file)


def add_tensors(file: Path, tensors: dict[str, Any]) -> None:
    """Add tensors to a file, or replace those of the same names."""
    save_state(safetensors.torch.load_file(file) | tensors, file)


def test_weights_of_several_files(kinds: Any, loaded: Any, tmp_path: Path) -> None:
    saved_clip, _ = kinds("clip")
    sharded_folder = save(saved_clip, tmp_path / "sharded", max_shard_size="100KB")
    shards = sorted(sharded_folder.glob("*.safetensors"))
    assert len(shards) > 1
    encoder, sharded_encoder = loaded("clip"), load(f"hf:{sharded_folder}")
    tokens = encoder.tokenize(TEXTS)
    features = sharded_encoder.encode_text(tokens)
    assert_close(features, encoder.encode_text(tokens), rtol=0, atol=0)
    sha256 = sharded_encoder.info.weights_sha256
    assert sha256 != encoder.info.weights_sha256
    add_to_all(shards[-1], 1e-3)
    assert load(f"hf:{sharded_folder}").info.weights_sha256 != sha256
    shards[-1].unlink()
    assert f"{shards[-1].name}; fetch its files again" in refusal(f"hf:{sharded_folder}")


def test_half_precision_weights_run_as_float32_without_a_head(folder: Path) -> None:
    """Tensors of a training's head, and other ones that the model does not use, are left out."""
    unused = {"head.weight": torch.ones(1), "text_model.embeddings.position_ids": torch.arange(20)}
    state = safetensors.torch.load_file(folder / "model.safetensors")
    half_state = {name: tensor.half() for name, tensor in state.items()}
    save_state(half_state | unused, folder / "model.safetensors")
    edit(folder / "config.json", dtype="float16")
    encoder = load(f"hf:{folder}")
    tokens = encoder.tokenize(TEXTS)
    with torch.no_grad():
        model = t.CLIPModel.from_pretrained(folder, dtype=torch.float32)
        expected = model.get_text_features(tokens).pooler_output
    assert_close(encoder.encode_text(tokens), F.normalize(expected, dim=-1), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_descriptions_change_with_their_files(folder: Path) -> None:
    def change(name: str, key: str, value: Any) -> list[bool]:
        before = load(f"hf:{folder}")
        edit(folder / name, **{key: value})
        after = load(f"hf:{folder}")
        return [before.preprocessing != after.preprocessing, before.tokenizer != after.tokenizer]

    assert change("config.json", "logit_scale_init_value", 2.0) == [True, True]
    assert change("tokenizer_config.json", "model_max_length", 12) == [False, True]
    assert load(f"hf:{folder}").tokenize(["a"]).shape == (1, 12)
    assert change("preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5])[0]


@pytest.mark.parametrize("layout", ["openclip", "parts"])
def test_existing_results_are_compared_with_the_weights_of_a_folder(
    layout: str, kinds: Any, command: Any, tmp_path: Path
) -> None:
    """A preview compares cached embeddings with them, too."""
    folder = tmp_path / layout
    if layout == "parts":
        saved_clip, _ = kinds("clip")
        spec = f"hf:{save(saved_clip, folder, max_shard_size='100KB')}"
    else:
        spec, _ = save_both(tmp_path, "gelu")
    run = ("run", "--dataset", "scenes-cls", "--limit", 4, "--output", "out", "--model", spec)
    assert command(*run).status == 0
    (preview,) = json.loads(command(*run, "--dry-run", "--json").out)
    assert preview["result_fault"] is None
    assert preview["embeddings_kept"]["image"] == 4
    add_to_all(sorted(folder.glob("*.safetensors"))[-1], 1)
    (preview,) = json.loads(command(*run, "--dry-run", "--json").out)
    assert "was measured with other weights than" in preview["result_fault"]
    assert preview["embeddings_kept"] == {}


@pytest.mark.parametrize(("kind", "resample"), [("clip", 3), ("tipsv2", 2)])
def test_patches_of_a_folder_equal_those_of_its_model(
    kind: str, resample: int, kinds: Any, tmp_path: Path
) -> None:
    (model, processor, *_), saved_folder = kinds(kind)
    folder = shutil.copytree(saved_folder, tmp_path / "copy")
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
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Functions that spoil a folder which could be loaded.


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def rename_config_to_openclips(folder: Path) -> None:
    (folder / "config.json").rename(folder / "open_clip_config.json")


def remove_image_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def remove_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def pickle_weights(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    remove_weights(folder)


def ask_to_run_code(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "own.Model"}, model_type="own")


def name_unknown_model_type(folder: Path) -> None:
    edit(folder / "config.json", model_type="own")


def pad_on_the_left(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", padding_side="left")


def state_no_context_length(folder: Path) -> None:
    """Save a BLIP-2: its text tower is a language model, and the tokenizer states no length."""
    language = {**LAYERS, "model_type": "opt", "word_embed_proj_dim": 32, "ffn_dim": 32}
    towers = {"vision_config": VISION, "qformer_config": LAYERS, "text_config": language}
    t.Blip2Model(t.Blip2Config(**towers)).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", model_max_length=10**30)


def edit_text_tower(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], **changes})


def describe_fewer_layers(folder: Path) -> None:
    edit_text_tower(folder, num_hidden_layers=1)


def describe_many_layers(folder: Path) -> None:
    edit_text_tower(folder, num_hidden_layers=10**7)


def describe_wide_layers(folder: Path) -> None:
    edit_text_tower(folder, hidden_size=2**20)


NORM = "text_model.final_layer_norm.weight"
"""A tensor of 32 numbers, the width of a layer."""


def remove_a_tensor(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    del state[NORM]
    save_state(state, folder / "model.safetensors")


def misshape_a_tensor(folder: Path) -> None:
    add_tensors(folder / "model.safetensors", {NORM: torch.ones(31)})


def fill_a_tensor_with_nan(folder: Path) -> None:
    add_tensors(folder / "model.safetensors", {NORM: torch.full((32,), torch.nan)})


def prefix_all_names(folder: Path) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    renamed = {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    save_state(renamed, folder / "model.safetensors")


def replace_model(folder: Path, model: t.PreTrainedModel) -> None:
    """Replace a folder's model by one of another class."""
    remove_config(folder)
    model.save_pretrained(folder)


def save_blip_for_retrieval(folder: Path) -> None:
    words = {**text_config(16), "encoder_hidden_size": 32, "bos_token_id": 2, "sep_token_id": 3}
    config = t.BlipConfig(text_config=words, vision_config=VISION, projection_dim=16)
    replace_model(folder, t.BlipForImageTextRetrieval(config))


def save_clip_for_segmentation(folder: Path) -> None:
    config = t.CLIPSegConfig(
        text_config=text_config(FEW_WORDS),
        vision_config=VISION,
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0],
        decoder_num_attention_heads=2,
    )
    replace_model(folder, t.CLIPSegForImageSegmentation(config))


def write_adapter_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


def leave_only_an_adapter(folder: Path) -> None:
    write_adapter_config(folder)
    remove_weights(folder)


def write_large_header(folder: Path) -> None:
    """Write a file of 17 MiB that takes no space."""
    with (folder / "model.safetensors").open("wb") as file:
        file.write((17 << 20).to_bytes(8, "little") + b"{")
        file.truncate((17 << 20) + 8)


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x00{")


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def write_text_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"Not found\n")


def write_html_as_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\n<!DOCTYPE html><html>")


def write_pointer_as_weights(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    (folder / "model.safetensors").write_bytes(pointer)


def write_pickle_as_weights(folder: Path) -> None:
    torch.save({"weight": torch.ones(100)}, folder / "model.safetensors")


# The name of a fault: the function that spoils a folder by it, and words of the message.
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (remove_weights, "no model.safetensors (pickles"),
    "pickles": (pickle_weights, "no model.safetensors (pickles are never opened): name a revision"),
    "no config": (remove_config, "no config.json: name what"),
    "layout": (rename_config_to_openclips, "no config.json: use openclip:/"),
    "no images": (remove_image_processor, "no image processor"),
    "no tokenizer": (remove_tokenizer, "no tokenizer (tokenizer.json)"),
    "code": (
        ask_to_run_code,
        "config.json asks to run code (auto_map): refused; use python:FILE.py",
    ),
    "unknown": (name_unknown_model_type, "own"),
    "padding": (pad_on_the_left, "its tokenizer must pad on the right, padding_side"),
    "no length": (
        state_no_context_length,
        "no context length: set model_max_length of its tokenizer",
    ),
    "missing key": (remove_a_tensor, f"its weights lack or misshape {NORM};"),
    "other shape": (misshape_a_tensor, f"its weights lack or misshape {NORM};"),
    "other layers": (
        describe_fewer_layers,
        "its weights have, unlike config.json, text_model.encoder.layers.1",
    ),
    "NaN": (fill_a_tensor_with_nan, "NaN or infinite weights"),
    "many layers": (
        describe_many_layers,
        "tensors, far more than its weights: they belong to different models",
    ),
    "wide layers": (
        describe_wide_layers,
        "config.json describes a model of 8,798,567,686,145 parameters, its weights hold 108,289",
    ),
    "large header": (
        write_large_header,
        "has a header of 17,825,792 bytes; at most 16,777,216 are",
    ),
    "cut header": (cut_header, "it does not begin with the header of"),
    "empty": (empty_weights, "model.safetensors is empty: fetch it again"),
    "text": (
        write_text_as_weights,
        "model.safetensors is a text, not weights, and begins with 'Not found",
    ),
    "page": (write_html_as_weights, "is an HTML page, such as a login"),
    "pointer": (
        write_pointer_as_weights,
        "is a pointer of Git LFS, not the weights: fetch them with `git lfs pull`",
    ),
    "pickle": (write_pickle_as_weights, "is a pickle, as torch.save writes it, and not the"),
    "adapter": (
        leave_only_an_adapter,
        "merge the LoRA adapter into the weights of org/base (peft's model.merge_and_unload())",
    ),
    "prefix": (
        prefix_all_names,
        "all names begin with _orig_mod., of a module around the model: save",
    ),
    "BLIP-ITM": (
        save_blip_for_retrieval,
        "it is a BlipForImageTextRetrieval, which is not a two-tower model, and its weights lack",
    ),
    "CLIPSeg": (
        save_clip_for_segmentation,
        "it is a CLIPSegForImageSegmentation, which is not a two-tower model, and its weights have",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_folders_that_are_refused(fault: str, folder: Path) -> None:
    spoil, expected = FAULTS[fault]
    spoil(folder)
    message = refusal(f"hf:{folder}")
    assert message.startswith(f"'hf:{folder}' cannot be loaded: ")
    assert expected in message.removeprefix(f"'hf:{folder}'")


def test_a_result_notes_an_adapter_and_tensors_that_are_not_used(
    folder: Path, command: Any
) -> None:
    write_adapter_config(folder)
    add_tensors(folder / "model.safetensors", {"head.weight": torch.ones(1)})
    run = ("run", "--dataset", "scenes-cls", "--limit", 8, "--no-cache", "--output", "out")
    completed = command(*run, "--model", f"hf:{folder}")
    assert completed.status == 0, completed.err
    notes = [
        "tensors of the weights that the model does not use: head.weight",
        "the adapter of adapter_config.json is not applied: merge the LoRA adapter into the "
        "weights of org/base (peft's model.merge_and_unload()) and save the result with "
        "save_pretrained to measure it",
    ]
    (path,) = Path("out").glob("*.json")
    assert json.loads(path.read_text())["provenance"]["notes"][1:] == notes
    printed_line = " ".join(completed.err.split())
    for note in notes:
        assert note in printed_line


@pytest.mark.parametrize("kind", ["clip", "siglip2", "align"])
def test_a_tokenizer_with_more_words_than_the_model_is_refused(
    kind: str, kinds: Any, tmp_path: Path
) -> None:
    saved, folder = kinds(kind)
    tokenizer = t.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["zyzzyva"])
    changed_folder = save(saved._replace(tokenizer=tokenizer), tmp_path)
    message = refusal(f"hf:{changed_folder}")
    assert "its tokenizer has ids that its text tower lacks" in message


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_models_of_one_tower_are_refused(kind: str, folder: Path) -> None:
    config = {"text": t.BertConfig(**text_config(16)), "vision": t.CLIPVisionConfig(**VISION)}[kind]
    config.save_pretrained(folder)
    assert "Config has not an image and a text tower; take" in refusal(f"hf:{folder}")


def test_an_end_of_text_that_never_occurs_is_refused(folder: Path) -> None:
    """CLIPModel then reads the feature of every text at its first token, which is always equal."""
    edit_text_tower(folder, eos_token_id=5)
    message = "returns the same feature for 10 different prompts: check its text tower"
    with pytest.raises(UsageError, match=message):
        cosmos_eval.evaluate(f"hf:{folder}", "scenes-cls", limit=4, cache=False)


def test_names_of_folders_and_of_repositories(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in (str(tmp_path / "own"), "org/name", "org/name@v1.0"):
        spec = parse_model_spec(f"hf:{name}")
        assert (spec.kind, spec.name) == ("hf", name)
    assert with_complete_paths("hf:own", tmp_path) == f"hf:{tmp_path / 'own'}"
    assert with_complete_paths("hf:org/name", tmp_path) == "hf:org/name"
    for name in ("", "none", "no/such/folder", "org/name@"):
        with pytest.raises(UsageError, match="no such folder; use hf:FOLDER or hf:ORG/NAME"):
            parse_model_spec(f"hf:{name}")
