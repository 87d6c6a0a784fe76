"""The same classifier as OpenCLIP, from the same model."""

from __future__ import annotations

import numpy as np
import open_clip
import torch

from cosmos_eval.tasks.prompts import prompt_embeddings
from cosmos_eval.types import RunOptions


def test_the_classifier_is_openclips(tiny_encoder):
    long_name = "a class with a rather long name of several words that is cut"
    names = [long_name, *open_clip.IMAGENET_CLASSNAMES[:20]]
    ours = prompt_embeddings(tiny_encoder, names, "openai-imagenet", RunOptions())
    with torch.inference_mode():
        expected = open_clip.build_zero_shot_classifier(
            tiny_encoder.model, tiny_encoder.tokenize, names, open_clip.OPENAI_IMAGENET_TEMPLATES
        )
    np.testing.assert_allclose(ours.T, expected.numpy(), rtol=0, atol=1e-6)
