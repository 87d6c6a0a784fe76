"""CLIP Benchmark drives a COSMOS model itself, and finds the numbers that we find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.encoders import CHECKPOINT, CONFIG, load
from torch.utils.data import DataLoader, Dataset

import cosmos_core
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.tasks import classification
from cosmos_eval.types import ClassificationProtocol, RunOptions

CLASSES = ("bird", "boat", "car", "dog", "house", "sky")
TEMPLATES = ["a photo of a {c}.", "the {c}"]


class Images(Dataset):
    """Images with their labels, as CLIP Benchmark's data sets give them."""

    classes = CLASSES

    def __init__(self, encoder: ClipEncoder, paths: list[Path], targets: list) -> None:
        self.encoder, self.paths, self.targets = encoder, paths, targets

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        return self.encoder.transform(Image.open(self.paths[i]).convert("RGB")), self.targets[i]


@pytest.fixture(scope="module")
def model() -> MultiViewCLIP:
    return cosmos_core.load_model(CHECKPOINT, CONFIG, weights="teacher")


@pytest.fixture(scope="module")
def encoder() -> ClipEncoder:
    return load(f"cosmos:{CHECKPOINT}", CONFIG)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Write one to six images per class, of coarse random colours and several sizes."""
    rng = np.random.default_rng(0)
    paths = []
    for count, name in enumerate(CLASSES, start=1):
        for i in range(count):
            path = tmp_path / "classes" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
            coarse.resize((200 + 20 * i, 240)).save(path)
            paths.append(path)
    return paths


def expected_calibration_error(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    confidences, predicted = probabilities.max(dim=1)
    error = 0.0
    for m in range(1, 16):
        inside = (confidences > (m - 1) / 15) & (confidences <= m / 15)
        if inside.any():
            accuracy = (predicted == labels)[inside].double().mean()
            error += inside.double().mean() * abs(accuracy - confidences[inside].double().mean())
    return float(error)


def test_classification_metrics_are_clip_benchmarks(model, encoder, paths, tmp_path):
    """CLIP Benchmark's steps are called one by one: its `evaluate` (1.6.2) fails with NumPy 2.4."""
    from clip_benchmark.metrics import zeroshot_classification
    from sklearn.metrics import balanced_accuracy_score

    labels = [CLASSES.index(path.parent.name) for path in paths]
    classifier = zeroshot_classification.zero_shot_classifier(
        model, encoder.tokenize, CLASSES, TEMPLATES, "cpu", amp=False
    )
    loader = DataLoader(Images(encoder, paths, labels), batch_size=7)
    logits, target = zeroshot_classification.run_classification(
        model, classifier, loader, "cpu", amp=False
    )
    top5 = logits.topk(5).indices
    expected = {
        "acc1": (top5[:, 0] == target).double().mean(),
        "acc5": (top5 == target[:, None]).any(1).double().mean(),
        "mean_per_class_recall": balanced_accuracy_score(target, top5[:, 0]),
        "ece": expected_calibration_error(logits.softmax(dim=1), target),
    }
    protocol = ClassificationProtocol(
        dataset="made",
        protocol_name="user",
        folder="classes",
        templates=tuple(template.replace("{c}", "{}") for template in TEMPLATES),
    )
    result = classification.TASK.measure_one(encoder, protocol, RunOptions(data_root=str(tmp_path)))
    np.testing.assert_array_equal(result.samples["top5"], top5)
    expected_metrics = {name: float(value) for name, value in expected.items()}
    assert result.metrics == pytest.approx(expected_metrics, rel=1e-5)
    assert 0 < expected["acc1"] < expected["acc5"] < 1
    assert expected["mean_per_class_recall"] != expected["acc1"]
