"""Class names and templates to embeddings: as recorded, and bad templates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from cosmos_eval.tasks import prompts
from cosmos_eval.tasks.prompts import prompt_embeddings, resolve_templates
from cosmos_eval.types import RunOptions, UsageError

PARITY = Path(__file__).parents[2] / "parity"


def test_recorded_classifier_and_logits(cosmos):
    classes = json.loads((PARITY / "classification.json").read_text())
    recorded = np.load(PARITY / "classification.npz")
    classifier = prompt_embeddings(
        cosmos, classes["classnames"], tuple(classes["templates"]), RunOptions()
    )
    np.testing.assert_allclose(classifier.T, recorded["classifier"], rtol=0, atol=1e-6)
    crops = np.load(PARITY / "forward.npz")["global_crops"].reshape(-1, 224, 224, 3)
    images = torch.stack([cosmos.transform(Image.fromarray(crop)) for crop in crops])
    cosines = cosmos.encode_image(images).numpy() @ classifier.T
    np.testing.assert_allclose(cosines, recorded["logits"] / 100, rtol=0, atol=1e-6)


def test_openai_templates_are_openclips():
    templates = resolve_templates("openai-imagenet")
    assert len(templates) == 80
    for template, original in zip(templates, open_clip.OPENAI_IMAGENET_TEMPLATES, strict=True):
        assert template.replace("{}", "tench") == original("tench")


def test_class_features_do_not_depend_on_the_size_of_shards(tiny_encoder, monkeypatch):
    names, templates = ["cat", "dog", "hot dog", "{x}", "ship"], ("{}", "a photo of a {}.")
    features = prompt_embeddings(tiny_encoder, names, templates, RunOptions())
    monkeypatch.setattr(prompts, "PROMPTS_PER_SHARD", 4)
    features_of_shards = prompt_embeddings(tiny_encoder, names, templates, RunOptions())
    np.testing.assert_allclose(features_of_shards, features, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    # The mean of two normalised embeddings, written out.
    pair = tiny_encoder.encode_text(tiny_encoder.tokenize(["dog", "a photo of a dog."])).numpy()
    expected = pair.sum(axis=0) / np.linalg.norm(pair.sum(axis=0))
    np.testing.assert_allclose(features[1], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("openai", "known: openai-imagenet"),
        ((), "no prompt templates"),
        (("a photo",), "exactly once"),
        (("{} and {}",), "exactly once"),
    ],
)
def test_bad_templates_are_refused(templates, message):
    with pytest.raises(UsageError, match=message):
        resolve_templates(templates)


def test_no_class_names_are_refused(tiny_encoder):
    with pytest.raises(UsageError, match="no class names"):
        prompt_embeddings(tiny_encoder, [], ("{}",), RunOptions())
