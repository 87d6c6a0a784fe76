"""The same recalls as CLIP Benchmark's, on the same model and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from cosmos_eval.tasks import retrieval
from cosmos_eval.types import RetrievalProtocol, RunOptions

WORDS = ("red", "blue", "round", "square", "small", "large", "old", "new", "wet", "dry")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve pictures of noise in CLIP Benchmark's layout of Flickr30k, two to four captions each.

    No two captions are equal, and none is longer than the model's context: without ties both count
    alike.
    """
    rng = np.random.default_rng(7)
    lines = ["image,caption"]
    for number in range(12):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
        for _ in range(2 + number % 3):
            words = ", ".join(rng.choice(WORDS, 4, replace=False))
            lines.append(f"{number}.jpg,picture {len(lines)}, {words}")
    (tmp_path / "flickr30k_test_karpathy.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_recalls_are_clip_benchmarks(root, tiny_encoder, tiny_archs):
    from clip_benchmark.datasets.builder import get_dataset_collate_fn
    from clip_benchmark.datasets.flickr import Flickr
    from clip_benchmark.metrics import zeroshot_retrieval

    annotations = root / "flickr30k_test_karpathy.txt"
    dataset = Flickr(str(root), str(annotations), transform=tiny_encoder.transform)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=5, collate_fn=get_dataset_collate_fn("flickr30k")
    )
    theirs = zeroshot_retrieval.evaluate(
        tiny_encoder.model,
        loader,
        open_clip.get_tokenizer(tiny_archs["tiny"]),
        device="cpu",
        amp=False,
        recall_k_list=[1, 5, 10],
    )
    protocol = RetrievalProtocol(
        dataset="noise", protocol_name="test", annotations=annotations.name
    )
    ours = retrieval.TASK.measure_one(tiny_encoder, protocol, RunOptions(data_root=str(root)))
    for k in (1, 5, 10):
        assert ours.metrics[f"image_to_text_R@{k}"] == pytest.approx(
            theirs[f"text_retrieval_recall@{k}"]
        )
        assert ours.metrics[f"text_to_image_R@{k}"] == pytest.approx(
            theirs[f"image_retrieval_recall@{k}"]
        )
    assert 0 < ours.metrics["image_to_text_R@5"] < 1
