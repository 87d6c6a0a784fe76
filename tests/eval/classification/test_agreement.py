"""The same numbers as CLIP Benchmark, the same classifier as OpenCLIP, from the same model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification as theirs
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from cosmos_eval.tasks import classification
from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.types import ClassificationProtocol, RunOptions

# No name twice: of equal scores torch.topk takes any, ours the first.
NAMES = {
    "n1": "tench",
    "n2": "great white shark",
    "n3": "missile",
    "n4": "projectile",
    "n5": "hot dog",
    "n6": "a class with a rather long name of several words that is cut",
    "n7": "sunglasses",
}
TEMPLATES = ("a photo of a {}.", "the {} in a video game, one of many", "{}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven classes of one to seven images of noise."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(NAMES, start=1):
        for place in range(number):
            path = tmp_path / "test" / name / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (3 + number, 4, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 50)).save(path)
    return tmp_path


def test_metrics_are_clip_benchmarks(root, tiny_encoder, monkeypatch):
    # It calls float() on arrays of one element, which NumPy 2.4 refuses.
    monkeypatch.setattr(theirs, "float", lambda array: array.item(), raising=False)
    protocol = ClassificationProtocol(
        dataset="noise", protocol_name="test", folder="test", class_names=NAMES, templates=TEMPLATES
    )
    ours = classification.TASK.measure_one(tiny_encoder, protocol, RunOptions(data_root=str(root)))
    data = ImageFolder(root / "test", transform=tiny_encoder.transform)
    expected = theirs.evaluate(
        tiny_encoder.model,
        DataLoader(data, batch_size=5),
        tiny_encoder.tokenize,
        list(NAMES.values()),
        [template.replace("{}", "{c}") for template in TEMPLATES],
        device="cpu",
        amp=False,
    )
    assert ours.metrics.keys() - expected.keys() == {"ece"}  # by its formula in test_clip_benchmark
    assert {name: ours.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["acc5"] < 1


def test_the_classifier_is_openclips(tiny_encoder):
    names = [*NAMES.values(), *open_clip.IMAGENET_CLASSNAMES[:30]]
    ours = prompt_embeddings(tiny_encoder, names, "openai-imagenet", RunOptions())
    with torch.inference_mode():
        expected = open_clip.build_zero_shot_classifier(
            tiny_encoder.model, tiny_encoder.tokenize, names, open_clip.OPENAI_IMAGENET_TEMPLATES
        )
    np.testing.assert_allclose(ours.T, expected.numpy(), rtol=0, atol=1e-6)
