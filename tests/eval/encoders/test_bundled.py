"""Bundled models are built when they are used, not to say who they are."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image

import cosmos_eval
from cosmos_eval.models import cosmos, load_encoder
from cosmos_eval.models.encoder import CrossAttentionEncoder, DenseEncoder
from cosmos_eval.models.specs import BUNDLED, parse_model_spec

PROGRAM = """
import sys, cosmos_eval
row = cosmos_eval.evaluate("scenes-cosmos", "scenes-cls", device="cpu", limit=8)
assert not {"torch", "open_clip", "mmseg"} & set(sys.modules), "imported"
print(row.metrics)
"""


@pytest.mark.parametrize(
    ("name", "weights"), [*((name, "teacher") for name in BUNDLED), (BUNDLED[0], "student")]
)
def test_a_deferred_model_is_the_model(name, weights):
    spec = parse_model_spec(name, weights=weights)
    deferred, built = load_encoder(spec), cosmos.load(spec, "cpu", "fp32")
    assert deferred.info == built.info
    image, texts = Image.effect_noise((80, 90), 60).convert("RGB"), ["a red apple", "a " * 90]
    pixels, tokens = deferred.transform(image)[None], deferred.tokenize(texts)
    torch.testing.assert_close(deferred.encode_image(pixels), built.encode_image(pixels))
    torch.testing.assert_close(deferred.encode_text(tokens), built.encode_text(tokens))
    assert deferred.trims_text == built.trims_text
    assert deferred.overlong(texts).tolist() == [False, True]
    for kind in (DenseEncoder, CrossAttentionEncoder):
        assert isinstance(deferred, kind) == isinstance(built, kind)


def test_a_run_with_everything_cached_imports_no_torch():
    row = cosmos_eval.evaluate("scenes-cosmos", "scenes-cls", device="cpu", limit=8)
    completed = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.strip() == str(row.metrics)
