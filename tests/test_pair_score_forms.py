"""benchmarks/pair_score_forms.py: sums of cosines of features and cross-modal features."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_eval.models import cosmos
from cosmos_eval.models.specs import parse_model_spec

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "pair_score_forms.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pair_score_forms", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_chosen_sum_is_the_score_of_pairs(script):
    encoder = cosmos.load(parse_model_spec("scenes-cosmos"), "cpu", "fp32")
    side = encoder.model.visual.image_size[0]
    pixels = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    tokens = encoder.tokenize(["a red circle", "grass"])
    model = encoder.model
    with torch.inference_mode():
        cosines = script.compute_cosines(model, pixels, tokens)
        expected = model.pair_scores(model.image_parts(pixels), model.text_parts(tokens))
    mean = (cosines["it"] + cosines["Ii"] + cosines["Tt"]) / 3
    torch.testing.assert_close(mean, expected)


def test_recall_counts_a_tie_as_wrong(script):
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.8, 0.7], [0.1, 0.2, 0.3]])
    is_positive = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0]], dtype=bool)
    # The first and the third query are right, the second one has a tie, the last one is wrong.
    assert script.recall_at_1(scores, is_positive) == 50


@pytest.mark.parametrize("all_captions", [False, True])
def test_the_table_has_all_sums(script, monkeypatch, capsys, all_captions):
    monkeypatch.setattr(script, "N_SCENES", 3)
    script.main(all_captions=all_captions)
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert header == "| sum of cosines | image to text | text to image |"
    titles = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert len(set(titles)) == len(titles) == 15
    assert "i·t + I·i + T·t" in titles
