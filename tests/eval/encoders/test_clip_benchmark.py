"""CLIP Benchmark drives a COSMOS model itself, and finds the numbers that we find."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from support.encoders import CHECKPOINT, CONFIG, PARITY, load
from torch.utils.data import DataLoader, Dataset

import cosmos_core
from cosmos_core.model.clip import MultiViewCLIP
from cosmos_eval.models.clip import ClipEncoder
from cosmos_eval.tasks import classification, retrieval
from cosmos_eval.types import ClassificationProtocol, RetrievalProtocol, RunOptions

CLASSES = ("bird", "boat", "car", "dog", "house", "sky")
TEMPLATES = ["a photo of a {c}.", "the {c}"]
OF_ONE_IMAGE = 4


class Images(Dataset):
    """Images with their labels or captions, as CLIP Benchmark's data sets give them."""

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
    """Four images a class: coarse random colours, of several sizes."""
    rng = np.random.default_rng(0)
    found = []
    for name in CLASSES:
        for i in range(4):
            path = tmp_path / "classes" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
            coarse.resize((200 + 20 * i, 240)).save(path)
            found.append(path)
    return found


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


def test_classification(model, encoder, paths, tmp_path):
    """By its steps: the counting in its `evaluate` (1.6.2) fails with NumPy 2.4."""
    labels = [i // 4 for i in range(len(paths))]
    made = zeroshot_classification.zero_shot_classifier(
        model, encoder.tokenize, CLASSES, TEMPLATES, "cpu", amp=False
    )
    loader = DataLoader(Images(encoder, paths, labels), batch_size=7)
    logits, target = zeroshot_classification.run_classification(
        model, made, loader, "cpu", amp=False
    )
    top = logits.topk(5).indices
    theirs = {f"acc{k}": (top[:, :k] == target[:, None]).any(1).double().mean() for k in (1, 5)}
    theirs["mean_per_class_recall"] = balanced_accuracy_score(target, top[:, 0])
    theirs["ece"] = expected_calibration_error(logits.softmax(dim=1), target)
    protocol = ClassificationProtocol(
        dataset="made",
        protocol_name="user",
        folder="classes",
        templates=tuple(template.replace("{c}", "{}") for template in TEMPLATES),
    )
    ours = classification.TASK.measure_one(encoder, protocol, RunOptions(data_root=str(tmp_path)))
    np.testing.assert_array_equal(ours.samples["top5"], top)
    assert ours.metrics == pytest.approx(
        {name: float(value) for name, value in theirs.items()}, rel=1e-5
    )
    assert 0 < theirs["acc1"] < theirs["acc5"] < 1


def test_retrieval(model, encoder, paths, tmp_path):
    sentences = json.loads((PARITY / "training.json").read_text())["captions"]
    texts = [text for captions in sentences for text in captions]
    captions = [
        [f"{texts[(OF_ONE_IMAGE * i + k) % len(texts)]} {i}" for k in range(OF_ONE_IMAGE)]
        for i in range(len(paths))
    ]

    def collate(batch):
        return torch.stack([image for image, _ in batch]), [texts for _, texts in batch]

    loader = DataLoader(Images(encoder, paths, captions), batch_size=7, collate_fn=collate)
    theirs = zeroshot_retrieval.evaluate(
        model, loader, encoder.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10]
    )
    annotations = {
        "images": [
            {"id": i, "file_name": str(path.relative_to(tmp_path))} for i, path in enumerate(paths)
        ],
        "annotations": [
            {"id": OF_ONE_IMAGE * i + k, "image_id": i, "caption": text}
            for i, found in enumerate(captions)
            for k, text in enumerate(found)
        ],
    }
    (tmp_path / "captions.json").write_text(json.dumps(annotations))
    protocol = RetrievalProtocol(
        dataset="made", protocol_name="user", images=".", annotations="captions.json"
    )
    ours = retrieval.TASK.measure_one(encoder, protocol, RunOptions(data_root=str(tmp_path)))
    for k in (1, 5, 10):
        image, text = (theirs[f"{kind}_retrieval_recall@{k}"] for kind in ("image", "text"))
        assert ours.metrics[f"text_to_image_R@{k}"] == pytest.approx(image)
        assert ours.metrics[f"image_to_text_R@{k}"] == pytest.approx(text)
    assert 0 < theirs["image_retrieval_recall@1"] < theirs["image_retrieval_recall@10"] < 1
