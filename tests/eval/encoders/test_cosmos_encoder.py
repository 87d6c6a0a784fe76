"""COSMOS checkpoints behind the encoder interface, against recorded features."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoders import CHECKPOINT, CONFIG, PARITY, TINY, load, refusal, save_cosmos

from cosmos_core.data.scenes.vocabulary import scenes_tokenizer
from cosmos_eval.models import load_encoder
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.models.encoder import CrossAttentionEncoder
from cosmos_eval.types import ModelSpec, UsageError, Weights

PUBLISHED = f"cosmos:{CHECKPOINT}"


@pytest.fixture(scope="module")
def records() -> dict[str, np.ndarray]:
    with np.load(PARITY / "forward.npz") as file:
        return dict(file)


def transformed(encoder: ClipEncoder, crops: np.ndarray) -> torch.Tensor:
    return torch.stack([encoder.transform(Image.fromarray(crop)) for crop in crops])


@pytest.mark.parametrize("weights", ["teacher", "student"])
def test_features_equal_the_recorded_ones(weights: Weights, records: dict[str, np.ndarray]) -> None:
    encoder = load(PUBLISHED, CONFIG, weights)
    images = transformed(encoder, records["global_crops"].reshape(-1, 224, 224, 3))
    features = encoder.encode_image(images).numpy()
    np.testing.assert_allclose(features, records[f"{weights}_image_features"][:6], atol=1e-5)
    captions = json.loads((PARITY / "training.json").read_text())["captions"]
    tokens = encoder.tokenize(captions[0] + captions[1])
    np.testing.assert_array_equal(tokens, records["text_tokens"][:2].reshape(6, 77))
    texts = encoder.encode_text(tokens[:, : int(tokens.argmax(dim=1).max()) + 1]).numpy()
    np.testing.assert_allclose(texts, records[f"{weights}_text_features"][:6], atol=1e-5)


def test_info_identifies_the_weights() -> None:
    info = load(PUBLISHED, CONFIG).info
    assert info.weights == "teacher"
    assert info.weights_sha256 == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert json.loads(info.architecture) == json.loads(CONFIG.read_text())
    assert not info.random


def scenes_checkpoint(path: Path, vocab_size: int) -> str:
    """How a checkpoint with another vocabulary and preprocessing is typed."""
    text = {**TINY["text_cfg"], "context_length": 24, "vocab_size": vocab_size}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    save_cosmos(path, text_cfg=text, preprocess=preprocess)
    return f"cosmos:{path}"


def test_a_file_that_states_its_architecture(tmp_path: Path) -> None:
    expected = scenes_tokenizer(context_length=24)
    encoder = load(scenes_checkpoint(tmp_path / "own.safetensors", expected.vocab_size))
    texts = ["a red apple on the grass"]
    torch.testing.assert_close(encoder.tokenize(texts), expected(texts))
    white = encoder.transform(Image.new("RGB", (40, 60), "white"))
    torch.testing.assert_close(white, torch.full((3, 32, 32), 2.0))
    assert (encoder.image_mean, encoder.image_std) == ((0.5,) * 3, (0.25,) * 3)


def test_a_name_or_architecture_that_a_file_lacks_is_refused(tmp_path: Path) -> None:
    """A vocabulary with a tokenizer, weights of the student, and the architecture."""
    path = tmp_path / "own.safetensors"
    assert "vocabulary of 1234 tokens" in refusal(scenes_checkpoint(path, 1234))
    assert "no student weights" in refusal(scenes_checkpoint(path, 49408), weights="student")
    assert "--arch" in refusal(PUBLISHED)


def test_a_model_can_be_loaded_as_its_result_describes_it(tmp_path: Path) -> None:
    """Results hold an architecture without a name as JSON."""
    architecture = load(PUBLISHED, CONFIG).info.architecture
    assert load(PUBLISHED, architecture).info.architecture == architecture
    scenes_spec = scenes_checkpoint(tmp_path / "own.safetensors", scenes_tokenizer(24).vocab_size)
    scenes_architecture = load(scenes_spec).info.architecture
    assert load(scenes_spec, scenes_architecture).info.architecture == scenes_architecture
    assert "states another architecture" in refusal(scenes_spec, architecture)
    assert "Expecting" in refusal(PUBLISHED, "{oops")


def test_an_architecture_that_does_not_fit(tmp_path: Path) -> None:
    config = json.loads(CONFIG.read_text())
    config["vision_cfg"]["layers"] = 2
    other = tmp_path / "other.json"
    other.write_text(json.dumps(config))
    assert "unexpected keys" in refusal(PUBLISHED, other)
    assert re.search("nearest: .*ViT-B-16", refusal(PUBLISHED, "ViT-B-161"))


def test_a_bundled_model_that_is_not_installed() -> None:
    with pytest.raises(UsageError, match="not part of this installation; bundled: scenes-"):
        load_encoder(ModelSpec(text="scenes-none", kind="bundled", name="scenes-none"))


def test_only_models_with_the_module_have_cross_attention() -> None:
    cosmos, clip = load("scenes-cosmos"), load("scenes-clip")
    assert not isinstance(clip, CrossAttentionEncoder)
    assert isinstance(cosmos, CrossAttentionEncoder)
    images = torch.rand(2, 3, 64, 64, generator=torch.manual_seed(0))
    tokens = cosmos.tokenize(["a red cup", "we see grass", "a dog"])
    over_patches = cosmos.patch_attention(images, cosmos.text_queries(tokens))
    over_tokens = cosmos.token_attention(tokens, cosmos.image_queries(images))
    torch.testing.assert_close(over_patches.sum((3, 4)), torch.ones(2, 8, 3))
    assert cosmos.encode_patches(images[..., :60], "crossmodal").shape[:3] == (2, 8, 7)
    with pytest.raises(
        UsageError, match=r"crossmodal reads .* which this model lacks: choose a CO"
    ):
        clip.encode_patches(images, "crossmodal")
    with pytest.raises(UsageError, match="smaller than one patch"):
        cosmos.encode_patches(images[..., :7], "crossmodal")
    torch.testing.assert_close(over_tokens.sum(3), torch.ones(3, 8, 2))
