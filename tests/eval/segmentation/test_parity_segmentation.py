"""Recorded label maps and scores of the published implementation, through MMSegmentation's data."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.protocols.segmentation import SEGMENTATION
from cosmos_eval.tasks import prompts, segmentation
from cosmos_eval.tasks.segmentation import inference
from cosmos_eval.types import RunOptions

PARITY = Path(__file__).parents[2] / "parity"
RECORDED = json.loads((PARITY / "segmentation.json").read_text("utf-8"))
ROOTS = {"voc20": "voc", "voc21": "voc", "ade20k": "ade"}


@pytest.fixture(scope="module")
def embed_once():
    """prompt_embeddings that remembers names: encoding their prompts is most of the time."""

    @cache
    def embed(encoder, name, templates):
        return prompts.prompt_embeddings(encoder, [name], templates, RunOptions())

    def embeddings(encoder, names, templates, *_):
        return np.concatenate([embed(encoder, name, templates) for name in names])

    return embeddings


@pytest.mark.parametrize("case", RECORDED)
def test_label_maps_and_scores(case, cosmos, embed_once, monkeypatch, tmp_path):
    monkeypatch.setattr(inference, "prompt_embeddings", embed_once)
    dataset, attention = case.split("-")
    options = RunOptions(
        data_root=str(PARITY / ROOTS[dataset]),
        attention=attention,
        save_predictions=str(tmp_path),
        allow_partial=True,
    )
    protocol = SEGMENTATION[dataset]
    segmentation.TASK.check(protocol, options, segmentation.TASK.open_data(protocol, options))
    measurement = segmentation.TASK.measure_one(cosmos, protocol, options)
    for name, percent in RECORDED[case].items():
        assert measurement.metrics[name] * 100 == pytest.approx(percent, abs=0.01)
    assert measurement.n_samples == len(list((PARITY / "predictions" / case).iterdir()))
    (predicted,) = tmp_path.iterdir()
    different, pixels = disagreement(PARITY / "predictions" / case, predicted)
    assert different <= pixels / 10_000


def disagreement(recorded: Path, predicted: Path) -> tuple[int, int]:
    different = pixels = 0
    for path in sorted(recorded.iterdir()):
        with Image.open(path) as truth, Image.open(predicted / path.name) as ours:
            different += int((np.asarray(truth) != np.asarray(ours)).sum())
            pixels += truth.width * truth.height
    return different, pixels
